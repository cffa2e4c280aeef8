"""Bodies as documents that a path leads into, whatever they are written in."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl
from xml.parsers.expat import ExpatError

import orjson
import xmltodict


class BodyKind(StrEnum):
    """What a body is read as."""

    JSON = "json"
    FORM = "form"
    XML = "xml"


_LISTS = frozenset({"array", "collection"})
NO_DOCUMENT = object()  # what cannot be read; no path leads anywhere in it
# XML is read in Python, while nothing else goes on: a second for so much. No answer to a payment is
# as large, and none as deep, for which the reader takes the square of the time.
_MOST_XML_BYTES = 1024 * 1024
_DEEPEST_XML = 100


def document(body: bytes, kind: BodyKind = BodyKind.JSON) -> object:
    """A body as lists, dictionaries and values. An element of XML is its text, or a dictionary of
    those in it; one that says it is an array or a collection holds lists.
    """
    match kind:
        case BodyKind.JSON:
            return _json(body)
        case BodyKind.FORM:
            return _form(body)
        case BodyKind.XML:
            return _xml(body)


def kind_of(body: bytes) -> BodyKind:
    """What a body that is JSON or XML is to be read as."""
    return BodyKind.XML if body.lstrip().startswith(b"<") else BodyKind.JSON


def _json(body: bytes) -> object:
    """What `json.loads` makes of it. Nearly every answer is read by orjson, which is stricter."""
    read: object
    try:
        read = orjson.loads(body)
    except ValueError:
        try:
            read = json.loads(body)
        except (ValueError, RecursionError):  # nested too deeply to be an answer
            return NO_DOCUMENT
    return read


def _form(body: bytes) -> object:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True))
    except ValueError:
        return NO_DOCUMENT


def _xml(body: bytes) -> object:
    if len(body) > _MOST_XML_BYTES:
        return NO_DOCUMENT
    # No entity is expanded: there is no bomb in an answer.
    try:
        read: object = xmltodict.parse(
            body, disable_entities=True, force_list=_is_item, postprocessor=_not_too_deep
        )
    except (ExpatError, ValueError, LookupError, RecursionError):  # an encoding nobody knows, too
        return NO_DOCUMENT
    return read


def _not_too_deep(path: list[object], name: str, value: object) -> tuple[str, object]:
    if len(path) > _DEEPEST_XML:
        message = "nested too deeply to be an answer"
        raise ValueError(message)
    return name, value


def _is_item(path: list[tuple[str, dict[str, Any] | None]], _name: str, _value: object) -> bool:
    return (
        bool(path) and (path[-1][1] or {}).get("@type", (path[-1][1] or {}).get("type")) in _LISTS
    )
