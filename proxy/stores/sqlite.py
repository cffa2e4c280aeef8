"""The embedded store: SQLite, one writer thread, group commit, every acknowledged write fsynced.

Rule 1: one process owns the file (an exclusive lock beside it), one thread writes it. That is what
        makes a claim a dictionary look-up. Another thread copies SQLite's log into it.
Rule 2: all writes that arrive during one turn of the event loop, or while a batch is being written,
        share one transaction and one fsync. Nothing is acknowledged before the COMMIT has returned.
Rule 3: a failed commit fails its whole batch and whatever waits behind it. A full disk is probed
        until it takes writes again; after an I/O error nothing is tried again (a failed fsync may
        have lost pages that a second one would report as safe), only a restart helps.
Rule 4: reads of one session happen on the event loop (an indexed look-up in the page cache, some
        10 µs, less than handing it to a thread); searches, which may scan, happen in a thread, and
        so does looking for what is old.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from pathlib import Path

import apsw
from msgspec import Struct
from typing_extensions import override

from proxy.core.events import StoreTimed
from proxy.core.session import Session
from proxy.core.states import LIVE, Outcome
from proxy.folders import sync_folder
from proxy.ports import (
    COUNTED,
    Clock,
    Conflict,
    KeyTaken,
    OrderTaken,
    Page,
    Query,
    Recorder,
    StoreUnavailable,
)
from proxy.stores.codec import decode, encode
from proxy.stores.index import CHARGED_AFTER_ALL, Index
from proxy.stores.known_keys import KnownKeys
from proxy.stores.searching import counting, finding, page_of
from proxy.stores.sole import SoleOwner
from proxy.stores.sqlite_log import LogCopier

MIGRATIONS = sorted((Path(__file__).parent / "sql").glob("sqlite-*.sql"))
_PROBE_EVERY_SECONDS = 1.0
_LOCK_TRIES = 20
_LOCK_WAIT_SECONDS = 0.1
# Per transaction at most: of each five pages all over the file are synced, and copied soon after.
# With a hundred, p99.9 of the commits beside it was 40 ms longer than without a clean-up.
_PURGE_ROWS = 20  # fewer where these take longer:
_PURGE_SECONDS = 0.005  # what a payment may wait behind them
_PURGE_PAUSES = 2  # as long as they took
_FULL = "the disk is full"

# Without a space too many: apsw finds a statement that it has prepared by reading its text.
_INSERT = (
    "INSERT INTO sessions(key_hash,order_ref,operation,user_ref,gateway,started_at,"
    "version,state,outcome,finished_at,listed,locks_order,doc,id)VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
# What changes as a payment goes on. Naming a column here rewrites its indexes even if its value
# stays, so the others are only named where they do change: when a request is bound to its session.
_UPDATE = (
    "UPDATE sessions SET version=?,state=?,outcome=?,finished_at=?,listed=?,locks_order=?,doc=?"
    "WHERE id=?"
)
_BIND = """
UPDATE sessions SET key_hash = ?, order_ref = ?, operation = ?, user_ref = ?, gateway = ?,
                    started_at = ?, version = ?, state = ?, outcome = ?, finished_at = ?,
                    listed = ?, locks_order = ?, doc = ? WHERE id = ?
"""


def _values_of(*names: str) -> Callable[[Session], tuple[object, ...]]:
    """Reads these fields of a session in one call, instead of one each."""
    return attrgetter(*names)


_identity = _values_of("key_hash", "order_ref", "operation", "user_ref", "gateway", "started_at")
_progress = _values_of("version", "state", "outcome", "finished_at")
_KEEP_ANSWER = "REPLACE INTO answers SELECT number,?,? FROM sessions WHERE id=?"
_BY_ID = "SELECT doc FROM sessions WHERE id = ?"
_ALL_KEYS = "SELECT key_hash FROM sessions WHERE key_hash IS NOT NULL"
_BY_KEY = "SELECT doc FROM sessions WHERE key_hash = ?"
_BY_LOCKED_ORDER = (
    "SELECT doc FROM sessions WHERE order_ref = ? AND operation = ? AND id <> ? AND locks_order > 0"
)
_DISPLACED = 2  # locks its order, beside another session that does
_REQUESTS_KEPT = "SELECT id FROM requests JOIN sessions ON session = number"
_KEEP_REQUEST = "REPLACE INTO requests SELECT number,? FROM sessions WHERE id=?"
_REQUEST = "SELECT sealed FROM requests JOIN sessions ON session = number WHERE id = ?"
_DROP_REQUEST = "DELETE FROM requests WHERE session=(SELECT number FROM sessions WHERE id=?)"
_ANSWER = "SELECT sealed FROM answers JOIN sessions ON session = number WHERE id = ?"
# An answer is kept after its session has started, so those of sessions since then are not old
# enough. Theirs are the greater numbers: that spares an index which every payment would feed.
_OLD_ANSWERS = """
SELECT session FROM answers WHERE kept_at < ?1 AND session < coalesce(
    (SELECT number FROM sessions WHERE started_at >= ?1 ORDER BY started_at LIMIT 1),
    9223372036854775807)
"""
# What has finished before has started before: that spares an index here, too.
_OLD_SESSIONS = """
SELECT number FROM sessions WHERE started_at < ?1 AND finished_at < ?1 AND listed = 0
"""
# Asked again where it is dropped: it may have changed since it was found.
_DROP_ANSWER = "DELETE FROM answers WHERE session = ? AND kept_at < ? RETURNING 1"
_DROP_SESSION = (
    "DELETE FROM sessions WHERE number = ? AND finished_at < ? AND listed = 0 RETURNING 1"
)


class _Write(Struct, frozen=True):
    """A version of a session to write down, and who waits for it."""

    session: Session
    listed: bool
    statement: str
    answer: bytes | None
    request: bytes | None
    drop_request: bool
    kept_at: int
    done: asyncio.Future[None]

    def carry_out(self, cursor: apsw.Cursor) -> None:
        """Inside a transaction, in the writer thread."""
        session = self.session
        try:
            self._put(cursor, session.locks_order)
        except apsw.ConstraintError:
            if self.statement is not _UPDATE:
                raise
            # A charge came to light of a session that had freed its order: the truth is written
            # all the same, and the order is that of both.
            self._put(cursor, _DISPLACED)
        if self.answer is not None:
            cursor.execute(_KEEP_ANSWER, (self.kept_at, self.answer, session.id))
        if self.request is not None:
            cursor.execute(_KEEP_REQUEST, (self.request, session.id))
        if self.drop_request:
            cursor.execute(_DROP_REQUEST, (session.id,))

    def _put(self, cursor: apsw.Cursor, locks_order: int) -> None:
        session, statement = self.session, self.statement
        after = (self.listed, locks_order, encode(session), session.id)
        if statement is _UPDATE:
            cursor.execute(statement, _progress(session) + after)
            if cursor.connection.changes():
                return
            statement = _INSERT  # a clean-up was quicker: what is new is kept
        cursor.execute(statement, _identity(session) + _progress(session) + after)


@dataclass(slots=True)
class _Chore:
    """Anything else to do inside a transaction, and who waits for what it returns."""

    work: Callable[[apsw.Cursor], int]
    done: asyncio.Future[int]
    result: int = 0


@dataclass(slots=True)
class _Batch:
    writes: list[_Write] = field(default_factory=list)
    chores: list[_Chore] = field(default_factory=list)
    error: BaseException | None = None
    handed_over: float = 0.0  # monotonic seconds
    # Set when it has come back, whatever became of it. Made by the first who waits for that.
    back: asyncio.Event | None = None


class SqliteStore(SoleOwner):
    """Sessions in one SQLite file."""

    def __init__(
        self, path: Path, clock: Clock, recorder: Recorder, *, vfs: str | None = None
    ) -> None:
        # The file itself, whatever links lead to it: the lock beside it is the one lock it has.
        self._path = path.resolve()
        self._recorder = recorder
        self._clock = clock
        self._vfs = vfs
        # Sessions that are live, unknown, claimed or on their way to disk: newer than the file.
        self._hot = Index()
        # Not a count: nothing need be written for it, and no two processes have the same.
        self.epoch = int.from_bytes(os.urandom(6))
        # The sessions with a request in the file; few routes keep any.
        self._requests_kept: set[str] = set()
        # The key under which each of them was last handed to the writer; absent: never written.
        self._keys_on_file: dict[str, str | None] = {}
        self._waiting = _Batch()
        self._writing: _Batch | None = None
        self._full = False
        self._broken: str | None = None
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._log: LogCopier
        self._reader: apsw.Connection
        self._looking: apsw.Cursor  # of the reader; whoever asks takes all rows, so none stays open
        self._loop: asyncio.AbstractEventLoop
        self._lock_file: int | None = None
        self._flush_due = False
        self._closing = threading.Event()
        # The keys on file, once they have been read; until then every key may be there.
        self._known = KnownKeys()
        self._all_known = False
        self._reading_keys: asyncio.Task[None] | None = None

    # --- opening and closing ------------------------------------------------------------------

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as opened:  # closed again if anything fails
            try:
                writer = await self._opened(opened)
                listed = self._listed_on_file()
                kept = self._reader.execute(_REQUESTS_KEPT)
                self._requests_kept = {str(session_id) for (session_id,) in kept}
            except apsw.Error as error:
                message = f"cannot open the store {self._path}: {error}"
                raise StoreUnavailable(message) from None
            except OSError as error:
                why = f"{error.strerror} ({error.filename})"
                message = f"cannot open the store {self._path}: {why}"
                raise StoreUnavailable(message) from None
            for session in listed:
                self._hot.put(session)
                self._keys_on_file[session.id] = session.key_hash
            self._log = self._copier()
            self._thread = threading.Thread(
                target=self._write_batches, args=(writer,), name="sqlite", daemon=True
            )
            self._thread.start()
            self._closing.clear()
            self._reading_keys = self._loop.create_task(self._learn_keys())
            opened.pop_all()

    async def _opened(self, opened: contextlib.ExitStack) -> apsw.Connection:
        """The lock, the file and the reader; returns the writer's connection."""
        folder = self._path.parent
        new = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        opened.callback(self._unlock)
        await self._lock()
        writer = await asyncio.to_thread(self._migrated)
        opened.callback(writer.close)
        # The names must survive what the file survives.
        for each in (folder, *(each.parent for each in new)):
            await asyncio.to_thread(sync_folder, each)
        self._reader = self._connect(read_only=True)
        opened.callback(self._reader.close)
        self._looking = self._reader.cursor()
        return writer

    def _listed_on_file(self) -> list[Session]:
        """What is live or unknown. A start that could not read one of them would forget it."""
        rows = self._reader.execute("SELECT id, doc FROM sessions WHERE listed")
        sessions: list[Session] = []
        for session_id, doc in rows:
            try:
                sessions.append(decode(_blob(doc)))
            except (StoreUnavailable, ValueError):
                message = f"the store {self._path} holds a session it cannot read: {session_id}"
                raise StoreUnavailable(message) from None
        return sessions

    async def _learn_keys(self) -> None:
        """Read the keys on file beside the payments; a million take some seconds."""
        with contextlib.suppress(apsw.Error):  # then every key is looked for, as before
            on_file = await asyncio.to_thread(self._keys_on_disk)
            self._known.join(on_file)
            self._all_known = not self._closing.is_set()

    def _keys_on_disk(self) -> KnownKeys:
        found = KnownKeys()
        connection = self._connect(read_only=True)
        try:
            for (key,) in connection.execute(_ALL_KEYS):
                found.add(str(key))
                if self._closing.is_set():
                    break
        finally:
            connection.close()
        return found

    async def close(self) -> None:
        if self._thread is None:
            return
        self._closing.set()
        if self._reading_keys is not None:
            await self._reading_keys
        if self.trouble is None:
            await self._do(lambda _: 0)  # behind everything that was accepted
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)
        self._thread = None
        self._reader.close()
        await asyncio.to_thread(self._log.close)
        self._unlock()

    async def _lock(self) -> None:
        """Take the file for this process. The system lets go of it even after kill -9, though a
        moment later: the one before may just be dying, so it is asked for a while.
        """
        self._lock_file = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                await self._clock.sleep(_LOCK_WAIT_SECONDS)
            else:
                return
        message = f"the store {self._path} is in use by another Holdfast"
        raise StoreUnavailable(message)

    def _unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _connect(self, *, read_only: bool = False) -> apsw.Connection:
        if not read_only:
            # The file is made by us, so that nobody else can read it.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = apsw.Connection(str(self._path), vfs=self._vfs)
        with _closed_if_it_fails(connection):
            connection.set_busy_timeout(5000)
            # One by one: of several in a text, those behind one that answers are not carried out.
            if connection.pragma("journal_mode", "wal") != "wal":
                message = f"the store {self._path} is where SQLite can keep no write-ahead log"
                raise StoreUnavailable(message)
            # Full, not NORMAL: with NORMAL the last commits may roll back when the power goes.
            connection.pragma("synchronous", "full")
            connection.pragma("mmap_size", 0)
            connection.pragma("temp_store", "memory")
            connection.pragma("wal_autocheckpoint", 0)  # the copier of the log does it
            if read_only:
                connection.pragma("query_only", "on")
        return connection

    def _copier(self) -> LogCopier:
        return LogCopier(self._path, self._connect)

    def _migrated(self) -> apsw.Connection:
        connection = self._connect()
        with _closed_if_it_fails(connection):
            version = connection.pragma("user_version")
            if version > len(MIGRATIONS):
                message = (
                    f"the store {self._path} was written by a newer Holdfast "
                    f"(schema {version}, this one knows {len(MIGRATIONS)})"
                )
                raise StoreUnavailable(message)
            for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
                with connection:
                    connection.execute(script.read_text(encoding="utf-8"))
                    connection.pragma("user_version", number)
        return connection

    @property
    def trouble(self) -> str | None:
        return self._broken or (_FULL if self._full else None)

    @property
    def broken(self) -> str | None:
        return self._broken

    # --- claims and commits -------------------------------------------------------------------

    async def claim(self, session: Session, expected_version: int) -> None:
        self._check(session.id, expected_version)
        key = session.key_hash
        holder = self._hot.with_key(key)
        if holder is None and (not self._all_known or self._known.may_hold(key or "")):
            holder = self._cold(_BY_KEY, key)
        if holder is not None and holder.id != session.id:
            raise KeyTaken(holder)
        holder = self._holder(session)
        if holder is not None:
            raise OrderTaken(holder)
        self._hot.put(session)

    def _holder(self, session: Session) -> Session | None:
        """The other session that locks the order of one that would lock it."""
        if not session.locks_order:
            return None
        holder = self._hot.locking(session) or self._cold(
            _BY_LOCKED_ORDER, session.order_ref, session.operation, session.id
        )
        # What frees the order may be on its way to the file still; memory knows.
        return holder if holder is not None and holder.locks_order else None

    def commit(
        self,
        session: Session,
        expected_version: int,
        answer: bytes | None,
        request: bytes | None = None,
    ) -> asyncio.Future[None]:
        session_id = session.id
        hot = self._check(session_id, expected_version)
        if session.begins_send and self._holder(session) is not None:
            raise StoreUnavailable(CHARGED_AFTER_ALL)
        keys = self._keys_on_file
        if session_id in keys:
            statement = _UPDATE if keys[session_id] == session.key_hash else _BIND
        else:  # claimed and never written, or long settled and not in memory any more
            statement = _UPDATE if hot is None else _INSERT
        self._hot.put(session)
        if statement is not _UPDATE and session.key_hash is not None:
            self._known.add(session.key_hash)
        keys[session_id] = session.key_hash
        done = self._loop.create_future()
        listed = session.listed
        if request is not None:
            self._requests_kept.add(session_id)
        drop = not listed and session_id in self._requests_kept
        write = _Write(session, listed, statement, answer, request, drop, session.updated_at, done)
        self._waiting.writes.append(write)
        if self._writing is None and not self._flush_due:
            self._flush_soon()
        return done

    def _check(self, session_id: str, expected_version: int) -> Session | None:
        """Whether a write is taken, and this one. Returns what memory holds of the session."""
        if self._full or self._broken is not None:
            raise self._unavailable()
        hot = self._hot.by_id.get(session_id)
        if hot is not None:
            if hot.version != expected_version:
                raise Conflict(hot)
        elif expected_version != 0:  # else it is new: its id was made just now
            cold = self._cold(_BY_ID, session_id)
            if cold is None or cold.version != expected_version:
                raise Conflict(cold)
        return hot

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(self._broken or _FULL)

    # --- reading ------------------------------------------------------------------------------

    def _current(self, session_id: str) -> Session | None:
        return self._hot.by_id.get(session_id) or self._cold(_BY_ID, session_id)

    def _cold(self, sql: str, *values: str | None) -> Session | None:
        """A session from the file, unless memory knows better."""
        if values[0] is None:
            return None
        try:
            rows = self._looking.execute(sql, values).fetchall()
        except apsw.Error as error:
            raise StoreUnavailable(str(error)) from None
        if not rows:
            return None
        session = decode(_blob(rows[0][0]))
        return self._hot.by_id.get(session.id, session)

    async def get(self, session_id: str) -> Session | None:
        await self._settled(session_id)
        return self._current(session_id)

    async def _settled(self, session_id: str) -> None:
        """Wait for what is on its way to the file: it can still fail, and nobody may be told of it
        before.
        """
        while (batch := self._carrying(session_id)) is not None:
            batch.back = batch.back or asyncio.Event()
            await batch.back.wait()

    def _carrying(self, session_id: str) -> _Batch | None:
        """The batch on its way that holds the session."""
        for batch in (self._writing, self._waiting):
            if batch is not None and any(w.session.id == session_id for w in batch.writes):
                return batch
        return None

    async def answer(self, session_id: str) -> bytes | None:
        return await self._sealed(_ANSWER, session_id)

    async def request(self, session_id: str) -> bytes | None:
        return await self._sealed(_REQUEST, session_id)

    async def _sealed(self, sql: str, session_id: str) -> bytes | None:
        await self._settled(session_id)
        try:
            rows = self._looking.execute(sql, (session_id,)).fetchall()
        except apsw.Error as error:
            raise StoreUnavailable(str(error)) from None
        return _blob(rows[0][0]) if rows else None

    async def search(self, query: Query) -> Page:
        # All that are listed are in memory.
        if query.listed_only or query.state in LIVE or query.outcome is Outcome.UNKNOWN:
            return page_of(self._hot.by_id.values(), query)
        try:
            return await asyncio.to_thread(self._search, query)
        except apsw.Error as error:
            raise StoreUnavailable(str(error)) from None

    def _search(self, query: Query) -> Page:
        connection = self._connect(read_only=True)
        try:
            total = int(connection.execute(*counting(query, "?")).get)
            sessions = [decode(_blob(doc)) for (doc,) in connection.execute(*finding(query, "?"))]
        finally:
            connection.close()
        return Page(sessions[: query.limit], min(total, COUNTED), len(sessions) > query.limit)

    @override
    async def listed(self) -> list[Session]:
        return [session for session in self._hot.by_id.values() if session.listed]

    async def purge(self, *, answers_before: int, sessions_before: int) -> tuple[int, int]:
        answers = await self._purge(answers_before, _OLD_ANSWERS, _drop_answer)
        sessions = await self._purge(sessions_before, _OLD_SESSIONS, _drop_session)
        return answers, sessions

    async def _purge(
        self, before: int, finding: str, drop: Callable[[apsw.Cursor, int, int], int]
    ) -> int:
        """Drop what is old, a few at a time and then a longer pause: payments go in between."""
        try:
            old = iter(await asyncio.to_thread(self._numbers, finding, before))
        except apsw.Error as error:
            raise StoreUnavailable(str(error)) from None
        dropped, rows = 0, _PURGE_ROWS
        while some := tuple(islice(old, rows)):
            if self.trouble is not None:
                raise self._unavailable()

            def drop_some(cursor: apsw.Cursor, some: tuple[int, ...] = some) -> int:
                return sum(drop(cursor, number, before) for number in some)

            begun = self._clock.monotonic()
            dropped += await self._do(drop_some)
            took = self._clock.monotonic() - begun
            rows = max(1, rows // 2) if took > _PURGE_SECONDS else min(_PURGE_ROWS, rows * 2)
            await self._clock.sleep(_PURGE_PAUSES * took)
        return dropped

    def _numbers(self, finding: str, before: int) -> list[int]:
        connection = self._connect(read_only=True)
        try:
            return [int(number) for (number,) in connection.execute(finding, (before,))]
        finally:
            connection.close()

    # --- the writer ---------------------------------------------------------------------------

    async def _do(self, work: Callable[[apsw.Cursor], int]) -> int:
        """Have a chore done; returns what `work` returned once that is durable."""
        chore = _Chore(work, self._loop.create_future())
        self._waiting.chores.append(chore)
        if self._writing is None and not self._flush_due:
            self._flush_soon()
        return await chore.done

    def _flush_soon(self) -> None:
        """At the end of this turn of the loop, so that everything of this turn is in it."""
        self._flush_due = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        batch = self._waiting
        if self._writing is None and (batch.writes or batch.chores):
            self._waiting = _Batch()
            self._hand_over(batch)

    def _hand_over(self, batch: _Batch) -> None:
        self._writing = batch
        batch.handed_over = self._clock.monotonic()
        self._batches.put(batch)

    def _write_batches(self, connection: apsw.Connection) -> None:
        """The writer thread: one transaction per batch, until None comes."""
        cursor = connection.cursor()
        connection.set_wal_hook(self._log.grew)
        while (batch := self._batches.get()) is not None:
            try:
                cursor.execute("BEGIN IMMEDIATE")
                for write in batch.writes:
                    write.carry_out(cursor)
                for chore in batch.chores:
                    chore.result = chore.work(cursor)
                cursor.execute("COMMIT")
            except Exception as error:  # noqa: BLE001 -- nobody may be told "written", whatever it is
                batch.error = error
                _roll_back(connection)
            self._loop.call_soon_threadsafe(self._written, batch)
        connection.close()

    def _written(self, batch: _Batch) -> None:
        self._writing = None
        if batch.error is not None:
            self._failed(batch)
            return
        took = self._clock.monotonic() - batch.handed_over
        self._recorder.note(StoreTimed("commit", took))
        hot = self._hot.by_id
        for write in batch.writes:
            session_id = write.session.id
            # Memory lets go of what has an end, unless there is a newer version of it by now.
            if not write.listed and hot.get(session_id) is write.session:
                self._hot.remove(session_id)
                del self._keys_on_file[session_id]
                self._requests_kept.discard(session_id)
            if not write.done.done():
                write.done.set_result(None)
        for chore in batch.chores:
            if not chore.done.done():
                chore.done.set_result(chore.result)
        if batch.back is not None:
            batch.back.set()
        # Not at once: what still comes in this turn goes with it, and under load that is much.
        self._flush_soon()

    def _failed(self, batch: _Batch) -> None:
        """Nothing of the batch is durable, nor of what waits behind it."""
        error = batch.error
        if isinstance(error, apsw.FullError):
            self._full = True
            self._loop.call_later(_PROBE_EVERY_SECONDS, self._probe)
            reason = _FULL
        elif isinstance(error, apsw.ConstraintError):
            # Claimed by what a write said that then failed. The file is in order, and so is memory
            # once these are forgotten; whoever asked may ask again.
            reason = "the session contradicts the store"
        else:
            self._broken = f"writing failed ({type(error).__name__}: {error}); restart needed"
            reason = self._broken
        failed = (batch, self._waiting)
        self._waiting = _Batch()
        # Told first (they hear of it in the loop's next turn): reading back may fail as well.
        for each in failed:
            waiting = [write.done for write in each.writes] + [do.done for do in each.chores]
            for done in waiting:
                if not done.done():
                    done.set_exception(StoreUnavailable(reason))
            if each.back is not None:
                each.back.set()
        try:
            self._forget(write.session for each in failed for write in each.writes)
        except StoreUnavailable as unreadable:
            self._broken = f"{reason}; nor can it be read ({unreadable}); restart needed"

    def _forget(self, sessions: Iterable[Session]) -> None:
        """Back to what the file says about them."""
        for session in sessions:
            self._hot.remove(session.id)
            self._keys_on_file.pop(session.id, None)
            stored = self._cold(_BY_ID, session.id)
            if stored is not None and stored.listed:
                self._hot.put(stored)
                self._keys_on_file[stored.id] = stored.key_hash

    def _probe(self) -> None:
        """Try a write; a full disk that takes it is not full any more."""

        def write(cursor: apsw.Cursor) -> int:
            cursor.execute("INSERT OR REPLACE INTO probe VALUES (1, ?)", (now,))
            return 1

        now = self._clock.now_ms()
        probe = _Chore(write, self._loop.create_future())
        probe.done.add_done_callback(self._probed)
        self._hand_over(_Batch(chores=[probe]))

    def _probed(self, done: asyncio.Future[int]) -> None:
        if done.exception() is None:
            self._full = False


@contextlib.contextmanager
def _closed_if_it_fails(connection: apsw.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _roll_back(connection: apsw.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except apsw.Error:
        pass  # the first error is the one that counts; SQLite rolls back when it next opens


def _blob(value: object) -> bytes:
    """A BLOB column, as the type it has."""
    if isinstance(value, bytes):
        return value
    message = f"a document or an answer is {type(value).__name__}, not bytes"
    raise StoreUnavailable(message)


def _drop_answer(cursor: apsw.Cursor, number: int, before: int) -> int:
    return len(cursor.execute(_DROP_ANSWER, (number, before)).fetchall())


def _drop_session(cursor: apsw.Cursor, number: int, before: int) -> int:
    dropped = len(cursor.execute(_DROP_SESSION, (number, before)).fetchall())
    if dropped:  # its answer may not outlive it: the number can be given again
        cursor.execute("DELETE FROM answers WHERE session = ?", (number,))
    return dropped
