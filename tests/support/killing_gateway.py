"""A gateway that kills the process that asks it, at a named point of an exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from proxy.demo.gateway import SimulatedGateway

Kill = Callable[[], Awaitable[None]]
AT_THE_GATEWAY = ("C5", "C6", "C7", "C8")
_LONG_BYTES = 50_000
_MISSING_BYTES = 20


class KillingGateway(SimulatedGateway):
    """The next payment that is brought to an armed port dies at its point, later ones go through.

    C5 in the middle of a long body, C6 when all has arrived and the gateway knows nothing yet, C7
    when it has charged and not a byte of its answer has gone back, C8 in the middle of that.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.armed: dict[int, tuple[str, Kill]] = {}
        self.sends: list[tuple[int, float]] = []  # the port each came to, and when (loop time)

    def app(self) -> web.Application:
        """As the gateway's own."""
        app = super().app()
        app.middlewares.append(self._killing)
        return app

    @web.middleware
    async def _killing(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        assert request.transport is not None
        port = request.transport.get_extra_info("sockname")[1]
        if request.method == "POST":
            self.sends.append((port, asyncio.get_running_loop().time()))
        point, kill = self.armed.get(port, ("", None))
        short = (request.content_length or 0) < _LONG_BYTES
        if kill is None or request.method != "POST" or (point == "C5" and short):
            return await handler(request)
        del self.armed[port]
        if point == "C5":
            await request.content.readany()
        elif point == "C6":
            await request.read()
        else:
            answer = await handler(request)
            if point == "C8" and isinstance(answer, web.Response) and answer.body is not None:
                await _send_most(request, answer)
        await kill()
        return web.Response(status=500)  # nobody hears it


async def _send_most(request: web.Request, answer: web.Response) -> None:
    body = bytes(answer.body)  # type: ignore[arg-type]  # it is JSON text here
    cut = web.StreamResponse(status=answer.status, headers={"Content-Type": "application/json"})
    cut.content_length = len(body)
    await cut.prepare(request)
    await cut.write(body[:-_MISSING_BYTES])
