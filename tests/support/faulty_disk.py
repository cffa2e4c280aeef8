"""A disk that fails on command: an SQLite VFS that counts, holds back and refuses writes."""

from __future__ import annotations

import threading
from typing import Any

import apsw


class FaultyDisk(apsw.VFS):
    """Everything on the real disk, unless told otherwise. Use its `name` as SQLite's vfs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.syncs = 0
        self.full = False
        self.broken = False
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.syncing = threading.Event()
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: Any) -> FaultyFile:  # noqa: N802 -- SQLite's name
        """Open a file whose writes this disk decides on."""
        return FaultyFile(self, name, flags)


class FaultyFile(apsw.VFSFile):
    """A file of a `FaultyDisk`."""

    def __init__(self, disk: FaultyDisk, name: Any, flags: Any) -> None:
        self._disk = disk
        self._wal = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 -- SQLite's name
        """Write, or say that the disk is full or broken."""
        if self._wal and self._disk.full:
            message = "no space left"
            raise apsw.FullError(message)
        if self._wal and self._disk.broken:
            message = "the disk is on fire"
            raise apsw.IOError(message)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 -- SQLite's name
        """Count, and wait for permission."""
        if self._wal:
            self._disk.syncs += 1
            self._disk.syncing.set()
            self._disk.may_sync.wait()
        super().xSync(flags)
