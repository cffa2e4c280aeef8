"""Stores of two servers: one takes the writes, the other follows it and takes over.

What a pair does takes seconds of waiting for programs, so it is called in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import redis

from proxy.stores import postgres_server
from tests.support.postgres import _AS, Postgres, folder_for_postgres
from tests.support.valkey import DURABLE, Valkey

_STANDBY = "standby"
_MASTER = "holdfast"
# Of Sentinel, in milliseconds.
_HASTE = {"down-after-milliseconds": "300", "failover-timeout": "1000"}
_WAITS = 600
_STEP_SECONDS = 0.02


class Pair(Protocol):
    """Two servers that are one store at `url`."""

    url: str

    def kill_primary(self) -> None:
        """Kill -9; the other one does not know yet."""

    def stall_primary(self) -> None:
        """It stands still: nobody can tell it from one that is gone."""

    def wake_primary(self) -> None:
        """It goes on, and does not know that it is the primary no more."""

    def promote(self) -> None:
        """The other one takes the writes; returns once it does."""

    def bury(self) -> None:
        """Kill the one that was the primary, if it lives still."""

    def rejoin(self) -> None:
        """The one that was the primary follows the one that is."""

    def leave_behind(self) -> None:
        """From now on nothing more reaches the standby."""

    def missing(self) -> str | None:
        """What the store says of its own losses."""

    def accept_loss(self) -> None:
        """As `holdfast migrate --accept-loss`."""


Server = TypeVar("Server", Postgres, Valkey)


class _Two(Generic[Server]):
    """What a pair does with its servers, whatever they are. `_was`: the primary before."""

    _primary: Server
    _standby: Server
    _was: Server | None = None

    def kill_primary(self) -> None:
        self._primary.kill()

    def stall_primary(self) -> None:
        self._primary.pause()

    def wake_primary(self) -> None:
        assert self._was is not None
        self._was.go_on()

    def bury(self) -> None:
        assert self._was is not None
        self._was.kill()


class PostgresPair(_Two[Postgres]):
    """A primary and its standby. `synchronous`: every commit waits for the standby."""

    def __init__(self, folder: Path, *, synchronous: bool) -> None:
        self._folder = folder
        self._settings = {"synchronous_standby_names": _STANDBY if synchronous else ""}
        self._primary = Postgres(self._place())
        self._primary.make()
        self._primary.start(**self._settings)
        self._standby = self._follower(self._primary)
        hosts = f"127.0.0.1:{self._primary.port},127.0.0.1:{self._standby.port}"
        self.url = f"postgresql://postgres@{hosts}/postgres"

    def promote(self) -> None:
        self._standby.go_on()
        self._standby.promote()
        self._was, self._primary = self._primary, self._standby

    def rejoin(self) -> None:
        assert self._was is not None
        self._standby = self._follower(self._primary, self._was.port)
        shutil.rmtree(self._was.data.parent)
        self._was = None

    def leave_behind(self) -> None:
        # Whatever is on its way to the standby ends here, since that reads nothing.
        self._standby.pause()
        self._primary.tell("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_replication")

    def missing(self) -> str | None:
        return self._primary.tell("SELECT regressed FROM meta") or None

    def accept_loss(self) -> None:
        asyncio.run(postgres_server.accept_loss(self.url))

    def stop(self) -> None:
        for server in (self._primary, self._standby, self._was):
            if server is not None:
                server.kill()

    def _follower(self, primary: Postgres, port: int = 0) -> Postgres:
        standby = primary.standby(self._place(), _STANDBY)
        standby.port = port or standby.port
        standby.start(**self._settings)
        return standby

    def _place(self) -> Path:
        folder = self._folder / secrets.token_hex(4)
        folder.mkdir()
        if _AS:
            shutil.chown(folder, "nobody", "nogroup")
        return folder


class ValkeyPair(_Two[Valkey]):
    """A primary, its replica, and a Sentinel that promotes the one when the other is gone.
    `synchronous`: it is set up as the store asks for; else as it comes out of the box.
    """

    def __init__(self, folder: Path, *, synchronous: bool) -> None:
        self._settings = (
            {**DURABLE, "min_replicas_to_write": "1"}
            if synchronous
            else {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
        ) | {"repl_diskless_sync_delay": "0"}
        for name in ("a", "b", "sentinel"):
            (folder / name).mkdir()
        self._primary, self._standby = Valkey(folder / "a"), Valkey(folder / "b")
        self._primary.start(**self._settings)
        self._follow()
        self._sentinel = Valkey(folder / "sentinel")
        self._sentinel.watch(self._primary, _MASTER)
        for name, value in _HASTE.items():
            self._sentinel.tell("SENTINEL", "SET", _MASTER, name, value)
        # It looks round so often (milliseconds), instead of every ten seconds.
        self._sentinel.tell("SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PING-PERIOD", "100")
        _wait(self._chosen)
        self.url = f"redis://127.0.0.1:{self._sentinel.port}/{_MASTER}?sentinel"

    def promote(self) -> None:
        self._standby.go_on()
        _wait(lambda: _asked(self._standby).role()[0] == b"master")
        self._was, self._primary = self._primary, self._standby

    def rejoin(self) -> None:
        assert self._was is not None
        self._standby, self._was = self._was, None
        self._follow()
        _wait(self._chosen)

    def leave_behind(self) -> None:
        self._standby.pause()
        self._primary.tell("CLIENT", "KILL", "TYPE", "replica")

    def missing(self) -> str | None:
        told = _asked(self._primary).hget("{holdfast}:meta", "lost")
        return bytes(told).decode() if told else None

    def accept_loss(self) -> None:
        # By hand: the product speaks to no server that is set up like this one.
        _asked(self._primary).hincrby("{holdfast}:meta", "generation", 1)
        _asked(self._primary).hdel("{holdfast}:meta", "lost")

    def stop(self) -> None:
        for server in (self._primary, self._standby, self._was, self._sentinel):
            if server is not None:
                server.kill()

    def _follow(self) -> None:
        self._standby.start(**self._settings, replicaof=f"127.0.0.1 {self._primary.port}")
        _wait(lambda: _asked(self._standby).info("replication")["master_link_status"] == "up")

    def _chosen(self) -> bool:
        """Whether Sentinel would choose the standby, were the primary gone now."""
        (seen,) = _asked(self._sentinel).sentinel_slaves(_MASTER)
        return bool(seen["flags"] == "slave" and seen["master-link-status"] == "ok")


def _asked(server: Valkey) -> Any:
    """A client of it that waits for nothing."""
    return redis.Redis(port=server.port, socket_timeout=2)


def _wait(condition: Callable[[], bool]) -> None:
    for _ in range(_WAITS):
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        time.sleep(_STEP_SECONDS)
    raise AssertionError


@contextlib.contextmanager
def postgres_pair(*, synchronous: bool) -> Iterator[PostgresPair]:
    """A pair of PostgreSQL servers, gone at the end."""
    with folder_for_postgres() as folder:
        pair = PostgresPair(folder, synchronous=synchronous)
        try:
            yield pair
        finally:
            pair.stop()


@contextlib.contextmanager
def valkey_pair(*, synchronous: bool) -> Iterator[ValkeyPair]:
    """A pair of Valkey servers and their Sentinel, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="holdfast-valkey-") as folder:
        pair = ValkeyPair(Path(folder), synchronous=synchronous)
        try:
            yield pair
        finally:
            pair.stop()


PAIRS: dict[str, Callable[..., contextlib.AbstractContextManager[Pair]]] = {
    "postgresql": postgres_pair,
    "valkey": valkey_pair,
}
