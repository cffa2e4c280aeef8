"""The power goes, again and again: the real SQLite store on a disk that forgets what is not synced.

The runs are those of the simulation (the real flow, clients that repeat, gateways that misbehave,
one seed one run), but under the flow is the store of the product, with its file on the disk of
`tests/support/power.py`. The power goes at seeded moments: after some operation of the disk, or
when the plan of the run lets the process die. Holdfast is then started on an image of what the disk
may have kept, and asked what it still knows:

- I16 every version that was acknowledged is there, or a later one; every kept answer is there and
  opens; the file passes SQLite's own check; it opens; nothing is there that was never offered
- I2  whatever has left for a gateway has its intent there

Then the run goes on, clients ask until they know, and the judge of all campaigns has the last word.
The disk of the judge is not the file: it is what the store has acknowledged.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from asyncio import Future
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any, cast

import apsw

from proxy.core.session import Session
from proxy.core.states import Outcome
from proxy.stores.codec import decode
from proxy.stores.sqlite import SqliteStore
from proxy.stores.sqlite_log import LogCopier
from tests.campaigns.checker import Violation, judge
from tests.campaigns.sim.loop import Stuck
from tests.campaigns.sim.plan import Act, Crash, Moment, Payment, Plan, Step, plan_alone
from tests.campaigns.sim.replica import Replica
from tests.campaigns.sim.sidecar import Sidecar, secrets
from tests.campaigns.sim.store import SimSpool, SimStore
from tests.campaigns.sim.world import World
from tests.support.lab import Notes
from tests.support.power import LosingDisk

_EVERYTHING = """
SELECT doc, kept_at, sealed FROM sessions LEFT JOIN answers ON session = number ORDER BY number
"""


_AT_ONCE = 4  # plans
Say = Callable[[str], None]


class Control(StrEnum):
    """A promise of the ground taken away: then acknowledged versions must be lost."""

    NORMAL = "synchronous = NORMAL"
    LIES = "a disk that does not sync"


class _InStep(SimpleQueue[Any]):
    """Hands batches to the writer thread and waits until each is done, so that a run is always the
    same one. `begin` decides when.
    """

    def __init__(self, begin: Callable[[Any], None]) -> None:
        super().__init__()
        self._begin = begin
        self._idle = threading.Semaphore(0)

    def get(self, *_: Any) -> Any:
        """For the writer."""
        self._idle.release()
        return super().get()

    def put(self, item: Any, *_: Any) -> None:
        """For the loop. None is the end."""
        if item is None:
            super().put(None)
        else:
            self._begin(item)

    def carry_out(self, batch: Any) -> None:
        """Come back when it has been written, or has failed."""
        self._idle.acquire()
        super().put(batch)
        self._idle.acquire()
        self._idle.release()


class _CopierInStep(LogCopier):
    """Copies in the writer's turn, on its own connection as ever, when the log is so long."""

    def __init__(self, path: Path, connect: Callable[[], apsw.Connection], pages: int) -> None:
        super().__init__(path, connect)
        self._pages = pages

    def grew(self, writer: apsw.Connection, _name: str, pages: int) -> int:
        """After each commit."""
        if pages >= self._pages:
            self._copy(self._connection)
            self._copy(writer)
        return apsw.SQLITE_OK


class PoweredStore(SqliteStore):
    """The store of the product, telling the world what it was offered and what it acknowledges."""

    def __init__(self, world: PowerWorld, path: Path, disk: LosingDisk) -> None:
        super().__init__(path, world.clock, Notes(), vfs=disk.name)
        self._world = world
        self._batches = self._in_step = _InStep(self._begin)

    @property
    def why_broken(self) -> str | None:
        """Only a restart helps."""
        return self.broken

    def commit(
        self,
        session: Session,
        expected_version: int,
        answer: bytes | None,
        request: bytes | None = None,
    ) -> Future[None]:
        done = super().commit(session, expected_version, answer, request)
        self._world.offered(session, answer)
        done.add_done_callback(lambda _: self._committed(session, answer, done))
        return done

    def _committed(self, session: Session, answer: bytes | None, done: Future[None]) -> None:
        """Before whoever waits for it goes on."""
        if not done.cancelled() and done.exception() is None:
            self._world.acknowledged(session, answer)

    async def purge(self, *, answers_before: int, sessions_before: int) -> tuple[int, int]:
        self._world.purged_before = answers_before
        return await super().purge(answers_before=answers_before, sessions_before=sessions_before)

    def _connect(self, *, read_only: bool = False) -> apsw.Connection:
        connection = super()._connect(read_only=read_only)
        if self._world.control is Control.NORMAL:
            connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _copier(self) -> LogCopier:
        return _CopierInStep(self._path, self._connect, self._world.checkpoint_pages)

    def _begin(self, batch: Any) -> None:
        seconds = self._world.commit_seconds()
        _ = self._loop.call_later(seconds, self._carry_out, batch)
        self._world._at_the_disk("handed")

    def _carry_out(self, batch: Any) -> None:
        self._in_step.carry_out(batch)
        if batch.error is None:
            self._world._at_the_disk("written")

    def let_go(self) -> None:
        """The power is gone; what is left is to free what the test process holds."""
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join()
            self._reader.close()
            self._log.close()
        self._unlock()

    def everything(self) -> Iterator[tuple[Session, tuple[int, bytes] | None]]:
        """What the file holds."""
        for doc, kept_at, sealed in self._reader.execute(_EVERYTHING):
            yield decode(doc), None if sealed is None else (kept_at, sealed)

    def check(self) -> str:
        """SQLite's own opinion of the file."""
        return str(self._reader.pragma("integrity_check"))

    def power_cut(self, *, durable: bool) -> None:
        """The disk decides what becomes of what was on its way."""


class PowerWorld(World):
    """A run whose Holdfasts stand on one disk after the other, each an image of the last."""

    def __init__(
        self, seed: int, folder: Path, control: Control | None, say: Say | None = None
    ) -> None:
        super().__init__(_busy_plan(seed), say)
        self.control = control
        self.found: list[Violation] = []
        self.missed: list[bool] = []  # for each start on an image, whether something was lost
        self.cuts: Counter[str] = Counter()
        self.at_risk = Counter[str]()
        self.versions_checked = 0
        self.purged_before = 0
        self._folder = folder
        self._fortune = Random(seed + 0.25)
        self.checkpoint_pages = self._fortune.choice((1, 5, 20, 60, 4000))
        self._to_come = self._fortune.randrange(1, 8)
        self._offered: dict[tuple[str, int], list[Session]] = {}
        self._answers: dict[str, list[bytes]] = {}
        self._folders = 0
        self._unreadable = False
        self._store: PoweredStore | None = None
        self._plug_in(self._new_folder())
        loop = self.loop
        loop.run_in_executor = self._at_once  # type: ignore[method-assign, assignment]
        loop.call_soon_threadsafe = self._from_the_writer  # type: ignore[method-assign, assignment]

    # --- one thread at a time -----------------------------------------------------------------

    def _at_once(self, _executor: object, work: Callable[..., Any], *given: Any) -> Future[Any]:
        done = self.loop.create_future()
        try:
            done.set_result(work(*given))
        except Exception as error:  # noqa: BLE001 -- raised where it is awaited
            done.set_exception(error)
        return done

    def _from_the_writer(self, work: Callable[..., Any], *given: Any) -> object:
        return self.loop.call_soon(work, *given, context=self._replicas[0].process.context)

    # --- what the store tells -----------------------------------------------------------------

    def offered(self, session: Session, answer: bytes | None) -> None:
        """It may be on the disk from now on."""
        self._offered.setdefault((session.id, session.version), []).append(session)
        if answer is not None:
            self._answers.setdefault(session.id, []).append(answer)

    def acknowledged(self, session: Session, answer: bytes | None) -> None:
        """It must be on the disk from now on."""
        kept = None if answer is None else (session.updated_at, answer)
        self.disk.write(self.loop.time(), session, kept)

    def commit_seconds(self) -> float:
        """How long the next one waits for the disk."""
        return self._chance.random() * self.plan.slowest_commit

    # --- power --------------------------------------------------------------------------------

    def _new_folder(self) -> Path:
        self._folders += 1
        folder = self._folder / str(self._folders)
        folder.mkdir()
        return folder

    def _plug_in(self, folder: Path) -> None:
        lies = self.control is Control.LIES
        self._platter = LosingDisk(folder, self._fortune, self._power_goes, lies=lies)
        self._where = folder
        # Some while the store is being opened; more when there is something to lose.
        if self._to_come and self._fortune.random() < 0.25:
            self._cut_soon()

    def _cut_soon(self) -> None:
        self._to_come -= 1
        soon = self._fortune.choice((8, 30, 100))
        self._platter.cut_after = self._platter.operations + self._fortune.randrange(1, soon + 1)

    def _power_goes(self, operation: str) -> None:
        self.say(f"POWER CUT ({operation})")
        self.cuts[f"after a {operation}"] += 1
        self._doom(self._replicas[0], Crash(Moment.STEP, 0, self._fortune.choice((0.0, 0.3, 2.0))))

    def _die(self, replica: Replica, crash: Crash) -> None:
        alive = replica.process.alive
        super()._die(replica, crash)
        if not alive:
            return
        if self._platter.on:
            self.cuts["between two operations"] += 1
        for name, sectors in self._platter.unsynced().items():
            self.at_risk["the WAL" if name.endswith("-wal") else "other files"] += sectors > 0
        image = self._new_folder()
        if not self._unreadable:  # else an operator begins anew with an empty store
            self._platter.leave_image(image)
        self._unreadable = False
        self.pull_out()
        self._plug_in(image)

    def pull_out(self) -> None:
        """Free what this process holds of the machine that had no power."""
        self._platter.on = True  # closing writes, which harms nobody any more
        self._platter.cut_after = None
        if self._store is not None:
            self._store.let_go()
            self._store = None
        self._platter.unregister()

    async def _heal(self) -> None:
        self._to_come = 0
        self._platter.cut_after = None
        await super()._heal()

    # --- power is back ------------------------------------------------------------------------

    async def _boot(self, replica: Replica) -> None:
        store = PoweredStore(self, self._where / "sessions.db", self._platter)
        self._store = store
        spool = SimSpool(self._replicas[0].spooled, self._commit_seconds)
        sidecar = Sidecar(self, cast("SimStore", store), spool)
        try:
            await store.open()
            if self._folders > 1:
                self._ask(store)
            if self._to_come and self._platter.cut_after is None:
                self._cut_soon()
            await sidecar.start()
        except Exception as error:  # noqa: BLE001 -- a damaged file can mean anything
            if self._platter.on:
                self._give_up(f"the store cannot be used: {error!r}")
            return
        self.say("holdfast is up")
        replica.sidecar = sidecar

    def _give_up(self, why: str) -> None:
        self._violated("I16", why)
        self.missed.append(True)
        self.disk.sessions, self.disk.answers = {}, {}
        self._unreadable = True
        self._doom(self._replicas[0], Crash(Moment.STEP, 0, 1.0))

    def _ask(self, store: PoweredStore) -> None:
        """Hold what is there against what was acknowledged, offered and sent."""
        before = len(self.found)
        if (opinion := store.check()) != "ok":
            self._violated("I16", f"the file is damaged: {opinion}")
        there = dict[str, Session]()
        answers = dict[str, tuple[int, bytes]]()
        for session, answer in store.everything():
            there[session.id] = session
            if answer is not None:
                answers[session.id] = answer
        self._sessions_are(there)
        self._answers_are(answers)
        self._intents_are(there)
        self.missed.append(len(self.found) > before)
        for session in there.values():  # what nobody was told of, and is there
            if session != self.disk.sessions.get(session.id):
                self.disk.write(self.loop.time(), session, None)
        self.disk.sessions, self.disk.answers = there, answers

    def _sessions_are(self, there: dict[str, Session]) -> None:
        for known in self.disk.sessions.values():
            self.versions_checked += 1
            now = there.get(known.id)
            if now is None or now.version < known.version:
                there_is = "nothing" if now is None else now.version
                lost = f"{known.id} version {known.version} is lost"
                self._violated("I16", f"{lost}: there is {there_is}")
            elif now.version == known.version and now != known:
                self._violated("I16", f"{known.id} version {known.version} is another")
        for now in there.values():
            if now not in self._offered.get((now.id, now.version), ()):
                self._violated("I16", f"{now.id} version {now.version} was never offered")

    def _answers_are(self, answers: dict[str, tuple[int, bytes]]) -> None:
        for name, (kept_at, _) in self.disk.answers.items():
            if name not in answers and kept_at >= self.purged_before:
                self._violated("I16", f"the answer of {name} is lost")
        for name, (_, sealed) in answers.items():
            if sealed not in self._answers.get(name, ()):
                self._violated("I16", f"the answer of {name} was never offered")
            else:
                secrets().unseal(name, sealed)

    def _intents_are(self, there: dict[str, Session]) -> None:
        """A send whose intent is lost has none: what the judge says of those is said of it."""
        for place, sent in enumerate(self.history.sent):
            session = there.get(sent.session or "")
            if session is None or sent.attempt not in {a.number for a in session.attempts}:
                self.history.sent[place] = sent._replace(session=None)

    def _violated(self, name: str, what: str) -> None:
        self.say(f"{name} {what}")
        self.found.append(Violation(name, what))


def _busy_plan(seed: int) -> Plan:
    """The payments of a few plans at once, by clients that never tire. What the store meets is not
    the plan's to say.
    """
    dice = Random(seed + 0.75)
    plans = [plan_alone(seed * _AT_ONCE + each) for each in range(_AT_ONCE)]
    payments = [payment for plan in plans for payment in plan.payments]
    return replace(
        plans[0],
        seed=seed,
        payments=tuple(_tireless(dice, f"p{n}", each) for n, each in enumerate(payments, start=1)),
        crashes=tuple(crash for plan in plans for crash in plan.crashes),
        store=(),
    )


def _tireless(dice: Random, name: str, payment: Payment) -> Payment:
    def again() -> tuple[Step, ...]:
        return tuple(Step(dice.choice((0.2, 0.7, 2.0)), Act.PAY) for _ in range(8))

    clients = [
        replace(client, steps=client.steps[:1] + again() + client.steps[1:])
        for client in payment.clients
    ]
    return replace(payment, name=name, clients=tuple(clients))


@dataclass(slots=True)
class Findings:
    """What a campaign came to."""

    runs: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    lossy: int = 0
    at_risk: Counter[str] = field(default_factory=Counter)
    versions: int = 0
    sends: int = 0
    told_charged: int = 0
    charges: Counter[str] = field(default_factory=Counter)
    twice: Counter[str] = field(default_factory=Counter)
    violations: dict[int, list[Violation]] = field(default_factory=dict)

    def add(self, seed: int, world: PowerWorld, violations: list[Violation]) -> None:
        """A run is over."""
        history = world.history
        self.runs += 1
        self.cuts += world.cuts
        self.asked += len(world.missed)
        self.lossy += sum(world.missed)
        self.at_risk += world.at_risk
        self.versions += world.versions_checked
        self.sends += len(history.sent)
        charged = {told.payment for told in history.told if told.outcome is Outcome.CHARGED}
        self.told_charged += len(charged)
        gateway_of = {sent.number: sent.gateway for sent in history.sent}
        paid = set[str]()
        for charge in history.charges:
            gateway = gateway_of[charge.send]
            (self.twice if charge.payment in paid else self.charges)[gateway] += 1
            paid.add(charge.payment)
        if violations:
            self.violations[seed] = violations

    def table(self) -> str:
        """For people."""
        names = Counter(v.name for found in self.violations.values() for v in found)
        rows = [
            ("power cuts", self.cuts.total()),
            *((f"  {moment}", count) for moment, count in sorted(self.cuts.items())),
            *((f"  with {file} not synced", n) for file, n in sorted(self.at_risk.items())),
            ("starts on what was left", self.asked),
            ("  that missed something", self.lossy),
            ("acknowledged versions asked for", self.versions),
            ("runs", self.runs),
            ("  with violations", len(self.violations)),
            *((f"    {name}", count) for name, count in sorted(names.items())),
            ("requests sent", self.sends),
            ("payments charged", self.charges.total()),
            ("payments told charged", self.told_charged),
            ("charged again", self.twice.total()),
            ("  where keys are not honoured", self.twice["none"]),
        ]
        return "\n".join(f"{name:<40}{value:>8}" for name, value in rows)


def play(
    seed: int, findings: Findings, control: Control | None, say: Say | None = None
) -> list[Violation]:
    """Play a run; what was violated."""
    with tempfile.TemporaryDirectory(prefix="holdfast-powerloss-") as folder:
        world = PowerWorld(seed, Path(folder), control, say)
        usual, sys.unraisablehook = sys.unraisablehook, _unless_cut
        try:
            world.run()
            violations = world.found + judge(world.history)
        except Stuck as stuck:
            violations = [*world.found, Violation("I12", f"the run does not end: {stuck}")]
        finally:
            world.pull_out()
            sys.unraisablehook = usual
    findings.add(seed, world, violations)
    return violations


def _unless_cut(error: sys.UnraisableHookArgs) -> None:
    """SQLite passes over some of the errors of a disk without power; apsw reports those here."""
    if not isinstance(error.exc_value, apsw.IOError):
        sys.__unraisablehook__(error)


def powerloss(
    losses: int, seed: int, control: Control | None = None, say: Say = lambda _: None
) -> Findings:
    """Play runs from the seed on until the power has gone so often."""
    findings = Findings()
    told = 0
    while findings.cuts.total() < losses:
        play(seed + findings.runs, findings, control)
        if findings.cuts.total() >= told + 500:
            told = findings.cuts.total()
            say(f"{told} power cuts, {len(findings.violations)} runs with violations")
    return findings
