"""A session's names in the texts of a look-up: `{gateway_key}`, `{order}`, `{amount}`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from urllib.parse import quote
from xml.sax.saxutils import escape

from proxy.core.documents import BodyKind, kind_of
from proxy.core.session import Session

_SLOT = re.compile(r"\{(gateway_key|order|amount)\}")


def expand(text: str, session: Session, written: Callable[[str], str] = str) -> str:
    """The session's own names in a text. `written`: how that kind of text writes them. What looks
    like a slot in a name is none.
    """
    key, order, amount = session.gateway_key, session.order_ref, session.amount
    names = {"gateway_key": key, "order": order, "amount": amount}
    return _SLOT.sub(lambda slot: written(names[slot[1]] or ""), text)


def filled_body(body: str, session: Session) -> bytes:
    """A body with the session's names in it, as JSON or XML writes them."""
    xml = kind_of(body.encode()) is BodyKind.XML
    return expand(body, session, _in_xml if xml else _in_json).encode()


def _in_xml(name: str) -> str:
    return escape(name, {'"': "&quot;", "'": "&apos;"})


def _in_json(name: str) -> str:
    return json.dumps(name)[1:-1]


def filled_target(target: str, session: Session) -> str:
    """A path with the session's names in it."""
    return expand(target, session, partial(quote, safe=""))
