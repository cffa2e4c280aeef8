"""Answers that come compressed."""

from __future__ import annotations

import gzip
import zlib

import pytest

from proxy.core.coding import plain, readably

BODY = b'{"status": "paid"}'
RAW = zlib.compressobj(wbits=-15)


@pytest.mark.parametrize(
    ("coding", "body", "read"),
    [
        ("identity", BODY, BODY),
        ("gzip", gzip.compress(BODY), BODY),
        ("GZIP ", gzip.compress(BODY), BODY),
        ("deflate", zlib.compress(BODY), BODY),
        ("br", b"\x0b\x08\x80", b""),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), b""),
        ("gzip", gzip.compress(BODY)[:-4], b""),
        ("gzip", BODY, b""),
        ("gzip", b"", b""),
        ("gzip", gzip.compress(b" " * (16 * 1024 * 1024 + 1)), b""),
    ],
)
def test_a_body_is_read(coding: str, body: bytes, read: bytes) -> None:
    """Or nothing of it, where it cannot be, or would fill the memory."""
    assert plain(body, {"content-encoding": coding}) == read


def test_most_are_not_compressed() -> None:
    """Then there is nothing to do."""
    assert plain(BODY, {}) is BODY


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("gzip, deflate", "gzip, deflate"),
        ("identity", "identity"),
        ("gzip;q=0.5", "gzip;q=0.5"),
        ("gzip, deflate, br, zstd", "identity"),
        ("br;q=1.0, gzip;q=0.8", "identity"),
        ("br", "identity"),
        ("*", "identity"),
        ("", ""),
    ],
)
def test_what_cannot_be_read_is_not_asked_for(asked: str, sent: str) -> None:
    """A payment's answer must be readable; all else that the caller says stays."""
    headers = (("Accept", "x"), ("accept-encoding", asked))
    changed = dict(readably(headers))
    assert {name.lower(): value for name, value in changed.items()} == {
        "accept": "x",
        "accept-encoding": sent,
    }
