"""Whose words a webhook is, with vectors made by the gateways' own SDKs; and what it settles.

The sections below are as they stand in a profile's `webhooks`; Stripe's is the one that ships.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import importlib
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import gocardless_pro.webhooks
import pytest
import razorpay
import yaml
from Adyen.util import generate_notification_sig, is_valid_hmac_notification
from msgspec.structs import replace
from square.utils.webhooks_helper import verify_signature
from stripe import WebhookSignature

from proxy.core.session import Session
from proxy.core.signatures import Forged
from proxy.core.states import AttemptStatus
from proxy.core.webhooks import (
    Says,
    Told,
    Unreadable,
    Webhook,
    WebhookRecipe,
    opened,
    settled_by,
    told,
)
from proxy.settings.schema import ProfileFile, WebhooksModel
from proxy.settings.webhooks import build_recipe, recipe_mistakes
from tests.support.building import AT, a_session

NOW = AT
SECONDS = NOW // 1000
PROFILES = Path(__file__).parent.parent.parent / "proxy/gateways"

# Whose webhooks are read, in the order of the samples below.
NAMES = (
    "stripe", "adyen", "square", "razorpay", "checkout", "gocardless", "paystack", "braintree",
    "mollie", "paypal",
)  # fmt: skip


def section(name: str) -> WebhooksModel:
    """What the profile that ships says of them."""
    file = PROFILES / f"{name}.yaml"
    profile = ProfileFile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert profile.webhooks is not None
    return profile.webhooks


RECIPES = {name: build_recipe(section(name)) for name in NAMES}


@dataclass
class Delivery:
    """A webhook as its gateway sends it, and how it would be signed."""

    gateway: str
    body: bytes
    secret: str | None
    headers: dict[str, str] = field(default_factory=dict)
    url: str | None = None

    @property
    def recipe(self) -> WebhookRecipe:
        """How it is read."""
        return RECIPES[self.gateway]

    def opened(self, *, secret: str | None = None, now_ms: int = NOW) -> list[Told | None]:
        """What it tells."""
        webhook = Webhook({n.lower(): v for n, v in self.headers.items()}, "", self.body)
        events = opened(self.recipe, webhook, secret or self.secret, self.url, now_ms)
        return [told(self.recipe, event) for event in events]


def as_json(document: object) -> bytes:
    """A body."""
    return json.dumps(document).encode()


# --- one of each, signed by the SDK's own helper, or checked by it --------------------------------

INTENT = {
    "id": "pi_1",
    "object": "payment_intent",
    "amount": 1999,
    "status": "succeeded",
    "metadata": {"order_id": "123"},
}


def stripe(seconds: int = SECONDS, key: str | None = "k-1", **changes: Any) -> Delivery:
    """Signed by stripe-python."""
    event = {
        "id": "evt_1",
        "type": "payment_intent.succeeded",
        "created": SECONDS,
        "request": {"id": None, "idempotency_key": key},
        "data": {"object": {**INTENT, **changes}},
    }
    body = as_json(event)
    signed = WebhookSignature.generate_signature_header(body.decode(), "whsec_1", seconds)
    return Delivery("stripe", body, "whsec_1", {"Stripe-Signature": signed})


ADYEN_KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"


def adyen(*psp: str, success: str = "true") -> Delivery:
    """Signed by Adyen's library, item by item."""
    items = []
    for reference in psp or ("7914073381342284",):
        item: dict[str, Any] = {
            "pspReference": reference,
            "originalReference": "",
            "merchantAccountCode": "TestMerchant",
            "merchantReference": "123",
            "amount": {"value": 1999, "currency": "EUR"},
            "eventCode": "AUTHORISATION",
            "eventDate": "2024-01-23T08:53:20+00:00",
            "success": success,
        }
        signed = generate_notification_sig(item, ADYEN_KEY).decode()
        items.append(
            {"NotificationRequestItem": {**item, "additionalData": {"hmacSignature": signed}}}
        )
    document = {"live": "false", "notificationItems": items}
    assert is_valid_hmac_notification(document, ADYEN_KEY)
    return Delivery("adyen", as_json(document), ADYEN_KEY)


def square(told_at: str = "2024-01-23T08:53:21Z") -> Delivery:
    """Verified by square's own helper."""
    url = "https://shop.example/webhooks/square"
    payment = {
        "id": "pay_1",
        "status": "COMPLETED",
        "reference_id": "123",
        "amount_money": {"amount": 1999, "currency": "EUR"},
        "created_at": "2024-01-23T08:53:20.5Z",
    }
    event = {
        "type": "payment.updated",
        "created_at": told_at,
        "data": {"object": {"payment": payment}},
    }
    body = as_json(event)
    made = base64.b64encode(hmac.digest(b"sq_key", url.encode() + body, "sha256")).decode()
    assert verify_signature(
        request_body=body.decode(),
        signature_header=made,
        signature_key="sq_key",
        notification_url=url,
    )
    return Delivery("square", body, "sq_key", {"X-Square-HmacSha256-Signature": made}, url)


def razorpay_(told_at: int = SECONDS + 1) -> Delivery:
    """Verified by razorpay's own helper."""
    entity = {"id": "pay_29QQoUBi66xm2f", "amount": 1999, "order_id": "123", "status": "captured"}
    event = {
        "event": "payment.captured",
        "created_at": told_at,
        "payload": {"payment": {"entity": {**entity, "created_at": SECONDS}}},
    }
    body = as_json(event)
    made = hmac.new(b"rzp", body, hashlib.sha256).hexdigest()
    utility = razorpay.Client(auth=("key", "secret")).utility
    assert utility.verify_webhook_signature(body.decode(), made, "rzp")
    headers = {"X-Razorpay-Signature": made, "X-Razorpay-Event-Id": "evt_1"}
    return Delivery("razorpay", body, "rzp", headers)


def gocardless() -> Delivery:
    """Read by gocardless-pro too: two events in one."""
    shared = {"resource_type": "payments", "created_at": "2024-01-23T08:53:20.000Z"}
    paid = {"id": "EV1", "action": "confirmed", "links": {"payment": "PM1"}, **shared}
    events = [
        {**paid, "resource_metadata": {"order_id": "123"}},
        {**paid, "id": "EV2", "action": "failed", "links": {"payment": "PM2"}},
    ]
    body = as_json({"events": events, "meta": {"webhook_id": "WB1"}})
    made = hmac.new(b"gc", body, hashlib.sha256).hexdigest()
    assert len(gocardless_pro.webhooks.parse(body.decode(), "gc", made)) == 2
    return Delivery("gocardless", body, "gc", {"Webhook-Signature": made})


def hexadecimal(gateway: str, header: str, algorithm: str, event: object) -> Delivery:
    """Signed by hand where no SDK has a helper."""
    body = as_json(event)
    made = hmac.new(b"sk_1", body, algorithm).hexdigest()
    return Delivery(gateway, body, "sk_1", {header: made})


def checkout() -> Delivery:
    """As Checkout.com is said to sign."""
    data = {"id": "pay_1", "reference": "123", "amount": 1999}
    event = {"type": "payment_captured", "created_on": "2024-01-23T08:53:20Z", "data": data}
    return hexadecimal("checkout", "Cko-Signature", "sha256", event)


def paystack() -> Delivery:
    """As Paystack is said to sign."""
    data = {
        "reference": "k-1",
        "amount": 1999,
        "paid_at": "2024-01-23T08:53:20.000Z",
        "metadata": {"order_id": "123"},
    }
    event = {"event": "charge.success", "data": data}
    return hexadecimal("paystack", "x-paystack-signature", "sha512", event)


def braintree_(kind_of_transaction: str = "sale") -> Delivery:
    """Checked by Braintree's own parser."""
    with warnings.catch_warnings(action="ignore"):  # it deprecates a part of its own
        braintree: Any = importlib.import_module("braintree")
    gateway = braintree.BraintreeGateway(
        braintree.Configuration(
            environment=braintree.Environment.Sandbox,
            merchant_id="merchant",
            public_key="public",
            private_key="private",
        )
    )
    kind = braintree.WebhookNotification.Kind.TransactionSettled
    transaction = (
        "<notification><timestamp type='datetime'>2024-01-23T08:53:20Z</timestamp>"
        f"<kind>{kind}</kind><subject><transaction><id>bt_1</id><order-id>123</order-id>"
        f"<type>{kind_of_transaction}</type>"
        "<amount>1999</amount><status>settled</status></transaction></subject></notification>"
    )
    payload = base64.encodebytes(transaction.encode()).decode()
    made = braintree.util.crypto.Crypto.sha1_hmac_hash("private", payload)
    signature = f"another|{'0' * 40}&public|{made}"
    parsed = gateway.webhook_notification.parse(signature, payload)
    assert parsed.transaction.order_id == "123"
    body = urlencode({"bt_signature": signature, "bt_payload": payload}).encode()
    return Delivery("braintree", body, "private")


SIGNED: dict[str, Callable[[], Delivery]] = {
    "stripe": stripe,
    "adyen": adyen,
    "square": square,
    "razorpay": razorpay_,
    "gocardless": gocardless,
    "checkout": checkout,
    "paystack": paystack,
    "braintree": braintree_,
}


@pytest.fixture(params=SIGNED, name="delivery")
def _delivery(request: pytest.FixtureRequest) -> Delivery:
    return SIGNED[request.param]()


@pytest.mark.parametrize("name", NAMES)
def test_a_section_is_without_mistakes(name: str) -> None:
    """What is to be pasted into a profile is what the profile's checks accept."""
    assert list(recipe_mistakes(section(name))) == []


def test_a_signed_webhook_says_which_payment_and_when(delivery: Delivery) -> None:
    """Each gateway's own way to say that order 123 was charged 1999 in this very second."""
    event = delivery.opened()[0]
    assert event is not None
    assert event.order == "123"
    assert event.at is not None
    assert abs(event.at - AT) <= 500
    assert event.amount in {"1999", None}  # GoCardless does not say
    charged = event.says is Says.SUCCEEDED or event.object is not None
    assert charged
    assert not event.reference.startswith("an event")


def resigned(delivery: Delivery, signature: str) -> Delivery:
    """The same with something else where its signature stands."""
    made = signature_of(delivery)
    headers = {n: v.replace(made, signature) for n, v in delivery.headers.items()}
    body = delivery.body.replace(made.encode(), signature.encode())
    return dataclasses.replace(delivery, headers=headers, body=body)


def signature_of(delivery: Delivery) -> str:
    """What stands there."""
    found = re.search(rb'hmacSignature": "([^"]+)|public%7C([0-9a-f]+)&', delivery.body)
    if found is not None:
        return (found[1] or found[2]).decode()
    return next(iter(delivery.headers.values())).rpartition("v1=")[2]


FORGERIES: dict[str, Callable[[Delivery], Delivery]] = {
    "another order": lambda d: dataclasses.replace(
        d, body=d.body.replace(b"123", b"124").replace(b"bt_payload=P", b"bt_payload=Q")
    ),
    "a byte more": lambda d: dataclasses.replace(d, body=d.body.replace(b"1999", b"19990") + b" "),
    "cut short": lambda d: dataclasses.replace(d, body=d.body[: len(d.body) // 2]),
    "empty": lambda d: dataclasses.replace(d, body=b""),
    "no signature": lambda d: resigned(d, ""),
    "no header": lambda d: dataclasses.replace(resigned(d, ""), headers={}),
    "another signature": lambda d: resigned(d, "0000" + signature_of(d)[4:]),
    "half a signature": lambda d: resigned(d, signature_of(d)[:8]),
    "a name": lambda d: resigned(d, "Zoë"),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_one_is_refused(delivery: Delivery, forge: Callable[[Delivery], Delivery]) -> None:
    """Changed, cut short, unsigned, signed by someone else: none of it is the gateway's word."""
    assert resigned(delivery, signature_of(delivery)).opened()
    with pytest.raises(Forged):
        forge(delivery).opened()


def test_another_secret_is_not_the_gateways(delivery: Delivery) -> None:
    """The control of all of these: the right one opens it."""
    assert delivery.opened()
    other = "00" if delivery.gateway == "adyen" else "whsec_2"
    with pytest.raises(Forged, match="not the gateway's"):
        delivery.opened(secret=other)


def test_without_a_secret_nothing_signed_is_heard(delivery: Delivery) -> None:
    """Whatever it says."""
    delivery.secret = None
    with pytest.raises(Forged, match="no secret is configured"):
        delivery.opened()


@pytest.mark.parametrize(("age", "taken"), [(0, True), (299, True), (301, False), (-301, False)])
def test_an_old_one_is_refused(age: int, taken: bool) -> None:
    """A signature with a time is good for five minutes, as Stripe's SDKs have it."""
    delivery = stripe(SECONDS - age)
    if taken:
        assert delivery.opened()
        return
    with pytest.raises(Forged, match="too long ago"):
        delivery.opened()


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("{good},v1=00", True),  # while a secret is changed there are two
        ("v0=1,{good}", True),
        ("v1=00", False),
        ("t=soon,v1=00", False),
        ("t=,v1=", False),
        ("", False),
        ("t={seconds},v0={hash}", False),
        ("t={seconds}," + "v1=00," * 11 + "v1={hash}", False),  # more than are looked at
    ],
)
def test_a_list_of_signatures(header: str, taken: bool) -> None:
    """One that fits is enough, of those that have the right name."""
    delivery = stripe()
    good = delivery.headers["Stripe-Signature"]
    made = good.rpartition("=")[2]
    filled = header.format(good=good, seconds=SECONDS, hash=made)
    delivery.headers = {"Stripe-Signature": filled}
    if taken:
        assert delivery.opened()
    else:
        with pytest.raises(Forged):
            delivery.opened()


def test_every_item_must_be_signed() -> None:
    """Adyen: three items are three events; with one that does not fit, none of them counts."""
    delivery = adyen("1", "2", "3")
    assert len(delivery.opened()) == 3
    delivery.body = delivery.body.replace(b'"pspReference": "2"', b'"pspReference": "4"')
    with pytest.raises(Forged):
        delivery.opened()


def test_the_address_is_part_of_the_signature() -> None:
    """Square: signed for another address, or for one nobody told us, it is refused."""
    delivery = square()
    for url in ("https://evil.example/webhooks/square", None):
        delivery.url = url
        with pytest.raises(Forged):
            delivery.opened()


@pytest.mark.parametrize("name", ["mollie", "paypal"])
def test_one_that_cannot_be_verified_is_only_a_reason_to_look(name: str) -> None:
    """Whatever it says of itself."""
    body = b"id=tr_1&status=paid" if name == "mollie" else as_json({"resource": {"id": "1"}})
    (event,) = Delivery(name, body, None).opened()
    assert event is not None
    assert event.says is Says.LOOK_UP


def test_a_query_may_name_the_order() -> None:
    """Mollie calls the address that the payment was made with; the body has the last word."""
    webhook = Webhook({}, "order=123&id=tr_0", b"id=tr_1")
    (document,) = opened(RECIPES["mollie"], webhook, None, None, NOW)
    event = told(RECIPES["mollie"], document)
    assert event is not None
    assert (event.order, event.reference) == ("123", "tr_1")


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("paypal", b"{"),
        ("paypal", b"\xff"),
        ("paypal", b"[" * 100_000),
        ("mollie", b"id=\xff"),
        ("mollie", b"&".join([b"a=b"] * 51)),
        ("mollie", b"id=" + b"%41" * 100_000),
    ],
)
def test_what_is_not_a_webhook_is_told_as_such(name: str, body: bytes) -> None:
    """It is neither forged nor an event."""
    with pytest.raises(Unreadable):
        Delivery(name, body, None).opened()


@pytest.mark.parametrize(
    "xml", [b"", b"<a>", b"\xff\xfe", b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>"]
)
def test_a_signed_payload_that_is_no_xml(xml: bytes) -> None:
    """Also one that defines things of its own."""
    payload = base64.b64encode(xml).decode()
    key = hashlib.sha1(b"private").digest()  # noqa: S324 -- Braintree's own scheme
    made = hmac.new(key, payload.encode(), "sha1").hexdigest()
    body = urlencode({"bt_signature": f"public|{made}", "bt_payload": payload}).encode()
    with pytest.raises(Unreadable):
        Delivery("braintree", body, "private").opened()


@pytest.mark.parametrize(
    "delivery", [square("2024-02-23T08:53:20Z"), razorpay_(SECONDS + 2_678_400)]
)
def test_what_is_told_of_a_payment_again_is_from_when_it_was_made(delivery: Delivery) -> None:
    """Its refund or fee a month later is no word on another try of its order made since."""
    (event,) = delivery.opened()
    assert event is not None
    assert event.at is not None
    assert event.at // 1000 == SECONDS


def test_a_refund_that_settles_is_not_its_sale() -> None:
    """Braintree tells both alike, under the order's name."""
    assert braintree_("credit").opened() == [None]


def test_an_event_about_something_else_says_nothing() -> None:
    """A customer was changed."""
    recipe = RECIPES["stripe"]
    assert told(recipe, {"type": "customer.updated", "data": {"object": {}}}) is None
    assert told(recipe, []) is None
    assert told(recipe, {"type": ["payment_intent.succeeded"]}) is None


@pytest.mark.parametrize(
    ("value", "order"),
    [("123", "123"), (123, "123"), (True, None), ("", None), ("a\nb", None), ("x" * 201, None)],
)
def test_a_name_is_read_as_that_of_a_request_is(value: object, order: str | None) -> None:
    """Else the two would never meet."""
    event = told(RECIPES["adyen"], {"eventCode": "CANCELLATION", "merchantReference": value})
    assert event is not None
    assert event.order == order


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (SECONDS, AT),
        (AT, AT),
        ("2024-01-23T08:53:20Z", AT),
        ("2024-01-23T10:53:20+02:00", AT),
        ("2024-01-23T08:53:20", AT),
        ("yesterday", None),
        (-1, None),
        ("9" * 16, None),
        (None, None),
    ],
)
def test_a_time_is_read_however_it_is_written(value: object, at: int | None) -> None:
    """Seconds, milliseconds, RFC 3339 with or without its zone."""
    event = told(RECIPES["stripe"], {"type": "charge.failed", "created": value})
    assert event is not None
    assert event.at == at


# --- which payment -------------------------------------------------------------------------------

EVENT = Told(
    says=Says.SUCCEEDED,
    object=None,
    operation="charge",
    key=None,
    order="123",
    amount="1999",
    at=AT + 5,
    reference="pi_1",
)
a_lost_one = partial(
    a_session, AttemptStatus.UNKNOWN, order_ref="123", order_in_body=True, amount="1999"
)
DECLINED = a_session(AttemptStatus.DECLINED, id="ps_2", order_ref="123", order_in_body=True)
NEVER_SENT = a_session(AttemptStatus.NOT_SENT, id="ps_3", order_ref="123", order_in_body=True)


def test_an_order_tried_once_is_the_one() -> None:
    """The lost one, also beside others of the order that were refused or never sent."""
    session = a_lost_one()
    assert settled_by(EVENT, [session]) is session
    assert settled_by(EVENT, [DECLINED, session, NEVER_SENT]) is session
    assert settled_by(EVENT, [replace(session, amount=None)]) is not None


def test_a_charge_after_a_no_is_the_one_that_was_told_no() -> None:
    """A contradiction is evidence too."""
    assert settled_by(EVENT, [DECLINED, NEVER_SENT]) is DECLINED


CHARGED = a_session(AttemptStatus.SUCCEEDED, id="ps_4", order_ref="123", order_in_body=True)


@pytest.mark.parametrize(
    "sessions",
    [
        pytest.param([], id="none"),
        pytest.param([NEVER_SENT], id="never sent"),
        pytest.param([a_lost_one(), a_lost_one(id="ps_5")], id="two may be it"),
        pytest.param([CHARGED, a_lost_one()], id="another was charged"),
        pytest.param([a_lost_one(order_in_body=False)], id="the gateway was not told its name"),
        pytest.param([a_lost_one(amount="2000")], id="another amount"),
        pytest.param([DECLINED, replace(DECLINED, id="ps_6")], id="two told no"),
    ],
)
def test_where_another_may_be_meant_nothing_is_settled(sessions: list[Session]) -> None:
    """A name is not a proof: in doubt the gateway is asked."""
    assert settled_by(EVENT, sessions) is None


@pytest.mark.parametrize(("seconds", "counts"), [(-61, False), (-59, True), (600, True)])
def test_an_event_from_before_the_payment_does_not_settle_it(seconds: int, counts: bool) -> None:
    """What is played again speaks of what was before; clocks may differ by a minute."""
    event = dataclasses.replace(EVENT, at=AT + seconds * 1000)
    assert (settled_by(event, [a_lost_one()]) is not None) is counts


def test_an_event_that_names_no_payment_settles_none() -> None:
    """Also where there is only one that it could be about."""
    event = dataclasses.replace(EVENT, order=None)
    assert settled_by(event, [a_lost_one()]) is None


def test_an_event_without_a_time_settles_nothing_by_its_order() -> None:
    """It could be from any time."""
    event = dataclasses.replace(EVENT, at=None)
    assert settled_by(event, [a_lost_one()]) is None


def test_a_key_is_the_payment_itself() -> None:
    """Whatever its order is called; but two that share a key are two."""
    event = dataclasses.replace(EVENT, key="k-1", at=None)
    session = a_lost_one(gateway_key="k-1", order_in_body=False)
    assert settled_by(event, [session]) is session
    assert settled_by(event, [session, replace(session, id="ps_2")]) is None


@pytest.mark.parametrize(
    ("told", "is_it"),
    [
        pytest.param({}, True, id="control: of this one"),
        pytest.param({"amount": "7"}, False, id="of another amount"),
        pytest.param({"at": AT - 61_000}, False, id="from before it was sent"),
    ],
)
def test_a_key_that_was_another_payments_before(told: dict[str, Any], *, is_it: bool) -> None:
    """A reference that is given to a second payment by mistake: the first one's is told again."""
    event = dataclasses.replace(EVENT, key="k-1", **told)
    session = a_lost_one(gateway_key="k-1")
    assert (settled_by(event, [session]) is session) is is_it


def test_a_delivery_never_shows_what_is_in_it() -> None:
    """Neither a log nor a traceback has its body."""
    assert repr(Webhook({"a": "secret"}, "b=secret", b"secret")) == "Webhook()"
