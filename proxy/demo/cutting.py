"""What a fault does to a connection."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from socket import SO_LINGER, SOL_SOCKET

from aiohttp import web

from proxy.demo.faults import Fault

CUT_BEFORE = frozenset({Fault.HANG_BEFORE, Fault.RESET_BEFORE})
CUT_AFTER = frozenset({Fault.HANG_AFTER, Fault.RESET_AFTER, Fault.TRUNCATED})
# Longer than any client of the demonstration waits.
_HANG_SECONDS = 30.0


async def cut(
    request: web.Request, fault: Fault, whole: bytes = b"", content_type: str = ""
) -> web.StreamResponse:
    """Hang, reset, or send half of an answer."""
    if fault in {Fault.HANG_BEFORE, Fault.HANG_AFTER}:
        await asyncio.sleep(_HANG_SECONDS)
        return web.Response(status=504)
    if fault in {Fault.RESET_BEFORE, Fault.RESET_AFTER}:
        _reset(request)
        return web.Response()
    half = web.StreamResponse(headers={"Content-Type": content_type})
    half.content_length = len(whole)
    with contextlib.suppress(ConnectionError):  # whoever asked may have gone
        await half.prepare(request)
        await half.write(whole[: len(whole) // 2])
    _reset(request)
    return half


def _reset(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    socket = transport.get_extra_info("socket")
    # Linger on with time 0: the kernel sends RST instead of FIN.
    socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
