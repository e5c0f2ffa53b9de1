"""A PostgreSQL of its own for tests: Debian's programs, a temporary directory, a free port.

PostgreSQL refuses to run as root, so root runs it as the user `nobody`.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from tests.needs import need

# Seconds for a program of PostgreSQL.
PATIENCE = 60.0
_numbers = count(1)


def find_programs() -> Path:
    """Return the directory of PostgreSQL's programs; skip without them."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = versions[-1] if versions else shutil.which("initdb")
    need(found, "PostgreSQL", "apt-get install postgresql")
    try:
        import psycopg  # noqa: F401

        has_psycopg = True
    except ImportError:
        has_psycopg = False
    need(has_psycopg, "psycopg", "pip install '.[postgres]'")
    return Path(str(found)).parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Engine:
    """A PostgreSQL server; `primary` makes it a standby of another one."""

    def __init__(self, programs: Path, directory: Path, primary: Engine | None = None) -> None:
        self._programs = programs
        self.directory = directory
        self.port = free_port()
        self.name = directory.name
        if primary is None:
            self.run(
                "initdb",
                "--pgdata",
                self.data,
                "--auth=trust",
                "--username=chatd",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            )
        else:
            self.run(
                "pg_basebackup",
                "--pgdata",
                self.data,
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
                "--dbname",
                f"host=127.0.0.1 port={primary.port} user=chatd application_name={self.name}",
            )
        with open(f"{self.data}/postgresql.conf", "a") as file:
            file.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\n"
                "unix_socket_directories = ''\nmax_connections = 100\n"
                "wal_sender_timeout = 5s\nwal_receiver_timeout = 5s\n"
            )
        self.start()

    @property
    def data(self) -> str:
        return str(self.directory / "data")

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs; return its output."""
        words = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:
            words = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *words]
        process = subprocess.run(
            words, capture_output=True, text=True, timeout=PATIENCE, cwd=self.directory
        )
        assert process.returncode == 0, f"{words}: {process.stdout}{process.stderr}"
        return process.stdout

    def start(self) -> None:
        log = self.directory / "log"
        try:
            self.run("pg_ctl", "--pgdata", self.data, "--log", str(log), "--wait", "start")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()[-2000:]}") from None

    def stop(self) -> None:
        self.run("pg_ctl", "--pgdata", self.data, "--mode=immediate", "--wait", "stop")

    def processes(self) -> list[int]:
        """Return the process ids of the server and its children."""
        server = int(Path(self.data, "postmaster.pid").read_text().split()[0])
        found = [server]
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == server:
                found.append(int(status.parent.name))
        return found

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the server."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def kill(self) -> None:
        """Kill all processes at once, as a power failure does, but without losing files."""
        self.signal(signal.SIGSTOP)  # so that no process begins another
        processes = self.processes()
        self.signal(signal.SIGKILL)
        for process in processes:
            while Path(f"/proc/{process}").exists() and not _is_zombie(process):
                time.sleep(0.01)
        # A process that its parent has not awaited still looks like a running server.
        Path(self.data, "postmaster.pid").unlink()

    def url(self, database: str) -> str:
        return f"postgresql://chatd@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, *parameters: object, database: str = "postgres") -> Any:
        """Execute a statement; return its rows."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else None

    def new_database(self) -> str:
        """Create an empty database; return its URL."""
        name = f"chat_{os.getpid()}_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def stop_replication(self) -> None:
        """Let a standby receive nothing more."""
        with open(f"{self.data}/postgresql.auto.conf", "a") as file:
            file.write("primary_conninfo = ''\n")
        self.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """Make a standby the primary."""
        self.run("pg_ctl", "--pgdata", self.data, "--wait", "promote")


def _is_zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextmanager
def engine(*, standbys: Sequence[str] = ()) -> Iterator[list[Engine]]:
    """Run a primary, and standbys with these names."""
    programs = find_programs()
    top = Path(tempfile.mkdtemp(prefix="chatd-scale-"))
    engines: list[Engine] = []
    try:
        top.chmod(0o755)
        for name in ("primary", *standbys):
            directory = top / name
            directory.mkdir()
            if os.geteuid() == 0:
                shutil.chown(directory, "nobody", "nogroup")
            engines.append(Engine(programs, directory, engines[0] if engines else None))
        yield engines
    finally:
        for each in engines:
            with suppress(OSError):  # it has ended
                each.kill()
        shutil.rmtree(top, ignore_errors=True)
