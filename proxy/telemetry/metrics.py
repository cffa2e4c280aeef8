"""Every metric, declared once. The names are a contract (`docs/metrics.md`
explains each to SREs).
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Collection, Iterable, Iterator

from prometheus_client.core import CollectorRegistry
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from typing_extensions import override

from proxy.core.session import Session
from proxy.core.states import LIVE, Outcome
from proxy.telemetry.families import Counter, Gauge, Histogram

# Payments take between some milliseconds (a replay) and the total deadline.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
# Holdfast's own time and the store's are far shorter.
_OWN_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)


class Metrics(Collector):
    """The metrics of one Holdfast, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._shown: set[str] = set()  # every gateway a gauge was ever set for
        gateway, route = "gateway", "route"
        self.sessions_active = Gauge(
            "holdfast_sessions_active",
            "Sessions that can still go on, by state.",
            (gateway, "state"),
        )
        self.sessions = Counter(
            "holdfast_sessions",
            "Sessions that came to an end, or to an answer, by state and outcome.",
            (gateway, route, "state", "outcome"),
        )
        self.contradictions = Counter(
            "holdfast_contradictions",
            "Payments at odds with what was said before: charged after all, or voided after all.",
            (gateway,),
        )
        self.interruptions = Counter(
            "holdfast_interruptions",
            "Stops without a definite answer, by reason and by how far the send had come.",
            (gateway, route, "reason", "phase"),
        )
        self.attempts = Counter(
            "holdfast_attempts",
            "Sends to the gateway, by what they came to.",
            (gateway, route, "result"),
        )
        self.retries = Counter(
            "holdfast_retries",
            "Repeats that were scheduled, by what made them necessary.",
            (gateway, route, "reason"),
        )
        self.retries_suppressed = Counter(
            "holdfast_retries_suppressed",
            "Failed attempts that were not repeated, by why not.",
            (gateway, route, "reason"),
        )
        self.sessions_recovered = Counter(
            "holdfast_sessions_recovered",
            "Payments that succeeded after at least one interruption.",
            (gateway, route),
        )
        self.duplicates = Counter(
            "holdfast_duplicates",
            "Requests for a payment that was already known, by what they got.",
            (gateway, route, "verdict"),
        )
        self.refusals = Counter(
            "holdfast_refusals",
            "Requests refused before a session was touched, or answered early, by problem code.",
            (gateway, "code"),
        )
        self.webhooks = Counter(
            "holdfast_webhooks",
            "What gateways said by themselves, event by event, by what came of it.",
            (gateway, "verdict"),
        )
        self.unknown_outcomes = Gauge(
            "holdfast_unknown_outcomes",
            "Payments nobody is working on of which it is not known whether they were charged.",
            (gateway,),
        )
        self.unknown_oldest = Gauge(
            "holdfast_unknown_outcome_oldest_seconds",
            "Age of the oldest unknown outcome; 0 when there is none.",
            (gateway,),
        )
        self.attempt_seconds = Histogram(
            "holdfast_attempt_seconds",
            "One send, the gateway's time included.",
            (gateway, route),
            _SECONDS,
        )
        self.session_seconds = Histogram(
            "holdfast_session_seconds",
            "From a request's arrival to its answer, retries and waits included.",
            (gateway, route),
            _SECONDS,
        )
        self.overhead_seconds = Histogram(
            "holdfast_overhead_seconds",
            "Time spent in Holdfast itself: neither at the gateway nor waiting to retry.",
            (gateway, route),
            _OWN_SECONDS,
        )
        self.store_seconds = Histogram(
            "holdfast_store_seconds",
            "Store operations, waiting for the disk included.",
            ("operation",),
            _OWN_SECONDS,
        )
        self.store_regressed = Gauge(
            "holdfast_store_regressed",
            "1 while the store is known to have lost what it had acknowledged.",
        )
        self.spooled_outcomes = Gauge(
            "holdfast_spooled_outcomes",
            "Outcomes on the spool that the store has not taken yet.",
        )
        self.breaker_state = Gauge(
            "holdfast_breaker_state",
            "Circuit breaker: 0 closed (normal), 1 half-open (probing), 2 open (refusing).",
            (gateway,),
        )
        self.budget_remaining = Gauge(
            "holdfast_retry_budget_remaining",
            "Retries the budget would allow right now.",
            (gateway,),
        )
        self.ready = Gauge("holdfast_ready", "1 while payments are taken, else 0.")
        self.ready.set(0)
        self.config_last_reload_successful = Gauge(
            "holdfast_config_last_reload_successful",
            "1 while the policy file as it was last read holds, 0 if it was refused.",
        )
        self.build_info = Gauge(
            "holdfast_build_info",
            "Always 1; the version is the label.",
            ("version",),
        )

    def show_sessions(
        self,
        sessions: Iterable[Session],
        gateways: Iterable[str],
        now_ms: int,
        *,
        walked: Collection[str] = (),
    ) -> None:
        """Set the gauges about open sessions from the sessions themselves: they cannot drift.

        `walked`: the ids of those that a request is being brought forward for right now.
        """
        active: Count[tuple[str, str]] = Count()
        unknown: Count[str] = Count()
        oldest: dict[str, int] = {}
        for session in sessions:
            gateway = session.gateway or "none"
            if session.live:
                active[gateway, session.state] += 1
            left_open = not session.in_flight and session.id not in walked
            if session.durable and session.outcome is Outcome.UNKNOWN and left_open:
                unknown[gateway] += 1
                oldest[gateway] = min(oldest.get(gateway, now_ms), session.started_at)
        # A gateway that is configured no more keeps its gauges until its last session is settled,
        # and then has to be seen to go to 0.
        self._shown |= {"none", *gateways, *unknown, *(name for name, _ in active)}
        for gateway in self._shown:
            for state in LIVE:
                self.sessions_active.set(active[gateway, state], gateway, state)
            self.unknown_outcomes.set(unknown[gateway], gateway)
            age = (now_ms - oldest.get(gateway, now_ms)) / 1000
            self.unknown_oldest.set(age, gateway)

    def all(self) -> list[Counter | Gauge | Histogram]:
        """Every metric, in the order they are shown."""
        kinds = (Counter, Gauge, Histogram)
        return [value for value in vars(self).values() if isinstance(value, kinds)]

    @override
    def collect(self) -> Iterator[Family]:
        """What the registry asks for when it is read."""
        for metric in self.all():
            yield metric.family()
