"""A PostgreSQL server as the store speaks to it: what it must promise, its schema, and one
statement at a time.

Every statement is a transaction of its own. Those that must be durable go over connections on which
`synchronous_commit` is on, whatever the server's administrator prefers; the others over connections
on which it is off, and are durable with the next that is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from proxy.ports import StoreUnavailable

MIGRATIONS = sorted((Path(__file__).parent / "sql").glob("postgres-*.sql"))

# What asyncpg raises when a server is away, goes away or says no.
TROUBLE = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
# Together 12: eight replicas fit into the hundred connections a server allows by default.
_DURABLE_CONNECTIONS = 7
_QUICK_CONNECTIONS = 4
# Without these a crash of the server's host loses or tears what was acknowledged.
_MUST_BE = (("fsync", "on"), ("full_page_writes", "on"))
_CONNECT_SECONDS = 2.0  # to each host
_WAIT_SECONDS = 5.0  # for a connection, which others may be using
_ANSWER_SECONDS = 3.0
_CLOSE_SECONDS = 2.0
_WARNING = "WARNING"
# Any number: it keeps two that migrate apart.
_MIGRATING = 4_631_072
_LOCK_TIMEOUT = "3s"  # a change of a table waits no longer: every payment would wait behind it

Row = Any  # an asyncpg.Record, which is not typed


class Doubt(StoreUnavailable):
    """Nobody can say whether the statement was carried out."""


class Server:
    """Connections to a server, or to the one of several that takes writes.

    `met` is awaited on the first connection to a server that is not the one before (or that was
    restarted), and before anything else is said to it.
    """

    def __init__(self, url: str, met: Callable[[Row], Awaitable[None]]) -> None:
        self._hosts = _hosts(url)
        self._met = met
        self.name = _name(url)
        self._started: object = None  # when the server we last spoke to did
        self._durable: Any = None
        self._quick: Any = None
        self._lease: Any = None  # one connection of its own

    async def open(self) -> None:
        """Get ready to connect; the first statement does."""
        self._durable = await self._pool("on", _DURABLE_CONNECTIONS)
        self._quick = await self._pool("off", _QUICK_CONNECTIONS)
        self._lease = await self._pool("on", 1)

    async def close(self) -> None:
        """Let go of every connection; of one that does not answer as well."""
        for pool in (self._durable, self._quick, self._lease):
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await pool.close()
            except TROUBLE:
                pool.terminate()

    async def durably(self, statement: str, *values: object) -> list[Row]:
        """What a statement returned, once it would survive a power cut (and, where the server has
        synchronous standbys, its loss). Raises `Doubt`, or `StoreUnavailable` if nothing was sent.
        """
        return await self._ask(self._durable, statement, values)

    async def quickly(self, statement: str, *values: object) -> list[Row]:
        """What a statement returned: a read, or a write that is durable with the next that is."""
        return await self._ask(self._quick, statement, values)

    async def apart(self, statement: str, *values: object) -> list[Row]:
        """As `durably`, and held up by no payment: over a connection that they do not use."""
        return await self._ask(self._lease, statement, values)

    async def _ask(self, pool: Any, statement: str, values: tuple[object, ...]) -> list[Row]:
        try:
            connection = await pool.acquire(timeout=_WAIT_SECONDS)
        except TROUBLE as error:
            raise StoreUnavailable(self._cannot("reach", error)) from None
        warnings: list[str] = []

        def hear(_: object, message: Any) -> None:
            if message.severity_en == _WARNING:
                warnings.append(message.message)

        connection.add_log_listener(hear)
        try:
            rows: list[Row] = await connection.fetch(statement, *values, timeout=_ANSWER_SECONDS)
        except asyncpg.UniqueViolationError:
            raise
        except TROUBLE as error:
            raise Doubt(self._cannot("be sure of", error)) from None
        finally:
            with contextlib.suppress(*TROUBLE):  # then it is closed, and the next one is new
                connection.remove_log_listener(hear)
                await pool.release(connection)
        if warnings:  # somebody ended the wait for the standby: it may be on this server only
            raise Doubt(self._cannot("be sure of", warnings[0]))
        return rows

    async def _pool(self, synchronous_commit: str, size: int) -> Any:
        async def connect(_: object, **more: Any) -> Any:
            return await _connect(self._hosts, **more)

        return await asyncpg.create_pool(
            min_size=0,
            max_size=size,
            connect=connect,
            init=partial(self._look_at, synchronous_commit),
            reset=_leave_as_it_is,
            server_settings={
                "application_name": "holdfast",
                "synchronous_commit": synchronous_commit,
                "jit": "off",
            },
        )

    async def _look_at(self, synchronous_commit: str, connection: Any) -> None:
        """Whether a new connection leads to a server that keeps what it acknowledges."""
        for name, wanted in (("synchronous_commit", synchronous_commit), *_MUST_BE):
            value = await connection.fetchval(f"SHOW {name}")
            if value != wanted:
                message = f"the store {self.name} has {name} = {value}: it must be {wanted}"
                raise StoreUnavailable(message)
        started = await connection.fetchval("SELECT pg_postmaster_start_time()")
        if started != self._started:
            await self._met(connection)
            self._started = started

    def _cannot(self, what: str, error: object) -> str:
        why = str(error).partition("\n")[0] or type(error).__name__
        return f"cannot {what} the store {self.name}: {why}"


async def _connect(hosts: list[str], **more: Any) -> Any:
    """Connect to the one that takes writes. Each has its time: a machine that is gone may not even
    refuse. The one that was right is asked first the next time.
    """
    trouble: Exception = OSError("no host")
    for url in list(hosts):
        try:
            connection = await asyncpg.connect(
                url,
                timeout=_CONNECT_SECONDS,
                command_timeout=_ANSWER_SECONDS,
                target_session_attrs="read-write",
                **more,
            )
        except TROUBLE as error:
            trouble = error
        else:
            hosts.remove(url)
            hosts.insert(0, url)
            return connection
    raise trouble


async def _leave_as_it_is(_: Any) -> None:
    """Instead of a round trip to reset it: no statement leaves anything behind."""


def _name(url: str) -> str:
    """What the operator knows the store by: without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _hosts(url: str) -> list[str]:
    """A URL for each host that the URL names."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]


# --- the schema ---------------------------------------------------------------------------------


async def migrate(url: str, *, only_if_empty: bool = False) -> list[str]:
    """Run the scripts that are missing, all or none of them; their names. What is there and not
    the newest is left alone if `only_if_empty`. Raises `StoreUnavailable`.
    """
    async with _connected(url) as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATING)
        await connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        there = await connection.fetchval("SELECT to_regclass('meta') IS NOT NULL")
        schema, compatible_from = (
            await connection.fetchrow("SELECT schema, compatible_from FROM meta")
            if there
            else (0, 1)
        )
        if compatible_from > len(MIGRATIONS):
            message = (
                f"the store {_name(url)} was written by a newer Holdfast "
                f"(schema {schema}, this one knows {len(MIGRATIONS)})"
            )
            raise StoreUnavailable(message)
        missing = MIGRATIONS[schema:]
        if missing and schema and only_if_empty:
            message = (
                f"the store {_name(url)} has schema {schema}, this Holdfast needs "
                f"{len(MIGRATIONS)}: run `holdfast migrate --config FILE` first"
            )
            raise StoreUnavailable(message)
        for number, script in enumerate(missing, start=schema + 1):
            await connection.execute(script.read_text(encoding="utf-8"))
            await connection.execute("UPDATE meta SET schema = $1", number)
    return [script.stem for script in missing]


async def accept_loss(url: str) -> int:
    """What is missing was looked up: trust the store again. Its new generation."""
    async with _connected(url) as connection:
        return int(
            await connection.fetchval(
                "UPDATE meta SET generation = generation + 1, regressed = NULL RETURNING generation"
            )
        )


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    try:
        connection = await _connect(_hosts(url), server_settings={"synchronous_commit": "on"})
        try:
            yield connection
        finally:
            await connection.close(timeout=_CLOSE_SECONDS)
    except TROUBLE as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        message = f"cannot open the store {_name(url)}: {why}"
        raise StoreUnavailable(message) from None
