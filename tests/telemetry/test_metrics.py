"""The metrics: what they are called, where that is written, and that they tell the truth."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from proxy.core.idempotency import Duplicate
from proxy.core.reasons import Reason, Suppressed
from proxy.core.session import Attempt, Session
from proxy.core.states import LIVE, AttemptStatus, Outcome, State
from proxy.core.wire import Phase
from proxy.demo.faults import FaultPlan
from proxy.demo.gateway import SimulatedGateway
from proxy.demo.traffic import Shop, Takings, pay_all
from proxy.flow.webhooks import WebhookVerdict
from proxy.telemetry.metrics import Metrics
from tests.support.running import Running, policy, running, simulated
from tests.support.tools import ROOT, run

HURRIED = """
defaults:
  timeouts: {connect: 2s, attempt: 1s, total: 20s}
  retry: {max_attempts: 6, backoff: {initial: 10ms, max: 50ms}}
"""
NOW = 1_706_000_000_000

# The contract. A change here is one for everybody's dashboards and alerts.
CONTRACT: dict[str, tuple[str, tuple[str, ...]]] = {
    "holdfast_sessions_active": ("gauge", ("gateway", "state")),
    "holdfast_sessions_total": ("counter", ("gateway", "route", "state", "outcome")),
    "holdfast_interruptions_total": ("counter", ("gateway", "route", "reason", "phase")),
    "holdfast_attempts_total": ("counter", ("gateway", "route", "result")),
    "holdfast_retries_total": ("counter", ("gateway", "route", "reason")),
    "holdfast_retries_suppressed_total": ("counter", ("gateway", "route", "reason")),
    "holdfast_sessions_recovered_total": ("counter", ("gateway", "route")),
    "holdfast_duplicates_total": ("counter", ("gateway", "route", "verdict")),
    "holdfast_refusals_total": ("counter", ("gateway", "code")),
    "holdfast_contradictions_total": ("counter", ("gateway",)),
    "holdfast_webhooks_total": ("counter", ("gateway", "verdict")),
    "holdfast_unknown_outcomes": ("gauge", ("gateway",)),
    "holdfast_unknown_outcome_oldest_seconds": ("gauge", ("gateway",)),
    "holdfast_attempt_seconds": ("histogram", ("gateway", "route")),
    "holdfast_session_seconds": ("histogram", ("gateway", "route")),
    "holdfast_overhead_seconds": ("histogram", ("gateway", "route")),
    "holdfast_store_seconds": ("histogram", ("operation",)),
    "holdfast_spooled_outcomes": ("gauge", ()),
    "holdfast_config_last_reload_successful": ("gauge", ()),
    "holdfast_store_regressed": ("gauge", ()),
    "holdfast_breaker_state": ("gauge", ("gateway",)),
    "holdfast_retry_budget_remaining": ("gauge", ("gateway",)),
    "holdfast_ready": ("gauge", ()),
    "holdfast_build_info": ("gauge", ("version",)),
}


# --- names ----------------------------------------------------------------------------------------


def test_names_types_and_labels_are_the_contract() -> None:
    """Exactly these metrics, each with its type and its labels."""
    seen = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            tuple(metric.labels),
        )
        for metric in Metrics().all()
        for family in [metric.family()]
    }
    assert seen == CONTRACT


DOC = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_the_docs_list_every_metric() -> None:
    """docs/metrics.md has a row for each, with type, labels and a meaning."""
    rows = re.findall(r"^\| `(holdfast_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", DOC, re.MULTILINE)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}
    assert told == CONTRACT
    assert all(meaning.endswith(".") for *_, meaning in rows)


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("`state`", State),
        ("`outcome`", Outcome),
        ("`result`", set(AttemptStatus) - {AttemptStatus.IN_FLIGHT}),
        ("`phase`", Phase),
        ("`reason` of interruptions and retries", Reason),
        ("`reason` of suppressed retries", Suppressed),
        ("`verdict`", Duplicate),
        ("`verdict` of webhooks", WebhookVerdict),
        ("`operation`", {"commit"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_docs_list_every_value_of_a_label(label: str, values: Any) -> None:
    """The closed lists are those of the code."""
    (row,) = re.findall(rf"^\| {re.escape(label)} \| (.*) \|$", DOC, re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", row)) == sorted(values)


# --- gauges from sessions -------------------------------------------------------------------------


def a_session(  # noqa: PLR0913 -- what the gauges look at, by name
    number: int = 1,
    *,
    gateway: str | None = "stripe",
    state: State = State.INITIATED,
    outcome: Outcome = Outcome.NOT_CHARGED,
    started_at: int = NOW,
    durable: bool = True,
    in_flight: bool = False,
) -> Session:
    """A session as it might stand in a store."""
    attempts = (Attempt(1, 1, "stripe", AttemptStatus.IN_FLIGHT, NOW),) if in_flight else ()
    return Session(
        id=f"ps_{number}",
        gateway=gateway,
        started_at=started_at,
        expires_at=NOW + 900_000,
        max_attempts=3,
        state=state,
        outcome=outcome,
        durable=durable,
        attempts=attempts,
    )


def samples(registry: CollectorRegistry, prefix: str) -> dict[tuple[str, ...], float]:
    """What a metric shows, by its label values."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == prefix
    }


def unknown(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """The gauge about unknown outcomes, where it is not 0."""
    shown = samples(metrics.registry, "holdfast_unknown_outcomes")
    return {labels: value for labels, value in shown.items() if value}


def test_active_sessions_are_counted_by_gateway_and_state() -> None:
    """Live ones only; one without a gateway yet is shown as `none`."""
    metrics = Metrics()
    sessions = [
        a_session(1),
        a_session(2),
        a_session(3, state=State.INTERRUPTED),
        a_session(4, gateway=None),
        a_session(5, state=State.COMPLETED, outcome=Outcome.CHARGED),
    ]
    metrics.show_sessions(sessions, ["stripe", "idle"], NOW)
    shown = samples(metrics.registry, "holdfast_sessions_active")
    assert {labels: value for labels, value in shown.items() if value} == {
        ("stripe", "INITIATED"): 2,
        ("stripe", "INTERRUPTED"): 1,
        ("none", "INITIATED"): 1,
    }
    assert shown["idle", "RESUMED"] == 0


@pytest.mark.parametrize(
    ("session", "counted"),
    [
        (a_session(state=State.INTERRUPTED, outcome=Outcome.UNKNOWN), True),
        (a_session(state=State.FAILED_MAX_RETRIES, outcome=Outcome.UNKNOWN), True),
        (a_session(state=State.INTERRUPTED), False),
        (a_session(state=State.INITIATED, outcome=Outcome.UNKNOWN, in_flight=True), False),
        (a_session(7, state=State.INTERRUPTED, outcome=Outcome.UNKNOWN), False),
        (a_session(state=State.INTERRUPTED, outcome=Outcome.UNKNOWN, durable=False), False),
    ],
    ids=["interrupted", "given up", "nothing charged", "in flight", "being walked", "a read"],
)
def test_unknown_outcomes_are_those_nobody_works_on(session: Session, *, counted: bool) -> None:
    """Sent, unanswered, and neither in flight nor in the hands of a request right now."""
    metrics = Metrics()
    metrics.show_sessions([session], ["stripe"], NOW, walked={"ps_7"})
    assert unknown(metrics) == ({("stripe",): 1} if counted else {})


def test_the_oldest_unknown_outcome_has_an_age() -> None:
    """In seconds, of the oldest; 0 when there is none, or the clock went backwards."""
    metrics = Metrics()
    name = "holdfast_unknown_outcome_oldest_seconds"
    lost = {"state": State.INTERRUPTED, "outcome": Outcome.UNKNOWN}
    young = a_session(1, started_at=NOW - 1_000, **lost)  # type: ignore[arg-type]
    old = a_session(2, started_at=NOW - 61_500, **lost)  # type: ignore[arg-type]
    later = a_session(3, gateway="other", started_at=NOW + 5_000, **lost)  # type: ignore[arg-type]
    metrics.show_sessions([young, old, later], [], NOW)
    assert samples(metrics.registry, name) == {("stripe",): 61.5, ("other",): 0, ("none",): 0}
    metrics.show_sessions([], [], NOW)
    assert set(samples(metrics.registry, name).values()) == {0.0}


def test_a_gateway_that_is_gone_goes_to_zero() -> None:
    """The last unknown outcome of a gateway configured no more is settled: no page stays."""
    metrics = Metrics()
    left = a_session(gateway="gone", state=State.INTERRUPTED, outcome=Outcome.UNKNOWN)
    metrics.show_sessions([left], ["stripe"], NOW)
    assert unknown(metrics) == {("gone",): 1}
    metrics.show_sessions([], ["stripe"], NOW)
    assert unknown(metrics) == {}
    assert samples(metrics.registry, "holdfast_sessions_active")["gone", "INTERRUPTED"] == 0


SESSIONS = st.lists(
    st.builds(
        a_session,
        st.integers(1, 9),
        gateway=st.sampled_from(["stripe", "plain", "gone", None]),
        state=st.sampled_from(State),
        outcome=st.sampled_from(Outcome),
        started_at=st.integers(NOW - 10_000, NOW),
        durable=st.booleans(),
        in_flight=st.booleans(),
    )
)


@given(st.lists(SESSIONS, min_size=1, max_size=5))
def test_gauges_cannot_drift(history: list[list[Session]]) -> None:
    """Whatever was shown before, what is shown now is what the sessions are now."""
    used, fresh = Metrics(), Metrics()
    for sessions in history:
        used.show_sessions(sessions, ["stripe"], NOW, walked={"ps_3"})
    fresh.show_sessions(history[-1], ["stripe"], NOW, walked={"ps_3"})
    for name in (
        "holdfast_sessions_active",
        "holdfast_unknown_outcomes",
        "holdfast_unknown_outcome_oldest_seconds",
    ):
        now, wanted = samples(used.registry, name), samples(fresh.registry, name)
        assert {k: v for k, v in now.items() if v} == {k: v for k, v in wanted.items() if v}
        assert wanted.keys() <= now.keys()


# --- over HTTP ------------------------------------------------------------------------------------

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


async def scraped(holdfast: Running, accept: str = "text/plain") -> tuple[str, str]:
    """What /metrics answers: content type and text."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{holdfast.admin}/metrics", headers={"Accept": accept}) as answer,
    ):
        assert answer.status == 200
        return answer.headers["Content-Type"], await answer.text()


def families(text: str) -> Iterator[tuple[str, dict[str, str], float, Any]]:
    """Every sample of an OpenMetrics text, read by a strict parser."""
    read: Any = text_string_to_metric_families  # it has no types
    for family in read(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value, sample.exemplar


def total(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    return sum(
        value
        for sample, found, value, _ in families(text)
        if sample == name and labels.items() <= found.items()
    )


async def test_the_exposition_is_clean(tmp_path: Path) -> None:
    """`promtool check metrics` has nothing to say about a real one, not even as a hint."""
    faulty = SimulatedGateway(FaultPlan(interruptions=0.3))
    async with (
        simulated(faulty) as gateway,
        running(tmp_path, policy(gateway, HURRIED)) as holdfast,
    ):
        await pay_all(Shop(holdfast.url, 30.0, send_order=True), 30, 10, Takings())
        kind, text = await scraped(holdfast)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    done = run("promtool", "check", "metrics", stdin=text)
    assert (done.returncode, done.stdout) == (0, "")
    assert "_created" not in text


async def test_openmetrics_has_exemplars_of_interrupted_payments(tmp_path: Path) -> None:
    """A slow bucket leads to a session, and only interrupted ones are named."""
    faulty = SimulatedGateway(FaultPlan(interruptions=0.3))
    async with (
        simulated(faulty) as gateway,
        running(tmp_path, policy(gateway, HURRIED)) as holdfast,
    ):
        await pay_all(Shop(holdfast.url, 30.0, send_order=True), 40, 10, Takings())
        kind, text = await scraped(holdfast, OPENMETRICS)
        named = {
            (name, tuple(exemplar.labels), exemplar.labels["session_id"])
            for name, _, _, exemplar in families(text)
            if exemplar is not None
        }
        assert kind.startswith(OPENMETRICS)
        assert {(name, labels) for name, labels, _ in named} == {
            ("holdfast_session_seconds_bucket", ("session_id",))
        }
        async with aiohttp.ClientSession() as http:
            for _, _, session in named:
                async with http.get(f"{holdfast.api}/session/{session}") as answer:
                    stops = (await answer.json())["metadata"]["interruptions"]
                    assert stops != []


async def test_metrics_agree_with_the_gateways_own_count(tmp_path: Path) -> None:
    """Charges, sends and requests as Holdfast counts them are those that happened."""
    faulty = SimulatedGateway(FaultPlan(seed=5, interruptions=0.3))
    more = HURRIED + "shutdown: {drain: 1s}\n"
    async with simulated(faulty) as gateway, running(tmp_path, policy(gateway, more)) as holdfast:
        await pay_all(Shop(holdfast.url, 30.0, send_order=True), 60, 10, Takings())
        _, text = await scraped(holdfast, OPENMETRICS)
    charged = set(faulty.ledger.per_order())
    settled = total(text, "holdfast_sessions_total", outcome="charged")
    left_open = total(text, "holdfast_unknown_outcomes")
    sends = total(text, "holdfast_attempts_total")
    never_left = total(text, "holdfast_attempts_total", result="not_sent")
    first_sends = 60
    assert settled <= len(charged) <= settled + left_open
    assert sends - never_left == faulty.arrivals.total()
    assert total(text, "holdfast_session_seconds_count") == first_sends
    assert total(text, "holdfast_attempt_seconds_count") == sends
    assert sends == first_sends + total(text, "holdfast_retries_total")
    recovered = total(text, "holdfast_sessions_recovered_total")
    assert 0 < recovered <= total(text, "holdfast_interruptions_total")


async def test_labels_come_from_the_policy_alone(tmp_path: Path) -> None:
    """A hundred paths and names that nobody configured add no series."""
    async with (
        simulated(SimulatedGateway()) as gateway,
        running(tmp_path, policy(gateway)) as holdfast,
        aiohttp.ClientSession() as http,
    ):
        for number in range(100):
            url = f"{holdfast.url}/nobody/knows/{number}?q={number}"
            method = ("GET", "POST", "PUT", "DELETE")[number % 4]
            named = {"X-Payment-Order-Id": f"o{number}", "X-Payment-User-Id": f"u{number}"}
            async with http.request(method, url, headers=named) as answer:
                await answer.read()
        _, text = await scraped(holdfast, OPENMETRICS)
    routes = {labels["route"] for _, labels, _, _ in families(text) if "route" in labels}
    gateways = {labels["gateway"] for _, labels, _, _ in families(text) if "gateway" in labels}
    assert routes == {"read", "other"}
    assert gateways == {"gateway", "none"}


@pytest.mark.parametrize("full", [False, True])
async def test_ready_is_what_readyz_says(tmp_path: Path, *, full: bool) -> None:
    """The gauge goes to 0 with the readiness probe, and comes back with it."""
    async with (
        simulated(SimulatedGateway()) as gateway,
        running(tmp_path, policy(gateway)) as holdfast,
        aiohttp.ClientSession() as http,
    ):
        store: Any = holdfast.holdfast._store
        store._full = full  # as after a commit that found no space
        async with http.get(f"{holdfast.admin}/readyz") as answer:
            assert answer.status == (503 if full else 200)
        _, text = await scraped(holdfast, OPENMETRICS)
        assert total(text, "holdfast_ready") == (0 if full else 1)
        store._full = False
        _, text = await scraped(holdfast, OPENMETRICS)
        assert total(text, "holdfast_ready") == 1


async def test_every_live_state_is_shown_from_the_start(tmp_path: Path) -> None:
    """A gauge that is 0 is there as 0, so that a graph begins where the process does."""
    async with (
        simulated(SimulatedGateway()) as gateway,
        running(tmp_path, policy(gateway)) as holdfast,
    ):
        _, text = await scraped(holdfast, OPENMETRICS)
    shown = {
        labels["state"]: value
        for name, labels, value, _ in families(text)
        if name == "holdfast_sessions_active" and labels["gateway"] == "gateway"
    }
    assert shown == dict.fromkeys(LIVE, 0.0)
