"""Opens and closes listeners. Real runners, not `run_app`: draining has an order of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser, RawRequestMessage
from typing_extensions import override

from proxy.core.problems import problem
from proxy.core.refusals import Refusal
from proxy.web.responses import RawResponse

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# What the parser may be given. `auto_decompress` off: bodies are passed on as they came.
_PROTOCOL: dict[str, Any] = {
    "auto_decompress": False,
    "max_line_size": 8190,
    "max_field_size": 16384,
    "max_headers": 128,
    "keepalive_timeout": 75.0,
    "timeout_ceil_threshold": 60.0,
    "access_log": None,
    "logger": logging.getLogger("aiohttp.server"),
}
# How long a door waits for what is still on it when it closes; aiohttp waits it twice, once for the
# answer and once more after it has ended the request's body. Payments have ended before. A call of
# the session API takes milliseconds; who sends half a request or streams a download waits in vain.
_CLOSING_SECONDS = 1.0


class UnsafeParser(Exception):  # noqa: N818 -- the condition
    """aiohttp would read requests with a parser that is not trusted with them."""


def check_parser() -> None:
    """Refuse to run on aiohttp's pure-Python parser: several smuggling holes were in it alone.

    Raises `UnsafeParser`.
    """
    if HttpRequestParser.__module__ != "aiohttp._http_parser":
        message = "aiohttp's C parser is not in use (is AIOHTTP_NO_EXTENSIONS set?)"
        raise UnsafeParser(message)


class _Connection(web.RequestHandler):
    """aiohttp's connection, but for two things.

    It tells a body that its request broke: aiohttp queues a parser's error behind the request in
    whose body it came up, and leaves whoever reads that body waiting. And it answers what cannot be
    read with a problem of ours: aiohttp's own answer repeats the bytes it stumbled over, which may
    be a card number on its way into someone's log.
    """

    __slots__ = ("_arriving",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving: StreamReader | None = None

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        for message, body in self._messages:
            if isinstance(message, RawRequestMessage):
                self._arriving = body
            elif self._arriving is not None and not self._arriving.is_eof():
                self._arriving.set_exception(web.RequestPayloadError("malformed"))

    @override
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or request.writer.output_size > 0:
            # Logs it, and raises where an answer has already begun.
            super().handle_error(request, status, exc, message)
            return RawResponse(problem(Refusal.INTERNAL), close=True)
        # Not logged: whoever can connect could fill the log.
        return RawResponse(problem(Refusal.MALFORMED_REQUEST), close=True)


class _Server(web.Server):
    """aiohttp's low-level server with our connections. Without its fallback, too: settings that a
    later version does not know must fail, not be dropped.
    """

    @override
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _AppRunner(web.AppRunner):
    """aiohttp's runner, whose server has our connections too (it asks nobody which to make)."""

    @override
    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server


class Listeners:
    """Every open door, in the order it was opened."""

    def __init__(self) -> None:
        self._runners: list[web.BaseRunner] = []

    async def open_gateway(self, handler: Handler, host: str, port: int) -> int:
        """A gateway's door: aiohttp's low-level server, one handler for everything."""
        # `handler_cancellation` stays off (the default): a backend that hangs up changes nothing.
        server = _Server(handler, handler_cancellation=False, **_PROTOCOL)
        _ = server()  # a setting that aiohttp does not know fails here, not at the first connection
        runner = web.ServerRunner(server, shutdown_timeout=_CLOSING_SECONDS)
        return await self._open(runner, host, port)

    async def open_app(self, app: web.Application, host: str, port: int) -> int:
        """A door with routes: the session API, the admin pages."""
        runner = _AppRunner(
            app, handler_cancellation=False, shutdown_timeout=_CLOSING_SECONDS, **_PROTOCOL
        )
        return await self._open(runner, host, port)

    async def _open(self, runner: web.BaseRunner, host: str, port: int) -> int:
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        address = runner.addresses[0]
        return int(address[1])

    async def close(self) -> None:
        """Close every door, all at once: what is on them is waited for once, not door by door.

        Walks have been drained before.
        """
        runners, self._runners = self._runners, []
        await asyncio.gather(*(runner.cleanup() for runner in runners))
