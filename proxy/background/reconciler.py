"""Looks after every session that nobody is walking and that is not settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from proxy.core import events as ev
from proxy.core.session import Session
from proxy.flow.commands import Commands
from proxy.flow.journal import Change, Journal
from proxy.ports import Clock, SessionStore, StoreUnavailable

# The quickest step of the look-up schedule.
_EVERY_SECONDS = 1.0


class Reconciler:
    """`run` calls `run_once` for ever; `after_restart` comes first."""

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

    async def after_restart(self) -> int:
        """Whatever was in flight when the last process ended is unknown now. How
        many there were.
        """
        found = 0
        for session in await self._store.listed():
            if not session.in_flight:
                continue
            found += 1
            await self._journal.update(session, self._restarted, frozenset())
        return found

    def _restarted(self, session: Session) -> Change:
        in_flight = session.in_flight
        return Change([ev.ProcessRestarted(self._clock.now_ms())] if in_flight else [])

    async def run_once(self) -> None:
        """One step for each session that is due. A gateway that is slow to be asked holds up only
        its own.
        """
        by_gateway: dict[str | None, list[Session]] = {}
        for session in await self._store.listed():
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
            await self.run_once()
