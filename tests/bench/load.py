"""The load: raw asyncio connections that pay, each payment with a key of its own.

`closed` keeps N payments in flight for a time; `open` starts them at a fixed rate, and counts each
one's latency from when it was due, so that a stalled proxy cannot hide its stall.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_BODY = (
    b"amount=1999&currency=eur&confirm=true&payment_method=pm_card_visa&description=" + b"x" * 220
)


@dataclass
class Tally:
    """What a slice of load came to."""

    seconds: float = 0.0
    answers: int = 0
    errors: int = 0
    latencies: list[float] = field(default_factory=list)
    late: float = 0.0  # the generator's own worst lag

    @property
    def rate(self) -> float:
        return self.answers / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


_serial = 0


def _request() -> bytes:
    global _serial  # noqa: PLW0603 -- one counter per generator
    _serial += 1
    return (
        b"POST /v1/payment_intents HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Authorization: Bearer sk_test_bench\r\nIdempotency-Key: bench-%d-%d\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nAccept: */*\r\n"
        b"User-Agent: bench\r\nContent-Length: %d\r\n\r\n%b"
        % (os.getpid(), _serial, len(_BODY), _BODY)
    )


class _Connection(asyncio.Protocol):
    """One connection; calls `done(ok)` after each answer."""

    def __init__(self, done: Callable[[_Connection, bool], None]) -> None:
        self._done = done
        self._data = b""
        self.transport: asyncio.Transport | None = None
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, due: float) -> None:
        assert self.transport is not None
        self.due = due
        self.transport.write(_request())

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._data[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self._data) < end + 4 + length:
            return
        ok = self._data.startswith(b"HTTP/1.1 200")
        self._data = b""
        self._done(self, ok)

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None


async def _connect(port: int, done: Callable[[_Connection, bool], None]) -> _Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: _Connection(done), "127.0.0.1", port)
    return connection


async def closed(port: int, connections: int, seconds: float) -> Tally:
    """As fast as it goes with so many in flight."""
    tally = Tally()
    running = True

    def done(connection: _Connection, ok: bool) -> None:
        now = time.perf_counter()
        if not running:
            return
        tally.latencies.append(now - connection.due)
        tally.answers += ok
        tally.errors += not ok
        connection.send(now)

    lines = [await _connect(port, done) for _ in range(connections)]
    begun = time.perf_counter()
    for line in lines:
        line.send(begun)
    await asyncio.sleep(seconds)
    running = False
    tally.seconds = time.perf_counter() - begun
    for line in lines:
        if line.transport is not None:
            line.transport.close()
    return tally


async def at_rate(port: int, rate: float, seconds: float) -> Tally:
    """So many per second, whatever happens; latency counts from the due time."""
    tally = Tally()
    idle: list[_Connection] = []

    def done(connection: _Connection, ok: bool) -> None:
        tally.latencies.append(time.perf_counter() - connection.due)
        tally.answers += ok
        tally.errors += not ok
        idle.append(connection)

    idle += [await _connect(port, done) for _ in range(32)]
    everyone = list(idle)
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tally.late = max(tally.late, time.perf_counter() - due)
        if not idle:
            extra = await _connect(port, done)
            everyone.append(extra)
            idle.append(extra)
        idle.pop().send(due)
    await asyncio.sleep(0.3)
    tally.seconds = time.perf_counter() - begun
    for line in everyone:
        if line.transport is not None:
            line.transport.close()
    return tally
