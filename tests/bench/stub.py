"""A gateway that answers every request at once: raw asyncio, so that it is never the bottleneck.

Usage: stub.py [delay-seconds]. Prints its port. With `hang` it never answers (for memory).
"""

from __future__ import annotations

import asyncio
import sys

_BODY = (
    b'{"id":"pi_3bench","object":"payment_intent","amount":1999,"currency":"eur",'
    b'"status":"succeeded","metadata":{"order_id":"bench"},"livemode":false,'
    b'"description":"' + b"x" * 240 + b'"}'
)
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nRequest-Id: req_bench\r\n"
    b"Content-Length: " + str(len(_BODY)).encode() + b"\r\n\r\n" + _BODY
)


class Stub(asyncio.Protocol):
    """Counts bytes until a request is whole, then answers."""

    hang = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._data) < end + 4 + length:
                return
            self._data = self._data[end + 4 + length :]
            if not self.hang:
                self._transport.write(_ANSWER)  # type: ignore[attr-defined]


async def main() -> None:
    """Serve until killed."""
    Stub.hang = "hang" in sys.argv
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Stub, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
