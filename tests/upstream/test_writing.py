"""A request's bytes from a send alone; over sockets, the wire suite shows the same and more."""

from __future__ import annotations

import pytest

from proxy.core.wire import Headers
from proxy.upstream.writing import request_bytes
from tests.support.wire import a_send


@pytest.mark.parametrize(
    ("headers", "lines"),
    [
        ((), b""),
        ((("X-A", "1"), ("x-b", "")), b"X-A: 1\r\nx-b: \r\n"),
        ((("X-A", "1"), ("X-A", "2")), b"X-A: 1\r\nX-A: 2\r\n"),
        ((("X-A", "1"), ("x-a", "2"), ("X-B", "3")), b"X-A: 1\r\nX-A: 2\r\nX-B: 3\r\n"),
        ((("HOST", "evil"), ("X-A", "1"), ("content-length", "9")), b"X-A: 1\r\n"),
        ((("Transfer-Encoding", "chunked"),), b""),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_headers(headers: Headers, lines: bytes, again: bool) -> None:
    """As they came, a field in its first spelling, and framing is ours; whatever went before."""
    if again:
        request_bytes(a_send(headers=headers), "gateway")
    written = request_bytes(a_send(headers=headers, body=b"body"), "gateway")

    start = b"POST /v1/charges HTTP/1.1\r\nHost: gateway\r\n"
    assert written == start + lines + b"Content-Length: 4\r\n\r\nbody"


@pytest.mark.parametrize(
    ("name", "value"),
    [("X\nA", "1"), ("X-A\r\nX-B: b\r\nX-C", "1"), ("X-A", "1\0"), ("X", "\u2713")],
)
def test_what_is_no_line(name: str, value: str) -> None:
    """What would become other lines, or no bytes at all, is refused."""
    with pytest.raises(ValueError, match=r"line break|latin-1"):
        request_bytes(a_send(headers=((name, value), ("Via", "1.1 a"))), "gateway")
