"""After what Holdfast repeats by itself (`retry.on`), and the risk that an operator may take.

The gateway here knows no keys: whatever reaches it charges, so what it has seen is its ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.core.events import RetrySuppressed
from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.settings.load import ConfigError
from proxy.upstream.scripted import Step
from tests.support.clocks import LoopClock
from tests.support.lab import DECLINED, POLICY, SUCCEEDED, Lab, SharedStore, pay, settings_from

pytestmark = pytest.mark.looptime

_RISK = "on: [not_sent, attempt_timeout, reset_before_answer], risk: may_charge_twice"


def lab_with(
    folder: Path, retry: str, *, gateway: str = "", store: SharedStore | None = None
) -> Lab:
    """The lab, where route `payment` of the gateway `plain` has this `retry`."""
    route = 'name: payment, match: {methods: [POST], path: "/**"}'
    more = f"profile: generic, {gateway} routes: [{{{route}, retry: {{{retry}}}}}],"
    text = POLICY.replace("profile: generic,", more)
    return Lab(settings_from(text, folder), store)


def suppressed(lab: Lab) -> list[str]:
    """Why attempts were not repeated."""
    return [f.reason for f in lab.notes.of(RetrySuppressed) if isinstance(f, RetrySuppressed)]


# --- what is not named is not repeated ----------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "sends"),
    [
        ("[connect]", 1),
        ("[not_sent, rate_limited]", 1),
        ("[{status: [502]}]", 1),
        ("[{status: [5xx]}]", 2),
        ("[{status: [500, 503]}, connect]", 2),
        ("null", 2),
    ],
)
async def test_only_what_is_named_is_repeated(tmp_path: Path, on: str, sends: int) -> None:
    """A 503 of a gateway that keeps keys is repeated where its status is named."""
    lab = lab_with(tmp_path, f"on: {on}", gateway="idempotency: {class: A_strong},")
    lab.gateway.will(lab.gateway.answers(503, b"busy"), lab.gateway.answers(200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert len(lab.gateway.seen) == sends
    assert answer.status == (503 if sends == 1 else 200)
    assert suppressed(lab) == (["not_in_policy"] if sends == 1 else [])
    await lab.close()


async def test_a_repeat_of_the_client_is_not_one_of_holdfasts_own(tmp_path: Path) -> None:
    """Where nothing but a failed connection is repeated, whoever brings the key again is sent."""
    lab = lab_with(tmp_path, "on: [connect]", gateway="idempotency: {class: A_strong},")
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    first = await lab.merchant_sends(pay(key="k-1"), "plain")
    again = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (first.status, again.status) == (504, 200)
    await lab.close()


@pytest.mark.parametrize(
    ("on", "sends"),
    [("[connect]", 1), ("[attempt_timeout]", 1), ("[reset_before_answer]", 2), ("null", 2)],
)
async def test_nor_is_it_repeated_in_the_background(tmp_path: Path, on: str, sends: int) -> None:
    """What the reconciler sends again where there is no look-up is Holdfast's own repeat too."""
    retry = f"on: {on}, max_attempts: 3, automatic_attempts: 1"
    lab = lab_with(tmp_path, retry, gateway="idempotency: {class: A_strong},")
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"), "plain")
    for _ in range(60):
        await asyncio.sleep(1)
        await lab.reconciler.run_once()
    assert len(lab.gateway.seen) == sends
    await lab.close()


# --- the risk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [Reason.ATTEMPT_TIMEOUT, Reason.CONNECTION_LOST])
async def test_what_may_have_charged_is_not_sent_again(tmp_path: Path, reason: Reason) -> None:
    """Without the risk one charge reaches the gateway, and nobody is told that it did not."""
    lab = lab_with(tmp_path, "on: [not_sent]")
    lab.gateway.will(lab.gateway.loses_answer(reason))
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert lab.transcript[-1] == "answer 504 outcome-unknown"
    assert (len(lab.gateway.seen), suppressed(lab)) == (1, ["unsafe_to_repeat"])
    assert (await lab.session(answer)).outcome is Outcome.UNKNOWN
    await lab.close()


@pytest.mark.parametrize("reason", [Reason.ATTEMPT_TIMEOUT, Reason.CONNECTION_LOST])
async def test_at_risk_it_is_charged_twice(tmp_path: Path, reason: Reason) -> None:
    """The negative control: the same with the risk, and the gateway has charged two times."""
    lab = lab_with(tmp_path, _RISK)
    lab.gateway.will(lab.gateway.loses_answer(reason), lab.gateway.answers(200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (answer.status, len(lab.gateway.seen)) == (200, 2)
    session = await lab.session(answer)
    assert (session.state, session.at_risk) == (State.COMPLETED, True)
    await lab.close()


async def test_so_it_is_where_there_is_no_key_at_all(tmp_path: Path) -> None:
    """The risk is not about a key: the same bytes go out again, and charge again."""
    lab = lab_with(tmp_path, _RISK, gateway="idempotency: {key: {nowhere: true}},")
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(), "plain")
    first, again = lab.gateway.seen
    assert (answer.status, first.headers, first.body) == (200, again.headers, again.body)
    await lab.close()


@pytest.mark.parametrize(
    "fails",
    [
        pytest.param(lambda g: g.answers(503, b"busy"), id="503"),
        pytest.param(lambda g: g.answers(409, b"{}"), id="409"),
        pytest.param(lambda g: g.loses_answer(Reason.ANSWER_TRUNCATED), id="cut"),
    ],
)
async def test_the_risk_is_for_what_is_named_only(
    tmp_path: Path, fails: Callable[[object], Step]
) -> None:
    """Whatever else may have charged is not sent again."""
    lab = lab_with(tmp_path, _RISK)
    lab.gateway.will(fails(lab.gateway))
    await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (len(lab.gateway.seen), suppressed(lab)) == (1, ["not_in_policy"])
    await lab.close()


async def test_the_risk_is_for_its_route_only(tmp_path: Path) -> None:
    """Another route of the same gateway sends what may have charged once."""
    policy = POLICY.replace(
        "profile: generic,",
        "profile: generic, routes: [{name: one, match: {methods: [POST], path: /one}, "
        f"session: durable, retry: {{{_RISK}}}}}],",
    )
    lab = Lab(settings_from(policy, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1", target="/two"), "plain")
    assert (len(lab.gateway.seen), suppressed(lab)) == (1, ["unsafe_to_repeat"])
    await lab.close()


async def test_who_brings_it_again_takes_no_risk(tmp_path: Path) -> None:
    """The risk is for Holdfast's own repeats: the client's repeat, a resume and time send none."""
    lab = lab_with(tmp_path, f"{_RISK}, automatic_attempts: 2, max_attempts: 9")
    lab.gateway.will(*[lab.gateway.loses_answer()] * 2)
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert len(lab.gateway.seen) == 2
    again = await lab.merchant_sends(pay(key="k-1"), "plain")
    session = await lab.session(answer)
    assert not lab.pipeline.resume(lab.lanes["plain"], session)
    for _ in range(60):
        await asyncio.sleep(1)
        await lab.reconciler.run_once()
    assert (again.status, len(lab.gateway.seen)) == (504, 2)
    assert (await lab.session(answer)).review_required
    await lab.close()


@pytest.mark.parametrize(("more", "sends"), [("", 1), ("automatic_attempts: 4,", 4)])
async def test_a_walk_that_a_repeat_began_takes_no_risk(
    tmp_path: Path, more: str, sends: int
) -> None:
    """What was not sent at first goes out when the client brings it again, and then once only."""
    retry = f"{_RISK}, max_attempts: 6, {more or 'automatic_attempts: 1,'} backoff: {{max: 1s}}"
    lab = lab_with(tmp_path, retry)
    first = [lab.gateway.refuses_connection()] if not more else []
    lab.gateway.will(*first, *[lab.gateway.loses_answer()] * 4)
    if first:
        await lab.merchant_sends(pay(key="k-1"), "plain")
        assert lab.transcript[-1] == "answer 502 not-sent"
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (answer.status, len(lab.gateway.seen)) == (504, sends)
    await lab.close()


async def test_after_a_restart_no_risk_is_taken(tmp_path: Path) -> None:
    """A process died over the first send: the next one lists it, and sends nothing."""
    store = SharedStore(LoopClock(), [])
    died = lab_with(tmp_path, _RISK, store=store)  # it is stopped, rather, and wakes up too late
    died.gateway.will(died.gateway.hangs(), died.gateway.answers(200, SUCCEEDED))
    request = asyncio.ensure_future(died.merchant_sends(pay(key="k-1"), "plain"))
    await asyncio.sleep(1)
    request.cancel()
    lab = lab_with(tmp_path, _RISK, store=SharedStore(LoopClock(), [], store))
    for _ in range(30):
        await asyncio.sleep(1)
        await lab.store.heartbeat()
        await lab.reconciler.take_over()
        await lab.reconciler.run_once()
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (answer.status, lab.gateway.seen, len(died.gateway.seen)) == (504, [], 1)
    await lab.close()
    await died.close()


@pytest.mark.parametrize(("paused", "sends"), [(True, 1), (False, 2)])
async def test_what_may_have_been_taken_over_is_not_sent_again(
    tmp_path: Path, paused: bool, sends: int
) -> None:
    """A process that lost its lease in its backoff, and has a new one, takes no risk any more."""
    retry = f"{_RISK}, backoff: {{initial: 15s, max: 15s, jitter: none}}"
    lab = lab_with(tmp_path, retry, store=SharedStore(LoopClock(), []))
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1"), "plain"))
    await asyncio.sleep(6)
    if not paused:
        await lab.store.heartbeat()
    await asyncio.sleep(6)
    await lab.store.heartbeat()
    answer = await request
    assert (answer.status, len(lab.gateway.seen)) == (200 if sends == 2 else 504, sends)
    await lab.close()


# --- what is known afterwards ---------------------------------------------------------------------


async def test_a_decline_at_risk_says_nothing_of_the_first_send(tmp_path: Path) -> None:
    """The first send may have charged: nobody hears "declined", and it is listed for a person."""
    lab = lab_with(tmp_path, _RISK)
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(402, DECLINED))
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert lab.transcript[-1] == "answer 504 outcome-unknown"
    session = await lab.session(answer)
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)
    statuses = [attempt.status for attempt in session.attempts]
    assert statuses == [AttemptStatus.UNKNOWN, AttemptStatus.DECLINED]
    await lab.close()


async def test_where_keys_are_honoured_a_decline_speaks_for_both(tmp_path: Path) -> None:
    """The control: a gateway that keeps keys would have given the first answer again."""
    lab = lab_with(tmp_path, "on: null", gateway="idempotency: {class: A_strong},")
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(402, DECLINED))
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (answer.status, answer.body) == (402, DECLINED)
    assert (await lab.session(answer)).state is State.DECLINED
    await lab.close()


async def test_nor_does_one_that_comes_late(tmp_path: Path) -> None:
    """Both sends outlast their time, and the second one's decline arrives afterwards."""
    lab = lab_with(tmp_path, f"{_RISK}, automatic_attempts: 2")
    late = lab.gateway.answers_too_late(20, 402, DECLINED)
    lab.gateway.will(lab.gateway.loses_answer(), late)
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    await asyncio.sleep(60)
    session = await lab.session(answer)
    assert [attempt.status for attempt in session.attempts][1] is AttemptStatus.DECLINED
    assert session.outcome is Outcome.UNKNOWN
    await lab.close()


async def test_only_a_charge_settles_it_from_outside(tmp_path: Path) -> None:
    """A webhook that tells of a failure is about one of the sends; one of a charge is the truth."""
    lab = lab_with(tmp_path, f"{_RISK}, automatic_attempts: 2")
    lab.gateway.will(*[lab.gateway.loses_answer()] * 2)
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    session, lane = await lab.session(answer), lab.lanes["plain"]
    key = session.gateway_key or ""
    await asyncio.sleep(300)  # the gateway is done with it

    async def heard(status: AttemptStatus) -> Session:
        return await lab.reconcile.learn(lane, session, status, "evt_1", key=key)

    for status in (AttemptStatus.DECLINED, AttemptStatus.VOIDED, AttemptStatus.ACCEPTED):
        assert (await heard(status)).outcome is Outcome.UNKNOWN
    assert (await heard(AttemptStatus.SUCCEEDED)).outcome is Outcome.CHARGED
    await lab.close()


async def test_a_look_up_settles_it_by_a_charge_only(tmp_path: Path) -> None:
    """A payment that is found canceled is one of the sends; the other may have charged."""
    route = "name: create-payment, match: {methods: [POST], path: /v1/payment_intents}"
    more = f"profile: stripe, idempotency: {{class: D_none}}, routes: [{{{route}, "
    retry = f"retry: {{{_RISK}, automatic_attempts: 2, max_attempts: 9}}}}],"
    lab = Lab(settings_from(POLICY.replace("profile: stripe,", more + retry), tmp_path))
    lab.gateway.will(*[lab.gateway.loses_answer()] * 2)
    await lab.merchant_sends(pay(key="k-1"))
    caused = (
        b'{"id":"evt_1","request":{"idempotency_key":"k-1"},'
        b'"data":{"object":{"object":"payment_intent","id":"pi_7"}}}'
    )
    event = b'{"data":[%s],"has_more":false}' % caused
    for status, outcome in ((b"canceled", Outcome.UNKNOWN), (b"succeeded", Outcome.CHARGED)):
        await asyncio.sleep(300)  # the gateway is done with it
        intent = b'{"id":"pi_7","object":"payment_intent","status":"%s"}' % status
        lab.gateway.will(lab.gateway.answers(200, event), lab.gateway.answers(200, intent))
        await lab.merchant_sends(pay(key="k-1"))
        assert (await lab.only_session()).outcome is outcome
    assert [send.method for send in lab.gateway.seen] == ["POST"] * 2 + ["GET"] * 4
    await lab.close()


async def test_the_risk_is_not_taken_by_a_name_alone(tmp_path: Path) -> None:
    """Without it these conditions do not load: told are the class and what would happen."""
    with pytest.raises(ConfigError, match=r"could charge twice: after attempt_timeout .*D_none"):
        lab_with(tmp_path, "on: [attempt_timeout]")
