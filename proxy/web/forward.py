"""One gateway's door: aiohttp request → `InboundRequest` → pipeline → the answer, byte for byte."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping

from aiohttp import ClientError, StreamReader, web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_exceptions import HTTPRequestEntityTooLarge

from proxy.core.http_rules import (
    ORDER_HEADER,
    SESSION_HEADER,
    TOKEN_HEADER,
    USER_HEADER,
    Checked,
    check_request,
)
from proxy.core.refusals import Refusal
from proxy.core.wire import InboundRequest
from proxy.flow.pipeline import Pipeline
from proxy.flow.walk import BodyIncomplete, BodyTooLarge, Lane
from proxy.web.responses import RawResponse

_SESSION, _ORDER, _USER, _TOKEN = (
    name.lower() for name in (SESSION_HEADER, ORDER_HEADER, USER_HEADER, TOKEN_HEADER)
)

# As long as common servers wait for the next bytes of a body (nginx, Apache: 60 s).
_BODY_IDLE_SECONDS = 60.0


class Forward:
    """The handler of one gateway's listener."""

    def __init__(self, pipeline: Pipeline, lane: Lane, *, via: str, token: str | None) -> None:
        self._pipeline = pipeline
        self._lane = lane
        self._via = via
        self._key_header = lane.profile.key_header.lower()
        self._token = token

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Runs on aiohttp's low-level server: there is nothing
        to route here.
        """
        method, target, headers = request.method, request.raw_path, request.raw_headers
        checked = check_request(method, target, headers, self._via, self._key_header)
        if isinstance(checked, Refusal):
            return self._refused(checked)
        values = checked.values
        if _too_old(request.version, values):
            return self._refused(Refusal.AMBIGUOUS_FRAMING)
        if self._token is not None and not _same(values.get(_TOKEN), self._token):
            return self._refused(Refusal.TOKEN_REQUIRED)
        inbound = InboundRequest(
            gateway=self._lane.name,
            method=method,
            target=target,
            headers=checked.forward,
            has_body=checked.has_body,
            client_key=checked.client_key,
            session_id=values.get(_SESSION),
            order_ref=values.get(_ORDER),
            user_ref=values.get(_USER),
            values=values,
        )
        body = RequestBody(request, checked)
        answer = await self._pipeline.handle(self._lane, inbound, body)
        # A body that was not read would be taken for the next request.
        return RawResponse(answer, close=not request.content.is_eof())

    def _refused(self, refusal: Refusal) -> web.StreamResponse:
        return RawResponse(self._pipeline.refuse(self._lane, refusal), close=True)


def _too_old(version: tuple[int, int], values: Mapping[str, str]) -> bool:
    """HTTP/0.9 has no headers, and HTTP/1.0 no chunks: who sent them is read differently by others
    (RFC 9112 section 6.1).
    """
    return version < (1, 0) or (version < (1, 1) and "transfer-encoding" in values)


def _same(given: str | None, wanted: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), wanted.encode())


class RequestBody:
    """A request's body, not asked for before it is wanted (`Expect: 100-continue`)."""

    def __init__(self, request: web.BaseRequest, checked: Checked) -> None:
        self._request = request
        length = checked.values.get("content-length")
        self._length = None if length is None else int(length)
        self._waiting = "expect" in checked.values and request.version >= (1, 1)

    async def read(self, limit: int) -> bytes:
        """All of it. Raises `BodyTooLarge` before the client is told to go on, or
        `BodyIncomplete`.
        """
        if self._length is not None and self._length > limit:
            raise BodyTooLarge
        if self._request.content is EMPTY_PAYLOAD:
            return b""
        parts: list[bytes] = []
        size = 0
        async for chunk in self.stream():
            parts.append(chunk)
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge
        return b"".join(parts) if len(parts) != 1 else parts[0]

    async def stream(self) -> AsyncIterator[bytes]:
        """As it comes. Raises `BodyIncomplete` if the client goes away before its end."""
        if self._waiting:
            self._waiting = False
            await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # Interim responses are not the response: aiohttp must not think one was begun.
            self._request.writer.output_size = 0
        content = self._request.content
        try:
            while not content.at_eof():
                chunk = content.read_nowait() or await _more(content)
                if chunk:
                    yield chunk
        except (OSError, ClientError, web.RequestPayloadError, HTTPRequestEntityTooLarge):
            raise BodyIncomplete from None


async def _more(content: StreamReader) -> bytes:
    """What comes next. Nobody is waited for who has stopped in the middle of a body."""
    async with asyncio.timeout(_BODY_IDLE_SECONDS):
        return await content.readany()
