"""Compressed answers: what became of a payment stands in the body. They go back as they came."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from proxy.core.wire import Headers

# Names that only JSON with nothing in it but a bomb is larger than.
_MOST_BYTES = 16 * 1024 * 1024
# What zlib takes for gzip and for what others call deflate.
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_READABLE = frozenset({*_WINDOWS, "identity"})


def plain(body: bytes, headers: Mapping[str, str]) -> bytes:
    """A body without its coding; empty if it cannot be read. `headers` by lower-case names."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        return body
    if coding not in _WINDOWS:
        return b""
    reader = zlib.decompressobj(_WINDOWS[coding])
    try:
        read = reader.decompress(body, _MOST_BYTES)
    except zlib.error:
        return b""
    return read if reader.eof else b""


def readably(headers: Headers) -> Headers:
    """A request's headers that ask for no coding that cannot be read here."""
    wanted = [value for name, value in headers if name.lower() == "accept-encoding"]
    named = {part.partition(";")[0].strip().lower() for part in ",".join(wanted).split(",")}
    return headers if named - {""} <= _READABLE else plainly(headers)


def plainly(headers: Headers) -> Headers:
    """A request's headers that ask for no coding at all."""
    kept = (pair for pair in headers if pair[0].lower() != "accept-encoding")
    return (*kept, ("Accept-Encoding", "identity"))
