"""That SQLite's log is copied into the file, and that no payment waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest
import pytest_asyncio

from proxy.stores import sqlite_log
from proxy.stores.sqlite import SqliteStore
from proxy.stores.sqlite_log import LogCopier
from proxy.system import SystemClock
from tests.stores.test_conformance import keep, opened
from tests.support.faulty_disk import FaultyDisk, FaultyFile
from tests.support.lab import Notes
from tests.support.waiting import until

PAGE = 4096


class SlowDisk(FaultyDisk):
    """A disk whose syncs of the file itself, not of its log, can be held back or fail."""

    def __init__(self, name: str) -> None:
        self.may_copy = threading.Event()
        self.may_copy.set()
        self.copying = threading.Event()
        self.cannot_copy = False
        self.holds_the_copier_only = False
        super().__init__(name)

    def xOpen(self, name: Any, flags: Any) -> SlowFile:  # noqa: N802 -- SQLite's name
        """Open a file of this disk."""
        return SlowFile(self, name, flags)


class SlowFile(FaultyFile):
    """A file of a `SlowDisk`."""

    def __init__(self, disk: SlowDisk, name: Any, flags: Any) -> None:
        self._slow = disk
        super().__init__(disk, name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802 -- SQLite's name
        """Wait for permission, if it is the file itself."""
        copier = threading.current_thread().name == "sqlite-log"
        if not self._wal and (copier or not self._slow.holds_the_copier_only):
            self._slow.copying.set()
            self._slow.may_copy.wait()
            if self._slow.cannot_copy:
                message = "the disk is on fire"
                raise apsw.IOError(message)
        super().xSync(flags)


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> SlowDisk:
    """A disk of this test's own."""
    return SlowDisk(f"slow-{request.node.name}")


@pytest_asyncio.fixture
async def store(
    tmp_path: Path, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SqliteStore]:
    """A store on that disk, whose log is long after some payments."""
    monkeypatch.setattr(sqlite_log, "_LONG_PAGES", 100)
    built = SqliteStore(tmp_path / "s.db", SystemClock(), Notes(), vfs=disk.name)
    await built.open()
    disk.copying.clear()
    yield built
    disk.may_copy.set()
    disk.cannot_copy = False
    await built.close()


async def pay(store: SqliteStore, disk: SlowDisk, payments: int) -> None:
    """One after the other, each some pages; the copier is given its time in between."""
    for number in range(1, payments + 1):
        await keep(store, opened(number), b"x" * 2 * PAGE)
        if disk.may_copy.is_set():
            await until(lambda: not store._log._asked or store._log._done.is_set())


async def test_the_log_stays_short(tmp_path: Path, store: SqliteStore, disk: SlowDisk) -> None:
    """Once all of it is in the file it begins anew."""
    await pay(store, disk, 150)
    assert (tmp_path / "s.db-wal").stat().st_size < 200 * PAGE
    assert (tmp_path / "s.db").stat().st_size > 300 * PAGE


async def test_without_the_copier_it_would_grow(
    tmp_path: Path, store: SqliteStore, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: nothing else copies it."""
    monkeypatch.setattr(sqlite_log, "_LONG_PAGES", 10**9)
    await pay(store, disk, 150)
    assert (tmp_path / "s.db-wal").stat().st_size > 400 * PAGE


async def test_no_payment_waits_for_the_file(store: SqliteStore, disk: SlowDisk) -> None:
    """While the file is being synced, payments are durable in the log, and told so."""
    disk.holds_the_copier_only = True  # the writer's turn, if it has one, is not tried here
    disk.may_copy.clear()
    paid = 0
    while not disk.copying.is_set():
        paid += 1
        assert paid < 2000
        await keep(store, opened(paid), b"x" * 2 * PAGE)
    for number in range(3000, 3020):
        await keep(store, opened(number))


async def test_a_writer_that_copies_would_wait(store: SqliteStore, disk: SlowDisk) -> None:
    """The control: done in its own thread, as SQLite does by itself, the next payment hangs."""
    store._log._done.set()  # so that the writer takes its turn at the next commit
    disk.may_copy.clear()
    payment = asyncio.ensure_future(keep(store, opened(1)))
    assert await asyncio.to_thread(disk.copying.wait, 10)
    assert not payment.done()
    disk.may_copy.set()
    await payment


async def test_after_an_io_error_nothing_is_copied_again(
    tmp_path: Path, store: SqliteStore, disk: SlowDisk
) -> None:
    """What the failed sync lost may be lost though the next one succeeds; the log has it still."""
    disk.cannot_copy = True
    await pay(store, disk, 60)
    assert store._log._failed
    disk.cannot_copy = False
    before = (tmp_path / "s.db-wal").stat().st_size
    await pay_more(store)
    assert (tmp_path / "s.db-wal").stat().st_size > before + 100 * PAGE
    assert store.trouble is None


async def pay_more(store: SqliteStore) -> None:
    """Sixty others."""
    for number in range(101, 161):
        await keep(store, opened(number), b"x" * 2 * PAGE)


def test_it_ends_without_having_had_anything_to_do(tmp_path: Path) -> None:
    """Its thread and its connection go with it."""
    path = tmp_path / "s.db"
    copier = LogCopier(path, lambda: apsw.Connection(str(path)))
    copier.close()
    assert not copier._thread.is_alive()
