"""A slice of `./dev campaign simulate`. That it has teeth is shown in test_mutants.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import cycle

import pytest
from msgspec.structs import replace as with_

from proxy.core.policy import Condition, RoutePolicy
from proxy.core.profile import GatewayClass
from proxy.core.refusals import Refusal
from proxy.core.routing import route_table
from proxy.core.wire import Answer, InboundRequest
from proxy.flow.pipeline import Pipeline
from proxy.flow.walk import Walk
from proxy.settings.values import Settings
from tests.campaigns.checker import judge
from tests.campaigns.sim import world
from tests.campaigns.sim.clients import SimClient
from tests.campaigns.sim.plan import Mishap, Moment, Plan, Trouble, plan_of
from tests.campaigns.sim.shrink import shrink
from tests.campaigns.sim.sidecar import settings_of
from tests.campaigns.sim.world import World
from tests.campaigns.simulate import play, simulate

SEEDS = 20_000


def test_many_seeds() -> None:
    """Crashes, faults, repeats, cancels: nothing charged twice, nothing told wrongly or lost."""
    assert simulate(range(SEEDS)) == {}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """While things go wrong, every client says how long it waits."""
    request, patient = SimClient._request, SimClient.ask_until_it_knows
    waits = cycle(("60", "200", "400", "900", "2000", "6000"))

    def says_it(client: SimClient, amount: str = "1999") -> InboundRequest:
        made = request(client, amount)
        return with_(made, values={**made.values, "x-envoy-expected-rq-timeout-ms": next(waits)})

    async def in_the_end(client: SimClient) -> None:
        monkeypatch.setattr(client, "_request", lambda: request(client))
        await patient(client)

    monkeypatch.setattr(SimClient, "_request", says_it)
    monkeypatch.setattr(SimClient, "ask_until_it_knows", in_the_end)


# A process that dies closes what it had begun and not run yet.
_CLOSED = "ignore:coroutine .* was never awaited:RuntimeWarning"


@pytest.mark.usefixtures("hurried")
@pytest.mark.filterwarnings(_CLOSED)
def test_callers_that_say_how_long_they_wait() -> None:
    """Many are answered before their payment is done, and it is charged once all the same."""
    given_up = 0
    for seed in range(250):
        history = World(plan_of(seed)).run()
        assert judge(history) == [], seed
        given_up += sum(b"/wait-over" in told.body for told in history.told)
    assert given_up > 200


@pytest.mark.usefixtures("hurried")
@pytest.mark.filterwarnings(_CLOSED)
def test_time_being_up_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: told as a failure, it is charged again under another key."""

    def failed(pipeline: Pipeline, walk: Walk) -> Answer:
        return pipeline.refuse(walk.lane, Refusal.RETRIES_EXHAUSTED, walk.session)

    monkeypatch.setattr(Pipeline, "_wait_over", failed)
    found = {violation.name for seed in range(100) for violation in play(plan_of(seed))}
    assert "I1" in found


def test_a_seed_is_a_run() -> None:
    """The same seed is the same run, word for word."""
    first: list[str] = []
    second: list[str] = []
    play(plan_of(7), first.append)
    play(plan_of(7), second.append)
    assert first == second
    assert first != []


def test_what_can_happen_happens() -> None:
    """The plans of a slice hold every kind of crash, store trouble and fault, and money moves."""
    plans = [plan_of(seed) for seed in range(6000)]
    crashes = {crash.moment for plan in plans for crash in plan.crashes}
    assert crashes == set(Moment) - {Moment.CONNECTING}
    incidents = [i for plan in plans if plan.shared is not None for i in plan.shared.incidents]
    assert {incident.mishap for incident in incidents} == set(Mishap)
    assert Moment.CONNECTING in {incident.moment for incident in incidents}
    assert {trouble.trouble for plan in plans for trouble in plan.store} == set(Trouble)
    met = Counter(fate.name for plan in plans for p in plan.payments for fate in p.fates)
    assert len(met) == 19
    histories = [World(plan).run() for plan in plans[:50]]
    assert sum(len(history.charges) for history in histories) > 30
    assert sum(len(history.sent) for history in histories) > 60


def test_a_plan_is_made_smaller() -> None:
    """What is not needed is left out; what is needed stays."""

    def has_two_fates(plan: Plan) -> bool:
        return sum(len(payment.fates) for payment in plan.payments) >= 2

    plan = next(p for p in map(plan_of, range(100)) if has_two_fates(p) and len(p.crashes) > 1)
    smaller = shrink(plan, has_two_fates)
    assert sum(len(payment.fates) for payment in smaller.payments) == 2
    assert (smaller.crashes, smaller.store, smaller.operations) == ((), (), ())
    assert smaller == replace(smaller, slowest_commit=0.0, seen_early=False)


# A second charge, that it was sent in doubt and is in the ledger; and a decline that is no proof.
_RISKED = {"I1", "I11", "I5", "I10"}


def test_at_risk_it_charges_twice_and_nobody_is_told_a_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every route takes every risk: customers are charged twice, and nothing else goes wrong."""
    monkeypatch.setattr(world, "settings_of", lambda policy: at_risk(settings_of(policy)))
    found = {violation.name for seed in range(200) for violation in play(plan_of(seed))}
    assert "I1" in found
    assert found <= _RISKED


def at_risk(settings: Settings) -> Settings:
    """The same where what may have charged is repeated, whatever the gateway promises."""
    on = (*Condition, ((100, 599),))

    def risky(route: RoutePolicy) -> RoutePolicy:
        return replace(route, retry=replace(route.retry, on=on, may_charge_twice=True))

    gateways = {
        name: replace(
            gateway,
            routes=route_table(
                tuple(risky(route) for _, route in gateway.routes.routes),
                read=gateway.routes.read,
                other=gateway.routes.other,
            ),
        )
        for name, gateway in settings.gateways.items()
        if gateway.profile.gateway_class is not GatewayClass.A_STRONG
    }
    return replace(settings, gateways={**settings.gateways, **gateways})


def test_two_replicas_share_the_payments() -> None:
    """Both send, what one had in flight is taken over by the other, and some lose their lease."""
    histories = [World(plan_of(seed)).run() for seed in range(0, 150, 3)]
    versions = [after for history in histories for _, after in history.versions]
    epochs = {attempt.epoch for session in versions for attempt in session.attempts}
    assert {1, 2} < epochs
    assert any(session.timeline[-1].event == "ProcessRestarted" for session in versions)
