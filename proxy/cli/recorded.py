"""Recorded answers: one exchange with a gateway as text.

    # expect: declined, replayed
    POST /v1/payment_intents HTTP/1.1
    Content-Type: application/x-www-form-urlencoded

    amount=1999&currency=eur
    ###
    HTTP/1.1 402 Payment Required
    Content-Type: application/json

    {"error": {"type": "card_error"}}

Only the answer must be there, as `curl -is` prints it; the request stands before a line `###`.
Lines that begin with `#` before either are comments. Lines end in LF or CRLF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn

from proxy.core.wire import Headers, InboundRequest, Phase, WireFacts
from proxy.settings.defaults import MAX_ANSWER_BYTES
from proxy.settings.profiles import shown
from proxy.settings.yaml_lines import Mistake

_REQUEST = re.compile(r"([A-Z]{1,20}) (?:https?://[^/\s]+)?(/\S*)(?: HTTP/[0-9.]+)?")
_STATUS = re.compile(r"HTTP/[0-9.]+ ([1-5][0-9]{2})(?: (.*))?")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_EXPECT = re.compile(r"#\s*expect:(.*)")
_MISSPELT = re.compile(r"#\s*expect(s|ed)?\s*:", re.IGNORECASE)
_BETWEEN = b"###"


class Unreadable(Exception):  # noqa: N818 -- the condition
    """A file that cannot be read as a recorded answer; why is a `Mistake`."""

    def __init__(self, file: str, line: int, message: str) -> None:
        super().__init__(Mistake(file, line, 1 if line else 0, "", message))


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a file holds."""

    file: str
    expected: tuple[str, ...]  # words that must be true of it
    request: InboundRequest | None
    facts: WireFacts


def read_recorded(path: Path) -> Recorded:
    """A file as what went over the wire. Raises `Unreadable`."""
    file = shown(path)
    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_ANSWER_BYTES + 1)
    except OSError as error:
        raise Unreadable(file, 0, error.strerror or "unreadable") from None
    if len(data) > MAX_ANSWER_BYTES:
        raise Unreadable(file, 0, "is larger than an answer may be")
    return _Reader(file, data).recorded()


class _Reader:
    """A file, line by line; a body is all that is left."""

    def __init__(self, file: str, data: bytes) -> None:
        self._file = file
        self._lines = data.splitlines(keepends=True)
        self._next = 0

    def recorded(self) -> Recorded:
        expected = self._comments()
        request = None
        if not self._line().startswith("HTTP/"):
            request = self._request()
            expected += self._comments()
        return Recorded(self._file, tuple(expected), request, self._answer())

    def _comments(self) -> list[str]:
        """What is expected, according to the comments from here on."""
        expected: list[str] = []
        while self._more() and (not self._line() or self._line().startswith("#")):
            found = _EXPECT.fullmatch(self._line())
            if found is None and _MISSPELT.match(self._line()):
                self._refuse("what must be true of it stands behind `# expect:`")
            words = found[1].split(",") if found is not None else []
            expected += [word.strip() for word in words if word.strip()]
            self._next += 1
        return expected

    def _request(self) -> InboundRequest:
        first = _REQUEST.fullmatch(self._line())
        if first is None:
            self._refuse("write a request (POST /pay HTTP/1.1) or an answer (HTTP/1.1 200 OK)")
        headers = self._headers()
        rest = self._lines[self._next :]
        end = next((n for n, line in enumerate(rest) if line.rstrip() == _BETWEEN), None)
        if end is None:
            self._refuse("a line ### and the answer are missing after the request")
        self._next += end + 1
        # The line break before ### is not the body's.
        body = re.sub(rb"\r?\n\Z", b"", b"".join(rest[:end]))
        values = {name.lower(): value for name, value in headers}
        return InboundRequest(
            "", first[1], first[2], headers, body, has_body=bool(body), values=values
        )

    def _answer(self) -> WireFacts:
        first = self._status_line()
        headers = self._headers()
        while int(first[1]) < HTTPStatus.OK and self._more():  # an interim answer: it follows
            first = self._status_line()
            headers = self._headers()
        return WireFacts(
            sent=True,
            phase=Phase.ANSWERED,
            status=int(first[1]),
            status_text=first[2] or "",
            headers=headers,
            body=b"".join(self._lines[self._next :]),
        )

    def _status_line(self) -> re.Match[str]:
        first = _STATUS.fullmatch(self._line())
        if first is None:
            self._refuse("an answer begins with its status, like HTTP/1.1 200 OK")
        return first

    def _headers(self) -> Headers:
        """Those below the line here, up to and with the empty line that ends them."""
        headers: list[tuple[str, str]] = []
        self._next += 1
        while self._more() and self._line():
            found = _HEADER.fullmatch(self._line())
            if found is None:
                self._refuse("write a header as NAME: VALUE, and an empty line after the last")
            headers.append((found[1], found[2]))
            self._next += 1
        self._next += 1
        return tuple(headers)

    def _more(self) -> bool:
        return self._next < len(self._lines)

    def _line(self) -> str:
        """The line here; nothing behind the last."""
        line = self._lines[self._next] if self._more() else b""
        return line.decode("latin-1").rstrip(" \r\n")

    def _refuse(self, message: str) -> NoReturn:
        raise Unreadable(self._file, self._next + 1, message)
