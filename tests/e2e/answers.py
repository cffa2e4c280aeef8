"""A merchant's day with an SDK at each part, and what makes two days equal: everything but the
names and moments that a gateway makes up anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.e2e.sdks import CHARGE, INTENT, PAID, Heard, Sdk
from tests.support.raw import RawServer

# What Holdfast adds to every answer, and what it may not pass on (RFC 9110 section 7.6.1).
ADDED = {"x-payment-session-id", "x-payment-attempts", "proxy-status"}
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}

_MADE_UP = re.compile(
    r"(?<![A-Za-z0-9])(cus|pm|pi|ch|re|txn|card|acct|rcpt|secret)_[A-Za-z0-9]{10,}"
)
_MOMENT = re.compile(r'("(?:created|date)": ?)[0-9]+')
_PRINT = re.compile(r'("fingerprint": ?)"[A-Za-z0-9]+"')

Day = list[tuple[str, Heard]]


@dataclass(frozen=True, slots=True)
class Told:
    """A step of a day, with made-up names numbered in the order they first appear."""

    step: str
    raised: str | None
    status: int | None
    message: str | None
    code: str | None
    body: Any
    text: str | None


def told(day: Day) -> list[Told]:
    """A day as it can be compared."""
    names: dict[str, str] = {}

    def number(found: re.Match[str]) -> str:
        return names.setdefault(found[0], f"{found[1]}#{len(names) + 1}")

    def plain(text: str) -> str:
        text = _PRINT.sub(r'\1"…"', _MOMENT.sub(r"\g<1>0", text))
        return _MADE_UP.sub(number, text)

    return [
        Told(
            step,
            heard.raised,
            heard.status,
            None if heard.message is None else plain(heard.message),
            heard.code,
            json.loads(plain(json.dumps(heard.body))),
            None if heard.text is None else plain(heard.text),
        )
        for step, heard in day
    ]


def in_short(day: Day) -> list[tuple[str, str, int | None]]:
    """A day as a table: step, the exception's class or the object's state, HTTP status."""
    return [(step, _short(heard), heard.status) for step, heard in day]


def _short(heard: Heard) -> str:
    if heard.raised is not None:
        return heard.raised
    if isinstance(heard.body, list):
        return f"{len(heard.body)} listed"
    if heard.body["object"] == "list":
        return f"{len(heard.body['data'])} listed"
    return str(heard.body.get("status", heard.body["object"]))


def added_headers(direct: Heard, through: Heard) -> set[str]:
    """The names of the headers that only the answer through Holdfast has."""
    return set(through.headers) - set(direct.headers)


def lost_headers(direct: Heard, through: Heard) -> set[str]:
    """The names of the headers that only the direct answer has."""
    return set(direct.headers) - set(through.headers)


async def day_at_localstripe(sdk: Sdk) -> Day:
    """Payment intents through their whole life, and its errors."""
    day: Day = []

    async def step(title: str, *call: Any, **options: Any) -> Any:
        heard = await sdk.call(*call, **options)
        day.append((title, heard))
        return heard.body

    manual = {**INTENT, "capture_method": "manual", "confirm": True}
    person = (await step("customer", "customers.create", None, {"email": "a@example.com"}))["id"]
    made = await step("create", "payment_intents.create", None, {**INTENT, "customer": person})
    await step("confirm", "payment_intents.confirm", made["id"])
    await step("retrieve", "payment_intents.retrieve", made["id"])
    await step("list", "payment_intents.list", None, {"limit": 3})
    held = await step("reserve", "payment_intents.create", None, manual)
    await step("capture", "payment_intents.capture", held["id"], {"amount_to_capture": 1999})
    other = await step("reserve again", "payment_intents.create", None, manual)
    await step("cancel", "payment_intents.cancel", other["id"])
    await step("refund", "refunds.create", None, {"payment_intent": made["id"]})
    await step("refund a part", "refunds.create", None, {"payment_intent": held["id"], "amount": 9})
    await step("every page", "payment_intents.list", None, {"limit": 1}, every_page=True)
    fails = {**PAID, "payment_method": "pm_card_chargeCustomerFail"}
    await step("declined", "payment_intents.create", None, fails)
    await step("invalid", "payment_intents.create", None, {**INTENT, "amount": -1})
    await step("wrong state", "payment_intents.confirm", made["id"])
    await step("not found", "payment_intents.retrieve", "pi_nothing")
    await step("nothing to capture", "payment_intents.capture", "pi_nothing")
    await step("wrong credential", "payment_intents.create", None, PAID, api_key="pk_nobody")
    return day


LOCALSTRIPE_DAY: list[tuple[str, str, int]] = [
    ("customer", "customer", 200),
    ("create", "requires_confirmation", 200),
    ("confirm", "succeeded", 200),
    ("retrieve", "succeeded", 200),
    ("list", "1 listed", 200),
    ("reserve", "requires_capture", 200),
    ("capture", "succeeded", 200),
    ("reserve again", "requires_capture", 200),
    ("cancel", "canceled", 200),
    ("refund", "succeeded", 200),
    ("refund a part", "succeeded", 200),
    ("every page", "3 listed", 200),
    ("declined", "CardError", 402),
    ("invalid", "InvalidRequestError", 400),
    ("wrong state", "InvalidRequestError", 400),
    ("not found", "InvalidRequestError", 404),
    ("nothing to capture", "InvalidRequestError", 404),
    ("wrong credential", "AuthenticationError", 401),
]


async def day_at_the_mock(sdk: Sdk) -> Day:
    """Charges, idempotency keys, and an error of every class that the mock can make."""
    day: Day = []

    async def step(title: str, *call: Any, **options: Any) -> Any:
        heard = await sdk.call(*call, **options)
        day.append((title, heard))
        return heard.body

    made = await step("charge", "charges.create", None, CHARGE, idempotency_key="k-1")
    await step("list", "charges.list", None, {"limit": 3})
    await step("again", "charges.create", None, CHARGE, idempotency_key="k-1")
    await step("retrieve", "charges.retrieve", made["id"])
    await step("refund a part", "refunds.create", None, {"charge": made["id"], "amount": 9})
    await step("refund", "refunds.create", None, {"charge": made["id"]})
    held = await step("reserve", "charges.create", None, {**CHARGE, "capture": False})
    await step("capture", "charges.capture", held["id"])
    other = {**CHARGE, "amount": 2999}
    await step("other parameters", "charges.create", None, other, idempotency_key="k-1")
    for token in ("tok_chargeDeclined", "tok_429", "tok_500"):
        await step(token, "charges.create", None, {**CHARGE, "source": token})
    await step("invalid", "charges.create", None, {**CHARGE, "amount": 1})
    await step("not found", "charges.retrieve", "ch_nothing")
    await step("wrong credential", "charges.create", None, CHARGE, api_key="sk_live_wrong")
    return day


MOCK_DAY: list[tuple[str, str, int]] = [
    ("charge", "succeeded", 200),
    ("list", "1 listed", 200),
    ("again", "succeeded", 200),
    ("retrieve", "succeeded", 200),
    ("refund a part", "succeeded", 200),
    ("refund", "succeeded", 200),
    ("reserve", "succeeded", 200),
    ("capture", "succeeded", 200),
    ("other parameters", "IdempotencyError", 400),
    ("tok_chargeDeclined", "CardError", 402),
    ("tok_429", "RateLimitError", 429),
    ("tok_500", "APIError", 500),
    ("invalid", "InvalidRequestError", 400),
    ("not found", "InvalidRequestError", 404),
    ("wrong credential", "AuthenticationError", 401),
]


def named_by_node(table: Iterable[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """A table with stripe-node's names for the exceptions."""
    return [
        (step, f"Stripe{short}" if short.endswith("Error") else short, status)
        for step, short, status in table
    ]


def bodies(stream: bytes) -> list[bytes]:
    """The bodies of the answers on one connection, without their framing."""
    found: list[bytes] = []
    while stream:
        head, _, stream = stream.partition(b"\r\n\r\n")
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            body, stream = _unchunked(stream)
        else:
            length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
            body, stream = stream[:length], stream[length:]
        found.append(body)
    return found


def _unchunked(stream: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, stream = stream.partition(b"\r\n")
        length = int(size, 16)
        body, stream = body + stream[:length], stream[length + 2 :]
        if length == 0:
            return body, stream


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as a recording gateway saw it."""

    line: str
    headers: tuple[str, ...]
    body: bytes


def requests_at(gateway: RawServer) -> list[Asked]:
    """Everything that arrived, in the order of the connections."""
    found = []
    for connection in gateway.connections:
        stream = bytes(connection.received)
        while stream:
            head, _, stream = stream.partition(b"\r\n\r\n")
            line, *headers = head.decode().split("\r\n")
            named = {name.lower(): value for name, value in (h.split(": ", 1) for h in headers)}
            if "transfer-encoding" in named:
                body, stream = _unchunked(stream)
            else:
                length = int(named.get("content-length", "0"))
                body, stream = stream[:length], stream[length:]
            found.append(Asked(line, tuple(headers), body))
    return found
