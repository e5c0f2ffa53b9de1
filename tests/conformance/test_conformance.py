"""The cases of the Autobahn test suite, run by `kosoku` against our server and our client.

Both roles run side by side, because in each role one side waits while the other computes.

`expected.json` has the expected verdict of each case: OK, or INFORMATIONAL if the RFC
leaves the behaviour open.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.needs import need
from wsproto_min import ConnectionClosed, DeflateParameters, ProtocolError, connect

EXPECTED: dict[str, str] = json.loads(Path(__file__).with_name("expected.json").read_text())
KOSOKU = Path(sys.executable).with_name("kosoku")
INSTALL = "pip install '.[conformance]'"
# The largest messages (cases 9.1.6 and 9.2.6) have 16 MiB.
MAX_MESSAGE_SIZE = 16 << 20
# Seconds for the whole suite; its compression cases send gigabytes.
TIMEOUT = 900
# The suite fails a case after this time, in seconds.
CASE_LIMIT = 20
SHOWN = 10  # the slowest cases of each role
# Up to this many failed cases run again, alone, because the suite has a time limit per case. A
# busy machine exceeds the limit in the compression cases.
MAX_RETRIED = 12


def wrong_verdicts(report: Path) -> dict[str, set[str]]:
    """Return the cases with unexpected verdicts on messages or close.

    A case that is missing in the report counts as wrong.
    """
    (cases,) = json.loads((report / "index.json").read_text()).values()
    actual = {
        case: {verdict["behavior"], verdict["behaviorClose"]} for case, verdict in cases.items()
    }
    return {case: actual[case] for case in actual if actual[case] != {EXPECTED[case]}} | {
        case: {"not run"} for case in EXPECTED.keys() - actual.keys()
    }


def slowest_cases(report: Path) -> str:
    """Return the slowest cases with their seconds, and the share of the limit of the first."""
    (cases,) = json.loads((report / "index.json").read_text()).values()
    seconds = sorted(
        ((each["duration"] / 1000, case) for case, each in cases.items()), reverse=True
    )
    share = seconds[0][0] / CASE_LIMIT
    shown = ", ".join(f"{case}: {duration:.1f} s" for duration, case in seconds[:SHOWN])
    return f"slowest cases ({share:.0%} of the limit of {CASE_LIMIT} s): {shown}"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run both roles side by side; return the directories of their reports."""
    need(KOSOKU.exists(), "kosoku", INSTALL)
    roles = {"server": run_server_cases, "client": run_client_cases}
    paths = {role: tmp_path_factory.mktemp(role) for role in roles}
    with ThreadPoolExecutor(len(roles)) as threads:
        for running in [threads.submit(run, paths[role]) for role, run in roles.items()]:
            running.result()
    return paths


def test_echo_server_passes_every_case(reports: dict[str, Path]) -> None:
    assert wrong_verdicts_twice(reports["server"], run_server_cases) == {}


def test_echoing_client_passes_every_case(reports: dict[str, Path]) -> None:
    assert wrong_verdicts_twice(reports["client"], run_client_cases) == {}


def wrong_verdicts_twice(report: Path, run: Callable[..., None]) -> dict[str, set[str]]:
    """Return the cases with unexpected verdicts, after a few of them have run again."""
    print(slowest_cases(report))
    wrong = wrong_verdicts(report)
    if 0 < len(wrong) <= MAX_RETRIED:
        print(f"run again: {', '.join(wrong)}")
        run(report, *wrong)
        again = wrong_verdicts(report)
        wrong = {case: again[case] for case in wrong if case in again}
    return wrong


def run_server_cases(report: Path, *cases: str) -> None:
    """Run cases of the suite, all without `cases`, with the echo server of this package."""
    command = [sys.executable, "-m", "wsproto_min", "echo", "--port", "0", "--compress-from", "0"]
    command += ["--max-message-size", str(MAX_MESSAGE_SIZE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            ready = server.stdout.readline()
            url = re.search(r"ws://\S+", ready)
            assert url, f"the echo server did not start: {ready!r}"
            suite = [str(KOSOKU), "-o", str(report), url[0].rstrip("/")]
            suite += [word for case in cases for word in ("-i", case)]
            subprocess.run(suite, capture_output=True, timeout=TIMEOUT)
        finally:
            server.terminate()
    assert server.returncode == 0


def run_client_cases(report: Path, *cases: str) -> None:
    """Run cases of the suite, all without `cases`, with the client of this package."""
    command = [str(KOSOKU), "-m", "fuzzingserver", "-o", str(report), "127.0.0.1:0"]
    command += [word for case in cases for word in ("-i", case)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as suite:
        try:
            assert suite.stderr is not None
            ready = suite.stderr.readline()
            url = re.search(r"ws://\S+", ready)
            assert url, f"the suite did not start: {ready!r}"
            with connect(f"{url[0]}/getCaseCount") as asking:
                count = int(asking.recv(timeout=10))
            for number in range(1, count + 1):
                echo_one_case(f"{url[0]}/runCase?case={number}&agent=wsproto_min")
            connect(f"{url[0]}/updateReports?agent=wsproto_min").close()
            suite.wait(60)
        finally:
            suite.terminate()


def echo_one_case(url: str) -> None:
    """Send every message back until the connection ends."""
    client = connect(
        url,
        # The suite's server uses only the parameters that a client offers.
        compression=DeflateParameters(client_no_context_takeover=True),
        compression_threshold=0,
        max_message_size=MAX_MESSAGE_SIZE,
        close_timeout=5,
    )
    with suppress(ConnectionClosed, ProtocolError), client:
        while True:
            client.send(client.recv())
