"""An answer from its bytes alone: what is one, what is left for the next, and where it is given up.

What the wire suite shows over sockets is not shown again, but for this: however the bytes are cut.
"""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.wire import WireFacts
from proxy.upstream.faults import TooLarge, Truncated, Unusable
from proxy.upstream.reading import Answer
from tests.support.raw import OK
from tests.support.wire import a_send

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"


def fed(*parts: bytes, method: str = "POST", limit: int = 1000) -> Answer:
    """An answer that has had these bytes."""
    answer = Answer(a_send(method, limit=limit), asyncio.get_running_loop())
    for part in parts:
        answer.feed(part)
    return answer


def result(answer: Answer) -> WireFacts | type[Exception]:
    """What it came to: facts, or a kind of error."""
    come_to = answer.over.result()
    return come_to if isinstance(come_to, WireFacts) else type(come_to)


WHOLE = {
    "by length": OK,
    "empty phrase": b"HTTP/1.1 402\r\nX-A:\r\nX-B: b \r\nContent-Length: 2\r\n\r\nok",
    "chunked": CHUNKED + b"\r\n",
    "trailers": CHUNKED + b"X-Sum: 1\r\nX-End: 2\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early\r\nLink: a\r\nContent-Length: 0\r\n\r\n" + OK,
    "interim with a body": b"HTTP/1.1 199 Go\r\nContent-Length: 1\r\n\r\nh" + OK,
    "empty lines before it": b"\r\n\n" + OK,
    "no content": b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
    # Not by the book, but plain enough, and aiohttp's client takes them.
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "a control character": HEAD + b"X-A: a\x01b\r\nContent-Length: 2\r\n\r\nok",
    "a space after a chunk's size": CHUNKED.replace(b"5\r", b"5 \r") + b"\r\n",
}


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
async def test_where_the_bytes_are_cut_makes_no_difference(data: bytes) -> None:
    """Byte by byte or at once: the same answer, not over before its last byte, and kept alive."""
    at_once = fed(data)
    slowly = fed(*(data[at : at + 1] for at in range(len(data) - 1)))
    assert not slowly.over.done()
    slowly.feed(data[-1:])

    assert isinstance(result(at_once), WireFacts)
    assert result(at_once) == result(slowly)
    assert at_once.keep
    assert slowly.keep


async def test_trailers_and_interim_headers_are_not_the_answers() -> None:
    """Only what stands in the answer's own head is its headers."""
    interim = b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n"
    facts = result(fed(interim + CHUNKED + b"X-Late: 1\r\n\r\n"))

    assert isinstance(facts, WireFacts)
    assert facts.headers == (("Transfer-Encoding", "chunked"),)
    assert (facts.status_text, facts.body) == ("OK", b"hello")


@pytest.mark.parametrize(
    ("data", "method"),
    [
        (OK + b"H", "POST"),
        (OK + OK, "POST"),
        (OK + b"\0garbage", "POST"),
        (CHUNKED + b"\r\n" + OK, "POST"),
        (HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nok", "POST"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "POST"),
        (OK, "HEAD"),
        (CHUNKED, "HEAD"),
        (HEAD + b"\r\n", "HEAD"),
    ],
)
async def test_an_answer_after_which_the_connection_is_over(data: bytes, method: str) -> None:
    """More bytes than the answer has, or the server's word: whole, but nothing may follow."""
    answer = fed(data, method=method)

    assert isinstance(result(answer), WireFacts)
    assert not answer.keep


async def test_after_its_end_nothing_is_heard() -> None:
    """Neither more bytes nor the connection's end change an answer that is over."""
    answer = fed(OK)
    facts = result(answer)
    answer.feed(b"HTTP/1.1 500 No\r\n\r\n")
    answer.ended()
    answer.cut()

    assert result(answer) == facts


@pytest.mark.parametrize(
    ("data", "ended", "cut"),
    [
        (b"", ConnectionResetError, ConnectionResetError),
        (b"HTTP/1.1 200 O", ConnectionResetError, ConnectionResetError),
        (b"HTTP/1.1 100 Continue\r\n\r\n", ConnectionResetError, ConnectionResetError),
        (HEAD + b"Content-Length: 3\r\n\r\nok", Truncated, Truncated),
        (CHUNKED, Truncated, Truncated),
        (HEAD + b"\r\nhello", WireFacts, Truncated),
    ],
)
async def test_how_the_connection_went(
    data: bytes, ended: type[object], cut: type[Exception]
) -> None:
    """Ended or cut: only an answer without a length is whole by that, and only by an end."""
    one, other = fed(data), fed(data)
    one.ended()
    other.cut()

    assert isinstance(one.over.result(), ended)
    assert result(other) is cut


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (HEAD + b"X-A: %b\r\n\r\n" % (b"x" * 65_534), Unusable),
        (HEAD + b"X-A: 1\r\n" * 257 + b"\r\n", Unusable),
        (HEAD + b"X-A: " + b"x" * 1_100_000, Unusable),
        (b"HTTP/1.1 102 Wait\r\n\r\n" * 60_000, Unusable),
        (HEAD + b"X-A: a\0b\r\n\r\n", Unusable),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", Unusable),
        (b"HTTP/1.1 101 Over\r\n\r\n", Unusable),
        (CHUNKED[:-5] + b"\r\nzz\r\n", Unusable),
        (HEAD + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001, TooLarge),
    ],
    ids=[
        "a long header",
        "many headers",
        "a header without end",
        "interim for ever",
        "a NUL",
        "a coding",
        "a switch",
        "a broken chunk",
        "a large body",
    ],
)
async def test_where_an_answer_is_given_up(data: bytes, error: type[Exception]) -> None:
    """What cannot be an answer, or is more than may be kept, ends there."""
    parts = [data[at : at + 65_536] for at in range(0, len(data), 65_536)]

    assert result(fed(*parts)) is error


@pytest.mark.parametrize("size", [65_533, 65_534])
async def test_the_longest_header(size: int) -> None:
    """Name and value together may have 64 KiB."""
    answer = fed(HEAD + b"X-A: %b\r\nContent-Length: 0\r\n\r\n" % (b"x" * size))

    assert isinstance(result(answer), WireFacts) is (size == 65_533)
