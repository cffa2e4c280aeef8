"""The shops of gateways that have no SDK for Python, and of Stripe's second API. Over plain HTTP a
merchant's own code makes of an answer a payment, or an exception with what the gateway says.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import requests
import stripe
from cryptography.hazmat.primitives.asymmetric import rsa

from proxy.demo.dialects import amazon, paystack, stripe_v2
from proxy.demo.simulator import JsonObject, timestamp
from tests.e2e.gateways.trial import AMOUNT, Heard, Shop
from tests.support.amazon_signature import Message, signature
from tests.support.sdks_of_gateways import stripe_v2_python

_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Refused(Exception):  # noqa: N818 -- what the merchant's own code raises
    """An answer that is no payment."""

    def __init__(self, status: int, body: JsonObject) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class Plain:
    """Posts JSON."""

    http: requests.Session
    url: str

    def post(self, path: str, document: JsonObject, headers: dict[str, str]) -> JsonObject:
        """What is answered; raises `Refused`."""
        # As it is signed, where it is signed.
        body = json.dumps(document).encode()
        answer = self.http.post(self.url + path, body, headers=headers)
        shown: JsonObject = answer.json()
        if not answer.ok:
            raise Refused(answer.status_code, shown)
        return shown


@contextlib.asynccontextmanager
async def plain(url: str) -> AsyncIterator[Plain]:
    """A client of that origin."""
    with requests.Session() as http:
        yield Plain(http, url)


def _paystack_pays(
    sdk: Plain, order: str, key: str | None, *, declined: bool = False, amount: int = AMOUNT
) -> Heard:
    charge: JsonObject = {
        "email": "a@shop.example",
        "amount": amount,
        "authorization_code": paystack.DECLINED if declined else "AUTH_1",
        "metadata": {"order_id": order},
    }
    if key is not None:
        charge["reference"] = key
    headers = {"Authorization": "Bearer sk_test_1", "Content-Type": "application/json"}
    paid = sdk.post("/transaction/charge_authorization", charge, headers)["data"]
    return Heard(payment=paid["reference"], state=paid["status"])


def _amazon_pays(
    sdk: Plain, order: str, key: str | None, *, declined: bool = False, amount: int = AMOUNT
) -> Heard:
    charge = {
        "chargePermissionId": "S01-0000000-0000000",
        "chargeAmount": {"amount": f"{amount / 100:.2f}", "currencyCode": "EUR"},
        "captureNow": True,
        "merchantMetadata": {"merchantReferenceId": order},
    }
    headers = {
        "content-type": "application/json",
        "x-amz-pay-date": timestamp(),
        "x-amz-pay-region": "eu",
        **({} if key is None else {"x-amz-pay-idempotency-key": key}),
        **({amazon.SIMULATION: "HardDeclined"} if declined else {}),
    }
    path = "/live/v2/charges"
    message = Message("POST", path, headers, json.dumps(charge).encode())
    paid = sdk.post(path, charge, {**headers, "authorization": signature(message, _KEY)})
    return Heard(payment=paid["chargeId"], state=paid["statusDetails"]["state"])


def _stripe_v2_pays(
    sdk: stripe.StripeClient,
    order: str,
    key: str | None,
    *,
    declined: bool = False,
    amount: int = AMOUNT,
) -> Heard:
    params: Any = {
        "amount": {"value": amount, "currency": "eur"},
        "from": {"financial_account": "fa_1", "currency": "eur"},
        "to": {"recipient": "a_1", "payout_method": stripe_v2.DECLINED if declined else "pm_1"},
        "metadata": {"order_id": order},
    }
    options: Any = {} if key is None else {"idempotency_key": key}
    paid = sdk.v2.money_management.outbound_payments.create(params, options)
    return Heard(payment=paid.id, state=paid.status)


def _refused(error: Exception, code: str) -> Heard:
    if not isinstance(error, Refused):
        raise error
    said = error.body
    return Heard("", "", "Refused", error.status, said[code], said["message"])


def _stripe_v2_tells(error: Exception) -> Heard:
    if not isinstance(error, stripe.StripeError) or error.error is None:
        raise error
    kind, said = type(error).__name__, error.error
    return Heard("", "", kind, error.http_status, said.code or "", error.user_message or "")


PAYSTACK = Shop(
    profile="paystack",
    simulator=paystack.SimulatedPaystack,
    sdk=plain,
    pay=_paystack_pays,
    tell=lambda error: _refused(error, "code"),
    route="name: charge-authorization, "
    "match: {methods: [POST], path: /transaction/charge_authorization}",
    declined=Heard(state="failed"),
    paid="success",
    strong=True,
    errors={"Refused"},
)
AMAZON_PAY = Shop(
    profile="amazon-pay",
    simulator=amazon.SimulatedAmazonPay,
    sdk=plain,
    pay=_amazon_pays,
    tell=lambda error: _refused(error, "reasonCode"),
    route="name: charge, match: {methods: [POST], path: /**v2/charges}",
    declined=Heard(raised="Refused", status=422, code="HardDeclined"),
    paid="Captured",
    strong=True,
    errors={"Refused"},
    made_up="",  # what is signed takes none
)
STRIPE_V2 = Shop(
    profile="stripe",
    simulator=stripe_v2.SimulatedStripeV2,
    sdk=stripe_v2_python,
    pay=_stripe_v2_pays,
    tell=_stripe_v2_tells,
    route='name: v2-money, match: {methods: [POST, DELETE], path: "/v2/money_management/**"}',
    declined=Heard(
        raised="InsufficientFundsError", status=400, code="outbound_payment_insufficient_funds"
    ),
    paid="processing",
    strong=True,
    errors={
        "APIError",
        "AuthenticationError",
        "IdempotencyError",
        "InvalidRequestError",
        "PermissionError",
        "RateLimitError",
    },
    made_up="[0-9a-f-]{36}",  # the SDK makes one up
)
PLAIN_SHOPS = {shop.profile: shop for shop in (PAYSTACK, AMAZON_PAY, STRIPE_V2)}
