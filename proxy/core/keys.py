"""Where a gateway wants the key of a payment: in a header, in the body, or nowhere.

A key the caller sent is never touched while its payment is the same attempt. One that is put in
leaves every other byte of the request as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote_plus

from proxy.core.documents import NO_DOCUMENT, BodyKind, document
from proxy.core.http_rules import normal_key
from proxy.core.jsonpath import JsonPath
from proxy.core.wire import Headers, InboundRequest


class Carrier(StrEnum):
    """What carries the key."""

    HEADER = "header"
    JSON = "json"
    FORM = "form"
    NOWHERE = "nowhere"


class Unfit(Exception):  # noqa: N818 -- the condition, as the refusal names it
    """The caller's key is none that this gateway takes."""


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where the key stands and what it may be.

    `name` is that of the header or form field. Holdfast puts a key in where the caller sent none
    only if `put_in`: a signed request must stay as it is.
    """

    carrier: Carrier
    name: str = ""
    path: JsonPath | None = None
    allowed: re.Pattern[str] = re.compile("[ -~]+")
    min_length: int = 1
    max_length: int = 255
    put_in: bool = True

    @property
    def header(self) -> str | None:
        """The name of its header in lower case, if that is where it stands."""
        return self.name.lower() if self.carrier is Carrier.HEADER else None

    @property
    def where(self) -> str:
        """The place itself, to compare it with where a key was put before."""
        return f"{self.carrier} {self.header or self.name}"

    def of(self, request: InboundRequest) -> str | None:
        """The caller's own key, as it was sent. Raises `Unfit`."""
        name = self.header
        key = self._in(request.body) if name is None else request.values.get(name)
        if key is None:
            return None
        bare = (normal_key(key) if self.header else key) if isinstance(key, str) else None
        if bare is None or self.allowed.fullmatch(bare) is None:
            raise Unfit
        if not self.min_length <= len(str(key)) <= self.max_length:
            raise Unfit
        return str(key)

    def carries(self, request: InboundRequest) -> bool:
        """Whether a key can be put into a request that has none. One without a key is never sent
        twice, whatever the gateway promises for those with one.
        """
        if not self.put_in or self.carrier is Carrier.NOWHERE:
            return False
        if self.carrier is Carrier.HEADER:
            return True
        return self._read_there(request) and self._with(request.body, None, "0" * 32) != b""

    def put(self, request: InboundRequest, headers: Headers, key: str) -> tuple[Headers, bytes]:
        """Headers and body with this key, and no other. Raises `Unfit` if it cannot be done."""
        sent, body = request.client_key, request.body
        if sent == key or self.carrier is Carrier.NOWHERE:
            return headers, body
        if not self.put_in:
            raise Unfit
        if self.carrier is Carrier.HEADER:
            if sent is None:
                return (*headers, (self.name, key)), body
            # The same key spelled in another way (quoted, bare) would be another key there.
            lower = self.name.lower()
            return tuple((n, key if n.lower() == lower else v) for n, v in headers), body
        if sent is None and not self._read_there(request):
            raise Unfit
        if not (changed := self._with(body, sent, key)):
            raise Unfit
        return headers, changed

    def _read_there(self, request: InboundRequest) -> bool:
        """Whether a gateway looks for a key in such a body: text after the last part of a multipart
        form, or a body that nothing was said of, is read by nobody.
        """
        kind = request.values.get("content-type", "").partition(";")[0].strip().lower()
        if self.carrier is Carrier.FORM:
            return kind == "application/x-www-form-urlencoded"
        return kind == "application/json" or kind.endswith("+json")

    def _in(self, body: bytes) -> object:
        """What stands at the key's place in a body."""
        if self.carrier is Carrier.NOWHERE:
            return None
        if self.carrier is Carrier.JSON:
            read = document(body)
            return self.path.first(read) if self.path is not None else None
        read = document(body, BodyKind.FORM)
        return read.get(self.name) if isinstance(read, Mapping) else None

    def _with(self, body: bytes, sent: str | None, key: str) -> bytes:
        """The body with another key, every other byte the same; none if that cannot be done."""
        if self.carrier is Carrier.FORM:
            changed = _in_form(body, self.name, sent, key)
        else:
            changed = _in_json(body, self.path.key if self.path else None, sent, key)
        # Whatever was written there, it is read back: a key that is not where the gateway looks
        # for it protects nobody.
        return changed if self._in(changed) == key and _others(self, body, changed) else b""


def _others(place: KeyPlace, before: bytes, after: bytes) -> bool:
    """Whether all but the key is still the same."""
    kind = BodyKind.FORM if place.carrier is Carrier.FORM else BodyKind.JSON
    name = place.name if place.path is None else place.path.text
    one, other = document(before, kind), document(after, kind)
    if before == b"":
        one = {}
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    return {**one, name: None} == {**other, name: None}


def _in_form(body: bytes, name: str, sent: str | None, key: str) -> bytes:
    pair = f"{quote_plus(name)}={quote_plus(key)}".encode()
    if sent is None:
        return body + b"&" + pair if body else pair
    mine = re.compile(rb"(?:^|(?<=&))" + re.escape(quote_plus(name).encode()) + rb"=[^&]*")
    return mine.sub(lambda _: pair, body, count=1)


def _in_json(body: bytes, name: str | None, sent: str | None, key: str) -> bytes:
    """At the top of an object: the first of its pairs, or in the place of the one that is there."""
    if name is None or document(body) is NO_DOCUMENT:
        return b""
    pair = f"{json.dumps(name)}:{json.dumps(key)}".encode()
    if sent is None:
        start = body.find(b"{") + 1
        more = b"" if body[start:].lstrip().startswith(b"}") else b","
        return body[:start] + pair + more + body[start:]
    mine = rb"%s\s*:\s*%s" % tuple(re.escape(json.dumps(t).encode()) for t in (name, sent))
    return re.sub(mine, lambda _: pair, body, count=1)
