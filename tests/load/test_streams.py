"""A message of 1 GiB goes through a server and a client with little memory."""

from __future__ import annotations

import subprocess
import sys

from tests.load.support import MIB, peak_growth, print_figure
from tests.support import ROOT

SIZE = 1024  # MiB
SERVER = "wsproto_min.examples.file_echo"


def test_message_of_1_gib_there_and_back_needs_under_2_mib() -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", SERVER, "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    outputs: list[str] = []

    def run_client(mib: int) -> None:
        client = [sys.executable, "-m", "tests.load.stream_client", url, str(mib)]
        outputs.append(subprocess.check_output(client, cwd=ROOT, text=True))

    try:
        assert server.stdout is not None
        url = server.stdout.readline().split(": ", 1)[1].strip()
        run_client(1)
        growth = peak_growth(server.pid, lambda: run_client(SIZE))
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
    client_growth, seconds = outputs[-1].split()
    print_figure(f"a message of {SIZE} MiB there and back", f"{float(seconds):.1f} s")
    print_figure("growth of the server's peak memory", f"{growth / MIB:.2f} MiB")
    print_figure("growth of the client's peak memory", f"{int(client_growth) / MIB:.2f} MiB")
    assert growth < 2 * MIB
    assert int(client_growth) < 2 * MIB
