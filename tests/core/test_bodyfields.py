"""Named values in a body: forms and JSON as clients write them, and bodies that are neither."""

from __future__ import annotations

import pytest

from proxy.core import bodyfields
from proxy.core.bodyfields import MAX_VALUE_LENGTH, body_values
from proxy.core.policy import BodyField
from tests.support.building import a_request

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
ORDER = BodyField(json="metadata.order_id", form="metadata[order_id]")
PLACES = {"order": ORDER, "amount": BodyField(json="amount", form="amount"), "currency": None}


def order_in(body: bytes, kind: str | None) -> str | None:
    """The order that a body names."""
    return body_values(a_request(body, kind), PLACES)["order"]


def test_a_form() -> None:
    """Every place that is known, and nothing for one that is not."""
    body = b"amount=1999&currency=eur&metadata[order_id]=o-1"
    assert body_values(a_request(body, FORM), PLACES) == {
        "order": "o-1",
        "amount": "1999",
        "currency": None,
    }


def test_a_document() -> None:
    """Numbers become text as they are written."""
    body = b'{"amount": 1999, "metadata": {"order_id": "o-1"}}'
    assert body_values(a_request(body, JSON), PLACES) == {
        "order": "o-1",
        "amount": "1999",
        "currency": None,
    }


@pytest.mark.parametrize(
    ("body", "order"),
    [
        (b"metadata[order_id]=o-1", "o-1"),
        (b"metadata%5Border_id%5D=o-1", "o-1"),
        (b"metadata%5border_id%5d=o-1", "o-1"),
        (b"a=1&metadata[order_id]=o-1&b=2", "o-1"),
        (b"metadata[order_id]=a%20b+c%2B", "a b c+"),
        (b"metadata[order_id]=%C3%B6", "ö"),
        # The first of two counts, and a name only where a name stands.
        (b"metadata[order_id]=o-1&metadata[order_id]=o-2", "o-1"),
        (b"xmetadata[order_id]=o-1", None),
        (b"a=metadata[order_id]=o-1", None),
        (b"metadata[order_id][x]=o-1", None),
        (b"metadata[order_id]", None),
        (b"METADATA[ORDER_ID]=o-1", None),
        (b"amount=1", None),
        # No name: empty, endless, unprintable, not text.
        (b"metadata[order_id]=", None),
        (b"metadata[order_id]=&a=1", None),
        (b"metadata[order_id]=" + b"x" * MAX_VALUE_LENGTH, "x" * 200),
        (b"metadata[order_id]=" + b"x" * (MAX_VALUE_LENGTH + 1), None),
        (b"metadata[order_id]=a%0Ab", None),
        (b"metadata[order_id]=a%00b", None),
        (b"metadata[order_id]=%FF", None),
        (b"metadata[order_id]=\xc3\xb6", None),
        (b"", None),
    ],
)
def test_forms(body: bytes, order: str | None) -> None:
    """Brackets escaped or not; what is no name is as if it were not there."""
    assert order_in(body, FORM) == order


def test_a_name_keeps_its_case() -> None:
    """`orderId` is not `orderid`, and its escapes may be in either case."""
    places = {"order": BodyField(form="x[orderId]")}

    def found(body: bytes) -> str | None:
        return body_values(a_request(body, FORM), places)["order"]

    assert found(b"x%5borderId%5d=o-1") == "o-1"
    assert found(b"x%5borderid%5d=o-1") is None
    assert found(b"x[orderid]=o-1") is None


@pytest.mark.parametrize(
    ("body", "order"),
    [
        (b'{"metadata":{"order_id":"o-1"}}', "o-1"),
        (b'{"metadata":{"order_id":17}}', "17"),
        (b'{"metadata":{"order_id":1.5}}', "1.5"),
        (b'{"metadata":{"order_id":"\\u00f6"}}', "ö"),
        (b'{"metadata":{"order_id":true}}', None),
        (b'{"metadata":{"order_id":null}}', None),
        (b'{"metadata":{"order_id":["o-1"]}}', None),
        (b'{"metadata":{"order_id":"a\\nb"}}', None),
        (b'{"metadata":{"order_id":""}}', None),
        (b'{"metadata":"order_id"}', None),
        (b"[]", None),
        (b"{", None),
        (b"\xff", None),
        (b"9" * 10_000, None),
        (b"[" * 100_000, None),
    ],
)
def test_documents(body: bytes, order: str | None) -> None:
    """Only text and numbers are names; what cannot be read names nothing."""
    assert order_in(body, JSON) == order


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("application/json", "o-1"),
        ("application/json; charset=utf-8", "o-1"),
        ("Application/JSON", "o-1"),
        ("application/vnd.pay+json", "o-1"),
        ("text/plain", None),
        ("application/x-www-form-urlencoded", None),
        (None, None),
    ],
)
def test_the_content_type_says_how_to_read(kind: str | None, order: str | None) -> None:
    """Nothing is guessed from the bytes."""
    assert order_in(b'{"metadata":{"order_id":"o-1"}}', kind) == order


@pytest.mark.parametrize(
    ("body", "order"),
    [
        (b"<transaction><order-id>o-1</order-id></transaction>", "o-1"),
        (b"<transaction><order_id>o-1</order_id></transaction>", "o-1"),
        (b"<t><order-id>o-2</order-id></t>", None),
        (b"<transaction><order_id>o-2", None),
    ],
)
def test_xml_has_two_spellings(body: bytes, order: str | None) -> None:
    """Braintree's own SDKs differ in it: .NET's writes the one, Python's the other."""
    places = {"order": BodyField(xml="transaction.order-id"), "currency": None}
    told = body_values(a_request(body, "application/xml; charset=utf-8"), places)
    assert told == {"order": order, "currency": None}


def test_a_place_may_be_known_in_one_form_only() -> None:
    """A form is not searched for what is only known in JSON, nor the other way round."""
    places = {"a": BodyField(json="a"), "b": BodyField(form="b")}
    assert body_values(a_request(b"a=1&b=2", FORM), places) == {"a": None, "b": "2"}
    assert body_values(a_request(b'{"a":1,"b":2}', JSON), places) == {"a": "1", "b": None}
    only_form = {"b": BodyField(form="b")}
    assert body_values(a_request(b"{broken", JSON), only_form) == {"b": None}


def test_xml_is_read_only_where_something_stands_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it takes long, and whoever calls it XML may send as much as a route allows."""
    read: list[bytes] = []
    monkeypatch.setattr(bodyfields, "document", lambda body, _: read.append(body))
    body_values(a_request(b"<a/>", "application/xml"), PLACES)
    assert not read
    body_values(a_request(b"<a/>", "application/xml"), {"order": BodyField(xml="a")})
    assert read == [b"<a/>"]
