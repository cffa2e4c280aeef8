"""A TCP relay in front of a gateway that kills a process at a named point of an exchange."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.support.raw import RawConnection, RawServer, raw_server, read_answer

Kill = Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def killing_relay(gateway_port: int, point: str, kill: Kill) -> AsyncIterator[RawServer]:
    """Relay to the gateway; the first exchange dies at its point, later ones go through.

    C5 in the middle of the body, C6 when all has arrived and the gateway knows nothing yet, C7 when
    the gateway has charged and not a byte of its answer has gone back, C8 in the middle of it.
    """
    spent = False

    async def script(connection: RawConnection) -> None:
        nonlocal spent
        while True:
            if point == "C5" and not spent:
                spent = True
                await connection._until(b"\r\n\r\n", 0)
                await connection._more()
                await kill()
                return
            start = len(connection.received)
            await connection.request()
            request = bytes(connection.received[start:])
            if point == "C6" and not spent:
                spent = True
                await kill()
                return
            answer = await _asked(gateway_port, request)
            if point in {"C7", "C8"} and not spent:
                spent = True
                if point == "C8":
                    await connection.send(answer[: len(answer) - 20])
                await kill()
                return
            await connection.send(answer)

    async with raw_server(script) as server:
        yield server


async def _asked(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await read_answer(reader)
    finally:
        writer.close()
