"""`holdfast`, but it kills itself (-9) at a named point of a payment. Run as a script.

The point stands in `CRASH_AT`; the names C0 to C12 are those of the money rules (section 6.2), the
others are of a store whose disk is full once an intent is on it.
Nothing of this is in the product: the rooms' own functions are wrapped from outside.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from proxy.cli import main
from proxy.core import events as ev
from proxy.core.session import Session
from proxy.flow.attempts import Attempts
from proxy.ports import StoreUnavailable
from proxy.spool import FileSpool
from proxy.stores.postgres import PostgresStore
from proxy.stores.redis import RedisStore
from proxy.stores.sqlite import SqliteStore, _Write
from proxy.system import SystemDice
from proxy.web.responses import RawResponse
from tests.support.faulty_disk import FaultyDisk

Kind = type[ev.AttemptStarted | ev.AttemptEnded]

# Whichever the policy names; a commit of these is a message to a server.
SHARED = (PostgresStore, RedisStore)
STORES = (SqliteStore, *SHARED)
# A commit takes about so long: before that it is under way, or just done.
_COMMIT_SECONDS = 0.004
_DICE = SystemDice()

_passings = 1


def due() -> bool:
    """Whether it is this time that the point is the last one."""
    global _passings  # noqa: PLW0603 -- of this process, which has one point
    _passings -= 1
    return _passings <= 0


def die() -> None:
    """As if the machine had taken the process away: no cleanup, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(name: str, *owners: Any) -> None:
    """Die when a method is called."""
    for owner in owners:
        _before(name, owner, getattr(owner, name))


def _before(name: str, owner: Any, real: Callable[..., Any]) -> None:
    def wrapped(*arguments: Any, **more: Any) -> Any:
        if due():
            die()
        return real(*arguments, **more)

    setattr(owner, name, wrapped)


def after(name: str, *owners: Any) -> None:
    """Die when an awaited method has returned."""
    for owner in owners:
        _after(name, owner, getattr(owner, name))


def _after(name: str, owner: Any, real: Callable[..., Any]) -> None:
    async def wrapped(*arguments: Any, **more: Any) -> Any:
        result = await real(*arguments, **more)
        if due():
            die()
        return result

    setattr(owner, name, wrapped)


def is_about(session: Session, kind: Kind) -> bool:
    """Whether a write is the one that records the intent, or the outcome."""
    return session.timeline[-1].event == kind.__name__


def written_but_not_acknowledged(kind: Kind) -> None:
    """Die between the COMMIT of a write and its acknowledgement."""
    real: Callable[..., None] = SqliteStore._written

    def wrapped(self: SqliteStore, batch: Any) -> None:
        if any(is_about(write.session, kind) for write in batch.writes) and due():
            die()
        real(self, batch)

    SqliteStore._written = wrapped  # type: ignore[method-assign]
    for store in SHARED:
        _commit(store, kind, _to_its_end)


def not_yet_committed(kind: Kind) -> None:
    """Die inside the transaction of a write, before its COMMIT; of a write that a server carries
    out, while nobody here can know whether it did.
    """
    real = _Write.carry_out

    def wrapped(self: _Write, cursor: Any) -> None:
        real(self, cursor)
        if is_about(self.session, kind) and due():
            die()

    _Write.carry_out = wrapped  # type: ignore[method-assign]
    for store in SHARED:
        _commit(store, kind, _for_a_moment)


async def _to_its_end(writing: asyncio.Future[None]) -> None:
    await writing


async def _for_a_moment(_: asyncio.Future[None]) -> None:
    await asyncio.sleep(_DICE.jitter() * _COMMIT_SECONDS)


def _commit(store: Any, kind: Kind, go_on: Callable[[asyncio.Future[None]], Any]) -> None:
    real = store.commit

    async def wrapped(self: Any, session: Session, *rest: Any) -> None:
        writing = asyncio.ensure_future(real(self, session, *rest))
        if is_about(session, kind) and due():
            await go_on(writing)
            die()
        await writing

    store.commit = wrapped


def mid_answer() -> None:
    """Die when half of the answer is on its way to the client."""
    real = RawResponse.prepare

    async def wrapped(self: RawResponse, request: Any) -> Any:
        if due():
            request._connection.transport = HalfTransport(request.transport)
        return await real(self, request)

    RawResponse.prepare = wrapped  # type: ignore[method-assign]


def full_after_the_intent() -> None:
    """The store's disk is full as soon as an intent is on it."""
    disk = FaultyDisk("full-after-the-intent")
    begin, written = SqliteStore.__init__, SqliteStore._written

    def on_that_disk(self: SqliteStore, *arguments: Any) -> None:
        begin(self, *arguments, vfs=disk.name)

    def filling(self: SqliteStore, batch: Any) -> None:
        disk.full |= any(is_about(write.session, ev.AttemptStarted) for write in batch.writes)
        written(self, batch)

    SqliteStore.__init__ = on_that_disk  # type: ignore[method-assign, assignment]
    SqliteStore._written = filling  # type: ignore[method-assign]


def full_then_die_when_spooled() -> None:
    """Die when the outcome is on the spool and nobody has been answered."""
    full_after_the_intent()
    after("keep", FileSpool)


def full_without_a_spool() -> None:
    """The spool takes nothing either."""

    async def keep(_self: FileSpool, _record: bytes) -> int:
        message = "switched off"
        raise StoreUnavailable(message)

    full_after_the_intent()
    FileSpool.keep = keep  # type: ignore[method-assign, assignment]


class HalfTransport:
    """Writes half of what it is given, and dies."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def is_closing(self) -> bool:
        """As the real one."""
        return bool(self._transport.is_closing())

    def write(self, data: bytes) -> None:
        """The last thing it does."""
        self._transport.write(data[: len(data) // 2])
        die()


ARRANGE: dict[str, Callable[[], None]] = {
    "C0": lambda: before("claim", *STORES),
    "C1": lambda: after("claim", *STORES),
    "C2": lambda: before("_intent", Attempts),
    "C3-uncommitted": lambda: not_yet_committed(ev.AttemptStarted),
    "C3": lambda: written_but_not_acknowledged(ev.AttemptStarted),
    "C4": lambda: after("_intent", Attempts),
    "C9": lambda: before("_conclude", Attempts),
    "C10-uncommitted": lambda: not_yet_committed(ev.AttemptEnded),
    "C10": lambda: written_but_not_acknowledged(ev.AttemptEnded),
    "C11": lambda: after("_conclude", Attempts),
    "C12": mid_answer,
    "full": full_after_the_intent,
    "full, no spool": full_without_a_spool,
    "spooled": full_then_die_when_spooled,
}
# Of these the process does not die by itself, and these are about the disk of a store in a file.
GOES_ON = frozenset({"full", "full, no spool"})
OF_A_DISK = GOES_ON | {"spooled"}


def crash_at(point: str, passings: int = 1) -> None:
    """Arrange that this process dies when it passes the point for the so-manieth time."""
    global _passings  # noqa: PLW0603
    _passings = passings
    ARRANGE[point]()


if __name__ == "__main__":
    crash_at(os.environ["CRASH_AT"])
    raise SystemExit(main())
