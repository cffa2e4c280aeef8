"""Drops what has been kept long enough: answers first, later the sessions themselves."""

from __future__ import annotations

from proxy.core.policy import SessionPolicy
from proxy.ports import Clock, SessionStore, StoreUnavailable


class Janitor:
    """`run` calls `run_once` for ever."""

    def __init__(self, store: SessionStore, policy: SessionPolicy, clock: Clock) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock

    async def run_once(self) -> tuple[int, int]:
        """How many answers and sessions were dropped. Never one whose outcome is unknown."""
        now = self._clock.now_ms()
        return await self._store.purge(
            answers_before=now - int(self._policy.replay_for * 1000),
            sessions_before=now - int(self._policy.keep_for * 1000),
        )

    async def run(self) -> None:
        """At every `cleanup_every`, for ever."""
        while True:
            await self._clock.sleep(self._policy.cleanup_every)
            try:
                await self.run_once()
            except StoreUnavailable:
                continue  # there is always a next time
