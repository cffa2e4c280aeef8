"""A session as bytes and back. What a store keeps besides the columns it searches by."""

from __future__ import annotations

from msgspec import DecodeError
from msgspec.json import Decoder, Encoder

from proxy.core.session import Session

encode = Encoder().encode
_decoder = Decoder(Session)


def decode(data: bytes) -> Session:
    """The session that `encode` wrote. Raises ValueError for what is none."""
    try:
        return _decoder.decode(data)
    except (DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
