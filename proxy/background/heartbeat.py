"""Keeps the lease of this process on a store that others share."""

from __future__ import annotations

from collections.abc import Callable

from proxy.ports import Clock, SessionStore, StoreUnavailable

# Beats per lease: two may be lost before it runs out.
_BEATS = 3
# While the store is away: payments wait for nothing but a beat that is answered.
_AWAY_SECONDS = 1.0


class Heartbeat:
    """`run` renews the lease for ever; a task of its own, since nothing may hold it up."""

    def __init__(
        self,
        store: SessionStore,
        lease: float,
        clock: Clock,
        on_bug: Callable[[Exception], None],
    ) -> None:
        self._on_bug = on_bug
        self._store = store
        self._every = lease / _BEATS
        self._clock = clock

    async def run(self) -> None:
        """While the store does not answer the lease runs out, and no send is begun."""
        while True:
            away = self._store.trouble is not None
            await self._clock.sleep(min(self._every, _AWAY_SECONDS) if away else self._every)
            try:
                await self._store.heartbeat()
            except StoreUnavailable:
                continue
            except Exception as error:  # noqa: BLE001 -- without a beat nothing is ever sent again
                self._on_bug(error)
