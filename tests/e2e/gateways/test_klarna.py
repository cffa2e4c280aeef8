"""Klarna over plain HTTP (it has no SDK for Python) through Holdfast, before the simulated one.

Money moves when an order is captured, and captures take a key. Placing an order is promised nothing
for one: it is sent once.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.dialects.klarna import DECLINED, SimulatedKlarna
from proxy.demo.faults import Fault
from tests.e2e.gateways.desk import ONE_SEND, ORDER, Desk, desk
from tests.support.plain_http import Heard, Say, plain_http

OWNER = {"Authorization": "Basic c2hvcDpzZWNyZXQ="}
ORDERS = "/ordermanagement/v1/orders"
KEY = "Klarna-Idempotency-Key"
LOST = [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.FAILED_AFTER]


def shop(
    folder: Path, *faults: Fault, gateway: str = "", more: str = ""
) -> contextlib.AbstractAsyncContextManager[Desk[Say]]:
    """The desk of a shop at Klarna. The first fault is that of placing the order."""
    return desk(folder, "klarna", SimulatedKlarna, plain_http, *faults, gateway=gateway, more=more)


async def place(say: Say, token: str = "t-1", **headers: str) -> Heard:  # noqa: S107 -- no secret
    """Place order o-1."""
    asks = {"order_amount": 1999, "purchase_currency": "EUR", "merchant_reference1": ORDER}
    path = f"/payments/v1/authorizations/{token}/order"
    return await say("POST", path, asks, {**OWNER, **headers})


async def capture(
    say: Say, name: str, key: str | None = "k-1", amount: int = 999, **headers: str
) -> Heard:
    """Capture about half of an order."""
    named = {} if key is None else {KEY: key}
    asks = {"captured_amount": amount}
    return await say("POST", f"{ORDERS}/{name}/captures", asks, {**OWNER, **named, **headers})


async def placed(at: Desk[Say]) -> str:
    """An order, by Klarna's name for it."""
    name: str = (await place(at.client)).body["order_id"]
    return name


async def test_captured_once_and_replayed(tmp_path: Path) -> None:
    """201 without a body, and the place of the capture: the same for the repeat."""
    async with shop(tmp_path) as at:
        name = await placed(at)
        first = await capture(at.client, name)
        again = await capture(at.client, name)

        assert (first.status, first.body) == (201, None)
        assert (again.status, again.body) == (201, None)
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (at.keys, await at.money()) == (["k-1"], ("COMPLETED", "charged"))


async def test_a_decline_comes_back_as_it_is(tmp_path: Path) -> None:
    """403 with Klarna's own code, once; so for too large a capture."""
    async with shop(tmp_path) as at:
        declined = await place(at.client, DECLINED)
        assert await at.money() == ("DECLINED", "not_charged")
        too_much = await capture(at.client, await placed(at), amount=2000)

        assert (declined.status, declined.body["error_code"]) == (403, "NOT_ALLOWED")
        assert (too_much.status, too_much.body["error_code"]) == (403, "CAPTURE_NOT_ALLOWED")
        assert at.charges == 0


@pytest.mark.parametrize("key", ["k-1", None])
@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_capture_is_sent_again_under_its_key(
    tmp_path: Path, fault: Fault, key: str | None
) -> None:
    """The caller's, or Holdfast's own where it sent none: one capture, and the truth."""
    async with shop(tmp_path, Fault.NONE, fault) as at:
        heard = await capture(at.client, await placed(at), key)

        assert heard.status == 201
        assert await at.money() == ("COMPLETED", "charged")
        assert (at.charges, at.gateway.arrivals[ORDER]) == (1, 3)
        (used,) = at.keys
        assert used == key or (key is None and len(used or "") == 32)


@pytest.mark.parametrize("fault", LOST)
async def test_the_shops_repeat_hears_the_truth(tmp_path: Path, fault: Fault) -> None:
    """Where Holdfast does not send again by itself: unknown and listed, then captured once."""
    async with shop(tmp_path, Fault.NONE, fault, gateway=ONE_SEND) as at:
        name = await placed(at)
        lost = await capture(at.client, name)
        assert lost.status in {500, 504}
        assert (await at.money(), await at.listed()) == (("INTERRUPTED", "unknown"), 1)
        found = await capture(at.client, name)

        assert (found.status, await at.money()) == (201, ("COMPLETED", "charged"))
        assert at.charges == 1


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_order_is_never_sent_again(tmp_path: Path, fault: Fault) -> None:
    """Of keys for it nothing is promised: made once, unknown and listed, whoever repeats it."""
    async with shop(tmp_path, fault) as at:
        lost = await place(at.client, **{KEY: "k-1"})
        again = await place(at.client, **{KEY: "k-1"})

        assert lost.status in {500, 504}
        assert (again.status, again.body["error_code"]) == (504, "outcome_unknown")
        assert (await at.money(), await at.listed()) == (("INTERRUPTED", "unknown"), 1)
        assert (len(at.gateway.orders), at.gateway.arrivals[ORDER]) == (1, 1)


async def test_an_order_by_token_takes_a_key(tmp_path: Path) -> None:
    """Executed once within a day of its first try: so it is sent again."""
    asks = {"order_amount": 1999, "purchase_currency": "EUR", "merchant_reference1": ORDER}
    async with shop(tmp_path, Fault.RESET_AFTER) as at:
        path = "/customer-token/v1/tokens/t-1/order"
        heard = await at.client("POST", path, asks, {**OWNER, KEY: "k-1"})

        assert (heard.status, len(at.gateway.orders)) == (200, 1)
        assert at.gateway.arrivals[ORDER] == 2


async def test_a_lost_refund_is_given_once(tmp_path: Path) -> None:
    """Under Holdfast's key."""
    async with shop(tmp_path, Fault.NONE, Fault.NONE, Fault.RESET_AFTER) as at:
        name = await placed(at)
        await capture(at.client, name)
        path = f"{ORDERS}/{name}/refunds"
        heard = await at.client("POST", path, {"refunded_amount": 5}, OWNER)

        assert (heard.status, len(at.gateway.ledger.refunds)) == (201, 1)
        assert at.gateway.arrivals[ORDER] == 4


async def test_a_changed_order_is_no_charge(tmp_path: Path) -> None:
    """204 for a cancelled one: done, and nothing was charged."""
    async with shop(tmp_path) as at:
        name = await placed(at)
        cancelled = await at.client("POST", f"{ORDERS}/{name}/cancel", None, OWNER)

        assert (cancelled.status, cancelled.body) == (204, None)
        assert await at.money() == ("COMPLETED", "not_charged")


async def test_refusals_look_like_klarnas(tmp_path: Path) -> None:
    """A code and messages: a key used for another capture, an order placed already."""
    named = {"X-Payment-Order-Id": ORDER}
    async with shop(tmp_path) as at:
        name = (await place(at.client, **named)).body["order_id"]
        twice = await place(at.client, "t-2", **named)
        await capture(at.client, name)
        reused = await capture(at.client, name, amount=1)

        for refused, status, code in (
            (twice, 409, "order_already_paid"),
            (reused, 422, "idempotency_key_reused"),
        ):
            assert (refused.status, refused.body["error_code"]) == (status, code)
            assert refused.body["error_messages"][0]
        assert (at.charges, len(at.gateway.orders)) == (1, 1)


async def test_a_held_capture_is_not_sent_again(tmp_path: Path) -> None:
    """A person holds it: the repeat is told so."""
    async with shop(tmp_path, Fault.NONE, Fault.RESET_BEFORE, gateway=ONE_SEND) as at:
        name = await placed(at)
        await capture(at.client, name)
        await at.do("interrupt")
        held = await capture(at.client, name)

        assert (held.status, held.body["error_code"]) == (409, "session_held")
        assert at.charges == 0


async def test_an_open_breaker_is_a_503(tmp_path: Path) -> None:
    """The gateway fails; the next capture is not sent."""
    breaker = "defaults: {breaker: {min_calls: 1, failure_ratio: 0.4}}"
    async with shop(tmp_path, Fault.NONE, Fault.UNAVAILABLE, gateway=ONE_SEND, more=breaker) as at:
        name = await placed(at)
        await capture(at.client, name)
        refused = await capture(at.client, name, "k-2")

        assert (refused.status, refused.body["error_code"]) == (503, "gateway_unavailable")
        assert at.gateway.arrivals[ORDER] == 2


async def test_two_at_once_under_one_key_capture_once(tmp_path: Path) -> None:
    """The second joins the first, and both hear the same."""
    async with shop(tmp_path, Fault.NONE, Fault.SLOW) as at:
        name = await placed(at)
        heard: list[Any] = await asyncio.gather(*[capture(at.client, name) for _ in range(2)])

        assert [one.status for one in heard] == [201, 201]
        assert (at.charges, at.gateway.arrivals[ORDER]) == (1, 2)


async def test_unprotected_a_repeat_without_a_key_captures_twice(tmp_path: Path) -> None:
    """The control: taken for a request that moves no money, and the shop repeats it."""
    path = f"{ORDERS}/{{id}}/captures"
    route = f'{{name: capture, session: ephemeral, match: {{methods: [POST], path: "{path}"}}}}'
    async with shop(tmp_path, Fault.NONE, Fault.RESET_AFTER, gateway=f"routes: [{route}]") as at:
        name = await placed(at)
        lost = await capture(at.client, name, None)
        await capture(at.client, name, None)

        assert (lost.status, at.charges) == (502, 2)
