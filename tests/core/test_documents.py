"""Bodies that a path leads into."""

from __future__ import annotations

import pytest

from proxy.core.documents import NO_DOCUMENT, BodyKind, document, kind_of
from proxy.core.jsonpath import parse_json_path

DECLINED = b"""<?xml version="1.0" encoding="UTF-8"?>
<api-error-response>
  <errors><errors type="array"/></errors>
  <transaction><id>abc</id><status>processor_declined</status>
    <amount type="decimal">10.00</amount></transaction>
</api-error-response>"""
FOUND = b"""<search-results><ids type="array"><item>a1</item></ids></search-results>"""


@pytest.mark.parametrize(
    ("body", "kind", "path", "value"),
    [
        (b'{"status": "paid"}', BodyKind.JSON, "status", "paid"),
        (b'{"a": NaN, "b": [1, {"c": 2}]}', BodyKind.JSON, "b[1].c", 2),
        (b"status=paid&a%5Bb%5D=1&status=open", BodyKind.FORM, "status", "open"),
        (DECLINED, BodyKind.XML, "api-error-response.transaction.status", "processor_declined"),
        (DECLINED, BodyKind.XML, "api-error-response.transaction.amount.#text", "10.00"),
        (FOUND, BodyKind.XML, "search-results.ids.item[*]", "a1"),
    ],
)
def test_a_path_leads_to_a_value(body: bytes, kind: BodyKind, path: str, value: object) -> None:
    """Whatever the body is written in."""
    assert parse_json_path(path).first(document(body, kind)) == value


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", BodyKind.JSON),
        (b"[" * 100_000, BodyKind.JSON),
        (b"\xff", BodyKind.FORM),
        (b"no pairs at all", BodyKind.FORM),
        (b"{}", BodyKind.XML),
        (b"<a>", BodyKind.XML),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", BodyKind.XML),
        (b"<a/>\xff", BodyKind.XML),
        (b"", BodyKind.XML),
        (b'<?xml version="1.0" encoding="x-none"?><a>1</a>', BodyKind.XML),
        # Each of these would keep every other payment waiting for as long as it took.
        (b"<a>" * 100_000 + b"</a>" * 100_000, BodyKind.XML),
        (b"<a>%s</a>" % (b"<i/>" * 300_000), BodyKind.XML),
    ],
)
def test_what_cannot_be_read_leads_nowhere(body: bytes, kind: BodyKind) -> None:
    """No error, no entity that grows into a gigabyte: simply nothing is there."""
    read = document(body, kind)
    assert read is NO_DOCUMENT
    assert parse_json_path("a").values(read) == []


def test_what_a_body_looks_like() -> None:
    """A look-up's answer is XML where it begins like it."""
    assert kind_of(DECLINED) is BodyKind.XML
    assert kind_of(b' {"a": 1}') is BodyKind.JSON
