"""The store of a simulation: the memory store with a disk under it.

What it holds in memory dies with the process; what is on the disk does not. Writes are handed to
the disk in batches, as the SQLite store does it: everything that waits while one batch is being
written goes with the next, a batch is durable as a whole or not at all, and when one fails, what
waits behind it fails too and memory goes back to what the disk says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.core.session import Session
from proxy.core.states import AttemptStatus
from proxy.ports import Clock, StoreUnavailable
from proxy.stores.memory import MemoryStore
from tests.campaigns.sim.plan import StoreTrouble, Trouble


class Version(NamedTuple):
    """A version of a session that became durable, and the one it replaced."""

    at: float
    before: Session | None
    after: Session


@dataclass(slots=True)
class Disk:
    """What survives. It remembers every version there was, for the checker."""

    sessions: dict[str, Session] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)
    processes: int = 0  # that have opened it
    batches: list[float] = field(default_factory=list)
    # (session, attempt) → the version that recorded its intent.
    intents: dict[tuple[str, int], Version] = field(default_factory=dict)

    def write(self, at: float, session: Session, answer: tuple[int, bytes] | None) -> None:
        """One session's next version."""
        version = Version(at, self.sessions.get(session.id), session)
        self.versions.append(version)
        self.sessions[session.id] = session
        for attempt in session.attempts:
            if attempt.status is AttemptStatus.IN_FLIGHT:
                self.intents.setdefault((session.id, attempt.number), version)
        if answer is not None:
            self.answers[session.id] = answer


class _Write(NamedTuple):
    session: Session
    answer: tuple[int, bytes] | None
    done: asyncio.Future[None]


class SimSpool:
    """One process's view of the file beside the store; what failed the one leaves the other."""

    def __init__(self, spooled: dict[int, bytes], seconds: Callable[[], float]) -> None:
        self._spooled = spooled
        self._seconds = seconds
        self._last = max(spooled, default=0)
        self._writing: set[asyncio.Task[None]] = set()

    async def keep(self, record: bytes) -> int:
        """Durable once it returns, or a little later, if that is not waited for."""
        self._last = number = self._last + 1
        writing = asyncio.ensure_future(self._write(number, record))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        await asyncio.shield(writing)
        return number

    async def _write(self, number: int, record: bytes) -> None:
        await asyncio.sleep(self._seconds())
        self._spooled[number] = record

    async def close(self) -> None:
        """Write what was begun."""
        await asyncio.gather(*self._writing)

    def records(self) -> dict[int, bytes]:
        """What waits."""
        return dict(self._spooled)

    async def done(self, number: int) -> None:
        """Durable at once; what is lost of it is only replayed once more."""
        del self._spooled[number]


class SimStore(MemoryStore):
    """One process's view of the disk."""

    def __init__(
        self,
        clock: Clock,
        disk: Disk,
        *,
        seconds: Callable[[], float],
        trouble: Callable[[], StoreTrouble | None],
        heard: Callable[[str], None],
    ) -> None:
        super().__init__(clock)
        self._disk = disk
        self._seconds = seconds
        self._trouble = trouble
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Write] = []
        self._writing: list[_Write] | None = None
        self._full_until = 0.0
        self.why_broken: str | None = None
        disk.processes += 1
        self.epoch = disk.processes
        for session in disk.sessions.values():
            self._index.put(session)

    # --- what the flow asks for ---------------------------------------------------------------

    async def claim(self, session: Session, expected_version: int) -> None:
        self._check_ready()
        await super().claim(session, expected_version)

    async def commit(
        self,
        session: Session,
        expected_version: int,
        answer: bytes | None,
        request: bytes | None = None,  # noqa: ARG002 -- no simulated route keeps any
    ) -> None:
        self._check_ready()
        self._check(session.id, expected_version)
        self._index.put(session)
        kept = None if answer is None else (self._clock.now_ms(), answer)
        write = _Write(session, kept, self._loop.create_future())
        self._waiting.append(write)
        if self._writing is None:
            self._hand_over()
        await write.done

    async def close(self) -> None:
        """Write what was accepted."""
        while self._on_their_way():  # noqa: ASYNC110 -- those who waited for it may be gone
            await asyncio.sleep(0.01)

    async def get(self, session_id: str) -> Session | None:
        await self._settled(session_id)
        return await super().get(session_id)

    async def _settled(self, session_id: str) -> None:
        """Wait for what is on its way to the disk: it can still fail."""
        while pending := [w for w in self._on_their_way() if w.session.id == session_id]:
            if pending[-1].done.done():  # who waited for it has gone; it is on its way all the same
                await asyncio.sleep(0.01)
            else:
                await asyncio.wait([pending[-1].done])

    def _on_their_way(self) -> list[_Write]:
        return [*(self._writing or ()), *self._waiting]

    async def answer(self, session_id: str) -> bytes | None:
        await self._settled(session_id)
        kept = self._disk.answers.get(session_id)
        return kept[1] if kept is not None else None

    async def purge(self, *, answers_before: int, sessions_before: int) -> tuple[int, int]:  # noqa: ARG002 -- the port's
        """Of answers only: no simulation runs as long as sessions are kept."""
        self._check_ready()
        old = [name for name, (at, _) in self._disk.answers.items() if at < answers_before]
        for name in old:
            del self._disk.answers[name]
        return len(old), 0

    def _check_ready(self) -> None:
        if self.why_broken is not None:
            raise StoreUnavailable(self.why_broken)
        if self._loop.time() < self._full_until:
            message = "the disk is full"
            raise StoreUnavailable(message)

    # --- the writer ---------------------------------------------------------------------------

    def _hand_over(self) -> None:
        self._writing, self._waiting = self._waiting, []
        self._heard("handed")
        self._loop.call_later(self._seconds(), self._written)

    def _written(self) -> None:
        batch, self._writing = self._writing or [], None
        trouble = self._trouble()
        if trouble is None or trouble.trouble is Trouble.AMBIGUOUS:
            self._put_on_disk(batch)
        if trouble is not None:
            self._failed(batch, trouble)
            return
        for write in batch:
            if not write.done.done():
                write.done.set_result(None)
        if self._waiting:
            self._hand_over()

    def _put_on_disk(self, batch: list[_Write]) -> None:
        for write in batch:
            self._disk.write(self._loop.time(), write.session, write.answer)
        self._heard("written")

    def _failed(self, batch: list[_Write], trouble: StoreTrouble) -> None:
        self._heard(trouble.trouble)
        if trouble.trouble is Trouble.AMBIGUOUS:
            self.why_broken = "writing failed; restart needed"
        else:
            self._full_until = self._loop.time() + trouble.seconds
        failed, self._waiting = batch + self._waiting, []
        for write in failed:
            if not write.done.done():
                write.done.set_exception(StoreUnavailable(trouble.trouble))
            self._index.remove(write.session.id)
        for name in dict.fromkeys(write.session.id for write in failed):
            stored = self._disk.sessions.get(name)
            if stored is not None:
                self._index.put(stored)

    def power_cut(self, *, durable: bool) -> None:
        """The process is gone. The batch that was being written is durable, or it is not."""
        if durable and self._writing is not None:
            self._put_on_disk(self._writing)
