"""Square through its SDK: the SDK's own repeats, calls without a key, and a payment that is voided
by its key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from square.core import http_client

from proxy.demo.faults import Fault
from tests.e2e.gateways.shops import SQUARE
from tests.e2e.gateways.trial import Trial, trial
from tests.support.running import ROOT

PROFILE = (ROOT / "proxy/gateways/square.yaml").read_text()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK's first pause is a second; here it is none."""
    monkeypatch.setattr(http_client, "INITIAL_RETRY_DELAY_SECONDS", 0.001)


async def paid_before(it: Trial) -> tuple[str, int]:
    """An order is paid with a second key, by an SDK that repeats: what it hears and how often."""
    await it.pay()
    heard = await it.pay(key="k-2", max_retries=2)
    return heard.code, it.payments_asked - 1


async def test_what_no_repeat_changes_is_heard_once(tmp_path: Path) -> None:
    """The SDK may repeat, and does not: the refusal is a 400."""
    async with trial(SQUARE, tmp_path, route="order_lock: body") as it:
        assert await paid_before(it) == ("order_already_paid", 1)


async def test_as_a_409_it_is_heard_three_times(tmp_path: Path) -> None:
    """The control: the same profile without the statuses for Square's SDKs."""
    (tmp_path / "gateways").mkdir()
    plain = PROFILE.replace("&not_again {status: 400}", "&not_again {}")
    (tmp_path / "gateways/square.yaml").write_text(plain)
    async with trial(SQUARE, tmp_path, route="order_lock: body") as it:
        assert await paid_before(it) == ("order_already_paid", 3)


async def test_the_sdks_repeat_of_a_lost_answer_pays_once(tmp_path: Path) -> None:
    """It repeats the 504 with its key: that is told the truth."""
    async with trial(SQUARE, tmp_path, Fault.RESET_AFTER) as it:
        heard = await it.pay(max_retries=2)

    assert (heard.state, [heard.payment]) == ("COMPLETED", it.lines)
    assert it.payments_asked == 2


async def test_a_cancelled_unknown_is_voided_by_its_key(tmp_path: Path) -> None:
    """Somebody cancels it: once Square is done with it, what the key has paid is undone."""
    async with trial(SQUARE, tmp_path, Fault.RESET_AFTER) as it:
        await it.pay()
        assert (await it.asked("cancel", reason="test")).status == 202
        it.clock.leap(10 * 60)
        await it.comes_to("CANCELLED", "not_charged")
        again = await it.pay()

    assert (it.lines, [charge.key for charge in it.ledger.voided]) == ([], ["k-1"])
    assert again.code == "session_cancelled"


async def test_what_takes_no_key_is_sent_once(tmp_path: Path) -> None:
    """The answer to a completion is lost: nobody sends it again, and it is told as unknown."""
    async with trial(SQUARE, tmp_path, Fault.NONE, Fault.RESET_AFTER, gateway="") as it:
        paid = await it.pay()
        once = {"request_options": {"max_retries": 0}}
        heard = await it.calls(it.sdk.payments.complete, paid.payment, **once)

    assert (heard.status, heard.code) == (504, "outcome_unknown")
    assert it.gateway.arrivals == {"o-1": 2}


async def test_the_sdk_itself_repeats_what_takes_no_key(tmp_path: Path) -> None:
    """To Holdfast a call of its own, and sent: why such calls are made without repeats."""
    async with trial(SQUARE, tmp_path, Fault.NONE, Fault.RESET_AFTER) as it:
        paid = await it.pay()
        heard = await it.calls(it.sdk.payments.complete, paid.payment)
        sessions = [
            one["outcome"] for one in await it.sessions() if one["route"] != "create-payment"
        ]

    assert heard.raised == ""
    assert it.gateway.arrivals == {"o-1": 3}
    assert sorted(sessions) == ["charged", "unknown"]


async def test_a_lost_refund_is_made_once(tmp_path: Path) -> None:
    """Holdfast asks again with the key in the body."""
    async with trial(SQUARE, tmp_path, Fault.NONE, Fault.RESET_AFTER, gateway="") as it:
        paid = await it.pay()
        heard = await it.calls(
            it.sdk.refunds.refund_payment,
            idempotency_key="k-2",
            amount_money={"amount": 5, "currency": "EUR"},
            payment_id=paid.payment,
        )

    assert heard.raised == ""
    assert [(refund.amount, refund.key) for refund in it.ledger.refunds] == [(5, "k-2")]
    assert it.gateway.arrivals == {"o-1": 3}


async def test_a_key_that_square_would_not_take_is_refused(tmp_path: Path) -> None:
    """46 characters: before anything is sent."""
    async with trial(SQUARE, tmp_path) as it:
        heard = await it.pay(key="k" * 46)

    assert (heard.status, heard.code) == (400, "idempotency_key_invalid")
    assert it.gateway.arrivals == {}


async def test_the_sdk_can_name_the_order(tmp_path: Path) -> None:
    """By `additional_headers`: another payment of it is refused."""
    named: dict[str, Any] = {"additional_headers": {"X-Payment-Order-Id": "o-1"}}
    async with trial(SQUARE, tmp_path) as it:
        paid = await it.pay(key=None, **named)
        again = await it.pay(key=None, **named)
        other = await it.pay(key=None, amount=2999, **named)

    assert (again, [paid.payment]) == (paid, it.lines)
    assert (other.status, other.code) == (400, "order_already_paid")
