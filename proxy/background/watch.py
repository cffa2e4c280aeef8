"""Tells, once, when the store goes away, comes back or is found to have lost something, and when
the lease on it is lost or taken anew.
"""

from __future__ import annotations

from proxy.core import events as ev
from proxy.ports import Clock, Recorder, SessionStore

_EVERY_SECONDS = 1.0


class Watch:
    """`run` looks for ever."""

    def __init__(self, store: SessionStore, recorder: Recorder, clock: Clock) -> None:
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._away = self._leaseless = False
        self._regressed: str | None = None
        self._epoch = store.epoch

    async def run(self) -> None:
        """Once a second. What comes and goes in between is not told."""
        while True:
            self.look()
            await self._clock.sleep(_EVERY_SECONDS)

    def look(self) -> None:
        """Tell what is another than it was."""
        store, tell = self._store, self._recorder.note
        trouble = store.trouble
        if (trouble is not None) is not self._away:
            self._away = trouble is not None
            tell(ev.StoreBack() if trouble is None else ev.StoreAway(trouble))
        if store.regressed != self._regressed:
            self._regressed = store.regressed
            lost = self._regressed
            tell(ev.LossAccepted() if lost is None else ev.StoreRegressed(lost))
        # While a process is stopped it loses one lease and has the next before it can look.
        leaseless, epoch = store.lease_seconds() <= 0, store.epoch
        if (leaseless or epoch != self._epoch) and not self._leaseless:
            tell(ev.LeaseLost(self._epoch))
        if not leaseless and (self._leaseless or epoch != self._epoch):
            tell(ev.LeaseTaken(epoch))
        self._leaseless, self._epoch = leaseless, epoch
