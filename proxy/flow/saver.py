"""What the store could not take: on the spool at once, and in the store as soon as it can.

What a send came to is evidence. Without it the store goes on saying that the send is in flight, so
nothing is sent again; but the truth would have to be looked up. Evidence is merged into whatever
became of its session meanwhile, so that to offer it late, twice, or after a look-up is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

from msgspec import Struct
from msgspec.json import Decoder, Encoder

from proxy.core import events as ev
from proxy.core.session import Session, apply, known_of
from proxy.core.states import Outcome, State, join
from proxy.core.wire import Answer
from proxy.flow.answer import pack, unpack
from proxy.flow.journal import Change, Journal
from proxy.flow.walk import Walk
from proxy.ports import Clock, SealBroken, Secrets, Spool, StoreUnavailable
from proxy.tasks import Tasks

_AGAIN_SECONDS = 1.0


class Unsaved(Struct, frozen=True):
    """A record of the spool: what a send came to, and the sealed answer if its session ends so."""

    session_id: str
    ended: ev.AttemptEnded
    answer: bytes | None


_encode = Encoder().encode
_decode = Decoder(Unsaved).decode


class Saver:
    """Offers changes to a store that could not take them."""

    def __init__(
        self,
        journal: Journal,
        secrets: Secrets,
        spool: Spool | None,
        clock: Clock,
        tasks: Tasks,
        on_bug: Callable[[Exception], None],
    ) -> None:
        self._journal = journal
        self._secrets = secrets
        self._spool = spool
        self._clock = clock
        self._tasks = tasks
        self._on_bug = on_bug

    def later(self, walk: Walk, change: Callable[[Session], Change]) -> None:
        """Keep offering a change; it is gone when this process is."""
        headers = walk.lane.profile.replay_headers
        offer = partial(self._offer, walk.session.id, change, headers)
        _ = self._tasks.start(self._until_taken(offer), "save an outcome")

    async def now(self, walk: Walk, change: Callable[[Session], Change]) -> None:
        """Make a change, or keep offering it."""
        headers = walk.lane.profile.replay_headers
        await self._now_or_later(partial(self._offer, walk.session.id, change, headers))

    async def keep(self, walk: Walk, ended: ev.AttemptEnded, answer: Answer | None) -> None:
        """Spool what a send came to, and keep offering it. Returns when the spool has it, or will
        not take it; whoever stops waiting changes nothing.
        """
        session_id, headers = walk.session.id, walk.lane.profile.replay_headers
        sealed = None
        if answer is not None:
            sealed = self._secrets.seal(session_id, pack(answer, headers))
        record = _encode(Unsaved(session_id, ended, sealed))
        offer = partial(self._offer, session_id, partial(merged, ended, lambda _: answer), headers)
        spooled = asyncio.Event()
        saving = self._save(session_id, record, spooled, offer)
        walk.saving = self._tasks.start(saving, "save an outcome")
        await spooled.wait()

    async def replay(self) -> int:
        """Merge what an earlier process left on the spool; how many records there were. What the
        store cannot take yet is offered like all else, and what cannot be read stays there.
        """
        left = {} if self._spool is None else self._spool.records()
        for number, record in left.items():
            try:
                await self._replay(number, record)
            except Exception as error:  # noqa: BLE001 -- one odd record is not the others' trouble
                self._on_bug(error)
        return len(left)

    async def _replay(self, number: int, record: bytes) -> None:
        await self._now_or_later(self._read(record), number)

    async def _now_or_later(
        self, offer: Callable[[], Awaitable[bool]], number: int | None = None
    ) -> None:
        try:
            await self._take(offer, number)
        except StoreUnavailable:
            _ = self._tasks.start(self._until_taken(offer, number), "save an outcome")

    def _read(self, record: bytes) -> Callable[[], Awaitable[bool]]:
        unsaved = _decode(record)
        answer, headers = None, frozenset[str]()
        if unsaved.answer is not None:
            try:
                answer = unpack(self._secrets.unseal(unsaved.session_id, unsaved.answer))
                headers = frozenset(name.lower() for name, _ in answer.headers)  # `pack` chose them
            except SealBroken as error:  # its key was dropped; what the send came to still stands
                self._on_bug(error)
        change = partial(merged, unsaved.ended, lambda _: answer)
        return partial(self._offer, unsaved.session_id, change, headers)

    async def _save(
        self,
        session_id: str,
        record: bytes,
        spooled: asyncio.Event,
        offer: Callable[[], Awaitable[bool]],
    ) -> None:
        number = None
        try:
            if self._spool is not None:
                with contextlib.suppress(StoreUnavailable):  # then it is in memory only
                    number = await self._spool.keep(record)
        finally:
            spooled.set()
        tell = self._journal.recorder.note
        tell(ev.OutcomeUnsaved(session_id, number is not None))
        if await self._until_taken(offer, number):
            tell(ev.OutcomeSaved(session_id))

    async def _until_taken(
        self, offer: Callable[[], Awaitable[bool]], number: int | None = None
    ) -> bool:
        while True:
            await self._clock.sleep(_AGAIN_SECONDS)
            with contextlib.suppress(StoreUnavailable):
                return await self._take(offer, number)

    async def _take(self, offer: Callable[[], Awaitable[bool]], number: int | None) -> bool:
        """Offer it once; whether the store knows its session. Raises `StoreUnavailable`."""
        known = await offer()
        if number is None or self._spool is None:
            return known
        if known:
            await self._spool.done(number)
        else:  # it stays there: a store that was restored may be the older of the two
            message = "the spool has the outcome of a session that the store does not know"
            self._on_bug(LookupError(message))
        return known

    async def _offer(
        self, session_id: str, change: Callable[[Session], Change], headers: frozenset[str]
    ) -> bool:
        """Make the change if the store knows the session; whether it does."""
        # As the store has it: what was decided on meanwhile may never have got there.
        session = await self._journal.store.get(session_id)
        if session is not None:
            await self._journal.update(session, change, headers)
        return session is not None


def merged(
    ended: ev.AttemptEnded, answer: Callable[[Session], Answer | None], session: Session
) -> Change:
    """What the end of a send adds to its session, whatever became of that; nothing that is known.
    The answer, of the session as it is then, is kept if that ends by it, and not if something else
    had settled it.
    """
    known = known_of(session, ended)
    if join(known, ended.result.status) is known:
        return Change()
    events: list[ev.Event] = [ended]
    concluded = after = apply(session, ended)
    if exhausted(after):
        events.append(ev.Exhausted(ended.at))
        after = apply(after, events[-1])
    ends = not after.live and (session.live or after.outcome is not session.outcome)
    return Change(events, answer(after) if ends else None, concluded)


def exhausted(session: Session) -> bool:
    """All sends are spent and provably nothing was charged: no further send will be made."""
    stopped = session.state is State.INTERRUPTED and session.outcome is Outcome.NOT_CHARGED
    return stopped and session.sends_left() == 0
