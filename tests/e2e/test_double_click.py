"""A shopper clicks twice: two clients of the official SDK pay one order at the same time, each with
a key that its SDK makes up. What protects, and what does not, is the table in docs/gateways.md.

The gateway keeps keys as Stripe does, which is no help here: the keys differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.demo.gateway import SimulatedGateway
from tests.e2e.policies import holdfast
from tests.e2e.sdks import PAID, Heard, Opener, Params, class_name
from tests.support.running import simulated
from tests.support.tcp_faults import Fault, tcp_faults

ORDER: Params = {**PAID, "metadata": {"order_id": "o-1"}}
HEADER = {"X-Payment-Order-Id": "o-1"}
LOCKED_BY_BODY = """routes:
      - name: create-payment
        match: {methods: [POST], path: /v1/payment_intents}
        session: durable
        order_lock: body
        order: {form: "metadata[order_id]"}
"""


async def click_twice(sdk: Opener, folder: Path, url: str, **options: Any) -> tuple[Heard, Heard]:
    """The first answer to come, then the other."""
    async with sdk(url, 0, folder) as one, sdk(url, 0, folder) as other:
        clicks = [
            asyncio.ensure_future(shop.call("payment_intents.create", params=ORDER, **options))
            for shop in (one, other)
        ]
        heard = [await click for click in asyncio.as_completed(clicks)]
    return heard[0], heard[1]


async def test_the_order_header_makes_it_one_charge(sdk: Opener, tmp_path: Path) -> None:
    """While the first click is at the gateway, the second hears that the order is open."""
    gateway, answer = SimulatedGateway(), asyncio.Event()
    async with (
        simulated(gateway) as origin,
        tcp_faults(int(origin.rsplit(":", 1)[1]), Fault(hold_answer_until=answer)) as held,
        holdfast(tmp_path, held.url) as proxy,
        sdk(proxy.url, 2, tmp_path) as one,
        sdk(proxy.url, 2, tmp_path) as other,
    ):
        clicks = [
            asyncio.ensure_future(shop.call("payment_intents.create", params=ORDER, headers=HEADER))
            for shop in (one, other)
        ]
        done, _ = await asyncio.wait(clicks, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = done
        answer.set()
        paid = await next(click for click in clicks if click is not refused)
        third = await one.call("payment_intents.create", params=ORDER, headers=HEADER)

    second = await refused
    assert (paid.raised, paid.body["status"]) == (None, "succeeded")
    assert (second.raised, second.status) == (class_name(sdk, "APIError"), 409)
    assert second.error_code == "order_already_open"
    assert (third.raised, third.error_code) == (class_name(sdk, "APIError"), "order_already_paid")
    first_session = paid.headers["x-payment-session-id"]
    assert second.headers["x-payment-session-id"] == first_session
    assert third.headers["x-payment-session-id"] == first_session
    assert gateway.ledger.per_order() == {"o-1": 1}
    assert gateway.arrivals == {"o-1": 1}


async def test_nothing_protects_two_keys_without_the_header(sdk: Opener, tmp_path: Path) -> None:
    """The negative control: two keys are two payments, though the body names one order."""
    gateway = SimulatedGateway()
    async with simulated(gateway) as origin, holdfast(tmp_path, origin) as proxy:
        first, second = await click_twice(sdk, tmp_path, proxy.url)

    assert (first.body["status"], second.body["status"]) == ("succeeded", "succeeded")
    assert gateway.ledger.per_order() == {"o-1": 2}


async def test_directly_nothing_protects_at_all(sdk: Opener, tmp_path: Path) -> None:
    """The negative control without Holdfast, header or not."""
    gateway = SimulatedGateway()
    async with simulated(gateway) as origin:
        first, second = await click_twice(sdk, tmp_path, origin, headers=HEADER)

    assert (first.body["status"], second.body["status"]) == ("succeeded", "succeeded")
    assert gateway.ledger.per_order() == {"o-1": 2}


@pytest.mark.parametrize(
    ("options", "second_click"),
    [
        pytest.param({"headers": HEADER}, {"order_already_open", "order_already_paid"}, id="order"),
        pytest.param({"idempotency_key": "order-o-1"}, {"succeeded"}, id="key of the order"),
        pytest.param({"headers": HEADER, "idempotency_key": "order-o-1"}, {"succeeded"}, id="both"),
    ],
)
async def test_what_the_backend_can_name(
    sdk: Opener, tmp_path: Path, options: Mapping[str, Any], second_click: set[str]
) -> None:
    """The order in a header, or one key per order: one charge, whichever click is first."""
    gateway = SimulatedGateway()
    async with simulated(gateway) as origin, holdfast(tmp_path, origin) as proxy:
        first, second = await click_twice(sdk, tmp_path, proxy.url, **options)

    outcomes = [_outcome(first), _outcome(second)]
    assert "succeeded" in outcomes
    outcomes.remove("succeeded")
    assert set(outcomes) <= second_click
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_session_per_order_makes_it_one_charge(sdk: Opener, tmp_path: Path) -> None:
    """A backend that creates the session first and names it in both clicks."""
    gateway = SimulatedGateway()
    async with simulated(gateway) as origin, holdfast(tmp_path, origin) as proxy:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{proxy.api}/session/create", json={"orderId": "o-1"}) as answer,
        ):
            session = (await answer.json())["sessionId"]
        first, second = await click_twice(
            sdk, tmp_path, proxy.url, headers={"X-Payment-Session-Id": session}
        )

    assert {_outcome(first), _outcome(second)} == {"succeeded", "session_taken"}
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_the_policy_can_lock_the_order_in_the_body(sdk: Opener, tmp_path: Path) -> None:
    """`order_lock: body`: the SDK's metadata is enough, and no code changes."""
    gateway = SimulatedGateway()
    async with (
        simulated(gateway) as origin,
        holdfast(tmp_path, origin, gateway=LOCKED_BY_BODY) as proxy,
    ):
        first, second = await click_twice(sdk, tmp_path, proxy.url)

    outcomes = {_outcome(first), _outcome(second)}
    assert outcomes in (
        {"succeeded", "order_already_open"},
        {"succeeded", "order_already_paid"},
    )
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_another_card_after_a_decline_is_a_new_try(sdk: Opener, tmp_path: Path) -> None:
    """The order header stays the same, the SDK makes a new key: the order is free again."""
    gateway = SimulatedGateway()
    declined = {**ORDER, "payment_method": "pm_card_chargeDeclined"}
    async with (
        simulated(gateway) as origin,
        holdfast(tmp_path, origin) as proxy,
        sdk(proxy.url, 2, tmp_path) as shop,
    ):
        first = await shop.call("payment_intents.create", params=declined, headers=HEADER)
        second = await shop.call("payment_intents.create", params=ORDER, headers=HEADER)

    assert (first.raised, first.error_code) == (class_name(sdk, "CardError"), "card_declined")
    assert (second.raised, second.body["status"]) == (None, "succeeded")
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_key_per_order_leaves_no_room_for_another_card(sdk: Opener, tmp_path: Path) -> None:
    """With one key for the whole order the second card is refused: the key is the first card's."""
    gateway = SimulatedGateway()
    declined = {**ORDER, "payment_method": "pm_card_chargeDeclined"}
    async with (
        simulated(gateway) as origin,
        holdfast(tmp_path, origin) as proxy,
        sdk(proxy.url, 2, tmp_path) as shop,
    ):
        await shop.call("payment_intents.create", params=declined, idempotency_key="o-1")
        second = await shop.call("payment_intents.create", params=ORDER, idempotency_key="o-1")

    assert second.raised == class_name(sdk, "IdempotencyError")
    assert gateway.ledger.per_order() == {}


def _outcome(heard: Heard) -> str:
    return str(heard.body["status"]) if heard.raised is None else str(heard.error_code)
