"""What a gateway says by itself: whether these are its words, which payment they are about, and
whether they settle it.

Pure. A signature is checked on the bytes as they came, before anything else is made of them; what
is not signed, or only tied to a payment by a name that others may share, is never evidence, only a
reason to look.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import parse_qsl

from proxy.core.documents import NO_DOCUMENT, BodyKind, document
from proxy.core.jsonpath import JsonPath
from proxy.core.session import Session
from proxy.core.signatures import (
    Agreed,
    Forged,
    Signature,
    check_event,
    check_form,
    check_header,
)
from proxy.core.states import Outcome

_MOST_FIELDS = 50
# Taken apart in Python before anybody knows whose it is, while nothing else goes on: 40 ms at worst
# for so much. Braintree's largest have a subscription's last twenty payments in them.
_MOST_FORM_BYTES = 256 * 1024
_LONGEST_NAME = 200
# Gateways date events by their own clock, to the second.
_CLOCK_SLACK_MS = 60_000
# A number above this is in milliseconds: as seconds it would be the year 5138.
_MILLISECONDS = 100_000_000_000


class Unreadable(Exception):  # noqa: N818 -- the condition
    """The body is not what this gateway sends."""


class Says(StrEnum):
    """What an event says of its payment."""

    SUCCEEDED = "succeeded"
    DECLINED = "declined"
    LOOK_UP = "look_up"  # something has happened to it


@dataclass(frozen=True, slots=True)
class Tie:
    """Where an event says which payment it is about. `order`: the first that is there."""

    key: JsonPath | None
    order: tuple[JsonPath, ...]
    amount: JsonPath | None
    at: JsonPath | None
    reference: JsonPath


@dataclass(frozen=True, slots=True)
class EventRule:
    """All conditions hold: it says this, or what the payment at `object` shows."""

    when: tuple[tuple[JsonPath, frozenset[str | int | float | bool]], ...]
    says: Says
    object: JsonPath | None
    operation: str


@dataclass(frozen=True, slots=True)
class WebhookRecipe:
    """How a gateway tells of payments by itself."""

    signature: Signature | None
    body: BodyKind
    payload: str | None
    each: JsonPath | None
    tie: Tie
    events: tuple[EventRule, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """One delivery as it came. Header names in lower case."""

    headers: Mapping[str, str]
    query: str
    body: bytes

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # the standard library's is of 3.12
        """Nothing of it may stand in a log."""
        return "Webhook()"


@dataclass(frozen=True, slots=True)
class Told:
    """What one event tells. `at` in epoch milliseconds; `object` is the payment as an answer to it
    would show it, where the event does.
    """

    says: Says
    object: object
    operation: str
    key: str | None
    order: str | None
    amount: str | None
    at: int | None
    reference: str

    @property
    def names_it(self) -> bool:
        """Whether it says which payment it is about; else it can settle none."""
        return self.key is not None or self.order is not None


# --- whose words they are ------------------------------------------------------------------------


def opened(
    recipe: WebhookRecipe, webhook: Webhook, secret: str | None, url: str | None, now_ms: int
) -> list[object]:
    """The events of a webhook that is the gateway's. Raises `Forged` or `Unreadable`."""
    scheme = recipe.signature
    if scheme is None:
        return _events(recipe, webhook)
    if secret is None:
        message = "no secret is configured to check its signature with"
        raise Forged(message)
    agreed = Agreed(secret, url)
    if scheme.json is not None:
        return _each_signed(recipe, scheme, scheme.json, webhook, agreed)
    if scheme.header is not None:
        check_header(scheme, webhook.headers, webhook.body, agreed, now_ms)
    else:
        fields = _form_or_nothing(webhook.body)
        check_form(scheme, fields, fields.get(recipe.payload or "", ""), agreed)
    return _events(recipe, webhook)


def _each_signed(
    recipe: WebhookRecipe, scheme: Signature, place: JsonPath, webhook: Webhook, agreed: Agreed
) -> list[object]:
    """Events that each carry their own signature: one that does not fit, and none counts."""
    try:
        events = _events(recipe, webhook)
    except Unreadable:
        events = []
    if not events:
        message = "nothing in it is signed"
        raise Forged(message)
    for event in events:
        check_event(scheme, place, event, agreed)
    return events


# --- what they are -------------------------------------------------------------------------------


def _events(recipe: WebhookRecipe, webhook: Webhook) -> list[object]:
    read = _document(recipe, webhook)
    return [read] if recipe.each is None else recipe.each.values(read)


def _document(recipe: WebhookRecipe, webhook: Webhook) -> object:
    read: object
    match recipe.body:
        case BodyKind.JSON:
            read = document(webhook.body)
        case BodyKind.FORM:
            read = _form(webhook.query.encode()) | _form(webhook.body)
        case BodyKind.XML:  # in Base64, in a field of a form
            payload = _form(webhook.body).get(recipe.payload or "", "")
            read = document(_plain(payload), BodyKind.XML)
    if read is NO_DOCUMENT:
        raise Unreadable
    return read


def _plain(payload: str) -> bytes:
    try:
        return base64.b64decode(payload)
    except ValueError:
        raise Unreadable from None


def _form(body: bytes) -> dict[str, str]:
    if len(body) > _MOST_FORM_BYTES:
        raise Unreadable
    try:
        text = body.decode("ascii")
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise Unreadable from None


def _form_or_nothing(body: bytes) -> dict[str, str]:
    try:
        return _form(body)
    except Unreadable:
        return {}


def told(recipe: WebhookRecipe, event: object) -> Told | None:
    """What an event tells of a payment; None if it is about something else."""
    for rule in recipe.events:
        if all(_is_one_of(path, values, event) for path, values in rule.when):
            return _told(recipe.tie, rule, event)
    return None


def _is_one_of(path: JsonPath, values: frozenset[str | int | float | bool], event: object) -> bool:
    return any(isinstance(v, str | int | float) and v in values for v in path.values(event))


def _told(tie: Tie, rule: EventRule, event: object) -> Told:
    orders: Iterator[str | None] = (_text(path, event) for path in tie.order)
    return Told(
        says=rule.says,
        object=None if rule.object is None else rule.object.first(event),
        operation=rule.operation,
        key=_text(tie.key, event),
        order=next((order for order in orders if order is not None), None),
        amount=_text(tie.amount, event),
        at=_moment(_text(tie.at, event)),
        reference=_text(tie.reference, event) or "an event that names no payment",
    )


def _text(path: JsonPath | None, event: object) -> str | None:
    """A value as text, like those that were read from the request."""
    value = None if path is None else path.first(event)
    if isinstance(value, dict):  # an element of XML with attributes
        value = value.get("#text")
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    text = str(value)
    return text if 0 < len(text) <= _LONGEST_NAME and text.isprintable() else None


def _moment(text: str | None) -> int | None:
    """Epoch milliseconds of a time in epoch seconds or milliseconds, or in RFC 3339."""
    if text is None:
        return None
    if re.fullmatch("[0-9]{1,15}", text):
        number = int(text)
        return number if number > _MILLISECONDS else number * 1000
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


# --- which payment they settle -------------------------------------------------------------------


def settled_by(event: Told, sessions: Sequence[Session]) -> Session | None:
    """The session that an event is about for certain, of those that have the key it names, or else
    its order and operation.

    Not where the amounts differ, or it is from before the first send: a key may have been another
    payment's before, and what is played again later settles nothing that was begun since. An
    order's name may be shared by several payments, and by one that never came this way. So it
    counts only where this session told it to the gateway, no other of the order may have been
    charged, and it is known when it happened.
    """
    if event.key is not None:
        possible = list(sessions)
    elif event.order is None or event.at is None:
        return None
    else:
        sent = [session for session in sessions if session.last_send_at is not None]
        possible = [s for s in sent if s.outcome is not Outcome.NOT_CHARGED] or sent
    if len(possible) != 1:
        return None
    (session,) = possible
    meant = event.key is not None or session.order_in_body
    return session if meant and not _about_another(event, session) else None


def _about_another(event: Told, session: Session) -> bool:
    """Whether it is of another amount, or from before the session was begun."""
    other_amount = None not in {event.amount, session.amount} and event.amount != session.amount
    begun = session.attempts[0].started_at if session.attempts else session.started_at
    earlier = event.at is not None and event.at < begun - _CLOCK_SLACK_MS
    return other_amount or earlier
