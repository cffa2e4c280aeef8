"""The load: raw asyncio connections that pay, each payment with a name and a key of its own.

`closed` keeps so many payments in flight for a time; `at_rate` starts them at a fixed rate, and
counts each one's latency from when it was due, so that a stalled proxy cannot hide its stall. Both
wait for the last answer, so that what was sent can be compared with what the gateway saw.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from tests.bench.stub import NAME, NAME_LENGTH, content_length

_PATIENCE_SECONDS = 20.0
# As many as Holdfast takes at once by default. Who has more open at a fixed rate cannot keep it.
_MOST_OPEN = 200
_FORM = b"amount=1999&currency=eur&confirm=true&payment_method=pm_card_visa&description="
_BODY_LENGTH = 300
_FILL = b"x" * (_BODY_LENGTH - len(_FORM) - NAME_LENGTH)
_REQUEST = (
    b"POST /v1/payment_intents HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Authorization: Bearer sk_test_bench\r\nIdempotency-Key: %b\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nAccept: */*\r\n"
    b"User-Agent: bench\r\nContent-Length: %d\r\n\r\n%b%b%b"
)
_serial = 0


class WrongAnswers(Exception):  # noqa: N818 -- the finding
    """A target did not do what it was asked for; its figures mean nothing."""


@dataclass(slots=True)
class Tally:
    """What a slice of load came to."""

    seconds: float
    sent: int = 0
    in_time: int = 0
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)  # the generator's own
    faults: list[bytes] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return self.in_time / self.seconds

    def add(self, seconds: float, fault: bytes | None, *, in_time: bool = True) -> None:
        """Count an answer, or what came instead of one."""
        if fault is not None:
            self.faults.append(fault)
            return
        self.latencies.append(seconds)
        self.in_time += in_time

    def checked(self, target: str) -> Tally:
        """Itself, if every payment was answered as it should be. Raises `WrongAnswers`."""
        if self.faults:
            text = f"{target}: {len(self.faults)} of {self.sent} payments were not answered rightly"
            raise WrongAnswers(f"{text}; the first: {self.faults[0][:300]!r}")
        return self


def percentile(values: list[float], share: float) -> float:
    """The value that so large a share is not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Line(asyncio.Protocol):
    """One connection, one payment on it at a time."""

    def __init__(self) -> None:
        self.answered: Callable[[Line, bytes | None], None] = lambda _line, _fault: None
        self.due = 0.0
        self.transport: asyncio.Transport | None = None
        self._name = b""  # of the payment that is under way
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to pay."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def pay(self, due: float) -> None:
        """Send one payment; `answered` is called when it is."""
        global _serial  # noqa: PLW0603 -- one counter per generator
        _serial += 1
        self.due = due
        self._name = name = b"%b%08d-%011d" % (NAME, os.getpid(), _serial)
        if self.transport is None:
            self._end(b"the connection was closed")
            return
        self.transport.write(_REQUEST % (name, _BODY_LENGTH, _FORM, name, _FILL))

    def data_received(self, data: bytes) -> None:
        """Wait for a whole answer; it is right if it is a 200 about this very payment."""
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0 or len(self._data) < (whole := end + 4 + content_length(self._data[:end])):
            return
        answer, self._data = self._data, b""
        asked = self._name != b"" and len(answer) == whole
        right = asked and answer.startswith(b"HTTP/1.1 200 ") and self._name in answer[end:]
        self._end(None if right else answer)

    def connection_lost(self, _error: Exception | None) -> None:
        """Whatever was under way has failed."""
        self.transport = None
        if self._name:
            self._end(b"the connection was lost")

    def close(self) -> None:
        """Hang up."""
        self._name = b""
        if self.transport is not None:
            self.transport.close()

    def _end(self, fault: bytes | None) -> None:
        self._name = b""
        self.answered(self, fault)


async def open_lines(port: int, count: int) -> list[Line]:
    """Connections to a target, one after the other."""
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Line, "127.0.0.1", port))[1] for _ in range(count)]


async def closed(lines: list[Line], seconds: float, most: int = 10**9) -> Tally:
    """As fast as it goes with one payment on every line, for a time or until so many are sent."""
    tally = Tally(seconds)
    finished = asyncio.get_running_loop().create_future()
    left = set(lines)

    def answered(line: Line, fault: bytes | None) -> None:
        now = time.perf_counter()
        tally.add(now - line.due, fault, in_time=now < end)
        if fault is None and now < end and tally.sent < most:
            tally.sent += 1
            line.pay(now)
            return
        left.discard(line)
        if not left and not finished.done():
            finished.set_result(None)

    begun = time.perf_counter()
    end = begun + seconds
    for line in lines:
        line.answered = answered
        tally.sent += 1
        line.pay(begun)
    await asyncio.wait_for(finished, seconds + _PATIENCE_SECONDS)
    return tally


async def at_rate(port: int, rate: float, seconds: float) -> Tally:
    """So many per second, whatever happens. With `_MOST_OPEN` under way the next one waits, and
    its waiting counts.
    """
    tally = Tally(seconds)
    lines = await open_lines(port, _MOST_OPEN)
    idle: asyncio.LifoQueue[Line] = asyncio.LifoQueue()

    def answered(line: Line, fault: bytes | None) -> None:
        tally.add(time.perf_counter() - line.due, fault)
        idle.put_nowait(line)

    for line in lines:
        line.answered = answered
        idle.put_nowait(line)
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
            tally.lags.append(time.perf_counter() - due)
        line = await idle.get()
        tally.sent += 1
        line.pay(due)
    for _ in lines:
        await asyncio.wait_for(idle.get(), _PATIENCE_SECONDS)
    tally.seconds = time.perf_counter() - begun
    for line in lines:
        line.close()
    return tally


async def counted(port: int) -> tuple[int, int]:
    """The requests the stub has seen since it was last asked, and of how many payments."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /_count HTTP/1.1\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    count = json.loads(await reader.readexactly(content_length(head)))
    writer.close()
    return count["requests"], count["payments"]


async def compare(target: str, sent: int, stub: int) -> str:
    """The sentence that the stub saw what was sent: each payment, and each once. Raises
    `WrongAnswers` for a target that sends twice, keeps payments to itself, or invents them.
    """
    requests, payments = await counted(stub)
    text = f"{target}: {sent} payments sent, the stub saw {requests} requests for {payments}"
    if not sent == requests == payments:
        raise WrongAnswers(text)
    return text


async def prove(target: str, port: int, stub: int, payments: int) -> str:
    """Send so many payments and hold every one to account."""
    await counted(stub)
    lines = await open_lines(port, 16)
    tally = await closed(lines, _PATIENCE_SECONDS, payments)
    for line in lines:
        line.close()
    await asyncio.sleep(0.1)  # for what a target sends after it has answered
    text = await compare(target, tally.sent, stub)
    tally.checked(target)
    return text
