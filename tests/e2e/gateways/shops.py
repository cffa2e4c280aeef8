"""The shops: how a merchant's code pays with each gateway's official SDK."""

from __future__ import annotations

import typing
from typing import Any

import Adyen
from Adyen.exceptions import AdyenError
from checkout_sdk.checkout_api import CheckoutApi
from checkout_sdk.exception import CheckoutApiException
from checkout_sdk.payments.payments import PaymentRequest, PaymentRequestTokenSource
from paypalserversdk.exceptions.api_exception import ApiException
from paypalserversdk.paypal_serversdk_client import PaypalServersdkClient
from square import Square
from square.core.api_error import ApiError

from proxy.demo.dialects import checkout, paypal, square
from proxy.demo.dialects.adyen import SimulatedAdyen
from tests.e2e.gateways.trial import AMOUNT, Heard, Shop
from tests.support.sdks_of_gateways import (
    adyen_python,
    checkout_python,
    paypal_python,
    square_python,
)

_ABSENT: Any = typing.cast("Any", ...)  # Square's own word for a field that is not sent


def _square_pays(
    sdk: Square,
    order: str,
    key: str | None,
    *,
    declined: bool = False,
    amount: int = AMOUNT,
    **options: Any,
) -> Heard:
    paid = sdk.payments.create(
        source_id=square.DECLINED if declined else "cnon:card-nonce-ok",
        idempotency_key=_ABSENT if key is None else key,
        amount_money={"amount": amount, "currency": "EUR"},
        reference_id=order,
        request_options={"max_retries": 0, **options},
    ).payment
    assert paid is not None
    return Heard(payment=paid.id or "", state=paid.status or "")


def _square_tells(error: Exception) -> Heard:
    if not isinstance(error, ApiError):
        raise error
    first = error.errors[0]
    return Heard(
        raised=type(error).__name__,
        status=error.status_code,
        code=str(first.code),
        message=first.detail or "",
    )


def _adyen_pays(
    sdk: Adyen.Adyen,
    order: str,
    key: str | None,
    *,
    declined: bool = False,
    amount: int = AMOUNT,
    holder: str = "A. Shopper",
    **more: Any,
) -> Heard:
    payment = {
        "amount": {"value": amount, "currency": "EUR"},
        "reference": order,
        "paymentMethod": {"type": "scheme", "holderName": "DECLINED" if declined else holder},
        "merchantAccount": "Shop",
        "returnUrl": "https://shop.example/",
    }
    answer = sdk.checkout.payments_api.payments(payment, key, **more)
    return Heard(payment=answer.psp, state=answer.message["resultCode"])


def _adyen_tells(error: Exception) -> Heard:
    if not isinstance(error, AdyenError):
        raise error
    return Heard(
        raised=type(error).__name__,
        status=error.status_code,
        code=error.error_code,
        message=error.message["message"],
    )


def _paypal_pays(
    sdk: PaypalServersdkClient,
    order: str,
    key: str | None,
    *,
    declined: bool = False,
    amount: int = AMOUNT,
) -> Heard:
    holder = paypal.DECLINED_HOLDER if declined else "A. Shopper"
    money = {"currency_code": "EUR", "value": f"{amount / 100:.2f}"}
    body = {
        "intent": "CAPTURE",
        "purchase_units": [{"invoice_id": order, "amount": money}],
        "payment_source": {"card": {"name": holder, "number": "4111111111111111"}},
    }
    asks = {"body": body, "paypal_request_id": key, "prefer": "return=representation"}
    capture = sdk.orders.create_order(asks).body.purchase_units[0].payments.captures[0]
    return Heard(payment=capture.id, state=capture.status)


def _paypal_tells(error: Exception) -> Heard:
    if not isinstance(error, ApiException):
        raise error
    return Heard(
        raised=type(error).__name__,
        status=error.response_code,
        code=error.details[0].issue,
        message=error.message,
    )


def _checkout_pays(
    sdk: CheckoutApi, order: str, key: str | None, *, declined: bool = False, amount: int = AMOUNT
) -> Heard:
    request = PaymentRequest()
    request.source = PaymentRequestTokenSource()
    request.source.token = checkout.DECLINED if declined else "tok_visa"
    request.amount, request.currency, request.reference = amount, "EUR", order
    paid = sdk.payments.request_payment(request, key)
    return Heard(payment=paid.id, state=paid.status)


def _checkout_tells(error: Exception) -> Heard:
    if not isinstance(error, CheckoutApiException):
        raise error
    return Heard(
        raised=type(error).__name__,
        status=error.http_metadata.status_code,
        code=error.error_details[0],
        message=str(error),
    )


SQUARE = Shop(
    profile="square",
    simulator=square.SimulatedSquare,
    sdk=square_python,
    pay=_square_pays,
    tell=_square_tells,
    route="name: create-payment, match: {methods: [POST], path: /v2/payments}",
    declined=Heard(raised="ApiError", status=402, code="GENERIC_DECLINE"),
    paid="COMPLETED",
    strong=True,
    errors={"ApiError"},
)
ADYEN = Shop(
    profile="adyen",
    simulator=SimulatedAdyen,
    sdk=adyen_python,
    pay=_adyen_pays,
    tell=_adyen_tells,
    route='name: pay, match: {methods: [POST], path: "/**/payments"}',
    declined=Heard(state="Refused"),
    paid="Authorised",
    strong=True,
    errors={
        "AdyenAPIAuthenticationError",
        "AdyenAPICommunicationError",
        "AdyenAPIResponseError",
        "AdyenAPIUnprocessableEntity",
        "AdyenAPIValidationError",
    },
)
PAYPAL = Shop(
    profile="paypal",
    simulator=paypal.SimulatedPayPal,
    sdk=paypal_python,
    pay=_paypal_pays,
    tell=_paypal_tells,
    route="name: create-order, match: {methods: [POST], path: /v2/checkout/orders}",
    declined=Heard(state="DECLINED"),
    paid="COMPLETED",
    strong=True,
    errors={"ErrorException"},
)
CHECKOUT = Shop(
    profile="checkout",
    simulator=checkout.SimulatedCheckout,
    sdk=checkout_python,
    pay=_checkout_pays,
    tell=_checkout_tells,
    route="name: pay, match: {methods: [POST], path: /payments}",
    declined=Heard(state="Declined"),
    paid="Authorized",
    strong=False,
    errors={"CheckoutApiException"},
    messages=False,
)
SHOPS = {shop.profile: shop for shop in (SQUARE, ADYEN, PAYPAL, CHECKOUT)}
