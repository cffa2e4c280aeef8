"""What a gateway says by itself: what it settles, what it never settles, and how the merchant gets
it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.core import events as ev
from proxy.core.signatures import Forged
from proxy.core.states import Outcome, State
from proxy.core.webhooks import Webhook
from proxy.core.wire import Answer, Phase, WireFacts
from proxy.flow import webhooks as webhooks_module
from proxy.flow.webhooks import NotForwarded, Webhooks
from proxy.ports import Query, StoreUnavailable
from tests.support.lab import POLICY, SUCCEEDED, Lab, header_of, pay, settings_from

pytestmark = pytest.mark.looptime

# A gateway that promises nothing and cannot be asked, but signs what it says.
PROFILE = """
title: A gateway that promises nothing
idempotency: {class: D_none, window: 24h}
results:
  - {when: {status: [200]}, result: succeeded}
  - {when: {status: [402]}, result: declined}
routes:
  - name: payment
    match: {methods: [POST], path: /pay}
    session: durable
    order: {form: order_id}
    amount: {form: amount}
  - name: refund
    match: {methods: [POST], path: /refund}
    session: durable
    operation: refund
    order: {form: order_id}
webhooks:
  signature: {header: X-Signature, part: v1, timestamp: t, over: "{timestamp}.{body}"}
  tie: {key: key, order: [order], amount: amount, at: at, reference: id}
  each: events[*]
  events:
    - {when: [{path: type, in: [paid]}], says: succeeded}
    - {when: [{path: type, in: [failed]}], says: declined}
    - {when: [{path: type, in: [changed]}], says: look_up}
"""
MORE = """
  silent:
    profile: silent
    listen: 127.0.0.1:8091
    upstream: https://silent.example.com
    webhook: {secret: {env: SILENT_SECRET}}
"""
FORWARDED = "webhook: {forward_to: 'https://shop.example/hooks?from=g', "
SECRET = "whsec_silent"
BODY = b"order_id=123&amount=1999"


def lab_of(folder: Path, more: str = MORE) -> Lab:
    """A lab with the gateway above, and Stripe with a secret too."""
    (folder / "gateways").mkdir()
    (folder / "gateways/silent.yaml").write_text(PROFILE, encoding="utf-8")
    policy = POLICY.replace("{profile: stripe,", "{webhook: {secret: {env: S}}, profile: stripe,")
    policy = policy.replace("gateways:\n", f"gateways:{more}", 1)
    return Lab(settings_from(policy, folder, {"SILENT_SECRET": SECRET, "S": SECRET}))


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """Nothing is forwarded."""
    built = lab_of(tmp_path)
    yield built
    await built.close()


@pytest_asyncio.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Lab]:
    """With a merchant who takes webhooks himself."""
    built = lab_of(tmp_path, MORE.replace("webhook: {", FORWARDED))
    yield built
    await built.close()


def event(lab: Lab, kind: str = "paid", **more: Any) -> dict[str, Any]:
    """Order 123 was paid, just now."""
    told = {"type": kind, "id": "p_1", "order": "123", "amount": 1999}
    return {**told, "at": lab.clock.now_ms(), **more}


def signed(lab: Lab, body: bytes, secret: str = SECRET, header: str = "X-Signature") -> Webhook:
    """A delivery."""
    seconds = lab.clock.now_ms() // 1000
    made = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return Webhook({header.lower(): f"t={seconds},v1={made}"}, "", body)


def about(lab: Lab, *events: dict[str, Any]) -> Webhook:
    """A delivery of these events."""
    return signed(lab, json.dumps({"events": events or [event(lab)]}).encode())


def the_webhooks(lab: Lab) -> Webhooks:
    """What hears them."""
    return Webhooks(lab.commands, lab.store, lab.notes, lab.clock, lab.secrets.digest)


async def deliver(
    lab: Lab, webhook: Webhook, gateway: str = "silent", webhooks: Webhooks | None = None
) -> list[str]:
    """Bring it; the verdicts."""
    before = len(lab.notes.of(ev.WebhookHeard))
    webhooks = webhooks or the_webhooks(lab)
    lane = lab.lanes[gateway]
    assert lane.profile.webhooks is not None
    headers = (("Host", "hooks.example"), ("Content-Type", "application/json"), ("X-Id", "evt_1"))
    try:
        await webhooks.take(lane, lane.profile.webhooks, webhook, headers)
    finally:
        heard = [
            fact for fact in lab.notes.of(ev.WebhookHeard) if isinstance(fact, ev.WebhookHeard)
        ]
    return [fact.verdict for fact in heard[before:]]


def buy(**more: Any) -> Any:
    """A payment of order 123 that names it in its body."""
    return pay(**{"key": "k-1", "target": "/pay", "body": BODY, **more})


async def lose(lab: Lab, **more: Any) -> Answer:
    """Its answer is lost."""
    lab.gateway.will(lab.gateway.loses_answer())
    return await lab.merchant_sends(buy(**more), "silent")


async def outcome(lab: Lab) -> tuple[State, Outcome]:
    """Of the one session there is."""
    session = await lab.only_session()
    return session.state, session.outcome


LOST = (State.INTERRUPTED, Outcome.UNKNOWN)
CHARGED = (State.COMPLETED, Outcome.CHARGED)


# --- what it settles -----------------------------------------------------------------------------


async def test_a_lost_answer_is_settled_by_a_signed_webhook(lab: Lab) -> None:
    """A gateway that cannot be asked says by itself that it charged; and once more, to no avail."""
    await lose(lab)
    assert await outcome(lab) == LOST
    webhook = about(lab)
    assert await deliver(lab, webhook) == ["settled"]
    session = await lab.only_session()
    assert (await outcome(lab), session.reference) == (CHARGED, "p_1")
    assert session.timeline[-1].note == "webhook: p_1"
    assert await deliver(lab, webhook) == ["known"]
    assert await lab.only_session() == session


@pytest.mark.parametrize("secret", ["whsec_other", ""])
async def test_a_forged_one_leaves_it_unknown(lab: Lab, secret: str) -> None:
    """The control: the same words under another signature."""
    await lose(lab)
    body = json.dumps({"events": [event(lab)]}).encode()
    with pytest.raises(Forged):
        await deliver(lab, signed(lab, body, secret))
    assert await outcome(lab) == LOST
    assert lab.notes.of(ev.WebhookHeard) == [ev.WebhookHeard("silent", "refused")]


async def test_one_that_was_kept_does_not_settle_a_later_payment(lab: Lab) -> None:
    """Signed anew or not: what happened before this payment was begun is not about it."""
    old = about(lab)
    await asyncio.sleep(200)
    await lose(lab)
    assert await deliver(lab, old) == ["unproved"]
    assert await outcome(lab) == LOST
    await asyncio.sleep(200)
    with pytest.raises(Forged, match="too long ago"):
        await deliver(lab, old)


async def test_two_payments_of_an_order_are_told_apart_by_their_key(lab: Lab) -> None:
    """By the order alone nobody knows which was charged; the key says it."""
    first = await lose(lab)
    second = await lose(lab, key="k-2")
    assert await deliver(lab, about(lab)) == ["unproved"]
    assert await deliver(lab, about(lab, event(lab, key="k-2"))) == ["settled"]
    assert (await lab.session(first)).outcome is Outcome.UNKNOWN
    assert (await lab.session(second)).outcome is Outcome.CHARGED


async def test_an_order_that_was_tried_too_often_is_settled_by_nobody_here(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was charged may be among those that were not looked at."""
    monkeypatch.setattr(webhooks_module, "_MOST_OF_AN_ORDER", 1)
    lab.gateway.will(lab.gateway.answers(402))
    await lab.merchant_sends(buy(), "silent")
    await lose(lab, key="k-2")
    assert await deliver(lab, about(lab)) == ["unproved"]


async def test_a_key_leads_there_without_an_order(lab: Lab) -> None:
    """The body named none, or another than the backend did."""
    await lose(lab, body=b"amount=1999", order="mine")
    assert await deliver(lab, about(lab, event(lab, key="k-1"))) == ["settled"]


async def test_the_key_of_another_request_is_not_this_one(lab: Lab) -> None:
    """The same order, paid around Holdfast: our send may never have arrived."""
    await lose(lab)
    assert await deliver(lab, about(lab, event(lab, key="k-9"))) == ["no_session"]
    assert await outcome(lab) == LOST


async def test_a_charge_is_not_a_refund(lab: Lab) -> None:
    """An order's name leads to its payment, not to what else was done to it."""
    await lose(lab, target="/refund")
    assert await deliver(lab, about(lab)) == ["no_session"]


async def test_a_charge_under_an_earlier_key_is_put_before_a_person(lab: Lab) -> None:
    """Vouched for as not charged, so that the next try has another key; and then it was charged."""
    await lose(lab)
    await asyncio.sleep(130)
    before = (await lab.commands.not_charged("ps_0001", "not in the dashboard")).gateway_key
    assert before != "k-1"
    assert await deliver(lab, about(lab, event(lab, key="k-2"))) == ["no_session"]
    assert await deliver(lab, about(lab, event(lab, key="k-1"))) == ["settled"]
    session = await lab.only_session()
    assert (session.outcome, session.late_evidence) == (Outcome.CHARGED, True)


async def test_a_charge_that_contradicts_is_put_before_a_person(lab: Lab) -> None:
    """Declined, and then the gateway says it charged after all."""
    lab.gateway.will(lab.gateway.answers(402))
    await lab.merchant_sends(buy(), "silent")
    assert await deliver(lab, about(lab)) == ["settled"]
    session = await lab.only_session()
    assert (session.state, session.late_evidence) == (State.COMPLETED, True)
    assert session.review_required


# --- what it never settles -----------------------------------------------------------------------


async def test_a_no_counts_late_and_for_its_key_only(lab: Lab) -> None:
    """Of an order it may be about another try; too soon, the gateway may still be at it."""
    await lose(lab)
    no = event(lab, "failed", key="k-1")
    assert await deliver(lab, about(lab, no)) == ["unproved"]
    await asyncio.sleep(130)
    assert await deliver(lab, about(lab, event(lab, "failed"))) == ["unproved"]
    assert await outcome(lab) == LOST
    assert await deliver(lab, about(lab, no)) == ["settled"]
    assert await outcome(lab) == (State.DECLINED, Outcome.NOT_CHARGED)


async def test_what_nobody_signed_settles_nothing(lab: Lab) -> None:
    """Whatever a profile makes of it."""
    await lose(lab)
    lane = lab.lanes["silent"]
    assert lane.profile.webhooks is not None
    unsigned = replace(lane.profile.webhooks, signature=None)
    profile = replace(lane.profile, webhooks=unsigned)
    lab.lanes["silent"] = replace(lane, profile=profile)
    body = json.dumps({"events": [event(lab, key="k-1")]}).encode()
    assert await deliver(lab, Webhook({}, "", body)) == ["unproved"]
    assert await outcome(lab) == LOST


async def test_what_nobody_signed_does_not_break_into_a_gateways_rest(lab: Lab) -> None:
    """It could not answer a look-up just now; who can connect has it asked no sooner again."""
    await lose_at_stripe(lab)
    lane = lab.lanes["stripe"]
    assert lane.profile.webhooks is not None
    unsigned = replace(lane.profile, webhooks=replace(lane.profile.webhooks, signature=None))
    lab.lanes["stripe"] = replace(lane, profile=unsigned)
    lab.gateway.will(lab.gateway.answers(503), lab.gateway.answers(503))
    webhook = stripe_says(lab, "succeeded", "succeeded", None)
    lane.admissions.looked_up(WireFacts(True, Phase.ANSWERED, None, 503, "", (), b""))
    assert await deliver(lab, webhook, "stripe") == ["unproved"]
    await asyncio.sleep(1)
    assert await deliver(lab, webhook, "stripe") == ["looked_up"]


async def test_what_is_about_nothing_here_is_taken_and_counted(lab: Lab) -> None:
    """Or the gateway would send it for days."""
    told = [event(lab, order="other"), event(lab, "customer"), event(lab, "changed", order="x")]
    assert await deliver(lab, about(lab, *told)) == ["no_session", "ignored", "no_session"]


def stripe_says(lab: Lab, status: str, kind: str, key: str | None) -> Webhook:
    """An event of Stripe's."""
    told = {
        "type": f"payment_intent.{kind}",
        "created": lab.clock.now_ms() // 1000,
        "request": {"idempotency_key": key},
        "data": {"object": {"id": "pi_7", "object": "payment_intent", "status": status}},
    }
    return signed(lab, json.dumps(told).encode(), header="Stripe-Signature")


async def lose_at_stripe(lab: Lab) -> None:
    """A payment there whose answers were all lost."""
    lab.gateway.will(*[lab.gateway.loses_answer()] * 3)
    await lab.merchant_sends(pay(key="k-1"))
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN


async def test_an_object_is_read_like_an_answer(lab: Lab) -> None:
    """Stripe's event shows the payment, and the profile knows what that means."""
    await lose_at_stripe(lab)
    webhook = stripe_says(lab, "requires_capture", "amount_capturable_updated", "k-1")
    assert await deliver(lab, webhook, "stripe") == ["settled"]
    assert await outcome(lab) == CHARGED


async def test_an_object_that_is_not_charged_is_a_reason_to_look(lab: Lab) -> None:
    """It shows what was; the gateway knows what is. Nobody asks it twice in a second."""
    await lose_at_stripe(lab)
    await asyncio.sleep(200)  # a declined one would count by now
    page = {"data": [], "has_more": False}
    lab.gateway.will(lab.gateway.answers(200, json.dumps(page).encode()))
    webhook = stripe_says(lab, "canceled", "canceled", "k-1")
    for _ in range(2):
        assert await deliver(lab, webhook, "stripe") == ["looked_up"]
        await lab.settle_down()
    assert [send.method for send in lab.gateway.seen[3:]] == ["GET"]
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN


async def test_one_that_names_no_payment_settles_none(lab: Lab) -> None:
    """Somebody paid something, and there is one payment here of which nobody knows."""
    await lose(lab)
    told = event(lab)
    del told["order"]
    assert await deliver(lab, about(lab, told)) == ["unproved"]
    assert await outcome(lab) == LOST


async def test_one_that_names_no_payment_has_the_unknown_ones_looked_up(lab: Lab) -> None:
    """It may be about any of them."""
    await lose_at_stripe(lab)
    page = {"data": [], "has_more": False}
    lab.gateway.will(lab.gateway.answers(200, json.dumps(page).encode()))
    webhook = stripe_says(lab, "succeeded", "succeeded", None)
    assert await deliver(lab, webhook, "stripe") == ["looked_up"]
    await lab.settle_down()
    assert [send.method for send in lab.gateway.seen[3:]] == ["GET"]
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN


# --- in the middle of it -------------------------------------------------------------------------


async def test_an_answer_that_is_on_its_way_is_let_through(lab: Lab) -> None:
    """The webhook is faster than the answer: the backend hears the answer, and it is kept."""
    lab.gateway.will(lab.gateway.answers_late(0.5, 200, SUCCEEDED))
    paying = asyncio.ensure_future(lab.merchant_sends(buy(), "silent"))
    await asyncio.sleep(0.1)
    assert await deliver(lab, about(lab)) == ["known"]
    assert (await paying).body == SUCCEEDED
    again = await lab.merchant_sends(buy(), "silent")
    assert (again.body, header_of(again, "Idempotent-Replayed")) == (SUCCEEDED, "true")


async def test_one_that_hangs_is_settled_all_the_same(lab: Lab) -> None:
    """The gateway has charged, and its answer does not come."""
    lab.gateway.will(lab.gateway.hangs())
    paying = asyncio.ensure_future(lab.merchant_sends(buy(), "silent"))
    await asyncio.sleep(0.1)
    assert await deliver(lab, about(lab)) == ["settled"]
    answer = await paying
    assert lab.transcript[-1] == f"answer {answer.status} answer-not-kept"
    assert await outcome(lab) == CHARGED


async def test_nobody_waits_for_what_it_cannot_be_about(lab: Lab) -> None:
    """A charge of another's, and payments that hang: its gateway waits for some seconds only."""
    paying = []
    for number in range(3):
        lab.gateway.will(lab.gateway.hangs())
        body = f"order_id={number}&amount=1999".encode()
        paying.append(
            asyncio.ensure_future(lab.merchant_sends(buy(key=f"k-{number}", body=body), "silent"))
        )
    await asyncio.sleep(0.1)
    told = event(lab)
    del told["order"]
    begun = lab.clock.monotonic()
    assert await deliver(lab, about(lab, told)) == ["unproved"]
    assert lab.clock.monotonic() == begun
    many = [event(lab, order=str(number)) for number in range(3)]
    assert await deliver(lab, about(lab, *many)) == ["settled"] * 3
    assert lab.clock.monotonic() == pytest.approx(begun + 2, abs=0.1)
    await asyncio.gather(*paying)


async def test_while_the_store_is_away_the_gateway_keeps_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told so, and sends again; then it counts."""
    await lose(lab)

    async def away(_query: Query) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(lab.store, "search", away)
        with pytest.raises(StoreUnavailable):
            await deliver(lab, about(lab))
    assert await outcome(lab) == LOST
    assert await deliver(lab, about(lab)) == ["settled"]


async def test_without_a_secret_all_are_refused_and_it_is_said_once(tmp_path: Path) -> None:
    """The log says why; the counter says how many."""
    lab = lab_of(tmp_path, MORE.replace("    webhook: {secret: {env: SILENT_SECRET}}\n", ""))
    webhooks = the_webhooks(lab)
    for _ in range(3):
        with pytest.raises(Forged):
            await deliver(lab, about(lab), webhooks=webhooks)
    why = "no secret is configured to check its signature with"
    assert lab.notes.of(ev.WebhooksUnheard) == [ev.WebhooksUnheard("silent", why)]
    assert len(lab.notes.of(ev.WebhookHeard)) == 3
    await lab.close()


# --- on to the merchant --------------------------------------------------------------------------


async def test_the_merchant_gets_the_same_bytes(shop: Lab) -> None:
    """Body and headers as they came, but for the way they travel; after the evidence stands."""
    await lose(shop)
    shop.merchant.will(shop.merchant.answers(204))
    webhook = about(shop)
    assert await deliver(shop, webhook) == ["settled"]
    (send,) = shop.merchant.seen
    assert (send.method, send.target) == ("POST", "/hooks?from=g")
    assert send.body == webhook.body
    assert send.headers == (("Content-Type", "application/json"), ("X-Id", "evt_1"))
    assert shop.transcript[-2:] == [
        "store  EvidenceFound COMPLETED/charged",
        "wire   POST /hooks?from=g",
    ]


async def test_also_what_holdfast_knows_nothing_of(shop: Lab) -> None:
    """The merchant wants every event, also that of a customer who changed."""
    shop.merchant.will(shop.merchant.answers(200))
    assert await deliver(shop, about(shop, event(shop, "customer"))) == ["ignored"]
    assert len(shop.merchant.seen) == 1


async def test_never_a_forged_one(shop: Lab) -> None:
    """It is not the merchant's to find out."""
    with pytest.raises(Forged):
        await deliver(shop, signed(shop, b"{}", "other"))
    assert shop.merchant.seen == []


async def test_a_merchant_who_stumbles_is_tried_again(shop: Lab) -> None:
    """A lost connection, a 503, then he has it; the gateway hears of nothing."""
    merchant = shop.merchant
    merchant.will(merchant.refuses_connection(), merchant.answers(503), merchant.answers(200))
    begun = shop.clock.monotonic()
    assert await deliver(shop, about(shop)) == ["no_session"]
    assert len(merchant.sends) == 3
    assert shop.clock.monotonic() - begun == pytest.approx(0.1 + 0.2)


async def test_what_he_does_not_take_the_gateway_keeps(shop: Lab) -> None:
    """He is tried for four seconds; the evidence stands, and the gateway sends it again."""
    await lose(shop)
    shop.merchant.will(*[shop.merchant.answers(500)] * 6)
    with pytest.raises(NotForwarded, match="status 500"):
        await deliver(shop, about(shop))
    assert await outcome(shop) == CHARGED
    assert shop.notes.of(ev.WebhookHeard)[-1] == ev.WebhookHeard("silent", "not_forwarded")
    assert len(shop.merchant.seen) == 6
    shop.merchant.will(shop.merchant.answers(200))
    assert await deliver(shop, about(shop)) == ["known"]


async def test_a_no_for_good_is_not_asked_again(shop: Lab) -> None:
    """He answered; what a 400 means is between him and the gateway."""
    shop.merchant.will(shop.merchant.answers(400))
    with pytest.raises(NotForwarded, match="status 400"):
        await deliver(shop, about(shop))
    assert len(shop.merchant.seen) == 1


async def test_one_payments_webhooks_come_in_their_order(shop: Lab) -> None:
    """The second waits for the first; another payment's does not wait for either."""
    await lose(shop)
    await lose(shop, key="k-2", body=b"order_id=456&amount=5")
    webhooks = the_webhooks(shop)
    slow, quick = shop.merchant.answers_late(1, 200), shop.merchant.answers(200)
    shop.merchant.will(slow, quick, quick)
    deliveries = []
    for order, name in (("123", "a"), ("123", "b"), ("456", "c")):
        webhook = about(shop, event(shop, order=order, id=name))
        deliveries.append(asyncio.ensure_future(deliver(shop, webhook, webhooks=webhooks)))
        await asyncio.sleep(0.01)
    await asyncio.gather(*deliveries)
    came = [json.loads(send.body)["events"][0]["id"] for send in shop.merchant.seen]
    assert came == ["a", "c", "b"]


async def test_the_second_of_two_settles_nothing_more(shop: Lab) -> None:
    """It waited for the first, and finds that settled."""
    await lose(shop)
    webhooks = the_webhooks(shop)
    shop.merchant.will(shop.merchant.answers_late(1, 200), shop.merchant.answers(200))
    first = asyncio.ensure_future(deliver(shop, about(shop), webhooks=webhooks))
    await asyncio.sleep(0.01)
    await deliver(shop, about(shop), webhooks=webhooks)
    await first
    heard = [fact.verdict for fact in shop.notes.facts if isinstance(fact, ev.WebhookHeard)]
    assert heard == ["settled", "known"]


async def test_who_waits_too_long_for_his_turn_comes_again(shop: Lab) -> None:
    """The first is tried for four seconds, and no gateway waits for twice that."""
    await lose(shop)
    webhooks = the_webhooks(shop)
    shop.merchant.will(shop.merchant.answers_late(30, 200))
    first = asyncio.ensure_future(deliver(shop, about(shop), webhooks=webhooks))
    await asyncio.sleep(0.01)
    with pytest.raises(NotForwarded, match="still on its way"):
        await deliver(shop, about(shop), webhooks=webhooks)
    await first
