"""kill -9 at every point of a payment: a real process, a real store, and the gateway's ledger.

The points are those of the money rules (section 6.2). Whatever the point, after the restart the
charge is made once, and until that is known the session is listed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.demo.faults import Fault, FaultPlan
from proxy.demo.gateway import SimulatedGateway
from tests.support.killing_gateway import AT_THE_GATEWAY, KillingGateway
from tests.support.running import ROOT, HoldfastProcess, simulated
from tests.support.waiting import until

CRASHING = str(ROOT / "tests" / "support" / "crashing.py")
IN_PROCESS = (
    "C0", "C1", "C2", "C3-uncommitted", "C3", "C4", "C9", "C10-uncommitted", "C10", "C11", "C12",
)  # fmt: skip
# Where the answer had not been recorded although the gateway may have acted.
UNKNOWN_AFTER = {"C3", "C4", "C5", "C6", "C7", "C8", "C9", "C10-uncommitted"}


class Shop:
    """A backend that pays one order, and asks again with the same key when it must."""

    def __init__(self, process: HoldfastProcess, body: bytes) -> None:
        self._process = process
        self._body = body
        self.http = aiohttp.ClientSession()

    async def pay(self) -> tuple[int, dict[str, Any]] | None:
        """Pay; None if the connection broke."""
        try:
            async with self.http.post(
                f"{self._process.url}/v1/payment_intents",
                data=self._body,
                headers={
                    "Idempotency-Key": "k-1",
                    "X-Payment-Order-Id": "o-1",
                    "Authorization": "Bearer sk_test_crash",
                    "Content-Type": "application/x-www-form-urlencoded",
                },
            ) as answer:
                return answer.status, await answer.json(content_type=None)
        except (aiohttp.ClientError, ValueError):
            return None

    async def sessions(self, *, active: bool = False) -> list[dict[str, Any]]:
        """What the session API shows."""
        path = "/sessions/active" if active else "/sessions?orderId=o-1"
        async with self.http.get(self._process.api + path) as answer:
            found: list[dict[str, Any]] = (await answer.json())["sessions"]
            return found


def body(point: str) -> bytes:
    """A payment; for a crash in the middle of it, a long one."""
    text = b"amount=1999&currency=eur&confirm=true&payment_method=pm_card_visa"
    return text + b"&metadata[order_id]=o-1&description=" + b"x" * (400_000 if point == "C5" else 9)


def port_of(origin: str) -> int:
    """Of an origin."""
    return int(origin.rsplit(":", 1)[1])


@contextlib.asynccontextmanager
async def crashed(
    point: str, folder: Path, gateway: KillingGateway, profile: str = "stripe"
) -> AsyncIterator[tuple[HoldfastProcess, Shop]]:
    """A Holdfast that died at the point while paying, and is running again."""
    async with simulated(gateway) as origin:
        process = HoldfastProcess(folder, origin, profile=profile)
        shop = Shop(process, body(point))
        try:
            if point in IN_PROCESS:
                environ = {"CRASH_AT": point, "PYTHONPATH": str(ROOT)}
                await process.start(sys.executable, CRASHING, environ=environ)
            else:
                gateway.armed[port_of(origin)] = (point, process.kill)
                await process.start()
            assert await shop.pay() is None
            assert process.process is not None
            assert await process.process.wait() == -9
            await process.start()
            yield process, shop
        finally:
            await shop.http.close()
            await process.kill()


@pytest.mark.parametrize("point", [*IN_PROCESS, *AT_THE_GATEWAY])
async def test_one_charge_whatever_the_point(point: str, tmp_path: Path) -> None:
    """The client repeats with its key after the restart: one charge, told as paid."""
    gateway = KillingGateway()
    async with crashed(point, tmp_path, gateway) as (_, shop):
        listed = await shop.sessions(active=True)
        unknown = [s for s in listed if s["outcome"] == "unknown"]
        assert len(unknown) == (point in UNKNOWN_AFTER)
        charged_before = len(gateway.ledger.charges)
        told = await shop.pay()
        assert told is not None
        status, answer = told
        assert (status, answer["status"]) == (200, "succeeded")
        assert dict(gateway.ledger.per_order()) == {"o-1": 1}
        assert charged_before in {0, 1}
        (session,) = await shop.sessions()
        assert (session["status"], session["outcome"]) == ("COMPLETED", "charged")


@pytest.mark.parametrize("point", ["C3", "C4", "C5", "C6", "C7", "C8", "C9", "C10-uncommitted"])
async def test_nothing_is_repeated_where_keys_mean_nothing(point: str, tmp_path: Path) -> None:
    """At a gateway without a promise the repeat is not sent: unknown, and listed."""
    gateway = KillingGateway()
    async with crashed(point, tmp_path, gateway, "generic") as (_, shop):
        charged_before = len(gateway.ledger.charges)
        told = await shop.pay()
        assert told is not None
        assert told[0] == 504
        assert told[1]["outcome"] == "unknown"
        assert len(gateway.ledger.charges) == charged_before
        (session,) = await shop.sessions(active=True)
        assert session["outcome"] == "unknown"


async def test_negative_control_a_store_that_forgets_charges_twice(tmp_path: Path) -> None:
    """The same crash after the charge, with the journal switched off: two charges."""
    gateway = KillingGateway()
    async with simulated(gateway) as origin:
        process = HoldfastProcess(tmp_path, origin)
        gateway.armed[port_of(origin)] = ("C7", process.kill)
        policy = process.config.read_text().replace("sqlite:///holdfast.db", "memory://")
        process.config.write_text(policy)
        await process.start()
        order = {"X-Payment-Order-Id": "o-1"}
        data = body("C7")
        async with aiohttp.ClientSession() as http:
            url = f"{process.url}/v1/payment_intents"
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            with contextlib.suppress(aiohttp.ClientError):
                await http.post(url, data=data, headers={**order, **kind})
            await process.start()
            async with http.post(url, data=data, headers={**order, **kind}) as answer:
                assert answer.status == 200
        await process.kill()
    assert dict(gateway.ledger.per_order()) == {"o-1": 2}


async def test_sigterm_while_the_gateway_thinks(tmp_path: Path) -> None:
    """SIGTERM: not ready at once, the payment in flight finishes, and the exit code is 0."""
    gateway = SimulatedGateway(latency=0.5)
    async with simulated(gateway) as origin:
        process = HoldfastProcess(tmp_path, origin)
        await process.start()
        shop = Shop(process, body("C4"))
        request = asyncio.ensure_future(shop.pay())
        await until(lambda: bool(gateway.arrivals))
        assert process.process is not None
        process.process.terminate()
        told = await request
        assert told is not None
        assert told[0] == 200
        assert await process.process.wait() == 0
        await shop.http.close()
    assert dict(gateway.ledger.per_order()) == {"o-1": 1}


async def test_sigterm_and_a_gateway_that_never_answers(tmp_path: Path) -> None:
    """The drain's patience ends: the session is durable as interrupted by the shutdown."""

    class Hanging(FaultPlan):
        def fault(self, order: str, arrival: int) -> Fault:
            del order, arrival
            return Fault.HANG_AFTER

    gateway = SimulatedGateway(Hanging())
    async with simulated(gateway) as origin:
        process = HoldfastProcess(tmp_path, origin, "shutdown: {drain: 300ms}\n")
        await process.start()
        shop = Shop(process, body("C4"))
        request = asyncio.ensure_future(shop.pay())
        await until(lambda: bool(gateway.ledger.charges))
        assert await process.stop() == 0
        told = await request
        assert told is not None
        assert (told[0], told[1]["outcome"]) == (504, "unknown")
        await process.start()
        (session,) = await shop.sessions(active=True)
        assert session["metadata"]["interruptions"][-1]["reason"] == "shutdown"
        await shop.http.close()
        await process.kill()
