"""Amazon Pay over plain HTTP (it has no SDK for Python) through Holdfast, before a simulated one
that checks every signature: what is signed has to arrive as it was sent, each time it is sent.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from typing_extensions import override
from yarl import URL

from proxy.demo.dialects.amazon import SIMULATION, SimulatedAmazonPay
from proxy.demo.faults import Fault, FaultPlan
from proxy.demo.simulator import Execute, timestamp
from tests.e2e.gateways.desk import ONE_SEND, ORDER, Desk, desk
from tests.support.amazon_signature import Message, is_signed, signature
from tests.support.plain_http import Heard
from tests.support.running import ROOT

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
# Signed as the host that is asked, wherever the request goes first.
HOST = "pay-api.amazon.eu"
CHARGES = "/sandbox/v2/charges"
CHARGE: dict[str, Any] = {
    "chargePermissionId": "S01-0000000-0000000",
    "chargeAmount": {"amount": "19.99", "currencyCode": "EUR"},
    "captureNow": True,
    "merchantMetadata": {"merchantReferenceId": ORDER},
}
LOST = [Fault.RESET_AFTER, Fault.HANG_AFTER, Fault.TRUNCATED, Fault.FAILED_AFTER]
NAMED = {"X-Payment-Order-Id": ORDER}


class CheckingAmazonPay(SimulatedAmazonPay):
    """Takes nothing but what is signed, and remembers it."""

    def __init__(self, plan: FaultPlan | None = None, *, latency: float = 0.0) -> None:
        super().__init__(plan, latency=latency)
        self.heard: list[Message] = []
        self.unsigned = 0

    @override
    def money(self, execute: Execute) -> Any:
        return self._checked(super().money(execute))

    @override
    def reading(self, execute: Execute) -> Any:
        return self._checked(super().reading(execute))

    def _checked(self, handle: Any) -> Any:
        async def check(request: web.Request) -> web.StreamResponse:
            headers = {name.lower(): value for name, value in request.headers.items()}
            message = Message(request.method, request.raw_path, headers, await request.read())
            self.heard.append(message)
            if headers.get("x-amz-pay-host") != HOST or not is_signed(message, _KEY.public_key()):
                self.unsigned += 1
                problem = {"reasonCode": "UnauthorizedAccess", "message": "Not as it was signed."}
                return web.json_response(problem, status=401)
            answer: web.StreamResponse = await handle(request)
            return answer

        return check


class Ask(Protocol):
    """Signs a request anew and makes it. `unsigned` headers are for Holdfast."""

    async def __call__(
        self,
        method: str,
        target: str,
        document: object = None,
        headers: Mapping[str, str] | None = None,
        unsigned: Mapping[str, str] | None = None,
    ) -> Heard: ...


@contextlib.asynccontextmanager
async def amazon_http(url: str) -> AsyncIterator[Ask]:
    """A client that signs as Amazon's own SDK does."""
    async with aiohttp.ClientSession() as http:

        async def ask(
            method: str,
            target: str,
            document: object = None,
            headers: Mapping[str, str] | None = None,
            unsigned: Mapping[str, str] | None = None,
        ) -> Heard:
            body = b"" if document is None else json.dumps(document).encode()
            sent = {
                "accept": "application/json",
                "content-type": "application/json",
                "user-agent": "shop/1.0",
                "x-amz-pay-date": timestamp(),
                "x-amz-pay-host": HOST,
                "x-amz-pay-region": "eu",
                **(headers or {}),
            }
            sent["authorization"] = signature(Message(method, target, sent, body), _KEY)
            where = URL(url + target, encoded=True)
            everything = {**sent, **(unsigned or {})}
            async with http.request(method, where, data=body, headers=everything) as answer:
                text = await answer.text()
                return Heard(answer.status, json.loads(text) if text else None, answer.headers)

        yield ask


def shop(
    folder: Path, *faults: Fault, profile: str = "amazon-pay", gateway: str = "", more: str = ""
) -> contextlib.AbstractAsyncContextManager[Desk[Ask]]:
    """The desk of a shop at Amazon Pay."""
    return desk(
        folder, profile, CheckingAmazonPay, amazon_http, *faults, gateway=gateway, more=more
    )


def gateway(at: Desk[Ask]) -> CheckingAmazonPay:
    """The simulated one."""
    assert isinstance(at.gateway, CheckingAmazonPay)
    return at.gateway


async def pay(
    ask: Ask,
    key: str | None = "k-1",
    amount: str = "19.99",
    headers: Mapping[str, str] | None = None,
    unsigned: Mapping[str, str] | None = None,
) -> Heard:
    """Charge for order o-1."""
    named = {} if key is None else {"x-amz-pay-idempotency-key": key}
    charge = {**CHARGE, "chargeAmount": {"amount": amount, "currencyCode": "EUR"}}
    return await ask("POST", CHARGES, charge, {**named, **(headers or {})}, unsigned)


async def test_paid_once_and_replayed(tmp_path: Path) -> None:
    """The repeat is signed anew, so it is another request with the same key: the same answer."""
    async with shop(tmp_path) as at:
        paid = await pay(at.client)
        again = await pay(at.client)

        assert (paid.status, paid.body["statusDetails"]["state"]) == (201, "Captured")
        assert (again.status, again.body) == (201, paid.body)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert (at.keys, await at.money()) == (["k-1"], ("COMPLETED", "charged"))
        assert (len(gateway(at).heard), gateway(at).unsigned) == (1, 0)


@pytest.mark.parametrize("key", ["k-1", None])
async def test_what_is_signed_arrives_as_it_was_sent(tmp_path: Path, key: str | None) -> None:
    """With a key and without, through the journal and past it: every signature holds."""
    async with shop(tmp_path) as at:
        paid = await pay(at.client, key, unsigned=NAMED)
        name = paid.body["chargeId"]
        read = await at.client("GET", f"{CHARGES}/{name}?a=%7E&b=&a=%2f")
        cancelled = await at.client("DELETE", f"{CHARGES}/{name}/cancel", {"reason": "é\n "})

        assert (paid.status, read.status, cancelled.status) == (201, 200, 200)
        assert (gateway(at).unsigned, at.keys) == (0, [])
        asked = gateway(at).heard
        assert asked[0].headers.get("x-amz-pay-idempotency-key") == key
        assert asked[1].target.endswith("?a=%7E&b=&a=%2f")
        assert {"x-payment-order-id"}.isdisjoint(asked[0].headers)


@pytest.mark.parametrize("fault", LOST)
async def test_a_lost_answer_is_had_again_by_the_key(tmp_path: Path, fault: Fault) -> None:
    """The very same bytes go out again: one charge, and the truth."""
    async with shop(tmp_path, fault) as at:
        paid = await pay(at.client)

        assert (paid.status, paid.body["statusDetails"]["state"]) == (201, "Captured")
        assert (at.charges, gateway(at).unsigned) == (1, 0)
        first, second = gateway(at).heard
        assert first == second


@pytest.mark.parametrize("fault", LOST)
async def test_the_shops_repeat_hears_the_truth(tmp_path: Path, fault: Fault) -> None:
    """Where Holdfast does not send again by itself: the repeat's own signature goes out."""
    async with shop(tmp_path, fault, gateway=ONE_SEND) as at:
        lost = await pay(at.client)
        assert lost.status in {500, 504}
        assert (await at.money(), await at.listed()) == (("INTERRUPTED", "unknown"), 1)
        found = await pay(at.client)

        assert (found.status, at.charges) == (201, 1)
        assert await at.money() == ("COMPLETED", "charged")
        first, second = (message.headers["authorization"] for message in gateway(at).heard)
        assert first != second


@pytest.mark.parametrize("fault", LOST)
async def test_without_a_key_it_is_sent_once(tmp_path: Path, fault: Fault) -> None:
    """None can be put in, so nothing protects a repeat: unknown, listed, never sent again."""
    async with shop(tmp_path, fault) as at:
        lost = await pay(at.client, None, unsigned=NAMED)
        again = await pay(at.client, None, unsigned=NAMED)

        assert lost.status in {500, 504}
        assert (again.status, again.body["reasonCode"]) == (504, "outcome_unknown")
        assert (await at.money(), await at.listed()) == (("INTERRUPTED", "unknown"), 1)
        assert (at.keys, len(gateway(at).heard)) == ([None], 1)


async def test_unprotected_a_repeat_without_a_key_charges_twice(tmp_path: Path) -> None:
    """The control: taken for a request that moves no money, and the shop repeats it."""
    route = f"{{name: charge, session: ephemeral, match: {{methods: [POST], path: {CHARGES}}}}}"
    async with shop(tmp_path, Fault.RESET_AFTER, gateway=f"routes: [{route}]") as at:
        lost = await pay(at.client, None, unsigned=NAMED)
        await pay(at.client, None, unsigned=NAMED)

        assert (lost.status, at.keys) == (502, [None, None])


async def test_a_key_put_in_breaks_the_signature(tmp_path: Path) -> None:
    """The control: a profile that says it may be put in, and the gateway takes nothing any more."""
    shipped = (ROOT / "proxy/gateways/amazon-pay.yaml").read_text()
    assert shipped.count(", put_in: false") == 1
    (tmp_path / "gateways").mkdir()
    other = shipped.replace(", put_in: false", "")
    (tmp_path / "gateways/amazon-pay.yaml").write_text(other)
    async with shop(tmp_path) as at:
        refused = await pay(at.client, None)

        assert (refused.status, refused.body["reasonCode"]) == (401, "UnauthorizedAccess")
        assert (at.charges, gateway(at).unsigned) == (0, 1)


def test_a_changed_request_is_not_signed() -> None:
    """The control of the check: another method, path, header, body or name, and it fails."""
    headers = {"accept": "application/json", "x-amz-pay-date": "20260101T000000Z"}
    message = Message("POST", f"{CHARGES}?a=1", headers, b"{}")
    signed = {**headers, "authorization": signature(message, _KEY)}
    key = _KEY.public_key()
    assert is_signed(Message("POST", f"{CHARGES}?a=1", signed, b"{}"), key)
    for changed in (
        Message("PUT", f"{CHARGES}?a=1", signed, b"{}"),
        Message("POST", f"{CHARGES}?a=2", signed, b"{}"),
        Message("POST", f"/x{CHARGES}?a=1", signed, b"{}"),
        Message("POST", f"{CHARGES}?a=1", signed, b"{ }"),
        Message("POST", f"{CHARGES}?a=1", {**signed, "accept": "*/*"}, b"{}"),
        Message("POST", f"{CHARGES}?a=1", {**signed, "x-amz-pay-idempotency-key": "k"}, b"{}"),
        Message("POST", f"{CHARGES}?a=1", headers, b"{}"),
    ):
        assert not is_signed(changed, key)


async def test_a_decline_comes_back_as_it_is(tmp_path: Path) -> None:
    """422 with Amazon's reason, once."""
    async with shop(tmp_path) as at:
        declined = await pay(at.client, headers={SIMULATION: "HardDeclined"})

        assert (declined.status, declined.body["reasonCode"]) == (422, "HardDeclined")
        assert (at.charges, await at.money()) == (0, ("DECLINED", "not_charged"))


async def test_a_dashed_uuid_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    """It has 36 characters, and Amazon takes 32: told in Amazon's form, and nothing was sent."""
    async with shop(tmp_path) as at:
        refused = await pay(at.client, "6f9619ff-8b86-d011-b42d-00cf4fc964ff")

        assert (refused.status, refused.body["reasonCode"]) == (400, "idempotency_key_invalid")
        assert gateway(at).heard == []


async def test_refusals_look_like_amazons(tmp_path: Path) -> None:
    """A reason and a message: a used key, an order already paid."""
    async with shop(tmp_path) as at:
        await pay(at.client, unsigned=NAMED)
        reused = await pay(at.client, amount="1.00")
        twice = await pay(at.client, "k-2", unsigned=NAMED)

        for refused, status, code in (
            (reused, 422, "idempotency_key_reused"),
            (twice, 409, "order_already_paid"),
        ):
            assert (refused.status, refused.body["reasonCode"]) == (status, code)
            assert refused.body["message"]
        assert at.charges == 1


async def test_a_held_payment_is_not_sent_again(tmp_path: Path) -> None:
    """A person holds it: the repeat is told so."""
    async with shop(tmp_path, Fault.RESET_BEFORE, gateway=ONE_SEND) as at:
        await pay(at.client)
        await at.do("interrupt")
        held = await pay(at.client)

        assert (held.status, held.body["reasonCode"]) == (409, "session_held")
        assert (at.charges, len(gateway(at).heard)) == (0, 1)


async def test_an_open_breaker_is_a_503(tmp_path: Path) -> None:
    """The gateway fails; the next payment is not sent."""
    breaker = "defaults: {breaker: {min_calls: 1}}"
    async with shop(tmp_path, Fault.UNAVAILABLE, gateway=ONE_SEND, more=breaker) as at:
        await pay(at.client)
        refused = await pay(at.client, "k-2")

        assert (refused.status, refused.body["reasonCode"]) == (503, "gateway_unavailable")
        assert len(gateway(at).heard) == 1
