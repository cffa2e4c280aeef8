"""The shared store: PostgreSQL, one statement per transition, each a transaction of its own.

Rule 1: a commit is acted on only once the server has acknowledged it synchronously. When nobody can
        say what became of one (the connection broke, the server did not answer), it is carried out
        again: either it is new, or its row is found by the number that write gave it and is written
        once more, which the log keeps behind the first. Nothing is ever decided on a read alone.
Rule 2: the lease is the server's to give and this process's to doubt. It ends on the server by the
        server's clock, and here earlier, by a clock that nobody can set.
Rule 3: an intent is fenced by the lease, in the very statement that writes it. What a gateway has
        answered is not: it is written, whoever brings it, over the version before.
Rule 4: what was acknowledged is asked for again on every other server, before anything is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from math import inf
from secrets import randbits

import asyncpg

from proxy import __version__
from proxy.core.events import StoreTimed
from proxy.core.session import Session
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
from proxy.stores.acked import OTHER_KEY, Acked, lost
from proxy.stores.codec import decode, encode
from proxy.stores.index import CHARGED_AFTER_ALL
from proxy.stores.postgres_server import Doubt, Row, Server, migrate
from proxy.stores.searching import counting, finding

# Of a lease: how much earlier it ends here than on the server.
_MARGIN = 0.25
# How long a write whose fate is unknown is pursued before the payment hears "unavailable".
_DOUBT_SECONDS = 2.0
_AGAIN_SECONDS = 0.05
_PURGE_ROWS, _PURGE_FEWEST = 100, 10  # per statement; fewer where these take longer:
_PURGE_SECONDS = 0.005  # what a payment may wait behind them
_SWEEP_ROWS = 100  # per sweeper and round, so that those who sweep share
_OP_BITS = 63

_COLUMNS = (
    "id, key_hash, order_ref, operation, user_ref, gateway, started_at, version, state, outcome, "
    "listed, finished_at, sender, doc, op, locks_order, displaced"
)
_VALUES = "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17"
# The order may also be held by a session whose charge came to light while another had the lock.
_CLAIM = f"""
INSERT INTO sessions ({_COLUMNS}, confirmed) SELECT {_VALUES}, 0
WHERE NOT $16 OR NOT EXISTS (SELECT 1 FROM sessions
                             WHERE order_ref = $3 AND operation = $4 AND displaced)
ON CONFLICT DO NOTHING RETURNING id
"""  # noqa: S608 -- our own text; the values are bound
_CLAIM_AGAIN = f"""
UPDATE sessions SET ({_COLUMNS}, confirmed, sweeper) = ({_VALUES}, 0, NULL)
WHERE id = $1 AND version = $18
  AND (NOT $16 OR NOT EXISTS (SELECT 1 FROM sessions
                              WHERE order_ref = $3 AND operation = $4 AND displaced AND id <> $1))
RETURNING id
"""  # noqa: S608
_HOLDERS = """
SELECT id, key_hash, version, op, doc FROM sessions WHERE id = $1 OR key_hash = $2
    OR ($3 AND order_ref = $4 AND operation = $5 AND (locks_order OR displaced))
"""
# $19: the epoch of the intent, if it is one; its lease is held by whoever made the mark $20, and no
# other session of its order was charged after all.
_COMMIT = f"""
WITH moved AS (
    UPDATE sessions SET ({_COLUMNS}, confirmed, sweeper) = ({_VALUES}, 0, NULL)
    WHERE id = $1 AND version = $18
      AND ($19::bigint IS NULL OR EXISTS (SELECT 1 FROM epochs
           WHERE epoch = $19 AND mark = $20 AND NOT closed AND lease_until > now()))
      AND ($19 IS NULL OR NOT $16 OR NOT EXISTS (SELECT 1 FROM sessions
           WHERE order_ref = $3 AND operation = $4 AND displaced AND id <> $1))
    RETURNING id
), answered AS (
    INSERT INTO answers SELECT id, $21, $22 FROM moved WHERE $22::bytea IS NOT NULL
    ON CONFLICT (session) DO UPDATE SET kept_at = EXCLUDED.kept_at, sealed = EXCLUDED.sealed
), asked AS (
    INSERT INTO requests SELECT id, $23 FROM moved WHERE $23::bytea IS NOT NULL AND $11
    ON CONFLICT (session) DO UPDATE SET sealed = EXCLUDED.sealed
), dropped AS (
    DELETE FROM requests USING moved WHERE session = moved.id AND NOT $11
)
SELECT id FROM moved
"""  # noqa: S608
# A fresh write on the row: once it is acknowledged, so is all that stands before it in the log.
_CONFIRM = """
UPDATE sessions SET confirmed = confirmed + 1 WHERE id = $1 AND version = $2 AND op = $3
RETURNING id
"""
_BY_ID = "SELECT doc FROM sessions WHERE id = $1"
_VERSIONS = "SELECT id, version FROM sessions WHERE id = ANY($1::text[])"
_ANSWER = "SELECT sealed FROM answers WHERE session = $1"
_REQUEST = "SELECT sealed FROM requests WHERE session = $1"
_LISTED = "SELECT doc FROM sessions WHERE listed"

_REGISTER = """
INSERT INTO epochs (mark, lease_until, version)
VALUES ($1, now() + make_interval(secs => $2), $3) RETURNING epoch
"""
_BEAT = """
WITH beat AS (
    UPDATE epochs SET lease_until = now() + make_interval(secs => $3)
    WHERE epoch = $1 AND mark = $2 AND NOT closed RETURNING epoch
)
SELECT EXISTS (SELECT 1 FROM beat) AS alive, generation, regressed,
       (SELECT min(epoch) FROM epochs WHERE NOT closed) AS first FROM meta
"""
_CLOSE = "UPDATE epochs SET closed = true WHERE epoch = $1 AND mark = $2"
_CLOSE_OVERDUE = "UPDATE epochs SET closed = true WHERE NOT closed AND lease_until < now()"
# A session stays with the sweeper that took it until that one has written it or is gone itself. The
# conditions are on the row alone: a row that changed while it was waited for is not joined anew.
_SWEEP = """
WITH alive AS MATERIALIZED (SELECT array_agg(epoch) AS epochs FROM epochs WHERE NOT closed),
taken AS MATERIALIZED (
    SELECT id FROM sessions WHERE listed AND sender <> ALL((SELECT epochs FROM alive)::bigint[])
       AND (sweeper IS NULL OR sweeper = $1 OR sweeper <> ALL((SELECT epochs FROM alive)::bigint[]))
    LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE sessions SET sweeper = $1 FROM taken WHERE sessions.id = taken.id RETURNING doc
"""
_BIND_KEY = "UPDATE meta SET key_mark = coalesce(key_mark, $1) RETURNING key_mark"
_REGRESSED = "UPDATE meta SET regressed = $1 WHERE regressed IS NULL"

_PURGE_ANSWERS = """
DELETE FROM answers WHERE session IN (
    SELECT session FROM answers WHERE kept_at < $1 AND kept_at >= $3
    ORDER BY kept_at LIMIT $2 FOR UPDATE SKIP LOCKED
) RETURNING kept_at AS place
"""
# What finished before a time has started before it: that keeps the look-up short.
_PURGE_SESSIONS = """
WITH old AS MATERIALIZED (
    SELECT id FROM sessions
    WHERE started_at < $1 AND started_at >= $3 AND NOT listed AND finished_at < $1
    ORDER BY started_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
), theirs AS (DELETE FROM answers USING old WHERE session = old.id)
DELETE FROM sessions USING old WHERE sessions.id = old.id RETURNING started_at AS place
"""
_PURGE_EPOCHS = "DELETE FROM epochs WHERE closed AND lease_until < now() - interval '1 day'"


class PostgresStore:
    """Sessions on a PostgreSQL server that several processes share."""

    shared = True
    broken = None
    promise = None

    def __init__(self, url: str, lease: float, clock: Clock, recorder: Recorder) -> None:
        self._url = url
        self._lease = lease
        self._clock = clock
        self._recorder = recorder
        self._server = Server(url, self._met)
        self._acked = Acked(clock)
        self._mark = randbits(_OP_BITS)
        self.epoch = 0
        self.leads = False
        self.trouble: str | None = "it is not open"
        self.regressed: str | None = None
        self._generation = 0
        self._lease_until = -inf  # monotonic seconds
        self._writing: set[asyncio.Task[None]] = set()

    # --- opening, closing and the lease -------------------------------------------------------

    async def open(self) -> None:
        _ = await migrate(self._url, only_if_empty=True)
        await self._server.open()
        try:
            await self.heartbeat()
        except StoreUnavailable:
            await self._server.close()
            raise

    async def close(self) -> None:
        await asyncio.gather(*self._writing, return_exceptions=True)
        if self.trouble is None:  # what it had in flight need not wait for the lease to run out
            with contextlib.suppress(StoreUnavailable):
                await self._server.durably(_CLOSE, self.epoch, self._mark)
        self._lease_until, self.trouble = -inf, "it is closed"
        await self._server.close()

    async def bind(self, mark: str) -> None:
        (row,) = await self._server.durably(_BIND_KEY, mark)
        if row["key_mark"] != mark:
            raise StoreUnavailable(OTHER_KEY)

    def lease_seconds(self) -> float:
        return self._lease_until - self._clock.monotonic()

    async def heartbeat(self) -> None:
        try:
            if not await self._beat():
                self._lease_until = -inf
                (row,) = await self._server.apart(_REGISTER, self._mark, self._lease, __version__)
                self.epoch = row["epoch"]
                await self._beat()
        except StoreUnavailable as error:
            self.trouble = str(error)
            raise
        self.trouble = None

    async def _beat(self) -> bool:
        """Renew the lease, and hear what else there is to know; False: there is none any more."""
        asked = self._clock.monotonic()  # the lease began later than this
        (row,) = await self._server.apart(_BEAT, self.epoch, self._mark, self._lease)
        self._hear(row["generation"], row["regressed"])
        if not row["alive"]:
            return False
        self.leads = row["first"] == self.epoch
        self._lease_until = asked + self._lease * (1 - _MARGIN)
        return True

    def _hear(self, generation: int, regressed: str | None) -> None:
        if generation < self._generation:
            self.regressed = "the store was put back to before the last accepted loss"
        elif generation > self._generation:
            self._generation, self.regressed = generation, regressed
        else:
            self.regressed = self.regressed or regressed

    async def _met(self, connection: Row) -> None:
        """Ask a server that is another than before, or was restarted, for what was acknowledged."""
        acked = self._acked.recent()
        rows = await connection.fetch(_VERSIONS, [session.id for session in acked])
        missing = lost(acked, {row["id"]: row["version"] for row in rows})
        if missing is not None:
            self.regressed = self.regressed or missing
            # For those who share it, and for this process after a restart.
            await connection.execute(_REGRESSED, missing)
            self._acked.forget()

    async def abandoned(self) -> list[Session]:
        await self._server.durably(_CLOSE_OVERDUE)
        rows = await self._server.quickly(_SWEEP, self.epoch, _SWEEP_ROWS)
        return [self._read(row) for row in rows]

    # --- claims and commits -------------------------------------------------------------------

    async def claim(self, session: Session, expected_version: int) -> None:
        values = _values(session, locks_order=session.locks_order)

        async def attempt(_: int) -> bool:
            with contextlib.suppress(asyncpg.UniqueViolationError):
                if expected_version:
                    rows = await self._server.quickly(_CLAIM_AGAIN, *values, expected_version)
                else:
                    rows = await self._server.quickly(_CLAIM, *values)
                if rows:
                    return True
            return await self._claimed_before(session, expected_version, op=values[14])

        await self._until_sure(attempt)

    async def _claimed_before(self, session: Session, expected_version: int, op: object) -> bool:
        """Whether it is this very claim that has it; False: nobody has it any more. Raises if
        somebody else has it.
        """
        rows = await self._server.quickly(
            _HOLDERS,
            session.id,
            session.key_hash,
            session.locks_order,
            session.order_ref,
            session.operation,
        )
        own = next((row for row in rows if row["id"] == session.id), None)
        if own is not None and own["op"] == op:
            return True
        if (own["version"] if own is not None else 0) != expected_version:
            raise Conflict(self._read(own) if own is not None else None)
        others = [row for row in rows if row is not own]
        for row in others:
            if session.key_hash is not None and row["key_hash"] == session.key_hash:
                raise KeyTaken(self._read(row))
        if others:
            raise OrderTaken(self._read(others[0]))
        return False

    async def commit(
        self,
        session: Session,
        expected_version: int,
        answer: bytes | None,
        request: bytes | None = None,
    ) -> None:
        begun = self._clock.monotonic()
        # A task of its own: what was begun is carried through, whoever stops waiting for it.
        writing = asyncio.ensure_future(self._commit(session, expected_version, answer, request))
        self._writing.add(writing)
        writing.add_done_callback(self._written)
        await asyncio.shield(writing)
        self._recorder.note(StoreTimed("commit", self._clock.monotonic() - begun))

    def _written(self, writing: asyncio.Task[None]) -> None:
        self._writing.discard(writing)
        if not writing.cancelled():
            writing.exception()  # looked at, also where nobody waits for it any more

    async def _commit(
        self, session: Session, expected_version: int, answer: bytes | None, request: bytes | None
    ) -> None:
        sender = session.sender if session.begins_send else None
        more = (expected_version, sender, self._mark, session.updated_at, answer, request)
        values = _values(session, locks_order=session.locks_order)

        async def attempt(doubts: int) -> bool:
            nonlocal values
            try:
                if await self._server.durably(_COMMIT, *values, *more):
                    return True
            except asyncpg.UniqueViolationError as error:
                if error.constraint_name != "sessions_locked_order" or not values[15]:
                    message = "the session contradicts the store"
                    raise StoreUnavailable(message) from None
                # A charge that comes to light while another session has its order. It is true all
                # the same.
                values = _values(session, locks_order=False)
                return False
            op = values[14]
            if doubts and await self._server.durably(_CONFIRM, session.id, session.version, op):
                return True
            raise await self._why_not(session.id, expected_version)

        await self._until_sure(attempt)
        self._acked.note(session)

    async def _why_not(self, session_id: str, expected_version: int) -> Exception:
        current = await self.get(session_id)
        if current is not None and current.version == expected_version:
            why = "the lease of this process has run out"
            return StoreUnavailable(f"{why}, or {CHARGED_AFTER_ALL}")
        return Conflict(current)

    async def _until_sure(self, attempt: Callable[[int], Awaitable[bool]]) -> None:
        """Try until it is done, or known why not. `attempt` is told how many tries before may have
        been carried out; it returns False to be asked again.
        """
        doubts, give_up = 0, inf
        while True:
            error = StoreUnavailable("the store does not come to rest")
            try:
                if await attempt(doubts):
                    return
            except StoreUnavailable as trouble:
                doubts += isinstance(trouble, Doubt)
                if not doubts:
                    raise
                error = trouble
            now = self._clock.monotonic()
            give_up = min(give_up, now + _DOUBT_SECONDS)
            if now >= give_up:
                raise error
            await self._clock.sleep(_AGAIN_SECONDS)

    # --- reading ------------------------------------------------------------------------------

    async def get(self, session_id: str) -> Session | None:
        rows = await self._server.quickly(_BY_ID, session_id)
        return self._read(rows[0]) if rows else None

    async def answer(self, session_id: str) -> bytes | None:
        rows = await self._server.quickly(_ANSWER, session_id)
        return rows[0]["sealed"] if rows else None

    async def request(self, session_id: str) -> bytes | None:
        rows = await self._server.quickly(_REQUEST, session_id)
        return rows[0]["sealed"] if rows else None

    async def search(self, query: Query) -> Page:
        statement, values = counting(query, "$")
        total = (await self._server.quickly(statement, *values))[0]["total"]
        if not query.listed_only:
            total = min(total, COUNTED)
        statement, values = finding(query, "$")
        sessions = [self._read(row) for row in await self._server.quickly(statement, *values)]
        return Page(sessions[: query.limit], total, len(sessions) > query.limit)

    async def listed(self) -> list[Session]:
        return [self._read(row) for row in await self._server.quickly(_LISTED)]

    async def purge(self, *, answers_before: int, sessions_before: int) -> tuple[int, int]:
        self._acked.purged(sessions_before)
        await self._server.quickly(_PURGE_EPOCHS)
        answers = await self._purge(_PURGE_ANSWERS, answers_before)
        return answers, await self._purge(_PURGE_SESSIONS, sessions_before)

    async def _purge(self, statement: str, before: int) -> int:
        """Carry it out a few rows at a time and then as long a pause: payments go in between. How
        many rows it removed.
        """
        # It goes on from the last one: before that are only rows that are gone, and in the index
        # still until the server's own clean-up.
        removed, place, rows = 0, 0, _PURGE_ROWS
        while True:
            begun = self._clock.monotonic()
            gone = await self._server.quickly(statement, before, rows, place)
            took = self._clock.monotonic() - begun
            removed += len(gone)
            if len(gone) < rows:
                return removed
            place = max(row["place"] for row in gone)
            slow = took > _PURGE_SECONDS
            rows = max(_PURGE_FEWEST, rows // 2) if slow else min(_PURGE_ROWS, rows * 2)
            await self._clock.sleep(took)

    def _read(self, row: Row) -> Session:
        try:
            return decode(row["doc"])
        except ValueError as error:
            message = f"the store {self._server.name} holds a session it cannot read: {error}"
            raise StoreUnavailable(message) from None


def _values(session: Session, *, locks_order: bool) -> tuple[object, ...]:
    """Of `_COLUMNS`, with a new number for the write."""
    return (
        session.id,
        session.key_hash,
        session.order_ref,
        session.operation,
        session.user_ref,
        session.gateway,
        session.started_at,
        session.version,
        session.state,
        session.outcome,
        session.listed,
        session.finished_at,
        session.sender,
        encode(session),
        randbits(_OP_BITS),
        locks_order,
        session.locks_order and not locks_order,
    )
