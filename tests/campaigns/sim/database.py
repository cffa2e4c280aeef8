"""The store that two Holdfasts of a simulation share: the PostgreSQL store of the product, on a
server that is simulated.

The server knows what each statement of `proxy/stores/postgres.py` means, and carries it out in one
step, as a transaction is. On its way there and back a statement takes time and can be lost; then
nobody can say what became of it. What the server acknowledged it keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import inf
from typing import Any, NamedTuple, Protocol, cast

import asyncpg
from typing_extensions import override

from proxy.core.events import ProcessRestarted
from proxy.core.session import Session
from proxy.ports import Clock, Recorder, StoreUnavailable
from proxy.stores import postgres
from proxy.stores.codec import decode
from proxy.stores.postgres import PostgresStore
from proxy.stores.postgres_server import Doubt, Server
from tests.campaigns.sim.store import Disk

Values = tuple[Any, ...]
Rows = list[dict[str, Any]]

WRITES = frozenset({postgres._CLAIM, postgres._CLAIM_AGAIN, postgres._COMMIT})
_COLUMNS = tuple(postgres._COLUMNS.split(", "))
_PURGE = "purge"
# As the product's: how long a statement is waited for, and a connection to a server that is away.
_ANSWER_SECONDS = 3.0
_CONNECT_SECONDS = 2.0


class Database:
    """The server. Times are the loop's seconds."""

    def __init__(self, disk: Disk, now: Callable[[], float]) -> None:
        self._disk = disk
        self._now = now
        self._rows: dict[str, dict[str, Any]] = {}
        self.leases: dict[int, float] = {}  # of the epochs that are not closed
        self.against_leases: list[str] = []  # what it should not have taken
        self._epochs = 0
        self._meaning: Mapping[str, Callable[..., Rows]] = {
            postgres._CLAIM: self._claim,
            postgres._CLAIM_AGAIN: self._claim_again,
            postgres._HOLDERS: self._holders,
            postgres._COMMIT: self._commit,
            postgres._CONFIRM: self._confirm,
            postgres._BY_ID: self._by_id,
            postgres._LISTED: self._listed,
            postgres._ANSWER: self._answer,
            postgres._REGISTER: self._register,
            postgres._BEAT: self._beat,
            postgres._CLOSE: self._close,
            postgres._CLOSE_OVERDUE: self._close_overdue,
            postgres._SWEEP: self._sweep,
            _PURGE: self._purge,
        }

    def carry_out(self, statement: str, values: Values) -> Rows:
        """One statement, at once. Raises `asyncpg.UniqueViolationError`."""
        return self._meaning[statement](*values)

    def overdue(self, epoch: int) -> float:
        """For how many seconds an epoch has had no lease; 0 if it has one, infinite if it was
        closed.
        """
        return max(0.0, self._now() - self.leases.get(epoch, -inf))

    def settled(self, epoch: int, *, leads: bool) -> bool:
        """Whether only those have a lease who are there, and who leads knows it."""
        first = min(self.leases, default=None)
        return epoch in self.leases and len(self.leases) == 2 and leads is (first == epoch)

    # --- sessions -----------------------------------------------------------------------------

    def _claim(self, *values: Any) -> Rows:
        row = _row(values)
        taken = row["id"] in self._rows or self._violated(row) is not None
        return [] if taken or self._displaced_by(row) else self._write(row)

    def _claim_again(self, *values: Any) -> Rows:
        row = _row(values)
        return [] if self._displaced_by(row) else self._update(row, values[17])

    def _displaced_by(self, row: dict[str, Any]) -> bool:
        return bool(row["locks_order"]) and any(o["displaced"] for o in self._of_the_order(row))

    def _of_the_order(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        order = (row["operation"], row["order_ref"])
        for other in self._rows.values():
            same = (
                row["order_ref"] is not None and (other["operation"], other["order_ref"]) == order
            )
            if same and other["id"] != row["id"]:
                yield other

    def _violated(self, row: dict[str, Any]) -> str | None:
        """The unique index that forbids a row."""
        others = (other for other in self._rows.values() if other["id"] != row["id"])
        if row["key_hash"] is not None and any(o["key_hash"] == row["key_hash"] for o in others):
            return "sessions_key"
        locked = row["locks_order"] and any(o["locks_order"] for o in self._of_the_order(row))
        return "sessions_locked_order" if locked else None

    def _update(self, row: dict[str, Any], version: int) -> Rows:
        before = self._rows.get(row["id"])
        if before is None or before["version"] != version:
            return []
        violated = self._violated(row)
        if violated is not None:
            error = asyncpg.UniqueViolationError(violated)
            error.constraint_name = violated
            raise error
        return self._write(row)

    def _write(self, row: dict[str, Any]) -> Rows:
        before = self._rows.get(row["id"])
        self._rows[row["id"]] = {**row, "sweeper": None}
        session = decode(row["doc"])
        self._disk.write(self._now(), session, None)
        what = f"{session.id} version {session.version}, {session.timeline[-1].event}"
        if session.begins_send and self.overdue(session.sender or 0):
            self.against_leases.append(f"{what}: epoch {session.sender} had no lease any more")
        sender = None if before is None else before["sender"]
        taken_over = session.timeline[-1].event == ProcessRestarted.__name__
        if taken_over and sender is not None and not self.overdue(sender):
            self.against_leases.append(f"{what}: epoch {sender} had its lease still")
        return [{"id": row["id"]}]

    def _commit(self, *values: Any) -> Rows:
        version, sender, mark, kept_at, sealed, _request = values[17:]
        if sender is not None and not self._may_send(sender, mark):
            return []
        row = _row(values)
        written = self._update(row, version)
        if written and sealed is not None:
            self._disk.answers[row["id"]] = (kept_at, sealed)
        return written

    def _may_send(self, epoch: int, _mark: int) -> bool:
        """Whether an intent is taken of this epoch."""
        return self.leases.get(epoch, -inf) > self._now()

    def _confirm(self, name: str, version: int, op: int) -> Rows:
        row = self._rows.get(name)
        its = row is not None and (row["version"], row["op"]) == (version, op)
        return [{"id": name}] if its else []

    def _holders(
        self,
        name: str,
        key: str | None,
        locks: bool,
        order: str | None,
        operation: str,
    ) -> Rows:
        wanted = {"id": name, "order_ref": order, "operation": operation}
        lockers = [o for o in self._of_the_order(wanted) if o["locks_order"] or o["displaced"]]
        found = [self._rows[name]] if name in self._rows else []
        found += [o for o in self._rows.values() if key is not None and o["key_hash"] == key]
        found += lockers if locks else []
        return list({row["id"]: row for row in found}.values())

    def _by_id(self, name: str) -> Rows:
        return [self._rows[name]] if name in self._rows else []

    def _listed(self) -> Rows:
        return [row for row in self._rows.values() if row["listed"]]

    def _answer(self, name: str) -> Rows:
        kept = self._disk.answers.get(name)
        return [] if kept is None else [{"sealed": kept[1]}]

    def _purge(self, answers_before: int) -> Rows:
        """Of answers only: no simulation runs as long as sessions are kept."""
        old = [name for name, (at, _) in self._disk.answers.items() if at < answers_before]
        for name in old:
            del self._disk.answers[name]
        return [{"id": name} for name in old]

    # --- leases -------------------------------------------------------------------------------

    def _register(self, _mark: int, lease: float, _version: str) -> Rows:
        self._epochs += 1
        self.leases[self._epochs] = self._now() + lease
        return [{"epoch": self._epochs}]

    def _beat(self, epoch: int, _mark: int, lease: float) -> Rows:
        alive = epoch in self.leases
        if alive:
            self.leases[epoch] = self._now() + lease
        first = min(self.leases, default=None)
        return [{"alive": alive, "generation": 1, "regressed": None, "first": first}]

    def _close(self, epoch: int, _mark: int) -> Rows:
        self.leases.pop(epoch, None)
        return []

    def _close_overdue(self) -> Rows:
        self.leases = {e: until for e, until in self.leases.items() if until >= self._now()}
        return []

    def _sweep(self, epoch: int, _most: int) -> Rows:
        found = [
            row
            for row in self._listed()
            if self._is_gone(row["sender"])
            and (row["sweeper"] in {None, epoch} or row["sweeper"] not in self.leases)
        ]
        for row in found:
            row["sweeper"] = epoch
        return found

    def _is_gone(self, sender: int | None) -> bool:
        """Whether somebody else may look after what a process has in flight."""
        return bool(self.leases) and sender is not None and sender not in self.leases


def _row(values: Values) -> dict[str, Any]:
    return dict(zip(_COLUMNS, values, strict=False))


class Crossing(NamedTuple):
    """What a statement meets: seconds there and back, and whether it is lost on either way."""

    there: float
    back: float
    lost: bool = False  # never arrives
    unheard: bool = False  # carried out, and nobody hears of it


_AT_ONCE = Crossing(0.0, 0.0)


class Net(Protocol):
    """The way between a replica and the server."""

    def cross(self, statement: str) -> Crossing:
        """What the next statement meets. Raises `ConnectionError` if there is no connection."""
        ...

    def carried_out(self, statement: str) -> None:
        """The server did it."""
        ...

    def cut(self) -> bool:
        """Whether nothing gets through."""
        ...

    def later(self, seconds: float, work: Callable[[], object]) -> object:
        """Do something that is nobody's step."""
        ...

    def hear(self, work: Callable[[], None]) -> None:
        """Something arrives at the replica."""
        ...


class Line:
    """A replica's connections to the server: what the store of the product asks of its own."""

    name = "postgresql://simulated/holdfast"

    def __init__(self, database: Database, net: Net) -> None:
        self._database = database
        self._net = net

    async def durably(self, statement: str, *values: Any) -> Rows:
        """Ask, and wait. Raises `Doubt`, or `StoreUnavailable` if nothing was sent."""
        try:
            crossing = self._net.cross(statement)
        except ConnectionError:
            await asyncio.sleep(_CONNECT_SECONDS)
            message = "the server does not answer"
            raise StoreUnavailable(message) from None
        if crossing == _AT_ONCE:  # most of a run is quiet, and need cost no timers
            rows = self._database.carry_out(statement, values)
            self._net.carried_out(statement)
            await asyncio.sleep(0)
            return rows
        done: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        if not crossing.lost:
            self._net.later(
                crossing.there, lambda: self._arrived(statement, values, crossing, done)
            )
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await done
        except TimeoutError:
            message = "nobody can say what became of it"
            raise Doubt(message) from None

    quickly = apart = durably

    def _arrived(
        self, statement: str, values: Values, crossing: Crossing, done: asyncio.Future[Rows]
    ) -> None:
        if self._net.cut():
            return
        answer: Callable[[], None]
        try:
            rows = self._database.carry_out(statement, values)
            answer = partial(_answered, done, rows)
        except asyncpg.UniqueViolationError as violated:
            answer = partial(_answered, done, violated)
        self._net.carried_out(statement)
        hear = self._net.hear
        if not crossing.unheard:
            self._net.later(crossing.back, lambda: None if self._net.cut() else hear(answer))

    async def close(self) -> None:
        """Nothing to close."""


def _answered(done: asyncio.Future[Rows], answer: Rows | Exception) -> None:
    if done.done():
        return
    if isinstance(answer, Exception):
        done.set_exception(answer)
    else:
        done.set_result(answer)


class SharedStore(PostgresStore):
    """The store of one replica. What it acknowledges is noted for the judge."""

    def __init__(
        self,
        lease: float,
        clock: Clock,
        recorder: Recorder,
        line: Line,
        acknowledged: Callable[[Session], None],
    ) -> None:
        super().__init__(line.name, lease, clock, recorder)
        self._server = cast("Server", line)
        self._acknowledged = acknowledged
        self.rests = False
        self.why_broken: str | None = None

    def power_cut(self, *, durable: bool) -> None:
        """What was on its way to the server is on its way."""

    @override
    async def open(self) -> None:
        await self.heartbeat()

    @override
    def lease_seconds(self) -> float:
        return inf if self.rests else super().lease_seconds()

    @override
    async def commit(
        self,
        session: Session,
        expected_version: int,
        answer: bytes | None,
        request: bytes | None = None,
    ) -> None:
        await super().commit(session, expected_version, answer, request)
        self._acknowledged(session)

    @override
    async def purge(self, *, answers_before: int, sessions_before: int) -> tuple[int, int]:
        return len(await self._server.quickly(_PURGE, answers_before)), 0

    # --- while nothing happens ------------------------------------------------------------------

    def rest(self, database: Database) -> None:
        """Its lease is kept without beats, from when these would tell it nothing new."""
        if database.settled(self.epoch, leads=self.leads):
            self.rests, database.leases[self.epoch] = True, inf

    def rise(self, database: Database, now: float) -> None:
        """It goes on as if the last beat had been now."""
        if self.rests:
            self.rests, database.leases[self.epoch] = False, now + self._lease
            self._lease_until = now + self._lease * (1 - postgres._MARGIN)
