"""The gateway's own word about a lost answer: found, not found, not yet to be believed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from proxy.core.reasons import Reason
from proxy.core.states import Outcome, State
from proxy.core.wire import WireFacts
from proxy.ports import Send
from tests.support.lab import POLICY, Lab, header_of, pay, settings_from

pytestmark = pytest.mark.looptime


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


async def test_an_odd_look_up_answer_stops_nobody(lab: Lab) -> None:
    """A name that is no text: inconclusive, and the next one is looked after as ever."""
    await lose(lab)
    odd = events("k-1", intent="@@").replace(b"@@", b"\\ud800")
    lab.gateway.will(lab.gateway.answers(200, odd))
    await lab.merchant_sends(pay(key="k-1"))
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN
