"""A store in a network of its own, with a link to it for each replica that can be cut."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.postgres import Postgres, folder_for_postgres

_NETWORK_NAMESPACE = 0x40000000  # CLONE_NEWNET; `os.setns` is newer than our oldest Python
_RANGE = "198.18"  # set aside for measuring networks


def why_not() -> str | None:
    """Why there cannot be one here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no ip command: install iproute2"
    return None


class Apart:
    """A PostgreSQL server behind so many links. `urls`: what each replica calls it."""

    def __init__(self, folder: Path, links: int) -> None:
        self._name = f"holdfast-{secrets.token_hex(3)}"
        # Others may measure on this machine at the same time.
        first = secrets.randbelow(250 // links) * links
        self._ends = [f"hf{first + number}" for number in range(links)]
        self._server = Postgres(folder)
        self._server.make()
        with (self._server.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {_RANGE}.0.0/16 trust\n")
        _ip("netns", "add", self._name)
        _ip("-n", self._name, "link", "set", "lo", "up")
        self.urls = []
        for number, end in enumerate(self._ends):
            here, there = (f"{_RANGE}.{first + number}.{n}" for n in (1, 2))
            _ip("link", "add", end, "type", "veth", "peer", "name", end, "netns", self._name)
            _ip("addr", "add", f"{here}/24", "dev", end)
            _ip("-n", self._name, "addr", "add", f"{there}/24", "dev", end)
            _ip("link", "set", end, "up")
            self.heal(number)
            self.urls.append(f"postgresql://postgres@{there}:{self._server.port}/postgres")
        with _inside(self._name):
            self._server.start(listen_addresses="*")

    def cut(self, number: int) -> None:
        """Nothing passes any more, and nobody is told."""
        _ip("-n", self._name, "link", "set", self._ends[number], "down")

    def heal(self, number: int) -> None:
        """It passes again."""
        _ip("-n", self._name, "link", "set", self._ends[number], "up")

    def remove(self) -> None:
        """Everything that was made; its links go with a namespace."""
        self._server.kill()
        _ip("netns", "del", self._name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def _inside(name: str) -> Iterator[None]:
    """What this thread starts meanwhile lives in that network."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", name).open() as there:
        assert libc.setns(there.fileno(), _NETWORK_NAMESPACE) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), _NETWORK_NAMESPACE) == 0


@contextlib.contextmanager
def store_apart(links: int) -> Iterator[Apart]:
    """A store with so many links to it, gone at the end."""
    with folder_for_postgres() as folder:
        apart = Apart(folder, links)
        try:
            yield apart
        finally:
            apart.remove()
