"""Who follows the links in a gateway's answers stays with Holdfast, if the profile says where they
are; each test has its control without that.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
import pytest_asyncio
from mollie.api.client import Client
from mollie.api.error import ResponseError

from tests.support.raw import RawConnection, RawServer, raw_server
from tests.support.running import Running, policy, running
from tests.support.wire import message

PROFILE = """\
title: A gateway that answers with links
idempotency: {class: A_strong, window: 1h}
results:
  - {when: {status: [2xx]}, result: succeeded}
  - {when: {status: [4xx]}, result: rejected}
routes:
  - {name: order, match: {methods: [POST], path: /v2/checkout/orders}, session: durable}
  - {name: capture, match: {methods: [POST], path: "/v2/checkout/orders/{id}/capture"},
     session: durable, operation: capture}
"""
LINKS = "links: {origins: [https://api.mollie.com]}\n"
PAYMENTS = [f"tr_{number}" for number in range(7)]
PAGE = 3


def mollie_page(target: str) -> bytes:
    """A page of payments as Mollie writes it: HAL, with links to its public address."""
    origin = "https://api.mollie.com"
    begin = PAYMENTS.index(parse_qs(urlsplit(target).query).get("from", [PAYMENTS[0]])[0])
    ids, rest = PAYMENTS[begin : begin + PAGE], PAYMENTS[begin + PAGE :]

    def link(path: str) -> dict[str, str]:
        return {"href": f"{origin}/v2/{path}", "type": "application/hal+json"}

    payments = [
        {"resource": "payment", "id": i, "_links": {"self": link(f"payments/{i}")}} for i in ids
    ]
    following = link(f"payments?from={rest[0]}&limit={PAGE}") if rest else None
    links = {"self": link(target.removeprefix("/v2/")), "next": following, "previous": None}
    page = {"count": len(ids), "_embedded": {"payments": payments}, "_links": links}
    return json.dumps(page, indent=2).encode()


def paypal_order(host: str) -> bytes:
    """An order as PayPal writes it, with links to the host that was called."""
    order = "orders/5O1"
    links = [
        {"href": f"http://{host}/v2/checkout/{order}", "rel": "self", "method": "GET"},
        {"href": "https://www.paypal.com/checkoutnow?token=5O1", "rel": "approve"},
        {"href": f"http://{host}/v2/checkout/{order}/capture", "rel": "capture"},
    ]
    return json.dumps({"id": "5O1", "status": "CREATED", "links": links}).encode()


async def gateway_script(connection: RawConnection) -> None:
    """Mollie's list, PayPal's orders, and 404 for everything else."""
    while True:
        request = message(await connection.request())
        method, target, _ = request.start.decode().split(" ")
        status, kind = "200 OK", "application/hal+json"
        if (method, urlsplit(target).path) == ("GET", "/v2/payments"):
            body = mollie_page(target)
        elif method == "POST" and target.startswith("/v2/checkout/orders"):
            body, kind = paypal_order(request.values(b"host")[0].decode()), "application/json"
        else:
            status, body = "404 Not Found", b'{"status": 404, "title": "Not Found", "detail": ""}'
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        await connection.send(head.encode() + body)


@pytest_asyncio.fixture
async def gateway() -> AsyncIterator[RawServer]:
    """A gateway that answers with links."""
    async with raw_server(gateway_script) as server:
        yield server


@pytest_asyncio.fixture(params=[True, False], ids=["turned", "as they came"])
async def proxy(
    request: pytest.FixtureRequest, gateway: RawServer, tmp_path: Path
) -> AsyncIterator[tuple[Running, bool]]:
    """A Holdfast whose profile says where links are, or not."""
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways/linking.yaml").write_text(PROFILE + (LINKS if request.param else ""))
    async with running(tmp_path, policy(gateway.origin, profile="linking")) as holdfast:
        yield holdfast, request.param


def every_payment(url: str) -> list[str]:
    """All payments, page by page, as a shop with Mollie's own SDK lists them."""
    client: Any = Client(api_endpoint=url)  # only half of it has types
    client.set_api_key("test_" + "x" * 30)
    page = client.payments.list(limit=PAGE)
    found = [payment.id for payment in page]
    while page.has_next():
        page = page.get_next()
        found += [payment.id for payment in page]
    return found


async def test_mollies_sdk_walks_its_pages(proxy: tuple[Running, bool], gateway: RawServer) -> None:
    """`get_next()` comes back to Holdfast; without the setting it asks for what is nowhere."""
    holdfast, turned = proxy
    if turned:
        assert await asyncio.to_thread(every_payment, holdfast.url) == PAYMENTS
        assert gateway.requests == 3
    else:
        with pytest.raises(ResponseError):
            await asyncio.to_thread(every_payment, holdfast.url)


async def test_a_capture_by_its_link_is_a_payment_of_ours(
    proxy: tuple[Running, bool], gateway: RawServer
) -> None:
    """PayPal's way; without the setting the capture goes to the gateway, and past us."""
    holdfast, turned = proxy
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{holdfast.url}/v2/checkout/orders", json={}) as answer:
            links = {link["rel"]: link["href"] for link in (await answer.json())["links"]}
        assert links["approve"] == "https://www.paypal.com/checkoutnow?token=5O1"
        async with http.post(links["capture"], json={}) as answer:
            assert answer.status == 200
            assert ("X-Payment-Session-Id" in answer.headers) is turned
    assert links["capture"].startswith(holdfast.url if turned else gateway.origin)
