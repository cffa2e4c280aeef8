"""One request as bytes: its headers as they came, and the framing that is ours to say."""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter

from proxy.core.wire import Headers
from proxy.ports import Send

_FRAMING = frozenset({"host", "content-length", "transfer-encoding"})  # ours to say
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # the others say a length of 0


def request_bytes(send: Send, host: str) -> bytes:
    """Head and body. Raises ValueError for what would not be the lines it should be."""
    headers = send.headers
    if not _tidy("\n".join(map(itemgetter(0), headers))):
        headers = _tidied(headers)
    lines = [f"{send.method} {send.target} HTTP/1.1", f"Host: {host}"]
    lines += map(": ".join, headers)
    if send.body or send.method not in _WITHOUT_BODY:
        lines.append(f"Content-Length: {len(send.body)}")
    if send.fresh_connection:
        lines.append("Connection: close")
    head = "\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count("\r") != breaks or head.count("\n") != breaks or "\0" in head:
        message = "a line break inside a line"
        raise ValueError(message)
    return f"{head}\r\n\r\n".encode("latin-1") + send.body


@lru_cache(maxsize=256)  # a backend's requests have the same few names each time
def _tidy(names: str) -> bool:
    """Whether headers of these names, one a line, may leave as they are."""
    lowered = names.lower().split("\n")
    return len(set(lowered)) == len(lowered) and _FRAMING.isdisjoint(lowered)


def _tidied(headers: Headers) -> Headers:
    """Without what is ours to say, and each field in its first spelling, whichever client it is."""
    spelled: dict[str, str] = {}
    return tuple(
        (spelled.setdefault(lower, name), value)
        for name, value in headers
        if (lower := name.lower()) not in _FRAMING
    )
