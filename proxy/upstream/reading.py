"""One answer as it comes in, from bytes to `WireFacts`: httptools' parser and what it leaves to us.

It judges as aiohttp's client does: the same leniencies, the same limits, so that no answer to a
payment is lost or found by the choice of client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus

from httptools import HttpParserError, HttpResponseParser

from proxy.core.wire import Phase, WireFacts
from proxy.ports import Send
from proxy.upstream.client import MAX_ANSWER_HEADERS, MAX_ANSWER_LINE
from proxy.upstream.faults import TooLarge, Truncated, Unusable

# A head is judged when it is whole; these bound what is collected until then.
_MAX_HEAD = 1024 * 1024
_MAX_PARTS = 2 * MAX_ANSWER_HEADERS

# Members of enumerations take Python 3.11 as long to look up as all else that is done with them.
_ANSWERED = Phase.ANSWERED
_INTERIM = range(HTTPStatus.CONTINUE, HTTPStatus.OK)
_SWITCHING = HTTPStatus.SWITCHING_PROTOCOLS.value
_SIZED_BY = frozenset({"content-length", "transfer-encoding"})


class Answer:
    """One answer. `over` is what it came to; the `on_…` methods are called by its parser."""

    def __init__(self, send: Send, loop: asyncio.AbstractEventLoop) -> None:
        self.over: asyncio.Future[WireFacts | Exception] = loop.create_future()
        self.status: int | None = None  # once its head is there
        self.keep = False  # whether its connection may be used again
        self.awaited = False  # whether all of its request has been handed over
        self._without_body = send.method == "HEAD"
        self._limit = send.max_answer_bytes
        self._fed_before_head = 0
        self._parts: list[bytes] = []  # of its head: names and values in turn
        # None when it is over. One parser per answer: none remembers anything of another.
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )

    # --- from the connection ----------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            cause = error.__context__  # what one of the `on_…` raised; else the parser refuses
            self._end(cause if isinstance(cause, Exception) else Unusable())
        if self.status is None:
            self._fed_before_head += len(data)
            if self._fed_before_head > _MAX_HEAD or len(self._parts) > _MAX_PARTS:
                self._end(Unusable())

    def ended(self) -> None:
        """The other side says that nothing follows."""
        if self.status is None or self._sized():
            self.cut()
        else:
            self._complete(keep=False)

    def _sized(self) -> bool:
        """Whether it says where it ends. If not, it lasts as long as its connection."""
        return not _SIZED_BY.isdisjoint(name.lower() for name, _ in self._headers)

    def cut(self) -> None:
        """The connection is gone."""
        self._end(ConnectionResetError() if self.status is None else Truncated())

    def _complete(self, *, keep: bool) -> None:
        self.keep = keep
        self._end(
            WireFacts(
                True,
                _ANSWERED,
                None,
                self.status or 0,
                self._phrase.decode("latin-1"),
                self._headers,
                b"".join(self._body),
            )
        )

    def _end(self, result: WireFacts | Exception) -> None:
        if not self.over.done():
            self.over.set_result(result)
        self._parser = None  # they hold each other; apart, both go at once

    def in_hand(self) -> WireFacts | None:
        """The whole answer, if it came in the very turn of the loop in which the time was up."""
        came = self.over.result() if self.over.done() and not self.over.cancelled() else None
        return None if isinstance(came, Exception) else came

    # --- from the parser --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._parser is None:  # something more, behind the answer
            self.keep = False
            return
        self._phrase = b""  # of the answer, or of an interim one before it
        self._parts = []
        self._body: list[bytes] = []
        self._room = self._limit

    def on_status(self, part: bytes) -> None:
        self._phrase += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status is None:  # else a trailer
            self._parts += (name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        if self._parser is None:
            return
        status = self._parser.get_status_code()
        if status == _SWITCHING:
            raise Unusable
        joined = b"\n".join(self._parts)  # none of which has a line break in it
        if len(joined) > MAX_ANSWER_LINE or len(self._parts) > _MAX_PARTS or b"\0" in joined:
            self._refuse_excess()
        if status in _INTERIM:  # the answer follows
            return
        if b"transfer-encoding" in joined.lower():
            self._refuse_codings()
        texts = iter(joined.decode("latin-1").split("\n"))
        self._headers = tuple(zip(texts, texts))  # noqa: B905 -- nothing is one empty text
        self.status = status
        if self._without_body:
            self._complete(keep=self._parser.should_keep_alive())

    def _refuse_excess(self) -> None:
        """Too much of a head, or what no head has."""
        for name, value in self._pairs():
            if len(name) + len(value) > MAX_ANSWER_LINE or b"\0" in value:
                raise Unusable
        if len(self._parts) > _MAX_PARTS:
            raise Unusable

    def _refuse_codings(self) -> None:
        """Coded in a way that nobody asked for, it cannot be handed on."""
        for name, value in self._pairs():
            if name.lower() == b"transfer-encoding" and value.lower() != b"chunked":
                raise Unusable

    def _pairs(self) -> Iterable[tuple[bytes, bytes]]:
        return zip(self._parts[::2], self._parts[1::2], strict=True)

    def on_body(self, part: bytes) -> None:
        if self._parser is None:  # behind an answer that has none
            self.keep = False
            return
        self._room -= len(part)
        if self._room < 0:
            raise TooLarge
        self._body.append(part)

    def on_message_complete(self) -> None:
        if self._parser is not None and self.status is not None:
            # Asked now: when this has returned, the parser has forgotten it.
            self._complete(keep=self._parser.should_keep_alive())
