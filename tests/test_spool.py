"""The spool: what it promises of a record, and what it makes of a file that was cut off."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from proxy import spool as module
from proxy.ports import StoreUnavailable
from proxy.spool import FileSpool
from proxy.system import SystemClock
from tests.support.clocks import LoopClock

RECORDS = [b'{"session_id":"ps_1"}', b'{"session_id":"ps_2"}', b'{"session_id":"ps_3"}']
HOLDER = """
import asyncio, sys
from pathlib import Path
from proxy.spool import FileSpool
from proxy.system import SystemClock

async def hold():
    spool = FileSpool(Path(sys.argv[1]), SystemClock())
    await spool.open()
    await spool.keep(b'{"by":"the other"}')
    print("has it", flush=True)
    await asyncio.sleep(60)

asyncio.run(hold())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the spool lies."""
    return tmp_path / "var" / "holdfast.spool"


async def opened(path: Path) -> FileSpool:
    """A spool as the next process finds it."""
    spool = FileSpool(path, SystemClock())
    await spool.open()
    return spool


@pytest_asyncio.fixture
async def spool(path: Path) -> AsyncIterator[FileSpool]:
    """A spool in a folder that was not there."""
    made = await opened(path)
    yield made
    await made.close()


def lines_of(path: Path) -> bytes:
    """What stands in the file."""
    return path.read_bytes()


def mode_of(path: Path) -> int:
    """Who may read it."""
    return stat.S_IMODE(path.stat().st_mode)


async def left_in(path: Path) -> list[bytes]:
    """What the next process finds."""
    spool = await opened(path)
    try:
        return list(spool.records().values())
    finally:
        await spool.close()


# --- records --------------------------------------------------------------------------------------


async def test_what_is_kept_is_found_by_the_next(spool: FileSpool, path: Path) -> None:
    """In the order it was kept, each under a number of its own; by nobody else's eyes."""
    numbers = [await spool.keep(record) for record in RECORDS]
    assert spool.records() == dict(zip(numbers, RECORDS, strict=True))
    assert mode_of(path) == 0o600
    await spool.close()
    assert await left_in(path) == RECORDS


async def test_a_record_is_synced_before_it_counts(
    spool: FileSpool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is asked to sync, the whole line stands there, and it waits not before."""
    real, seen = os.fsync, []

    def fsync(file: int) -> None:
        seen.append((lines_of(path), dict(spool.records())))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    await spool.keep(RECORDS[0])
    assert seen == [(RECORDS[0] + b"\n", {})]


async def test_the_last_one_done_empties_the_file(spool: FileSpool, path: Path) -> None:
    """Until then all stay in it: one that was settled and is replayed once more does no harm."""
    first, second = [await spool.keep(record) for record in RECORDS[:2]]
    await spool.done(first)
    assert list(spool.records()) == [second]
    assert lines_of(path).count(b"\n") == 2
    await spool.done(second)
    assert lines_of(path) == b""
    await spool.keep(RECORDS[2])
    await spool.close()
    assert await left_in(path) == RECORDS[2:]


async def test_records_left_behind_can_be_done(spool: FileSpool, path: Path) -> None:
    """The next process settles them, and adds its own behind them."""
    await spool.keep(RECORDS[0])
    await spool.close()
    following = await opened(path)
    (number,) = following.records()
    assert await following.keep(RECORDS[1]) != number
    await following.done(number)
    assert list(following.records().values()) == [RECORDS[1]]
    await following.close()


async def test_closing_waits_for_what_was_begun(path: Path) -> None:
    """A record whose writer was cancelled meanwhile is whole all the same."""
    spool = await opened(path)
    keeping = spool.keep(RECORDS[0])
    keeping.send(None)  # handed over to the thread
    keeping.close()
    await spool.close()
    assert await left_in(path) == RECORDS[:1]


async def test_what_waits_its_turn_is_written_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process ends while the disk is slow: a record behind another is not lost with its task."""
    real, slow = os.fsync, threading.Event()
    spool = await opened(path)
    monkeypatch.setattr(os, "fsync", lambda file: (slow.wait(), real(file)))
    keeping = [asyncio.ensure_future(spool.keep(record)) for record in RECORDS]
    await asyncio.sleep(0)  # all are handed over, and the first is being written
    for task in keeping:
        task.cancel()
    await asyncio.gather(*keeping, return_exceptions=True)
    closing = asyncio.ensure_future(spool.close())
    slow.set()
    await closing
    assert await left_in(path) == RECORDS


# --- files that were cut off ----------------------------------------------------------------------


@budget(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(cut=st.integers(0, sum(len(record) + 1 for record in RECORDS)))
async def test_a_torn_line_counts_for_nothing(tmp_path: Path, cut: int) -> None:
    """Wherever the file ends: the whole lines are found, and the next record is whole."""
    path = tmp_path / "torn.spool"
    whole = b"".join(record + b"\n" for record in RECORDS)[:cut]
    path.write_bytes(whole)
    spool = await opened(path)
    found = RECORDS[: whole.count(b"\n")]
    assert list(spool.records().values()) == found
    await spool.keep(b"next")
    await spool.close()
    assert await left_in(path) == [*found, b"next"]


# --- disks ----------------------------------------------------------------------------------------


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file of this process may grow beyond, as on a disk with so much room left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_is_told_and_loses_nothing(spool: FileSpool, path: Path) -> None:
    """Half a line fits: it is refused, and with room again the next one takes its place."""
    await spool.keep(RECORDS[0])
    with files_end_at(len(lines_of(path)) + 5), pytest.raises(StoreUnavailable, match="spool"):
        await spool.keep(RECORDS[1])
    assert lines_of(path) == RECORDS[0] + b"\n" + RECORDS[1][:5]
    await spool.keep(RECORDS[2])
    await spool.close()
    assert await left_in(path) == [RECORDS[0], RECORDS[2]]


async def test_what_could_not_be_synced_is_not_kept(
    spool: FileSpool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk reports an error: refused, and cut off by the next that can be written."""
    with monkeypatch.context() as broken:

        def fsync(_file: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        broken.setattr(os, "fsync", fsync)
        with pytest.raises(StoreUnavailable, match="Input/output error"):
            await spool.keep(RECORDS[0])
        assert spool.records() == {}
    await spool.keep(RECORDS[1])
    await spool.close()
    assert await left_in(path) == [RECORDS[1]]


async def test_it_does_not_grow_without_end(
    spool: FileSpool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beyond the bound is refused, and taken again once the rest is done."""
    monkeypatch.setattr(module, "_MOST_BYTES", len(RECORDS[0]) + 1)
    number = await spool.keep(RECORDS[0])
    with pytest.raises(StoreUnavailable, match="as large as it may be"):
        await spool.keep(RECORDS[1])
    await spool.done(number)
    await spool.keep(RECORDS[1])


async def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    """The error says which setting to change, and why."""
    with pytest.raises(OSError, match=f"spool {tmp_path}: is a directory"):
        await FileSpool(tmp_path, SystemClock()).open()


# --- two processes --------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_two_processes_do_not_share_it(path: Path) -> None:
    """The second is refused with the setting's name; kill -9 lets go, and it finds the record."""
    other = subprocess.Popen(  # noqa: ASYNC220 -- waited for below
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "has it\n"
        with pytest.raises(OSError, match=rf"spool {path}: another Holdfast has it"):
            await FileSpool(path, LoopClock()).open()
    finally:
        other.kill()
        other.communicate()
    spool = FileSpool(path, LoopClock())
    await spool.open()
    assert list(spool.records().values()) == [b'{"by":"the other"}']
    await spool.close()
