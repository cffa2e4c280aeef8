"""Read named values out of a request body, JSON or form, where a profile or policy says they
stand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from urllib.parse import quote_plus, unquote_plus

from proxy.core.jsonpath import parse_json_path
from proxy.core.policy import BodyField
from proxy.core.wire import InboundRequest

# An order's name longer than this is not a name; it would only fill the store.
MAX_VALUE_LENGTH = 200


def body_values(
    request: InboundRequest, places: Mapping[str, BodyField | None]
) -> dict[str, str | None]:
    """The value at each place as text; None where there is none or the body cannot be read."""
    nothing: dict[str, str | None] = dict.fromkeys(places)
    if not request.body:
        return nothing
    kind = request.values.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/x-www-form-urlencoded":
            return nothing | _from_form(request.body, places)
        if kind == "application/json" or kind.endswith("+json"):
            return nothing | _from_json(request.body, places)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested without end
        pass
    return nothing


def _from_form(body: bytes, places: Mapping[str, BodyField | None]) -> dict[str, str | None]:
    return {
        name: _form_value(body, place.form)
        for name, place in places.items()
        if place is not None and place.form is not None
    }


def _form_value(body: bytes, name: str) -> str | None:
    """The first value of a field. Looks for the one field instead of parsing them all."""
    for spelled in _spellings(name):
        if body.startswith(spelled):
            start = len(spelled)
        else:
            found = body.find(b"&" + spelled)
            if found < 0:
                continue
            start = found + 1 + len(spelled)
        end = body.find(b"&", start)
        value = body[start : end if end >= 0 else len(body)]
        return _named(unquote_plus(value.decode("ascii"), errors="strict"))
    return None


@cache
def _spellings(name: str) -> tuple[bytes, ...]:
    """A field's name as clients write it: brackets escaped or not."""
    plain = f"{name}=".encode()
    escaped = f"{quote_plus(name)}=".encode()
    lower = re.sub(rb"%[0-9A-F]{2}", lambda escape: escape[0].lower(), escaped)
    return tuple(dict.fromkeys((plain, escaped, lower)))


def _from_json(body: bytes, places: Mapping[str, BodyField | None]) -> dict[str, str | None]:
    wanted = {n: p.json for n, p in places.items() if p is not None and p.json is not None}
    document = json.loads(body) if wanted else None
    found: dict[str, str | None] = {}
    for name, path in wanted.items():
        value = parse_json_path(path).first(document)
        readable = isinstance(value, str | int | float) and not isinstance(value, bool)
        found[name] = _named(str(value)) if readable else None
    return found


def _named(value: str) -> str | None:
    return value if 0 < len(value) <= MAX_VALUE_LENGTH and value.isprintable() else None
