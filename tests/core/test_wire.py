"""What travels: headers by name, a target without its query, streams that are let go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from proxy.core.wire import close_stream, header
from tests.support.building import a_request

HEADERS = (("Content-Type", "text/plain"), ("Retry-After", "1"), ("retry-after", "2"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("content-type", "text/plain"), ("RETRY-AFTER", "1"), ("Retry", None), ("", None)],
)
def test_header(name: str, value: str | None) -> None:
    """The first one of the name, whatever its case."""
    assert header(HEADERS, name) == value


@pytest.mark.parametrize(
    ("target", "path"),
    [("/pay", "/pay"), ("/pay?a=b?c", "/pay"), ("/p%3Fay?x", "/p%3Fay"), ("/?", "/")],
)
def test_the_path_of_a_target(target: str, path: str) -> None:
    """Everything before the first question mark, as it was received."""
    assert a_request(target=target).path == path


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never has to wait."""
    with pytest.raises(StopIteration):
        work.send(None)


def test_a_stream_is_let_go() -> None:
    """What the stream holds is freed, though nobody read it to its end."""
    told: list[str] = []

    async def stream() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            told.append("closed")

    begun = stream()
    with pytest.raises(StopIteration):
        begun.__anext__().__await__().send(None)
    finish(close_stream(begun))
    assert told == ["closed"]


def test_nothing_to_let_go() -> None:
    """No stream, or one that has nothing to close."""

    class Bare:
        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            raise StopAsyncIteration

    finish(close_stream(None))
    finish(close_stream(Bare()))
