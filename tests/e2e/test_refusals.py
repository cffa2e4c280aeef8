"""Holdfast's own refusals as the SDKs hear them: an exception of the right class that says what is
known, after exactly one request. An SDK that repeated a final answer would only delay the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.core.problems import problem
from proxy.core.refusals import Refusal
from proxy.settings.load import load
from tests.e2e.policies import holdfast, policy_text
from tests.e2e.sdks import PAID, Heard, Opener, Params, Sdk, class_name, stripe_node, stripe_python
from tests.support.raw import RawConnection, raw_server
from tests.support.running import Running, free_port
from tests.support.tcp_faults import TcpFaults, tcp_faults

SUCCEEDED = b'{"id":"pi_1","object":"payment_intent","status":"succeeded"}'


class Gateway:
    """Answers, hangs, or hangs up, as the payment's metadata says."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, connection: RawConnection) -> None:
        while True:
            request = await connection.request()
            self.asked.set()
            if b"=hang" in request:
                await self.release.wait()
            if b"=drop" in request or b"/pi_drop" in request:
                connection.reset()
                return
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(SUCCEEDED)
            await connection.send(head + SUCCEEDED)


@dataclass(slots=True)
class Desk:
    """A merchant's desk: an SDK that may retry twice, and a counter of what it sends."""

    shop: Sdk
    counter: TcpFaults
    proxy: Running
    gateway: Gateway
    another: Callable[[], contextlib.AbstractAsyncContextManager[Sdk]]
    before: int = 0
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def pay(self, do: str = "pay", *, params: Params = PAID, **options: Any) -> Heard:
        """Pay with the SDK under test; what it sends is counted from here."""
        self.before = self.counter.requests
        paid = {**params, "metadata": {"do": do}}
        return await self.shop.call("payment_intents.create", params=paid, **options)

    async def someone_else_pays(self, do: str, **options: Any) -> None:
        """Another client's payment is at the gateway when this returns."""
        sdk = await self.stack.enter_async_context(self.another())
        paid = {**PAID, "metadata": {"do": do}}
        call = asyncio.ensure_future(sdk.call("payment_intents.create", params=paid, **options))
        self.stack.push_async_callback(asyncio.wait, [call])
        self.stack.callback(self.gateway.release.set)
        await self.gateway.asked.wait()

    async def session(self, *steps: str) -> str:
        """A session that the backend created, and did these things to."""
        async with aiohttp.ClientSession() as http:
            order = {"orderId": "o-1"}
            async with http.post(f"{self.proxy.api}/session/create", json=order) as answer:
                session: str = (await answer.json())["sessionId"]
            for step in steps:
                url = f"{self.proxy.api}/session/{session}/{step}"
                async with http.post(url, json={"reason": "test"}) as answer:
                    assert answer.status == 200, await answer.text()
        return session


ORDER = {"X-Payment-Order-Id": "o-1"}


async def _outcome_unknown(desk: Desk) -> Heard:
    return await desk.pay("drop")


async def _pays(desk: Desk) -> Heard:
    return await desk.pay()


async def _pays_twice(desk: Desk) -> Heard:
    await desk.pay()
    return await desk.pay()


async def _overloaded(desk: Desk) -> Heard:
    await desk.someone_else_pays("hang")
    return await desk.pay()


async def _key_reused(desk: Desk) -> Heard:
    await desk.pay(idempotency_key="k-1")
    return await desk.pay(params={**PAID, "amount": 2999}, idempotency_key="k-1")


async def _in_progress(desk: Desk) -> Heard:
    await desk.someone_else_pays("hang", idempotency_key="k-1")
    return await desk.pay("hang", idempotency_key="k-1")


async def _order_open(desk: Desk) -> Heard:
    await desk.pay("drop", headers=ORDER)
    return await desk.pay(headers=ORDER)


async def _order_paid(desk: Desk) -> Heard:
    await desk.pay(headers=ORDER)
    return await desk.pay(headers=ORDER)


async def _new_key(desk: Desk) -> Heard:
    await desk.pay(idempotency_key="k-1")
    return await desk.pay(idempotency_key="k-2")


async def _too_large(desk: Desk) -> Heard:
    return await desk.pay(params={**PAID, "description": "x" * 3_000_000})


async def _session_unknown(desk: Desk) -> Heard:
    return await desk.pay(headers={"X-Payment-Session-Id": "ps_nobody"})


async def _session_taken(desk: Desk) -> Heard:
    headers = {"X-Payment-Session-Id": await desk.session()}
    await desk.pay(headers=headers)
    return await desk.pay(headers=headers)


async def _session_held(desk: Desk) -> Heard:
    return await desk.pay(headers={"X-Payment-Session-Id": await desk.session("interrupt")})


async def _session_cancelled(desk: Desk) -> Heard:
    return await desk.pay(headers={"X-Payment-Session-Id": await desk.session("cancel")})


async def _order_header_invalid(desk: Desk) -> Heard:
    return await desk.pay(headers={"X-Payment-Order-Id": "two words"})


async def _key_too_long(desk: Desk) -> Heard:
    return await desk.pay(idempotency_key="k" * 256)


async def _read_fails(desk: Desk) -> Heard:
    desk.before = desk.counter.requests
    return await desk.shop.call("payment_intents.retrieve", "pi_drop")


@dataclass(frozen=True, slots=True)
class Row:
    """How to come to a refusal, and what is heard."""

    scene: Callable[[Desk], Awaitable[Heard]]
    raised: str
    status: int
    session: bool  # whether the exception names a session
    gateway: str = ""
    more: str = ""
    nowhere: bool = False  # nobody listens at the gateway's address


_ONE_OF_THREE = "retry: {max_attempts: 3, automatic_attempts: 1}"
_NO_NEW_KEYS = (
    "routes: [{name: create-payment, new_key: refuse, "
    "match: {methods: [POST], path: /v1/payment_intents}}]"
)
TABLE: dict[str, Row] = {
    "outcome-unknown": Row(_outcome_unknown, "APIError", 504, session=True, gateway=_ONE_OF_THREE),
    "not-sent": Row(_pays, "APIError", 502, session=True, gateway=_ONE_OF_THREE, nowhere=True),
    "retries-exhausted": Row(_pays, "APIError", 502, session=True, nowhere=True),
    "gateway-unavailable": Row(
        _pays_twice,
        "APIError",
        503,
        session=True,
        gateway=_ONE_OF_THREE,
        more="defaults: {breaker: {min_calls: 1}}",
        nowhere=True,
    ),
    "overloaded": Row(
        _overloaded,
        "APIError",
        503,
        session=True,
        more="defaults: {concurrency: {max_in_flight: 1, max_queue: 0}}",
    ),
    "idempotency-key-reused": Row(_key_reused, "IdempotencyError", 400, session=False),
    "request-in-progress": Row(
        _in_progress, "APIError", 409, session=True, more="session: {duplicate_wait: 0ms}"
    ),
    "order-already-open": Row(_order_open, "APIError", 409, session=True, gateway=_ONE_OF_THREE),
    "order-already-paid": Row(_order_paid, "APIError", 409, session=True),
    "new-key-for-same-request": Row(_new_key, "APIError", 409, session=True, gateway=_NO_NEW_KEYS),
    "body-too-large": Row(_too_large, "APIError", 413, session=False),
    "session-unknown": Row(_session_unknown, "InvalidRequestError", 404, session=False),
    "session-taken": Row(_session_taken, "APIError", 409, session=True),
    "session-held": Row(_session_held, "APIError", 409, session=True),
    "session-cancelled": Row(_session_cancelled, "APIError", 409, session=True),
    "header-invalid": Row(_order_header_invalid, "InvalidRequestError", 400, session=False),
    "idempotency-key-invalid": Row(_key_too_long, "InvalidRequestError", 400, session=False),
    "gateway-failed": Row(_read_fails, "APIError", 502, session=True),
}


@contextlib.asynccontextmanager
async def desk_for(row: Row, sdk: Opener, folder: Path) -> AsyncIterator[Desk]:
    """Gateway, Holdfast, counter, SDK."""
    gateway = Gateway()
    async with (
        raw_server(gateway) as upstream,
        holdfast(
            folder,
            f"http://127.0.0.1:{free_port()}" if row.nowhere else upstream.origin,
            gateway=row.gateway,
            more=row.more,
        ) as proxy,
        tcp_faults(proxy.port) as counter,
        sdk(counter.url, 2, folder) as shop,
        contextlib.AsyncExitStack() as stack,
    ):
        yield Desk(shop, counter, proxy, gateway, lambda: sdk(proxy.url, 0, folder), stack=stack)


@pytest.mark.parametrize("code", TABLE)
async def test_a_refusal_is_an_exception_after_one_request(
    sdk: Opener, tmp_path: Path, code: str
) -> None:
    """Class, status, code, message and session are there, and the SDK did not try again."""
    row = TABLE[code]
    async with desk_for(row, sdk, tmp_path) as desk:
        heard = await row.scene(desk)
        sent = desk.counter.requests - desk.before

    refusal = next(refusal for refusal in Refusal if refusal.code == code)
    assert (heard.raised, heard.status) == (class_name(sdk, row.raised), row.status)
    assert heard.error_code == code.replace("-", "_")
    assert heard.message == f"{refusal.value.title}. {refusal.value.detail}"
    assert heard.headers["stripe-should-retry"] == "false"
    assert heard.headers["proxy-status"].startswith("holdfast; error=")
    assert heard.headers.get("x-payment-session-id", "").startswith("ps_") == row.session
    assert sent == 1


# --- the whole catalogue --------------------------------------------------------------------------

# Refusal → the status in Stripe's form, and stripe-python's class.
CATALOGUE: dict[Refusal, tuple[int, str]] = {
    Refusal.MALFORMED_REQUEST: (400, "InvalidRequestError"),
    Refusal.TARGET_NOT_FORWARDABLE: (400, "InvalidRequestError"),
    Refusal.METHOD_NOT_FORWARDABLE: (405, "APIError"),
    Refusal.AMBIGUOUS_FRAMING: (400, "InvalidRequestError"),
    Refusal.EXPECTATION_UNKNOWN: (417, "APIError"),
    Refusal.DUPLICATE_HEADER: (400, "InvalidRequestError"),
    Refusal.HEADER_INVALID: (400, "InvalidRequestError"),
    Refusal.KEY_INVALID: (400, "InvalidRequestError"),
    Refusal.BYTES_NOT_FORWARDABLE: (400, "InvalidRequestError"),
    Refusal.LOOP: (400, "InvalidRequestError"),
    Refusal.BODY_TOO_LARGE: (413, "APIError"),
    Refusal.BODY_INCOMPLETE: (400, "InvalidRequestError"),
    Refusal.TOKEN_REQUIRED: (401, "AuthenticationError"),
    Refusal.KEY_REUSED: (400, "IdempotencyError"),
    Refusal.IN_PROGRESS: (409, "APIError"),
    Refusal.ORDER_OPEN: (409, "APIError"),
    Refusal.ORDER_PAID: (409, "APIError"),
    Refusal.NEW_KEY: (409, "APIError"),
    Refusal.SESSION_UNKNOWN: (404, "InvalidRequestError"),
    Refusal.SESSION_TAKEN: (409, "APIError"),
    Refusal.SESSION_HELD: (409, "APIError"),
    Refusal.SESSION_CANCELLED: (409, "APIError"),
    Refusal.SESSION_EXPIRED: (410, "APIError"),
    Refusal.ANSWER_GONE: (409, "APIError"),
    Refusal.OUTCOME_UNKNOWN: (504, "APIError"),
    Refusal.WAIT_OVER: (504, "APIError"),
    Refusal.NOT_SENT: (502, "APIError"),
    Refusal.RETRIES_EXHAUSTED: (502, "APIError"),
    Refusal.BREAKER_OPEN: (503, "APIError"),
    Refusal.OVERLOADED: (503, "APIError"),
    Refusal.STORE_UNAVAILABLE: (503, "APIError"),
    Refusal.STORE_REGRESSED: (503, "APIError"),
    Refusal.DRAINING: (503, "APIError"),
    Refusal.UPSTREAM_FAILED: (502, "APIError"),
    Refusal.INTERNAL: (500, "APIError"),
}
# These exceptions of stripe-python have the code as an attribute of their own; the others leave it
# to the error object.
_WITH_CODE = {"InvalidRequestError", "CardError"}


async def test_every_refusal_there_is(sdk: Opener, tmp_path: Path) -> None:
    """No row is beyond an SDK's parser, and only one that is not the end makes it try again."""
    path = tmp_path / "policy.yaml"
    path.write_text(policy_text("http://127.0.0.1:1"), encoding="utf-8")
    profile = load(path, {}).gateways["stripe"].profile
    refusals = {refusal.code: refusal for refusal in Refusal}

    async def refuse(connection: RawConnection) -> None:
        while True:
            request = await connection.request()
            code = request.split(b"/v1/payment_intents/")[1].split(b" ")[0].decode()
            answer = problem(refusals[code], profile=profile)
            lines = [f"HTTP/1.1 {answer.status} {answer.status_text}"]
            lines += [f"{name}: {value}" for name, value in answer.headers]
            lines += [f"Content-Length: {len(answer.body)}", "", ""]
            await connection.send("\r\n".join(lines).encode() + answer.body)

    heard = {}
    async with raw_server(refuse) as server, sdk(server.origin, 2, tmp_path) as shop:
        for refusal in Refusal:
            heard[refusal] = await shop.call("payment_intents.retrieve", refusal.code)

    assert server.requests == sum(1 if refusal.value.final else 3 for refusal in Refusal)
    assert {refusal: (said.status, said.raised) for refusal, said in heard.items()} == {
        refusal: (status, class_name(sdk, raised))
        for refusal, (status, raised) in CATALOGUE.items()
    }
    for refusal, said in heard.items():
        code = refusal.code.replace("-", "_")
        own = code if sdk is stripe_node or said.raised in _WITH_CODE else None
        assert (said.error_code, said.code) == (code, own)


async def test_without_the_header_an_sdk_tries_again(sdk: Opener, tmp_path: Path) -> None:
    """The negative control: the same refusal without Stripe-Should-Retry is sent three times."""

    async def refuse(connection: RawConnection) -> None:
        answer = problem(Refusal.OUTCOME_UNKNOWN)
        error = b'{"error":{"type":"api_error","message":"?"}}'
        while True:
            await connection.request()
            head = f"HTTP/1.1 {answer.status} {answer.status_text}\r\n"
            await connection.send(f"{head}Content-Length: {len(error)}\r\n\r\n".encode() + error)

    async with raw_server(refuse) as server, sdk(server.origin, 2, tmp_path) as shop:
        heard = await shop.call("payment_intents.create", params=PAID)

    assert heard.raised == class_name(sdk, "APIError")
    assert server.requests == 3


async def test_what_is_known_is_in_the_body(tmp_path: Path) -> None:
    """Beside Stripe's error object stands the problem: stripe-python keeps it whole."""
    sdk = stripe_python
    async with desk_for(TABLE["outcome-unknown"], sdk, tmp_path) as desk:
        heard = await desk.pay("drop")

    assert heard.text is not None
    known = json.loads(heard.text)
    session = heard.headers["x-payment-session-id"]
    assert {name: known[name] for name in known.keys() - {"error", "detail", "title"}} == {
        "type": "/problems/outcome-unknown",
        "status": 504,
        "sessionId": session,
        "state": "INTERRUPTED",
        "outcome": "unknown",
        "attempts": 1,
        "anythingSent": True,
        "safeToRepeat": True,
    }
