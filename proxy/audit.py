"""The audit trail: who did what to which session by hand, in a file that only grows.

An entry is a line, a JSON object. Its `hash` is SHA-256 over the line up to it, and `prev` the hash
of the line before: a line that was changed, moved or taken out is found. Lines cut off at the end
are found by whoever knows a later hash; that is why the log tells the last one at each start.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from proxy.folders import sync_folder
from proxy.ports import AuditUnavailable, Clock

_LINE = re.compile(rb'(\{.+),"hash":"([0-9a-f]{64})"\}\n', re.DOTALL)
_NO_ENTRY = "it is no entry"
_TORN_KEPT = 4096
_FIRST_LOOK = 64 * 1024


class AuditFileError(OSError):
    """The audit trail cannot be gone on with."""


class BrokenChain(Exception):  # noqa: N818 -- what it is
    """A line is not what was written, or not where it was."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")


@dataclass(frozen=True, slots=True)
class Link:
    """What a line is to the chain. Also how far a whole file goes: its last line."""

    seq: int = 0
    at: int = 0
    prev: str = ""
    hash: str = "0" * 64


def links(path: Path) -> Iterator[Link]:
    """Every line of a file, checked. Raises `BrokenChain` at the first that is wrong."""
    before = Link()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                link = _read(line)
            except ValueError as error:
                raise BrokenChain(number, str(error)) from None
            if link.prev != before.hash:
                why = "the line before it is another than when it was written"
                raise BrokenChain(number, why)
            if link.seq != number:
                raise BrokenChain(number, f"it says that it is line {link.seq}")
            yield link
            before = link


def _read(line: bytes) -> Link:
    """A line by itself. Raises `ValueError` with what is wrong with it."""
    if not line.endswith(b"\n"):
        message = "it is cut off"
        raise ValueError(message)
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(_NO_ENTRY)
    if match[2].decode() != _hash(match[1]):
        message = "it was changed"
        raise ValueError(message)
    try:
        said = json.loads(match[1] + b"}")
        link = Link(int(said["seq"]), int(said["at"]), str(said["prev"]), match[2].decode())
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(_NO_ENTRY) from None
    return link


def _hash(said: bytes) -> str:
    return hashlib.sha256(said).hexdigest()


class _Entry:
    """Something to be written. What an entry says stays as it is while it waits."""

    __slots__ = ("at", "said", "written")

    def __init__(self, at: int, said: Mapping[str, object]) -> None:
        self.at = at
        self.said = said
        self.written = False

    def line(self, before: Link) -> tuple[bytes, Link]:
        """It as the line behind another one."""
        seq = before.seq + 1
        whole = {"seq": seq, "at": self.at, "prev": before.hash, **self.said}
        # ASCII: half a character in a reason is none in UTF-8.
        said = json.dumps(whole, separators=(",", ":"))[:-1].encode("ascii")
        link = Link(seq, self.at, before.hash, _hash(said))
        return said + f',"hash":"{link.hash}"}}\n'.encode(), link


class AuditFile:
    """The `Audit` of one process. What cannot be written waits, in its place, until it can."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._log = structlog.get_logger()
        # One thread: in the order in which they came, entries are written, many at a time.
        self._thread = ThreadPoolExecutor(1, "audit")
        self._waiting: deque[_Entry] = deque()
        self._file = -1
        self._size = 0
        self._head = Link()
        self._trouble: str | None = None
        self._told: str | None = None
        self._lost = False

    @property
    def head(self) -> str:
        """The hash of the last line."""
        return self._head.hash

    # --- opening ------------------------------------------------------------------------------

    def open(self) -> None:
        """Go on behind the last line. Raises `AuditFileError`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = not self._path.exists()
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                self._refuse("is not a file")
            self._lock()
            if new:
                sync_folder(self._path.parent)
            self._go_on()
        except AuditFileError:
            self._let_go()
            raise
        except OSError as error:
            self._let_go()
            self._refuse(f"cannot be opened: {error.strerror}")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._refuse("is in use by another Holdfast")

    def _refuse(self, why: str) -> None:
        message = f"the audit trail {self._path} {why}"
        raise AuditFileError(message) from None

    def _go_on(self) -> None:
        whole, _, torn = self._tail().rpartition(b"\n")
        self._size = os.fstat(self._file).st_size - len(torn)
        if self._size:
            try:
                self._head = _read(whole.rpartition(b"\n")[2] + b"\n")
            except ValueError as error:
                self._refuse(f"cannot be gone on with, its last line is wrong: {error}")
        if torn:
            # Nobody was told of it: whoever made the call died with it. What is left is kept.
            os.ftruncate(self._file, self._size)
            left = torn[:_TORN_KEPT].decode(errors="backslashreplace")
            said = {"action": "recovered", "dropped": len(torn), "torn": left}
            self._waiting.append(_Entry(self._clock.now_ms(), said))
            self._write_waiting()

    def _tail(self) -> bytes:
        """The end of the file, with at least its last whole line."""
        size, length, tail = os.fstat(self._file).st_size, _FIRST_LOOK, b""
        while tail.count(b"\n") <= 1 and len(tail) < size:
            tail = os.pread(self._file, length, max(0, size - length))
            length *= 2
        return tail

    # --- writing ------------------------------------------------------------------------------

    async def ready(self) -> None:
        if self._trouble is not None:
            await self._flush()
        if self._trouble is not None:
            raise AuditUnavailable(self._trouble)

    async def write(self, said: Mapping[str, object]) -> None:
        entry = _Entry(self._clock.now_ms(), said)
        self._waiting.append(entry)
        await self._flush()
        if not entry.written:
            raise AuditUnavailable(self._trouble)

    async def _flush(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write_waiting)
        if self._trouble != self._told:
            self._told = self._trouble
            if self._trouble is None:
                self._log.info("audit trail written again", head=self.head)
            else:
                self._log.error("audit trail not written", why=self._trouble)

    def _write_waiting(self) -> None:
        """Write what waits, all or nothing, so that it would survive a power cut."""
        batch = [self._waiting[number] for number in range(len(self._waiting))]
        if not batch or self._lost:
            return
        head, lines = self._head, bytearray()
        for entry in batch:
            line, head = entry.line(head)
            lines += line
        try:
            self._append(lines)
        except OSError as error:
            self._trouble = error.strerror or str(error)
            return
        self._size += len(lines)
        self._head = head
        self._trouble = None
        for entry in batch:
            entry.written = True
            self._waiting.popleft()

    def _append(self, lines: bytearray) -> None:
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            self._lost = True  # unless what was written of it can be taken back
            os.ftruncate(self._file, self._size)
            self._lost = False
            raise
        # A failed one is not repeated: the system may have forgotten what it could not write.
        self._lost = True
        os.fsync(self._file)
        self._lost = False

    async def close(self) -> None:
        """Try once more what still waits, then let go."""
        await self._flush()
        self._let_go()

    def _let_go(self) -> None:
        self._thread.shutdown()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
