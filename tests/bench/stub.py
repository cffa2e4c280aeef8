"""A gateway that answers every request at once: raw asyncio, so that it is never the bottleneck.

Usage: stub.py [hang]. Prints its port. With `hang` it never answers a payment (for memory).
Every payment names itself in its body, and the answer gives the name back: an answer that was
invented, or is another payment's, does not. `GET /_count` tells what came since it was last asked.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import cast

import uvloop

NAME, NAME_LENGTH = b"payment-", 28
_TAIL = (
    b'","object":"payment_intent","amount":1999,"currency":"eur","status":"succeeded",'
    b'"metadata":{},"livemode":false,"description":"' + b"x" * 240 + b'"}'
)
_HEAD = b'{"id":"'
_LENGTH = len(_HEAD) + NAME_LENGTH + len(_TAIL)
_BEFORE_NAME = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nRequest-Id: req_bench\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (_LENGTH, _HEAD)
)


@dataclass(slots=True)
class Gateway:
    """What has come since the last count."""

    hang: bool = False
    requests: int = 0
    payments: set[bytes] = field(default_factory=set)

    def answer(self, head: bytes, body: bytes) -> bytes:
        """The answer to one request."""
        if head.startswith(b"GET /_count "):
            return self._count()
        at = body.find(NAME)
        name = body[at : at + NAME_LENGTH]
        self.requests += 1
        self.payments.add(name)
        return b"" if self.hang else _BEFORE_NAME + name + _TAIL

    def _count(self) -> bytes:
        text = json.dumps({"requests": self.requests, "payments": len(self.payments)}).encode()
        self.requests = 0
        self.payments.clear()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)


class Connection(asyncio.Protocol):
    """Collects bytes until a request is whole, then answers it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end]
            whole = end + 4 + content_length(head)
            if len(self._data) < whole:
                return
            body, self._data = self._data[end + 4 : whole], self._data[whole:]
            self._transport.write(self._gateway.answer(head, body))


def content_length(head: bytes) -> int:
    """What a head says of its body's length; 0 if it says nothing."""
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def serve(gateway: Gateway) -> asyncio.Server:
    """Listen on any free port."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(gateway), "127.0.0.1", 0, backlog=4096)


async def _main() -> None:
    server = await serve(Gateway(hang="hang" in sys.argv))
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main())  # the faster loop leaves more of its CPU to the load
