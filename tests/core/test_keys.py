"""The key of a payment in its place, with every other byte as it was."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from proxy.core.jsonpath import parse_json_path
from proxy.core.keys import Carrier, KeyPlace, Unfit
from proxy.core.wire import InboundRequest

KEY = "0123456789abcdef0123456789abcdef"
HEADER = KeyPlace(Carrier.HEADER, "Cko-Idempotency-Key")
JSON = KeyPlace(Carrier.JSON, "idempotency_key", parse_json_path("idempotency_key"))
DEEP = KeyPlace(Carrier.JSON, "payment.key", parse_json_path("payment.key"))
FORM = KeyPlace(Carrier.FORM, "reference")
NOWHERE = KeyPlace(Carrier.NOWHERE)


def asked(body: bytes = b"", key: str | None = None, **headers: str) -> InboundRequest:
    """A request; underscores in the names of headers are hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    pairs = tuple(named.items())
    values = {name.lower(): value for name, value in pairs}
    return InboundRequest("g", "POST", "/pay", pairs, body, True, key, values=values)


WRITTEN_IN = {
    Carrier.JSON: "application/json; charset=utf-8",
    Carrier.FORM: "application/x-www-form-urlencoded",
}


def typed(place: KeyPlace, body: bytes) -> InboundRequest:
    """A request without a key whose body is said to be what holds one."""
    return asked(body, Content_Type=WRITTEN_IN.get(place.carrier, "text/plain"))


def put(place: KeyPlace, request: InboundRequest, key: str = KEY) -> bytes:
    """The body that goes out under a key."""
    return place.put(request, request.headers, key)[1]


@pytest.mark.parametrize(
    ("place", "request_", "key"),
    [
        (HEADER, asked(Cko_Idempotency_Key="k-1"), "k-1"),
        (HEADER, asked(Cko_Idempotency_Key='"k-1"'), '"k-1"'),
        (HEADER, asked(Idempotency_Key="k-1"), None),
        (JSON, asked(b'{"idempotency_key": "k-1"}'), "k-1"),
        (JSON, asked(b'{"amount": 1}'), None),
        (JSON, asked(b"not json"), None),
        (DEEP, asked(b'{"payment": {"key": "k-1"}}'), "k-1"),
        (FORM, asked(b"amount=1&reference=k%2F1"), "k/1"),
        (FORM, asked(b"amount=1"), None),
        (NOWHERE, asked(b'{"idempotency_key": "k-1"}', Idempotency_Key="k-1"), None),
    ],
)
def test_the_callers_key(place: KeyPlace, request_: InboundRequest, key: str | None) -> None:
    """Read where the gateway reads it, as it was sent."""
    assert place.of(request_) == key


@pytest.mark.parametrize(
    ("place", "request_"),
    [
        (JSON, asked(b'{"idempotency_key": ""}')),
        (JSON, asked(b'{"idempotency_key": 7}')),
        (JSON, asked(b'{"idempotency_key": "k\\n1"}')),
        (JSON, asked(b'{"idempotency_key": "%s"}' % (b"k" * 256))),
        (KeyPlace(Carrier.HEADER, "K", min_length=10), asked(K="k-1")),
        (KeyPlace(Carrier.HEADER, "K", max_length=32), asked(K="k" * 33)),
        (KeyPlace(Carrier.HEADER, "K", allowed=re.compile("[a-z]+")), asked(K="K1")),
    ],
)
def test_a_key_that_the_gateway_would_not_take(place: KeyPlace, request_: InboundRequest) -> None:
    """Refused before anything is sent: it is never rewritten, and never taken for none."""
    with pytest.raises(Unfit):
        place.of(request_)


def test_a_key_is_put_into_a_header() -> None:
    """Beside the others, in the spelling of the profile; the caller's own is replaced in place."""
    request = asked(b"{}", Accept="x")
    assert HEADER.put(request, request.headers, KEY) == (
        (("Accept", "x"), ("Cko-Idempotency-Key", KEY)),
        b"{}",
    )
    quoted = asked(b"{}", '"k-1"', cko_idempotency_key='"k-1"', Accept="x")
    assert HEADER.put(quoted, quoted.headers, "k-1")[0] == (
        ("cko-idempotency-key", "k-1"),
        ("Accept", "x"),
    )


@pytest.mark.parametrize(
    ("place", "before", "after"),
    [
        (JSON, b"{}", b'{"idempotency_key":"%s"}'),
        (JSON, b'\n{ "a" : 1.0 }', b'\n{"idempotency_key":"%s", "a" : 1.0 }'),
        (FORM, b"", b"reference=%s"),
        (FORM, b"amount=1", b"amount=1&reference=%s"),
    ],
)
def test_a_key_is_put_into_a_body(place: KeyPlace, before: bytes, after: bytes) -> None:
    """All that was there stays, byte for byte."""
    assert place.carries(typed(place, before))
    assert put(place, typed(place, before)) == after % KEY.encode()


@pytest.mark.parametrize(
    ("place", "before", "after"),
    [
        (
            JSON,
            b'{"a": "k-1", "idempotency_key": "k-1", "b": 2}',
            b'{"a": "k-1", "idempotency_key":"%s", "b": 2}',
        ),
        (FORM, b"a=k-1&reference=k-1&b=2", b"a=k-1&reference=%s&b=2"),
        (FORM, b"x_reference=k-1&reference=k-1", b"x_reference=k-1&reference=%s"),
    ],
)
def test_another_key_takes_the_place_of_the_callers(
    place: KeyPlace, before: bytes, after: bytes
) -> None:
    """Once nothing was charged under that: a new attempt has a new key."""
    assert put(place, asked(before, "k-1")) == after % KEY.encode()


@pytest.mark.parametrize(
    ("place", "before"),
    [
        (JSON, b""),
        (JSON, b"[]"),
        (JSON, b"amount=1"),
        (JSON, b'{"idempotency_key": null}'),
        (JSON, '{"a": 1}'.encode("utf-16")),
        (FORM, b"not a form"),
        (DEEP, b'{"payment": {}}'),
        (NOWHERE, b"{}"),
        (KeyPlace(Carrier.HEADER, "K", put_in=False), b"{}"),
    ],
)
def test_a_request_that_bears_no_key(place: KeyPlace, before: bytes) -> None:
    """Known before it is sent, since then it is sent once."""
    assert not place.carries(typed(place, before))


MULTIPART = b"""--x\r\nContent-Disposition: form-data; name="amount"\r\n\r\n1\r\n--x--\r\n"""


@pytest.mark.parametrize(
    ("place", "request_"),
    [
        (FORM, asked(MULTIPART, Content_Type="multipart/form-data; boundary=x")),
        (FORM, asked(b'{"note": "a=b"}', Content_Type="application/json")),
        (FORM, asked()),
        (JSON, asked(b"{}")),
        (JSON, asked(b"{}", Content_Type="application/x-www-form-urlencoded")),
    ],
)
def test_a_key_where_nobody_looks_is_none(place: KeyPlace, request_: InboundRequest) -> None:
    """Behind the last part of a multipart form, say: there a repeat would be a second charge."""
    assert not place.carries(request_)
    with pytest.raises(Unfit):
        put(place, request_)


@pytest.mark.parametrize(
    ("place", "before"),
    [
        (KeyPlace(Carrier.HEADER, "K", put_in=False), b"{}"),
        (DEEP, b'{"payment": {"key": "k-1"}}'),
        # The first of two is not the one that counts.
        (JSON, b'{"b": {"idempotency_key": "k-1"}, "idempotency_key": "k-1"}'),
        (JSON, b'{"idempotency_key": "\\u006b-1"}'),
    ],
)
def test_a_key_that_cannot_be_changed(place: KeyPlace, before: bytes) -> None:
    """Signed, or not to be found again: then it does not go out under another."""
    with pytest.raises(Unfit):
        put(place, asked(before, "k-1"))
    assert put(place, asked(before, "k-1"), "k-1") == before


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(fields=st.dictionaries(st.text(max_size=5), _VALUES, max_size=5), plain=st.booleans())
def test_nothing_else_of_any_object_changes(fields: dict[str, object], plain: bool) -> None:
    """Whatever stands in it: the key is read back, and the rest is what it was."""
    body = json.dumps(fields, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    request = typed(JSON, body)
    if not JSON.carries(request):
        return
    out = put(JSON, request)
    assert json.loads(out) == {"idempotency_key": KEY, **fields}
    again = replace(request, body=out, client_key=KEY)
    assert json.loads(put(JSON, again, "k-2")) == {"idempotency_key": "k-2", **fields}
