"""Whether words are the gateway's: the schemes by which gateways sign their webhooks.

Pure. What is signed are the bytes as they came; signatures are compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.core.jsonpath import JsonPath

# A header may hold several signatures while a secret is changed; more than these are not meant.
_MOST_SIGNATURES = 10
_SLOT = re.compile(r"(\{body\}|\{timestamp\}|\{url\})")


class Forged(Exception):  # noqa: N818 -- the verdict
    """Not shown to be the gateway's words; why, for the log and the answer."""


class KeyForm(StrEnum):
    """How the bytes of the key are made from the secret."""

    TEXT = "text"
    HEX = "hex"
    SHA1 = "sha1"  # its digest


@dataclass(frozen=True, slots=True)
class Signature:
    """Where the signature stands (exactly one of the first three) and what it is made over."""

    header: str | None  # lower case
    form: str | None
    json: JsonPath | None  # in each event, over its `fields`
    part: str | None  # of a header like t=…,v1=…: the name of its signatures
    timestamp: str | None  # and of the time that was signed, in epoch seconds
    tolerance: float  # how many seconds that may be from now
    over: str
    fields: tuple[JsonPath, ...]
    algorithm: str
    base64: bool
    key: KeyForm


@dataclass(frozen=True, slots=True)
class Agreed:
    """What both sides know. `url`: the address that the gateway calls."""

    secret: str = field(repr=False)
    url: str | None = None


def check_header(
    scheme: Signature, headers: Mapping[str, str], body: bytes, agreed: Agreed, now_ms: int
) -> None:
    """Raises `Forged` unless one of the signatures in the header fits."""
    value = headers.get(scheme.header or "", "")
    parts = [part.strip().partition("=") for part in value.split(",")]
    signatures = [value] if scheme.part is None else [v for n, _, v in parts if n == scheme.part]
    timestamp = ""
    if scheme.timestamp is not None:
        timestamp = next((v for n, _, v in parts if n == scheme.timestamp), "")
        _check_time(scheme, timestamp, now_ms)
    if "{url}" in scheme.over and agreed.url is None:
        message = "no url is configured, and it is part of the signature"
        raise Forged(message)
    url = (agreed.url or "").encode()
    fill = {"{body}": body, "{timestamp}": timestamp.encode(), "{url}": url}
    signed = b"".join(fill.get(piece, piece.encode()) for piece in _SLOT.split(scheme.over))
    _compare(signatures, [_signature(scheme, agreed.secret, signed)])


def _check_time(scheme: Signature, timestamp: str, now_ms: int) -> None:
    if not re.fullmatch("[0-9]{1,12}", timestamp):
        message = "its signature has no time"
        raise Forged(message)
    if abs(now_ms - int(timestamp) * 1000) > scheme.tolerance * 1000:
        message = "it was signed too long ago, or the clocks differ"
        raise Forged(message)


def check_form(scheme: Signature, fields: Mapping[str, str], payload: str, agreed: Agreed) -> None:
    """Raises `Forged` unless one of the field's `name|signature` pairs fits what is in `payload`,
    as it is or with a line's end.
    """
    pairs = fields.get(scheme.form or "", "").split("&")
    signatures = [pair.rpartition("|")[2] for pair in pairs if "|" in pair]
    signed = payload.encode(errors="replace")
    made = [_signature(scheme, agreed.secret, message) for message in (signed, signed + b"\n")]
    _compare(signatures, made)


def check_event(scheme: Signature, place: JsonPath, event: object, agreed: Agreed) -> None:
    """Raises `Forged` unless the signature in the event fits its own fields."""
    given = place.first(event)
    values = (path.first(event) for path in scheme.fields)
    signed = ":".join("" if value is None else str(value) for value in values)
    made = _signature(scheme, agreed.secret, signed.encode(errors="replace"))
    _compare([given] if isinstance(given, str) else [], [made])


def _signature(scheme: Signature, secret: str, message: bytes) -> str:
    key = secret.encode()
    if scheme.key is KeyForm.HEX:
        key = bytes.fromhex(secret)
    elif scheme.key is KeyForm.SHA1:
        key = hashlib.sha1(key).digest()  # noqa: S324 -- the gateway's own scheme
    digest = hmac.new(key, message, scheme.algorithm).digest()
    return base64.b64encode(digest).decode() if scheme.base64 else digest.hex()


def _compare(given: Sequence[str], made: Sequence[str]) -> None:
    if not any(given):
        message = "it has no signature"
        raise Forged(message)
    fits = [
        hmac.compare_digest(one.encode(errors="replace"), other.encode())
        for one in given[:_MOST_SIGNATURES]
        for other in made
    ]
    if not any(fits):
        message = "its signature is not the gateway's: another secret, or changed bytes"
        raise Forged(message)
