"""Copies SQLite's log (WAL) into its file beside the writer, so that no payment waits for it.

SQLite by itself does that in the commit that makes the log long. The pages lie far apart in a large
file: with a million sessions in it, to copy and sync 16 MiB took 100 ms. Here a thread of its own
does nearly all of it, and the writer only the last few pages, since a log begins anew only when
all of it has been copied and nobody has written meanwhile.

Two connections that write or copy at once hit the WAL-reset bug of SQLite before 3.51.3.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import apsw

_LONG_PAGES = 1000  # 4 MiB: payments wait for the disk while it syncs them, too; 16 took 70 ms


class LogCopier:
    """One per file; `grew` is the hook of the writer's connection."""

    def __init__(self, path: Path, connect: Callable[[], apsw.Connection]) -> None:
        self._connection = connect()
        # Closed last: with it go the locks that this process has on the file.
        self._file = os.open(path, os.O_RDONLY)
        self._asked = False
        self._done = threading.Event()
        self._failed = False
        self._wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="sqlite-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """After every other connection to the file has been closed."""
        self._wanted.put(False)
        self._thread.join()
        self._connection.close()
        os.close(self._file)

    def grew(self, writer: apsw.Connection, _name: str, pages: int) -> int:
        """After each commit, in the writer's thread: how long the log is now."""
        if self._done.is_set():
            self._done.clear()
            self._asked = False
            self._copy(writer)
        elif pages >= _LONG_PAGES and not self._asked:
            self._asked = True
            self._wanted.put(True)
        return apsw.SQLITE_OK

    def _run(self) -> None:
        while self._wanted.get():
            for _ in range(2):  # what was written during the first, which takes longer, as well
                self._copy(self._connection)
                self._sync()
            self._done.set()

    def _copy(self, connection: apsw.Connection) -> None:
        """As far as nobody is in the way. What cannot be copied stays safe in the log."""
        if self._failed:
            return
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.IOError:
            # Pages of it may be lost though the next sync succeeds: only a restart tries again.
            self._failed = True
        except apsw.Error:
            pass  # no room, say; the next commit asks again

    def _sync(self) -> None:
        """SQLite does it with the last pages only; then little is left to sync."""
        try:
            os.fdatasync(self._file)
        except OSError:
            self._failed = True
