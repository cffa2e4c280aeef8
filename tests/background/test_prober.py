"""Whether a gateway is back is found out with reads of Holdfast's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.core.breaker import BreakerState, Switch
from proxy.core.reasons import Reason
from proxy.core.wire import WireFacts
from proxy.ports import Send
from tests.support.lab import POLICY, SUCCEEDED, Lab, pay, settings_from

pytestmark = pytest.mark.looptime

CLOSED, HALF_OPEN, OPEN = BreakerState
ONE_FAILURE = POLICY + "  breaker: {min_calls: 1, probes: 2}\n"


async def rests(
    tmp_path: Path, text: str = ONE_FAILURE, environ: dict[str, str] | None = None
) -> Lab:
    """A lab whose prober runs and whose first payment failed, so that its breaker has opened."""
    lab = Lab(settings_from(text, tmp_path, environ))
    _ = lab.tasks.start(lab.prober.run(), "prober")
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-0"))
    assert state(lab) is OPEN
    lab.transcript.clear()
    return lab


def state(lab: Lab) -> BreakerState:
    """Of the gateway's breaker."""
    return lab.lanes["stripe"].admissions.of("charge").breaker.state


async def test_probes_and_not_a_payment_find_out_that_it_is_back(tmp_path: Path) -> None:
    """The rest, two reads, and only then the payment."""
    lab = await rests(tmp_path)
    lab.gateway.will(*[lab.gateway.answers(401)] * 2, lab.gateway.answers(200, SUCCEEDED))
    await asyncio.sleep(14.5)
    assert lab.transcript == []
    await asyncio.sleep(1)
    await lab.merchant_sends(pay(key="k-1"))
    assert [line for line in lab.transcript if line[:4] in {"wire", "answ"}] == [
        "wire   GET /v1/balance",
        "wire   GET /v1/balance",
        "wire   POST /v1/payment_intents",
        "answer 200",
    ]
    await lab.close()


async def test_while_it_fails_no_payment_is_sent(tmp_path: Path) -> None:
    """A probe in vain, and another rest; what customers want meanwhile is refused, and kept."""
    lab = await rests(tmp_path)
    lab.gateway.will(lab.gateway.answers(200), lab.gateway.answers(503))
    for _ in range(60):
        await asyncio.sleep(0.5)
        answer = await lab.merchant_sends(pay(key="k-1"))
        assert answer.status == 503
        assert b'"anythingSent":false' in answer.body
    assert [send.method for send in lab.gateway.seen] == ["POST", "GET", "GET"]
    assert state(lab) is OPEN
    await lab.close()


@pytest.mark.parametrize("reason", [Reason.CONNECTION_REFUSED, Reason.TLS_ERROR])
async def test_one_that_cannot_be_reached_stays_open(tmp_path: Path, reason: Reason) -> None:
    """Nothing came back."""
    lab = await rests(tmp_path)
    lab.gateway.will(lab.gateway.refuses_connection(reason))
    await asyncio.sleep(16)
    assert state(lab) is OPEN
    await lab.close()


async def test_one_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """Two seconds, and the next rest begins."""
    lab = await rests(tmp_path)
    lab.gateway.will(lab.gateway.hangs())
    await asyncio.sleep(16)
    assert state(lab) is HALF_OPEN
    await asyncio.sleep(2)
    assert state(lab) is OPEN
    await lab.close()


async def test_it_asks_with_the_look_up_credential(tmp_path: Path) -> None:
    """If there is one; a customer's own is never used for it."""
    credential = {
        "HOLDFAST__GATEWAYS__STRIPE__LOOKUP_CREDENTIAL__ENV": "LOOK_UP",
        "LOOK_UP": "Bearer rk_read",
    }
    lab = await rests(tmp_path, environ=credential)
    lab.gateway.will(*[lab.gateway.answers(200)] * 3)
    await asyncio.sleep(15.3)
    assert lab.gateway.seen[-1].headers == (("Authorization", "Bearer rk_read"), ("Accept", "*/*"))
    await lab.close()


async def test_the_policy_may_name_another_path(tmp_path: Path) -> None:
    """It knows better what this gateway answers."""
    lab = await rests(tmp_path, ONE_FAILURE.replace("probes: 2", "probe: '/healthz?deep=1'"))
    lab.gateway.will(*[lab.gateway.answers(200)] * 3)
    await asyncio.sleep(15.3)
    assert set(lab.transcript) == {"wire   GET /healthz?deep=1"}
    await lab.close()


async def test_opened_by_hand_nobody_is_asked(tmp_path: Path) -> None:
    """A person has said that it is to be left alone."""
    lab = await rests(tmp_path)
    for admission in lab.lanes["stripe"].admissions:
        admission.switch(Switch.OPEN, "their maintenance")
    await asyncio.sleep(3600)
    assert (lab.transcript, state(lab)) == ([], OPEN)
    await lab.close()


async def test_every_breaker_of_a_gateway_is_probed(tmp_path: Path) -> None:
    """Also that of an operation with limits of its own."""
    apart = 'upstream: "http://127.0.0.1:1", operations: {refund: {breaker: {open_for: 5s}}}'
    text = ONE_FAILURE.replace('upstream: "http://127.0.0.1:1"', apart, 1)
    lab = await rests(tmp_path, text)
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="r-0", target="/v1/refunds"))
    lab.gateway.will(*[lab.gateway.answers(200)] * 2)
    await asyncio.sleep(6)
    states = [admission.breaker.state for admission in lab.lanes["stripe"].admissions]
    assert states == [OPEN, CLOSED]
    await lab.close()


async def test_a_bug_does_not_end_the_probing(tmp_path: Path) -> None:
    """It is told, and the gateway is asked again: else the breaker stays open for ever."""
    lab = await rests(tmp_path)

    async def breaks(_send: Send) -> WireFacts:
        message = "a bug"
        raise RuntimeError(message)

    lab.gateway.will(breaks, *[lab.gateway.answers(200)] * 2)
    await asyncio.sleep(16)
    assert state(lab) is CLOSED
    assert [str(bug) for bug in lab.bugs] == ["a bug"]
    lab.bugs.clear()
    await lab.close()
