"""Whose time a body takes that is passed on: the gateway's is measured, the sender's is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.upstream.bodies import PIECE, Upload, in_pieces

pytestmark = pytest.mark.looptime


async def sender(*pauses: float) -> AsyncIterator[bytes]:
    """A chunk after each pause."""
    for pause in pauses:
        await asyncio.sleep(pause)
        yield b"x"


async def taking(upload: Upload, *pauses: float) -> int:
    """A gateway that takes its time over each chunk; how many it took."""
    taken = 0
    async for _ in upload.chunks():
        await asyncio.sleep(pauses[taken])
        taken += 1
    return taken


async def test_a_slow_sender_is_waited_for() -> None:
    """An hour between two chunks is the sender's own affair."""
    upload = Upload(sender(3600, 3600), 10)
    async with asyncio.timeout(None) as upload.limit:
        assert await taking(upload, 9, 9) == 2

    assert asyncio.get_running_loop().time() == 7218


async def test_a_slow_gateway_is_not() -> None:
    """A chunk that waits longer than an attempt may take ends the attempt, to the second."""
    upload = Upload(sender(0, 0, 0), 10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as upload.limit:
            await taking(upload, 9, 11, 0)

    assert asyncio.get_running_loop().time() == 19


async def test_after_the_last_chunk_the_answer_is_waited_for() -> None:
    """The end of the body starts the time of the answer."""
    upload = Upload(sender(50), 10)

    async def exchange() -> None:
        async with asyncio.timeout(None) as upload.limit:
            assert await taking(upload, 9) == 1
            await asyncio.sleep(3600)

    with pytest.raises(TimeoutError):
        await exchange()

    assert asyncio.get_running_loop().time() == 69


async def test_an_early_answer_has_its_own_time() -> None:
    """What the body still does after the answer has begun moves nothing any more."""
    upload = Upload(sender(0, 0, 0, 0), 10)

    async def exchange() -> None:
        async with asyncio.timeout(None) as upload.limit:
            chunks = upload.chunks()
            await anext(chunks)
            upload.answered()
            for _ in range(3):
                await asyncio.sleep(4)
                await anext(chunks)

    with pytest.raises(TimeoutError):
        await exchange()

    assert asyncio.get_running_loop().time() == 10


@pytest.mark.parametrize("error", [ConnectionResetError, RuntimeError])
async def test_a_sender_that_breaks_off_is_known(error: type[Exception]) -> None:
    """Whether the body failed of itself is on record for the reason."""

    async def breaking() -> AsyncIterator[bytes]:
        yield b"x"
        raise error

    upload = Upload(breaking(), 10)
    with pytest.raises(error):
        await taking(upload, 0, 0)

    assert upload.failed


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
async def test_pieces_are_the_whole(size: int) -> None:
    """Pieces of at most a megabyte, and together the body."""
    body = b"x" * size
    pieces = [piece async for piece in in_pieces(body)]

    assert b"".join(pieces) == body
    assert all(0 < len(piece) <= PIECE for piece in pieces)
