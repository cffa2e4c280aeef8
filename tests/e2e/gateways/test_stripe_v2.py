"""stripe-python's calls of Stripe's second API through Holdfast, before that API simulated: the
same profile as for the first, and a route of its own.

There a repeated key does what is left to do, so what failed may be tried again under it; Holdfast
gives the first no again.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
import stripe

from proxy.demo.dialects.stripe_v2 import DECLINED, SimulatedStripeV2
from proxy.demo.faults import Fault
from tests.e2e.gateways.desk import ONE_SEND, ORDER, Desk, desk
from tests.support.sdks_of_gateways import stripe_v2_python
from tests.support.tcp_faults import ANSWER_LOST

LOST = [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER]
NAMED = {"X-Payment-Order-Id": ORDER}
PAYMENTS = "/v2/money_management/outbound_payments"


def shop(
    folder: Path, *faults: Fault, gateway: str = "", more: str = ""
) -> contextlib.AbstractAsyncContextManager[Desk[stripe.StripeClient]]:
    """The desk of a shop at Stripe."""
    return desk(
        folder, "stripe", SimulatedStripeV2, stripe_v2_python, *faults, gateway=gateway, more=more
    )


async def pay(
    sdk: stripe.StripeClient,
    key: str | None = "k-1",
    *,
    to: str = "pm_bank",
    value: int = 1999,
    headers: dict[str, str] | None = None,
) -> Any:
    """Pay out for order o-1."""
    params: Any = {
        "amount": {"value": value, "currency": "eur"},
        "from": {"financial_account": "fa_1", "currency": "eur"},
        "to": {"recipient": "acct_1", "payout_method": to},
        "metadata": {"order_id": ORDER},
    }
    options: Any = {"headers": headers or {}, **({} if key is None else {"idempotency_key": key})}
    create = sdk.v2.money_management.outbound_payments.create
    return await asyncio.to_thread(create, params, options)


async def refused(at: Desk[stripe.StripeClient], *key: str, **more: Any) -> stripe.StripeError:
    """What paying raises, after one request."""
    before = at.door.requests
    with pytest.raises(stripe.StripeError) as error:
        await pay(at.client, *key, **more)
    assert at.door.requests == before + 1
    return error.value


def code(error: stripe.StripeError) -> str | None:
    """The code in the error object, which every exception has."""
    assert error.error is not None
    return error.error.code


async def test_paid_once_and_replayed(tmp_path: Path) -> None:
    """The repeat is the same payment, as it was told first."""
    async with shop(tmp_path) as at:
        paid = await pay(at.client)
        again = await pay(at.client)
        read = at.client.v2.money_management.outbound_payments.retrieve
        later = await asyncio.to_thread(read, paid.id)

        assert (paid.status, again.status, later.status) == ("processing", "processing", "posted")
        assert again.id == paid.id
        assert (at.keys, await at.money()) == (["k-1"], ("COMPLETED", "charged"))
        assert at.gateway.arrivals[ORDER] == 1


async def test_a_decline_comes_back_as_it_is(tmp_path: Path) -> None:
    """The exception of the second API; its key is used up, and a new one is another try."""
    async with shop(tmp_path) as at:
        declined = await refused(at, to=DECLINED)
        again = await refused(at, to=DECLINED)

        for error in (declined, again):
            assert isinstance(error, stripe.InsufficientFundsError)
            assert (error.http_status, error.code) == (400, "outbound_payment_insufficient_funds")
        assert await at.money() == ("DECLINED", "not_charged")
        assert (at.charges, at.gateway.arrivals[ORDER]) == (0, 1)
        assert (await pay(at.client, "k-2")).status == "processing"


@pytest.mark.parametrize("key", ["k-1", None])
@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_is_had_again_by_the_key(
    tmp_path: Path, fault: Fault, key: str | None
) -> None:
    """The caller's, or the one that the SDK makes up: one payment, and the truth."""
    async with shop(tmp_path, fault) as at:
        paid = await pay(at.client, key)

        assert (paid.status, await at.money()) == ("processing", ("COMPLETED", "charged"))
        assert (at.charges, at.gateway.arrivals[ORDER]) == (1, 2)
        assert at.keys[0] == key or key is None


@pytest.mark.parametrize("fault", LOST)
async def test_the_shops_repeat_hears_the_truth(tmp_path: Path, fault: Fault) -> None:
    """Where Holdfast does not send again by itself: unknown and listed, then paid once."""
    async with shop(tmp_path, fault, gateway=ONE_SEND) as at:
        lost = await refused(at)
        assert (lost.http_status, code(lost)) in {
            (504, "outcome_unknown"),
            (500, "internal_error"),
        }
        assert (await at.money(), await at.listed()) == (("INTERRUPTED", "unknown"), 1)
        found = await pay(at.client)

        assert (found.status, await at.money()) == ("processing", ("COMPLETED", "charged"))
        assert at.charges == 1


async def test_the_sdks_own_retries_pay_once(tmp_path: Path) -> None:
    """It repeats what was reset before Holdfast could answer: the payment on record."""
    async with shop(tmp_path) as at:
        patient = stripe.StripeClient(
            "sk_test_key", base_addresses={"api": at.door.url}, max_network_retries=2
        )
        at.door.plan.append(ANSWER_LOST)
        paid = await pay(patient)

        assert (paid.status, at.door.requests, at.charges) == ("processing", 2, 1)


async def test_refusals_are_the_sdks_own_exceptions(tmp_path: Path) -> None:
    """A held payment and a used key: each with a message, after one request."""
    async with shop(tmp_path, Fault.RESET_BEFORE, gateway=ONE_SEND) as at:
        await refused(at)
        await at.do("interrupt")
        held = await refused(at)
        reused = await refused(at, value=1)

        assert isinstance(reused, stripe.IdempotencyError)
        assert (reused.http_status, code(reused)) == (400, "idempotency_key_reused")
        assert isinstance(held, stripe.APIError)
        assert (held.http_status, code(held)) == (409, "session_held")
        assert all(error.user_message for error in (held, reused))


async def test_an_open_breaker_is_a_503(tmp_path: Path) -> None:
    """The gateway fails; the next payment is not sent, and the SDK does not insist."""
    breaker = "defaults: {breaker: {min_calls: 1}}"
    async with shop(tmp_path, Fault.UNAVAILABLE, gateway=ONE_SEND, more=breaker) as at:
        await refused(at)
        error = await refused(at, "k-2")

        assert (error.http_status, code(error)) == (503, "gateway_unavailable")
        assert at.gateway.arrivals[ORDER] == 1


async def test_a_payment_is_cancelled_once(tmp_path: Path) -> None:
    """Its own session: done, and nothing is charged by it."""
    async with shop(tmp_path) as at:
        paid = await pay(at.client)
        cancel = at.client.v2.money_management.outbound_payments.cancel
        cancelled = await asyncio.to_thread(cancel, paid.id)

        assert (cancelled.status, await at.money()) == ("canceled", ("COMPLETED", "not_charged"))
        assert (at.charges, len(at.gateway.ledger.voided)) == (0, 1)


async def test_two_payouts_for_one_order_are_meant(tmp_path: Path) -> None:
    """A payout locks no order: what names two keys is paid twice."""
    async with shop(tmp_path) as at:
        await pay(at.client, "k-1", headers=NAMED)
        await pay(at.client, "k-2", headers=NAMED)

        assert at.keys == ["k-1", "k-2"]


async def test_unprotected_a_new_key_pays_twice(tmp_path: Path) -> None:
    """The control: taken for one that moves no money, and the shop's repeat makes up a key."""
    route = f"{{name: pay, session: ephemeral, match: {{methods: [POST], path: {PAYMENTS}}}}}"
    async with shop(tmp_path, Fault.RESET_AFTER, gateway=f"routes: [{route}]") as at:
        lost = await refused(at)
        await pay(at.client, None)

        assert (lost.http_status, at.charges) == (502, 2)
