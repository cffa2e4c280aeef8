"""Opens and closes listeners. Real runners, not `run_app`: draining has an order of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.web_protocol import ERROR
from typing_extensions import override

from proxy.core.problems import problem
from proxy.core.refusals import Refusal
from proxy.web.requests import GatewayRequest
from proxy.web.responses import RawResponse

Handler = Callable[[GatewayRequest], Awaitable[RawResponse]]

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
        request: web.BaseRequest | GatewayRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> RawResponse:
        begun = request.writer.output_size > 0
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or begun:
            self.log_exception("Error handling request from %s", request.remote, exc_info=exc)
        if begun:
            broken = "an answer had begun"
            raise ConnectionError(broken)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return RawResponse(problem(Refusal.INTERNAL), close=True)
        # Not logged: whoever can connect could fill the log.
        return RawResponse(problem(Refusal.MALFORMED_REQUEST), close=True)


class _GatewayConnection(_Connection):
    """A connection at a gateway's door, where every request goes to one handler.

    aiohttp's own loop waits for requests in one task and makes another task, a request and a writer
    for each. This one is a task while there is something to answer, and makes no more than that
    needs. Otherwise it does what aiohttp's does, in the same order.
    """

    __slots__ = ()

    @override
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and self._task_handler is not None and self._task_handler.done():
            self._task_handler = self._loop.create_task(self.start())

    @override
    def resume_reading(self, resume_parser: bool = True) -> None:
        # At the end of every body aiohttp resumes what mostly was not paused.
        if resume_parser or self._reading_paused:
            super().resume_reading(resume_parser)

    @override
    async def start(self) -> None:  # noqa: C901 -- step by step, as aiohttp's
        while self._messages and not self._force_close:
            message, content = self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            try:
                await self._serve(message, content)
                if not content.is_eof():
                    await self._linger(content)
            except ConnectionError:  # the client has gone
                self._keepalive = False
            except Exception as error:  # noqa: BLE001 -- as aiohttp's does
                self.log_exception("Unhandled exception", exc_info=error)
                self.force_close()
            except BaseException:
                self.force_close()
                raise
            if self._force_close:
                return
            if self._close or not self._keepalive:
                self._task_handler = None
                if self.transport is not None:
                    self.transport.close()
                return
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(
                    self._next_keepalive_close_time, self._process_keepalive
                )

    @override
    def _process_keepalive(self) -> None:
        self._keepalive_handle = None
        if self._force_close or not self._keepalive:
            return
        if self._loop.time() < self._next_keepalive_close_time:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        elif not self._request_in_progress:
            self.force_close()

    async def _serve(self, message: Any, content: StreamReader) -> None:
        """Answer a request, or what could not be read as one."""
        readable = isinstance(message, RawRequestMessage)
        # Any: aiohttp takes it for one of its own, and has of it what it asks for.
        request: Any = GatewayRequest(self, message if readable else ERROR, content)
        handler: Any = self._request_handler
        response: RawResponse
        self._request_in_progress = True
        try:
            self._current_request = request
            try:
                if readable:
                    response = await handler(request)
                else:
                    response = self.handle_error(request, HTTPStatus.BAD_REQUEST)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the client gets an answer
                response = self.handle_error(request, exc=error)
            finally:
                self._current_request = None
            if self._upgraded:
                # No upgrade is taken up: what came after the request is read as the next one.
                _, lost = await self.finish_response(request, response, None)
                if lost:
                    raise ConnectionResetError
            else:
                await response.prepare(request)
        finally:
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        self._keepalive = response.keep_alive

    async def _linger(self, content: StreamReader) -> None:
        """Take what the client still sends for a while: were the connection ended before it has
        read its answer, it might never see it.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._lingering_time):
                while not content.is_eof() and not self._force_close:
                    await content.readany()
        if not content.is_eof() and not self._force_close:
            self.close()
        content.set_exception(web.PayloadAccessError())


class _Server(web.Server):
    """aiohttp's low-level server with our connections. Without its fallback, too: settings that a
    later version does not know must fail, not be dropped.
    """

    @override
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _GatewayServer(_Server):
    """The same with the connections of a gateway's door."""

    @override
    def __call__(self) -> web.RequestHandler:
        return _GatewayConnection(self, loop=self._loop, **self._kwargs)


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
        server = _GatewayServer(cast("Any", handler), handler_cancellation=False, **_PROTOCOL)
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
