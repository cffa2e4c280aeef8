"""`holdfast`, but it kills itself (-9) at a named point of a payment. Run as a script.

The point stands in `CRASH_AT`; the names C0 to C18 are those of the money rules (section 6.2), the
others are of a store whose disk is full once an intent is on it. C5 to C8 are the gateway's to
choose (`killing_gateway`), and C17, in the middle of a drain, is whoever's who sent the SIGTERM.
Nothing of this is in the product: the rooms' own functions are wrapped from outside.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from proxy.background import reconciler
from proxy.background.janitor import Janitor
from proxy.cli import main
from proxy.core import events as ev
from proxy.core import recovery
from proxy.core.session import Session, apply
from proxy.flow.attempts import Attempts
from proxy.flow.reconcile import Reconcile
from proxy.flow.walk import Walk
from proxy.ports import StoreUnavailable
from proxy.spool import FileSpool
from proxy.stores.postgres import PostgresStore
from proxy.stores.redis import RedisStore
from proxy.stores.sqlite import SqliteStore, _Write
from proxy.system import SystemDice
from proxy.web.responses import RawResponse
from tests.support.faulty_disk import FaultyDisk

Kind = type[ev.AttemptStarted | ev.AttemptEnded | ev.Cancelled | ev.CancelRequested]

# Whichever the policy names; a commit of these is a message to a server.
SHARED = (PostgresStore, RedisStore)
STORES = (SqliteStore, *SHARED)
# A commit takes about so long: before that it is under way, or just done.
_COMMIT_SECONDS = 0.004
# And a gateway's answer about so long.
_ANSWER_SECONDS = 0.02
# What a person asks for once, or nobody, a process of a second's life cannot wait for.
_SOON_SECONDS = 0.02
# Older than anything is kept.
_OLD_MS = 400 * 24 * 3600 * 1000
_OLD_SESSIONS = 20
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


def is_about(session: Session, *kinds: Kind) -> bool:
    """Whether a write is the one that records the intent, the outcome, or the cancelling."""
    return session.timeline[-1].event in {kind.__name__ for kind in kinds}


def written_but_not_acknowledged(*kinds: Kind) -> None:
    """Die between the COMMIT of a write and its acknowledgement."""
    real: Callable[..., None] = SqliteStore._written

    def wrapped(self: SqliteStore, batch: Any) -> None:
        if any(is_about(write.session, *kinds) for write in batch.writes) and due():
            die()
        real(self, batch)

    SqliteStore._written = wrapped  # type: ignore[method-assign]
    for store in SHARED:
        _commit(store, kinds, _to_its_end)


def not_yet_committed(*kinds: Kind) -> None:
    """Die inside the transaction of a write, before its COMMIT; of a write that a server carries
    out, while nobody here can know whether it did.
    """
    real = _Write.carry_out

    def wrapped(self: _Write, cursor: Any) -> None:
        real(self, cursor)
        if is_about(self.session, *kinds) and due():
            die()

    _Write.carry_out = wrapped  # type: ignore[method-assign]
    for store in SHARED:
        _commit(store, kinds, _for_a_moment)


async def _to_its_end(writing: asyncio.Future[None]) -> None:
    await writing


async def _for_a_moment(_: asyncio.Future[None]) -> None:
    await asyncio.sleep(_DICE.jitter() * _COMMIT_SECONDS)


def _commit(
    store: Any, kinds: tuple[Kind, ...], go_on: Callable[[asyncio.Future[None]], Any]
) -> None:
    real = store.commit

    async def wrapped(self: Any, session: Session, *rest: Any) -> None:
        writing = asyncio.ensure_future(real(self, session, *rest))
        if is_about(session, *kinds) and due():
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


def in_backoff() -> None:
    """Die while a payment waits to be sent again."""
    real = Attempts._rest

    async def wrapped(self: Attempts, walk: Walk, seconds: float) -> None:
        if due():
            await asyncio.sleep(_DICE.jitter() * seconds)
            die()
        await real(self, walk, seconds)

    Attempts._rest = wrapped  # type: ignore[method-assign]


def _looking_soon() -> None:
    """Who is gone, and what is unknown, is looked after at once instead of every second."""
    reconciler._EVERY_SECONDS = _SOON_SECONDS
    recovery.LOOKUP_SCHEDULE = (0,) * len(recovery.LOOKUP_SCHEDULE)  # type: ignore[assignment]


def while_looking_up() -> None:
    """Die while the gateway is asked what became of a payment."""
    _looking_soon()
    real = Reconcile._ask

    async def wrapped(self: Reconcile, *arguments: Any) -> Any:
        asking = asyncio.ensure_future(real(self, *arguments))
        if due():
            await asyncio.sleep(_DICE.jitter() * _ANSWER_SECONDS)
            die()
        return await asking

    Reconcile._ask = wrapped  # type: ignore[method-assign, assignment]


def looked_up() -> None:
    """Die when the gateway has told, and nothing of that is on record."""
    _looking_soon()
    after("_ask", Reconcile)


def taken_over() -> None:
    """Die when the sessions of a process that is gone are this one's, and nothing was done."""
    _looking_soon()
    for store in STORES:
        _taken_over(store, store.abandoned)


def _taken_over(store: Any, real: Callable[..., Any]) -> None:
    async def wrapped(self: Any) -> Any:
        abandoned = await real(self)
        if abandoned and due():
            die()
        return abandoned

    store.abandoned = wrapped


def tidying_up() -> None:
    """Die while what has been kept for long enough is dropped; that is made first."""

    async def run(self: Janitor) -> None:
        await asyncio.sleep(_DICE.jitter() * 10 * _SOON_SECONDS)
        for _ in range(_OLD_SESSIONS):
            old = _old_session(self._clock.now_ms() - _OLD_MS)
            await self._store.claim(old, 0)
            await self._store.commit(old, 0, b"its answer")
        asyncio.ensure_future(self.run_once()).add_done_callback(lambda _: die())
        await asyncio.sleep(_DICE.jitter() * _ANSWER_SECONDS)
        die()

    Janitor.run = run  # type: ignore[method-assign]


def _old_session(at: int) -> Session:
    """Of a gateway that nobody has any more."""
    opened = apply(
        Session(
            id=_DICE.session_id(), gateway="retired", started_at=at, expires_at=at, max_attempts=1
        ),
        ev.Opened(at),
    )
    return apply(opened, ev.Expired(at))


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


CANCELLING: tuple[Kind, ...] = (ev.Cancelled, ev.CancelRequested)
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
    "C13": in_backoff,
    "C14": while_looking_up,
    "C14-answered": looked_up,
    "C15": taken_over,
    "C16-uncommitted": lambda: not_yet_committed(*CANCELLING),
    "C16": lambda: written_but_not_acknowledged(*CANCELLING),
    "C18": tidying_up,
    "full": full_after_the_intent,
    "full, no spool": full_without_a_spool,
    "spooled": full_then_die_when_spooled,
}
# Here somebody has to cancel a payment.
WANT_CANCELS = frozenset({"C16-uncommitted", "C16"})
# Not every payment passes these.
RARE = frozenset({"C13", "C14", "C14-answered", "C15", "C18", "spooled"}) | WANT_CANCELS
# Of this the process does not die by itself.
GOES_ON = "full"
# About the disk of a store in a file.
OF_A_DISK = frozenset({"full", "spooled"})
# With a protection out: what it answered, marked as not durable, nobody knows after a kill.
CONTROL = "full, no spool"


def crash_at(point: str, passings: int = 1) -> None:
    """Arrange that this process dies when it passes the point for the so-manieth time."""
    global _passings  # noqa: PLW0603
    _passings = passings
    ARRANGE[point]()


if __name__ == "__main__":
    crash_at(os.environ["CRASH_AT"])
    raise SystemExit(main())
