"""One gateway's door: HTTP request → `InboundRequest` → pipeline → the answer, byte for byte."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping

from aiohttp import ClientError, StreamReader, web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_exceptions import HTTPRequestEntityTooLarge

from proxy.core.coding import plainly
from proxy.core.http_rules import (
    ORDER_HEADER,
    SESSION_HEADER,
    TOKEN_HEADER,
    USER_HEADER,
    check_request,
)
from proxy.core.links import Relinker
from proxy.core.refusals import Refusal
from proxy.core.wire import InboundRequest
from proxy.flow.pipeline import Pipeline
from proxy.flow.walk import BodyIncomplete, BodyTooLarge, Lane
from proxy.web.links import relinked
from proxy.web.requests import GatewayRequest
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
        self._via = via
        self._token = token
        self.use(lane)

    def use(self, lane: Lane) -> None:
        """Send what comes from now on through this lane."""
        self._lane = lane
        self._key_headers = lane.key_headers
        links = lane.profile.links
        self._relinker = None if links is None else Relinker(links, lane.endpoint)

    async def handle(self, request: GatewayRequest) -> RawResponse:
        """Answer one request. There is nothing to route here."""
        message = request.message
        method, target = request.method, message.path
        checked = check_request(method, target, message.raw_headers, self._via, self._key_headers)
        if isinstance(checked, Refusal):
            return self._refused(checked)
        values = checked.values
        if request.version < (1, 1) and _too_old(request.version, values):
            return self._refused(Refusal.AMBIGUOUS_FRAMING)
        if self._token is not None and not _same(values.get(_TOKEN), self._token):
            return self._refused(Refusal.TOKEN_REQUIRED)
        lane, relinker = self._lane, self._relinker
        inbound = InboundRequest(
            lane.name,
            method,
            target,
            checked.forward if relinker is None else plainly(checked.forward),
            b"",
            checked.has_body,
            session_id=values.get(_SESSION),
            order_ref=values.get(_ORDER),
            user_ref=values.get(_USER),
            values=values,
        )
        answer = await self._pipeline.handle(lane, inbound, RequestBody(request, values))
        if relinker is not None:
            answer = relinked(answer, relinker, values.get("host", ""))
        # A body that was not read would be taken for the next request.
        return RawResponse(answer, close=not request.content.is_eof())

    def _refused(self, refusal: Refusal) -> RawResponse:
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

    __slots__ = ("_request", "_values", "_waiting")

    def __init__(self, request: GatewayRequest, values: Mapping[str, str]) -> None:
        self._request = request
        self._values = values
        self._waiting = (
            "expect" in values
            and request.version >= (1, 1)
            and request.content is not EMPTY_PAYLOAD
        )

    async def read(self, limit: int) -> bytes:
        """All of it. Raises `BodyTooLarge` before the client is told to go on, or
        `BodyIncomplete`.
        """
        if not self._waiting and (whole := self._request.arrived()) is not None:
            if len(whole) > limit:
                raise BodyTooLarge
            return whole
        length = self._values.get("content-length")
        if length is not None and int(length) > limit:
            raise BodyTooLarge
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
