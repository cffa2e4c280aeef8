"""What ships in `proxy/gateways`: every profile loads, reads the gateway's answers as the money
rules ask, and protects every path that moves money.

An answer is a file, `<gateway>/<status>-<what>.http`, in the form that the gateway's documentation
and SDKs show (status line, headers, blank line, body); the tables below say how it must be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace

from proxy.core.classify import classify
from proxy.core.keys import Carrier
from proxy.core.policy import OrderLock, SessionKind
from proxy.core.profile import GatewayClass, GatewayProfile
from proxy.core.reasons import Reason
from proxy.core.refusals import Refusal
from proxy.core.results import AttemptResult, Repeat
from proxy.core.states import AttemptStatus
from proxy.core.wire import Phase, WireFacts
from proxy.settings.values import Gateway
from tests.support.clocks import EPOCH_MS
from tests.support.lab import settings_from

HERE = Path(__file__).parent
SHIPPED = sorted(path.stem for path in (HERE.parent.parent / "proxy/gateways").glob("*.yaml"))

CHARGED = AttemptResult(AttemptStatus.SUCCEEDED)
ACCEPTED = AttemptResult(AttemptStatus.ACCEPTED)
DECLINED = AttemptResult(AttemptStatus.DECLINED)
REJECTED = AttemptResult(AttemptStatus.REJECTED)
IN_PROGRESS = AttemptResult(AttemptStatus.UNKNOWN, Reason.IN_PROGRESS, Repeat.BY_CLASS)
GATEWAY_ERROR = AttemptResult(AttemptStatus.UNKNOWN, Reason.GATEWAY_ERROR, Repeat.BY_CLASS)
UNCLEAR = AttemptResult(AttemptStatus.UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS)
THROTTLED = AttemptResult(AttemptStatus.REJECTED, Reason.RATE_LIMITED, Repeat.YES)

STRIPE: Mapping[str, AttemptResult] = {
    "200-intent-succeeded": CHARGED,
    "200-intent-succeeded-replayed": replace(CHARGED, replayed=True),
    "200-intent-succeeded-after-a-failed-try": CHARGED,
    # The customer's money is reserved.
    "200-intent-requires-capture": CHARGED,
    # On its way: a second payment would double it.
    "200-intent-processing": CHARGED,
    "200-intent-requires-action": ACCEPTED,
    "200-intent-requires-confirmation": ACCEPTED,
    "200-intent-canceled": ACCEPTED,
    "200-intent-requires-payment-method-new": ACCEPTED,
    "200-intent-requires-payment-method-failed": DECLINED,
    # A status nobody knew when the profile was written: never taken for "not charged".
    "200-intent-status-of-a-later-version": CHARGED,
    "200-charge-succeeded": CHARGED,
    "200-charge-pending": CHARGED,
    "200-charge-failed": DECLINED,
    "200-refund-succeeded": CHARGED,
    "200-refund-pending": CHARGED,
    "200-refund-failed": DECLINED,
    "200-refund-canceled": ACCEPTED,
    "200-transfer": CHARGED,
    "200-payout-paid": CHARGED,
    "200-invoice-paid": CHARGED,
    # On its way, perhaps: a debit takes days.
    "200-invoice-open": CHARGED,
    "200-v2-outbound-payment-processing": CHARGED,
    "200-v2-outbound-payment-canceled": ACCEPTED,
    "200-v2-outbound-payment-failed": DECLINED,
    # Read by the rules of its route: elsewhere nobody knows that status.
    "200-v2-outbound-payment-returned": DECLINED,
    "200-html-page": UNCLEAR,
    "200-json-cut-short": UNCLEAR,
    "200-json-list": UNCLEAR,
    "200-json-without-id": UNCLEAR,
    "200-empty": UNCLEAR,
    "301-moved": UNCLEAR,
    "307-temporary-redirect": UNCLEAR,
    "400-parameter-missing": REJECTED,
    "400-idempotency-error": REJECTED,
    "400-v2-insufficient-funds": REJECTED,
    "400-unexpected-state-should-retry": AttemptResult(
        AttemptStatus.REJECTED, Reason.NOT_EXECUTED, Repeat.YES
    ),
    "401-invalid-api-key": REJECTED,
    "402-card-declined": DECLINED,
    "402-card-declined-replayed": replace(DECLINED, replayed=True),
    "403-permission": REJECTED,
    "404-no-such-intent": REJECTED,
    "408-request-timeout": UNCLEAR,
    "409-key-in-use": IN_PROGRESS,
    "409-key-in-use-without-hint": IN_PROGRESS,
    "425-too-early": UNCLEAR,
    "429-rate-limited": THROTTLED,
    "429-rate-limited-with-retry-after": replace(THROTTLED, retry_after_seconds=7.0),
    "429-lock-timeout-should-not-retry": replace(THROTTLED, repeat=Repeat.NO),
    "500-api-error": GATEWAY_ERROR,
    # Stripe stores 500s: the same key will be answered the same for ever, so it is looked up.
    "500-api-error-replayed": replace(GATEWAY_ERROR, repeat=Repeat.NO, replayed=True),
    "500-api-error-replayed-should-retry": replace(GATEWAY_ERROR, replayed=True),
    "502-bad-gateway-html": GATEWAY_ERROR,
    "503-should-retry-true": GATEWAY_ERROR,
    "503-should-retry-false": replace(GATEWAY_ERROR, repeat=Repeat.NO),
    "503-with-retry-after": replace(GATEWAY_ERROR, retry_after_seconds=2.0),
}

GENERIC: Mapping[str, AttemptResult] = {
    "200-paid": CHARGED,
    "201-created": CHARGED,
    "204-no-content": CHARGED,
    # Nothing is known of this gateway's bodies: the status is all there is to read.
    "200-declined-in-the-body": CHARGED,
    "302-found": UNCLEAR,
    "400-validation": REJECTED,
    "401-unauthorised": REJECTED,
    "402-payment-required": DECLINED,
    "403-forbidden": REJECTED,
    "404-not-found": REJECTED,
    "408-request-timeout": UNCLEAR,
    "409-in-progress": IN_PROGRESS,
    "409-in-progress-with-retry-after": replace(IN_PROGRESS, retry_after_seconds=1.0),
    "422-key-reused": REJECTED,
    "425-too-early": UNCLEAR,
    "429-rate-limited": THROTTLED,
    "429-rate-limited-with-retry-after": replace(THROTTLED, retry_after_seconds=30.0),
    "500-internal-error": GATEWAY_ERROR,
    # Only a profile that knows the gateway's mark for replays sees one.
    "500-replayed": GATEWAY_ERROR,
    "503-with-retry-after-date": replace(GATEWAY_ERROR, retry_after_seconds=30.0),
    "504-gateway-timeout-html": GATEWAY_ERROR,
}

SQUARE: Mapping[str, AttemptResult] = {
    "200-payment-completed": CHARGED,
    "200-payment-approved": CHARGED,
    "200-payment-pending": CHARGED,
    "200-payment-failed": DECLINED,
    "200-payment-canceled": ACCEPTED,
    "200-payment-status-of-a-later-version": UNCLEAR,
    "200-refund-pending": CHARGED,
    "200-refund-rejected": DECLINED,
    # Its customer is asked: asked twice, that one may pay twice.
    "200-terminal-checkout-pending": CHARGED,
    "400-key-reused": REJECTED,
    "400-missing-parameter": REJECTED,
    # Perhaps by the very refund whose answer was lost: of that it says nothing.
    "400-refund-already-pending": REJECTED,
    "401-unauthorized": REJECTED,
    "402-generic-decline": DECLINED,
    "409-conflict": IN_PROGRESS,
    "429-rate-limited": THROTTLED,
    "500-internal-server-error": GATEWAY_ERROR,
    "503-temporary-error": IN_PROGRESS,
    "504-gateway-timeout": GATEWAY_ERROR,
}

ADYEN: Mapping[str, AttemptResult] = {
    "200-authorised": CHARGED,
    "200-partially-authorised": CHARGED,
    "200-classic-refund-received": CHARGED,
    "200-donation-completed": CHARGED,
    "200-donation-refused": DECLINED,
    "200-refused": DECLINED,
    "200-cancelled": DECLINED,
    # A time-out of the issuer may hide behind it.
    "200-error": UNCLEAR,
    "200-received": CHARGED,
    "200-pending": CHARGED,
    "200-redirect-shopper": ACCEPTED,
    "200-result-of-a-later-version": UNCLEAR,
    "201-modification-received": CHARGED,
    "401-unauthorized": REJECTED,
    "403-not-allowed": REJECTED,
    "409-in-progress": IN_PROGRESS,
    "422-in-progress": IN_PROGRESS,
    "422-validation": REJECTED,
    # Not marked as transient: it may have been executed.
    "429-unmarked": replace(THROTTLED, status=AttemptStatus.UNKNOWN, repeat=Repeat.BY_CLASS),
    "500-internal": GATEWAY_ERROR,
    "502-bad-gateway-html": GATEWAY_ERROR,
    "503-not-transient": replace(GATEWAY_ERROR, repeat=Repeat.NO),
    "503-transient": AttemptResult(AttemptStatus.REJECTED, Reason.GATEWAY_ERROR, Repeat.YES),
}

PAYPAL: Mapping[str, AttemptResult] = {
    "200-order-captured-replayed": replace(CHARGED, replayed=True),
    # Said with 200 also the first time.
    "200-payer-action-required": replace(ACCEPTED, replayed=True),
    "201-order-captured": CHARGED,
    # Paid or declined, it does not say: a second payment could double it.
    "201-order-completed-minimal": CHARGED,
    "201-order-capture-pending": CHARGED,
    "201-order-capture-declined": DECLINED,
    "201-order-authorized": CHARGED,
    "201-order-authorization-denied": DECLINED,
    "201-order-created": ACCEPTED,
    "201-refund-completed": CHARGED,
    "201-capture-declined": DECLINED,
    "201-payout-pending": CHARGED,
    "204-authorization-voided": ACCEPTED,
    "400-malformed": REJECTED,
    "401-invalid-token": REJECTED,
    "409-conflict-without-an-issue": IN_PROGRESS,
    "409-previous-request-in-progress": IN_PROGRESS,
    "422-instrument-declined": DECLINED,
    "422-order-already-captured": REJECTED,
    "422-order-completion-in-progress": IN_PROGRESS,
    "429-rate-limited": THROTTLED,
    "500-internal": GATEWAY_ERROR,
    "503-unavailable-html": GATEWAY_ERROR,
}

CHECKOUT: Mapping[str, AttemptResult] = {
    "200-read-captured": CHARGED,
    "200-read-canceled": DECLINED,
    "201-authorized": CHARGED,
    "201-card-verified": CHARGED,
    "201-declined": DECLINED,
    "201-status-of-a-later-version": UNCLEAR,
    "201-transfer": CHARGED,
    # No link to follow: it may be on its way.
    "202-payout-pending": CHARGED,
    "202-pending": ACCEPTED,
    "202-refund-taken-up": CHARGED,
    "401-unauthorized": REJECTED,
    "409-in-progress": IN_PROGRESS,
    "422-source-required": REJECTED,
    "429-rate-limited": THROTTLED,
    "500-internal": GATEWAY_ERROR,
    "502-bad-gateway-html": GATEWAY_ERROR,
}

MOLLIE: Mapping[str, AttemptResult] = {
    "200-authorized": CHARGED,
    "200-link-expired": DECLINED,
    "201-link-open": ACCEPTED,
    "201-recurring-paid": CHARGED,
    "201-recurring-pending": CHARGED,
    "201-recurring-pending-replayed": replace(CHARGED, replayed=True),
    "201-recurring-failed": DECLINED,
    "201-refund-pending": CHARGED,
    "201-status-of-a-later-version": UNCLEAR,
    "400-key-reused": REJECTED,
    "401-unauthorized": REJECTED,
    "409-in-progress": IN_PROGRESS,
    "422-validation": REJECTED,
    "429-rate-limited": THROTTLED,
    "502-bad-gateway-html": GATEWAY_ERROR,
    "503-unavailable": GATEWAY_ERROR,
}

RAZORPAY: Mapping[str, AttemptResult] = {
    "200-payment-authorized": CHARGED,
    "200-payment-captured": CHARGED,
    "200-payment-created": ACCEPTED,
    "200-payment-failed": DECLINED,
    "200-payment-status-of-a-later-version": UNCLEAR,
    "200-payout-processing": CHARGED,
    "200-payout-reversed": DECLINED,
    "200-refund-pending": CHARGED,
    "200-refund-processed": CHARGED,
    # Good news in a 400.
    "400-already-captured": CHARGED,
    # Of the bank nobody knows.
    "400-gateway-error": UNCLEAR,
    "400-key-reused": REJECTED,
    "400-payment-declined": DECLINED,
    # Perhaps by the very refund whose answer was lost: of that it says nothing.
    "400-refunded-already": REJECTED,
    "400-validation": REJECTED,
    "401-authentication-failed": REJECTED,
    "409-in-progress": IN_PROGRESS,
    "429-rate-limited": THROTTLED,
    "500-server-error": GATEWAY_ERROR,
    "504-gateway-timeout-html": GATEWAY_ERROR,
}

GOCARDLESS: Mapping[str, AttemptResult] = {
    # Whether it made a payment is not confirmed.
    "200-billing-request-fulfilled": CHARGED,
    "200-payment-cancelled-by-an-action": ACCEPTED,
    "200-payment-read-failed": DECLINED,
    "200-payment-retried-by-an-action": CHARGED,
    # Money moves days later, and a second one would double it.
    "201-payment-pending-submission": CHARGED,
    "201-refund": CHARGED,
    "201-subscription": CHARGED,
    "401-access-token-not-found": REJECTED,
    "409-creation-conflict": replace(CHARGED, replayed=True),
    "409-creation-in-progress": IN_PROGRESS,
    "409-mandate-is-inactive": REJECTED,
    "422-validation-failed": REJECTED,
    "429-rate-limited": THROTTLED,
    "500-internal-error": GATEWAY_ERROR,
    "502-bad-gateway-html": GATEWAY_ERROR,
}

BRAINTREE: Mapping[str, AttemptResult] = {
    "200-settled": CHARGED,
    "200-settlement-declined": DECLINED,
    "200-voided": ACCEPTED,
    "200-xml-cut-short": UNCLEAR,
    "201-authorized": CHARGED,
    "201-settlement-pending": CHARGED,
    "201-status-of-a-later-version": UNCLEAR,
    "201-submitted-for-settlement": CHARGED,
    "401-authentication": REJECTED,
    "404-not-found": REJECTED,
    "408-request-timeout": UNCLEAR,
    "422-gateway-rejected-as-fraud": DECLINED,
    # Of what it is a duplicate of, it says nothing.
    "422-gateway-rejected-as-duplicate": REJECTED,
    "422-processor-declined": DECLINED,
    "422-validation": REJECTED,
    # Nowhere is it said that nothing was executed.
    "429-rate-limited": replace(THROTTLED, status=AttemptStatus.UNKNOWN, repeat=Repeat.BY_CLASS),
    "500-server-error": GATEWAY_ERROR,
    "503-unavailable-html": GATEWAY_ERROR,
}

PAYSTACK: Mapping[str, AttemptResult] = {
    "200-charge-success": CHARGED,
    "200-charge-failed": DECLINED,
    "200-charge-pending": CHARGED,
    "200-charge-send-otp": ACCEPTED,
    # Its customer has left; whether for good is not confirmed.
    "200-verify-abandoned": ACCEPTED,
    "200-status-of-a-later-version": UNCLEAR,
    "200-transfer-otp": ACCEPTED,
    "200-transfer-pending": CHARGED,
    "200-transfer-reversed": DECLINED,
    "200-bulk-charge-taken-up": CHARGED,
    "200-bulk-transfer-queued": CHARGED,
    "200-refund-pending": CHARGED,
    # The first one arrived: asked again it says the same, so it is looked up.
    "400-duplicate-reference": replace(UNCLEAR, repeat=Repeat.NO, replayed=True),
    "400-missing-parameters": REJECTED,
    "401-invalid-key": REJECTED,
    "404-no-such-reference": REJECTED,
    "429-rate-limited": THROTTLED,
    "500-api-error": GATEWAY_ERROR,
    "502-bad-gateway-html": GATEWAY_ERROR,
}

KLARNA: Mapping[str, AttemptResult] = {
    "200-order-placed": CHARGED,
    "201-captured": CHARGED,
    "201-refunded": CHARGED,
    "204-cancelled": ACCEPTED,
    "302-found": UNCLEAR,
    "400-bad-value": REJECTED,
    "401-unauthorized": REJECTED,
    "403-capture-not-allowed": REJECTED,
    "403-not-allowed": REJECTED,
    "404-no-such-order": REJECTED,
    # The order's state, not the key: Klarna names it among what may be tried again.
    "409-conflict": UNCLEAR,
    "422-unprocessable": REJECTED,
    "429-too-many-requests": replace(THROTTLED, retry_after_seconds=5.0),
    "500-internal-error": GATEWAY_ERROR,
    "503-temporarily-unavailable": GATEWAY_ERROR,
    "504-gateway-timeout-html": GATEWAY_ERROR,
}

AMAZON_PAY: Mapping[str, AttemptResult] = {
    "200-capture-initiated": CHARGED,
    "200-charge-canceled": ACCEPTED,
    "200-charge-captured": CHARGED,
    "200-charge-declined": DECLINED,
    "201-charge-authorized": CHARGED,
    "201-charge-captured": CHARGED,
    "201-charge-pending": CHARGED,
    "201-refund-initiated": CHARGED,
    "202-session-awaits": CHARGED,
    "400-duplicate-idempotency-key": REJECTED,
    "400-invalid-parameter-value": REJECTED,
    "401-unauthorized-access": REJECTED,
    "404-resource-not-found": REJECTED,
    # What a second request hears while the first is running is not known.
    "409-in-progress": UNCLEAR,
    # That it was executed is not confirmed: it settles its own send, not an earlier one.
    "422-hard-declined": REJECTED,
    "425-too-early": UNCLEAR,
    "429-too-many-requests": THROTTLED,
    "500-internal-server-error": GATEWAY_ERROR,
    "503-service-unavailable": replace(GATEWAY_ERROR, retry_after_seconds=2.0),
}

ANSWERS = {
    "adyen": ADYEN,
    "amazon-pay": AMAZON_PAY,
    "braintree": BRAINTREE,
    "checkout": CHECKOUT,
    "generic": GENERIC,
    "gocardless": GOCARDLESS,
    "klarna": KLARNA,
    "mollie": MOLLIE,
    "paypal": PAYPAL,
    "paystack": PAYSTACK,
    "razorpay": RAZORPAY,
    "square": SQUARE,
    "stripe": STRIPE,
}
# Answers to a request that is read by rules of its own: its route.
OF_ROUTES = {
    ("adyen", "200-classic-refund-received"): "classic-refund",
    ("adyen", "200-donation-completed"): "donate",
    ("adyen", "200-donation-refused"): "donate",
    ("amazon-pay", "200-charge-canceled"): "cancel",
    ("checkout", "201-transfer"): "transfer",
    ("checkout", "202-refund-taken-up"): "modify",
    ("gocardless", "200-billing-request-fulfilled"): "fulfil",
    ("gocardless", "200-payment-cancelled-by-an-action"): "action",
    ("gocardless", "200-payment-retried-by-an-action"): "action",
    ("paypal", "201-capture-declined"): "capture-authorization",
    ("paypal", "201-payout-pending"): "payout",
    ("paypal", "201-refund-completed"): "refund-capture",
    ("paypal", "204-authorization-voided"): "capture-authorization",
    ("razorpay", "400-already-captured"): "capture",
    ("razorpay", "400-payment-declined"): "create-payment",
    ("razorpay", "400-refunded-already"): "refund",
    ("klarna", "204-cancelled"): "change",
    ("paystack", "200-bulk-charge-taken-up"): "bulk-charge",
    ("paystack", "200-bulk-transfer-queued"): "bulk-transfer",
    ("stripe", "200-invoice-open"): "pay-invoice",
    ("stripe", "200-v2-outbound-payment-returned"): "v2-money",
}
# What the policy has to say of a gateway besides its address.
PARAMETERS = {"braintree": "merchant: shop"}
CASES = [
    pytest.param(gateway, name, expected, id=f"{gateway}/{name}")
    for gateway, table in ANSWERS.items()
    for name, expected in table.items()
]


def shipped(name: str, folder: Path) -> Gateway:
    """A gateway with a shipped profile and nothing else said about it."""
    settings = settings_from(
        "store: memory://\n"
        f'gateways: {{it: {{profile: {name}, listen: "127.0.0.1:0", '
        f'upstream: "http://127.0.0.1:1", parameters: {{{PARAMETERS.get(name, "")}}}}}}}\n',
        folder,
    )
    return settings.gateways["it"]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gateway]:
    """Every shipped profile, as the flow sees it."""
    return {name: shipped(name, tmp_path_factory.mktemp(name)) for name in SHIPPED}


@pytest.fixture(scope="module")
def profiles(gateways: dict[str, Gateway]) -> dict[str, GatewayProfile]:
    """What is known of each gateway where no route says otherwise."""
    return {name: gateway.profile for name, gateway in gateways.items()}


def recorded(path: Path) -> WireFacts:
    """A file as the facts that the wire would have told."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    status_line, *lines = head.decode("latin-1").splitlines()
    _, status, status_text = status_line.split(" ", 2)
    headers = tuple((name, value) for name, _, value in (line.partition(": ") for line in lines))
    return WireFacts(
        sent=True,
        phase=Phase.ANSWERED,
        status=int(status),
        status_text=status_text,
        headers=headers,
        body=body,
    )


@pytest.mark.parametrize(("gateway", "name", "expected"), CASES)
def test_an_answer_is_read_as_the_money_rules_ask(
    gateway: str, name: str, expected: AttemptResult, gateways: dict[str, Gateway]
) -> None:
    """A complete answer means what the gateway documents, else nothing: unknown."""
    facts, it = recorded(HERE / gateway / f"{name}.http"), gateways[gateway]
    route = OF_ROUTES.get((gateway, name))
    profile = it.profile if route is None else it.of_routes[route]
    assert name.startswith(f"{facts.status}-")
    result = classify(facts, profile, now_ms=EPOCH_MS)
    assert replace(result, asked_for=False) == expected


@pytest.mark.parametrize("gateway", ANSWERS)
def test_every_recorded_answer_is_in_the_table(gateway: str) -> None:
    """No file lies about unread, and no row is without its file."""
    assert {path.stem for path in (HERE / gateway).glob("*")} == set(ANSWERS[gateway])


@pytest.mark.parametrize("gateway", ANSWERS)
def test_what_the_transport_proves_outranks_the_profile(
    gateway: str, profiles: dict[str, GatewayProfile]
) -> None:
    """Not sent is proof; a cut answer is unknown, whatever the part that came looks like."""
    whole = recorded(HERE / gateway / f"{next(iter(ANSWERS[gateway]))}.http")
    cut = replace(whole, phase=Phase.READING_RESPONSE, reason=Reason.ANSWER_TRUNCATED)
    assert classify(cut, profiles[gateway], now_ms=EPOCH_MS) == AttemptResult(
        AttemptStatus.UNKNOWN, Reason.ANSWER_TRUNCATED, Repeat.BY_CLASS
    )
    unsent = WireFacts(sent=False, phase=Phase.CONNECTING, reason=Reason.CONNECTION_REFUSED)
    assert classify(unsent, profiles[gateway], now_ms=EPOCH_MS) == AttemptResult(
        AttemptStatus.NOT_SENT, Reason.CONNECTION_REFUSED, Repeat.YES
    )


OPEN_STATUSES = [*range(300, 400), 408, 425, *range(500, 600)]
ANY_BODY = (b"", b"{}", b'{"id":"x","status":"succeeded"}', b'{"error":{"type":"card_error"}}')


@pytest.mark.parametrize("gateway", ANSWERS)
def test_no_status_that_leaves_it_open_is_read_as_settled(
    gateway: str, profiles: dict[str, GatewayProfile]
) -> None:
    """Redirects, time-outs at the edge and server errors are unknown with any body."""
    for status in OPEN_STATUSES:
        for body in ANY_BODY:
            facts = WireFacts(sent=True, phase=Phase.ANSWERED, status=status, body=body)
            result = classify(facts, profiles[gateway], now_ms=EPOCH_MS)
            assert (status, result.status) == (status, AttemptStatus.UNKNOWN)


# --- every profile ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_loads(name: str, tmp_path: Path) -> None:
    """A profile that ships has no mistake, and says nothing about refusals that do not exist."""
    gateway = shipped(name, tmp_path)
    assert gateway.profile.name == name
    assert set(gateway.profile.refusal_forms) <= {refusal.code for refusal in Refusal}
    assert gateway.profile.resend_horizon > 0


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_has_its_answers(name: str) -> None:
    """A profile comes with the answers that show how it reads its gateway."""
    assert name in ANSWERS


@pytest.mark.parametrize("name", SHIPPED)
def test_every_route_is_reached(name: str, tmp_path: Path) -> None:
    """Each route's own path, with names for its places, meets that route and no earlier one."""
    table = shipped(name, tmp_path).routes
    assert table.routes
    for _, route in table.routes:
        path = re.sub(r"\{[^}]+\}", "x1", route.template.replace("**", "a/b"))
        for method in route.methods:
            assert table.match(method, path).name == route.name


@pytest.mark.parametrize("name", SHIPPED)
def test_every_lookup_a_route_names_exists(name: str, tmp_path: Path) -> None:
    """A durable route's look-up is one of the profile's recipes, by the payment's key or order."""
    gateway = shipped(name, tmp_path)
    named = {route.lookup for _, route in gateway.routes.routes if route.lookup is not None}
    assert named == set(gateway.profile.lookups)
    for recipe in gateway.profile.lookups.values():
        asks = [recipe.read_target or ""]
        if recipe.find is not None:
            asks += [recipe.find.target, *(value for _, value in recipe.find.match)]
        if recipe.void is not None:
            asks.append(recipe.void.body)
        assert "{gateway_key}" in "".join(asks) or "{order}" in "".join(asks)


# --- Stripe -------------------------------------------------------------------------------------

# The money paths of the gateway facts, each with the operation it is an act of.
STRIPE_MONEY = [
    ("/v1/payment_intents", "charge"),
    ("/v1/payment_intents/pi_1/confirm", "charge"),
    ("/v1/payment_intents/pi_1/capture", "capture"),
    ("/v1/payment_intents/pi_1/cancel", "cancel"),
    ("/v1/payment_intents/pi_1/increment_authorization", "increment"),
    ("/v1/charges", "charge"),
    ("/v1/charges/ch_1/capture", "capture"),
    ("/v1/refunds", "refund"),
    ("/v1/refunds/re_1/cancel", "cancel-refund"),
    ("/v1/transfers", "transfer"),
    ("/v1/transfers/tr_1/reversals", "reverse-transfer"),
    ("/v1/payouts", "payout"),
    ("/v1/payouts/po_1/cancel", "change-payout"),
    ("/v1/payouts/po_1/reverse", "change-payout"),
    ("/v1/topups", "topup"),
    ("/v1/invoices/in_1/pay", "charge"),
]


@pytest.mark.parametrize(("path", "operation"), STRIPE_MONEY)
def test_every_money_path_of_stripe_is_durable(path: str, operation: str, tmp_path: Path) -> None:
    """What moves money at Stripe is journaled, however the path is spelled."""
    table = shipped("stripe", tmp_path).routes
    route = table.match("POST", path)
    assert route.session is SessionKind.DURABLE
    assert route.operation == operation
    assert table.match("POST", f"{path}/").name == route.name
    assert table.match("POST", path.replace("_", "%5F").replace("v1", "%76%31")).name == route.name


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/payment_intents"),
        ("GET", "/v1/payment_intents/pi_1"),
        ("GET", "/v1/charges"),
        ("POST", "/v1/customers"),
        ("POST", "/v1/files"),
        ("POST", "/v1/payment_intents/pi_1"),
        # Moves no money yet: the payer does, on Stripe's own page.
        ("POST", "/v1/checkout/sessions"),
        ("DELETE", "/v1/customers/cus_1"),
    ],
)
def test_what_moves_no_money_at_stripe_is_passed_through(
    method: str, path: str, tmp_path: Path
) -> None:
    """Reads and the rest of the API are neither journaled nor blocked."""
    assert not shipped("stripe", tmp_path).routes.match(method, path).durable


def test_only_charging_locks_an_order_at_stripe(tmp_path: Path) -> None:
    """Two captures, refunds or payouts for one order are legitimate; two charges are not."""
    locking = {
        route.operation
        for _, route in shipped("stripe", tmp_path).routes.routes
        if route.order_lock is not OrderLock.OFF
    }
    assert locking == {"charge"}


def test_what_is_known_of_stripe(tmp_path: Path) -> None:
    """The facts of the promise: strong keys for a day, of which three quarters are used."""
    profile = shipped("stripe", tmp_path).profile
    assert profile.gateway_class is GatewayClass.A_STRONG
    assert profile.resend_horizon == 18 * 3600.0
    assert (profile.key.name, profile.key.max_length) == ("Idempotency-Key", 255)
    assert profile.credential_headers == ("authorization", "stripe-account", "stripe-context")
    assert set(profile.error_form.body) == {"error"}
    assert profile.final_answer_headers == (("Stripe-Should-Retry", "false"),)
    assert profile.refusal_forms["idempotency-key-reused"].status == 400
    assert "set-cookie" not in profile.replay_headers


# --- the other gateways --------------------------------------------------------------------------

# The money paths of the gateway facts.
MONEY = [
    ("square", "/v2/payments", "charge"),
    ("square", "/v2/payments/p1/complete", "capture"),
    ("square", "/v2/payments/p1/cancel", "cancel"),
    ("square", "/v2/refunds", "refund"),
    ("square", "/v2/orders/o1/pay", "charge"),
    ("square", "/v2/terminals/checkouts", "charge"),
    ("adyen", "/v72/payments", "charge"),
    ("adyen", "/checkout/v72/payments", "charge"),
    ("adyen", "/v72/payments/details", "charge-details"),
    ("adyen", "/v72/payments/psp1/captures", "modify"),
    ("adyen", "/v72/payments/psp1/refunds", "modify"),
    ("adyen", "/v72/payments/psp1/cancels", "modify"),
    ("adyen", "/v72/payments/psp1/reversals", "modify"),
    ("adyen", "/checkout/v72/payments/psp1/amountUpdates", "modify"),
    ("adyen", "/v72/cancels", "cancel"),
    ("adyen", "/v72/donations", "donation"),
    ("adyen", "/pal/servlet/Payment/v68/authorise", "charge"),
    ("adyen", "/pal/servlet/Payment/v68/capture", "capture"),
    ("adyen", "/pal/servlet/Payment/v68/refund", "refund"),
    ("adyen", "/pal/servlet/Payment/v68/cancel", "cancel"),
    ("paypal", "/v2/checkout/orders", "charge"),
    ("paypal", "/v2/checkout/orders/o1/authorize", "charge"),
    ("paypal", "/v2/checkout/orders/o1/capture", "charge"),
    ("paypal", "/v2/checkout/orders/o1/confirm-payment-source", "change-order"),
    ("paypal", "/v2/payments/authorizations/a1/capture", "capture"),
    ("paypal", "/v2/payments/authorizations/a1/reauthorize", "capture"),
    ("paypal", "/v2/payments/authorizations/a1/void", "capture"),
    ("paypal", "/v2/payments/captures/c1/refund", "refund"),
    ("paypal", "/v1/payments/payouts", "payout"),
    ("checkout", "/payments", "charge"),
    ("checkout", "/payments/p1/captures", "modify"),
    ("checkout", "/payments/p1/refunds", "modify"),
    ("checkout", "/payments/p1/voids", "modify"),
    ("checkout", "/payments/p1/reversals", "modify"),
    ("checkout", "/payments/p1/authorizations", "modify"),
    ("checkout", "/payments/p1/cancellations", "modify"),
    ("checkout", "/transfers", "transfer"),
    ("mollie", "/v2/payments", "charge"),
    ("mollie", "/v2/customers/cst_1/payments", "charge"),
    ("mollie", "/v2/customers/cst_1/subscriptions", "subscription"),
    ("mollie", "/v2/payments/tr_1/refunds", "modify"),
    ("mollie", "/v2/payments/tr_1/captures", "modify"),
    ("mollie", "/v2/payments/tr_1/release-authorization", "modify"),
    ("razorpay", "/v1/payments/create/json", "charge"),
    ("razorpay", "/v1/payments/create/recurring", "charge"),
    ("razorpay", "/v1/payments/pay_1/capture", "capture"),
    ("razorpay", "/v1/payments/pay_1/refund", "refund"),
    ("razorpay", "/v1/payments/pay_1/transfers", "transfer"),
    ("razorpay", "/v1/transfers", "transfer"),
    ("razorpay", "/v1/payouts", "payout"),
    ("gocardless", "/payments", "charge"),
    ("gocardless", "/billing_requests/BRQ1/actions/fulfil", "charge"),
    ("gocardless", "/payments/PM1/actions/retry", "action"),
    ("gocardless", "/refunds", "refund"),
    ("gocardless", "/subscriptions", "subscription"),
    ("gocardless", "/instalment_schedules", "instalments"),
    ("gocardless", "/outbound_payments", "payout"),
    ("braintree", "/merchants/shop/transactions", "charge"),
    ("braintree", "/merchants/shop/transactions/t1/refund", "refund"),
    ("braintree", "/merchants/shop/transactions/t1/submit_for_partial_settlement", "capture"),
    ("paystack", "/charge", "charge"),
    ("paystack", "/charge/submit_otp", "charge-step"),
    ("paystack", "/transaction/charge_authorization", "charge"),
    ("paystack", "/transaction/partial_debit", "charge"),
    ("paystack", "/bulkcharge", "bulk"),
    ("paystack", "/refund", "refund"),
    ("paystack", "/refund/retry_with_customer_details/1", "refund"),
    ("paystack", "/transfer", "transfer"),
    ("paystack", "/transfer/bulk", "bulk-transfer"),
    ("paystack", "/transfer/finalize_transfer", "transfer-step"),
    ("klarna", "/payments/v1/authorizations/t1/order", "charge"),
    ("klarna", "/customer-token/v1/tokens/t1/order", "charge"),
    ("klarna", "/ordermanagement/v1/orders/o1/captures", "capture"),
    ("klarna", "/ordermanagement/v1/orders/o1/refunds", "refund"),
    ("klarna", "/ordermanagement/v1/orders/o1/cancel", "change"),
    ("klarna", "/ordermanagement/v1/orders/o1/release-remaining-authorization", "change"),
    ("amazon-pay", "/v2/charges", "charge"),
    ("amazon-pay", "/live/v2/charges", "charge"),
    ("amazon-pay", "/sandbox/v2/charges/c1/capture", "capture"),
    ("amazon-pay", "/live/v2/checkoutSessions/s1/complete", "charge"),
    ("amazon-pay", "/v2/checkoutSessions/s1/finalize", "charge"),
    ("amazon-pay", "/live/v2/refunds", "refund"),
    ("amazon-pay", "/v2/in-store/charge", "charge"),
    ("amazon-pay", "/live/v2/in-store/refund", "refund"),
    ("stripe", "/v2/money_management/outbound_payments", "v2-money"),
    ("stripe", "/v2/money_management/outbound_transfers/obt_1/cancel", "v2-money"),
]


@pytest.mark.parametrize(("gateway", "path", "operation"), MONEY)
def test_every_money_path_is_durable(
    gateway: str, path: str, operation: str, gateways: dict[str, Gateway]
) -> None:
    """It is journaled, and only what charges locks an order."""
    route = gateways[gateway].routes.match("POST", path)
    assert (route.session, route.operation) == (SessionKind.DURABLE, operation)
    assert (route.order_lock is not OrderLock.OFF) == (operation == "charge")


@pytest.mark.parametrize(
    ("gateway", "method", "path"),
    [
        ("square", "GET", "/v2/payments/p1"),
        ("square", "POST", "/v2/payments/cancel"),  # what is voided twice is voided
        ("square", "POST", "/v2/customers"),
        ("adyen", "POST", "/v72/paymentMethods"),
        ("adyen", "POST", "/v72/sessions"),
        ("paypal", "POST", "/v1/oauth2/token"),
        ("paypal", "GET", "/v2/checkout/orders/o1"),
        ("paypal", "PATCH", "/v2/checkout/orders/o1"),
        ("checkout", "POST", "/payments/search"),
        ("checkout", "GET", "/payments/p1"),
        ("checkout", "POST", "/tokens"),
        ("mollie", "GET", "/v2/payments"),
        ("mollie", "POST", "/v2/customers"),
        ("mollie", "PATCH", "/v2/payments/tr_1"),
        ("razorpay", "POST", "/v1/orders"),  # the same receipt is the same order
        ("razorpay", "GET", "/v1/orders/order_1/payments"),
        ("gocardless", "POST", "/mandates"),
        ("gocardless", "PUT", "/payments/PM1"),
        ("braintree", "POST", "/merchants/shop/transactions/advanced_search_ids"),
        ("braintree", "POST", "/merchants/shop/transactions/advanced_search"),
        ("braintree", "POST", "/merchants/shop/client_token"),
        ("paystack", "GET", "/transaction/verify/r1"),
        ("paystack", "POST", "/transaction/initialize"),  # a link; its payer pays
        ("paystack", "POST", "/transferrecipient"),
        ("paystack", "POST", "/transfer/resend_otp"),
        ("klarna", "POST", "/payments/v1/sessions"),
        ("klarna", "GET", "/ordermanagement/v1/orders/o1"),
        ("amazon-pay", "POST", "/live/v2/checkoutSessions"),
        ("amazon-pay", "GET", "/live/v2/charges/c1"),
        ("stripe", "GET", "/v2/money_management/outbound_payments"),
        ("stripe", "POST", "/v2/core/accounts"),
    ],
)
def test_what_moves_no_money_is_passed_through(
    gateway: str, method: str, path: str, gateways: dict[str, Gateway]
) -> None:
    """Reads, tokens and the rest are neither journaled nor blocked."""
    assert not gateways[gateway].routes.match(method, path).durable


@pytest.mark.parametrize(
    ("gateway", "promise", "hours", "longest"),
    [
        ("square", GatewayClass.A_STRONG, 24, 45),
        ("adyen", GatewayClass.A_STRONG, 7 * 24, 64),
        ("paypal", GatewayClass.A_STRONG, 6, 108),
        ("checkout", GatewayClass.A_WEAK, 24, 255),
        ("mollie", GatewayClass.A_WEAK, 1, 255),
        ("gocardless", GatewayClass.A_STRONG, 1, 255),
        ("paystack", GatewayClass.A_STRONG, 24, 100),
        ("klarna", GatewayClass.D_NONE, 24, 255),
        ("amazon-pay", GatewayClass.A_STRONG, 24, 32),
    ],
)
def test_what_is_known_of_its_keys(
    gateway: str,
    promise: GatewayClass,
    hours: int,
    longest: int,
    profiles: dict[str, GatewayProfile],
) -> None:
    """Three quarters of the time that a key is kept for are used, and no longer key is sent."""
    profile = profiles[gateway]
    assert profile.gateway_class is promise
    assert profile.resend_horizon == hours * 3600 * 0.75
    assert profile.key.max_length == longest


def test_what_is_signed_stays_as_it_came(gateways: dict[str, Gateway]) -> None:
    """No key is put into a request of which a signature says every byte, or may."""
    assert not gateways["amazon-pay"].profile.key.put_in
    assert not gateways["gocardless"].of_routes["outbound-payment"].key.put_in
    assert gateways["gocardless"].profile.key.put_in


@pytest.mark.parametrize(
    ("path", "longest"),
    [
        ("/v2/payments", 45),
        ("/v2/refunds", 45),
        ("/v2/orders/o1/pay", 192),
        ("/v2/terminals/checkouts", 64),
    ],
)
def test_how_long_a_key_may_be_at_square(
    path: str, longest: int, gateways: dict[str, Gateway]
) -> None:
    """Each endpoint has its own limit, and none that Square takes is refused."""
    it = gateways["square"]
    profile = it.of_routes.get(it.routes.match("POST", path).name, it.profile)
    assert profile.gateway_class is GatewayClass.A_STRONG
    assert (profile.key.carrier, profile.key.max_length) == (Carrier.JSON, longest)


@pytest.mark.parametrize(
    ("path", "name", "shortest", "longest"),
    [
        ("/v1/payments/pay_1/refund", "X-Refund-Idempotency", 10, 255),
        ("/v1/payouts", "X-Payout-Idempotency", 4, 36),
        ("/v1/transfers", "X-Transfer-Idempotency", 4, 36),
    ],
)
def test_each_product_of_razorpay_has_its_own_key(
    path: str, name: str, shortest: int, longest: int, gateways: dict[str, Gateway]
) -> None:
    """In another header, of another length."""
    it = gateways["razorpay"]
    profile = it.of_routes[it.routes.match("POST", path).name]
    assert profile.gateway_class is GatewayClass.A_STRONG
    assert (profile.key.name, profile.key.min_length, profile.key.max_length) == (
        name,
        shortest,
        longest,
    )


@pytest.mark.parametrize(
    ("gateway", "path"),
    [
        ("razorpay", "/v1/payments/create/json"),
        ("braintree", "/merchants/shop/transactions"),
    ],
)
def test_a_payment_without_a_key_is_told_by_its_order(
    gateway: str, path: str, gateways: dict[str, Gateway]
) -> None:
    """Nothing else tells its repeat: it is locked by what the body says, and looked up by it."""
    it = gateways[gateway]
    route = it.routes.match("POST", path)
    assert it.profile.gateway_class is GatewayClass.B_LOOKUP
    assert it.profile.key.carrier is Carrier.NOWHERE
    assert (route.order_lock, route.order is None, route.lookup is None) == (
        OrderLock.BODY,
        False,
        False,
    )


# --- generic ------------------------------------------------------------------------------------


def test_what_is_assumed_of_a_gateway_nobody_knows(tmp_path: Path) -> None:
    """Nothing: every POST moves money, and is never sent again once a byte may have arrived."""
    gateway = shipped("generic", tmp_path)
    assert gateway.profile.gateway_class is GatewayClass.D_NONE
    assert gateway.profile.lookups == {}
    for path in ("/", "/pay", "/v2/a/b/c", "/refunds/1"):
        assert gateway.routes.match("POST", path).durable
        assert not gateway.routes.match("GET", path).durable
