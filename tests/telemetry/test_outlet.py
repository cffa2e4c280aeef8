"""Log lines leave by a thread of their own: a reader that stands still stops nobody."""

from __future__ import annotations

import io
import os
import threading

from proxy.telemetry.outlet import Outlet


class Held(io.BytesIO):
    """A stream that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self.asked.set()
        self.go.wait()
        return super().write(data)


def test_what_is_written_comes_out_in_order() -> None:
    """Every line, as it was."""
    stream = io.BytesIO()
    outlet = Outlet(stream)
    for number in range(100):
        outlet.write(b"%d\n" % number)
    outlet.close()
    assert stream.getvalue() == b"".join(b"%d\n" % number for number in range(100))


def test_a_reader_that_stands_still_stops_nobody() -> None:
    """Writing returns at once; what is too much is dropped, and that is said when it goes on."""
    stream = Held()
    outlet = Outlet(stream, most_bytes=10)
    outlet.write(b"first\n")
    stream.asked.wait()
    for _ in range(3):
        outlet.write(b"123456789\n")  # one fits, two do not
    stream.go.set()
    outlet.close()
    first, said, kept = stream.getvalue().splitlines()
    assert (first, kept) == (b"first", b"123456789")
    assert b"dropped" in said
    assert b"2" in said


def test_a_reader_that_is_gone_is_no_error() -> None:
    """A closed pipe: nothing is raised, now or later."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0) as stream:
        outlet = Outlet(stream)
        for _ in range(10):
            outlet.write(b"line\n")
        outlet.close()
