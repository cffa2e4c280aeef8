"""GoCardless's own SDK through Holdfast, before the simulated GoCardless."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gocardless_pro.errors import (
    GoCardlessInternalError,
    IdempotentCreationConflictError,
    InvalidApiUsageError,
    ValidationFailedError,
)

from proxy.demo.dialects.gocardless import DECLINED, SimulatedGoCardless
from proxy.demo.faults import Fault
from tests.e2e.gateways.stall import FRAIL, LOST, Kind, Shop, shop
from tests.support.sdks_of_gateways import gocardless_python
from tests.support.tcp_faults import ANSWER_LOST

GOCARDLESS = Kind("gocardless", SimulatedGoCardless, gocardless_python)
PAYMENT: dict[str, Any] = {
    "amount": 1999,
    "currency": "EUR",
    "metadata": {"order_id": "o-1"},
    "links": {"mandate": "MD1"},
}
KEY = {"Idempotency-Key": "k-1"}
UNPROTECTED = (
    "[{name: create-payment, match: {methods: [POST], path: /payments}, session: ephemeral}]"
)


def creates(at: Shop, *, find: bool = True) -> Callable[..., Any]:
    """The SDK's call; `find`: what a conflict names, as it does unless told otherwise."""
    payments = at.sdk.payments
    payments.retry_delay_in_seconds = 0
    payments.raise_on_idempotency_conflict = not find
    create: Callable[..., Any] = payments.create
    return create


async def pay(at: Shop, headers: dict[str, str] | None = None, **more: Any) -> Any:
    """Pay order o-1 with key k-1."""
    return await asyncio.to_thread(creates(at), {**PAYMENT, **more}, headers or KEY)


async def refused(at: Shop, headers: dict[str, str] | None = None, **more: Any) -> Any:
    """What paying order o-1 raises, after one request: this SDK would repeat what it cannot
    read.
    """
    return await at.refused(lambda: creates(at)({**PAYMENT, **more}, headers or KEY))


async def test_a_payment_is_made_once_and_repeated_from_the_record(tmp_path: Path) -> None:
    """Again it is created, as the first time: the SDK need not read it."""
    async with shop(GOCARDLESS, tmp_path) as at:
        paid = await pay(at)
        again = await pay(at)
        money = await at.money()

    assert (paid.status, again.id) == ("pending_submission", paid.id)
    assert again.api_response.status_code == 201
    assert (at.keys, at.gateway.arrivals["o-1"], at.counter.requests) == (["k-1"], 1, 2)
    assert money == ("COMPLETED", "charged")


async def test_a_request_without_a_key_gets_one(tmp_path: Path) -> None:
    """The SDK makes one up, which stays as it is; whoever sends none gets Holdfast's."""
    async with shop(GOCARDLESS, tmp_path) as at:
        await pay(at, {"X-Shop": "1"})
        assert await at.posts("/payments", {"payments": PAYMENT}) == 201

    made_up, put_in = (str(key) for key in at.keys)
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", made_up)
    assert re.fullmatch("[0-9a-f]{32}", put_in)


async def test_a_failure_is_seen_later(tmp_path: Path) -> None:
    """Created is on its way: that it came to nothing is read at GoCardless."""
    async with shop(GOCARDLESS, tmp_path) as at:
        paid = await pay(at, links={"mandate": DECLINED})
        later = await asyncio.to_thread(at.sdk.payments.get, paid.id)

    assert (paid.status, later.status) == ("pending_submission", "failed")
    assert at.gateway.ledger.charges == []


async def test_what_is_wrong_with_a_request_is_told_as_it_is_directly(tmp_path: Path) -> None:
    """Not executed, and so it is closed."""
    async with shop(GOCARDLESS, tmp_path) as at:
        told = await refused(at, links={})
        money = await at.money()

    assert isinstance(told, ValidationFailedError)
    assert money == ("DECLINED", "not_charged")


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_is_fetched_with_the_same_key(fault: Fault, tmp_path: Path) -> None:
    """Sent again, it is a conflict that names the payment; the SDK reads that one."""
    async with shop(GOCARDLESS, tmp_path, fault) as at:
        paid = await pay(at)
        money = await at.money()
        again = await pay(at)

    assert paid.metadata == {"order_id": "o-1"}
    assert (again.id, money) == (paid.id, ("COMPLETED", "charged"))
    assert (at.charged, at.gateway.arrivals["o-1"]) == (1, 2)


async def test_who_wants_to_hear_of_the_conflict_does(tmp_path: Path) -> None:
    """It goes back as it came, with the name of the payment."""
    async with shop(GOCARDLESS, tmp_path, Fault.RESET_AFTER) as at:
        conflict = await at.refused(lambda: creates(at, find=False)(PAYMENT, KEY))
        money = await at.money()

    assert isinstance(conflict, IdempotentCreationConflictError)
    assert conflict.conflicting_resource_id == at.gateway.ledger.charges[0].payment
    assert money == ("COMPLETED", "charged")


async def test_answers_that_stay_lost_are_told_as_unknown(tmp_path: Path) -> None:
    """In the SDK's own exception, which it does not repeat; later the key finds it."""
    lost = [Fault.RESET_AFTER, Fault.RESET_BEFORE]
    few = "retry: {automatic_attempts: 2, backoff: {initial: 1ms, max: 1ms}}"
    async with shop(GOCARDLESS, tmp_path, *lost, more=few) as at:
        told = await refused(at)
        unknown = await at.money()
        paid = await pay(at)

    assert isinstance(told, GoCardlessInternalError)
    assert str(told).startswith("It is not known whether the customer was charged.")
    assert unknown == ("INTERRUPTED", "unknown")
    assert (paid.metadata, at.charged) == ({"order_id": "o-1"}, 1)


async def test_the_sdks_own_repeat_is_answered_from_the_record(tmp_path: Path) -> None:
    """The answer was lost between the two of them."""
    async with shop(GOCARDLESS, tmp_path) as at:
        at.counter.plan.append(ANSWER_LOST)
        paid = await pay(at)

    assert paid.status == "pending_submission"
    assert (at.counter.requests, at.gateway.arrivals["o-1"], at.charged) == (2, 1, 1)


async def test_a_new_key_for_each_try_is_refused_by_the_order(tmp_path: Path) -> None:
    """Where the shop names it, in a header that this SDK can send."""
    named = {"X-Payment-Order-Id": "o-1"}
    async with shop(GOCARDLESS, tmp_path) as at:
        await pay(at, {**KEY, **named})
        told = await refused(at, {"Idempotency-Key": "k-2", **named})

    assert isinstance(told, InvalidApiUsageError)
    assert str(told).startswith("This order is already charged.")
    assert (told.code, at.charged) == (409, 1)


async def test_a_new_key_for_each_try_pays_twice(tmp_path: Path) -> None:
    """The negative control: lost, not journaled, and brought again under another key."""
    lost = [Fault.RESET_AFTER]
    async with shop(GOCARDLESS, tmp_path, *lost, routes=UNPROTECTED) as at:
        await refused(at)
        await pay(at, {"Idempotency-Key": "k-2"})

    assert at.charged == 2


async def test_a_key_used_for_another_request_is_refused(tmp_path: Path) -> None:
    """By Holdfast: what GoCardless does with it is not known."""
    async with shop(GOCARDLESS, tmp_path) as at:
        await pay(at)
        told = await refused(at, amount=2999)

    assert isinstance(told, InvalidApiUsageError)
    assert "A key names one payment." in str(told)
    assert at.charged == 1


async def test_a_gateway_that_is_given_a_rest(tmp_path: Path) -> None:
    """Refused without a send, and the SDK does not repeat it."""
    async with shop(GOCARDLESS, tmp_path, Fault.UNAVAILABLE, more=FRAIL) as at:
        await refused(at)
        told = await refused(at, {"Idempotency-Key": "k-2"})

    assert isinstance(told, GoCardlessInternalError)
    assert "Nothing was sent." in str(told)
    assert at.charged == 0


async def test_an_action_is_sent_once(tmp_path: Path) -> None:
    """Of it GoCardless promises nothing, so a lost answer stays unknown."""
    async with shop(GOCARDLESS, tmp_path, Fault.NONE, Fault.RESET_AFTER) as at:
        paid = await pay(at)
        told = await at.refused(lambda: at.sdk.payments.cancel(paid.id))
        money = await at.money()

    assert isinstance(told, GoCardlessInternalError)
    assert money == ("INTERRUPTED", "unknown")
    assert at.gateway.arrivals["o-1"] == 2


async def test_a_refund_whose_answer_is_lost_is_made_once(tmp_path: Path) -> None:
    """Sent again with the SDK's key."""
    async with shop(GOCARDLESS, tmp_path, Fault.NONE, Fault.RESET_AFTER) as at:
        paid = await pay(at)
        asks = {"amount": 5, "links": {"payment": paid.id}}
        refund = await asyncio.to_thread(at.sdk.refunds.create, asks)

    assert (refund.amount, len(at.gateway.ledger.refunds)) == (5, 1)
