"""One kept-alive connection of the lean client (`lean.py`), and the exchange that is on it."""

from __future__ import annotations

import asyncio
import select
import ssl
from typing import cast

from typing_extensions import override

from proxy.upstream.bodies import PIECE
from proxy.upstream.reading import Answer


class Connection(asyncio.Protocol):
    """One connection, and the exchange that is on it."""

    def __init__(self, all_open: set[Connection]) -> None:
        self._all_open = all_open
        self._answer: Answer | None = None
        self._room: asyncio.Future[None] | None = None  # comes when the transport takes more
        self.idle_until = 0.0
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, request: bytes, answer: Answer) -> None:
        """Write a request, in one piece if it is small; what comes from now on is its answer's."""
        if self._transport.is_closing():  # someone has spoken out of turn, or ended it
            raise ConnectionResetError
        self._answer = answer
        self._transport.write(request[:PIECE])

    async def write_rest(self, request: bytes, answer: Answer) -> None:
        """The rest of a large one as fast as it is taken, or until the answer."""
        for start in range(PIECE, len(request), PIECE):
            if self._room is not None:
                await asyncio.wait((self._room, answer.over), return_when=asyncio.FIRST_COMPLETED)
            if answer.over.done():
                answer.keep = False
                return
            self._transport.write(memoryview(request)[start : start + PIECE])

    def release(self) -> bool:
        """What comes from now on is nobody's. Whether nothing is left of the exchange."""
        self._answer = None
        transport = self._transport
        return not transport.is_closing() and not transport.get_write_buffer_size()

    def stirred(self) -> bool:
        """Whether something has come, be it the end, seen by the event loop or not yet."""
        return self._transport.is_closing() or bool(self._arrivals.poll(0))

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    # --- from the event loop ----------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._arrivals = select.poll()
        self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._all_open.add(self)

    @override
    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is not None and answer.over.cancelled():
            # The wait for it has ended in this turn of the loop; whoever waited has yet to hear.
            answer.over = asyncio.get_running_loop().create_future()
        if answer is None or answer.over.done():
            self.abort()
        else:
            answer.feed(data)

    @override
    def eof_received(self) -> None:
        if self._answer is not None and _said(self._transport.get_extra_info("ssl_object")):
            self._answer.ended()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None:
            self._answer.cut()
        self._all_open.discard(self)
        self.end.set_result(None)

    @override
    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    @override
    def resume_writing(self) -> None:
        if self._room is not None:
            self._room.set_result(None)
            self._room = None


def _said(tls: ssl.SSLObject | None) -> bool:
    """Whether an end was meant: within TLS it is said, and not only that the line is cut."""
    try:
        return tls is None or not tls.read(1)
    except ssl.SSLError:
        return False
