"""One Holdfast of a run and the machine it is on: what of it dies, what stays, and its way to a
store that it shares.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from tests.campaigns.sim.database import WRITES, Crossing, Database, SharedStore
from tests.campaigns.sim.loop import Process, VirtualLoop
from tests.campaigns.sim.plan import Mishap, Moment
from tests.campaigns.sim.sidecar import Sidecar, SimClock

# Two leases long: after that nothing more is to be learned from beats that go through.
_BEATS = 6


class Around(Protocol):
    """What a replica's way to the store leads through."""

    loop: VirtualLoop

    def happened(self, moment: Moment, replica: Replica) -> None:
        """Something that a crash or a mishap may wait for."""
        ...

    def way_seconds(self) -> float:
        """How long the next thing is on its way."""
        ...

    def loses(self) -> bool:
        """Whether a way that is cut swallows the next thing, or says no."""
        ...

    def later(self, seconds: float, work: Callable[[], object]) -> object:
        """Do something that is nobody's step."""
        ...


class Replica:
    """A Holdfast, and the ones that are started in its place; also the `Net` of its store."""

    def __init__(self, name: str, around: Around) -> None:
        self.name = name
        self._around = around
        self.process = Process(around.loop)
        self.sidecar: Sidecar | None = None
        self.heart: HeartClock | None = None
        self.spooled: dict[int, bytes] = {}
        self.connections: dict[int, asyncio.Future[Any]] = {}
        self.cut_until = 0.0
        self.next_write: Mishap | None = None

    def wake(self) -> None:
        """Something happens: whatever looks around does so once a second again."""
        if self.sidecar is not None:
            self.sidecar.lazy.wake()
        if self.heart is not None:
            self.heart.wake()

    @property
    def calm(self) -> bool:
        """Whether it runs, and nothing is in its way."""
        up = self.sidecar is not None and self.sidecar.store.why_broken is None
        return up and self.process.waiting is None and not self.cut()

    # --- the way to the store -----------------------------------------------------------------

    def cross(self, statement: str) -> Crossing:
        """What the next statement meets."""
        around = self._around
        if statement in WRITES:
            around.happened(Moment.HANDED, self)
        mishap = None
        if statement in WRITES:
            mishap, self.next_write = self.next_write, None
        if self.cut():
            if around.loses():
                return Crossing(0.0, 0.0, lost=True)
            raise ConnectionError
        lost, unheard = mishap is Mishap.LOST, mishap is Mishap.UNHEARD
        return Crossing(around.way_seconds(), around.way_seconds(), lost=lost, unheard=unheard)

    def carried_out(self, statement: str) -> None:
        """The server did it."""
        if statement in WRITES:
            self._around.happened(Moment.WRITTEN, self)

    def cut(self) -> bool:
        """Whether nothing gets through."""
        return self._around.loop.time() < self.cut_until

    def later(self, seconds: float, work: Callable[[], object]) -> object:
        """Do something that is nobody's step."""
        return self._around.later(seconds, work)

    def hear(self, work: Callable[[], None]) -> None:
        """Something arrives."""
        if self.process.alive:
            self.process.hear(work)


class HeartClock(SimClock):
    """The heartbeat's: while nothing happens the lease is kept without beats, so that days of quiet
    cost nothing.
    """

    def __init__(
        self, loop: VirtualLoop, store: SharedStore, database: Database, calm: Callable[[], bool]
    ) -> None:
        super().__init__(loop)
        self._store = store
        self._database = database
        self._calm = calm
        self._beats = 0
        self._asleep: asyncio.Future[None] | None = None

    async def sleep(self, seconds: float) -> None:
        """Until the next beat is due, or something happens."""
        self._beats += 1
        if self._beats > _BEATS and self._calm() and self._store.lease_seconds() > 0:
            self._store.rest(self._database)
        if not self._store.rests:
            await asyncio.sleep(seconds)
            return
        self._asleep = self._loop.create_future()
        await self._asleep

    def wake(self) -> None:
        """Something happens."""
        self._beats = 0
        self._store.rise(self._database, self._loop.time())
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)
