"""One answer as it comes in, from bytes to `WireFacts`: httptools' parser and what it leaves to us.

It judges as aiohttp's client does: the same leniencies, the same limits, so that no answer to a
payment is lost or found by the choice of client.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from httptools import HttpParserError, HttpResponseParser

from proxy.core.wire import Phase, WireFacts
from proxy.ports import Send
from proxy.upstream.client import MAX_ANSWER_HEADERS, MAX_ANSWER_LINE
from proxy.upstream.faults import TooLarge, Truncated, Unusable

# The parser tells of a header when it is whole; this bounds what it collects until then.
_MAX_HEAD = 1024 * 1024


class Answer:
    """One answer. `over` is what it came to; the `on_…` methods are called by its parser."""

    def __init__(self, send: Send) -> None:
        self.over: asyncio.Future[WireFacts | Exception]
        self.over = asyncio.get_running_loop().create_future()
        self.status: int | None = None  # once its head is there
        self.keep = False  # whether its connection may be used again
        self._without_body = send.method == "HEAD"
        self._limit = send.max_answer_bytes
        self._fed_before_head = 0
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
            if self._fed_before_head > _MAX_HEAD:
                self._end(Unusable())

    def ended(self) -> None:
        """The other side says that nothing follows."""
        if self.status is None or self._sized:
            self.cut()
        else:
            self._complete(keep=False)

    def cut(self) -> None:
        """The connection is gone."""
        self._end(ConnectionResetError() if self.status is None else Truncated())

    def _complete(self, *, keep: bool) -> None:
        self.keep = keep
        self._end(
            WireFacts(
                sent=True,
                phase=Phase.ANSWERED,
                status=self.status or 0,
                status_text=self._phrase.decode("latin-1"),
                headers=tuple(self._headers),
                body=b"".join(self._body),
            )
        )

    def _end(self, result: WireFacts | Exception) -> None:
        if not self.over.done():
            self.over.set_result(result)
        self._parser = None  # they hold each other; apart, both go at once

    # --- from the parser --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._parser is None:  # something more, behind the answer
            self.keep = False
            return
        self._phrase = b""  # of the answer, or of an interim one before it
        self._headers: list[tuple[str, str]] = []
        self._sized = False  # without, it lasts as long as its connection
        self._coded = False  # in a way nobody asked for
        self._body: list[bytes] = []
        self._size = 0

    def on_status(self, part: bytes) -> None:
        self._phrase += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status is not None:  # a trailer
            return
        value = value.rstrip(b" \t")
        if len(name) + len(value) > MAX_ANSWER_LINE or b"\0" in value:
            raise Unusable
        if len(self._headers) == MAX_ANSWER_HEADERS:
            raise Unusable
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))
        lower = name.lower()
        if lower == b"content-length":
            self._sized = True
        elif lower == b"transfer-encoding":
            self._sized = True
            self._coded = self._coded or value.lower() != b"chunked"

    def on_headers_complete(self) -> None:
        if self._parser is None:
            return
        status = self._parser.get_status_code()
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise Unusable
        if HTTPStatus.CONTINUE <= status < HTTPStatus.OK:  # interim; the answer follows
            return
        if self._coded:
            raise Unusable
        self.status = status
        if self._without_body:
            self._complete(keep=self._parser.should_keep_alive())

    def on_body(self, part: bytes) -> None:
        if self._parser is None:  # behind an answer that has none
            self.keep = False
            return
        self._size += len(part)
        if self._size > self._limit:
            raise TooLarge
        self._body.append(part)

    def on_message_complete(self) -> None:
        if self._parser is not None and self.status is not None:
            # Asked now: when this has returned, the parser has forgotten it.
            self._complete(keep=self._parser.should_keep_alive())
