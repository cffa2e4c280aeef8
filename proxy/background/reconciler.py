"""Looks after every session that nobody is walking and that is not settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from proxy.core import events as ev
from proxy.core.session import Session
from proxy.flow.commands import Commands
from proxy.flow.journal import Change, Journal
from proxy.ports import Clock, SessionStore, StoreUnavailable

# The quickest step of the look-up schedule.
_EVERY_SECONDS = 1.0


class Reconciler:
    """`run` calls `take_over` and `run_once` for ever; `begin` comes first."""

    def __init__(
        self,
        store: SessionStore,
        journal: Journal,
        commands: Commands,
        clock: Clock,
        on_bug: Callable[[Exception], None],
    ) -> None:
        self._store = store
        self._journal = journal
        self._commands = commands
        self._clock = clock
        self._on_bug = on_bug

    async def take_over(self) -> int:
        """What a process had in flight that is gone is unknown now; nothing is sent for it. How
        many there were.
        """
        abandoned = await self._store.abandoned()
        for session in abandoned:
            gone = partial(self._gone, session.sender)
            await self._commands.recall(await self._journal.update(session, gone, frozenset()))
        return len(abandoned)

    async def begin(self) -> int:
        """What earlier processes left, at a start: how many sessions had been in flight."""
        found = await self.take_over()
        if not self._store.shared:  # else another may still have their requests
            for session in await self._store.listed():
                await self._commands.recall(session)
        return found

    def _gone(self, sender: int | None, session: Session) -> Change:
        still = session.sender is not None and session.sender == sender
        return Change([ev.ProcessRestarted(self._clock.now_ms())] if still else [])

    async def run_once(self) -> None:
        """One step for each session that is due, here or among those of all who share the store. A
        gateway that is slow to be asked holds up only its own.
        """
        by_gateway: dict[str | None, list[Session]] = {}
        for session in await self._store.listed():
            if self._store.leads or self._commands.holds_request(session):
                by_gateway.setdefault(session.gateway, []).append(session)
        await asyncio.gather(*(self._look_after(sessions) for sessions in by_gateway.values()))

    async def _look_after(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            try:
                await self._commands.look_after(session)
            except StoreUnavailable:
                return  # the next round finds the same sessions
            except Exception as error:  # noqa: BLE001 -- one session's oddity is not the others'
                self._on_bug(error)

    async def run(self) -> None:
        """Once a second, for ever."""
        while True:
            await self._clock.sleep(_EVERY_SECONDS)
            with contextlib.suppress(StoreUnavailable):  # the next round finds the same
                await self.take_over()
                await self.run_once()
