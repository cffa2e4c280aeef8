"""Events and facts → metrics and log lines. The only file that moves a metric."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from prometheus_client.metrics import MetricWrapperBase

from proxy.core import events as ev
from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.ports import Clock
from proxy.telemetry.logs import LineSink, masked_text
from proxy.telemetry.metrics import Metrics

M = TypeVar("M", bound=MetricWrapperBase)

# How a session can end. Prometheus takes a counter that appears at 1 for one that has not moved, so
# the counters that pages are made of begin at 0, with the first that is heard of a route.
_ENDS = (
    (State.COMPLETED, Outcome.CHARGED),
    (State.COMPLETED, Outcome.NOT_CHARGED),
    (State.DECLINED, Outcome.NOT_CHARGED),
    (State.CANCELLED, Outcome.NOT_CHARGED),
    (State.EXPIRED, Outcome.NOT_CHARGED),
    (State.FAILED_MAX_RETRIES, Outcome.NOT_CHARGED),
    (State.FAILED_MAX_RETRIES, Outcome.UNKNOWN),
)


class MetricsRecorder:
    """The recorder of a running Holdfast. `later` runs a callback at the end of the loop's turn."""

    def __init__(
        self,
        metrics: Metrics,
        lines: LineSink,
        clock: Clock,
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        self._m = metrics
        self._lines = lines
        self._clock = clock
        self._later = later
        # `labels()` costs three times the increment, so the children are kept.
        self._children: dict[tuple[int, tuple[str, ...]], Any] = {}
        self._begun: set[tuple[str, str]] = set()
        self._second, self._second_text = -1, ""

    def _child(self, metric: M, *labels: str) -> M:
        key = (id(metric), labels)
        child: M | None = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    # --- sessions -----------------------------------------------------------------------------

    def moved(self, before: Session | None, event: ev.Event, after: Session) -> None:
        """Follow a session from one version to the next."""
        gateway, route = after.gateway or "none", after.route or "none"
        if (gateway, route) not in self._begun:
            self._begin(gateway, route)
        match event:
            case ev.AttemptEnded():
                status = after.attempts[-1].status if after.attempts else event.result.status
                self._child(self._m.attempts, gateway, route, status.value).inc()
            case ev.RetryScheduled():
                self._child(self._m.retries, gateway, route, event.because.value).inc()
            case _:
                pass
        if before is not None:
            self._compared(before, after, gateway, route)

    def _compared(self, before: Session, after: Session, gateway: str, route: str) -> None:
        if len(after.interruptions) > len(before.interruptions):
            stop = after.interruptions[-1]
            self._child(self._m.interruptions, gateway, route, stop.reason, stop.phase).inc()
            if after.durable:
                how = {"reason": stop.reason, "phase": stop.phase, "sent": stop.sent}
                self._line("interruption", after, **how)
        if after.live:
            if after.review_required and not before.review_required:
                self._line("review required", after)  # nothing that runs by itself will settle it
            return
        if before.live:
            self._finished(after, gateway, route)
        elif before.outcome is not after.outcome and after.durable:
            # It had ended, and its line was written; only now is it known what became of the money.
            self._line("settled", after)

    def _begin(self, gateway: str, route: str) -> None:
        self._begun.add((gateway, route))
        for end in _ENDS:
            self._child(self._m.sessions, gateway, route, *end)
        self._child(self._m.sessions_recovered, gateway, route)

    def dropped(self, session: Session) -> None:
        """An ephemeral session's request is over; if it came to no end, it is counted as it is."""
        if session.live:
            labels = (session.gateway or "none", session.route or "none")
            self._child(self._m.sessions, *labels, session.state, session.outcome).inc()

    def _finished(self, session: Session, gateway: str, route: str) -> None:
        self._child(self._m.sessions, gateway, route, session.state, session.outcome).inc()
        if session.recovered:
            self._child(self._m.sessions_recovered, gateway, route).inc()
        if session.durable:
            finished = session.finished_at or session.updated_at
            self._line("session", session, ms=finished - session.started_at)

    def _line(self, event: str, session: Session, **more: object) -> None:
        first = self._lines.add(
            {
                "timestamp": self._timestamp(),
                "level": "info" if session.outcome is not Outcome.UNKNOWN else "warning",
                "event": event,
                "session_id": session.id,
                "gateway": session.gateway,
                "route": session.route,
                "order_id": None if session.order_ref is None else masked_text(session.order_ref),
                "state": session.state,
                "outcome": session.outcome,
                "attempts": session.attempt_count,
                **more,
            }
        )
        if first:
            self._later(self._lines.flush)

    def _timestamp(self) -> str:
        """Now, in RFC 3339; what is before the milliseconds is the same for many lines."""
        second, ms = divmod(self._clock.now_ms(), 1000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{ms:03d}Z"

    # --- other facts --------------------------------------------------------------------------

    def note(self, fact: ev.Fact) -> None:
        """Count something that is not part of a session's life."""
        match fact:
            case ev.AttemptTimed():
                self._child(self._m.attempt_seconds, fact.gateway, fact.route).observe(fact.seconds)
            case ev.StoreTimed():
                self._child(self._m.store_seconds, fact.operation).observe(fact.seconds)
            case ev.WalkEnded():
                labels = (fact.gateway, fact.route)
                exemplar = None if fact.session_id is None else {"session_id": fact.session_id}
                self._child(self._m.session_seconds, *labels).observe(fact.seconds, exemplar)
                self._child(self._m.overhead_seconds, *labels).observe(fact.overhead_seconds)
            case ev.DuplicateSeen():
                self._child(self._m.duplicates, fact.gateway, fact.route, fact.verdict).inc()
            case ev.RetrySuppressed():
                self._child(self._m.retries_suppressed, fact.gateway, fact.route, fact.reason).inc()
            case ev.RequestRefused():
                self._child(self._m.refusals, fact.gateway, fact.code).inc()
