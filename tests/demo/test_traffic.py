"""The shop of the demonstration: what it is told, and what it makes of it."""

from __future__ import annotations

import pytest
from aiohttp import web

from proxy.demo.traffic import Shop, Takings, Told, pay_all
from tests.support.running import free_port


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, {"status": "succeeded"}, Told.PAID),
        (200, {"status": "requires_action"}, Told.FAILED),
        (402, {"error": {}}, Told.DECLINED),
        (503, {"error": {}}, Told.FAILED),
        (504, {"outcome": "unknown"}, Told.UNKNOWN),
    ],
)
async def test_an_answer_is_understood(status: int, body: dict[str, str], told: Told) -> None:
    """Paid is paid, declined is declined, and unknown is not failed."""

    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers={"X-Payment-Session-Id": "ps_1"})

    app = web.Application()
    app.router.add_post("/v1/payment_intents", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    takings = Takings()
    await pay_all(Shop(f"http://127.0.0.1:{runner.addresses[0][1]}", 5), 2, 2, takings)
    await runner.cleanup()
    assert takings.count(told) == 2
    assert takings.sessions == {"order-0": "ps_1", "order-1": "ps_1"}
    assert takings.percentile(0.5) > 0


async def test_no_answer_is_a_failure() -> None:
    """A shop that gets nothing believes it failed, and a retrying one tries again."""
    takings = Takings()
    await pay_all(Shop(f"http://127.0.0.1:{free_port()}", 5, tries=3), 1, 1, takings)
    assert takings.told == {"order-0": Told.FAILED}


def test_no_payments_no_percentile() -> None:
    """An empty till has no times."""
    assert Takings().percentile(0.99) == 0.0
