"""What only stripe-node has: one host for everything, and no room for a path before /v1. What both
SDKs do stands in the other files.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.answers import requests_at
from tests.e2e.policies import policy_text
from tests.e2e.sdks import PAID, stripe_node
from tests.support import parts
from tests.support.raw import always, raw_server
from tests.support.running import running

FILE = {"name": "evidence.txt", "type": "text/plain", "data": b"evidence"}
CREATED = b'{"id":"x_1","object":"file","status":"succeeded"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(CREATED), CREATED)


@pytest.fixture(autouse=True)
def _with_node() -> None:
    parts.node()


async def test_one_host_takes_files_too_so_they_need_a_client_of_their_own(tmp_path: Path) -> None:
    """A client's host replaces files.stripe.com as well: uploads go through a second client."""
    async with raw_server(always(ANSWER)) as api, raw_server(always(ANSWER)) as files:
        second = (
            f'stripe-files: {{profile: stripe, listen: "127.0.0.1:0", upstream: {files.origin}}}'
        )
        text = policy_text(api.origin, gateway=f"idempotency: {{}}\n  {second}")
        async with running(tmp_path, text) as proxy:
            ports = {name: address.port for name, address in proxy.doors.gateways.items()}
            params = {"purpose": "dispute_evidence", "file": FILE}
            async with stripe_node(f"http://127.0.0.1:{ports['stripe']}", 0, tmp_path) as shop:
                await shop.call("payment_intents.create", params=PAID)
                await shop.call("files.create", params=params)
            async with stripe_node(
                f"http://127.0.0.1:{ports['stripe-files']}", 0, tmp_path
            ) as shop:
                uploaded = await shop.call("files.create", params=params)

    assert uploaded.raised is None
    assert [asked.line for asked in requests_at(api)] == [
        "POST /v1/payment_intents HTTP/1.1",
        "POST /v1/files HTTP/1.1",
    ]
    assert [asked.line for asked in requests_at(files)] == ["POST /v1/files HTTP/1.1"]
