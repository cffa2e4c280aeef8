"""Duplicates: who a payment is, and what a second request for it gets."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.core.events import DuplicateSeen, NewKeySeen
from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.core.wire import Answer, Phase, WireFacts
from proxy.flow.commands import Order
from proxy.ports import Send, StoreUnavailable
from tests.support.clocks import LoopClock
from tests.support.lab import (
    DECLINED,
    POLICY,
    SUCCEEDED,
    Lab,
    SharedStore,
    header_of,
    pay,
    settings_from,
)

pytestmark = pytest.mark.looptime

# Holdfast sends once; what is left is for whoever comes back.
ONE_BY_ITSELF = POLICY.replace("retry: {", "retry: {automatic_attempts: 1, ")
NO_EVENTS = b'{"object":"list","data":[],"has_more":false}'


def verdicts(lab: Lab) -> list[str]:
    """What became of the duplicates, in order."""
    return [f.verdict for f in lab.notes.of(DuplicateSeen) if isinstance(f, DuplicateSeen)]


def same(one: Answer, other: Answer) -> bool:
    """Whether two answers are byte-identical but for the replay marker."""
    kept = [h for h in other.headers if h[0] != "Idempotent-Replayed"]
    return (one.status, one.body, list(one.headers)) == (other.status, other.body, kept)


# --- the same key ------------------------------------------------------------------------------


async def test_a_finished_payment_is_replayed(lab: Lab) -> None:
    """The same key and request again: the same bytes, marked, and nothing sent."""
    headers = (("Content-Type", "application/json"), ("Request-Id", "req_1"))
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED, headers))
    first = await lab.merchant_sends(pay(key="k-1"))
    second = await lab.merchant_sends(pay(key="k-1"))
    assert same(first, second)
    assert header_of(second, "Idempotent-Replayed") == "true"
    assert len(lab.gateway.seen) == 1
    assert verdicts(lab) == ["replayed"]


async def test_a_decline_is_replayed(lab: Lab) -> None:
    """A decline is final for its key."""
    lab.gateway.will(lab.gateway.answers(402, DECLINED))
    first = await lab.merchant_sends(pay(key="k-1"))
    assert same(first, await lab.merchant_sends(pay(key="k-1")))


async def test_a_cookie_is_not_replayed(lab: Lab) -> None:
    """Headers that mean something only once stay with their first answer."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED, (("Set-Cookie", "a=b"),)))
    first = await lab.merchant_sends(pay(key="k-1"))
    assert header_of(first, "Set-Cookie") == "a=b"
    second = await lab.merchant_sends(pay(key="k-1"))
    assert "Set-Cookie" not in dict(second.headers)


async def test_in_flight_duplicates_wait_for_the_one_answer(lab: Lab) -> None:
    """Three clicks at once: one send, three times the same answer."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    answers = await asyncio.gather(*(lab.merchant_sends(pay(key="k-1")) for _ in range(3)))
    assert [a.status for a in answers] == [200, 200, 200]
    assert len(lab.gateway.seen) == 1
    assert verdicts(lab) == ["joined", "joined"]


async def test_a_duplicate_does_not_wait_for_ever(lab: Lab) -> None:
    """After `duplicate_wait` it is told 409 with Retry-After; the payment goes on."""
    lab.gateway.will(lab.gateway.answers_late(8, 200, SUCCEEDED))
    first = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(0)
    second = await lab.merchant_sends(pay(key="k-1"))
    assert second.status == 409
    assert header_of(second, "Retry-After") == "5"
    assert b'"retryAfterMs":5000' in second.body
    assert b"ps_0001" in second.body
    assert (await first).status == 200


async def test_the_same_key_for_another_body(lab: Lab) -> None:
    """A key names one payment; its reuse learns nothing about what it was used for."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    answer = await lab.merchant_sends(pay(key="k-1", body=b"amount=1"))
    # Stripe's SDK expects 400 with its own error type; the general form is 422.
    assert answer.status == 400
    assert b'"type":"idempotency_error"' in answer.body
    assert b"ps_" not in answer.body
    assert len(lab.gateway.seen) == 1


async def test_the_same_key_for_another_body_at_another_gateway(lab: Lab) -> None:
    """Where no SDK expects otherwise, it is 422."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    answer = await lab.merchant_sends(pay(key="k-1", target="/pay", body=b"x"), gateway="plain")
    assert answer.status == 422


async def test_the_same_key_for_another_body_while_in_flight(lab: Lab) -> None:
    """Also a duplicate that comes before the first answer is held to the same request."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    first = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    assert (await lab.merchant_sends(pay(key="k-1", body=b"amount=1"))).status == 400
    assert (await first).status == 200


async def test_quoted_and_bare_are_the_same_key(lab: Lab) -> None:
    """The draft's quoted form and what everybody sends name the same payment."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    assert header_of(await lab.merchant_sends(pay(key='"k-1"')), "Idempotent-Replayed") == "true"


@pytest.mark.parametrize(
    "other",
    [{"credential": "Bearer sk_test_other"}, {"target": "/v1/refunds"}],
    ids=["credential", "route"],
)
async def test_keys_are_scoped(lab: Lab, other: dict[str, str]) -> None:
    """The same key with another credential or on another route is another payment."""
    lab.gateway.will(*[lab.gateway.answers(200, SUCCEEDED)] * 2)
    await lab.merchant_sends(pay(key="k-1"))
    await lab.merchant_sends(pay(key="k-1", **other))  # type: ignore[arg-type]
    assert len(lab.gateway.seen) == 2


async def test_no_key_at_all_gets_one(lab: Lab) -> None:
    """A payment nobody named still has a key at the gateway, and each one its own."""
    lab.gateway.will(*[lab.gateway.answers(200, SUCCEEDED)] * 2)
    await lab.merchant_sends(pay())
    await lab.merchant_sends(pay())
    keys = [dict(send.headers)["Idempotency-Key"] for send in lab.gateway.seen]
    assert len(set(keys)) == 2
    assert all(len(key) == 32 for key in keys)


async def test_a_callers_key_is_never_rewritten(lab: Lab) -> None:
    """The gateway sees the caller's key as it was written, once."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key='"my key 1"'))
    given = [v for n, v in lab.gateway.seen[0].headers if n == "Idempotency-Key"]
    assert given == ['"my key 1"']


# --- interrupted ---------------------------------------------------------------------------------


async def test_a_repeat_with_no_sends_left_asks_the_gateway(lab: Lab) -> None:
    """All sends are spent and the outcome is unknown: the repeat costs one look, not one send."""
    lab.gateway.will(*[lab.gateway.hangs()] * 3)
    await lab.merchant_sends(pay(key="k-1"))
    lab.gateway.will(lab.gateway.answers(200, NO_EVENTS))
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-3].startswith("wire   GET /v1/events?")
    assert lab.transcript[-2:] == [
        "store  LookedUp INTERRUPTED/unknown",
        "answer 504 outcome-unknown",
    ]
    assert verdicts(lab) == ["resumed"]


async def test_a_repeat_uses_the_sends_that_are_left(tmp_path: Path) -> None:
    """With sends kept for the resume, the repeat sends the same bytes under the same key."""
    more = POLICY.replace("retry: {", "retry: {max_attempts: 3, automatic_attempts: 1, ")
    lab = Lab(settings_from(more, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    first = await lab.merchant_sends(pay(key="k-1"))
    assert first.status == 504
    second = await lab.merchant_sends(pay(key="k-1"))
    assert second.status == 200
    assert header_of(second, "X-Payment-Attempts") == "2"
    session = await lab.session(second)
    assert (session.id, session.state) == (header_of(first, "X-Payment-Session-Id"), "COMPLETED")
    await lab.close()


async def test_an_unknown_is_not_sent_again_where_keys_mean_nothing(lab: Lab) -> None:
    """At a gateway without a promise a repeat is answered 504 again, and nothing leaves."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    answer = await lab.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    assert answer.status == 504
    assert b'"safeToRepeat":true' in answer.body
    assert len(lab.gateway.seen) == 1


async def test_after_the_deadline_nothing_is_sent(tmp_path: Path) -> None:
    """Past the session's deadline nobody expects a charge any more; unknown stays unknown."""
    more = POLICY.replace("retry: {", "retry: {max_attempts: 3, automatic_attempts: 1, ")
    lab = Lab(settings_from(more, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer())
    first = await lab.merchant_sends(pay(key="k-1"))
    await asyncio.sleep(16 * 60)
    lab.gateway.will(lab.gateway.answers(200, NO_EVENTS))
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert answer.status == 504
    assert [send.method for send in lab.gateway.seen] == ["POST", "GET"]
    assert (await lab.session(first)).outcome is Outcome.UNKNOWN
    await lab.close()


async def test_an_unsent_payment_expires(tmp_path: Path) -> None:
    """Nothing was sent and the deadline passed: 410, and the order is free."""
    more = POLICY.replace("retry: {", "retry: {max_attempts: 3, automatic_attempts: 1, ")
    lab = Lab(settings_from(more, tmp_path))
    lab.gateway.will(lab.gateway.refuses_connection())
    await lab.merchant_sends(pay(key="k-1", order="o-1"))
    await asyncio.sleep(16 * 60)
    answer = await lab.merchant_sends(pay(key="k-1", order="o-1"))
    assert lab.transcript[-1] == "answer 410 session-expired"
    session = await lab.session(answer)
    assert (session.state, session.locks_order) == (State.EXPIRED, False)
    await lab.close()


async def test_an_exhausted_payment_is_replayed(lab: Lab) -> None:
    """A key whose sends are spent gets the same refusal again; a new key starts over."""
    lab.gateway.will(*[lab.gateway.refuses_connection()] * 3)
    first = await lab.merchant_sends(pay(key="k-1"))
    second = await lab.merchant_sends(pay(key="k-1"))
    assert same(first, second)
    assert len(lab.gateway.sends) == 3


# --- the order -----------------------------------------------------------------------------------


async def test_an_order_names_its_payment(lab: Lab) -> None:
    """Without a key, the same order and body is the same payment."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    first = await lab.merchant_sends(pay(order="o-1"))
    assert same(first, await lab.merchant_sends(pay(order="o-1")))
    assert len(lab.gateway.seen) == 1


async def test_a_second_key_for_a_charged_order(lab: Lab) -> None:
    """Two tabs, two keys, one order: the second is told who paid, and nothing is sent."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1", order="o-1"))
    answer = await lab.merchant_sends(pay(key="k-2", order="o-1"))
    assert lab.transcript[-1] == "answer 409 order-already-paid"
    assert header_of(answer, "X-Payment-Session-Id") == "ps_0001"
    assert len(lab.gateway.seen) == 1
    assert verdicts(lab) == ["order_locked"]


async def test_a_second_key_for_an_order_in_flight(lab: Lab) -> None:
    """The lock holds from the first moment, also between two gateways."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    first = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1", order="o-1")))
    await asyncio.sleep(1)
    await lab.merchant_sends(pay(key="k-2", order="o-1"))
    assert lab.transcript[-1] == "answer 409 order-already-open"
    await lab.merchant_sends(pay(key="k-3", order="o-1", target="/pay"), gateway="plain")
    assert lab.transcript[-1] == "answer 409 order-already-open"
    assert (await first).status == 200


async def test_a_second_key_for_an_order_of_unknown_outcome(lab: Lab) -> None:
    """Unknown locks: a new key could charge a second time."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1", order="o-1", target="/pay"), gateway="plain")
    await lab.merchant_sends(pay(key="k-2", order="o-1", target="/pay"), gateway="plain")
    assert lab.transcript[-1] == "answer 409 order-already-open"


async def test_a_declined_order_may_be_paid_another_way(lab: Lab) -> None:
    """After a decline the order is free for another key."""
    lab.gateway.will(lab.gateway.answers(402, DECLINED), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1", order="o-1"))
    assert (await lab.merchant_sends(pay(key="k-2", order="o-1"))).status == 200


async def test_an_intent_that_waits_for_the_payer_does_not_lock(lab: Lab) -> None:
    """`requires_action` has charged nothing: the shopper may try another card."""
    waiting = b'{"id":"pi_1","status":"requires_action"}'
    lab.gateway.will(lab.gateway.answers(200, waiting), lab.gateway.answers(200, SUCCEEDED))
    first = await lab.merchant_sends(pay(key="k-1", order="o-1"))
    session = await lab.session(first)
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.NOT_CHARGED)
    assert (await lab.merchant_sends(pay(key="k-2", order="o-1"))).status == 200


async def test_create_then_confirm_is_one_payment(lab: Lab) -> None:
    """Creating an intent and confirming it belong together; a third call is a second charge."""
    created = b'{"id":"pi_1","status":"requires_confirmation"}'
    lab.gateway.will(lab.gateway.answers(200, created), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(order="o-1"))
    confirm = "/v1/payment_intents/pi_1/confirm"
    assert (await lab.merchant_sends(pay(order="o-1", target=confirm))).status == 200
    await lab.merchant_sends(pay(key="k-9", order="o-1"))
    assert lab.transcript[-1] == "answer 409 order-already-paid"


async def test_a_refund_of_a_charged_order_goes_through(lab: Lab) -> None:
    """Other operations on a paid order are not second charges."""
    lab.gateway.will(*[lab.gateway.answers(200, SUCCEEDED)] * 2)
    await lab.merchant_sends(pay(key="k-1", order="o-1"))
    answer = await lab.merchant_sends(pay(key="k-2", order="o-1", target="/v1/refunds"))
    assert answer.status == 200


async def test_an_order_in_the_body_shows_but_does_not_lock(lab: Lab) -> None:
    """Split payments and deposits are legitimate: only a named order locks."""
    lab.gateway.will(*[lab.gateway.answers(200, SUCCEEDED)] * 2)
    body = b"amount=500&metadata%5Border_id%5D=o-1"
    first = await lab.merchant_sends(pay(key="k-1", body=body))
    assert (await lab.session(first)).order_ref == "o-1"
    assert (await lab.merchant_sends(pay(key="k-2", body=body))).status == 200


async def test_an_order_in_the_body_locks_where_the_policy_says_so(tmp_path: Path) -> None:
    """`order_lock: body` makes the order read from the body lock too."""
    route = (
        "  stripe:\n    profile: stripe\n    listen: 127.0.0.1:0\n    upstream: http://127.0.0.1:1\n"
        "    routes:\n      - {name: create-payment, match: {methods: [POST], "
        "path: /v1/payment_intents}, session: durable, order_lock: body}\n"
    )
    lab = Lab(settings_from(f"store: memory://\ngateways:\n{route}", tmp_path))
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    body = b'{"amount":500,"metadata":{"order_id":"o-1"}}'
    json = (("Content-Type", "application/json"),)
    head, _ = pay(key="k-1", body=body)
    plain = tuple(h for h in head.headers if h[0] != "Content-Type")
    await lab.merchant_sends((head.__class__("POST", head.target, plain + json), body))
    head, _ = pay(key="k-2", body=body)
    plain = tuple(h for h in head.headers if h[0] != "Content-Type")
    await lab.merchant_sends((head.__class__("POST", head.target, plain + json), body))
    assert lab.transcript[-1] == "answer 409 order-already-paid"
    await lab.close()


async def test_an_order_in_the_body_is_the_payments_name_where_it_locks(tmp_path: Path) -> None:
    """Without a key: what was not sent goes on, a decline is another try, a charge is replayed."""
    route = (
        "  stripe:\n    profile: stripe\n    listen: 127.0.0.1:0\n    upstream: http://127.0.0.1:1\n"
        "    retry: {automatic_attempts: 1}\n"
        "    routes:\n      - {name: create-payment, match: {methods: [POST], "
        "path: /v1/payment_intents}, session: durable, order_lock: body}\n"
    )
    lab = Lab(settings_from(f"store: memory://\ngateways:\n{route}", tmp_path))
    body = b"amount=500&metadata%5Border_id%5D=o-1"
    lab.gateway.will(
        lab.gateway.refuses_connection(),
        lab.gateway.answers(402, b'{"error":{"type":"card_error"}}'),
        lab.gateway.answers(200, SUCCEEDED),
    )
    answers = [await lab.merchant_sends(pay(body=body)) for _ in range(4)]
    assert [answer.status for answer in answers] == [502, 402, 200, 200]
    sessions = [header_of(answer, "X-Payment-Session-Id") for answer in answers]
    assert sessions[0] == sessions[1] != sessions[2] == sessions[3]
    assert len(lab.gateway.seen) == 2
    await lab.close()


async def test_an_order_that_came_to_nothing_starts_over(lab: Lab) -> None:
    """Named by its order only, a payment whose sends were all refused is a new try next time."""
    lab.gateway.will(*[lab.gateway.refuses_connection()] * 3, lab.gateway.answers(200, SUCCEEDED))
    first = await lab.merchant_sends(pay(order="o-1"))
    assert first.status == 502
    second = await lab.merchant_sends(pay(order="o-1"))
    assert second.status == 200
    assert header_of(second, "X-Payment-Session-Id") != header_of(first, "X-Payment-Session-Id")


@pytest.mark.parametrize("away", [False, True], ids=["", "store away"])
async def test_what_another_replica_sends_is_not_denied(
    tmp_path: Path, away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one still connects, the other has sent: whoever asks the first hears that it may be."""
    settings, clock = settings_from(POLICY, tmp_path), LoopClock()
    here = Lab(settings, SharedStore(clock, []))
    assert isinstance(here.store, SharedStore)
    there = Lab(settings, SharedStore(clock, [], here.store))

    async def connects_for_ever(_send: Send) -> WireFacts:
        await asyncio.sleep(20)
        return WireFacts(False, Phase.CONNECTING, Reason.CONNECT_TIMEOUT)

    here.gateway.will(connects_for_ever)
    there.gateway.will(there.gateway.answers_late(9, 200, SUCCEEDED))
    first = asyncio.ensure_future(here.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(0.5)
    # Nobody has sent it yet; but the first may, by the time this is read.
    answer = await here.merchant_sends(pay(key="k-1"))
    assert (await here.session(answer)).outcome is Outcome.NOT_CHARGED
    assert outcome_of(answer) == "unknown"
    second = asyncio.ensure_future(there.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(0.5)
    if away:
        monkeypatch.setattr(here.store, "get", _unreachable)
    assert outcome_of(await here.merchant_sends(pay(key="k-1"))) == "unknown"
    monkeypatch.undo()
    await asyncio.gather(first, second)
    for lab in (here, there):
        await lab.close()


async def _unreachable(_session_id: str) -> None:
    raise StoreUnavailable


def outcome_of(answer: Answer) -> str:
    """What a refusal says of the money."""
    assert answer.status == 409
    return str(json.loads(answer.body)["outcome"])


# --- sessions created ahead ----------------------------------------------------------------------


async def test_a_request_can_name_its_session(lab: Lab) -> None:
    """The session a backend created is the one its request is recorded in."""
    ahead, new = await lab.commands.create(Order("o-1", "u-1", "stripe", "1999", "eur"))
    assert new
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(session=ahead.id))
    session = await lab.session(answer)
    assert (session.id, session.order_ref, session.user_ref) == (ahead.id, "o-1", "u-1")
    assert session.state is State.COMPLETED
    assert same(answer, await lab.merchant_sends(pay(session=ahead.id)))


async def test_a_request_that_names_only_the_order_finds_its_session(lab: Lab) -> None:
    """A session waits for its order's request, also if the request forgot to name it."""
    ahead, _ = await lab.commands.create(Order("o-1", None, None, None, None))
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(key="k-1", order="o-1"))
    assert header_of(answer, "X-Payment-Session-Id") == ahead.id


@pytest.mark.parametrize("alone", [True, False], ids=["", "control"])
async def test_two_names_of_one_session_at_once(
    tmp_path: Path, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One walk of which both hear; the control lets both bind it: one takes back what is out."""
    settings = settings_from(POLICY, tmp_path)
    clock = LoopClock()
    store = SharedStore(clock, [])
    lab = Lab(settings, store)
    ahead, _ = await lab.commands.create(Order("o-1", None, None, None, None))
    claim, commit = store.claim, store.commit

    async def far_claim(*told: Any) -> None:
        await claim(*told)
        await asyncio.sleep(0.0003)  # both intents are of the same millisecond

    async def far_commit(*told: Any) -> None:
        await asyncio.sleep(0.002)
        await commit(*told)

    monkeypatch.setattr(store, "claim", far_claim)
    monkeypatch.setattr(store, "commit", far_commit)
    if not alone:
        monkeypatch.setattr(asyncio.Lock, "acquire", _at_once)
        monkeypatch.setattr(asyncio.Lock, "release", lambda _: None)
    slow = lab.gateway.connected(_answers_later)
    lab.gateway.will(slow, lab.gateway.answers(409, b"{}"))
    first = asyncio.ensure_future(lab.merchant_sends(pay(order="o-1")))
    second = asyncio.ensure_future(lab.merchant_sends(pay(session=ahead.id)))
    await asyncio.sleep(1)
    assert [send.method for send in lab.gateway.seen] == ["POST"]
    assert (await lab.only_session()).in_flight is alone
    answers = await asyncio.gather(first, second)
    assert not alone or [answer.status for answer in answers] == [200, 200]
    await lab.close()


async def _at_once(_lock: asyncio.Lock) -> bool:
    return True


async def _answers_later(_send: Send) -> WireFacts:
    await asyncio.sleep(2)
    return WireFacts(True, Phase.ANSWERED, None, 200, "", (), SUCCEEDED)


async def test_an_unknown_session_is_refused(lab: Lab) -> None:
    """A request that names no session of ours is not sent."""
    await lab.merchant_sends(pay(session="ps_nobody"))
    assert lab.transcript == ["answer 404 session-unknown"]


@pytest.mark.parametrize(
    "second",
    [
        {"key": "k-other"},
        {"credential": "Bearer sk_test_other"},
        {"target": "/v1/refunds"},
        {"order": "o-other"},
    ],
    ids=["key", "credential", "route", "order"],
)
async def test_a_session_is_one_payment(lab: Lab, second: dict[str, str]) -> None:
    """Who names a session must be its payment."""
    ahead, _ = await lab.commands.create(Order("o-1", None, None, None, None))
    if "order" not in second:
        lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
        await lab.merchant_sends(pay(session=ahead.id))
    await lab.merchant_sends(pay(session=ahead.id, **second))  # type: ignore[arg-type]
    assert lab.transcript[-1] == "answer 409 session-taken"
    assert len(lab.gateway.seen) <= 1


async def test_a_payment_that_nothing_names_can_be_repeated_by_its_session(tmp_path: Path) -> None:
    """Its key is Holdfast's own: a plain repeat would be another payment, and it is told so."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    lost = await lab.merchant_sends(pay())
    told = json.loads(lost.body)
    assert (lost.status, told["outcome"], told["safeToRepeat"]) == (504, "unknown", False)
    assert "X-Payment-Session-Id" in told["detail"]
    answer = await lab.merchant_sends(pay(session=told["sessionId"]))
    assert (answer.status, answer.body) == (200, SUCCEEDED)
    first, second = (dict(send.headers)["Idempotency-Key"] for send in lab.gateway.seen)
    assert first == second
    assert verdicts(lab) == ["resumed"]
    await lab.close()


async def test_a_payment_named_by_its_key_is_safe_to_repeat(lab: Lab) -> None:
    """Who names a payment hears that the same request may come again."""
    lab.gateway.will(lab.gateway.loses_answer())
    told = json.loads((await lab.merchant_sends(pay(key="k-1"), "plain")).body)
    assert (told["outcome"], told["safeToRepeat"]) == ("unknown", True)


async def test_a_session_of_another_gateway_is_refused(lab: Lab) -> None:
    """Created for one gateway, it is not paid at another."""
    ahead, _ = await lab.commands.create(Order("o-1", None, "plain", None, None))
    await lab.merchant_sends(pay(session=ahead.id))
    assert lab.transcript == ["store  Opened INITIATED/not_charged", "answer 409 session-taken"]


async def test_a_session_created_too_long_ago(lab: Lab) -> None:
    """Its deadline passed before its request came: 410, and nothing is sent."""
    ahead, _ = await lab.commands.create(Order("o-1", None, None, None, None))
    await asyncio.sleep(16 * 60)
    answer = await lab.merchant_sends(pay(session=ahead.id))
    assert lab.transcript[-1] == "answer 410 session-expired"
    assert json.loads(answer.body)["state"] == "EXPIRED"


async def test_a_cancelled_session_is_refused(lab: Lab) -> None:
    """Cancelled before its request came: 409, and nothing is sent."""
    ahead, _ = await lab.commands.create(Order("o-1", None, None, None, None))
    await lab.commands.cancel(ahead.id, "changed my mind")
    await lab.merchant_sends(pay(session=ahead.id))
    assert lab.transcript[-1] == "answer 409 session-cancelled"


async def test_a_key_spelled_in_another_way_is_sent_as_it_first_was(tmp_path: Path) -> None:
    """Quoted or bare it is one payment; at the gateway another spelling would be another key."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="order-1"))
    answer = await lab.merchant_sends(pay(key='"order-1"'))
    assert answer.status == 200
    keys = [v for send in lab.gateway.seen for n, v in send.headers if n == "Idempotency-Key"]
    assert keys == ["order-1", "order-1"]
    await lab.close()


async def test_what_can_still_be_resumed_is_not_safe_to_repeat_unnamed(tmp_path: Path) -> None:
    """Nothing was sent, but the session lives: a plain repeat and a resume would be two charges."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    lab.gateway.will(lab.gateway.refuses_connection())
    told = json.loads((await lab.merchant_sends(pay())).body)
    assert (told["anythingSent"], told["state"]) == (False, "INTERRUPTED")
    assert told["safeToRepeat"] is False
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    assert (await lab.merchant_sends(pay(session=told["sessionId"]))).status == 200
    assert len(lab.gateway.seen) == 1
    await lab.close()


async def test_what_was_never_sent_keeps_its_key_at_the_gateway(lab: Lab) -> None:
    """A new try of an order has a new key only if the gateway may have seen the old one."""
    lab.gateway.will(*[lab.gateway.refuses_connection()] * 3, lab.gateway.answers(429, b"{}"))
    await lab.merchant_sends(pay(order="o-1"))  # three tries, none of them sent
    never_sent = await lab.only_session()
    lab.gateway.will(*[lab.gateway.answers(429, b"{}")] * 2, lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(order="o-1"))  # sent three times, not executed
    await lab.merchant_sends(pay(order="o-1"))
    first, *_, last = (dict(send.headers)["Idempotency-Key"] for send in lab.gateway.seen)
    assert first == never_sent.gateway_key
    assert last != first


# --- another key for the same request -------------------------------------------------------------

REFUSING = POLICY.replace(
    "profile: stripe,",
    "profile: stripe, routes: [{name: create-payment, new_key: refuse, "
    "match: {methods: [POST], path: /v1/payment_intents}}],",
)


def warned(lab: Lab) -> list[tuple[str, str]]:
    """Sessions begun under another key, with those that had asked for the same."""
    seen = [f for f in lab.notes.of(NewKeySeen) if isinstance(f, NewKeySeen)]
    return [(fact.session_id, fact.earlier_id) for fact in seen]


async def test_a_new_key_for_the_same_request_is_noticed(lab: Lab) -> None:
    """A backend that makes a new key for every try: paid twice, as it asked, and noted."""
    lab.gateway.will(*[lab.gateway.answers(200, SUCCEEDED)] * 2)
    await lab.merchant_sends(pay(key="k-1"))
    answer = await lab.merchant_sends(pay(key="k-2"))
    assert (answer.status, len(lab.gateway.seen)) == (200, 2)
    assert warned(lab) == [("ps_0002", "ps_0001")]


async def test_a_new_key_after_a_decline_is_as_it_should_be(lab: Lab) -> None:
    """Nothing was charged: this is what a new key is for. So is one for another body."""
    lab.gateway.will(lab.gateway.answers(402, DECLINED), *[lab.gateway.answers(200, SUCCEEDED)] * 2)
    await lab.merchant_sends(pay(key="k-1"))
    await lab.merchant_sends(pay(key="k-2"))
    await lab.merchant_sends(pay(key="k-3", body=b"amount=2999&currency=eur"))
    assert warned(lab) == []


async def test_a_new_key_is_refused_where_the_route_says_so(tmp_path: Path) -> None:
    """The second is told of the first, and nothing is sent; the first gets its answer again."""
    lab = Lab(settings_from(REFUSING, tmp_path))
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    first = await lab.merchant_sends(pay(key="k-1"))
    answer = await lab.merchant_sends(pay(key="k-2"))
    assert lab.transcript[-1] == "answer 409 new-key-for-same-request"
    assert header_of(answer, "X-Payment-Session-Id") == "ps_0001"
    assert same(first, await lab.merchant_sends(pay(key="k-1")))
    assert len(lab.gateway.seen) == 1
    assert verdicts(lab) == ["new_key", "replayed"]
    await lab.close()


async def test_a_new_key_is_refused_after_a_repeat_as_well(tmp_path: Path) -> None:
    """The first key came twice, with the same answer: the charge is still the first one's."""
    lab = Lab(settings_from(REFUSING, tmp_path))
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED), lab.gateway.answers(200, b"never"))
    for key in ("k-1", "k-1", "k-2"):
        await lab.merchant_sends(pay(key=key))
    assert lab.transcript[-1] == "answer 409 new-key-for-same-request"
    assert len(lab.gateway.seen) == 1
    await lab.close()


async def test_a_new_key_is_refused_after_the_store_was_away_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first try could not look for the other: that does not make it a key that is known."""
    lab = Lab(settings_from(REFUSING, tmp_path))
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED), lab.gateway.answers(200, b"never"))
    await lab.merchant_sends(pay(key="k-1"))

    async def away(_: str) -> Session:
        message = "failing over"
        raise StoreUnavailable(message)

    with monkeypatch.context() as patch:
        patch.setattr(lab.store, "get", away)
        await lab.merchant_sends(pay(key="k-2"))
    assert lab.transcript[-1] == "answer 503 store-unavailable"
    await lab.merchant_sends(pay(key="k-2"))
    assert lab.transcript[-1] == "answer 409 new-key-for-same-request"
    assert len(lab.gateway.seen) == 1
    await lab.close()


async def test_two_clicks_with_two_keys_at_once(tmp_path: Path) -> None:
    """A page that makes a key for every click: the first is on its way, the second is refused."""
    lab = Lab(settings_from(REFUSING, tmp_path))
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    clicks = [lab.merchant_sends(pay(key=key)) for key in ("k-1", "k-2")]
    first, second = await asyncio.gather(*clicks)
    assert (first.status, second.status) == (200, 409)
    assert len(lab.gateway.seen) == 1
    await lab.close()


async def test_a_refused_key_may_pay_once_the_first_was_declined(tmp_path: Path) -> None:
    """It left nothing behind."""
    lab = Lab(settings_from(REFUSING, tmp_path))
    declines = lab.gateway.answers_late(3, 402, DECLINED)
    lab.gateway.will(declines, lab.gateway.answers(200, SUCCEEDED))
    first = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    await lab.merchant_sends(pay(key="k-2"))
    assert lab.transcript[-1] == "answer 409 new-key-for-same-request"
    assert (await first).status == 402
    assert (await lab.merchant_sends(pay(key="k-2"))).status == 200
    await lab.close()


async def test_the_same_request_much_later_is_another_payment(tmp_path: Path) -> None:
    """A subscription asks for the same every month."""
    lab = Lab(settings_from(REFUSING, tmp_path))
    lab.gateway.will(*[lab.gateway.answers(200, SUCCEEDED)] * 2)
    await lab.merchant_sends(pay(key="k-1"))
    await asyncio.sleep(16 * 60)
    assert (await lab.merchant_sends(pay(key="k-2"))).status == 200
    await lab.close()


async def test_a_locked_order_needs_no_guess(tmp_path: Path) -> None:
    """Two orders may ask for the very same."""
    lab = Lab(settings_from(REFUSING, tmp_path))
    lab.gateway.will(*[lab.gateway.answers(200, SUCCEEDED)] * 2)
    for order in ("o-1", "o-2"):
        answer = await lab.merchant_sends(pay(key=f"k-{order}", order=order))
        assert answer.status == 200
    await lab.close()
