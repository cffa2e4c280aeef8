"""What is special of GoCardless's SDK and its gateway; the rest is in test_every_sdk.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gocardless_pro.errors import IdempotentCreationConflictError

from proxy.demo.dialects.gocardless import DECLINED
from proxy.demo.faults import Fault
from tests.e2e.gateways.shops import GOCARDLESS
from tests.e2e.gateways.trial import trial
from tests.support.tcp_faults import ANSWER_LOST

PAYMENT = {"amount": 1999, "currency": "EUR", "links": {"mandate": "MD1"}}


async def test_a_failure_is_seen_later(tmp_path: Path) -> None:
    """Created is on its way: that it came to nothing is read at GoCardless."""
    async with trial(GOCARDLESS, tmp_path) as it:
        paid = await it.pay(mandate=DECLINED)
        later = await asyncio.to_thread(it.sdk.payments.get, paid.payment)

    assert (paid.state, later.status) == ("pending_submission", "failed")
    assert it.lines == []


async def test_who_sends_no_key_gets_one(tmp_path: Path) -> None:
    """The SDK always sends one; others need not."""
    async with trial(GOCARDLESS, tmp_path) as it:
        assert await it.posts("/payments", {"payments": PAYMENT}) == 201

    assert [len(key or "") for key in it.keys] == [32]


async def test_what_is_wrong_with_a_request_is_told_as_it_is_directly(tmp_path: Path) -> None:
    """Not executed, and so it is closed."""
    async with trial(GOCARDLESS, tmp_path) as it:
        told = await it.calls(it.sdk.payments.create, {"amount": 5})
        outcome = await it.outcome()

    assert (told.raised, told.code) == ("ValidationFailedError", "validation_failed")
    assert outcome == ("DECLINED", "not_charged")


async def test_who_wants_to_hear_of_the_conflict_does(tmp_path: Path) -> None:
    """It goes back as it came, with the name of the payment, and counts as what it says."""
    lost, again = {**PAYMENT, "metadata": {"order_id": "o-1"}}, {"Idempotency-Key": "k-1"}
    async with trial(GOCARDLESS, tmp_path, Fault.RESET_AFTER, gateway="") as it:
        payments = it.sdk.payments
        payments.raise_on_idempotency_conflict = True
        conflict = None
        try:
            await asyncio.to_thread(payments.create, lost, again)
        except IdempotentCreationConflictError as error:
            conflict = error
        outcome = await it.outcome()

    assert conflict is not None
    assert [conflict.conflicting_resource_id] == it.lines
    assert outcome == ("COMPLETED", "charged")


async def test_the_sdks_own_repeat_is_answered_from_the_record(tmp_path: Path) -> None:
    """The answer was lost between it and Holdfast."""
    async with trial(GOCARDLESS, tmp_path) as it:
        it.door.plan.append(ANSWER_LOST)
        paid = await it.pay(sends=3)

    assert [paid.payment] == it.lines
    assert (it.payments_asked, it.gateway.arrivals) == (2, {"o-1": 1})


async def test_an_order_that_is_named_in_a_header(tmp_path: Path) -> None:
    """A new key for it is refused."""
    named = {"X-Payment-Order-Id": "o-1"}
    async with trial(GOCARDLESS, tmp_path) as it:
        await it.pay(**named)
        told = await it.pay(key="k-2", **named)

    assert (told.raised, told.code) == ("InvalidApiUsageError", "order_already_paid")
    assert len(it.lines) == 1


async def test_an_action_is_sent_once(tmp_path: Path) -> None:
    """Of it GoCardless promises nothing, so a lost answer stays unknown."""
    async with trial(GOCARDLESS, tmp_path, Fault.NONE, Fault.RESET_AFTER, gateway="") as it:
        paid = await it.pay()
        told = await it.calls(it.sdk.payments.cancel, paid.payment)
        outcome = await it.latest()

    assert told.code == "outcome_unknown"
    assert outcome == ("INTERRUPTED", "unknown")
    assert it.gateway.arrivals == {"o-1": 2}


async def test_a_payment_is_cancelled(tmp_path: Path) -> None:
    """What was asked for is done, and charges nothing."""
    async with trial(GOCARDLESS, tmp_path) as it:
        paid = await it.pay()
        cancelled = await asyncio.to_thread(it.sdk.payments.cancel, paid.payment)
        outcome = await it.latest()

    assert (cancelled.status, outcome) == ("cancelled", ("COMPLETED", "not_charged"))
    assert it.lines == []


async def test_a_lost_refund_is_made_once(tmp_path: Path) -> None:
    """Sent again with the SDK's key."""
    async with trial(GOCARDLESS, tmp_path, Fault.NONE, Fault.RESET_AFTER, gateway="") as it:
        paid = await it.pay()
        asks = {"amount": 5, "links": {"payment": paid.payment}}
        refund = await asyncio.to_thread(it.sdk.refunds.create, asks)

    assert (refund.amount, len(it.ledger.refunds)) == (5, 1)
