"""Answers with links that lead back to us, where a gateway's profile asks for it.

What is stored is the gateway's own answer, and this is done each time it is given: the address is
the caller's, not the payment's. So whoever asks again at the same address hears the same bytes, at
another one the same links under that, and a made-up `Host` reaches nobody but who sent it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from msgspec.structs import replace

from proxy.core.links import Relinker
from proxy.core.wire import Answer, AnswerSource, Headers, close_stream, header

# What is larger stays as it is. So much takes 13 ms, and meanwhile no payment goes on.
_MOST_BYTES = 2 * 1024 * 1024


def relinked(answer: Answer, relinker: Relinker, host: str) -> Answer:
    """The answer for a caller who calls us by this host. A body that is very large, or coded all
    the same, stays as it is.
    """
    if answer.source is not AnswerSource.GATEWAY:
        return answer
    headers = relinker.in_headers(answer.headers, host)
    length = header(headers, "Content-Length") or str(len(answer.body))
    too_large = length.isdigit() and int(length) > _MOST_BYTES
    if too_large or not _plain_json(headers):
        return replace(answer, headers=headers)
    if answer.stream is not None:
        # How long it will be is not known before its end.
        return replace(
            answer,
            headers=_sized(headers, None),
            stream=_Relinked(answer.stream, relinker, host),
        )
    body = relinker.in_body(answer.body, host)
    if body != answer.body:
        headers = _sized(headers, len(body))
    return replace(answer, headers=headers, body=body)


def _plain_json(headers: Headers) -> bool:
    kind = (header(headers, "Content-Type") or "").partition(";")[0].strip().lower()
    coding = header(headers, "Content-Encoding") or "identity"
    return coding.lower() == "identity" and (kind == "application/json" or kind.endswith("+json"))


def _sized(headers: Headers, length: int | None) -> Headers:
    kept = tuple(pair for pair in headers if pair[0].lower() != "content-length")
    return kept if length is None else (*kept, ("Content-Length", str(length)))


class _Relinked:
    """An answer that streams, with other links: in one piece, since a link may lie across two."""

    def __init__(self, stream: AsyncIterator[bytes], relinker: Relinker, host: str) -> None:
        self._stream = stream
        self._relinker = relinker
        self._host = host
        self._begun = False

    def __aiter__(self) -> _Relinked:
        return self

    async def __anext__(self) -> bytes:
        if self._begun:  # it was too large: the rest as it comes
            return await anext(self._stream)
        self._begun = True
        parts: list[bytes] = []
        size = 0
        async for part in self._stream:
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                return b"".join(parts)
        if not parts:
            raise StopAsyncIteration
        return self._relinker.in_body(b"".join(parts), self._host)

    async def aclose(self) -> None:
        await close_stream(self._stream)
