"""The gateway's own word about a lost answer: found, not found, not yet to be believed."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.core.events import EvidenceFound, EvidenceSource, ProcessRestarted, VoidAsked
from proxy.core.policy import SessionKind
from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import WireFacts
from proxy.flow.commands import NotAllowed, Order
from proxy.flow.journal import Change
from proxy.ports import Send
from tests.support.lab import POLICY, SUCCEEDED, Lab, header_of, pay, settings_from

pytestmark = pytest.mark.looptime

ORDER = Order("o-1", "u-1", "stripe", "1999", "eur")


def events(key: str, *, intent: str = "pi_7", more: bool = False) -> bytes:
    """A page of Stripe events with one that the key caused."""
    caused = {
        "id": "evt_1",
        "request": {"idempotency_key": key},
        "data": {"object": {"object": "payment_intent", "id": intent}},
    }
    other = {"id": "evt_0", "request": {"idempotency_key": "other"}, "data": {"object": {}}}
    return json.dumps({"data": [other, caused], "has_more": more}).encode()


def no_events(*, more: bool = False) -> bytes:
    """A page that says nothing about the key."""
    return json.dumps({"data": [{"id": "evt_9"}], "has_more": more}).encode()


def intent(status: str) -> bytes:
    """An intent as it stands."""
    return json.dumps({"id": "pi_7", "object": "payment_intent", "status": status}).encode()


async def lose(lab: Lab) -> None:
    """A payment whose answers were all lost."""
    lab.gateway.will(*[lab.gateway.loses_answer()] * 3)
    await lab.merchant_sends(pay(key="k-1"))
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN


async def test_a_look_finds_the_charge_and_its_answer(lab: Lab) -> None:
    """The event names the payment, the payment says succeeded, and that is the answer from now."""
    await lose(lab)
    lab.gateway.will(
        lab.gateway.answers(200, events("k-1")), lab.gateway.answers(200, intent("succeeded"))
    )
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert (answer.status, answer.body) == (200, intent("succeeded"))
    session = await lab.session(answer)
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert session.reference == "pi_7"
    assert session.recovered
    assert lab.gateway.seen[-1].target == "/v1/payment_intents/pi_7"
    again = await lab.merchant_sends(pay(key="k-1"))
    assert header_of(again, "Idempotent-Replayed") == "true"
    for told in (answer, again):  # not a word of doubt about what is known by now
        assert header_of(told, "Proxy-Status") == "holdfast; received-status=200"


async def test_what_is_answered_as_before_is_looked_up_at_once(lab: Lab) -> None:
    """The repeat hears the stored 500 of a send that charged: the backend hears of the charge."""
    lab.gateway.will(
        lab.gateway.loses_answer(),
        lab.gateway.answers(500, b"", (("Idempotent-Replayed", "true"),)),
        lab.gateway.answers(200, events("k-1")),
        lab.gateway.answers(200, intent("succeeded")),
    )
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert (answer.status, answer.body) == (200, intent("succeeded"))
    assert [send.method for send in lab.gateway.seen] == ["POST", "POST", "GET", "GET"]
    assert (await lab.session(answer)).outcome is Outcome.CHARGED


async def test_a_look_uses_the_requests_own_credential(lab: Lab) -> None:
    """While the request is in memory its own credential asks; only reads are made."""
    await lose(lab)
    lab.gateway.will(lab.gateway.answers(200, no_events()))
    await lab.merchant_sends(pay(key="k-1"))
    send = lab.gateway.seen[-1]
    assert send.method == "GET"
    assert ("authorization", "Bearer sk_test_lab") in send.headers


async def test_silence_proves_nothing(lab: Lab) -> None:
    """No event for the key: the gateway may still be at it, so unknown stays unknown."""
    await lose(lab)
    lab.gateway.will(lab.gateway.answers(200, no_events()))
    await lab.merchant_sends(pay(key="k-1"))
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)
    assert session.lookups == 1


async def test_not_charged_counts_only_after_a_while(lab: Lab) -> None:
    """`canceled` right after the loss may be overtaken; two minutes later it is a proof."""
    await lose(lab)
    canceled = [
        lab.gateway.answers(200, events("k-1")),
        lab.gateway.answers(200, intent("canceled")),
    ]
    lab.gateway.will(*canceled)
    await lab.merchant_sends(pay(key="k-1"))
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN
    await asyncio.sleep(130)
    lab.gateway.will(*canceled)
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert answer.status == 200
    assert (await lab.only_session()).outcome is Outcome.NOT_CHARGED


async def test_a_look_goes_through_the_pages(lab: Lab) -> None:
    """A busy merchant's events come in pages; the next one starts after the last."""
    await lose(lab)
    lab.gateway.will(
        lab.gateway.answers(200, no_events(more=True)),
        lab.gateway.answers(200, events("k-1")),
        lab.gateway.answers(200, intent("succeeded")),
    )
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.gateway.seen[-2].target.endswith("&starting_after=evt_9")
    assert (await lab.only_session()).outcome is Outcome.CHARGED


@pytest.mark.parametrize("status", [401, 500])
async def test_a_look_that_fails_changes_nothing(lab: Lab, status: int) -> None:
    """A refused or failed look-up is inconclusive, not a proof."""
    await lose(lab)
    lab.gateway.will(lab.gateway.answers(status, b"no"))
    await lab.merchant_sends(pay(key="k-1"))
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN


async def test_a_look_without_an_answer_changes_nothing(lab: Lab) -> None:
    """The look-up itself may be lost; nothing was at stake."""
    await lose(lab)
    lab.gateway.will(lab.gateway.loses_answer(Reason.CONNECTION_LOST))
    await lab.merchant_sends(pay(key="k-1"))
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN


async def test_the_reconciler_looks_by_itself(lab: Lab) -> None:
    """Nobody comes back: a second later Holdfast asks, and the charge is on record."""
    await lose(lab)
    lab.gateway.will(
        lab.gateway.answers(200, events("k-1")), lab.gateway.answers(200, intent("succeeded"))
    )
    await lab.reconciler.run_once()
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN
    await asyncio.sleep(1.1)
    await lab.reconciler.run_once()
    assert (await lab.only_session()).state is State.COMPLETED


async def test_looks_become_rarer_and_then_a_person_is_called(lab: Lab) -> None:
    """1 s, 5 s, 30 s, 2 min … a day; after the list no more sends, and the session stays listed."""
    await lose(lab)
    asked = []
    for _ in range(9):
        lab.gateway.will(lab.gateway.answers(200, no_events()))
        session = await lab.only_session()
        due = session.next_at or session.updated_at + 1000
        await asyncio.sleep(max(0.0, (due - lab.clock.now_ms()) / 1000) + 0.001)
        before = (await lab.only_session()).lookups
        await lab.reconciler.run_once()
        asked.append((await lab.only_session()).lookups - before)
        lab.gateway._steps.clear()
    session = await lab.only_session()
    assert asked == [1] * 8 + [0]
    assert (session.state, session.outcome) == (State.FAILED_MAX_RETRIES, Outcome.UNKNOWN)
    assert session.review_required
    assert session.listed


async def test_without_a_recipe_a_person_is_called(lab: Lab) -> None:
    """A gateway that can be neither repeated nor asked: listed, and flagged for a person."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    await lab.reconciler.run_once()
    session = await lab.only_session()
    assert session.review_required
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)


async def test_a_configured_credential_asks_after_a_restart(tmp_path: Path) -> None:
    """The request is not in memory any more; a configured read-only credential is enough."""
    text = POLICY.replace(
        "{profile: stripe,", "{profile: stripe, lookup_credential: {env: READ_KEY},"
    )
    lab = Lab(settings_from(text, tmp_path, {"READ_KEY": "Bearer rk_test_read"}))
    await lose(lab)
    lab.held.drop("ps_0001")
    lab.gateway.will(
        lab.gateway.answers(200, events("k-1")), lab.gateway.answers(200, intent("succeeded"))
    )
    await asyncio.sleep(1.1)
    await lab.reconciler.run_once()
    assert ("Authorization", "Bearer rk_test_read") in lab.gateway.seen[-1].headers
    assert (await lab.only_session()).state is State.COMPLETED
    await lab.close()


async def test_without_a_credential_it_waits_for_the_client(lab: Lab) -> None:
    """No credential at all: nothing is asked, and after the deadline a person is called."""
    await lose(lab)
    lab.held.drop("ps_0001")
    await asyncio.sleep(60)
    await lab.reconciler.run_once()
    assert not (await lab.only_session()).review_required
    await asyncio.sleep(16 * 60)
    await lab.reconciler.run_once()
    session = await lab.only_session()
    assert session.review_required
    assert session.outcome is Outcome.UNKNOWN


async def test_a_repeat_does_not_use_up_the_looks(lab: Lab) -> None:
    """Ten impatient clicks: the look-ups planned for a day are still there, nothing grows."""
    await lose(lab)
    lab.gateway.will(*[lab.gateway.answers(200, no_events())] * 11)
    for _ in range(10):
        await lab.merchant_sends(pay(key="k-1"))
    session = await lab.only_session()
    assert (session.state, session.lookups) == (State.INTERRUPTED, 1)


async def test_a_repeat_waits_for_a_look_up_no_longer_than_for_a_payment(lab: Lab) -> None:
    """A gateway that pages for minutes: the client hears that it is unknown after its total."""
    await lose(lab)

    async def slowly(send: Send) -> WireFacts:
        await asyncio.sleep(9)
        return await lab.gateway.answers(200, no_events(more=True))(send)

    lab.gateway.will(*[slowly] * 20)
    begun = lab.clock.monotonic()
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 504 outcome-unknown"
    assert lab.clock.monotonic() - begun == pytest.approx(30)


@pytest.mark.parametrize(
    "odd", [events("k-1", intent="@@"), no_events(more=True).replace(b"evt_9", b"@@")]
)
async def test_an_odd_look_up_answer_stops_nobody(lab: Lab, odd: bytes) -> None:
    """A name, or a place to go on at, that is no text: inconclusive, and one of its looks."""
    await lose(lab)
    lab.gateway.will(lab.gateway.answers(200, odd.replace(b"@@", b"\\ud800")))
    await lab.merchant_sends(pay(key="k-1"))
    session = await lab.only_session()
    assert (session.outcome, session.lookups) == (Outcome.UNKNOWN, 1)


# --- gateways that are searched, or have a payment voided ----------------------------------------

PROFILE = """
title: A gateway without a useful key
idempotency: {class: CLASS, window: 24h}
results:
  - {when: {status: [4xx]}, result: rejected}
  - {when: {status: [2xx], json: [{path: status, in: [succeeded]}]}, result: succeeded}
routes:
  - name: pay
    match: {methods: [POST], path: /pay}
    session: durable
    lookup: payment
    order: {form: order_id}
lookups:
  payment:
"""
SEARCHED = """
    find: "/payments?key={gateway_key}"
    items: payments[*]
    match: [{path: key, value: "{gateway_key}"}]
    id: id
    read: /payments/{id}
    not_found_proves: {after: 4m, confirmations: 2}
"""
READ_BY_ORDER = """
    read: /verify/{order}
    not_found_proves:
      {after: 4m, confirmations: 2, when: {status: [404], json: [{path: code, in: [none]}]}}
"""
VOIDED = """
    cancel:
      target: /payments/cancel
      body: '{"key": "{gateway_key}"}'
      proves: {status: [200], json: [{path: errors, present: false}]}
"""
NONE_THERE = b'{"payments": []}'
THERE = b'{"payments": [{"key": "k-1", "id": "p7"}]}'


def lab_of(folder: Path, recipe: str, gateway_class: str = "B_lookup", more: str = "") -> Lab:
    """A laboratory with such a gateway, named `plain`."""
    (folder / "gateways").mkdir()
    profile = PROFILE.replace("CLASS", gateway_class) + recipe
    (folder / "gateways/mine.yaml").write_text(profile, encoding="utf-8")
    policy = POLICY.replace("profile: generic,", f"profile: mine, {more}")
    environ = {"KEY": "Bearer sk_test_lab"}
    return Lab(settings_from(policy, folder, environ))


async def lose_one(lab: Lab, order: str | None = None) -> None:
    """A payment whose one answer was lost."""
    lab.gateway.will(lab.gateway.loses_answer())
    await buy(lab, order)
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN


async def buy(lab: Lab, order: str | None = None) -> None:
    """The request of these gateways, again and again the same one."""
    body = b"order_id=o-1&amount=1999"
    await lab.merchant_sends(pay(key="k-1", order=order, target="/pay", body=body), "plain")


async def look(lab: Lab, *answers: bytes, status: int = 200) -> Session:
    """The reconciler's next turn, with what the gateway says to it."""
    session = await lab.only_session()
    due = session.next_at or session.updated_at + 1000
    await asyncio.sleep(max(0.0, (due - lab.clock.now_ms()) / 1000) + 0.001)
    lab.gateway.will(*[lab.gateway.answers(status, answer) for answer in answers])
    await lab.reconciler.run_once()
    return await lab.only_session()


async def until_proved(lab: Lab, *answers: bytes, status: int = 200) -> Session:
    """As many turns as it takes."""
    session = await lab.only_session()
    for _ in range(8):
        if session.outcome is Outcome.UNKNOWN:
            session = await look(lab, *answers, status=status)
    return session


def steps_of(session: Session) -> list[str]:
    """What happened, in its order."""
    return [step.event for step in session.timeline]


async def test_nothing_found_often_enough_makes_way_for_a_new_attempt(tmp_path: Path) -> None:
    """Twice, four minutes apart, four minutes after the send: then the repeat has another key."""
    lab = lab_of(tmp_path, SEARCHED)
    await lose_one(lab)
    session = await until_proved(lab, NONE_THERE)
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.NOT_CHARGED)
    first, last = session.not_found
    assert first - (session.last_send_at or 0) >= 240_000
    assert last - first >= 240_000
    assert (session.reference or "").startswith("not found 2 times since 20")
    assert session.generation == 2
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await buy(lab)
    keys = [dict(s.headers)["Idempotency-Key"] for s in lab.gateway.seen if s.method == "POST"]
    assert keys == ["k-1", session.gateway_key]
    session = await lab.only_session()
    assert (session.state, [a.generation for a in session.attempts]) == (State.COMPLETED, [1, 2])
    await lab.close()


async def test_a_repeat_that_brings_the_last_proof_is_sent_at_once(tmp_path: Path) -> None:
    """Look-up, proof and new attempt, all while the client waits."""
    lab = lab_of(tmp_path, SEARCHED)
    await lose_one(lab)
    while not (await look(lab, NONE_THERE)).not_found:
        pass
    await asyncio.sleep(241)
    lab.gateway.will(lab.gateway.answers(200, NONE_THERE), lab.gateway.answers(200, SUCCEEDED))
    await buy(lab)
    assert lab.transcript[-1] == "answer 200"
    assert (await lab.only_session()).state is State.COMPLETED
    await lab.close()


async def test_silence_of_such_a_gateway_proves_nothing_either(tmp_path: Path) -> None:
    """Without `not_found_proves` no number of looks does (the control of the two before)."""
    lab = lab_of(tmp_path, SEARCHED.replace("    not_found_proves", "    # not_found_proves"))
    await lose_one(lab)
    session = await until_proved(lab, NONE_THERE)
    assert (session.outcome, session.generation, session.not_found) == (Outcome.UNKNOWN, 1, ())
    await lab.close()


async def test_repeats_do_not_confirm_what_is_not_there(tmp_path: Path) -> None:
    """Ten clicks and a resume, all within a second, are one confirmation."""
    lab = lab_of(tmp_path, SEARCHED)
    await lose_one(lab)
    while not (await look(lab, NONE_THERE)).not_found:
        pass
    lab.gateway.will(*[lab.gateway.answers(200, NONE_THERE)] * 12)
    for _ in range(10):
        await buy(lab)
    await lab.commands.resume("ps_0001")
    await lab.settle_down()
    session = await lab.only_session()
    assert (session.outcome, len(session.not_found)) == (Outcome.UNKNOWN, 1)
    await lab.close()


async def test_impatience_uses_up_no_looks(tmp_path: Path) -> None:
    """Resumed ten times while the gateway shows nothing: it goes on being looked up by itself."""
    lab = lab_of(tmp_path, SEARCHED)
    await lose_one(lab)
    for _ in range(10):
        lab.gateway.will(lab.gateway.answers(200, NONE_THERE))
        await lab.commands.resume("ps_0001")
        await lab.settle_down()
    session = await lab.only_session()
    assert (session.state, session.lookups) == (State.INTERRUPTED, 0)
    assert steps_of(session).count("LookedUp") == 10
    # The control: those that come by themselves are counted.
    assert (await look(lab, NONE_THERE)).lookups == 1
    await lab.close()


async def test_nothing_is_resumed_on_a_route_that_moves_no_money(tmp_path: Path) -> None:
    """After a restart the policy says so of its route: without key and intent nothing goes out."""
    lab = lab_of(tmp_path, SEARCHED, "A_strong", "retry: {automatic_attempts: 1},")
    await lose_one(lab)
    (pattern, route), *rest = lab.lanes["plain"].routes.routes
    assert route.name == (await lab.only_session()).route
    stream = replace(route, session=SessionKind.EPHEMERAL)
    table = replace(lab.lanes["plain"].routes, routes=((pattern, stream), *rest))
    lab.lanes["plain"] = replace(lab.lanes["plain"], routes=table)
    lab.gateway.will(lab.gateway.answers(200, NONE_THERE))
    await lab.commands.resume("ps_0001")
    await lab.settle_down()
    assert lab.gateway.seen[-1].method == "GET"
    await lab.close()


async def test_looks_that_overlap_confirm_nothing(tmp_path: Path) -> None:
    """Asked at the same moment and answered apart: nobody has looked again after the first."""
    recipe = SEARCHED.replace("after: 4m", "after: 5s") + "max_processing_time: 5s\n"
    lab = lab_of(tmp_path, recipe)
    await lose_one(lab)
    await asyncio.sleep(6)
    lab.gateway.will(*[lab.gateway.answers_late(seconds, 200, NONE_THERE) for seconds in (1, 9)])
    session = await lab.only_session()
    looks = [lab.reconcile.once(lab.lanes["plain"], session) for _ in range(2)]
    await asyncio.gather(*looks)
    session = await lab.only_session()
    assert (session.outcome, len(session.not_found)) == (Outcome.UNKNOWN, 1)
    await lab.close()


async def test_what_was_there_once_is_not_missing(tmp_path: Path) -> None:
    """Between two confirmations something was there: the counting starts anew."""
    lab = lab_of(tmp_path, SEARCHED)
    await lose_one(lab)
    while not (await look(lab, NONE_THERE)).not_found:
        pass
    session = await look(lab, THERE, b'{"id": "p7", "status": "odd"}')
    assert (session.outcome, session.not_found) == (Outcome.UNKNOWN, ())
    await lab.close()


async def test_without_sends_left_the_proof_ends_it(tmp_path: Path) -> None:
    """Not charged, no attempts left: over, the order is free, and the client is told so."""
    lab = lab_of(tmp_path, SEARCHED, more="retry: {max_attempts: 1},")
    await lose_one(lab, order="o-1")
    session = await until_proved(lab, NONE_THERE)
    assert (session.state, session.outcome) == (State.FAILED_MAX_RETRIES, Outcome.NOT_CHARGED)
    assert not session.locks_order
    await buy(lab, order="o-1")
    assert lab.transcript[-1] == "answer 502 retries-exhausted"
    await lab.close()


async def test_past_its_time_the_proof_expires_it(tmp_path: Path) -> None:
    """Proved after the deadline: nobody expects the charge any more."""
    lab = lab_of(tmp_path, SEARCHED.replace("4m", "20m"))
    await lose_one(lab)
    session = await until_proved(lab, NONE_THERE)
    assert (session.state, session.outcome) == (State.EXPIRED, Outcome.NOT_CHARGED)
    await lab.close()


async def test_another_credential_proves_nothing(tmp_path: Path) -> None:
    """The configured one may be another account's, unless the policy says that it sees all."""
    for number, sees_all in enumerate(("false", "true")):
        folder = tmp_path / str(number)
        folder.mkdir()
        more = f"lookup_credential: {{env: KEY, sees_all: {sees_all}}},"
        lab = lab_of(folder, SEARCHED, more=more)
        await lose_one(lab)
        lab.held.drop("ps_0001")
        session = await until_proved(lab, NONE_THERE)
        proved = Outcome.NOT_CHARGED if sees_all == "true" else Outcome.UNKNOWN
        assert session.outcome is proved
        await lab.close()


async def test_a_payment_is_read_by_its_order(tmp_path: Path) -> None:
    """No list: charged if it is shown, not charged if it is declared not to be there."""
    lab = lab_of(tmp_path, READ_BY_ORDER)
    await lose_one(lab)
    session = await until_proved(lab, b'{"code": "none"}', status=404)
    assert lab.gateway.seen[-1].target == "/verify/o-1"
    assert session.outcome is Outcome.NOT_CHARGED
    await lab.close()


async def test_an_order_that_only_the_header_names_is_not_read(tmp_path: Path) -> None:
    """The gateway knows it by another name: it would have nothing, and a person is called."""
    lab = lab_of(tmp_path, READ_BY_ORDER)
    await lose_one(lab, order="o-other")
    session = await look(lab)
    assert session.review_required
    assert len(lab.gateway.seen) == 1
    await lab.close()


async def test_a_payment_is_voided_by_its_key(tmp_path: Path) -> None:
    """Two minutes after the send, with the intent on record before: then a new attempt may come."""
    lab = lab_of(tmp_path, VOIDED, "C_cancel_by_key")
    await lose_one(lab)
    await asyncio.sleep(100)
    assert "VoidAsked" not in steps_of(await look(lab))
    await asyncio.sleep(20)
    session = await look(lab, b"{}")
    send = lab.gateway.seen[-1]
    assert (send.method, send.target, send.body) == ("POST", "/payments/cancel", b'{"key": "k-1"}')
    assert ("authorization", "Bearer sk_test_lab") in send.headers
    wire = max(i for i, line in enumerate(lab.transcript) if line.startswith("wire"))
    assert lab.transcript[wire - 1].startswith("store  VoidAsked")
    assert steps_of(session)[-2:] == ["VoidAsked", "EvidenceFound"]
    asked = session.timeline[-2].at
    assert asked - (session.last_send_at or 0) >= 120_000
    assert (session.state, session.generation) == (State.INTERRUPTED, 2)
    await lab.close()


@pytest.mark.parametrize(("status", "answer"), [(200, b'{"errors": []}'), (401, b"{}"), (500, b"")])
async def test_too_late_to_void_proves_nothing(tmp_path: Path, status: int, answer: bytes) -> None:
    """Already completed, not allowed, or no word: it is asked again at its next turn."""
    lab = lab_of(tmp_path, VOIDED, "C_cancel_by_key")
    await lose_one(lab)
    await asyncio.sleep(120)
    session = await look(lab, answer, status=status)
    assert (session.outcome, session.lookups) == (Outcome.UNKNOWN, 1)
    await lab.close()


async def test_a_payment_that_is_found_is_not_voided(tmp_path: Path) -> None:
    """The look-up comes first, and what it finds stands."""
    lab = lab_of(tmp_path, SEARCHED + VOIDED, "C_cancel_by_key")
    await lose_one(lab)
    await asyncio.sleep(200)
    session = await look(lab, THERE, SUCCEEDED)
    assert (session.state, "VoidAsked" in steps_of(session)) == (State.COMPLETED, False)
    await lab.close()


async def test_only_a_person_has_it_voided_at_other_gateways(tmp_path: Path) -> None:
    """Class B_lookup: by itself nothing is undone; a cancel has it voided, and is then done."""
    lab = lab_of(tmp_path, VOIDED)
    await lose_one(lab)
    await asyncio.sleep(200)
    assert "VoidAsked" not in steps_of(await look(lab))
    _, over = await lab.commands.cancel("ps_0001", "changed my mind")
    assert not over
    lab.gateway.will(lab.gateway.answers(200, b"{}"))
    await lab.settle_down()
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.CANCELLED, Outcome.NOT_CHARGED)
    await lab.close()


async def test_what_a_process_died_over_is_not_voided_by_itself(tmp_path: Path) -> None:
    """Its backend may have heard of a charge that could not be written down."""
    more = "lookup_credential: {env: KEY, sees_all: true},"
    lab = lab_of(tmp_path, VOIDED + "      after: 0s\n", "C_cancel_by_key", more)
    lab.gateway.will(lab.gateway.hangs())
    paying = asyncio.ensure_future(buy(lab))
    await asyncio.sleep(1)
    flying = await lab.only_session()
    dead = await lab.journal.update(flying, lambda s: _restarted(lab, s), frozenset())
    assert dead.outcome is Outcome.UNKNOWN
    lab.walks.by_session.clear()
    session = await look(lab)
    assert "VoidAsked" not in steps_of(session)
    assert session.review_required
    await paying
    await lab.close()


def _restarted(lab: Lab, _session: Session) -> Change:
    return Change([ProcessRestarted(lab.clock.now_ms())])


async def test_a_charge_that_may_just_have_been_voided_is_not_vouched_for(tmp_path: Path) -> None:
    """What a person saw on the gateway's page may be gone since; they are told to look again."""
    lab = lab_of(tmp_path, VOIDED, "C_cancel_by_key")
    await lose_one(lab)
    asked = VoidAsked(lab.clock.now_ms())
    await lab.journal.update(await lab.only_session(), lambda _: Change([asked]), frozenset())
    for seconds in (125, 6):  # it may have been on its way for ten of them
        with pytest.raises(NotAllowed, match="just asked to be voided; look again once 130 s"):
            await lab.commands.complete("ps_0001", "pi_1")
        await asyncio.sleep(seconds)
    session = await lab.commands.complete("ps_0001", "pi_1")
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    await lab.close()


async def test_nothing_at_another_address_proves_nothing(tmp_path: Path) -> None:
    """Its upstream was changed with a payment open: no trace of it there, and nothing is voided."""
    lab = lab_of(tmp_path, SEARCHED + VOIDED, "C_cancel_by_key")
    await lose_one(lab)
    lab.lanes["plain"] = replace(lab.lanes["plain"], endpoint="https://eu.example.com")
    session = await until_proved(lab, NONE_THERE)
    assert (session.outcome, session.not_found) == (Outcome.UNKNOWN, ())
    assert "VoidAsked" not in steps_of(session)
    await lab.close()


async def test_a_charge_seen_while_it_is_voided_does_not_count(tmp_path: Path) -> None:
    """A look-up that overlaps with the void shows what may be gone; a later one tells."""
    lab = lab_of(tmp_path, SEARCHED + VOIDED, "C_cancel_by_key")
    await lose_one(lab)
    await asyncio.sleep(200)
    session = await lab.only_session()
    now = lab.clock.now_ms()
    await lab.journal.update(session, lambda _: Change([VoidAsked(now)]), frozenset())
    session = await look(lab, THERE, SUCCEEDED, b'{"errors": []}')
    assert session.outcome is Outcome.UNKNOWN
    await asyncio.sleep(131)
    session = await look(lab, THERE, SUCCEEDED)
    assert session.outcome is Outcome.CHARGED
    await lab.close()


@pytest.mark.parametrize("void_asked", [True, False])
async def test_a_late_charge_that_may_be_voided_is_put_before_a_person(
    tmp_path: Path, void_asked: bool
) -> None:
    """No word of what the void came to, then "charged": gone again? A control without a void."""
    lab = lab_of(tmp_path, VOIDED + "      after: 0s\n", "C_cancel_by_key")
    lab.gateway.will(lab.gateway.answers_too_late(20, 200, SUCCEEDED))
    await buy(lab)
    if void_asked:
        await asyncio.sleep(2)
        lab.gateway.will(lab.gateway.loses_answer())
        await lab.reconciler.run_once()
    await asyncio.sleep(20)
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert ("VoidAsked" in steps_of(session), session.review_required) == (void_asked, void_asked)
    assert session.listed is void_asked
    await lab.close()


async def test_a_weak_gateway_is_asked_before_it_is_sent_again(tmp_path: Path) -> None:
    """Opted in: looked up first; in vain, so the next repeat may send the same key once more."""
    more = "idempotency: {resend_lost_answers: true},"
    lab = lab_of(tmp_path, SEARCHED, "A_weak", more)
    await lose_one(lab)
    assert len(lab.gateway.seen) == 1  # not by itself
    lab.gateway.will(lab.gateway.answers(200, NONE_THERE))
    await buy(lab)
    assert lab.transcript[-1] == "answer 504 outcome-unknown"
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await buy(lab)
    assert [send.method for send in lab.gateway.seen] == ["POST", "GET", "POST"]
    session = await lab.only_session()
    assert (session.state, [a.generation for a in session.attempts]) == (State.COMPLETED, [1, 1])
    await lab.close()


async def test_a_weak_gateway_is_not_sent_again_unless_somebody_said_so(tmp_path: Path) -> None:
    """The control: without the opt-in every repeat only looks."""
    lab = lab_of(tmp_path, SEARCHED, "A_weak")
    await lose_one(lab)
    lab.gateway.will(*[lab.gateway.answers(200, NONE_THERE)] * 3)
    for _ in range(3):
        await buy(lab)
    assert [send.method for send in lab.gateway.seen] == ["POST", "GET", "GET", "GET"]
    await lab.close()


# --- what the gateway says by itself -------------------------------------------------------------


@pytest.mark.parametrize("first", ["webhook", "look-up"])
async def test_a_webhook_and_a_look_up_in_any_order(lab: Lab, first: str) -> None:
    """Whoever comes first settles it, and the other changes nothing."""
    await lose(lab)
    hear = lab.commands.hear("ps_0001", AttemptStatus.SUCCEEDED, "pi_7", key="k-1")
    if first == "webhook":
        session = await hear
        assert session.timeline[-1].event == "EvidenceFound"
    lab.gateway.will(
        lab.gateway.answers(200, events("k-1")), lab.gateway.answers(200, intent("succeeded"))
    )
    if first != "webhook":
        await look(lab)
        await hear
    session = await lab.only_session()
    assert (session.state, session.reference) == (State.COMPLETED, "pi_7")
    assert steps_of(session).count("EvidenceFound") == 1


async def test_a_webhook_without_a_charge_counts_late_and_for_its_key(lab: Lab) -> None:
    """Too early the gateway may still be at it; of another key it says nothing about this one."""
    await lose(lab)
    declined = AttemptStatus.DECLINED
    assert (await lab.commands.hear("ps_0001", declined, "pi_7", key="k-1")).live
    await asyncio.sleep(130)
    assert (await lab.commands.hear("ps_0001", declined, "pi_7", key="k-0")).live
    session = await lab.commands.hear("ps_0001", declined, "pi_7", key="k-1")
    assert (session.state, session.outcome) == (State.DECLINED, Outcome.NOT_CHARGED)


async def test_a_webhook_that_it_was_voided_makes_way_for_a_new_attempt(lab: Lab) -> None:
    """As good as the gateway's own answer to a cancel."""
    await lose(lab)
    await asyncio.sleep(130)
    voided = AttemptStatus.VOIDED
    session = await lab.commands.hear("ps_0001", voided, "pi_7", key="k-1")
    # Three sends were made, and there are no more.
    assert (session.state, session.generation) == (State.FAILED_MAX_RETRIES, 2)


async def test_a_charge_after_the_end_is_put_before_a_person(lab: Lab) -> None:
    """Cancelled, and the webhook says charged: it stays listed until somebody has seen to it."""
    await lab.commands.create(ORDER)
    session, _ = await lab.commands.cancel("ps_0001", "changed my mind")
    assert session.state is State.CANCELLED
    session = await lab.commands.hear("ps_0001", AttemptStatus.SUCCEEDED, "pi_7", key="k-1")
    assert (session.state, session.late_evidence) == (State.COMPLETED, True)
    assert [s.id for s in await lab.store.listed()] == ["ps_0001"]
    await lab.commands.complete("ps_0001", "pi_7")
    assert await lab.store.listed() == []


async def test_bytes_with_the_old_key_do_not_leave_after_the_proof(tmp_path: Path) -> None:
    """While a repeat connects, the proof comes: its bytes bear the key of what is closed."""
    policy = POLICY.replace("retry: {", "retry: {max_attempts: 5, automatic_attempts: 1, ")
    lab = Lab(settings_from(policy, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1"))
    sends = lab.gateway.answers(200, SUCCEEDED)

    async def proved_meanwhile(send: Send) -> WireFacts:
        proof = EvidenceFound(
            lab.clock.now_ms(), EvidenceSource.WEBHOOK, AttemptStatus.VOIDED, "pi_7", "k-2"
        )
        session = await lab.only_session()
        await lab.journal.update(session, lambda _: Change([proof]), frozenset())
        return await sends(send)

    lab.gateway.will(proved_meanwhile)
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 502 not-sent"
    assert len(lab.gateway.seen) == 1
    lab.gateway.will(sends)
    await lab.merchant_sends(pay(key="k-1"))
    assert dict(lab.gateway.seen[-1].headers)["Idempotency-Key"] == "k-2"
    assert (await lab.only_session()).state is State.COMPLETED
    await lab.close()


async def test_what_bears_no_key_is_never_looked_for_by_one(tmp_path: Path) -> None:
    """Nor once a person has said that nothing was charged, and the next send is a new attempt."""
    lab = lab_of(tmp_path, SEARCHED, "B_lookup, key: {nowhere: true}")
    await lose_one(lab, "o-1")
    await asyncio.sleep(130)
    await lab.commands.not_charged((await lab.only_session()).id, "their desk says so")
    await lose_one(lab, "o-1")
    assert (await until_proved(lab, NONE_THERE)).outcome is Outcome.UNKNOWN
    assert (await lab.only_session()).gateway_key is None
    await lab.close()
