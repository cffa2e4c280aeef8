"""Tells, once, when the store goes away, comes back or is found to have lost something, and when
the lease on it is lost or taken anew.
"""

from __future__ import annotations

from proxy.core import events as ev
from proxy.ports import Clock, Recorder, SessionStore, StoreUnavailable

_EVERY_SECONDS = 1.0


class Watch:
    """`run` looks for ever; a task of its own, since a store that is away answers late."""

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
            await self.look()
            await self._clock.sleep(_EVERY_SECONDS)

    async def look(self) -> None:
        """Tell what is another than it was."""
        store, tell = self._store, self._recorder.note
        away = not store.ready
        if away is not self._away:
            self._away = away
            tell(ev.StoreAway(await self._why()) if away else ev.StoreBack())
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

    async def _why(self) -> str:
        """In the store's own words, where it has any: a server tells them to whoever asks."""
        try:
            _ = await self._store.get("")
        except StoreUnavailable as error:
            return str(error)
        return self._store.broken or "it takes no writes"
