"""Braintree's own SDK through Holdfast, before the simulated Braintree."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import braintree
import pytest
from braintree.exceptions.gateway_timeout_error import GatewayTimeoutError
from braintree.exceptions.server_error import ServerError
from braintree.exceptions.service_unavailable_error import ServiceUnavailableError
from braintree.exceptions.too_many_requests_error import TooManyRequestsError
from braintree.exceptions.unexpected_error import UnexpectedError
from braintree.util.http import Http
from typing_extensions import override

from proxy.demo.dialects.braintree import DECLINED, SimulatedBraintree
from proxy.demo.faults import Fault
from tests.e2e.gateways.stall import FRAIL, LOST, Kind, Shop, shop
from tests.support.sdks_of_gateways import braintree_python

BRAINTREE = Kind("braintree", SimulatedBraintree, braintree_python, "parameters: {merchant: shop}")
SALE: dict[str, Any] = {
    "amount": "19.99",
    "order_id": "o-1",
    "payment_method_nonce": "fake-valid-nonce",
    "options": {"submit_for_settlement": True},
}
_SALE = 'name: sale, match: {methods: [POST], path: "/merchants/{merchant}/transactions"}'
UNPROTECTED = f"[{{{_SALE}, session: ephemeral}}]"
NAMED_ONLY = f"[{{{_SALE}, order_lock: named}}]"


class NamesTheOrder(Http):  # type: ignore[misc]  # braintree has no types
    """The SDK's own HTTP with a header more: it has no other way to send one."""

    @override
    def http_do(self, http_verb: str, path: str, headers: Any, request_body: Any) -> Any:
        named = {**headers, "X-Payment-Order-Id": "o-1"}
        return super().http_do(http_verb, path, named, request_body)


def naming(sdk: braintree.BraintreeGateway) -> braintree.BraintreeGateway:
    """The same gateway, with every request naming order o-1."""
    config = sdk.config
    return braintree.BraintreeGateway(
        braintree.Configuration(
            config.environment,
            config.merchant_id,
            config.public_key,
            config.private_key,
            http_strategy=NamesTheOrder,
        )
    )


async def pay(at: Shop, sdk: Any = None, **more: Any) -> Any:
    """Pay order o-1."""
    return await asyncio.to_thread((sdk or at.sdk).transaction.sale, {**SALE, **more})


async def refused(at: Shop, sdk: Any = None, **more: Any) -> Any:
    """What paying order o-1 raises, after one request."""
    return await at.refused(lambda: (sdk or at.sdk).transaction.sale({**SALE, **more}))


async def test_an_order_is_paid_once(tmp_path: Path) -> None:
    """There is no key: the order tells the second payment, and the gateway is not asked."""
    async with shop(BRAINTREE, tmp_path) as at:
        paid = await pay(at)
        told = await refused(at)
        money = await at.money()

    assert (paid.is_success, paid.transaction.status) == (True, "submitted_for_settlement")
    assert isinstance(told, UnexpectedError)
    assert str(told) == "Unexpected HTTP_RESPONSE 409"  # it never reads more of an error
    assert money == ("COMPLETED", "charged")
    assert (at.keys, at.gateway.arrivals["o-1"]) == ([None], 1)


async def test_who_names_the_order_gets_the_answer_again(tmp_path: Path) -> None:
    """Through the SDK's own seam for HTTP."""
    async with shop(BRAINTREE, tmp_path) as at:
        sdk = naming(at.sdk)
        first = await pay(at, sdk)
        again = await pay(at, sdk)

    assert (again.is_success, again.transaction.id) == (True, first.transaction.id)
    assert (at.charged, at.gateway.arrivals["o-1"]) == (1, 1)


async def test_a_decline_is_the_result_it_is_directly(tmp_path: Path) -> None:
    """422 with its transaction; then the order is free for another card."""
    async with shop(BRAINTREE, tmp_path) as at:
        declined = await pay(at, payment_method_nonce=DECLINED)
        money = await at.money()
        assert at.gateway.ledger.charges == []
        paid = await pay(at)

    assert (declined.is_success, declined.transaction.status) == (False, "processor_declined")
    assert money == ("DECLINED", "not_charged")
    assert (paid.is_success, at.charged) == (True, 1)


async def test_what_is_wrong_with_a_sale_is_told_as_it_is_directly(tmp_path: Path) -> None:
    """422 without a transaction: not executed."""
    async with shop(BRAINTREE, tmp_path) as at:
        invalid = await asyncio.to_thread(at.sdk.transaction.sale, {"order_id": "o-1"})
        money = await at.money()

    assert (invalid.is_success, invalid.transaction) == (False, None)
    assert invalid.message == "Amount is required."
    assert money == ("DECLINED", "not_charged")


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_is_looked_up(fault: Fault, tmp_path: Path) -> None:
    """Charged and not told: never told as failed, never sent again, and found by its order."""
    async with shop(BRAINTREE, tmp_path, fault) as at:
        lost = await refused(at)
        unknown = await at.money()
        open_still = await refused(at)
        await at.looked_up()
        money = await at.money()
        paid = await refused(at)

    assert isinstance(lost, ServerError if fault is Fault.FAILED_AFTER else GatewayTimeoutError)
    assert unknown == ("INTERRUPTED", "unknown")
    assert str(open_still) == str(paid) == "Unexpected HTTP_RESPONSE 409"
    assert money == ("COMPLETED", "charged")
    assert (at.charged, at.gateway.arrivals["o-1"]) == (1, 1)


async def test_who_names_the_order_hears_what_became_of_it(tmp_path: Path) -> None:
    """The repeat is answered with the transaction that the search found."""
    async with shop(BRAINTREE, tmp_path, Fault.RESET_AFTER) as at:
        sdk = naming(at.sdk)
        await refused(at, sdk)
        paid = await pay(at, sdk)

    assert (paid.is_success, paid.transaction.status) == (True, "submitted_for_settlement")
    assert (at.charged, at.gateway.arrivals["o-1"]) == (1, 1)


async def test_the_search_finds_the_charge_among_an_orders_tries(tmp_path: Path) -> None:
    """One that was declined, and one that was refused as the duplicate of the charge."""
    lost = [Fault.NONE, Fault.RESET_AFTER]
    async with shop(BRAINTREE, tmp_path, *lost, routes=NAMED_ONLY) as at:
        await pay(at, payment_method_nonce=DECLINED)
        await refused(at)
        unknown = (await at.session())["sessionId"]
        duplicate = await pay(at)
        found = await at.looked_up(unknown)

    assert duplicate.transaction.gateway_rejection_reason == "duplicate"
    assert (found, at.charged) == (("COMPLETED", "charged"), 1)


async def test_what_cannot_be_found_stays_unknown(tmp_path: Path) -> None:
    """It never arrived, and an earlier try that was declined says nothing of it."""
    async with shop(BRAINTREE, tmp_path, Fault.NONE, Fault.RESET_BEFORE) as at:
        await pay(at, payment_method_nonce=DECLINED)
        await refused(at)
        at.clock.leap(300)
        await refused(at)
        money = await at.money()

    assert money == ("INTERRUPTED", "unknown")
    assert (at.charged, at.gateway.arrivals["o-1"]) == (0, 2)


async def test_without_the_lock_a_charge_is_told_as_failed(tmp_path: Path) -> None:
    """The negative control: the gateway refuses the repeat as a duplicate of what was charged."""
    async with shop(BRAINTREE, tmp_path, Fault.RESET_AFTER, routes=UNPROTECTED) as at:
        await refused(at)
        told = await pay(at)

    assert (told.is_success, told.transaction.status) == (False, "gateway_rejected")
    assert at.charged == 1


@pytest.mark.parametrize("routes", [UNPROTECTED, NAMED_ONLY])
async def test_without_the_lock_it_pays_twice_after_half_a_minute(
    routes: str, tmp_path: Path
) -> None:
    """The negative control: past Braintree's own check nothing tells the repeat."""
    async with shop(BRAINTREE, tmp_path, Fault.RESET_AFTER, routes=routes) as at:
        assert isinstance(at.gateway, SimulatedBraintree)
        at.gateway.duplicate_seconds = 0
        await refused(at)
        await pay(at)

    assert at.charged == 2


async def test_the_lock_holds_after_half_a_minute(tmp_path: Path) -> None:
    """The same with the profile as it ships."""
    async with shop(BRAINTREE, tmp_path, Fault.RESET_AFTER) as at:
        assert isinstance(at.gateway, SimulatedBraintree)
        at.gateway.duplicate_seconds = 0
        await refused(at)
        await refused(at)

    assert at.charged == 1


async def test_a_held_payment_is_refused(tmp_path: Path) -> None:
    """The SDK says no more than the status."""
    async with shop(BRAINTREE, tmp_path, Fault.RESET_BEFORE) as at:
        sdk = naming(at.sdk)
        await refused(at, sdk)
        await at.hold()
        told = await refused(at, sdk)

    assert str(told) == "Unexpected HTTP_RESPONSE 409"


async def test_a_throttled_sale_is_not_known_to_be_harmless(tmp_path: Path) -> None:
    """Braintree says nowhere that a 429 executed nothing."""
    async with shop(BRAINTREE, tmp_path, Fault.THROTTLED) as at:
        told = await refused(at)
        money = await at.money()

    assert isinstance(told, TooManyRequestsError)
    assert money == ("INTERRUPTED", "unknown")


async def test_a_gateway_that_is_given_a_rest(tmp_path: Path) -> None:
    """Refused without a send."""
    async with shop(BRAINTREE, tmp_path, Fault.FAILED_AFTER, more=FRAIL) as at:
        await refused(at)
        told = await refused(at, order_id="o-2")

    assert isinstance(told, ServiceUnavailableError)
    assert at.gateway.arrivals["o-2"] == 0


async def test_a_transaction_is_settled_refunded_voided_and_searched(tmp_path: Path) -> None:
    """The life of a transaction, through Holdfast."""
    async with shop(BRAINTREE, tmp_path) as at:
        paid = await pay(at, options={"submit_for_settlement": False})
        name = paid.transaction.id
        settled = await asyncio.to_thread(at.sdk.transaction.submit_for_settlement, name)
        refund = await asyncio.to_thread(at.sdk.transaction.refund, name, "0.05")
        await asyncio.to_thread(at.sdk.transaction.void, name)
        read = await asyncio.to_thread(at.sdk.transaction.find, name)
        wanted = braintree.TransactionSearch.order_id == "o-1"
        found = await asyncio.to_thread(
            lambda: [sale.id for sale in at.sdk.transaction.search(wanted).items]
        )

    assert (settled.transaction.status, read.status) == ("submitted_for_settlement", "voided")
    assert found == [refund.transaction.id, name]
    assert (at.gateway.ledger.charges, len(at.gateway.ledger.refunds)) == ([], 1)


async def test_a_refund_is_not_repeated(tmp_path: Path) -> None:
    """Nothing tells the same refund from another one: the same again is refused."""
    async with shop(BRAINTREE, tmp_path, Fault.NONE, Fault.RESET_AFTER) as at:
        name = (await pay(at)).transaction.id
        lost = await at.refused(lambda: at.sdk.transaction.refund(name, "0.05"))
        told = await at.refused(lambda: at.sdk.transaction.refund(name, "0.05"))

    assert isinstance(lost, GatewayTimeoutError)
    assert str(told) == "Unexpected HTTP_RESPONSE 409"
    assert len(at.gateway.ledger.refunds) == 1
