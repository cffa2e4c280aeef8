"""The policies to start from: what each is about is so, and is not where it is left out."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.core.breaker import BreakerState
from proxy.demo.faults import Fault, FaultPlan
from proxy.demo.gateway import SimulatedGateway
from proxy.settings.load import load
from tests.support.lab import SUCCEEDED, Lab, pay
from tests.support.running import ROOT, Running, running, simulated


def lab(config: str) -> Lab:
    """The flow under a shipped policy."""
    return Lab(load(ROOT / "config" / config, {}))


# --- one payment, and the gateway's ledger --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnswerLost(FaultPlan):
    """What the first request of an order meets: unless it is said, it is charged and reset."""

    first: Fault = Fault.RESET_AFTER

    def fault(self, order: str, arrival: int) -> Fault:  # noqa: ARG002 -- each order alike
        return self.first if arrival == 1 else Fault.NONE


class Forgetful(SimulatedGateway):
    """A gateway that takes keys and does not keep its promise."""

    def key(self, request: Any, parameters: Any) -> None:
        """Whatever stands in its header."""


async def buy(holdfast: Running, key: str = "k-1") -> tuple[int, str | None]:
    """One order, as a backend pays it; the status, and how many sends it took."""
    form = {"amount": "1999", "currency": "eur", "confirm": "true", "metadata[order_id]": "o-1"}
    headers = {"Authorization": "Bearer sk_test_1", "Idempotency-Key": key}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{holdfast.url}/v1/payment_intents", data=form, headers=headers) as answer,
    ):
        return answer.status, answer.headers.get("X-Payment-Attempts")


def under(config: str, folder: Path, upstream: str) -> Any:
    """A Holdfast with a shipped policy in front of another gateway."""
    here = {
        "HOLDFAST__STORE": "sqlite:///holdfast.db",
        "HOLDFAST__LISTEN__SESSIONS": "127.0.0.1:0",
        "HOLDFAST__LISTEN__ADMIN": "127.0.0.1:0",
        "HOLDFAST__GATEWAYS__STRIPE__LISTEN": "127.0.0.1:0",
        "HOLDFAST__GATEWAYS__STRIPE__UPSTREAM": upstream,
        "HOLDFAST__SHUTDOWN__READY_DELAY": "0s",
    }
    return running(folder, (ROOT / "config" / config).read_text(encoding="utf-8"), here)


@pytest.mark.parametrize(
    ("fault", "charges"),
    [
        (Fault.RESET_AFTER, 1),
        (Fault.TRUNCATED, 1),
        (Fault.RESET_BEFORE, 0),  # not charged, which nobody can know
        (Fault.UNAVAILABLE, 0),  # nor of a 5xx
    ],
)
async def test_never_resend_sends_a_lost_answer_once(
    fault: Fault, charges: int, tmp_path: Path
) -> None:
    """Whatever became of the first send, there is no second, also when the backend asks again."""
    gateway = Forgetful(AnswerLost(first=fault))
    async with simulated(gateway) as upstream, under("never-resend.yaml", tmp_path, upstream) as it:
        assert (await buy(it))[1] == "1"
        assert (await buy(it))[1] == "1"
    assert gateway.arrivals == {"o-1": 1}
    assert len(gateway.ledger.charges) == charges


@pytest.mark.looptime
async def test_never_resend_sends_what_did_not_leave() -> None:
    """No connection: provably nothing was sent, so the payment is made by the next try."""
    flow = lab("never-resend.yaml")
    flow.gateway.will(flow.gateway.refuses_connection(), flow.gateway.answers(200, SUCCEEDED))
    assert (await flow.merchant_sends(pay(key="k-1"))).status == 200
    assert len(flow.gateway.seen) == 1
    await flow.close()


async def test_never_resend_takes_no_other_key_either(tmp_path: Path) -> None:
    """A backend that tries again under a new key does not send it past the policy."""
    gateway = Forgetful(AnswerLost())
    async with simulated(gateway) as upstream, under("never-resend.yaml", tmp_path, upstream) as it:
        assert (await buy(it))[0] == 504
        assert (await buy(it, key="k-2"))[0] == 409
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_negative_control_a_broken_promise_charges_twice(tmp_path: Path) -> None:
    """Under the gateway's own promise the same lost answer is sent again, and charged again."""
    gateway = Forgetful(AnswerLost())
    async with simulated(gateway) as upstream, under("stripe.yaml", tmp_path, upstream) as it:
        assert await buy(it) == (200, "2")
    assert gateway.ledger.per_order() == {"o-1": 2}


async def test_stripe_charges_an_order_once_whatever_the_key(tmp_path: Path) -> None:
    """A lost answer is fetched with its key, and a second key for the order is refused."""
    gateway = SimulatedGateway(AnswerLost())
    async with simulated(gateway) as upstream, under("stripe.yaml", tmp_path, upstream) as it:
        assert await buy(it) == (200, "2")
        assert (await buy(it, key="k-2"))[0] == 409
    assert gateway.ledger.per_order() == {"o-1": 1}


async def test_negative_control_split_payments_are_charged_twice(tmp_path: Path) -> None:
    """By default an order that only stands in the body locks nothing: it may be paid in parts."""
    gateway = SimulatedGateway(AnswerLost())
    async with simulated(gateway) as upstream, under("holdfast.yaml", tmp_path, upstream) as it:
        assert await buy(it) == (200, "2")
        assert (await buy(it, key="k-2"))[0] == 200
    assert gateway.ledger.per_order() == {"o-1": 2}


# --- many of them ---------------------------------------------------------------------------------


async def answers(config: str, payments: int) -> Counter[int]:
    """So many payments at one moment, each of which the gateway is at for 5 s."""
    flow = lab(config)
    flow.gateway.will(*[flow.gateway.answers_late(5, 200, SUCCEEDED)] * payments)
    paid = [
        flow.merchant_sends(pay(key=f"k-{number}", body=b"amount=%d" % number))
        for number in range(payments)
    ]
    counted = Counter(answer.status for answer in await asyncio.gather(*paid))
    await flow.close()
    return counted


@pytest.mark.looptime
async def test_high_volume_has_a_place_for_each() -> None:
    """A thousand payments at once at a slow gateway, all of them served."""
    assert await answers("high-volume.yaml", 1000) == {200: 1000}


@pytest.mark.looptime
async def test_negative_control_the_default_turns_most_away() -> None:
    """The same under the default: 200 places, and whoever waits is told after a second."""
    assert await answers("holdfast.yaml", 1000) == {200: 200, 503: 800}


@pytest.mark.looptime
async def test_many_gateways_do_not_feel_each_other() -> None:
    """One loses every answer until it is given a rest; the others go on, at once."""
    flow = lab("many-gateways.yaml")
    flow.gateway.will(*[flow.gateway.loses_answer()] * 5)
    for number in range(5):
        lost = await flow.merchant_sends(pay(key=f"k-{number}", order=f"o-{number}"), "bank")
        assert lost.status == 504
    assert flow.lanes["bank"].admissions.of("charge").breaker.state is BreakerState.OPEN
    assert (await flow.merchant_sends(pay(key="k-6", order="o-6"), "bank")).status == 503
    flow.gateway.will(*[flow.gateway.answers(200, SUCCEEDED)] * 2)
    for name in ("stripe", "acme"):
        paid = await flow.merchant_sends(pay(key=f"k-{name}", order=f"o-{name}"), name)
        assert paid.status == 200
    await flow.close()


@pytest.mark.looptime
async def test_many_gateways_pay_an_order_at_one_of_them() -> None:
    """An order whose answer was lost at one is not paid at the next; another order is."""
    flow = lab("many-gateways.yaml")
    flow.gateway.will(flow.gateway.loses_answer())
    assert (await flow.merchant_sends(pay(key="k-1", order="o-1"), "bank")).status == 504
    refused = await flow.merchant_sends(pay(key="k-2", order="o-1"), "stripe")
    assert (refused.status, len(flow.gateway.sends)) == (409, 1)
    flow.gateway.will(flow.gateway.answers(200, SUCCEEDED))
    assert (await flow.merchant_sends(pay(key="k-3", order="o-2"), "stripe")).status == 200
    await flow.close()
