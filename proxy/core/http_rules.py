"""What a forwarding proxy may, must and must not do to a message (RFC 9110 sections 5-7, RFC 9112).

Pure functions over header lists. Everything a rule refuses is refused before a byte is sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import compress
from operator import itemgetter
from typing import NamedTuple

from msgspec import Struct

from proxy.core.deadlines import FOR_THIS_HOP
from proxy.core.refusals import Refusal
from proxy.core.wire import Headers

# Stripped in both directions, listed in Connection or not (RFC 9110 section 7.6.1).
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "proxy-authenticate",
        "proxy-authorization",
    }
)
# Answered or set anew by us, never forwarded as they came.
_REPLACED = frozenset({"host", "expect", "content-length"})
SESSION_HEADER = "X-Payment-Session-Id"
ORDER_HEADER = "X-Payment-Order-Id"
USER_HEADER = "X-Payment-User-Id"
ATTEMPTS_HEADER = "X-Payment-Attempts"
_CONTROL = frozenset(name.lower() for name in (SESSION_HEADER, ORDER_HEADER, USER_HEADER))
# May stand once: two of them would leave it to the reader which one counts.
_FRAMING = frozenset({"content-length", "transfer-encoding", "host", "expect"})
TOKEN_HEADER = "X-Holdfast-Token"

# A request's head as the parser delivers it.
RawHeaders = tuple[tuple[bytes, bytes], ...]

_NOT_FORWARDED = HOP_BY_HOP | _REPLACED | _CONTROL | FOR_THIS_HOP | {TOKEN_HEADER.lower()}
# What has rules of its own; most requests have none of them.
_RARE = _CONTROL | {"transfer-encoding", "expect", "via", "connection"}

# Absolute form names a host, and the client never chooses the host; a fragment or an empty query
# would not survive the trip unchanged.
_TARGET = re.compile(r"/[^?#]*(?:\?[^#]+)?")
# What begins with a quote is meant as a quoted string; a broken one is no key.
_BARE_KEY = re.compile(r'(?!")[!-~]{1,255}')
_QUOTED_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\]){1,255})"')
_NAME = re.compile(r"[!-~]{1,200}")


class Checked(Struct, frozen=True, gc=False):
    """A request head that may be forwarded, taken apart."""

    forward: Headers
    values: dict[str, str]  # by lower-case name; repeated headers joined with ", "
    has_body: bool


class _Names(NamedTuple):
    """The names of one head's headers in turn: as text, in lower case, and which are forwarded."""

    names: tuple[str, ...]
    lowers: tuple[str, ...]
    forwarded: tuple[bool, ...]
    plain: bool  # none stands twice, and none has a rule of its own


# Clients send the same few names in the same order each time. Who makes up new ones fills this up
# and no more.
_KNOWN: dict[tuple[bytes, ...], _Names] = {}
_HEADS_KEPT = 256
_NAMES_KEPT = 32
_NAME_LENGTH_KEPT = 64


def _names_of(raw: tuple[bytes, ...]) -> _Names:
    names = tuple(name.decode("latin-1") for name in raw)
    lowers = tuple(name.lower() for name in names)
    forwarded = tuple(lower not in _NOT_FORWARDED for lower in lowers)
    plain = len(set(lowers)) == len(lowers) and _RARE.isdisjoint(lowers)
    found = _Names(names, lowers, forwarded, plain)
    short = len(raw) <= _NAMES_KEPT and max(map(len, raw)) <= _NAME_LENGTH_KEPT
    if short and len(_KNOWN) < _HEADS_KEPT:
        _KNOWN[raw] = found
    return found


def check_request(  # noqa: C901, PLR0911 -- one list of refusals
    method: str, target: str, headers: RawHeaders, via: str, key_headers: frozenset[str]
) -> Checked | Refusal:
    """Decide whether a request can be forwarded byte for byte, and take its head apart.

    The head is as the parser delivered it, which has already refused what llhttp refuses; this
    covers what it lets through. `key_headers` in lower case: those that
    bear a payment's key on some route.
    """
    if method == "CONNECT":
        return Refusal.METHOD_NOT_FORWARDABLE
    if not _TARGET.fullmatch(target):
        return Refusal.TARGET_NOT_FORWARDABLE
    if not headers:
        return Checked((("Via", f"1.1 {via}"),), {}, has_body=False)
    # Column by column, not header by header: so the loops are not Python's.
    raw_names, raw_values = zip(*headers, strict=True)
    names, lowers, forwarded, plain = _KNOWN.get(raw_names) or _names_of(raw_names)
    together = b"\n".join(raw_values)  # no line break is in any of them
    texts = together.decode("latin-1").split("\n")
    values = dict(zip(lowers, texts, strict=True))
    forward = list(compress(zip(names, texts, strict=True), forwarded))
    if not plain or not together.isascii():
        joined = _joined(lowers, texts, key_headers)
        if isinstance(joined, Refusal):
            return joined
        values = joined
        refusal = _bad_framing(values) or _loop(values, via) or _bad_names(values)
        if refusal is not None:
            return refusal
    keys = key_headers & values.keys()
    if any(normal_key(values[name]) is None for name in keys):
        return Refusal.KEY_INVALID
    if not plain and "connection" in values:
        named = _named_by_connection(values)
        if not key_headers.isdisjoint(named):
            return Refusal.KEY_INVALID  # for this hop only, says the caller: then it is no key
        forward = [pair for pair in forward if pair[0].lower() not in named]
    forward.append(("Via", f"1.1 {via}"))
    # A length of 0 is no body: such a request can be sent again, and is not sent in chunks.
    has_body = values.get("content-length", "").strip("0") != "" or "transfer-encoding" in values
    return Checked(tuple(forward), values, has_body)


def _joined(
    lowers: Sequence[str], texts: Sequence[str], key_headers: frozenset[str]
) -> dict[str, str] | Refusal:
    """Each header's value by its name, where one stands twice or is not ASCII."""
    values: dict[str, str] = {}
    for lower, value in zip(lowers, texts, strict=True):
        if lower in values:
            if lower in key_headers or lower in _CONTROL:
                return Refusal.DUPLICATE_HEADER
            if lower in _FRAMING:
                return Refusal.AMBIGUOUS_FRAMING
            values[lower] += f", {value}"
        else:
            values[lower] = value
        if not value.isascii() and not _is_utf8(value):
            return Refusal.BYTES_NOT_FORWARDABLE
    return values


def _bad_framing(values: dict[str, str]) -> Refusal | None:
    coding = values.get("transfer-encoding")
    if coding is not None and (coding.lower() != "chunked" or "content-length" in values):
        return Refusal.AMBIGUOUS_FRAMING
    if values.get("expect", "100-continue").lower() != "100-continue":
        return Refusal.EXPECTATION_UNKNOWN
    return None


def _is_utf8(value: str) -> bool:
    """Whether a value's bytes are UTF-8. The client library writes nothing else: it silently drops
    what is not, so such a request is refused instead.
    """
    try:
        value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return False
    return True


def _loop(values: dict[str, str], via: str) -> Refusal | None:
    for member in values.get("via", "").split(","):
        if member.split()[1:2] == [via]:
            return Refusal.LOOP
    return None


def _bad_names(values: dict[str, str]) -> Refusal | None:
    for name in _CONTROL:
        value = values.get(name)
        if value is not None and not _NAME.fullmatch(value):
            return Refusal.HEADER_INVALID
    return None


def normal_key(value: str) -> str | None:
    """The caller's key, the same for its quoted and its bare form; None if it cannot be a key.

    The draft wants a quoted string; Stripe-style clients send it bare. The bytes are forwarded as
    they came.
    """
    if _BARE_KEY.fullmatch(value):
        return value
    quoted = _QUOTED_KEY.fullmatch(value)
    return re.sub(r'\\(["\\])', r"\1", quoted.group(1)) if quoted else None


def _named_by_connection(values: dict[str, str]) -> set[str]:
    """The fields that `Connection` names: they are for this hop only."""
    return {token.strip().lower() for token in values["connection"].split(",")}


def answer_headers(headers: Headers) -> Headers:
    """The gateway's answer headers that go back: all but the hop-by-hop ones."""
    lowered = list(map(str.lower, map(itemgetter(0), headers)))
    if HOP_BY_HOP.isdisjoint(lowered):
        return headers
    dropped = set(HOP_BY_HOP)
    for lower, (_, value) in zip(lowered, headers, strict=True):
        if lower == "connection":
            dropped |= _named_by_connection({lower: value})
    return tuple(p for lower, p in zip(lowered, headers, strict=True) if lower not in dropped)
