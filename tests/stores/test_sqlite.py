"""What only the SQLite store promises: durability, one owner, and honesty when the disk fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import apsw
import pytest
import pytest_asyncio
from msgspec.structs import replace

from proxy.core.events import AttemptEnded, EvidenceFound, EvidenceSource, Expired, StoreTimed
from proxy.core.results import AttemptResult
from proxy.core.session import apply
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import Phase
from proxy.ports import KeyTaken, OrderTaken, Query, StoreUnavailable
from proxy.stores import sqlite
from proxy.stores.codec import encode
from proxy.stores.searching import finding
from proxy.stores.sqlite import MIGRATIONS, SqliteStore
from proxy.system import SystemClock
from tests.stores.test_conformance import ended, finished, keep, opened, sent
from tests.support.faulty_disk import FaultyDisk
from tests.support.lab import Notes
from tests.support.waiting import until


@pytest.fixture
def disk(request: pytest.FixtureRequest) -> FaultyDisk:
    """A disk of this test's own."""
    return FaultyDisk(f"faulty-{request.node.name}")


@pytest_asyncio.fixture
async def store(tmp_path: Path, disk: FaultyDisk) -> AsyncIterator[SqliteStore]:
    """A store on that disk."""
    built = SqliteStore(tmp_path / "s.db", SystemClock(), Notes(), vfs=disk.name)
    await built.open()
    yield built
    disk.full = disk.broken = False
    disk.may_sync.set()
    await built.close()


async def test_a_commit_is_acknowledged_after_its_sync(
    store: SqliteStore, disk: FaultyDisk
) -> None:
    """While the disk is still syncing, nobody is told that anything is durable."""
    session = opened(1)
    await store.claim(session, 0)
    disk.may_sync.clear()
    disk.syncing.clear()
    commit = asyncio.ensure_future(store.commit(session, session.version, None))
    await asyncio.to_thread(disk.syncing.wait)
    assert not commit.done()
    disk.may_sync.set()
    await commit
    assert disk.syncs >= 1


async def test_what_comes_in_one_turn_shares_one_sync(store: SqliteStore, disk: FaultyDisk) -> None:
    """Fifty payments at once cost one sync, not fifty."""
    sessions = [opened(number) for number in range(1, 51)]
    for session in sessions:
        await store.claim(session, 0)
    before = disk.syncs
    await asyncio.gather(*(store.commit(s, s.version, None) for s in sessions))
    assert disk.syncs - before == 1


async def test_what_comes_during_a_sync_waits_for_the_next(
    store: SqliteStore, disk: FaultyDisk
) -> None:
    """One batch is on its way at a time; everything that arrives meanwhile is the next one."""
    sessions = [opened(number) for number in range(1, 12)]
    for session in sessions:
        await store.claim(session, 0)
    disk.may_sync.clear()
    disk.syncing.clear()
    first = asyncio.ensure_future(store.commit(sessions[0], sessions[0].version, None))
    await asyncio.to_thread(disk.syncing.wait)
    others = [asyncio.ensure_future(store.commit(s, s.version, None)) for s in sessions[1:]]
    await asyncio.sleep(0)
    before = disk.syncs
    disk.may_sync.set()
    await asyncio.gather(first, *others)
    assert disk.syncs - before == 1


async def test_a_full_disk_fails_the_batch_and_what_waits(
    store: SqliteStore, disk: FaultyDisk
) -> None:
    """Nothing is acknowledged, nothing half-written, and the store says it is not ready."""
    kept = await keep(store, opened(1))
    disk.full = True
    news = opened(2)
    await store.claim(news, 0)
    results = await asyncio.gather(
        store.commit(sent(kept), kept.version, None),
        store.commit(news, news.version, None),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
    assert store.trouble is not None
    assert store.broken is None
    assert await store.get(kept.id) == kept
    assert await store.get(news.id) is None
    with pytest.raises(StoreUnavailable):
        await store.claim(opened(3), 0)


async def test_a_disk_with_room_again_is_used_again(store: SqliteStore, disk: FaultyDisk) -> None:
    """A full disk is probed until it takes a write; then payments go on without a restart."""
    disk.full = True
    session = opened(1)
    await store.claim(session, 0)
    with pytest.raises(StoreUnavailable):
        await store.commit(session, session.version, None)
    disk.full = False
    await until(lambda: store.trouble is None)
    await keep(store, opened(2))
    assert await store.get("ps_0002") is not None


async def test_an_io_error_is_final(store: SqliteStore, disk: FaultyDisk) -> None:
    """After a failed write nothing is tried again, even when the disk recovers: only a restart."""
    disk.broken = True
    session = opened(1)
    await store.claim(session, 0)
    with pytest.raises(StoreUnavailable):
        await store.commit(session, session.version, None)
    disk.broken = False
    assert store.broken is not None
    assert "restart" in store.broken
    with pytest.raises(StoreUnavailable):
        await store.claim(opened(2), 0)


async def test_a_disk_that_cannot_be_read_either_leaves_nobody_waiting(
    store: SqliteStore, disk: FaultyDisk
) -> None:
    """Whoever waits for the failed write is told, even if what stood before cannot be read back."""
    session = opened(1)
    await store.claim(session, 0)
    store._reader.close()
    disk.broken = True
    with pytest.raises(StoreUnavailable):
        await store.commit(session, session.version, None)
    assert store.broken is not None
    assert "nor can it be read" in store.broken


async def test_what_was_acknowledged_survives_a_restart(tmp_path: Path) -> None:
    """Sessions, keys, order locks and answers are there again for the next process."""
    path = tmp_path / "s.db"
    store = SqliteStore(path, SystemClock(), Notes())
    await store.open()
    charged = await finished(store, 1, AttemptStatus.SUCCEEDED)
    live = await keep(store, sent(opened(2, order_ref="o-2", order_locks=True)))
    await store.close()

    again = SqliteStore(path, SystemClock(), Notes())
    await again.open()
    assert await again.get(charged.id) == charged
    assert await again.answer(charged.id) == b"sealed"
    assert await again.listed() == [live]
    await again.close()


async def test_a_file_has_one_owner(tmp_path: Path) -> None:
    """A second Holdfast on the same file is refused with a sentence, not with corruption."""
    store = SqliteStore(tmp_path / "s.db", SystemClock(), Notes())
    await store.open()
    second = SqliteStore(tmp_path / "s.db", SystemClock(), Notes())
    with pytest.raises(StoreUnavailable, match="in use by another Holdfast"):
        await second.open()
    await store.close()
    await second.open()
    await second.close()


def open_files(folder: Path) -> list[Path]:
    """What this process holds open in a folder: databases, their logs, the lock."""
    found: list[Path] = []
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them is closed by now
            found.append(number.readlink())
    return [path for path in found if folder in path.parents]


async def refused(path: Path) -> str:
    """Why the store does not open; nothing stays open, and the lock is free."""
    with pytest.raises(StoreUnavailable) as caught:
        await SqliteStore(path, SystemClock(), Notes()).open()
    assert open_files(path.parent) == []
    return str(caught.value)


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A file of a newer Holdfast is left alone."""
    path = tmp_path / "s.db"
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", len(MIGRATIONS) + 1)
    connection.close()
    assert "newer Holdfast" in await refused(path)


async def test_something_else_is_not_a_store(tmp_path: Path) -> None:
    """A file that is not a database is named, and left as it is."""
    path = tmp_path / "s.db"
    path.write_bytes(b"not a database, and longer than a page header " * 40)
    assert (await refused(path)).startswith(f"cannot open the store {path}: ")
    assert path.read_bytes().startswith(b"not a database")


async def test_a_folder_in_its_place_lets_go_of_the_lock(tmp_path: Path) -> None:
    """A volume mounted one level too deep is named; with a file in its place the store opens."""
    path = tmp_path / "s.db"
    path.mkdir()
    assert await refused(path) == f"cannot open the store {path}: Is a directory ({path})"
    path.rmdir()
    store = SqliteStore(path, SystemClock(), Notes())
    await store.open()
    await store.close()


async def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """What stands where the lock file should be is told with its path."""
    (tmp_path / "s.db.lock").mkdir()
    why = f"Is a directory ({tmp_path / 's.db.lock'})"
    path = tmp_path / "s.db"
    assert await refused(path) == f"cannot open the store {path}: {why}"


@pytest.mark.parametrize(
    "doc",
    [
        b'{"id":"ps_0001","card":"4242',
        b'{"card":"4242"}',
        b'["4242"]',
        b"\xff4242",
        "4242",
        4242,
    ],
)
async def test_a_session_that_cannot_be_read_stops_the_start(
    tmp_path: Path, doc: bytes | str | int
) -> None:
    """It may be an unknown charge: it is named, never skipped, and what it holds is not shown."""
    path = tmp_path / "s.db"
    store = SqliteStore(path, SystemClock(), Notes())
    await store.open()
    live = await keep(store, sent(opened(1)))
    healthy = await keep(store, sent(opened(2)))
    await store.close()
    change(path, live.id, doc)

    why = await refused(path)
    assert why == f"the store {path} holds a session it cannot read: {live.id}"

    change(path, live.id, encode(live))
    await store.open()
    assert await store.listed() == [live, healthy]
    await store.close()


def change(path: Path, session_id: str, doc: bytes | str | int) -> None:
    """Write over a session's document, as a failing disk would."""
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE sessions SET doc = ? WHERE id = ?", (doc, session_id))
    connection.close()


async def test_the_file_is_nobody_elses(tmp_path: Path) -> None:
    """The store can be read by its owner only."""
    store = SqliteStore(tmp_path / "s.db", SystemClock(), Notes())
    await store.open()
    assert (tmp_path / "s.db").stat().st_mode & 0o777 == 0o600
    await store.close()


async def test_a_charge_that_meets_the_clean_up_of_its_session_is_kept(
    store: SqliteStore, disk: FaultyDisk, tmp_path: Path
) -> None:
    """The session is being dropped while its late charge is written behind that: it is there."""
    await finished(store, 1, AttemptStatus.DECLINED)
    old = await store.get("ps_0001")
    assert old is not None
    disk.may_sync.clear()
    purging = asyncio.ensure_future(store.purge(answers_before=0, sessions_before=10**13))
    await until(lambda: store._writing is not None)
    evidence = EvidenceFound(
        old.updated_at + 1, EvidenceSource.WEBHOOK, AttemptStatus.SUCCEEDED, "pi_1"
    )
    charged = apply(old, evidence)
    written = store.commit(charged, old.version, b"sealed")
    disk.may_sync.set()
    assert await purging == (0, 1)
    await written
    await store.close()
    await store.open()
    assert await store.get("ps_0001") == charged
    assert await store.answer("ps_0001") == b"sealed"


async def test_a_charge_that_meets_the_clean_up_while_another_has_the_order_is_kept(
    store: SqliteStore, disk: FaultyDisk
) -> None:
    """As one that is not dropped: it is on record, and both lock the order."""
    locking = {"order_ref": "o-1", "order_locks": True}
    intent = sent(await keep(store, opened(1, **locking)), store.epoch)
    await store.commit(intent, intent.version - 1, None)
    old = ended(intent, AttemptStatus.DECLINED)
    await store.commit(old, intent.version, None)
    holder = await keep(store, opened(2, **locking))
    disk.may_sync.clear()
    purging = asyncio.ensure_future(store.purge(answers_before=0, sessions_before=10**13))
    await until(lambda: store._writing is not None)
    charged = ended(old, AttemptStatus.SUCCEEDED)
    written = store.commit(charged, old.version, b"sealed")
    disk.may_sync.set()
    assert await purging == (0, 1)
    await written
    await store.close()
    await store.open()
    assert await store.get("ps_0001") == charged
    assert await store.get("ps_0002") == holder
    expired = apply(holder, Expired(2_000_000_000_000))
    await store.commit(expired, holder.version, None)
    with pytest.raises(OrderTaken):
        await store.claim(opened(3, **locking), 0)


async def test_the_names_of_new_folders_and_files_survive_what_the_file_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each folder that was made stands in its own folder, synced; the file does at every start."""
    synced: list[Path] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    store = SqliteStore(tmp_path / "a" / "b" / "s.db", SystemClock(), Notes())
    await store.open()
    await store.close()
    assert synced == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]
    await store.open()
    await store.close()
    assert synced[3:] == [tmp_path / "a" / "b"]


async def test_it_writes_with_full_synchronous(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """WAL and FULL, whatever this build of SQLite does by itself: NORMAL could lose commits."""

    def as_built(connection: apsw.Connection) -> None:
        connection.pragma("synchronous", "normal")

    apsw.connection_hooks.append(as_built)
    request.addfinalizer(lambda: apsw.connection_hooks.remove(as_built))
    store = SqliteStore(tmp_path / "s.db", SystemClock(), Notes())
    connection = store._connect()
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2
    assert connection.pragma("temp_store") == 2
    connection.close()


async def test_a_store_without_a_write_ahead_log_does_not_open(tmp_path: Path) -> None:
    """Where SQLite cannot keep one it goes on without a word, and less would survive."""
    store = SqliteStore(tmp_path / "s.db", SystemClock(), Notes(), vfs="unix-none")
    with pytest.raises(StoreUnavailable, match="write-ahead log"):
        await store.open()


async def test_the_database_itself_holds_the_order_lock(store: SqliteStore) -> None:
    """Two sessions that lock one order cannot be written, even if the code forgot to ask."""
    await keep(store, opened(1, order_ref="o-1", order_locks=True))
    second = opened(2, order_ref="o-1", order_locks=True)
    store._hot.put(second)
    with pytest.raises(StoreUnavailable):
        await store.commit(second, second.version, None)


async def test_store_times_are_noted(tmp_path: Path) -> None:
    """Each batch tells how long the disk took."""
    notes = Notes()
    store = SqliteStore(tmp_path / "s.db", SystemClock(), notes)
    await store.open()
    await keep(store, opened(1))
    assert [fact.operation for fact in notes.of(StoreTimed) if isinstance(fact, StoreTimed)] == [
        "commit"
    ]
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_really_full_disk(small_disk: Path) -> None:
    """On a full file system writes fail, nothing acknowledged is lost, and space is used again."""
    store = SqliteStore(small_disk / "s.db", SystemClock(), Notes())
    await store.open()
    ballast = small_disk / "ballast"
    _fill(ballast)
    written = []
    with contextlib.suppress(StoreUnavailable):
        for number in range(1, 5000):
            written += [await keep(store, opened(number), b"x" * 500)]
    assert len(written) < 4999
    assert store.trouble is not None
    ballast.unlink()
    await until(lambda: store.trouble is None)
    for session in written:
        assert await store.get(session.id) == session
    await keep(store, opened(5000))
    await store.close()


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


async def test_nobody_is_told_of_what_is_still_on_its_way(
    store: SqliteStore, disk: FaultyDisk
) -> None:
    """A session is shown when its write has come back; one whose write failed, as it was before."""
    kept = await keep(store, opened(1))
    disk.may_sync.clear()
    disk.syncing.clear()
    writing = asyncio.ensure_future(store.commit(sent(kept), kept.version, None))
    await asyncio.to_thread(disk.syncing.wait)
    reading = asyncio.ensure_future(store.get(kept.id))
    await asyncio.sleep(0)
    assert not reading.done()
    disk.may_sync.set()
    await writing
    assert await reading == sent(kept)


async def test_a_claim_that_the_file_contradicts_fails_alone(store: SqliteStore) -> None:
    """What was claimed on the word of a write that failed is refused, and the store goes on."""
    holder = await keep(store, opened(1, order_ref="o-1", order_locks=True))
    second = opened(2, order_ref="o-1", order_locks=True)
    store._hot.remove(holder.id)  # as memory stood while the holder's end was on its way
    store._hot.put(second)
    with pytest.raises(StoreUnavailable):
        await store.commit(second, second.version, None)
    assert store.broken is None
    assert store.trouble is None
    assert await store.get(second.id) is None
    await keep(store, opened(3))


async def test_a_link_to_the_file_is_the_same_file(tmp_path: Path) -> None:
    """A second Holdfast that comes by another name is refused like any other."""
    store = SqliteStore(tmp_path / "s.db", SystemClock(), Notes())
    await store.open()
    (tmp_path / "other").mkdir()
    link = tmp_path / "other" / "link.db"
    link.symlink_to(tmp_path / "s.db")
    with pytest.raises(StoreUnavailable, match="in use by another Holdfast"):
        await SqliteStore(link, SystemClock(), Notes()).open()
    await store.close()


async def test_answers_are_dropped_by_when_they_were_kept(store: SqliteStore) -> None:
    """Not by when their payments began: one that was settled late is replayed for as long."""
    for number, ended_at in ((1, 3000), (2, 9000), (3, 3000), (4500, 9000)):
        begun = await keep(store, sent(opened(number)))
        charged = AttemptResult(AttemptStatus.SUCCEEDED)
        end = AttemptEnded(ended_at, 1, "stripe", charged, Phase.ANSWERED, True, 200, 2000)
        await store.commit(apply(begun, end), begun.version, b"sealed")
    assert await store.purge(answers_before=5000, sessions_before=0) == (2, 0)
    kept = [await store.answer(f"ps_{number:04d}") for number in (1, 2, 3, 4500)]
    assert kept == [None, b"sealed", None, b"sealed"]
    assert await store.purge(answers_before=9001, sessions_before=0) == (2, 0)


async def finished_ones(store: SqliteStore, count: int) -> None:
    """So many at once."""
    await asyncio.gather(
        *(finished(store, n, AttemptStatus.SUCCEEDED) for n in range(1, count + 1))
    )


@pytest.mark.parametrize(("seconds", "transactions"), [(3600.0, 2), (0.0, 7)])
async def test_a_slow_disk_is_given_less_to_drop_at_once(
    store: SqliteStore,
    disk: FaultyDisk,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    transactions: int,
) -> None:
    """Twenty at a time; half as many after each time that took too long for a payment."""
    monkeypatch.setattr(sqlite, "_PURGE_SECONDS", seconds)
    await finished_ones(store, 40)
    before = disk.syncs
    assert await store.purge(answers_before=0, sessions_before=10**13) == (0, 40)
    assert disk.syncs - before == transactions


async def test_nothing_to_drop_is_nothing_written(store: SqliteStore, disk: FaultyDisk) -> None:
    """It is looked for beside the writer, which payments need."""
    await finished_ones(store, 5)
    before = disk.syncs
    assert await store.purge(answers_before=1, sessions_before=1) == (0, 0)
    assert disk.syncs == before


async def test_what_has_changed_since_it_was_found_is_kept(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found old, and by the time it would be dropped it is live or has finished anew."""
    await keep(store, opened(1), b"sealed")
    await finished(store, 2, AttemptStatus.SUCCEEDED)
    monkeypatch.setattr(store, "_numbers", lambda *_: [1, 2])
    assert await store.purge(answers_before=2, sessions_before=3000) == (0, 0)
    assert await store.purge(answers_before=2, sessions_before=3001) == (0, 1)
    assert await store.get("ps_0001") is not None


async def test_the_answer_of_a_dropped_session_goes_with_it(store: SqliteStore) -> None:
    """Its number can be given again, and another session's answer may not be found there."""
    await finished(store, 1, AttemptStatus.SUCCEEDED)
    assert await store.purge(answers_before=0, sessions_before=10**13) == (0, 1)
    assert store._reader.execute("SELECT count(*) FROM answers").get == 0


_STARTED = "started (started_at>?)"
_LISTED = "listed (started_at>?)"
_STATE = "ended_otherwise (state=? AND started_at>?)"


@pytest.mark.parametrize(
    ("query", "indexes"),
    [
        (Query(), [_STARTED]),
        (Query(order_ref="o"), ["order (order_ref=?)"]),
        (Query(order_ref="o", state=State.DECLINED), ["order (order_ref=?)"]),
        (Query(order_ref="o", gateway="g"), ["order (order_ref=?)"]),
        (Query(user_ref="u"), ["user (user_ref=? AND started_at>?)"]),
        (Query(user_ref="u", gateway="g"), ["user (user_ref=? AND started_at>?)"]),
        (Query(gateway="g"), ["gateway (gateway=? AND started_at>?)"]),
        (
            Query(gateway="g", since=1, until=2),
            ["gateway (gateway=? AND started_at>? AND started_at<?)"],
        ),
        (Query(state=State.COMPLETED), [_STARTED]),
        (Query(outcome=Outcome.CHARGED), [_STARTED]),
        (Query(state=State.DECLINED), [_LISTED, _STATE]),
        (Query(state=State.FAILED_MAX_RETRIES), [_LISTED, _STATE]),
        (Query(outcome=Outcome.NOT_CHARGED), [_LISTED, "unpaid (started_at>?)"]),
        (
            Query(state=State.COMPLETED, outcome=Outcome.NOT_CHARGED),
            [_LISTED, "unpaid (started_at>?)"],
        ),
    ],
)
async def test_a_search_goes_by_an_index(
    store: SqliteStore, query: Query, indexes: list[str]
) -> None:
    """The newest first, so that it ends with the page; it never sorts all that match."""
    statement, values = finding(query, "?")
    plan = [row[3] for row in store._reader.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    searched = [step for step in plan if "sessions" in step]
    assert searched == [f"SEARCH sessions USING INDEX sessions_{index}" for index in indexes]


# --- the keys on file -----------------------------------------------------------------------------


async def test_a_key_of_an_earlier_run_is_taken(tmp_path: Path) -> None:
    """Before the keys on file have been read and afterwards: a repeat is never taken for new."""
    first = SqliteStore(tmp_path / "s.db", SystemClock(), Notes())
    await first.open()
    done = await finished(first, 1, AttemptStatus.SUCCEEDED)
    await first.close()
    again = replace(opened(2), key_hash=done.key_hash)
    store = SqliteStore(tmp_path / "s.db", SystemClock(), Notes())
    await store.open()
    with pytest.raises(KeyTaken):
        await store.claim(again, 0)
    await until(lambda: store._all_known)
    with pytest.raises(KeyTaken):
        await store.claim(again, 0)
    await store.close()


async def test_a_new_key_is_not_looked_for(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the keys are known, a payment that is new asks the file nothing; a known one does."""
    await until(lambda: store._all_known)
    asked: list[str | None] = []

    def cold(_sql: str, *values: str | None) -> None:
        asked.append(values[0])

    done = await finished(store, 1, AttemptStatus.SUCCEEDED)
    monkeypatch.setattr(store, "_cold", cold)
    await store.claim(replace(opened(2), order_ref=None), 0)
    assert asked == []
    await store.claim(replace(opened(3), key_hash=done.key_hash, order_ref=None), 0)
    assert asked == [done.key_hash]
