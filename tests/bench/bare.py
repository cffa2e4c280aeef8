"""The yardstick: the shortest honest aiohttp pass-through. Usage: bare.py UPSTREAM-PORT [--uvloop].
Prints its port.

As anyone would write it first, on asyncio's own loop. With `--uvloop` it runs on the loop that
Holdfast ships with, so that a ratio cannot be laid to the loop alone.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
from aiohttp import web

_HOP = {"host", "connection", "content-length", "transfer-encoding", "keep-alive"}


async def main() -> None:
    """Serve until killed."""
    origin = f"http://127.0.0.1:{sys.argv[1]}"
    # aiohttp's own limit of 100 connections would queue the payments that memory is measured with.
    client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def forward(request: web.Request) -> web.Response:
        body = await request.read()
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP}
        async with client.request(
            request.method, origin + request.raw_path, headers=headers, data=body
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if "--uvloop" in sys.argv:
        import uvloop

        uvloop.run(main())
    asyncio.run(main())
