"""The store on a Redis or Valkey server, for replicas that share it.

Rule 1: every transition is one script (`lua/`), so it happens as a whole or not at all, and only
        over the version it was decided on.
Rule 2: a commit is acknowledged when the server has confirmed it on the same connection: on its
        disk, and on as many replicas as it asks for (`min-replicas-to-write`).
Rule 3: a script whose reply was lost is sent again with the same `op` and finds its own mark. It
        writes something either way, so that a confirmation that follows covers what it found.
Rule 4: the lease decides who may begin a send, by the server's clock. It never decides whether what
        a gateway answered is written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from math import inf

from redis.asyncio import Connection
from redis.exceptions import ResponseError

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
from proxy.stores.redis_server import ROOT, Lane, Script, Server, exchange

SCHEMA = 1
META = f"{ROOT}:meta"
_CLAIM, _COMMIT = Script("claim"), Script("commit")
_HEARTBEAT, _ABANDONED = Script("heartbeat"), Script("abandoned")
_SEARCH = Script("search")
_PURGE_ANSWERS, _PURGE_SESSIONS = Script("purge_answers"), Script("purge_sessions")
_LEASE_SHARE = 0.9  # of the lease is used: two clocks never run quite alike
# Per call: what the server does meanwhile for nobody else takes a few milliseconds at most.
_ABANDONED_MOST = 500
_SEARCH_ROWS = 1000
_READ_DOCS = 250
_PURGE_ROWS = 200

_Place = tuple[str | bytes | int, str | bytes]  # start and id of a session; ("", "") for none


class RedisStore:
    """Sessions on a server. `promise` says what it keeps and what it cannot, once it is open."""

    shared = True
    broken: str | None = None

    def __init__(self, url: str, lease: float, clock: Clock, recorder: Recorder) -> None:
        self._server = Server(url)
        self._clock = clock
        self._lease = lease
        self._lease_ends = -inf  # monotonic
        # Payments have a connection of their own, so that they never wait behind a search.
        self._payments = Lane(
            self._server, self._met, lambda took: recorder.note(StoreTimed("commit", took))
        )
        self._aside = Lane(self._server)
        self._pulse = Lane(self._server, self._met)  # nor does the lease wait behind payments
        self._acked = Acked(clock)
        self._generation = 0
        self._leads = False
        self.epoch = 0
        self.regressed: str | None = None
        self.promise = ""

    @property
    def trouble(self) -> str | None:
        return self._payments.trouble

    @property
    def leads(self) -> bool:
        return self._leads and self.lease_seconds() > 0

    # --- opening and closing ------------------------------------------------------------------

    async def open(self) -> None:
        try:
            await self._look()
            await self.heartbeat()
        except StoreUnavailable:
            await self.close()
            raise
        self.promise = self._server.promise()

    async def bind(self, mark: str) -> None:
        await self._payments.ask("HSETNX", META, "key_mark", mark)
        if await self._payments.ask("HGET", META, "key_mark") != mark.encode():
            raise StoreUnavailable(OTHER_KEY)

    async def close(self) -> None:
        # What it still has in flight, if anything, is unknown from now on.
        if self._payments.trouble is None and self.epoch:
            with contextlib.suppress(StoreUnavailable):
                await self._payments.ask("ZREM", f"{ROOT}:leases", self.epoch)
        for lane in (self._payments, self._aside, self._pulse):
            await lane.close()

    async def _met(self, connection: Connection) -> None:
        """Before anything is asked over a new connection: whether what is there is what was."""
        known = self._acked.recent()
        schema, generation, told, *versions = await exchange(
            connection,
            ("HGET", META, "schema"),
            ("HGET", META, "generation"),
            ("HGET", META, "lost"),
            *(("HGET", _at(session.id), "version") for session in known),
        )
        for reply in (schema, generation, told, *versions):
            if isinstance(reply, ResponseError):
                raise reply
        _check_schema(self._server, schema)
        if schema is None:
            await exchange(connection, ("HSETNX", META, "schema", SCHEMA))
        self._hear(int(generation or 0), bytes(told or b"").decode())
        stored = {s.id: int(version or 0) for s, version in zip(known, versions, strict=True)}
        # Not what a clean-up has dropped meanwhile, nor what was acknowledged since.
        still = {session.id for session in self._acked.recent()}
        # Whatever was accepted: what others missed was looked at, not what is missed here.
        missing = lost((session for session in known if session.id in still), stored)
        if missing is not None:
            # Written down: the others must know, and this process after a restart.
            await exchange(connection, ("HSET", META, "lost", missing))
            self.regressed = missing
            self._acked.forget()

    def _hear(self, generation: int, told: str) -> None:
        """Take in what the store says of its losses, and whether a person has looked at them."""
        if generation < self._generation:
            self.regressed = "the store was put back to before the last accepted loss"
        elif generation > self._generation:
            self._generation, self.regressed = generation, told or None
        else:
            self.regressed = self.regressed or told or None

    # --- the lease ----------------------------------------------------------------------------

    def lease_seconds(self) -> float:
        return self._lease_ends - self._clock.monotonic()

    async def heartbeat(self) -> None:
        asked_at = self._clock.monotonic()
        command = _HEARTBEAT(self.epoch or "", _op(), int(self._lease * 1000))
        epoch, smallest, generation, told = await self._pulse.ask(*command, durable=True)
        lost_it = self.epoch not in {0, int(epoch)}
        self.epoch = int(epoch)
        self._leads = int(smallest) == self.epoch
        self._lease_ends = asked_at + self._lease * _LEASE_SHARE
        self._hear(int(generation), bytes(told).decode())
        if lost_it:  # it ran out, or the server has lost it, and then more than that
            self._payments.meet_again()
        if lost_it or self.trouble is not None:
            await self._look()

    async def _look(self) -> None:
        """Whether payments are taken (again)."""
        await self._payments.ask("HGET", META, "schema")

    async def abandoned(self) -> list[Session]:
        docs = await self._aside.ask(*_ABANDONED(self.epoch, _ABANDONED_MOST))
        return [_session(doc) for doc in docs]

    # --- writing ------------------------------------------------------------------------------

    async def claim(self, session: Session, expected_version: int) -> None:
        command = _CLAIM(session.id, expected_version, *_columns(session))
        said, *more = await self._payments.ask(*command)
        if said == b"key":
            raise KeyTaken(_session(more[0]))
        if said == b"order":
            raise OrderTaken(_session(more[0]))
        if said == b"conflict":
            raise Conflict(_session(more[0]) if more[0] else None)

    async def commit(
        self,
        session: Session,
        expected_version: int,
        answer: bytes | None,
        request: bytes | None = None,
    ) -> None:
        epoch = session.sender if session.begins_send else None
        if epoch is not None and epoch != self.epoch:
            raise StoreUnavailable(_FENCED)
        command = _COMMIT(
            session.id,
            expected_version,
            *_columns(session),
            answer or b"",
            session.updated_at,
            request or b"",
            "" if epoch is None else epoch,
        )
        said, *more = await self._payments.ask(*command, durable=True)
        if said == b"conflict":
            raise Conflict(_session(more[0]) if more[0] else None)
        if said == b"fenced":
            raise StoreUnavailable(_FENCED)
        if said == b"locked":
            raise StoreUnavailable(CHARGED_AFTER_ALL)
        self._acked.note(session)

    # --- reading ------------------------------------------------------------------------------

    async def get(self, session_id: str) -> Session | None:
        doc = await self._field(session_id, "doc")
        return None if doc is None else _session(doc)

    async def answer(self, session_id: str) -> bytes | None:
        return await self._field(session_id, "answer")

    async def request(self, session_id: str) -> bytes | None:
        return await self._field(session_id, "request")

    async def _field(self, session_id: str, name: str) -> bytes | None:
        """Behind everything of this process that is on its way."""
        value = await self._payments.ask("HGET", _at(session_id), name)
        return None if value is None else bytes(value)

    async def listed(self) -> list[Session]:
        ids = await self._aside.ask("ZRANGE", f"{ROOT}:listed", 0, -1)
        return [session for session in await self._read(ids) if session.listed]

    async def _read(self, ids: list[bytes]) -> list[Session]:
        """These sessions, without those that were dropped meanwhile."""
        sessions: list[Session] = []
        for start in range(0, len(ids), _READ_DOCS):
            names = [_at(session_id.decode()) for session_id in ids[start : start + _READ_DOCS]]
            docs = await asyncio.gather(*(self._aside.ask("HGET", name, "doc") for name in names))
            sessions += [_session(doc) for doc in docs if doc is not None]
        return sessions

    async def search(self, query: Query) -> Page:
        index, conditions = _plan(query)
        wanted = query.limit + 1
        if conditions:  # each must be looked at, in the order in which the first page shows them
            most = None if query.listed_only else max(COUNTED, wanted)
            found = await self._found(query, ("", ""), most)
            total = len(found)
        else:  # the index can count by itself
            found = []
            low = "-inf" if query.since is None else query.since
            high = "+inf" if query.until is None else f"({query.until}"
            total = int(await self._aside.ask("ZCOUNT", f"{ROOT}:{index}", low, high))
        if query.after is not None or not conditions:
            found = await self._found(query, query.after or ("", ""), wanted)
        if not query.listed_only:
            total = min(total, COUNTED)
        return Page(await self._read(found[: query.limit]), total, len(found) > query.limit)

    async def _found(self, query: Query, place: _Place, most: int | None) -> list[bytes]:
        """The ids of sessions that match, newest first, from a place on; at most so many."""
        index, conditions = _plan(query)
        low = "" if query.since is None else query.since
        high = "" if query.until is None else query.until
        found: list[bytes] = []
        while True:
            step = _SEARCH(index, low, high, _SEARCH_ROWS, *place, *conditions)
            whole, place, matching = await self._aside.ask(*step)
            found += matching
            if most is not None and len(found) >= most:
                return found[:most]
            if whole:
                return found

    async def purge(self, *, answers_before: int, sessions_before: int) -> tuple[int, int]:
        self._acked.purged(sessions_before)
        answers = await self._purge(_PURGE_ANSWERS, answers_before)
        return answers, await self._purge(_PURGE_SESSIONS, sessions_before)

    async def _purge(self, script: Script, before: int) -> int:
        removed = 0
        while True:
            step = int(await self._aside.ask(*script(before, _PURGE_ROWS)))
            removed += step
            if step < _PURGE_ROWS:
                return removed


_FENCED = "the lease of this process has run out, so it begins no send"


def _at(session_id: str) -> str:
    return f"{ROOT}:session:{session_id}"


def _op() -> str:
    """Marks a call, so that a script that is sent again finds that it was there before."""
    return os.urandom(8).hex()


def _session(doc: bytes | None) -> Session:
    """Raises `StoreUnavailable` for what cannot be read."""
    try:
        return decode(doc or b"")
    except ValueError as error:
        message = f"the store holds a session it cannot read: {error}"
        raise StoreUnavailable(message) from None


def _columns(session: Session) -> tuple[str | bytes | int, ...]:
    """What the scripts take in of a session, in the order of COLUMNS in `session.lua`."""
    order, sender = session.order_ref, session.sender
    return (
        session.version,
        _op(),
        encode(session),
        session.key_hash or "",
        f"lock:{session.operation} {order}" if session.locks_order else "",
        "" if order is None else f"order:{order}",
        "" if session.user_ref is None else f"user:{session.user_ref}",
        session.state.value,
        session.outcome.value,
        session.gateway or "",
        session.started_at,
        session.finished_at or 0,
        "1" if session.listed else "",
        "" if sender is None else sender,
    )


def _plan(query: Query) -> tuple[str, list[str]]:
    """The index that finds the fewest, and what is still to be asked of each: field and value."""
    wanted = {
        "order": None if query.order_ref is None else f"order:{query.order_ref}",
        "user": None if query.user_ref is None else f"user:{query.user_ref}",
        "state": query.state,
        "outcome": query.outcome,
        "gateway": query.gateway,
        "listed": "1" if query.listed_only else None,
    }
    index = wanted["order"] or wanted["user"] or ("listed" if query.listed_only else "started")
    covered = index.partition(":")[0]
    conditions = [
        text
        for name, value in wanted.items()
        if value is not None and name != covered
        for text in (name, str(value))
    ]
    return index, conditions


# --- what an operator does about it ---------------------------------------------------------------


async def migrate(url: str) -> list[str]:
    """Nothing: there is one schema, which the first start writes. Raises `StoreUnavailable` if a
    newer Holdfast has written another.
    """
    server = Server(url)
    lane = Lane(server)
    try:
        _check_schema(server, await lane.ask("HGET", META, "schema"))
    finally:
        await lane.close()
    return []


async def accept_loss(url: str) -> int:
    """What is missing was looked up: trust the store again. Its new generation."""
    lane = Lane(Server(url))
    try:
        generation, _ = await asyncio.gather(
            lane.ask("HINCRBY", META, "generation", 1, durable=True),
            lane.ask("HDEL", META, "lost", durable=True),
        )
        return int(generation)
    finally:
        await lane.close()


def _check_schema(server: Server, schema: bytes | None) -> None:
    if int(schema or 0) > SCHEMA:
        message = (
            f"the store {server.name} was written by a newer Holdfast "
            f"(schema {int(schema or 0)}, this one knows {SCHEMA})"
        )
        raise StoreUnavailable(message)
