"""Read named values out of a request body, JSON, form or XML, where a profile or policy says they
stand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import unquote_plus

from proxy.core.documents import BodyKind, document
from proxy.core.jsonpath import parse_json_path
from proxy.core.policy import BodyField
from proxy.core.wire import InboundRequest

# An order's name longer than this is not a name; it would only fill the store.
MAX_VALUE_LENGTH = 200
_FORM = "application/x-www-form-urlencoded"
_XML = frozenset({"application/xml", "text/xml"})


def body_values(
    request: InboundRequest, places: Mapping[str, BodyField | None]
) -> dict[str, str | None]:
    """The value at each place as text; None where there is none or the body cannot be read."""
    body = request.body
    if not body:
        return dict.fromkeys(places)
    kind = request.values.get("content-type", "")
    if kind != _FORM:
        kind = kind.partition(";")[0].strip().lower()
    try:
        if kind == _FORM:
            return _from_form(body, places)
        if kind == "application/json" or kind.endswith("+json"):
            return _from_json(body, places)
        if kind in _XML:
            return _from_xml(body, places)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested without end
        pass
    return dict.fromkeys(places)


def _from_form(body: bytes, places: Mapping[str, BodyField | None]) -> dict[str, str | None]:
    """The first value of each field. Looks for these fields instead of parsing them all."""
    body = b"&" + body
    found: dict[str, str | None] = dict.fromkeys(places)
    for name, place in places.items():
        if place is None:
            continue
        for spelled in place.spellings:
            _, there, rest = body.partition(spelled)
            if there:
                found[name] = _form_value(rest.partition(b"&")[0])
                break
    return found


def _form_value(value: bytes) -> str | None:
    text = value.decode("ascii")
    if value.isalnum():  # as most are: nothing in it is escaped or unprintable
        return text if len(text) <= MAX_VALUE_LENGTH else None
    return _named(unquote_plus(text, errors="strict"))


def _from_json(body: bytes, places: Mapping[str, BodyField | None]) -> dict[str, str | None]:
    paths = {name: place.json if place else None for name, place in places.items()}
    return _at_paths(json.loads(body) if any(paths.values()) else None, paths)


def _from_xml(body: bytes, places: Mapping[str, BodyField | None]) -> dict[str, str | None]:
    """As written, else with `_` for `-`: Braintree takes `order-id` from some SDKs and `order_id`
    from others.
    """
    paths = {name: place.xml if place else None for name, place in places.items()}
    read = document(body, BodyKind.XML) if any(paths.values()) else None
    written = _at_paths(read, paths)
    others = _at_paths(
        read, {name: path and path.replace("-", "_") for name, path in paths.items()}
    )
    return {name: value or others[name] for name, value in written.items()}


def _at_paths(read: object, paths: Mapping[str, str | None]) -> dict[str, str | None]:
    found: dict[str, str | None] = dict.fromkeys(paths)
    for name, path in paths.items():
        value = None if path is None else parse_json_path(path).first(read)
        readable = isinstance(value, str | int | float) and not isinstance(value, bool)
        found[name] = _named(str(value)) if readable else None
    return found


def _named(value: str) -> str | None:
    return value if 0 < len(value) <= MAX_VALUE_LENGTH and value.isprintable() else None
