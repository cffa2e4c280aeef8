"""The attempt loop where things go wrong: stores, drains, cancels, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.core.events import EvidenceFound, EvidenceSource, RetrySuppressed
from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import Answer, InboundRequest, Phase, WireFacts
from proxy.flow.journal import Change
from proxy.flow.walk import Body, Lane
from proxy.ports import Send, StoreUnavailable
from proxy.upstream.scripted import Step
from tests.support.lab import DECLINED, POLICY, SUCCEEDED, Lab, header_of, pay, settings_from

pytestmark = pytest.mark.looptime


def suppressed(lab: Lab) -> list[str]:
    """Why attempts were not repeated."""
    return [f.reason for f in lab.notes.of(RetrySuppressed) if isinstance(f, RetrySuppressed)]


# --- the store ---------------------------------------------------------------------------------


async def test_without_an_intent_nothing_leaves(lab: Lab) -> None:
    """The store cannot record the intent: not a byte is sent, and the answer says so."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    lab.store.failing = True
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript == ["answer 503 store-unavailable"]
    assert lab.gateway.seen == []
    assert b'"anythingSent":false' in answer.body
    assert b'"safeToRepeat":true' in answer.body


async def test_without_an_outcome_the_truth_is_told_and_saved_later(lab: Lab) -> None:
    """The store fails after the charge: the backend gets the gateway's answer, the store later."""
    lab.gateway.will(charging(lab, break_store(lab)))
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert (answer.status, answer.body) == (200, SUCCEEDED)
    assert header_of(answer, "X-Payment-Durability") == "pending"
    # The store still says that a send is out, so nobody can send it a second time.
    stored = await lab.only_session()
    assert stored.in_flight
    lab.store.failing = False
    await asyncio.sleep(2)
    stored = await lab.only_session()
    assert (stored.state, stored.outcome) == (State.COMPLETED, Outcome.CHARGED)
    replay = await lab.merchant_sends(pay(key="k-1"))
    assert replay.body == SUCCEEDED


async def test_while_the_outcome_is_not_saved_a_repeat_hears_it_again(lab: Lab) -> None:
    """Only this process can tell; whoever asks gets the same answer, and nothing is sent."""
    lab.gateway.will(charging(lab, break_store(lab)))
    first = await lab.merchant_sends(pay(key="k-1"))
    again = await lab.merchant_sends(pay(key="k-1"))
    assert (again.status, again.body) == (first.status, first.body)
    assert header_of(again, "X-Payment-Durability") == "pending"
    assert header_of(again, "Idempotent-Replayed") == "true"
    await lab.merchant_sends(pay(key="k-1", body=b"amount=2999"))
    assert lab.transcript[-1] == "answer 400 idempotency-key-reused"
    lab.store.failing = False
    await asyncio.sleep(2)
    saved = await lab.merchant_sends(pay(key="k-1"))
    assert saved.body == SUCCEEDED
    assert "X-Payment-Durability" not in dict(saved.headers)
    assert len(lab.gateway.seen) == 1


def charging(lab: Lab, meanwhile: Callable[[], None]) -> Step:
    """A gateway that charges, with something happening just before its answer arrives."""

    async def after(_send: Send) -> WireFacts:
        meanwhile()
        return WireFacts(sent=True, phase=Phase.ANSWERED, status=200, body=SUCCEEDED)

    return lab.gateway.connected(after)


def break_store(lab: Lab) -> Callable[[], None]:
    """From now on the store takes nothing."""

    def do() -> None:
        lab.store.failing = True

    return do


async def test_a_deadline_that_passes_on_the_way_to_the_gateway(lab: Lab) -> None:
    """Connecting took until after the session's end: nothing is sent, and it has expired."""

    async def connecting(send: Send) -> WireFacts:
        await asyncio.sleep(16 * 60)
        return await lab.gateway.answers(200, SUCCEEDED)(send)

    lab.gateway.will(connecting)
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript == ["store  Expired EXPIRED/not_charged", "answer 410 session-expired"]
    assert lab.gateway.seen == []
    assert (await lab.session(answer)).state is State.EXPIRED


# --- stopping ----------------------------------------------------------------------------------


async def test_drain_lets_payments_finish(lab: Lab) -> None:
    """What is with the gateway when the drain begins may come to its end."""
    lab.gateway.will(lab.gateway.answers_late(5, 200, SUCCEEDED))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    await lab.pipeline.drain(15)
    assert (await request).status == 200


async def test_drain_waits_for_payments_not_for_their_clients(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that has half of a next request on its way holds up the task, but not the stop."""
    handle = lab.pipeline.handle

    async def held(lane: Lane, request: InboundRequest, body: Body) -> Answer:
        answer = await handle(lane, request, body)
        await asyncio.sleep(60)
        return answer

    monkeypatch.setattr(lab.pipeline, "handle", held)
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    begun = asyncio.get_running_loop().time()
    await lab.pipeline.drain(15)
    assert asyncio.get_running_loop().time() - begun < 3
    assert (await lab.only_session()).state is State.COMPLETED
    request.cancel()


async def test_drain_records_what_it_cuts_off(lab: Lab) -> None:
    """A payment that outlasts the drain is unknown, interrupted by the shutdown, and durable."""
    lab.gateway.will(lab.gateway.hangs())
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    await lab.pipeline.drain(2)
    answer = await request
    assert lab.transcript[-2:] == [
        "store  AttemptEnded INTERRUPTED/unknown",
        "answer 504 outcome-unknown",
    ]
    session = await lab.session(answer)
    assert [stop.reason for stop in session.interruptions] == [Reason.SHUTDOWN]
    assert suppressed(lab) == ["draining"]


async def test_drain_ends_a_backoff_at_once(lab: Lab) -> None:
    """Nothing is out during a backoff, so nothing is waited for."""
    lab.dice.value = 0.99
    lab.gateway.will(lab.gateway.answers(503, b"", (("Retry-After", "5"),)))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    begun = lab.clock.monotonic()
    await lab.pipeline.drain(15)
    assert lab.clock.monotonic() == begun
    session = await lab.session(await request)
    assert [stop.reason for stop in session.interruptions] == [
        Reason.GATEWAY_ERROR,
        Reason.SHUTDOWN,
    ]


async def test_a_look_up_that_the_drain_cuts_off_leaves_the_outcome_unknown(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited for a look-up is told what is known, not that nothing was sent."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1"), "plain")

    async def never(*_: object) -> Session:
        await asyncio.sleep(3600)
        raise AssertionError

    monkeypatch.setattr(lab.reconcile, "once", never)
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1"), "plain"))
    await asyncio.sleep(1)
    await lab.pipeline.drain(2)
    answer = await request
    assert lab.transcript[-1] == "answer 504 outcome-unknown"
    assert b'"anythingSent":true' in answer.body


async def test_a_look_up_without_a_store_leaves_the_outcome_unknown(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails during a look-up does not turn unknown into "nothing was sent"."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1"), "plain")

    async def no_store(*_: object) -> Session:
        raise StoreUnavailable

    monkeypatch.setattr(lab.reconcile, "once", no_store)
    await lab.merchant_sends(pay(key="k-1"), "plain")
    assert lab.transcript[-1] == "answer 504 outcome-unknown"


async def test_nothing_new_is_sent_while_draining(lab: Lab) -> None:
    """A request that comes during the drain is told to come back."""
    await lab.pipeline.drain(0)
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript == ["answer 503 shutting-down"]


# --- people ------------------------------------------------------------------------------------


async def test_a_cancel_during_backoff_stops_the_next_send(lab: Lab) -> None:
    """Cancelled while waiting to retry, and provably not charged: nothing more leaves."""
    lab.dice.value = 0.99
    lab.gateway.will(
        lab.gateway.answers(429, b"", (("Retry-After", "5"),)), lab.gateway.answers(200, SUCCEEDED)
    )
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    session, now = await lab.commands.cancel("ps_0001", "the shopper left")
    assert now
    answer = await request
    assert lab.transcript[-1] == "answer 409 session-cancelled"
    assert len(lab.gateway.seen) == 1
    assert (await lab.session(answer)).attempts == session.attempts


@pytest.mark.parametrize(
    ("status", "body", "state", "outcome"),
    [
        (200, SUCCEEDED, State.COMPLETED, Outcome.CHARGED),
        (402, DECLINED, State.CANCELLED, Outcome.NOT_CHARGED),
        (429, b"", State.CANCELLED, Outcome.NOT_CHARGED),
        (500, b"", State.INTERRUPTED, Outcome.UNKNOWN),
    ],
)
async def test_a_cancel_in_flight_waits_for_the_truth(
    lab: Lab, status: int, body: bytes, state: State, outcome: Outcome
) -> None:
    """The socket is kept: charged wins over the cancel, not charged makes it one, unknown stays."""
    lab.gateway.will(lab.gateway.answers_late(3, status, body))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    _, now = await lab.commands.cancel("ps_0001", "the shopper left")
    assert not now
    await request
    assert len(lab.gateway.seen) == 1
    session = await lab.only_session()
    assert (session.state, session.outcome) == (state, outcome)


async def test_a_hold_in_flight_keeps_the_socket_and_stops_repeats(lab: Lab) -> None:
    """Interrupted by a person while it is out: the answer still counts, a repeat is not made."""
    lab.gateway.will(lab.gateway.answers_late(3, 503, b""))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    session, in_flight = await lab.commands.interrupt("ps_0001", "let me look")
    assert (session.state, in_flight) == (State.INTERRUPTED, True)
    await request
    assert len(lab.gateway.seen) == 1
    assert suppressed(lab) == ["held"]
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 409 session-held"


async def test_an_answer_to_a_held_session_still_counts(lab: Lab) -> None:
    """Evidence is never refused: a held payment that was charged is COMPLETED."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    await lab.commands.interrupt("ps_0001", "let me look")
    assert (await request).status == 200
    assert (await lab.only_session()).state is State.COMPLETED


# --- many at once ------------------------------------------------------------------------------


async def test_walks_do_not_share_a_loop(tmp_path: Path) -> None:
    """Fifty payments that each fail once and then succeed, all at the same time."""
    lab = Lab(settings_from(POLICY + "  breaker: {min_calls: 1000}\n", tmp_path))
    calls = 50
    seen: set[str] = set()

    async def fail_first(send: Send) -> WireFacts:
        key = dict(send.headers)["Idempotency-Key"]
        if key in seen:
            return WireFacts(sent=True, phase=Phase.ANSWERED, status=200, body=SUCCEEDED)
        seen.add(key)
        await asyncio.sleep(0.1)
        return WireFacts(sent=True, phase=Phase.ANSWERED, status=503, body=b"")

    lab.gateway.will(*[lab.gateway.connected(fail_first)] * (2 * calls))
    answers = await asyncio.gather(
        *(lab.merchant_sends(pay(key=f"k-{number}")) for number in range(calls))
    )
    assert [answer.status for answer in answers] == [200] * calls
    assert {header_of(answer, "X-Payment-Attempts") for answer in answers} == {"2"}
    await lab.close()


async def test_a_gateways_stop_is_obeyed(lab: Lab) -> None:
    """`Stripe-Should-Retry: false` outranks the status: no repeat, and the outcome is unknown."""
    lab.gateway.will(lab.gateway.answers(500, b"", (("Stripe-Should-Retry", "false"),)))
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert suppressed(lab) == ["gateway_says_no"]
    assert (await lab.session(answer)).outcome is Outcome.UNKNOWN


async def test_a_replayed_error_is_not_asked_for_again(lab: Lab) -> None:
    """A stored 500 never changes: asking again with the key is useless."""
    lab.gateway.will(
        lab.gateway.loses_answer(),
        lab.gateway.answers(500, b"", (("Idempotent-Replayed", "true"),)),
        lab.gateway.answers(200, b'{"data":[],"has_more":false}'),
    )
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert [send.method for send in lab.gateway.seen] == ["POST", "POST", "GET"]
    assert suppressed(lab) == ["gateway_says_no"]
    assert answer.status == 500


async def test_a_no_to_the_repeat_is_not_handed_on(lab: Lab) -> None:
    """A 409 after a lost answer is about the repeat: its backend would take it for "not paid"."""
    lab.gateway.will(lab.gateway.loses_answer(), *[lab.gateway.answers(409, b"{}")] * 2)
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 504 outcome-unknown"
    assert (await lab.session(answer)).outcome is Outcome.UNKNOWN


async def test_what_was_said_to_the_first_send_is_handed_on(lab: Lab) -> None:
    """The control: with nothing in doubt before it, the gateway's own 409 is the answer."""
    lab.gateway.will(lab.gateway.answers(409, b"{}", (("Stripe-Should-Retry", "false"),)))
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert (answer.status, answer.body) == (409, b"{}")


async def test_a_slow_disk_cannot_make_a_repeat_too_late(tmp_path: Path) -> None:
    """Recording took the rest of the time: tenacity stops before the sleep that was decided on."""
    lab = Lab(settings_from(POLICY, tmp_path))
    lab.dice.value = 0.99
    real_commit = lab.store.commit
    commits = 0

    async def slow_commit(*arguments: object) -> None:
        nonlocal commits
        commits += 1
        await real_commit(*arguments)  # type: ignore[arg-type]
        if commits == 2:
            await asyncio.sleep(29.95)

    lab.store.commit = slow_commit  # type: ignore[method-assign, assignment]
    lab.gateway.will(lab.gateway.answers(503, b"busy"))
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert answer.status == 503
    assert suppressed(lab) == ["deadline"]
    await lab.close()


async def test_the_key_of_a_payment_goes_into_the_gateways_header(lab: Lab) -> None:
    """The same key on every send of a payment, in the header the profile names."""
    lab.gateway.will(*[lab.gateway.answers(503, b"")] * 2, lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(order="o-1"))
    keys = [dict(send.headers)["Idempotency-Key"] for send in lab.gateway.seen]
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_the_key_survives_the_loss_of_the_store(tmp_path: Path) -> None:
    """Derived from who the payment is: two installs with one secret send the same key."""
    keys = []
    for _ in range(2):
        lab = Lab(settings_from(POLICY, tmp_path))
        lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
        await lab.merchant_sends(pay(order="o-1"))
        keys.append(dict(lab.gateway.seen[0].headers)["Idempotency-Key"])
        await lab.close()
    assert keys[0] == keys[1]


async def test_a_weak_gateway_gets_a_fresh_connection(lab: Lab) -> None:
    """Where a lost answer cannot be repeated, a connection that may be dying is not used."""
    lab.gateway.will(*[lab.gateway.answers(200, SUCCEEDED)] * 2)
    await lab.merchant_sends(pay(key="k-1"))
    await lab.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    assert [send.fresh_connection for send in lab.gateway.sends] == [False, True]


async def test_a_wait_that_outlasts_the_keys_life_sends_nothing(tmp_path: Path) -> None:
    """Decided inside the life of the key, due after it: by then the key would be a new charge."""
    policy = POLICY.replace("profile: stripe,", "profile: stripe, idempotency: {window: 4s},")
    policy = policy.replace("initial: 200ms", "initial: 4s, jitter: none")
    lab = Lab(settings_from(policy, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 504 outcome-unknown"
    assert len(lab.gateway.seen) == 1
    await lab.close()


async def test_a_charge_that_is_found_during_the_wait_is_the_answer(lab: Lab) -> None:
    """A look-up settles the session while its repeat rests: nothing is sent, and it is paid."""
    lab.dice.value = 0.99
    lost = lab.gateway.answers(503, b"", (("Retry-After", "5"),))
    lab.gateway.will(lost, lab.gateway.answers(200, SUCCEEDED))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    session = await lab.only_session()
    found = EvidenceFound(1, EvidenceSource.LOOKUP, AttemptStatus.SUCCEEDED, "pi_1")
    kept = Answer(200, "OK", (), SUCCEEDED)
    await lab.journal.update(session, lambda _: Change([found], kept), frozenset())
    answer = await request
    assert (answer.status, answer.body) == (200, SUCCEEDED)
    assert len(lab.gateway.seen) == 1


# --- answers that come after their time ---------------------------------------------------------


async def test_a_late_answer_settles_what_was_unknown(tmp_path: Path) -> None:
    """The backend was told "unknown"; the charge that shows up later is the truth from then on."""
    lab = Lab(settings_from(POLICY, tmp_path))
    lab.gateway.will(lab.gateway.answers_too_late(20, 200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (answer.status, (await lab.only_session()).outcome) == (504, Outcome.UNKNOWN)
    await asyncio.sleep(21)
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert lab.transcript[-2:] == [
        "wire   late answer 200",
        "store  AttemptEnded COMPLETED/charged",
    ]
    replay = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (replay.status, replay.body) == (200, SUCCEEDED)
    assert len(lab.gateway.seen) == 1
    await lab.close()


async def test_a_late_decline_frees_the_order(tmp_path: Path) -> None:
    """A "no" that comes late is a "no": told to whoever asks, and the order is free."""
    lab = Lab(settings_from(POLICY, tmp_path))
    lab.gateway.will(lab.gateway.answers_too_late(20, 402, DECLINED))
    await lab.merchant_sends(pay(key="k-1"), "plain")
    await asyncio.sleep(21)
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.DECLINED, Outcome.NOT_CHARGED)
    replay = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (replay.status, replay.body) == (402, DECLINED)
    await lab.close()


async def test_a_late_error_changes_nothing(tmp_path: Path) -> None:
    """A 500 is no answer, early or late."""
    lab = Lab(settings_from(POLICY, tmp_path))
    lab.gateway.will(lab.gateway.answers_too_late(20, 500, b"oops"))
    await lab.merchant_sends(pay(key="k-1"), "plain")
    before = await lab.only_session()
    await asyncio.sleep(21)
    assert await lab.only_session() == before
    await lab.close()


async def test_a_late_refusal_of_the_last_send_ends_the_session(tmp_path: Path) -> None:
    """Not executed, and no send is left: provably nothing is charged, and the order is free."""
    once = POLICY.replace("retry: {", "retry: {max_attempts: 1, ")
    lab = Lab(settings_from(once, tmp_path))
    lab.gateway.will(lab.gateway.answers_too_late(20, 429, b"slow down"))
    await lab.merchant_sends(pay(key="k-1"), "plain")
    await asyncio.sleep(21)
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.FAILED_MAX_RETRIES, Outcome.NOT_CHARGED)
    replay = await lab.merchant_sends(pay(key="k-1"), "plain")
    assert (replay.status, replay.body) == (429, b"slow down")
    await lab.close()


async def test_a_late_charge_after_the_cancellation_contradicts(tmp_path: Path) -> None:
    """Closed as not charged by evidence, and then the charge: it is seen, and marked as late."""
    lab = Lab(settings_from(POLICY, tmp_path))
    lab.gateway.will(lab.gateway.answers_too_late(20, 200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"), "plain")
    session = await lab.only_session()
    evidence = EvidenceFound(
        lab.clock.now_ms(), EvidenceSource.PERSON, AttemptStatus.DECLINED, "by telephone"
    )
    await lab.journal.update(session, lambda _: Change([evidence]), frozenset())
    assert (await lab.only_session()).state is State.DECLINED
    await asyncio.sleep(21)
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert session.late_evidence
    await lab.close()


async def test_a_late_answer_that_cannot_be_recorded_is_offered_again(tmp_path: Path) -> None:
    """The store is away just then: the answer is merged when it is back."""
    lab = Lab(settings_from(POLICY, tmp_path))
    lab.gateway.will(lab.gateway.answers_too_late(20, 200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"), "plain")
    lab.store.failing = True
    await asyncio.sleep(25)
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN
    lab.store.failing = False
    await asyncio.sleep(2)
    assert (await lab.only_session()).outcome is Outcome.CHARGED
    await lab.close()


ONE_BY_ONE = POLICY.replace(
    "retry: {",
    "timeouts: {attempt: 5s, total: 20s}\n"
    "  concurrency: {max_in_flight: 1, queue_timeout: 2s}\n"
    "  retry: {max_attempts: 5, automatic_attempts: 1, ",
)


@pytest.mark.parametrize("expires_after", ["21100ms", "10m"])
@pytest.mark.parametrize("drained", [True, False])
async def test_charged_while_the_next_try_waits(
    tmp_path: Path, expires_after: str, drained: bool
) -> None:
    """Whatever ends the walk then, its backend hears of the charge, not that nothing was sent."""
    policy = f"{ONE_BY_ONE}session: {{expires_after: {expires_after}}}\n"
    lab = Lab(settings_from(policy, tmp_path))
    lab.dice.value = 0.99
    lab.gateway.will(
        lab.gateway.refuses_connection(),
        lab.gateway.answers_too_late(0.05, 200, SUCCEEDED),
        lab.gateway.answers(200, b"never"),
    )
    await lab.merchant_sends(pay(key="k-1"))
    await asyncio.sleep(16)
    repeat = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(5.08)
    if drained:
        await lab.pipeline.drain(1)
    answer = await repeat
    assert (answer.status, answer.body) == (200, SUCCEEDED)
    assert len(lab.gateway.seen) == 1
    await lab.close()


async def test_charged_while_the_next_try_waits_and_then_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge is known, its answer cannot be read: told as settled, not as never sent."""
    lab = Lab(settings_from(ONE_BY_ONE.replace("automatic_attempts: 1, ", ""), tmp_path))
    lab.gateway.will(
        lab.gateway.answers_too_late(0.05, 200, SUCCEEDED), lab.gateway.answers(200, b"never")
    )
    paying = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(5.08)

    async def away(_: str) -> Session:
        message = "failing over"
        raise StoreUnavailable(message)

    monkeypatch.setattr(lab.store, "get", away)
    answer = await paying
    assert lab.transcript[-1] == "answer 409 request-in-progress"
    assert b'"outcome":"charged"' in answer.body
    await lab.close()


async def test_charged_while_its_repeat_waits_for_a_place(tmp_path: Path) -> None:
    """Another payment has the only place; the late answer comes first, and is what is told."""
    lab = Lab(settings_from(ONE_BY_ONE, tmp_path))
    lab.gateway.will(
        lab.gateway.answers_too_late(2, 200, SUCCEEDED),
        lab.gateway.answers_late(4, 200, SUCCEEDED),
    )
    await lab.merchant_sends(pay(key="k-1"))
    other = asyncio.ensure_future(lab.merchant_sends(pay(key="k-2")))
    await asyncio.sleep(1)
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert (answer.status, answer.body) == (200, SUCCEEDED)
    await other
    await lab.close()
