"""Paystack over plain HTTP (it has no SDK for Python) through Holdfast, before the simulated one.

It has no key but a reference, which is taken once: a repeat never charges, and never says what
became of the first. So what counts is that the merchant hears of the charge, and not of the
duplicate, whose advice is "try again with a new reference".
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.dialects.paystack import DECLINED, SimulatedPaystack
from proxy.demo.faults import Fault
from tests.e2e.gateways.desk import ONE_SEND, ORDER, Desk, desk
from tests.support.plain_http import Heard, Say, plain_http
from tests.support.stage import eventually

OWNER = {"Authorization": "Bearer sk_test_1"}
NAMED = {**OWNER, "X-Payment-Order-Id": ORDER}
CHARGE = "/transaction/charge_authorization"
LOST = [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER]


def shop(
    folder: Path, *faults: Fault, gateway: str = "", more: str = ""
) -> contextlib.AbstractAsyncContextManager[Desk[Say]]:
    """The desk of a shop at Paystack."""
    return desk(
        folder, "paystack", SimulatedPaystack, plain_http, *faults, gateway=gateway, more=more
    )


async def pay(
    say: Say, reference: str | None = "ref-1", headers: dict[str, str] = OWNER, **more: Any
) -> Heard:
    """Charge the customer's card for order o-1."""
    named = {} if reference is None else {"reference": reference}
    charge = {"email": "a@shop.example", "amount": 1999, "authorization_code": "AUTH_1"}
    body = {**charge, "metadata": {"order_id": ORDER}, **named, **more}
    return await say("POST", CHARGE, body, headers)


async def test_paid_once_and_replayed(tmp_path: Path) -> None:
    """Directly the repeat would hear of a duplicate; through Holdfast it hears of the charge."""
    async with shop(tmp_path) as at:
        paid = await pay(at.client)
        again = await pay(at.client)

        assert (paid.status, paid.body["data"]["status"]) == (200, "success")
        assert (again.status, again.body) == (200, paid.body)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert await at.money() == ("COMPLETED", "charged")
        assert (at.keys, at.gateway.arrivals[ORDER]) == (["ref-1"], 1)


async def test_a_decline_comes_back_as_it_is(tmp_path: Path) -> None:
    """A 200 that failed: read, and not repeated."""
    async with shop(tmp_path) as at:
        declined = await pay(at.client, authorization_code=DECLINED)

        assert (declined.status, declined.body["status"]) == (200, True)
        assert declined.body["data"]["gateway_response"] == "Declined"
        assert await at.money() == ("DECLINED", "not_charged")
        assert (at.charges, at.gateway.arrivals[ORDER]) == (0, 1)


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_is_looked_up_by_its_reference(tmp_path: Path, fault: Fault) -> None:
    """Sent again, told of a duplicate, looked up: one call, and the truth."""
    async with shop(tmp_path, fault) as at:
        paid = await pay(at.client)
        again = await pay(at.client)

        assert (paid.status, paid.body["data"]["status"]) == (200, "success")
        assert again.body == paid.body
        assert await at.money() == ("COMPLETED", "charged")
        assert (at.charges, at.gateway.arrivals[ORDER]) == (1, 2)


@pytest.mark.parametrize("fault", LOST)
async def test_the_shops_repeat_hears_the_truth(tmp_path: Path, fault: Fault) -> None:
    """Where Holdfast does not send again by itself, the shop's own repeat finds the charge."""
    async with shop(tmp_path, fault, gateway=ONE_SEND) as at:
        lost = await pay(at.client)
        assert lost.status in {500, 504}
        assert (await at.money(), await at.listed()) == (("INTERRUPTED", "unknown"), 1)
        found = await pay(at.client)

        assert (found.status, found.body["data"]["status"]) == (200, "success")
        assert (await at.money(), at.charges) == (("COMPLETED", "charged"), 1)


@pytest.mark.parametrize("fault", [Fault.RESET_BEFORE, Fault.UNAVAILABLE, Fault.THROTTLED])
async def test_what_never_arrived_is_sent_again(tmp_path: Path, fault: Fault) -> None:
    """Under the same reference, which the gateway has not seen."""
    async with shop(tmp_path, fault) as at:
        paid = await pay(at.client)

        assert (paid.status, paid.body["data"]["status"]) == (200, "success")
        assert at.keys == ["ref-1"]


async def test_without_a_credential_a_duplicate_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    """It cannot be looked up: unknown, listed, and never "try again with a new reference"."""
    async with shop(tmp_path, Fault.RESET_AFTER) as at:
        lost = await pay(at.client, headers={})

        assert (lost.status, lost.body["code"]) == (504, "outcome_unknown")
        assert (await at.money(), await at.listed()) == (("INTERRUPTED", "unknown"), 1)
        assert at.charges == 1


async def test_another_payments_reference_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """Used before and past Holdfast, for another amount: it does not say that this one is paid."""
    async with shop(tmp_path) as at:
        async with plain_http(at.origin) as directly:
            await pay(directly, amount=5)
        taken = await pay(at.client)

        assert (taken.status, taken.body["code"]) == (400, "duplicate_reference")
        assert (await at.money(), await at.listed()) == (("INTERRUPTED", "unknown"), 1)
        assert at.charges == 1


async def test_an_unknown_is_looked_up_in_the_background(tmp_path: Path) -> None:
    """Nobody comes back: by its reference and with its own credential, it is found."""
    async with shop(tmp_path, Fault.RESET_AFTER, gateway=ONE_SEND) as at:
        await pay(at.client)

        async def look() -> tuple[str, str]:
            at.clock.leap(1.0)
            return await at.money()

        assert await eventually(look, lambda m: m[1] == "charged") == ("COMPLETED", "charged")
        assert at.gateway.arrivals[ORDER] == 1


async def test_a_reference_is_put_in_where_there_is_none(tmp_path: Path) -> None:
    """Holdfast's own, the same on both sends, and found by it; so the charge has it as well."""
    async with shop(tmp_path, Fault.RESET_AFTER) as at:
        paid = await pay(at.client, None)

        (key,) = at.keys
        assert key is not None
        assert len(key) == 32
        assert (paid.status, paid.body["data"]["reference"]) == (200, key)


async def test_refusals_look_like_paystacks(tmp_path: Path) -> None:
    """Status false, a message and a code: an order already paid, a reused reference, a held one."""
    async with shop(tmp_path) as at:
        await pay(at.client, headers=NAMED)
        twice = await pay(at.client, "ref-2", NAMED)
        reused = await pay(at.client, amount=1)

        for refused, status, code in (
            (twice, 409, "order_already_paid"),
            (reused, 422, "idempotency_key_reused"),
        ):
            assert (refused.status, refused.body["status"]) == (status, False)
            assert (refused.body["code"], refused.body["type"]) == (code, "validation_error")
            assert refused.body["message"]
        assert at.charges == 1


async def test_a_held_payment_is_not_sent_again(tmp_path: Path) -> None:
    """A person holds it: the repeat is told so, and nothing is sent."""
    async with shop(tmp_path, Fault.RESET_BEFORE, gateway=ONE_SEND) as at:
        await pay(at.client)
        await at.do("interrupt")
        held = await pay(at.client)

        assert (held.status, held.body["code"]) == (409, "session_held")
        assert (at.charges, at.gateway.arrivals[ORDER]) == (0, 1)


async def test_an_open_breaker_is_a_503(tmp_path: Path) -> None:
    """The gateway fails; the next payment is not sent, and told so in Paystack's form."""
    breaker = "defaults: {breaker: {min_calls: 1}}"
    async with shop(tmp_path, Fault.UNAVAILABLE, gateway=ONE_SEND, more=breaker) as at:
        await pay(at.client)
        refused = await pay(at.client, "ref-2")

        assert (refused.status, refused.body["code"]) == (503, "gateway_unavailable")
        assert (refused.body["status"], refused.body["type"]) == (False, "api_error")
        assert at.gateway.arrivals[ORDER] == 1


async def test_a_new_reference_for_the_same_order_is_refused(tmp_path: Path) -> None:
    """The shop does as a duplicate's message says; the order it names is open already."""
    async with shop(tmp_path, Fault.RESET_AFTER, gateway=ONE_SEND) as at:
        await pay(at.client, headers=NAMED)
        other = await pay(at.client, "ref-2", NAMED)

        assert (other.status, other.body["code"]) == (409, "order_already_open")
        assert at.charges == 1


async def test_unprotected_a_new_reference_charges_twice(tmp_path: Path) -> None:
    """The control: the same shop, and a route that Holdfast takes for one that moves no money."""
    route = f"{{name: charge, session: ephemeral, match: {{methods: [POST], path: {CHARGE}}}}}"
    async with shop(tmp_path, Fault.RESET_AFTER, gateway=f"routes: [{route}]") as at:
        lost = await pay(at.client, headers=NAMED)
        await pay(at.client, "ref-2", NAMED)

        assert lost.status == 502
        assert at.charges == 2


async def test_a_lost_transfer_is_looked_up_too(tmp_path: Path) -> None:
    """By its own reference, at its own address."""
    transfer = {"amount": 700, "recipient": "RCP_1", "metadata": {"order_id": ORDER}}
    async with shop(tmp_path, Fault.RESET_AFTER) as at:
        sent = await at.client("POST", "/transfer", transfer, OWNER)
        short = await at.client("POST", "/transfer", {**transfer, "reference": "short"}, OWNER)

        assert (sent.status, sent.body["data"]["status"]) == (200, "success")
        assert (short.status, short.body["code"]) == (400, "idempotency_key_invalid")
        assert (at.charges, at.gateway.arrivals[ORDER]) == (1, 2)


async def test_a_lost_refund_is_never_sent_again(tmp_path: Path) -> None:
    """It bears no reference of its own: unknown, listed, and whoever repeats it hears just that."""
    async with shop(tmp_path, Fault.NONE, Fault.RESET_AFTER) as at:
        await pay(at.client)
        refund = {"transaction": "ref-1", "amount": 5}
        lost = await at.client("POST", "/refund", refund, NAMED)
        again = await at.client("POST", "/refund", refund, NAMED)

        assert (lost.status, again.status) == (504, 504)
        assert again.body["code"] == "outcome_unknown"
        assert (len(at.gateway.ledger.refunds), await at.listed()) == (1, 1)
