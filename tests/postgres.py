"""A private PostgreSQL server for tests, on a free port of this machine.

server = shared_server()               # skips the test where there are no binaries
url = server.new_database()
server.stop(); server.start()          # its data stay
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest


class Server:
    """A running cluster in a directory of its own, until `remove`."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        # Not where pytest keeps its files: others than their owner cannot enter there.
        self._directory = Path(tempfile.mkdtemp(prefix="autoprune-postgres-"))
        self._user = _account()
        if self._user is not None:
            shutil.chown(self._directory, self._user)
        self._port = free_port()
        self._databases = 0
        access = ["--auth=trust", "--username=tester"]
        self._run("initdb", *access, "--encoding=UTF8", "--no-locale", "--no-sync")
        self.start()

    def start(self) -> None:
        """Start the server, with the data that it had; return when it answers."""
        # Without fsync: a server that crashes loses nothing by it (only a machine would), and its
        # recovery does not wait until every file of every database is on a slow disk.
        where = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        options = f"{where} -c fsync=off"
        log = self._directory / "log"
        self._run("pg_ctl", "start", "--wait", f"--log={log}", f"--options={options}")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` cuts its connections, `immediate` is a crash."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.stop("immediate")
        shutil.rmtree(self._directory)

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.run_sql("postgres", f"CREATE DATABASE {name}")
        return f"postgresql://tester@127.0.0.1:{self._port}/{name}"

    def cut_connections(self, url: str) -> None:
        """End every session of a database, as an administrator would."""
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
        self.run_sql("postgres", f"{cut} '{url.rpartition('/')[2]}'")

    def run_sql(self, database: str, statement: str) -> None:
        """Run one statement in a database of the server."""
        where = [f"--port={self._port}", "--host=127.0.0.1", "--username=tester"]
        command = [self._binaries / "psql", *where, database, "--quiet", "--no-psqlrc"]
        done = subprocess.run(
            [*command, "--set=ON_ERROR_STOP=1", f"--command={statement}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, f"--pgdata={self._directory / 'data'}", *arguments],
            cwd=self._directory,
            user=self._user,
            # The server inherits these: a pipe would not end before the server does.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{program} failed; see {self._directory / 'log'}"


@cache
def shared_server() -> Server:
    """Return the one server of this test session; skips the test where none can be had."""
    binaries = _server_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed (apt-get install postgresql)")
    server = Server(binaries)
    atexit.register(server.remove)
    return server


def _server_binaries() -> Path | None:
    """Return the directory of initdb and pg_ctl, of the newest version found."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda x: float(x.parent.name))
    if (config := shutil.which("pg_config")) is not None:
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        found.insert(0, Path(told.stdout.strip()))
    return next((each for each in reversed(found) if (each / "initdb").exists()), None)


def _account() -> str | None:
    """Return whom to run the server as: root is refused by it."""
    if os.geteuid() != 0:
        return None
    accounts = {each.pw_name for each in pwd.getpwall()}
    return "postgres" if "postgres" in accounts else "nobody"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
