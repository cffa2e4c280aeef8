"""kill -9 when the store could not take what the gateway said: a real process, its disk full after
the intent, at a gateway that cannot be asked. What is known afterwards, the spool knew.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from proxy.demo.gateway import SimulatedGateway
from tests.support.running import ROOT, HoldfastProcess, simulated

CRASHING = str(ROOT / "tests" / "support" / "crashing.py")
PAYMENT = {
    "Idempotency-Key": "k-1",
    "X-Payment-Order-Id": "o-1",
    "Authorization": "Bearer sk_test_spool",
    "Content-Type": "application/x-www-form-urlencoded",
}


@contextlib.asynccontextmanager
async def full_after_the_intent(
    point: str, folder: Path, gateway: SimulatedGateway
) -> AsyncIterator[HoldfastProcess]:
    """A Holdfast whose store fails once an intent stands, and that may die at the point."""
    async with simulated(gateway) as origin:
        process = HoldfastProcess(folder, origin, profile="generic")
        environ = {"CRASH_AT": point, "PYTHONPATH": str(ROOT)}
        await process.start(sys.executable, CRASHING, environ=environ)
        try:
            yield process
        finally:
            await process.kill()


async def pay(process: HoldfastProcess) -> tuple[int, dict[str, str], dict[str, Any]]:
    """A backend pays its order, or asks again for its answer."""
    url = f"{process.url}/v1/payment_intents"
    data = b"amount=1999&currency=eur&confirm=true&metadata[order_id]=o-1"
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, data=data, headers=PAYMENT) as answer,
    ):
        return answer.status, dict(answer.headers), await answer.json(content_type=None)


async def only_session(process: HoldfastProcess) -> dict[str, Any]:
    """The one session of the order."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{process.api}/sessions?orderId=o-1") as answer,
    ):
        (session,) = (await answer.json())["sessions"]
        return dict(session)


async def test_killed_between_the_spool_and_the_answer(tmp_path: Path) -> None:
    """The client heard nothing; the next process knows of the charge, and has its answer."""
    gateway = SimulatedGateway()
    async with full_after_the_intent("spooled", tmp_path, gateway) as process:
        with contextlib.suppress(aiohttp.ClientError):
            await pay(process)
        assert process.process is not None
        assert await process.process.wait() == -9
        asked = len(gateway.arrivals)
        await process.start()
        session = await only_session(process)
        assert (session["status"], session["outcome"]) == ("COMPLETED", "charged")
        status, headers, answer = await pay(process)
        assert (status, answer["status"]) == (200, "succeeded")
        assert headers["Idempotent-Replayed"] == "true"
        assert len(gateway.arrivals) == asked == 1
    assert dict(gateway.ledger.per_order()) == {"o-1": 1}
    assert (tmp_path / "holdfast.db.spool").read_bytes() == b""


async def test_killed_after_the_answer(tmp_path: Path) -> None:
    """The client has the true answer, marked; the next process has it too."""
    gateway = SimulatedGateway()
    async with full_after_the_intent("full", tmp_path, gateway) as process:
        status, headers, told = await pay(process)
        assert (status, headers["X-Payment-Durability"]) == (200, "pending")
        assert (await only_session(process))["outcome"] == "unknown"
        await process.kill()
        await process.start()
        assert (await only_session(process))["outcome"] == "charged"
        assert (await pay(process))[2] == told
    assert dict(gateway.ledger.per_order()) == {"o-1": 1}


async def test_negative_control_without_the_spool_nobody_knows(tmp_path: Path) -> None:
    """The same kill with the spool switched off: unknown, and a person has to find out."""
    gateway = SimulatedGateway()
    async with full_after_the_intent("full, no spool", tmp_path, gateway) as process:
        status, headers, _ = await pay(process)
        assert (status, headers["X-Payment-Durability"]) == (200, "pending")
        await process.kill()
        await process.start()
        assert (await only_session(process))["outcome"] == "unknown"
        assert (await pay(process))[0] == 504
    assert dict(gateway.ledger.per_order()) == {"o-1": 1}
