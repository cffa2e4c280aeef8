"""What only stripe-python has: the asynchronous calls, settings for the whole module, addresses per
service, and the proxies of its environment. What both SDKs do stands in the other files.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import stripe

from proxy.demo.gateway import SimulatedGateway
from tests.e2e.answers import requests_at
from tests.e2e.policies import holdfast, policy_text
from tests.e2e.sdks import PAID, StripePython, stripe_python
from tests.support.parts import KEY
from tests.support.raw import always, raw_server
from tests.support.running import free_port, running, simulated
from tests.support.tcp_faults import ANSWER_LOST, tcp_faults

FILE = {"name": "evidence.txt", "data": b"evidence"}
CREATED = b'{"id":"x_1","object":"file","status":"succeeded"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(CREATED), CREATED)


async def test_the_asynchronous_calls_pay_too(tmp_path: Path) -> None:
    """`create_async` over the SDK's own aiohttp client: paid once, and a second order refused."""
    gateway = SimulatedGateway()
    params: Any = {**PAID, "metadata": {"order_id": "o-1"}}
    options: Any = {"headers": {"X-Payment-Order-Id": "o-1"}}
    async with simulated(gateway) as origin, holdfast(tmp_path, origin) as proxy:
        client = stripe.StripeClient(
            KEY, base_addresses={"api": proxy.url}, http_client=stripe.AIOHTTPClient()
        )
        create = client.v1.payment_intents.create_async
        try:
            intent = await create(params=params, options=options)
            with pytest.raises(stripe.APIError) as refused:
                await create(params=params, options=options)
        finally:
            http: Any = client._requestor._get_http_client()
            await http.close_async()

    assert intent.status == "succeeded"
    assert refused.value.error is not None
    assert refused.value.error.code == "order_already_paid"
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_files_have_an_address_of_their_own(tmp_path: Path) -> None:
    """With a gateway for files beside the other, uploads go there and payments do not."""
    async with raw_server(always(ANSWER)) as api, raw_server(always(ANSWER)) as files:
        second = (
            f'stripe-files: {{profile: stripe, listen: "127.0.0.1:0", upstream: {files.origin}}}'
        )
        text = policy_text(api.origin, gateway=f"idempotency: {{}}\n  {second}")
        async with running(tmp_path, text) as proxy:
            sdk = StripePython(
                f"http://127.0.0.1:{proxy.doors.gateways['stripe'].port}",
                0,
                files=f"http://127.0.0.1:{proxy.doors.gateways['stripe-files'].port}",
            )
            params = {"purpose": "dispute_evidence", "file": FILE}
            uploaded = await sdk.call("files.create", params=params)
            paid = await sdk.call("payment_intents.create", params=PAID)
            await sdk.close()

    assert (uploaded.raised, paid.raised) == (None, None)
    assert [asked.line for asked in requests_at(files)] == ["POST /v1/files HTTP/1.1"]
    assert [asked.line for asked in requests_at(api)] == ["POST /v1/payment_intents HTTP/1.1"]


async def test_a_client_retries_only_if_it_is_told_to(tmp_path: Path) -> None:
    """`StripeClient` without `max_network_retries` gives up after a lost answer, paid or not."""
    gateway = SimulatedGateway()
    async with (
        simulated(gateway) as origin,
        holdfast(tmp_path, origin) as proxy,
        tcp_faults(proxy.port, ANSWER_LOST) as door,
    ):
        sdk = StripePython(door.url, None)
        heard = await sdk.call("payment_intents.create", params=PAID)
        await sdk.close()

    assert (stripe.max_network_retries, door.requests) == (2, 1)
    assert heard.raised == "APIConnectionError"
    assert len(gateway.ledger.charges) == 1


async def test_a_proxy_of_the_environment_stands_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY diverts even loopback requests, until NO_PROXY names Holdfast's address."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with (
        simulated(SimulatedGateway()) as origin,
        holdfast(tmp_path, origin) as proxy,
        stripe_python(proxy.url, 0, tmp_path) as shop,
    ):
        diverted = await shop.call("payment_intents.create", params=PAID)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        arrived = await shop.call("payment_intents.create", params=PAID)

    assert diverted.raised == "APIConnectionError"
    assert (arrived.raised, arrived.body["status"]) == (None, "succeeded")


async def test_many_threads_share_one_client(tmp_path: Path) -> None:
    """One client, eight threads, eight orders: eight charges, each in a session of its own."""
    gateway = SimulatedGateway()
    async with simulated(gateway) as origin, holdfast(tmp_path, origin) as proxy:
        client = stripe.StripeClient(KEY, base_addresses={"api": proxy.url})
        http: Any = client._requestor._get_http_client()

        def pay(order: str) -> tuple[str, str]:
            params: Any = {**PAID, "metadata": {"order_id": order}}
            try:
                intent = client.v1.payment_intents.create(params=params)
            finally:
                http.close()  # this thread's session
            assert intent.last_response is not None
            return intent.status, intent.last_response.headers["X-Payment-Session-Id"]

        orders = [f"o-{number}" for number in range(8)]
        paid = await asyncio.gather(*[asyncio.to_thread(pay, order) for order in orders])

    assert [status for status, _ in paid] == ["succeeded"] * 8
    assert len({session for _, session in paid}) == 8
    assert gateway.ledger.per_order() == dict.fromkeys(orders, 1)
