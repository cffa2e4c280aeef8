"""The shops: how a merchant's code pays with each gateway's official SDK."""

from __future__ import annotations

import typing
from dataclasses import replace
from typing import Any

import Adyen
import braintree
import gocardless_pro
import razorpay
from Adyen.exceptions import AdyenError
from braintree.exceptions.braintree_error import BraintreeError
from checkout_sdk.checkout_api import CheckoutApi
from checkout_sdk.exception import CheckoutApiException
from checkout_sdk.payments.payments import PaymentRequest, PaymentRequestTokenSource
from gocardless_pro.errors import ApiError as GoCardlessError
from mollie.api.client import Client as Mollie
from mollie.api.error import ResponseError
from paypalserversdk.exceptions.api_exception import ApiException
from paypalserversdk.paypal_serversdk_client import PaypalServersdkClient
from razorpay.errors import BadRequestError as RazorpayBadRequest
from razorpay.errors import ServerError as RazorpayFailed
from square import Square
from square.core.api_error import ApiError

from proxy.core.refusals import Refusal
from proxy.demo.dialects import checkout, mollie, paypal, square
from proxy.demo.dialects.adyen import SimulatedAdyen
from proxy.demo.dialects.braintree import DECLINED, SimulatedBraintree
from proxy.demo.dialects.gocardless import SimulatedGoCardless
from proxy.demo.dialects.razorpay import DECLINED_CARD, SimulatedRazorpay
from tests.e2e.gateways.trial import AMOUNT, Heard, Shop
from tests.support.sdks_of_gateways import (
    adyen_python,
    braintree_python,
    checkout_python,
    gocardless_python,
    mollie_python,
    paypal_python,
    razorpay_python,
    square_python,
)

_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
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


def _mollie_pays(
    sdk: Mollie,
    order: str,
    key: str | None,
    *,
    declined: bool = False,
    amount: int = AMOUNT,
    **more: Any,
) -> Heard:
    payment = {
        "amount": {"currency": "EUR", "value": f"{amount / 100:.2f}"},
        "description": f"Order {order}",
        "metadata": {"order_id": order},
        "sequenceType": "recurring",
        "customerId": "cst_1",
        "mandateId": mollie.DECLINED if declined else "mdt_1",
        **more,
    }
    paid = sdk.payments.create(payment, key or "")
    return Heard(payment=paid.id, state=paid.status)


def _mollie_tells(error: Exception) -> Heard:
    if not isinstance(error, ResponseError):
        raise error
    return replace(_by_its_sentence(error), status=error.status)


def _by_its_sentence(error: Exception) -> Heard:
    """An SDK has no place for a code: the sentence is all there is."""
    said = [refusal.code for refusal in Refusal if str(error).startswith(refusal.value.title)]
    code = "".join(said).replace("-", "_")
    return Heard(raised=type(error).__name__, code=code, message=str(error))


def _gocardless_pays(
    sdk: gocardless_pro.Client,
    order: str,
    key: str | None,
    *,
    amount: int = AMOUNT,
    mandate: str = "MD1",
    sends: int = 1,
    **headers: str,
) -> Heard:
    payments = sdk.payments
    payments.max_network_retries, payments.retry_delay_in_seconds = sends, 0
    payment = {
        "amount": amount,
        "currency": "EUR",
        "metadata": {"order_id": order},
        "links": {"mandate": mandate},
    }
    named = headers if key is None else {**headers, "Idempotency-Key": key}
    paid = payments.create(payment, named)
    return Heard(payment=paid.id, state=paid.status)


def _gocardless_tells(error: Exception) -> Heard:
    if not isinstance(error, GoCardlessError):
        raise error
    return Heard(
        raised=type(error).__name__,
        status=error.code,
        code=error.errors[0]["reason"],
        message=str(error),
    )


def _razorpay_pays(
    sdk: razorpay.Client,
    order: str,
    key: str | None,
    *,
    declined: bool = False,
    amount: int = AMOUNT,
    **headers: str,
) -> Heard:
    """An order by its id at Razorpay; there is no key."""
    del key
    payment = {
        "amount": amount,
        "currency": "INR",
        "method": "card",
        "order_id": order,
        "card": {"number": DECLINED_CARD if declined else "4111111111111111"},
    }
    paid = sdk.payment.createPaymentJson(payment, headers=headers)
    return Heard(payment=paid["id"], state=paid["status"])


def _razorpay_tells(error: Exception) -> Heard:
    if not isinstance(error, RazorpayBadRequest | RazorpayFailed):
        raise error
    return _by_its_sentence(error)


def _braintree_pays(
    sdk: braintree.BraintreeGateway,
    order: str,
    key: str | None,
    *,
    declined: bool = False,
    amount: int = AMOUNT,
) -> Heard:
    """What is declined or wrong is a result to this SDK; there is no key."""
    del key
    sale = {
        "amount": f"{amount / 100:.2f}",
        "order_id": order,
        "payment_method_nonce": DECLINED if declined else "fake-valid-nonce",
        "options": {"submit_for_settlement": True},
    }
    paid = sdk.transaction.sale(sale).transaction
    return Heard(payment=paid.id, state=paid.status)


def _braintree_tells(error: Exception) -> Heard:
    if not isinstance(error, BraintreeError):
        raise error
    return Heard(raised=type(error).__name__, message=str(error))


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
    linked=True,
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
MOLLIE = Shop(
    profile="mollie",
    linked=True,
    simulator=mollie.SimulatedMollie,
    sdk=mollie_python,
    pay=_mollie_pays,
    tell=_mollie_tells,
    route="name: create-payment, match: {methods: [POST], path: /v2/payments}",
    declined=Heard(state="failed"),
    paid="paid",
    strong=False,
    errors={
        "BadRequestError",
        "ConflictError",
        "NotFoundError",
        "ResponseError",
        "UnauthorizedError",
        "UnprocessableEntityError",
    },
    made_up=_UUID,
)
GOCARDLESS = Shop(
    profile="gocardless",
    simulator=SimulatedGoCardless,
    sdk=gocardless_python,
    pay=_gocardless_pays,
    tell=_gocardless_tells,
    route="name: create-payment, match: {methods: [POST], path: /payments}",
    declined=None,
    paid="pending_submission",
    strong=True,
    errors={"AuthenticationError", "GoCardlessInternalError", "InvalidApiUsageError"},
    made_up=_UUID,
)
RAZORPAY = Shop(
    profile="razorpay",
    simulator=SimulatedRazorpay,
    sdk=razorpay_python,
    pay=_razorpay_pays,
    tell=_razorpay_tells,
    route='name: create-payment, match: {methods: [POST], path: "/v1/payments/create/{how}"}',
    declined=Heard(raised="BadRequestError"),
    paid="captured",
    strong=False,
    errors={"BadRequestError", "ServerError"},
)
BRAINTREE = Shop(
    profile="braintree",
    simulator=SimulatedBraintree,
    sdk=braintree_python,
    pay=_braintree_pays,
    tell=_braintree_tells,
    route='name: sale, match: {methods: [POST], path: "/merchants/{merchant}/transactions"}',
    declined=Heard(state="processor_declined"),
    paid="submitted_for_settlement",
    strong=False,
    errors={"GatewayTimeoutError", "ServiceUnavailableError", "UnexpectedError"},
    messages=False,
    policy="parameters: {merchant: shop}",
)
# Razorpay's and Braintree's are tried by themselves: their payments have no key.
SHOPS = {shop.profile: shop for shop in (SQUARE, ADYEN, PAYPAL, CHECKOUT, MOLLIE, GOCARDLESS)}
