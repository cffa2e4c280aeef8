"""Answers that get lost between Holdfast and a real gateway. The judge is the gateway's ledger.

Every test of the protection stands beside the same thing without it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.settings.load import ConfigError
from tests.e2e.policies import NO_IDEMPOTENCY, holdfast
from tests.e2e.sdks import CHARGE, PAID, Opener, class_name
from tests.support.parts import Part
from tests.support.tcp_faults import ANSWER_LOST, REFUSED, Fault, tcp_faults


def charges(part: Part) -> list[str]:
    """The state of each charge in the ledger of stripe-stateful-mock."""
    return [charge["status"] for charge in part.read("/v1/charges?limit=100")["data"]]


def payments(part: Part) -> list[str]:
    """The state of each payment in the ledger of localstripe."""
    return [intent["status"] for intent in part.read("/v1/payment_intents?limit=100")["data"]]


# --- a gateway that keeps keys --------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(ANSWER_LOST, id="answer lost"),
        pytest.param(Fault(cut_after=40), id="cut in the head"),
        pytest.param(Fault(cut_after=1000), id="cut in the body"),
        pytest.param(REFUSED, id="reset at once"),
    ],
)
async def test_an_answer_lost_once_is_fetched_with_the_same_key(
    sdk: Opener, stripe_mock: Part, tmp_path: Path, fault: Fault
) -> None:
    """Holdfast asks again with the same key: the SDK sees success, the ledger one charge."""
    async with (
        tcp_faults(stripe_mock.port, fault) as broken,
        holdfast(tmp_path, broken.url) as proxy,
        sdk(proxy.url, 0, tmp_path) as shop,
    ):
        heard = await shop.call("charges.create", params=CHARGE)

    assert (heard.raised, heard.body.get("status")) == (None, "succeeded")
    assert heard.headers["x-payment-attempts"] == "2"
    assert charges(stripe_mock) == ["succeeded"]


async def test_without_holdfast_the_customer_is_charged_and_the_shop_told_it_failed(
    sdk: Opener, stripe_mock: Part, tmp_path: Path
) -> None:
    """The negative control: the same lost answer, directly, with its one free retry lost too."""
    lost = [ANSWER_LOST, ANSWER_LOST]
    async with (
        tcp_faults(stripe_mock.port, *lost) as broken,
        sdk(broken.url, 0, tmp_path) as shop,
    ):
        heard = await shop.call("charges.create", params=CHARGE)

    assert heard.raised == class_name(sdk, "APIConnectionError")
    assert charges(stripe_mock) == ["succeeded"]


async def test_answers_that_stay_lost_are_told_as_unknown(
    sdk: Opener, stripe_mock: Part, tmp_path: Path
) -> None:
    """Nothing comes back at all: the SDK hears that nobody knows; a repeat of the key finds out."""
    async with (
        tcp_faults(stripe_mock.port, *[ANSWER_LOST] * 2) as broken,
        holdfast(tmp_path, broken.url, gateway=_TWO_OF_THREE) as proxy,
        sdk(proxy.url, 0, tmp_path) as shop,
    ):
        first = await shop.call("charges.create", params=CHARGE, idempotency_key="k-1")
        again = await shop.call("charges.create", params=CHARGE, idempotency_key="k-1")

    assert (first.raised, first.error_code) == (class_name(sdk, "APIError"), "outcome_unknown")
    assert (again.raised, again.body["status"]) == (None, "succeeded")
    assert again.headers["x-payment-session-id"] == first.headers["x-payment-session-id"]
    assert charges(stripe_mock) == ["succeeded"]


_TWO_OF_THREE = "retry: {max_attempts: 3, automatic_attempts: 2, backoff: {initial: 1ms, max: 5ms}}"


# --- a gateway without keys -----------------------------------------------------------------------


async def test_a_repeated_key_pays_once_at_a_gateway_without_keys(
    sdk: Opener, localstripe: Part, tmp_path: Path
) -> None:
    """Twice the same request under one key: one payment, and the same answer again."""
    async with (
        holdfast(tmp_path, localstripe.url, gateway=NO_IDEMPOTENCY) as proxy,
        sdk(proxy.url, 0, tmp_path) as shop,
    ):
        first = await shop.call("payment_intents.create", params=PAID, idempotency_key="k-1")
        again = await shop.call("payment_intents.create", params=PAID, idempotency_key="k-1")

    assert payments(localstripe) == ["succeeded"]
    assert again.body == first.body
    assert again.text == first.text
    assert (again.headers["idempotent-replayed"], "idempotent-replayed" in first.headers) == (
        "true",
        False,
    )


async def test_a_repeated_key_pays_twice_directly(
    sdk: Opener, localstripe: Part, tmp_path: Path
) -> None:
    """The negative control: this gateway takes no notice of keys."""
    async with sdk(localstripe.url, 0, tmp_path) as shop:
        first = await shop.call("payment_intents.create", params=PAID, idempotency_key="k-1")
        again = await shop.call("payment_intents.create", params=PAID, idempotency_key="k-1")

    assert payments(localstripe) == ["succeeded", "succeeded"]
    assert first.body["id"] != again.body["id"]


async def test_a_lost_answer_is_not_repeated_at_a_gateway_without_keys(
    sdk: Opener, localstripe: Part, tmp_path: Path
) -> None:
    """What may have charged is not sent again, by Holdfast, by the SDK or by hand: one payment."""
    async with (
        tcp_faults(localstripe.port, ANSWER_LOST) as broken,
        holdfast(tmp_path, broken.url, gateway=NO_IDEMPOTENCY) as proxy,
        sdk(proxy.url, 2, tmp_path) as shop,
    ):
        first = await shop.call("payment_intents.create", params=PAID, idempotency_key="k-1")
        again = await shop.call("payment_intents.create", params=PAID, idempotency_key="k-1")

    assert (first.error_code, again.error_code) == ("outcome_unknown", "outcome_unknown")
    assert payments(localstripe) == ["succeeded"]


_AT_RISK = """idempotency: {class: D_none}
    routes:
      - name: create-payment
        match: {methods: [POST], path: /v1/payment_intents}
        retry:
          on: [not_sent, reset_before_answer]
          risk: may_charge_twice
          backoff: {initial: 1ms, max: 5ms}"""


async def test_a_route_that_takes_the_risk_pays_twice(
    sdk: Opener, localstripe: Part, tmp_path: Path
) -> None:
    """The negative control: the operator has the very same lost answer repeated."""
    async with (
        tcp_faults(localstripe.port, ANSWER_LOST) as broken,
        holdfast(tmp_path, broken.url, gateway=_AT_RISK) as proxy,
        sdk(proxy.url, 0, tmp_path) as shop,
    ):
        heard = await shop.call("payment_intents.create", params=PAID, idempotency_key="k-1")

    assert (heard.raised, heard.headers["x-payment-attempts"]) == (None, "2")
    assert payments(localstripe) == ["succeeded", "succeeded"]


async def test_what_could_charge_twice_does_not_even_start(
    localstripe: Part, tmp_path: Path
) -> None:
    """The same policy without the word for the risk is refused."""
    without = _AT_RISK.replace("risk: may_charge_twice", "")
    with pytest.raises(ConfigError, match=r"retry\.on\[1\]: could charge twice"):
        await holdfast(tmp_path, localstripe.url, gateway=without).__aenter__()


async def test_the_sdks_own_retry_pays_twice_at_a_gateway_without_keys(
    sdk: Opener, localstripe: Part, tmp_path: Path
) -> None:
    """The negative control: the SDK repeats the lost answer's request by itself, directly."""
    async with (
        tcp_faults(localstripe.port, ANSWER_LOST) as broken,
        sdk(broken.url, 2, tmp_path) as shop,
    ):
        heard = await shop.call("payment_intents.create", params=PAID)

    assert heard.raised is None
    assert payments(localstripe) == ["succeeded", "succeeded"]


async def test_the_sdks_own_retry_pays_once_through_holdfast(
    sdk: Opener, localstripe: Part, tmp_path: Path
) -> None:
    """The same answer lost before Holdfast: the SDK's retry is answered from the record."""
    async with (
        holdfast(tmp_path, localstripe.url, gateway=NO_IDEMPOTENCY) as proxy,
        tcp_faults(proxy.port, ANSWER_LOST) as broken,
        sdk(broken.url, 2, tmp_path) as shop,
    ):
        heard = await shop.call("payment_intents.create", params=PAID)

    assert (heard.raised, heard.headers["idempotent-replayed"]) == (None, "true")
    assert payments(localstripe) == ["succeeded"]


async def test_two_at_once_under_one_key_pay_once_at_a_gateway_without_keys(
    sdk: Opener, localstripe: Part, tmp_path: Path
) -> None:
    """Two clients send the same key at the same time: one payment, one answer for both."""
    async with (
        holdfast(tmp_path, localstripe.url, gateway=NO_IDEMPOTENCY) as proxy,
        sdk(proxy.url, 0, tmp_path) as one,
        sdk(proxy.url, 0, tmp_path) as other,
    ):
        first, second = await asyncio.gather(
            one.call("payment_intents.create", params=PAID, idempotency_key="k-1"),
            other.call("payment_intents.create", params=PAID, idempotency_key="k-1"),
        )

    assert payments(localstripe) == ["succeeded"]
    assert second.body == first.body
