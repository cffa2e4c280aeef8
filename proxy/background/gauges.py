"""Reads off the gauges that are a state rather than a count, when somebody asks for the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from proxy.flow.walk import Lane, Walks
from proxy.ports import Clock, SessionStore, Spool, StoreUnavailable
from proxy.tasks import Tasks
from proxy.telemetry.metrics import Metrics

# So long a scrape waits for a store that does not answer: far less than any scraper's own time-out.
_COUNT_SECONDS = 1.0


class Gauges:
    """`refresh` comes before every scrape."""

    def __init__(  # noqa: PLR0913 -- whose states they are
        self,
        *,
        metrics: Metrics,
        store: SessionStore,
        walks: Walks,
        lanes: Mapping[str, Lane],
        spool: Spool | None,
        tasks: Tasks,
        clock: Clock,
        unready: Callable[[], str | None],
    ) -> None:
        self._metrics = metrics
        self._store = store
        self._walks = walks
        self._lanes = lanes
        self._spool = spool
        self._tasks = tasks
        self._clock = clock
        self._unready = unready
        self._counting: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Whatever the store does."""
        if self._counting is None or self._counting.done():
            self._counting = self._tasks.start(self._count_sessions(), "count")
        _ = await asyncio.wait({self._counting}, timeout=_COUNT_SECONDS)
        self._metrics.store_regressed.set(self._store.regressed is not None)
        waiting = {} if self._spool is None else self._spool.records()
        self._metrics.spooled_outcomes.set(len(waiting))
        self._metrics.ready.set(self._unready() is None)
        now = self._clock.monotonic()
        for name, lane in self._lanes.items():
            worst = max(admission.breaker.state for admission in lane.admissions)
            self._metrics.breaker_state.set(worst, name)
            self._metrics.budget_remaining.set(lane.admissions.budget.left(now), name)

    async def _count_sessions(self) -> None:
        """What is in a store is shown by one of those that share it, so that a sum over them is
        right. While it cannot be read what was counted last stays: an alert is not over then.
        """
        store, walked = self._store, self._walks.by_session
        try:
            if store.leads:
                sessions = {session.id: session for session in await store.listed()}
                sessions |= {key: walk.session for key, walk in walked.items()}
            elif store.lease_seconds() > 0:
                sessions = {k: w.session for k, w in walked.items() if not w.session.durable}
            else:  # who leads cannot be known
                return
        except StoreUnavailable:
            return
        now_ms = self._clock.now_ms()
        self._metrics.show_sessions(sessions.values(), self._lanes, now_ms, walked=walked)
