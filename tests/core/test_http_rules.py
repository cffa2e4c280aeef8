"""What a forwarding proxy refuses, strips and keeps."""

from __future__ import annotations

import pytest

from proxy.core import http_rules
from proxy.core.http_rules import Checked, answer_headers, check_request, normal_key
from proxy.core.refusals import Refusal
from proxy.core.wire import Headers

VIA = "holdfast-1a2b"
HOST = ("Host", "127.0.0.1:8080")


def check(
    *headers: tuple[str, str],
    method: str = "POST",
    target: str = "/pay",
    key_header: str = "idempotency-key",
) -> Checked | Refusal:
    """The verdict on a request with these headers."""
    raw = tuple((n.encode("latin-1"), v.encode("latin-1")) for n, v in (HOST, *headers))
    return check_request(method, target, raw, VIA, frozenset({key_header}))


def forwarded(*headers: tuple[str, str]) -> Headers:
    """The headers that go to the gateway, less our own Via."""
    checked = check(*headers)
    assert isinstance(checked, Checked), checked
    assert checked.forward[-1] == ("Via", f"1.1 {VIA}")
    return checked.forward[:-1]


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "refusal"),
    [
        ("http://gateway.example/pay", Refusal.TARGET_NOT_FORWARDABLE),
        ("*", Refusal.TARGET_NOT_FORWARDABLE),
        ("", Refusal.TARGET_NOT_FORWARDABLE),
        ("pay", Refusal.TARGET_NOT_FORWARDABLE),
        ("/pay#part", Refusal.TARGET_NOT_FORWARDABLE),
        ("/pay?a#b", Refusal.TARGET_NOT_FORWARDABLE),
        ("/pay?", Refusal.TARGET_NOT_FORWARDABLE),
        ("/", None),
        ("/pay?a=b?", None),
        ("/pay?a=%3F", None),
        ("//pay", None),
        ("/%70ay/../x;y=1", None),
    ],
)
def test_targets(target: str, refusal: Refusal | None) -> None:
    """Only what can be forwarded byte for byte, and never a host of the client's choice."""
    verdict = check(target=target)
    assert (verdict if refusal is not None else None) is refusal
    assert isinstance(verdict, Checked) is (refusal is None)


def test_no_tunnels() -> None:
    """CONNECT asks for something else than a proxy of one gateway."""
    verdict = check(method="CONNECT", target="gateway.example:443")
    assert verdict is Refusal.METHOD_NOT_FORWARDABLE


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        # Whoever reads the other length reads another request.
        ([("Content-Length", "1"), ("Content-Length", "2")], Refusal.AMBIGUOUS_FRAMING),
        ([("Content-Length", "1"), ("content-length", "1")], Refusal.AMBIGUOUS_FRAMING),
        (
            [("Content-Length", "1"), ("Transfer-Encoding", "chunked")],
            Refusal.AMBIGUOUS_FRAMING,
        ),
        (
            [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
            Refusal.AMBIGUOUS_FRAMING,
        ),
        ([("Transfer-Encoding", "gzip, chunked")], Refusal.AMBIGUOUS_FRAMING),
        ([("Transfer-Encoding", "identity")], Refusal.AMBIGUOUS_FRAMING),
        ([("Host", "other")], Refusal.AMBIGUOUS_FRAMING),
        ([("Expect", "100-continue"), ("Expect", "100-continue")], Refusal.AMBIGUOUS_FRAMING),
        ([("Expect", "a miracle")], Refusal.EXPECTATION_UNKNOWN),
        # What names the payment must name one.
        ([("Idempotency-Key", "a"), ("idempotency-key", "b")], Refusal.DUPLICATE_HEADER),
        ([("Idempotency-Key", "a"), ("Idempotency-Key", "a")], Refusal.DUPLICATE_HEADER),
        ([("X-Payment-Order-Id", "1"), ("X-Payment-Order-Id", "1")], Refusal.DUPLICATE_HEADER),
        (
            [("X-Payment-Session-Id", "a"), ("x-payment-session-id", "b")],
            Refusal.DUPLICATE_HEADER,
        ),
        ([("X-Payment-User-Id", "1"), ("X-Payment-User-Id", "2")], Refusal.DUPLICATE_HEADER),
        ([("X-Payment-Order-Id", "")], Refusal.HEADER_INVALID),
        ([("X-Payment-Order-Id", "a b")], Refusal.HEADER_INVALID),
        ([("X-Payment-User-Id", "x" * 201)], Refusal.HEADER_INVALID),
        ([("X-Payment-Session-Id", "Ã¶")], Refusal.HEADER_INVALID),
        # No key, or one that is for this hop only.
        ([("Idempotency-Key", "")], Refusal.KEY_INVALID),
        ([("Idempotency-Key", "a b")], Refusal.KEY_INVALID),
        ([("Idempotency-Key", "x" * 256)], Refusal.KEY_INVALID),
        (
            [("Idempotency-Key", "k-1"), ("Connection", "close, Idempotency-Key")],
            Refusal.KEY_INVALID,
        ),
        # Its own name: the request has come round.
        ([("Via", f"1.1 {VIA}")], Refusal.LOOP),
        ([("Via", "1.0 fred, 1.1 " + VIA + " (comment)")], Refusal.LOOP),
        ([("Via", "1.1 other"), ("Via", f"HTTP/1.1 {VIA}")], Refusal.LOOP),
        ([("Via", f"1.1 {VIA}"), ("Connection", "Via")], Refusal.LOOP),
        # Bytes that the client library would drop without a word.
        ([("X-Name", "\xff\xfe")], Refusal.BYTES_NOT_FORWARDABLE),
        ([("X-Name", "caf\xe9")], Refusal.BYTES_NOT_FORWARDABLE),
    ],
)
def test_refused(headers: list[tuple[str, str]], refusal: Refusal) -> None:
    """Everything that is refused before a byte is sent."""
    assert check(*headers) is refusal


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Length", "0")],
        [("Transfer-Encoding", "Chunked")],
        [("Expect", "100-Continue")],
        [("X-Payment-Order-Id", "x" * 200)],
        [("Idempotency-Key", "x" * 255)],
        [("Via", "1.1 other, 1.0 " + VIA + "x")],
        [("Via", "garbage")],
        [("Via", "")],
        [("Accept", "a"), ("Accept", "b")],
        [("X-Name", "caf\xc3\xa9")],
    ],
)
def test_not_refused(headers: list[tuple[str, str]]) -> None:
    """What looks odd but can be forwarded as it is."""
    assert isinstance(check(*headers), Checked)


def test_the_gateway_says_which_header_is_the_key() -> None:
    """Another gateway's key header is a header like any other."""
    verdict = check(("PayPal-Request-Id", "a b"), key_header="paypal-request-id")
    assert verdict is Refusal.KEY_INVALID
    other = check(("PayPal-Request-Id", "a b"), ("PayPal-Request-Id", "a b"))
    assert isinstance(other, Checked)


# --- stripped and kept --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Upgrade",
        "Proxy-Authenticate", "Proxy-Authorization", "Content-Length", "X-Payment-Session-Id",
        "X-Payment-Order-Id", "X-Payment-User-Id", "X-Holdfast-Token", "X-HOLDFAST-TOKEN",
        "X-Envoy-Expected-Rq-Timeout-Ms", "grpc-timeout",
    ],
)  # fmt: skip
def test_stripped(name: str) -> None:
    """Hop-by-hop headers, those set anew, and our own never reach the gateway."""
    assert forwarded((name, "x")) == ()


def test_preferences_go_on_as_they_came() -> None:
    """How long the caller waits is one of several, and the others are for the gateway."""
    preferences = ("Prefer", "return=representation, wait=5")
    assert forwarded(preferences) == (preferences,)


def test_framing_and_host_are_set_anew() -> None:
    """The forwarded request has its own host, length and no expectation."""
    assert forwarded(("Transfer-Encoding", "chunked"), ("Expect", "100-continue")) == ()


def test_what_connection_names_is_stripped() -> None:
    """Those fields are for this hop only, on however many lines they are named."""
    kept = forwarded(
        ("Connection", "close, X-Hop ,x-other"),
        ("X-Hop", "1"),
        ("X-Other", "2"),
        ("connection", "X-Third"),
        ("X-Third", "3"),
        ("X-Stays", "4"),
    )
    assert kept == (("X-Stays", "4"),)


def test_kept_as_it_is() -> None:
    """Order, spelling, repetition and bytes of everything else."""
    headers = (
        ("authorization", "Bearer sk_test"),
        ("X-UnKnown", "a"),
        ("X-Unknown", "b"),
        ("Cookie", "a=b"),
        ("X-Name", "caf\xc3\xa9"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Idempotency-Key", '"k-1"'),
        ("Via", "1.0 fred"),
        ("Forwarded", "for=192.0.2.1"),
        ("Empty", ""),
    )
    assert forwarded(*headers) == headers


def test_taken_apart() -> None:
    """What the rest of Holdfast asks of a head: values by name, the key, whether a body comes."""
    checked = check(("Accept", "a"), ("ACCEPT", "b"), ("Idempotency-Key", '"k-1"'))
    assert isinstance(checked, Checked)
    assert checked.values == {
        "host": "127.0.0.1:8080",
        "accept": "a, b",
        "idempotency-key": '"k-1"',
    }
    assert not checked.has_body


@pytest.mark.parametrize(
    ("header", "has_body"),
    [
        (("Content-Length", "0"), False),
        (("Content-Length", "00"), False),
        (("Content-Length", "10"), True),
        (("Content-Length", "5"), True),
        (("Transfer-Encoding", "chunked"), True),
        (("Accept", "x"), False),
    ],
)
def test_whether_a_body_comes(header: tuple[str, str], *, has_body: bool) -> None:
    """The framing says so, not the method; a length of nothing is no body."""
    checked = check(header)
    assert isinstance(checked, Checked)
    assert checked.has_body is has_body


def test_a_head_without_headers() -> None:
    """HTTP/1.0 needs none."""
    checked = check_request("GET", "/pay", (), VIA, frozenset({"idempotency-key"}))
    assert checked == Checked((("Via", f"1.1 {VIA}"),), {}, has_body=False)


def test_made_up_names_fill_nothing() -> None:
    """Names are remembered, but not more of them than a client that means well has."""
    for number in range(2 * http_rules._HEADS_KEPT):
        assert forwarded((f"X-{number}", "a")) == ((f"X-{number}", "a"),)
    assert forwarded(("X" * 1000, "a")) == (("X" * 1000, "a"),)

    assert len(http_rules._KNOWN) == http_rules._HEADS_KEPT
    assert (
        max(len(name) for head in http_rules._KNOWN for name in head)
        <= http_rules._NAME_LENGTH_KEPT
    )


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("k-1", "k-1"),
        ('"k-1"', "k-1"),
        ('"k 1"', "k 1"),
        (r'"a\"b\\c"', r'a"b\c'),
        (r"a\b", r"a\b"),
        ('a"b', 'a"b'),
        ("a,b/c=;", "a,b/c=;"),
        ("x" * 255, "x" * 255),
        ('"' + "x" * 255 + '"', "x" * 255),
        ("", None),
        ('""', None),
        ('"', None),
        ('"k-1', None),
        ('"k-1"x', None),
        ('"k-1";p=1', None),
        (r'"a\b"', None),
        ("k 1", None),
        (" k", None),
        ("k\t1", None),
        ("Ã¶", None),
        ("x" * 256, None),
        ('"' + "x" * 256 + '"', None),
    ],
)
def test_keys(written: str, key: str | None) -> None:
    """Quoted as the draft has it or bare as SDKs send it: the same key, or none."""
    assert normal_key(written) == key


# --- answers ------------------------------------------------------------------------------------


def test_headers_of_an_answer() -> None:
    """All but the hop-by-hop ones, with those that `Connection` names on any of its lines."""
    answer = (
        ("Content-Type", "application/json"),
        ("Connection", "keep-alive, X-Hop"),
        ("Keep-Alive", "timeout=5"),
        ("X-Hop", "1"),
        ("connection", "x-second"),
        ("X-Second", "2"),
        ("Transfer-Encoding", "chunked"),
        ("Trailer", "X-T"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy-Connection", "close"),
        ("Content-Length", "2"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Content-Encoding", "gzip"),
        ("Server", "nginx"),
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("X-Bytes", "\xff"),
    )
    assert answer_headers(answer) == (
        ("Content-Type", "application/json"),
        ("Content-Length", "2"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Content-Encoding", "gzip"),
        ("Server", "nginx"),
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("X-Bytes", "\xff"),
    )
