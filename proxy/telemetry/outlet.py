"""The way out for log lines: a thread of its own, so that whoever reads them cannot stop payments.

A pipe whose reader stands still takes 64 KiB and then blocks who writes to it. Here that is the
thread; what it cannot get rid of is dropped and counted, and the count is the first thing written
when it goes on.
"""

from __future__ import annotations

import queue
import threading
from typing import BinaryIO

# Some ten thousand lines. A reader that is further behind than this is not reading.
_MOST_BYTES = 8 * 1024 * 1024
_LAST_WORDS_SECONDS = 1.0


class Outlet:
    """A stream that never blocks and never raises."""

    def __init__(self, stream: BinaryIO, *, most_bytes: int = _MOST_BYTES) -> None:
        self._stream = stream
        self._most_bytes = most_bytes
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Take in bytes, or drop them if too many are waiting."""
        with self._lock:
            if self._waiting + len(data) > self._most_bytes:
                self._dropped += 1
                return len(data)
            self._waiting += len(data)
        self._queue.put(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back anyway."""

    def close(self) -> None:
        """Write what is waiting, if it can be written within a second."""
        self._queue.put(None)
        self._thread.join(_LAST_WORDS_SECONDS)

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            with self._lock:
                self._waiting -= len(data)
                dropped, self._dropped = self._dropped, 0
            if dropped:
                said = b'{"level":"warning","event":"log lines dropped","writes":%d}\n' % dropped
                data = said + data
            try:
                self._stream.write(data)
                self._stream.flush()
            except (OSError, ValueError):  # the reader is gone, or the disk is full
                continue
