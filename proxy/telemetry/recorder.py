"""Events and facts → metrics and log lines. The only file that moves a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from prometheus_client.core import Exemplar

from proxy.core import events as ev
from proxy.core.session import Session
from proxy.core.states import LIVE, Outcome, State
from proxy.ports import Clock
from proxy.telemetry.logs import LineSink, masked_text
from proxy.telemetry.metrics import Metrics

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
# Its level, and what its line says.
_RARE: Mapping[type[ev.Rare], tuple[str, str]] = {
    ev.NewKeySeen: ("warning", "new key"),
    ev.BreakerMoved: ("warning", "circuit breaker"),
    ev.WebhooksUnheard: ("error", "webhooks refused"),
    ev.PolicyReloaded: ("info", "policy reloaded"),
    ev.PolicyRefused: ("error", "policy not reloaded"),
    ev.StoreAway: ("error", "store away"),
    ev.StoreBack: ("info", "store back"),
    ev.StoreRegressed: ("error", "store regressed"),
    ev.LossAccepted: ("info", "store trusted again"),
    ev.LeaseLost: ("error", "lease lost"),
    ev.LeaseTaken: ("warning", "lease taken anew"),
    ev.OutcomeUnsaved: ("warning", "outcome spooled"),
    ev.OutcomeSaved: ("info", "outcome saved"),
}
_UNKNOWN = Outcome.UNKNOWN  # bound once: reaching it through its enum costs more than comparing


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
        self._begun: set[tuple[str, str]] = set()
        self._second, self._second_text = -1, ""

    # --- sessions -----------------------------------------------------------------------------

    def moved(self, before: Session | None, event: ev.Event, after: Session) -> None:
        """Follow a session from one version to the next."""
        if isinstance(event, ev.AttemptStarted):
            return  # there is nothing to tell of it before it ends
        gateway, route = after.gateway or "none", after.route or "none"
        if (gateway, route) not in self._begun:
            self._begin(gateway, route)
        if before is None:
            return
        if isinstance(event, ev.AttemptEnded):
            attempts = after.attempts
            status = attempts[-1].status if attempts else event.result.status
            self._m.attempts[gateway, route, status] += 1
        elif isinstance(event, ev.RetryScheduled):
            self._m.retries[gateway, route, event.because] += 1
        self._compared(before, after, gateway, route)
        if after.late_evidence and not before.late_evidence:
            self._m.contradictions[gateway,] += 1
            self._line("contradiction", after, {"said": before.state._value_})

    def _compared(self, before: Session, after: Session, gateway: str, route: str) -> None:
        stops, state, outcome = after.interruptions, after.state, after.outcome
        if len(stops) > len(before.interruptions):
            self._interrupted(after, gateway, route)
        if state in LIVE:
            if after.review_required and not before.review_required:
                self._line("review required", after, {})  # nothing by itself will settle it
        elif before.state in LIVE:
            self._m.sessions[gateway, route, state, outcome] += 1
            if stops and after.recovered:
                self._m.sessions_recovered[gateway, route] += 1
            if after.durable:
                finished = after.finished_at or after.updated_at
                self._line("session", after, {"ms": finished - after.started_at})
        elif before.outcome is not outcome and after.durable:
            # It had ended, and its line was written; only now is it known what became of the money.
            self._line("settled", after, {})

    def _begin(self, gateway: str, route: str) -> None:
        self._begun.add((gateway, route))
        for state, outcome in _ENDS:
            self._m.sessions.begin(gateway, route, state, outcome)
        self._m.sessions_recovered.begin(gateway, route)
        self._m.contradictions.begin(gateway)

    def dropped(self, session: Session) -> None:
        """An ephemeral session's request is over; if it came to no end, it is counted as it is."""
        if session.live:
            gateway, route = session.gateway or "none", session.route or "none"
            self._m.sessions[gateway, route, session.state, session.outcome] += 1

    def _interrupted(self, session: Session, gateway: str, route: str) -> None:
        stop = session.interruptions[-1]
        self._m.interruptions[gateway, route, stop.reason, stop.phase] += 1
        if session.durable:
            how = {"reason": stop.reason, "phase": stop.phase, "sent": stop.sent}
            self._line("interruption", session, how)

    def _line(self, event: str, session: Session, more: Mapping[str, object]) -> None:
        outcome, order = session.outcome, session.order_ref
        self._add(
            {
                "timestamp": self._timestamp(),
                "level": "warning" if outcome is _UNKNOWN or session.review_required else "info",
                "event": event,
                "session_id": session.id,
                "gateway": session.gateway,
                "route": session.route,
                "order_id": None if order is None else masked_text(order),
                # orjson would ask an enum's member for its `value`, and that is Python.
                "state": session.state._value_,
                "outcome": outcome._value_,
                "attempts": session.attempt_count,
                **more,
            }
        )

    def _add(self, entry: dict[str, object]) -> None:
        if self._lines.add(entry):
            self._later(self._lines.flush)

    def _timestamp(self) -> str:
        """Now, in RFC 3339; what is before the milliseconds is the same for many lines."""
        second, ms = divmod(self._clock.now_ms(), 1000)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{ms:03d}Z"

    # --- other facts --------------------------------------------------------------------------

    def note(self, fact: ev.Fact) -> None:  # noqa: C901 -- one case per fact
        """Count something that is not part of a session's life."""
        metrics = self._m
        if isinstance(fact, ev.AttemptTimed):
            metrics.attempt_seconds[fact.gateway, fact.route].observe(fact.seconds)
        elif isinstance(fact, ev.WalkEnded):
            at = fact.gateway, fact.route
            taken = metrics.session_seconds[at]
            taken.observe(fact.seconds)
            metrics.overhead_seconds[at].observe(fact.overhead_seconds)
            if fact.session_id is not None:
                case = {"session_id": fact.session_id}
                taken.name(Exemplar(case, fact.seconds, self._clock.now_ms() / 1000))
        elif isinstance(fact, ev.StoreTimed):
            metrics.store_seconds[fact.operation,].observe(fact.seconds)
        elif isinstance(fact, ev.DuplicateSeen):
            metrics.duplicates[fact.gateway, fact.route, fact.verdict] += 1
        elif isinstance(fact, ev.RetrySuppressed):
            metrics.retries_suppressed[fact.gateway, fact.route, fact.reason] += 1
        elif isinstance(fact, ev.RequestRefused):
            metrics.refusals[fact.gateway, fact.code] += 1
        elif isinstance(fact, ev.WebhookHeard):
            metrics.webhooks[fact.gateway, fact.verdict] += 1
        else:
            self._told(fact)

    def _told(self, fact: ev.Rare) -> None:
        """A line of its own for what is rare and is looked for in the log first."""
        level, event = _RARE[type(fact)]
        if isinstance(fact, ev.PolicyReloaded | ev.PolicyRefused):
            self._m.config_last_reload_successful.set(isinstance(fact, ev.PolicyReloaded))
        if isinstance(fact, ev.OutcomeUnsaved) and not fact.spooled:
            level, event = "error", "outcome in memory only"
        said = {name: getattr(fact, name) for name in fact.__struct_fields__ if name != "spooled"}
        if "why" in said:
            said["why"] = masked_text(said["why"])
        self._add({"timestamp": self._timestamp(), "level": level, "event": event, **said})
