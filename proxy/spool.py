"""The spool: outcomes that the store could not take, in a file of this process until it can.

One record a line, each fsynced before it counts, by one thread, so that they follow each other.
Nobody else may have the file: two processes would cut off each other's records. A line that was
never finished is cut off, by the next one or at the next start; it counted for nothing. When no
record waits any more the file is emptied. One that was settled and is still there after a crash is
replayed once more, which changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from proxy.folders import sync_folder
from proxy.ports import Clock, StoreUnavailable

# Some 60,000 payments without large answers: more than are ever in flight when a store fails.
_MOST_BYTES = 64 * 1024 * 1024
_LOCK_TRIES = 20
_LOCK_WAIT_SECONDS = 0.1

T = TypeVar("T")


class FileSpool:
    """A `Spool` in one file, made with mode 0600."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "spool")
        self._file = -1
        self._end = 0
        self._last = 0
        self._waiting: dict[int, bytes] = {}

    async def open(self) -> None:
        """Take the file, and find what an earlier process left in it. Raises OSError with a
        sentence that names the setting.
        """
        try:
            await self._open()
        except OSError as error:
            self._let_go()
            why = os.strerror(error.errno or 0).lower()
            if error.errno == errno.EWOULDBLOCK:
                why = (
                    "another Holdfast has it; each needs a file of its own "
                    "(`spool` in the policy, or HOLDFAST__SPOOL)"
                )
            message = f"spool {self._path}: {why}"
            raise OSError(message) from None

    async def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        for left in reversed(range(_LOCK_TRIES)):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # the one before may just be dying
                if not left:
                    raise
                await self._clock.sleep(_LOCK_WAIT_SECONDS)
        sync_folder(self._path.parent)  # its name survives what its records survive
        whole, _, _ = self._path.read_bytes().rpartition(b"\n")
        lines = whole.split(b"\n") if whole else []
        self._waiting = dict(enumerate(lines, start=1))
        self._last, self._end = len(lines), len(whole) + 1 if lines else 0

    async def keep(self, record: bytes) -> int:
        """Write a record down; its number. Raises `StoreUnavailable`."""
        try:
            return await self._in_turn(partial(self._append, record))
        except OSError as error:
            message = f"the spool takes nothing: {error.strerror}"
            raise StoreUnavailable(message) from None

    def _append(self, record: bytes) -> int:
        line = record + b"\n"
        if self._end + len(line) > _MOST_BYTES:
            raise OSError(errno.EFBIG, "it is as large as it may be")
        os.ftruncate(self._file, self._end)  # what one that failed has left
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file)
        self._end += len(line)
        self._last += 1
        self._waiting[self._last] = record
        return self._last

    def records(self) -> Mapping[int, bytes]:
        """What waits, by its number, in the order it was kept."""
        return dict(self._waiting)

    async def done(self, number: int) -> None:
        """The store has it. The last one empties the file."""
        await self._in_turn(partial(self._forget, number))

    def _forget(self, number: int) -> None:
        del self._waiting[number]
        if not self._waiting:
            with contextlib.suppress(OSError):  # then it is replayed once more
                os.ftruncate(self._file, 0)
                self._end = 0

    async def _in_turn(self, do: Callable[[], T]) -> T:
        # Whoever stops waiting takes nothing back, not even what is still in the queue.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, do))

    async def close(self) -> None:
        """Write what was begun, then let go."""
        await asyncio.to_thread(self._thread.shutdown)
        self._let_go()

    def _let_go(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
