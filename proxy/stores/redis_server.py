"""A Redis or Valkey server as the store speaks to it: what it must promise, and one pipelined
connection whose scripts can be sent again.

redis-py is used for its connections only. Its clients send a command again by themselves when the
answer is lost; here that is decided in one place, where it is known to be harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from proxy.ports import StoreUnavailable

ROOT: Final = "{holdfast}"  # in braces: all keys of a cluster's one slot

# What a server or the way to it does when it is away, goes away or says no.
_TROUBLE = (RedisError, OSError, EOFError)
# Of these it is known that the server is there: redis-py counts some of them as broken connections.
_SAID_NO = (ResponseError, AuthenticationError, BusyLoadingError)
_CONNECT_SECONDS = 1.0
_ANSWER_SECONDS = 1.0
# How long what was sent is sent again before whoever asked is told that it cannot be known.
_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.05
_CONFIRM_MS = 500
# Commands that travel together. Some 10 ms of the server's time.
_MOST = 256
_DEFAULT_PORT = 6379

# A server that is set up otherwise loses payments, so there is no way round these.
_MUST_BE = (
    ("appendonly", "yes", "a restart loses what it acknowledged"),
    ("appendfsync", "always", "a power cut loses what it acknowledged"),
    ("maxmemory-policy", "noeviction", "it throws payments away when its memory is full"),
)
_SETTINGS = (*(name for name, _, _ in _MUST_BE), "maxmemory", "min-replicas-to-write")

_LUA = Path(__file__).parent / "lua"
_SHARED = (_LUA / "session.lua").read_text(encoding="utf-8")

Command = Sequence[str | bytes | int]
# What a server answers: bytes, int, None, a list of these, or an error.
Reply = Any


class Script:
    """A Lua script: its text, and the name the server knows it by."""

    all: Final[list[Script]] = []

    def __init__(self, name: str) -> None:
        self.text = _SHARED + (_LUA / f"{name}.lua").read_text(encoding="utf-8")
        self._sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        Script.all.append(self)

    def __call__(self, *args: str | bytes | int) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self._sha, 1, ROOT, *args)


@dataclass(slots=True)
class Asked:
    """A command, and who waits for its reply. `durable`: until what it wrote is."""

    command: Command
    durable: bool
    done: asyncio.Future[Reply] = field(repr=False)


class Server:
    """Where the server is, and what it promises. Its connections are checked before they are used:
    after a failover it may be another server, set up in another way.
    """

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._user, self._password = where.username, where.password
        self._hosts = [_host(each) for each in where.netloc.rpartition("@")[2].split(",")]
        self.name = f"redis://{where.netloc.rpartition('@')[2]}{where.path}"
        name = where.path.strip("/")
        self._master = name if "sentinel" in parse_qs(where.query, keep_blank_values=True) else None
        if self._master is None and (len(self._hosts) > 1 or not (name or "0").isdigit()):
            message = (
                f"{self.name}: write redis://HOST:PORT/NUMBER, or several sentinels and ?sentinel"
            )
            raise StoreUnavailable(message)
        self._database = 0 if self._master is not None else int(name or 0)
        # What is sent behind what must be durable, and what its reply must reach.
        self.confirm: Command | None = None
        self._replicas = 0

    async def connect(self) -> Connection:
        """A connection to a server that may be used. Raises `StoreUnavailable` with a sentence for
        the operator if it is set up so that it forgets, and what redis-py raises if it is away.
        """
        host, port = await self._where()
        connection = Connection(
            host=host,
            port=port,
            db=self._database,
            username=unquote(self._user) if self._user else None,
            password=unquote(self._password) if self._password else None,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,  # whoever asks has a limit of his own
            socket_connect_timeout=_CONNECT_SECONDS,
        )
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await self._check(connection)
        except BaseException:
            await disconnect(connection)
            raise
        return connection

    async def _where(self) -> tuple[str, int]:
        if self._master is None:
            return self._hosts[0]
        more = {"socket_timeout": _CONNECT_SECONDS, "retry": Retry(NoBackoff(), 0)}
        sentinels = Sentinel(self._hosts, sentinel_kwargs=more)  # type: ignore[no-untyped-call]
        try:
            host, port = await sentinels.discover_master(self._master)
        finally:
            for sentinel in sentinels.sentinels:
                await sentinel.aclose()
        return str(host), int(port)

    async def _check(self, connection: Connection) -> None:
        """Whether it keeps what it acknowledges."""
        said = await self._settings(connection)
        unlimited = said["maxmemory"] == "0"
        for name, wanted, loses in _MUST_BE:
            if said[name] != wanted and not (unlimited and name == "maxmemory-policy"):
                why = f"has {name} {said[name]}, so {loses}; set it to {wanted}"
                raise self._refused(why)
        role, known = await exchange(connection, ("ROLE",), ("COMMAND", "INFO", "WAITAOF"))
        if not isinstance(role, list) or role[0] != b"master":
            why = "is a replica, or does not say; name the server that takes writes"
            raise self._refused(why)
        self._replicas = int(said["min-replicas-to-write"])
        if isinstance(known, list) and known[0] is not None:
            self.confirm = ("WAITAOF", 1, self._replicas, _CONFIRM_MS)
        else:  # before 7.2, where its own disk has it before it answers
            self.confirm = ("WAIT", self._replicas, _CONFIRM_MS) if self._replicas else None
        for loaded in await exchange(connection, *(("SCRIPT", "LOAD", s.text) for s in Script.all)):
            if isinstance(loaded, NoPermissionError):
                raise self._refused(f"does not take scripts ({loaded})")
            if isinstance(loaded, ResponseError):
                raise loaded

    async def _settings(self, connection: Connection) -> dict[str, str]:
        """The settings that decide whether it forgets."""
        replies = await exchange(connection, *(("CONFIG", "GET", name) for name in _SETTINGS))
        said: dict[str, str] = {}
        for name, reply in zip(_SETTINGS, replies, strict=True):
            if not isinstance(reply, list) or len(reply) != 2:  # noqa: PLR2004 -- name and value
                raise self._refused(f"does not say what {name} is ({reply}); allow it CONFIG GET")
            said[name] = bytes(reply[1]).decode()
        return said

    def _refused(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(f"the store {self.name} {why}")

    def confirmed(self, reply: Reply) -> bool:
        """Whether what went before is as durable as it must be."""
        if isinstance(reply, list):  # WAITAOF: how many disks here, and on how many replicas
            return bool(reply[0] >= 1 and reply[1] >= self._replicas)
        return isinstance(reply, int) and reply >= self._replicas

    def promise(self) -> str:
        """What it promises and what it cannot, in a sentence."""
        if self.confirm is None or self.confirm[0] == "WAIT":
            told = "is on its disk when it answers (appendfsync always; it has no WAITAOF)"
        else:
            told = "is confirmed to be on its disk (WAITAOF)"
        if self._replicas:
            told += f" and on {self._replicas} of its replicas"
        return (
            f"what {self.name} acknowledges {told}; a failover can still lose it, since Redis "
            "replicates without agreement, and then only gateways that recognise a repeated key "
            "are safe"
        )


class Lane:
    """One connection. What is asked while a batch is away goes with the next, so all of it shares
    one sync of the server's disk and one confirmation.

    When the connection is lost nobody knows what became of the batch. Then it is sent again as it
    is: each script finds by its `op` whether it was carried out before.
    """

    def __init__(
        self,
        server: Server,
        met: Callable[[Connection], Awaitable[None]] | None = None,
        timed: Callable[[float], None] | None = None,
    ) -> None:
        self._server = server
        self._met = met
        self._timed = timed
        self._connection: Connection | None = None
        self._stale = False
        self._waiting: list[Asked] = []
        self._pump: asyncio.Task[None] | None = None
        self.trouble: str | None = None  # why the last batch had no reply

    def ask(self, *command: str | bytes | int, durable: bool = False) -> asyncio.Future[Reply]:
        """Send a command, together with what else is asked in this turn of the loop."""
        loop = asyncio.get_running_loop()
        asked = Asked(command, durable, loop.create_future())
        self._waiting.append(asked)
        if self._pump is None:
            self._pump = loop.create_task(self._run())
        return asked.done

    def meet_again(self) -> None:
        """Take nothing for granted: a new connection, with all its checks, for what comes next."""
        self._stale = True

    async def close(self) -> None:
        """After everything that was asked."""
        if self._pump is not None:
            await self._pump
        await self._let_go()

    async def _run(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            try:
                await self._carry(batch)
            except Exception as error:  # noqa: BLE001 -- nobody may wait for ever, whatever it is
                _fail(batch, f"asking the store {self._server.name} failed ({error!r})")
                await self._let_go()
        self._pump = None

    async def _carry(self, batch: list[Asked]) -> None:
        """Send a batch until everything in it has its reply, or patience ends."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        # Whoever comes while the server is away hears of it at once.
        deadline = began + (_PATIENCE_SECONDS if self.trouble is None else 0.0)
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    batch, why = await self._exchanged(batch)
            except StoreUnavailable as refused:
                why, deadline = str(refused), began
                await self._let_go()
            except _SAID_NO as error:
                why = self._no(error)
                await self._let_go()
            except _TROUBLE as error:
                why = (
                    f"the store {self._server.name} does not answer ({str(error) or 'time is up'})"
                )
                await self._let_go()
            if not batch:
                break
            if loop.time() >= deadline:
                self.trouble = why
                _fail(batch, why)
                return
            await asyncio.sleep(_PAUSE_SECONDS)
        self.trouble = None
        if self._timed is not None:
            self._timed(loop.time() - began)

    async def _exchanged(self, batch: list[Asked]) -> tuple[list[Asked], str]:
        """Send them and hand out the replies. What remains to be sent again, and why."""
        if self._stale:
            await self._let_go()
        connection = self._connection or await self._connected()
        commands = [asked.command for asked in batch]
        confirm = self._server.confirm
        confirming = confirm is not None and any(asked.durable for asked in batch)
        if confirm is not None and confirming:
            commands.append(confirm)
        replies = await exchange(connection, *commands)
        safe = not confirming or self._server.confirmed(replies[-1])
        left: list[Asked] = []
        why = "too few replicas have it (min-replicas-to-write)"
        for asked, reply in zip(batch, replies, strict=False):
            if isinstance(reply, ResponseError):
                left.append(asked)
                why = str(reply)
            elif asked.durable and not safe:
                left.append(asked)
            elif not asked.done.done():
                asked.done.set_result(reply)
        if any(isinstance(reply, NoScriptError | ReadOnlyError) for reply in replies):
            await self._let_go()  # it does not know the scripts any more, or is a replica by now
        return left, self._no(why)

    def _no(self, why: object) -> str:
        return f"the store {self._server.name} says no: {why}"

    async def _connected(self) -> Connection:
        connection = await self._server.connect()
        try:
            if self._met is not None:
                await self._met(connection)
        except BaseException:
            await disconnect(connection)
            raise
        self._connection = connection
        return connection

    async def _let_go(self) -> None:
        connection, self._connection, self._stale = self._connection, None, False
        if connection is not None:
            await disconnect(connection)


async def exchange(connection: Connection, *commands: Command) -> list[Reply]:
    """Send commands in one go; the reply of each, an error as what it is."""
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Reply] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


async def disconnect(connection: Connection) -> None:
    """Let go of a connection, in whatever state it is."""
    with contextlib.suppress(*_TROUBLE):
        await connection.disconnect(nowait=True)


def _fail(batch: list[Asked], why: str) -> None:
    for asked in batch:
        if not asked.done.done():
            asked.done.set_exception(StoreUnavailable(why))


def _host(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon and port.isdigit() else (text, _DEFAULT_PORT)
