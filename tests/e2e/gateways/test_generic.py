"""A gateway nobody knows, over plain HTTP, with the `generic` profile: nothing is believed of it
until the policy says so.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from aiohttp import web
from typing_extensions import override

from proxy.demo.faults import Fault
from proxy.demo.simulator import Answer, Asked, JsonObject, Problem, Simulator
from tests.e2e.gateways.desk import ONE_SEND, ORDER, Desk, desk
from tests.support.plain_http import Heard, Say, plain_http

OWNER = {"X-Api-Key": "secret"}
NAMED = {**OWNER, "X-Payment-Order-Id": ORDER}
# The operator's word for what the gateway's documentation promises.
STRONG = "idempotency: {class: A_strong, window: 24h}"
LOST = [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER]


class SomeGateway(Simulator):
    """Pays at /pay, keeps what succeeded for a key, and says no with a 402."""

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/pay", self.money(self._pay))
        router.add_get("/payments/{id}", self.reading(lambda a: Answer(200, self.thing(a.named))))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return request.headers.get("Idempotency-Key")

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        return str(parameters.get("order_id", ""))

    @override
    def trouble(self, status: int) -> Answer:
        return Answer(status, {"error": status})

    def _pay(self, asked: Asked) -> Answer:
        if asked.parameters["amount"] == 0:
            raise Problem(Answer(402, {"error": "declined"}))
        paid = {"id": self.name("pay-"), "state": "paid", "amount": asked.parameters["amount"]}
        self.charge(asked, self.remember(asked, paid)["id"], paid["amount"])
        return Answer(201, paid)


def shop(
    folder: Path, *faults: Fault, gateway: str = "", more: str = ""
) -> contextlib.AbstractAsyncContextManager[Desk[Say]]:
    """The desk of a shop at some gateway."""
    return desk(folder, "generic", SomeGateway, plain_http, *faults, gateway=gateway, more=more)


async def pay(
    say: Say, key: str | None = "k-1", amount: int = 1999, headers: dict[str, str] = OWNER
) -> Heard:
    """Pay order o-1."""
    named = {} if key is None else {"Idempotency-Key": key}
    return await say("POST", "/pay", {"order_id": ORDER, "amount": amount}, {**headers, **named})


async def test_paid_once_and_replayed(tmp_path: Path) -> None:
    """From Holdfast's record: the gateway is asked once."""
    async with shop(tmp_path) as at:
        paid = await pay(at.client)
        again = await pay(at.client)
        read = await at.client("GET", f"/payments/{paid.body['id']}", None, OWNER)

        assert (paid.status, again.status) == (201, 201)
        assert again.body == paid.body == read.body
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (at.keys, at.gateway.arrivals[ORDER]) == (["k-1"], 1)
        assert await at.money() == ("COMPLETED", "charged")


async def test_a_decline_comes_back_as_it_is(tmp_path: Path) -> None:
    """A 402, once."""
    async with shop(tmp_path) as at:
        declined = await pay(at.client, amount=0)

        assert (declined.status, declined.body) == (402, {"error": "declined"})
        assert (await at.money(), at.charges) == (("DECLINED", "not_charged"), 0)


@pytest.mark.parametrize("key", ["k-1", None])
@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_is_never_sent_again(
    tmp_path: Path, fault: Fault, key: str | None
) -> None:
    """Unknown and listed, whoever repeats it, until a person has found out."""
    async with shop(tmp_path, fault) as at:
        lost = await pay(at.client, key, headers=NAMED)
        again = await pay(at.client, key, headers=NAMED)

        assert lost.status in {500, 504}
        assert (again.status, again.body["type"]) == (504, "/problems/outcome-unknown")
        assert (await at.money(), await at.listed()) == (("INTERRUPTED", "unknown"), 1)
        assert (at.charges, at.gateway.arrivals[ORDER]) == (1, 1)


async def test_what_did_not_leave_or_was_throttled_is_sent_again(tmp_path: Path) -> None:
    """A 429 executed nothing: the same key, and paid."""
    async with shop(tmp_path, Fault.THROTTLED) as at:
        paid = await pay(at.client)

        assert (paid.status, at.keys, at.gateway.arrivals[ORDER]) == (201, ["k-1"], 2)


@pytest.mark.parametrize("key", ["k-1", None])
@pytest.mark.parametrize("fault", LOST)
async def test_believed_to_keep_keys_it_is_asked_again(
    tmp_path: Path, fault: Fault, key: str | None
) -> None:
    """With the operator's word for it: one charge, and the truth, in one call."""
    async with shop(tmp_path, fault, gateway=STRONG) as at:
        paid = await pay(at.client, key)

        assert (paid.status, paid.body["state"]) == (201, "paid")
        assert (at.charges, at.gateway.arrivals[ORDER]) == (1, 2)
        assert at.keys[0] == key or (key is None and len(at.keys[0] or "") == 32)


async def test_the_shops_repeat_hears_the_truth(tmp_path: Path) -> None:
    """The same where Holdfast does not send again by itself."""
    settings = f"{STRONG}\n    {ONE_SEND}"
    async with shop(tmp_path, Fault.RESET_AFTER, gateway=settings) as at:
        lost = await pay(at.client)
        assert (lost.status, await at.listed()) == (504, 1)
        found = await pay(at.client)

        assert (found.status, at.charges) == (201, 1)
        assert await at.money() == ("COMPLETED", "charged")


async def test_a_gateway_without_keys_must_not_be_believed(tmp_path: Path) -> None:
    """The control: it keeps no keys, the operator said it would, and it charges twice."""

    class Forgetful(SomeGateway):
        """Keeps nothing."""

        @override
        def keeps(self, answer: Answer) -> bool:
            return False

    believed = desk(tmp_path, "generic", Forgetful, plain_http, Fault.RESET_AFTER, gateway=STRONG)
    async with believed as at:
        paid = await pay(at.client)

        assert (paid.status, at.keys) == (201, ["k-1", "k-1"])


async def test_unprotected_a_new_key_charges_twice(tmp_path: Path) -> None:
    """The control: taken for a request that moves no money, and the shop repeats it."""
    route = "{name: pay, session: ephemeral, match: {methods: [POST], path: /pay}}"
    async with shop(tmp_path, Fault.RESET_AFTER, gateway=f"routes: [{route}]") as at:
        lost = await pay(at.client)
        await pay(at.client, "k-2")

        assert (lost.status, at.keys) == (502, ["k-1", "k-2"])


async def test_refusals_are_problems(tmp_path: Path) -> None:
    """Nothing is known of the gateway's own form: RFC 9457, with a title and what is safe."""
    async with shop(tmp_path) as at:
        await pay(at.client, headers=NAMED)
        twice = await pay(at.client, "k-2", headers=NAMED)
        reused = await pay(at.client, amount=1)

        for refused, status, kind in (
            (twice, 409, "/problems/order-already-paid"),
            (reused, 422, "/problems/idempotency-key-reused"),
        ):
            assert refused.headers["Content-Type"] == "application/problem+json"
            assert (refused.status, refused.body["type"]) == (status, kind)
            assert refused.body["title"]
            assert refused.body["safeToRepeat"] is False
        assert at.charges == 1


async def test_held_and_refused_payments_are_not_sent(tmp_path: Path) -> None:
    """A person holds what a 503 left open; the breaker keeps the next one."""
    breaker = "defaults: {breaker: {min_calls: 1}}"
    settings = f"{STRONG}\n    {ONE_SEND}"
    async with shop(tmp_path, Fault.UNAVAILABLE, gateway=settings, more=breaker) as at:
        await pay(at.client)
        await at.do("interrupt")
        held = await pay(at.client)
        next_one = await pay(at.client, "k-2")

        assert (held.status, held.body["type"]) == (409, "/problems/session-held")
        assert (next_one.status, next_one.body["type"]) == (503, "/problems/gateway-unavailable")
        assert (at.charges, at.gateway.arrivals[ORDER]) == (0, 1)
