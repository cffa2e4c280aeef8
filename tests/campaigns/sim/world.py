"""One run: the plan played on virtual time in one thread, and the history it leaves.

There is one Holdfast, with a disk of its own, or there are two that share a store; then clients and
operators turn now to the one, now to the other.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable
from contextvars import copy_context
from math import inf
from random import Random
from typing import Any

from proxy.background.heartbeat import Heartbeat
from proxy.core.classify import classify
from proxy.core.profile import GatewayClass
from proxy.core.session import Session
from proxy.core.states import LIVE, AttemptStatus, Outcome, State
from proxy.core.wire import Answer, AnswerSource, InboundRequest, WireFacts, header
from proxy.flow.commands import NoSuchSession, NotAllowed, Order
from proxy.ports import Send, StoreUnavailable, Upstream
from tests.campaigns.checker import Heard, History, Proof, Sent, Told
from tests.campaigns.sim.clients import SimClient
from tests.campaigns.sim.database import Database, Line, SharedStore
from tests.campaigns.sim.fates import FINE, Fate
from tests.campaigns.sim.gateway import EPOCH_SECONDS, SimGateway
from tests.campaigns.sim.loop import Process, VirtualLoop, current
from tests.campaigns.sim.plan import (
    Crash,
    Incident,
    Mishap,
    Moment,
    Operation,
    Plan,
    StoreTrouble,
    Trouble,
    Verb,
)
from tests.campaigns.sim.replica import HeartClock, Replica
from tests.campaigns.sim.sidecar import WINDOWS, Sidecar, Silent, SimClock, SimDice, settings_of
from tests.campaigns.sim.store import Disk, SimSpool, SimStore, Version
from tests.campaigns.sim.wire import SimUpstream, payment_of

_HOUR = 3600.0
# Longer than a walk may take, with what may come before it.
_HANGS_AFTER = 90.0
# Up to four of them, and statements to the store that nobody answers.
_MISHAPS_TAKE = 180.0
# An outcome that could not be written is offered again every second; the slowest commit takes 12,
# and may wait for another.
_WRITTEN_WITHIN = 40.0
# An orchestrator looks that often.
_BROKEN_FOR = 1.5
# Longer than the schedule of the look-ups.
_UNTIL_QUIET = 48 * _HOUR
_HANDSHAKE = 0.01
_A_LOOK_UP = "a look-up"
_READ = Fate("read", works=0.02)
_OVER = frozenset({"retries-exhausted", "session-cancelled", "session-expired"})
# "Nothing is charged", say their words, whatever the field beside them says.
_DENIES = _OVER | {"not-sent"}
_NO_END = frozenset({408, 409, 425, 429})
_SETTLES = {
    AttemptStatus.SUCCEEDED: Outcome.CHARGED,
    AttemptStatus.DECLINED: Outcome.NOT_CHARGED,
    AttemptStatus.ACCEPTED: Outcome.NOT_CHARGED,
}


class World:
    """Everything of one run that outlives a process, and the processes there are now."""

    def __init__(self, plan: Plan, say: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.loop = VirtualLoop()
        self.loop.after_step = self._after_step
        self._outside = copy_context()
        self._say = say
        self.tell = None if say is None else self.say
        self.settings = settings_of(plan.policy)
        self.clock = SimClock(self.loop)
        self._chance = Random(plan.seed + 0.5)
        self.dice = SimDice(self._chance)
        self.history = History()
        self.disk = Disk()
        self.gateways = {name: self._gateway(name) for name in self.settings.gateways}
        self.upstreams: dict[str, Upstream] = {
            name: SimUpstream(name, gateway, self) for name, gateway in self.gateways.items()
        }
        self._fates = {payment.name: list(payment.fates)[::-1] for payment in plan.payments}
        self._look_ups = list(plan.look_ups)[::-1]
        self._trouble = {trouble.batch: trouble for trouble in plan.store}
        self._crashes = list(plan.crashes)[::-1]
        self._doomed: list[tuple[Replica, Crash]] = []
        self._seen: Counter[Moment] = Counter()
        shared = plan.shared
        self._database = None if shared is None else Database(self.disk, self.loop.time)
        self._incidents = [] if shared is None else list(shared.incidents)[::-1]
        self._met: Counter[Moment] = Counter()
        self._turns = itertools.cycle((0,) if shared is None else shared.turns)
        names = ("",) if shared is None else ("A", "B")
        self._replicas = [Replica(name, self) for name in names]
        self._well_at = 0.0
        self._evidence: list[tuple[Process, Heard]] = []
        self._asked: dict[str, list[float]] = {name: [0.0] for name in self.settings.gateways}

    def _gateway(self, name: str) -> SimGateway:
        return SimGateway(
            kind=name,
            window=WINDOWS.get(self.plan.policy, 24 * _HOUR) if name == "strong" else 24 * _HOUR,
            now=self.loop.time,
            later=lambda seconds, work: self.loop.call_later(seconds, work, context=self._outside),
            heard=self._at_the_gateway,
            cards={payment.name: payment.card for payment in self.plan.payments},
            ledger=self.history.charges,
            voided=self.history.voided,
            seen_early=self.plan.seen_early,
        )

    def run(self) -> History:
        """Play the plan to its end."""
        try:
            self.loop.run(self._story())
        finally:
            self.loop.end()
        self._collect()
        return self.history

    def say(self, text: str) -> None:
        """For the transcript."""
        if self._say is not None:
            actor = self._actor()
            who = f"{actor.name}: " if actor is not None and actor.name else ""
            self._say(f"{self.loop.time():10.3f}  {who}{text}")

    def wake(self) -> None:
        """Something happens: whatever looks around does so once a second again."""
        for replica in self._replicas:
            replica.wake()

    def _actor(self) -> Replica | None:
        """Whose step this is."""
        process = current()
        return next((r for r in self._replicas if r.process is process), None)

    def _turned_to(self) -> Replica:
        """The replica that somebody asks next: the other one, where this one is not up."""
        wanted = self._replicas[next(self._turns)]
        up = [r for r in (wanted, *self._replicas) if r.sidecar is not None]
        return up[0] if up else wanted

    def next_due(self) -> float:
        """When the next look-up is due (what is overdue cannot be looked up)."""
        now = self.clock.now_ms()
        due = [s.next_at for s in self.disk.sessions.values() if s.listed and s.next_at is not None]
        return min((at for at in due if at > now), default=inf) / 1000 - EPOCH_SECONDS

    def bug(self, error: BaseException) -> None:
        """An exception nobody expected."""
        self.say(f"BUG {error!r}")
        self.history.bugs.append(repr(error))

    # --- the story ----------------------------------------------------------------------------

    async def _story(self) -> None:
        for replica in self._replicas:
            self._start(replica)
        while self._database is not None and not self._calm():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        begun = self.loop.time()
        clients = [
            SimClient(number, payment, client, self)
            for payment in self.plan.payments
            for number, client in enumerate(payment.clients, start=1)
        ]
        await asyncio.gather(
            *(client.live_through() for client in clients),
            *(self._operate(operation) for operation in self.plan.operations),
        )
        await asyncio.sleep(max(0.0, begun + self.plan.healed_at - self.loop.time()))
        await self._heal()
        await asyncio.gather(*(client.ask_until_it_knows() for client in clients))
        await asyncio.sleep(300.0)
        await self._until_quiet()
        await asyncio.gather(*(client.ask_once_more() for client in clients))
        await self._until_quiet()  # what that has begun must end, too

    async def _until_quiet(self) -> None:
        if any(session.listed for session in self.disk.sessions.values()):
            deadline = self.settings.session.expires_after
            await asyncio.sleep(max(_UNTIL_QUIET, deadline + 6 * _HOUR))

    async def _heal(self) -> None:
        """From now on nothing goes wrong."""
        self.say("all faults healed")
        self._crashes.clear()
        self._incidents.clear()
        self._trouble.clear()
        self._look_ups.clear()
        for fates in self._fates.values():
            fates.clear()
        while not all(replica.calm for replica in self._replicas):  # noqa: ASYNC110
            await asyncio.sleep(1.0)
        self.history.healed_at = self.loop.time()

    def _collect(self) -> None:
        history = self.history
        history.sessions = self.disk.sessions
        history.versions = [(version.before, version.after) for version in self.disk.versions]
        history.proofs = [proof for v in self.disk.versions if (proof := self._proof(v))]
        history.bugs += [repr(error) for error in self.loop.errors]
        if self._database is not None:
            history.against_leases = self._database.against_leases
        for process, heard in self._evidence:
            died = process.died_at
            lived = died is None or died > max(heard.at, self._well_at) + _WRITTEN_WITHIN
            if lived and not self._overtaken(heard) and not self._undone(heard):
                history.heard.append(heard)

    def _overtaken(self, heard: Heard) -> bool:
        """Whether more was sent after a "no": that was decided before it came, and stands for
        itself.
        """
        sent = self.history.sent
        later = any(s.session == heard.session and s.at > heard.at for s in sent)
        return later and heard.outcome is Outcome.NOT_CHARGED

    def _undone(self, heard: Heard) -> bool:
        """Whether what a look-up saw was voided later. Who could not write it down asks again."""
        numbers = {sent.number for sent in self.history.sent if sent.session == heard.session}
        voided = any(charge.send in numbers for charge in self.history.voided)
        return heard.how == _A_LOOK_UP and voided

    def _proof(self, version: Version) -> Proof | None:
        session = version.after
        known = 0 if version.before is None else len(version.before.timeline)
        proofs = [step for step in session.timeline[known:] if step.event == "EvidenceFound"]
        last = session.last_send_at
        if not proofs or session.outcome is not Outcome.NOT_CHARGED or last is None:
            return None
        found, sent = (ms / 1000 - EPOCH_SECONDS for ms in (proofs[0].at, last))
        asked = max(at for at in self._asked[session.gateway or ""] if at <= found)
        return Proof(session.id, found - sent, asked - sent)

    # --- processes ----------------------------------------------------------------------------

    def _start(self, replica: Replica) -> None:
        replica.process = Process(self.loop)
        _ = replica.process.run(self._boot(replica))

    async def _boot(self, replica: Replica) -> None:
        try:
            sidecar = await self._installed(replica)
            await sidecar.start()
        except StoreUnavailable:  # it exits, and is started again
            self._doom(replica, Crash(Moment.STEP, 0, 1.0))
            return
        except Exception as error:  # noqa: BLE001 -- reported, not hidden
            self.bug(error)
            self._doom(replica, Crash(Moment.STEP, 0, 1.0))
            return
        self.say("holdfast is up")
        replica.sidecar = sidecar

    async def _installed(self, replica: Replica) -> Sidecar:
        spool = SimSpool(replica.spooled, self._commit_seconds)
        if self._database is not None and self.plan.shared is not None:
            lease, line = self.plan.shared.lease, Line(self._database, replica)
            silent = Silent(self.tell)
            shared = SharedStore(lease, self.clock, silent, line, self.history.acknowledged.append)
            await shared.open()
            replica.heart = heart = HeartClock(self.loop, shared, self._database, self._calm)
            return Sidecar(self, shared, spool, Heartbeat(shared, lease, heart, self.bug))
        store = SimStore(
            self.clock,
            self.disk,
            seconds=self._commit_seconds,
            trouble=self._next_trouble,
            heard=self._at_the_disk,
        )
        return Sidecar(self, store, spool)

    def _calm(self) -> bool:
        return all(replica.calm for replica in self._replicas)

    def _commit_seconds(self) -> float:
        return self._chance.random() * self.plan.slowest_commit

    def _after_step(self, process: Process | None) -> None:
        if self._doomed:
            while self._doomed:
                self._die(*self._doomed.pop())
            return
        if self._crashes and self._crashes[-1].moment is Moment.STEP:
            self._may_crash(Moment.STEP, process)
        if self._incidents and self._incidents[-1].moment is Moment.STEP and process is not None:
            self._may_befall(Moment.STEP, process)

    def _doom(self, replica: Replica, crash: Crash) -> None:
        """It dies when this step is over."""
        self._doomed.append((replica, crash))

    def happened(self, moment: Moment, replica: Replica | None = None) -> None:
        """Something that a crash or a mishap may wait for, and with whom."""
        process = current() if replica is None else replica.process
        self._may_crash(moment, process)
        self._may_befall(moment, process)

    def _may_crash(self, moment: Moment, process: Process | None) -> None:
        self._seen[moment] += 1
        if not self._crashes or self._crashes[-1].moment is not moment:
            return
        if self._seen[moment] >= self._crashes[-1].count:
            crash = self._crashes.pop()
            self._seen.clear()
            replica = self._with(process)
            if crash.stops and replica.sidecar is not None:
                self._stop(replica, replica.sidecar, crash)
            else:
                self._doom(replica, crash)

    def _with(self, process: Process | None) -> Replica:
        """The replica with which something happened; else the one whose turn it is."""
        mine = next((r for r in self._replicas if r.process is process), None)
        return mine or self._replicas[next(self._turns)]

    def _stop(self, replica: Replica, sidecar: Sidecar, crash: Crash) -> None:
        """SIGTERM, and SIGKILL when its patience ends."""
        self.say(f"SIGTERM {replica.name}")
        process = replica.process
        stopping = process.run(sidecar.stop())

        def kill(*_: object) -> None:
            if process.alive:
                self._doom(replica, crash)

        stopping.add_done_callback(kill, context=self._outside)
        self.later(1.0 + crash.down, kill)

    def _die(self, replica: Replica, crash: Crash) -> None:
        self._doomed.clear()
        if not replica.process.alive:
            return
        self.say(f"CRASH {replica.name} ({crash.moment})")
        self.wake()
        store = None if replica.sidecar is None else replica.sidecar.store
        replica.sidecar = replica.heart = None
        replica.process.kill()
        if store is not None:
            store.power_cut(durable=self._chance.random() < 0.5)
        self._doomed.clear()  # what became durable at the last moment counts for nobody
        for connection in replica.connections.values():
            if not connection.done():
                connection.set_exception(ConnectionError())
        self.later(crash.down, lambda: self._start(replica))

    def _may_befall(self, moment: Moment, process: Process | None) -> None:
        self._met[moment] += 1
        if not self._incidents or self._incidents[-1].moment is not moment:
            return
        if self._met[moment] >= self._incidents[-1].count:
            self._met.clear()
            self._befall(self._with(process), self._incidents.pop())

    def _befall(self, replica: Replica, incident: Incident) -> None:
        self.say(f"{replica.name} is {incident.mishap}, for {incident.seconds:.2f} s")
        self.wake()
        until = self.loop.time() + incident.seconds
        self._well_at = max(self._well_at, until)
        match incident.mishap:
            case Mishap.PAUSED:
                process = replica.process
                process.pause()
                self.later(incident.seconds, lambda: self._go_on(replica, process))
            case Mishap.CUT:
                replica.cut_until = until
            case Mishap.LOST | Mishap.UNHEARD as mishap:
                replica.next_write = mishap

    def _go_on(self, replica: Replica, process: Process) -> None:
        self.say(f"{replica.name} goes on")
        process.go_on()

    def later(self, seconds: float, work: Callable[[], object]) -> object:
        """Do something that is nobody's step."""
        return self.loop.call_later(seconds, work, context=self._outside)

    def way_seconds(self) -> float:
        """How long the next thing is on its way to the store, or back."""
        assert self.plan.shared is not None
        healed = self.history.healed_at is not None
        return self._chance.random() * (0.0 if healed else self.plan.shared.slowest_way)

    def loses(self) -> bool:
        """Whether a way that is cut swallows the next thing, or says no."""
        return self._chance.random() < 0.5

    # --- the store ----------------------------------------------------------------------------

    def _next_trouble(self) -> StoreTrouble | None:
        batch = 1 + len(self.disk.batches)
        self.disk.batches.append(self.loop.time())
        trouble = self._trouble.pop(batch, None)
        if trouble is not None:
            self._well_at = self.loop.time() + trouble.seconds
        return trouble

    def _at_the_disk(self, what: str) -> None:
        replica = self._replicas[0]
        if what == "handed":
            self.happened(Moment.HANDED, replica)
        elif what == "written":
            self.happened(Moment.WRITTEN, replica)
        else:
            self.say(f"disk: {what}")
            if what == Trouble.AMBIGUOUS:
                process = replica.process
                self.later(_BROKEN_FOR, lambda: self._replace(replica, process))

    def _replace(self, replica: Replica, process: Process) -> None:
        """The orchestrator found out that only a restart helps."""
        if process.alive:
            self._die(replica, Crash(Moment.STEP, 0, 0.5))

    # --- the wire -----------------------------------------------------------------------------

    def fate(self, payment: str) -> Fate:
        """Of the payment's next send."""
        fates = self._fates[payment]
        fate = fates.pop() if fates else FINE
        self.say(f"gateway will: {fate.name}")
        if self.plan.shared is not None and not fate.connects:
            fate = fate._replace(connects=_HANDSHAKE)  # long enough to be stopped in it
        return fate

    def connecting(self) -> None:
        """A connection is being made."""
        self.happened(Moment.CONNECTING)

    def look_up(self, gateway: str, target: str) -> Fate:
        """Of the next read."""
        if target.startswith(("/v1/events", "/v1/payments?")):
            self._asked[gateway].append(self.loop.time())
        return self._look_ups.pop() if self._look_ups else _READ

    def _at_the_gateway(self, what: str) -> None:
        self.say(f"gateway {what}")
        self.happened(Moment.EXECUTED)

    def on_the_wire(self, gateway: str, send: Send) -> Sent:
        """The first byte leaves: note what the disk says at this moment."""
        sent = self._leased(self._sent(gateway, send))
        self.history.sent.append(sent)
        self.say(f"send {sent.number} {sent.session}#{sent.attempt} {gateway} key {sent.key}")
        self.happened(Moment.SENT)
        return sent

    def _leased(self, sent: Sent) -> Sent:
        """With what its sender's lease says: that must not have run out, and the intent be its."""
        actor = self._actor()
        if self._database is None or actor is None or actor.sidecar is None:
            return sent
        epoch = actor.sidecar.store.epoch
        session = self.disk.sessions.get(sent.session or "")
        if session is None or session.sender != epoch:
            sent = sent._replace(session=None)
        return sent._replace(without_lease=self._database.overdue(epoch))

    def _sent(self, gateway: str, send: Send) -> Sent:
        key = header(send.headers, "Idempotency-Key") or ""
        sent = Sent(
            number=len(self.history.sent) + 1,
            at=self.loop.time(),
            payment=payment_of(send.body),
            gateway=gateway,
            credential=header(send.headers, "Authorization") or "",
            key=key,
            body=send.body,
            session=None,
        )
        sessions = self.disk.sessions.values()
        for session in sessions:
            if session.gateway_key == key and session.gateway == gateway and session.in_flight:
                return self._with_its_session(sent, session)
        return sent

    def _with_its_session(self, sent: Sent, session: Session) -> Sent:
        attempt = next(a for a in session.attempts if a.status is AttemptStatus.IN_FLIGHT)
        intent = self.disk.intents[session.id, attempt.number]
        before = intent.before
        return sent._replace(
            session=session.id,
            attempt=attempt.number,
            decided=attempt.started_at / 1000 - EPOCH_SECONDS,
            unsettled=before is not None and before.outcome is Outcome.UNKNOWN,
            repeatable_until=self._repeatable_until(sent, session),
            rivals=tuple(other.id for other in self._others(session) if other.locks_order),
            others=self._open_others(sent.payment, session),
            forbidden=_forbidden(before, intent.after),
        )

    def _repeatable_until(self, sent: Sent, session: Session) -> float:
        profile = self.settings.gateways[sent.gateway].profile
        if profile.gateway_class is not GatewayClass.A_STRONG:
            return 0.0
        key = (sent.gateway, sent.credential, sent.key)
        same = [s.at for s in self.history.sent if (s.gateway, s.credential, s.key) == key]
        first = min(same, default=sent.at)
        deadline = session.expires_at / 1000 - EPOCH_SECONDS
        return min(first + profile.resend_horizon, deadline)

    def _others(self, session: Session) -> list[Session]:
        if not session.order_locks:
            return []
        order = (session.operation, session.order_ref)
        return [
            other
            for other in self.disk.sessions.values()
            if other.id != session.id and (other.operation, other.order_ref) == order
        ]

    def _open_others(self, payment: str, session: Session) -> tuple[str, ...]:
        names = {s.session for s in self.history.sent if s.payment == payment and s.session}
        others = [self.disk.sessions[name] for name in sorted(names - {session.id})]
        # A request that names nothing cannot be known for a second one of its payment.
        return tuple(
            other.id
            for other in others
            if session.named and other.named and other.outcome is not Outcome.NOT_CHARGED
        )

    def delivered(self, process: Process, sent: Sent, facts: WireFacts) -> None:
        """An answer arrived, and its process is there to take it."""
        self.say(f"answer to send {sent.number}: {facts.reason or facts.status}")
        profile = self.settings.gateways[sent.gateway].profile
        status = classify(facts, profile, now_ms=self.clock.now_ms()).status
        # Of what was sent since, only a charge is the last word.
        last = [s.number for s in self.history.sent if s.session == sent.session][-1:]
        speaks = _SETTLES.get(status) is Outcome.CHARGED or last == [sent.number]
        if status in _SETTLES and sent.session is not None and speaks:
            how = f"the answer to send {sent.number}"
            self._evident(process, sent.session, _SETTLES[status], how)
        self.happened(Moment.ANSWERED, self._with(process))

    def read(self, gateway: str, target: str, facts: WireFacts) -> None:
        """A look-up was answered; if it shows a charge, that is evidence."""
        key = self.gateways[gateway].key_of(target)
        self.say(f"look-up {target}: {facts.status} {facts.body.decode()}")
        if key is None or b'"status": "succeeded"' not in facts.body:
            return
        # The key may have been another session's that never sent it.
        senders = [s.session for s in self.history.sent if (s.gateway, s.key) == (gateway, key)]
        if senders and senders[-1] is not None:
            process = current()
            assert process is not None
            self._evident(process, senders[-1], Outcome.CHARGED, _A_LOOK_UP)

    def _evident(self, process: Process, session: str, outcome: Outcome, how: str) -> None:
        self._evidence.append((process, Heard(self.loop.time(), session, outcome, how)))

    # --- people -------------------------------------------------------------------------------

    async def ask(self, who: str, payment: str, request: InboundRequest) -> Told | None:
        """Send a request; None if the connection broke."""
        replica, since = self._turned_to(), self.loop.time()
        self.history.asked.append((since, payment))
        self.say(f"{who} asks {replica.name}{' for ' if replica.name else ''}{request.gateway}")
        if replica.sidecar is None:
            return None
        answered: asyncio.Future[Answer] = self.loop.create_future()
        _ = replica.process.run(self._serve(replica.sidecar, request, answered))
        try:
            answer = await self._connected(replica, answered)
        except ConnectionError:
            return None
        except TimeoutError:
            self.history.hung.append(who)
            return None
        told = self._told(who, payment, answer)
        if self._database is not None:
            told = told._replace(since=since)
        self.history.told.append(told)
        text = f"{told.status} {told.outcome}{' over' if told.over else ''}"
        self.say(f"{who} is told {text} of {told.session} {_code(answer)}")
        self.happened(Moment.TOLD, replica)
        return told

    async def _serve(
        self, sidecar: Sidecar, request: InboundRequest, answered: asyncio.Future[Answer]
    ) -> None:
        try:
            answer = await sidecar.handle(request)
        except Exception as error:  # noqa: BLE001 -- reported, not hidden
            self.bug(error)
            return
        if not answered.done():
            answered.set_result(answer)

    async def _connected(self, replica: Replica, answered: asyncio.Future[Any]) -> Any:
        """What comes over a connection that breaks when the process dies."""
        number = id(answered)
        replica.connections[number] = answered
        patience = _HANGS_AFTER if self.plan.shared is None else _HANGS_AFTER + _MISHAPS_TAKE
        try:
            async with asyncio.timeout(patience):
                return await answered
        finally:
            del replica.connections[number]

    def _told(self, who: str, payment: str, answer: Answer) -> Told:
        session = header(answer.headers, "X-Payment-Session-Id")
        told = Told(self.loop.time(), who, payment, session, answer.status, answer.body)
        pending = header(answer.headers, "X-Payment-Durability") is not None
        kept = self.disk.sessions.get(session or "")
        done = kept is not None and kept.state is State.COMPLETED
        known = kept is not None and kept.outcome is Outcome.CHARGED
        told = told._replace(pending=pending, known=known, accepted=done and not known)
        if answer.source is AnswerSource.HOLDFAST:
            problem = json.loads(answer.body)
            code = problem["type"].removeprefix("/problems/")
            outcome = Outcome.NOT_CHARGED if code in _DENIES else problem.get("outcome")
            return told._replace(
                outcome=None if outcome is None else Outcome(outcome),
                over=code in _OVER,
                safe=bool(problem["safeToRepeat"]),
                busy=code == "request-in-progress",
                gone=code == "answer-not-kept",
            )
        proxy_status = header(answer.headers, "Proxy-Status") or ""
        if "charge=unknown" in proxy_status:
            return told._replace(outcome=Outcome.UNKNOWN)
        charged = answer.status < 300 and b'"succeeded"' in answer.body
        told = told._replace(outcome=Outcome.CHARGED if charged else Outcome.NOT_CHARGED)
        if answer.status >= 500 or answer.status in _NO_END:
            return told
        same = kept is not None and kept.outcome is told.outcome and not kept.live
        recorded = same or pending
        return told._replace(settled=True, recorded=recorded)

    async def create(self, who: str, order: str, gateway: str) -> str | None:
        """Create a session ahead of its request."""
        made = await self._command(who, lambda s: self._create(s, order, gateway))
        return None if made is None else str(made)

    async def _create(self, sidecar: Sidecar, order: str, gateway: str) -> str:
        session, _ = await sidecar.commands.create(Order(order, None, gateway, "1999", "eur"))
        return session.id

    async def _operate(self, operation: Operation) -> None:
        await asyncio.sleep(operation.at)
        self.wake()
        sessions = list(self.disk.sessions)
        if sessions:
            name = sessions[operation.which % len(sessions)]
            await self._command(
                f"operator: {operation.verb} {name}", lambda s: self._apply(s, operation.verb, name)
            )

    async def _apply(  # noqa: C901 -- a table of verbs
        self, sidecar: Sidecar, verb: Verb, name: str
    ) -> None:
        commands = sidecar.commands
        match verb:
            case Verb.CANCEL:
                session, over = await commands.cancel(name, "wanted")
                if over:
                    self._acknowledged(session)
            case Verb.INTERRUPT:
                _ = await commands.interrupt(name, "wanted")
            case Verb.RESUME:
                _ = await commands.resume(name)
            case Verb.GET:
                _ = await commands.get(name)
            case Verb.NOT_CHARGED:
                if not self._charged(name):
                    self._acknowledged(await commands.not_charged(name, "nothing is there"))
            case Verb.COMPLETE:
                # A person vouches only for what the gateway's own pages show.
                if self._charged(name):
                    _ = await commands.complete(name, "seen")

    def _charged(self, session: str) -> bool:
        """Whether the gateway's own pages show a charge of it."""
        numbers = {sent.number for sent in self.history.sent if sent.session == session}
        return any(charge.send in numbers for charge in self.history.charges)

    def _acknowledged(self, session: Session) -> None:
        """An operator was told that it is not charged, and over unless it may be sent again."""
        kept = self.disk.sessions.get(session.id)
        # What lives on has moved on, perhaps, before the operator hears of it.
        recorded = session.live or (kept is not None and kept.state is session.state)
        self.history.told.append(
            Told(
                self.loop.time(),
                "operator",
                "",
                session.id,
                200,
                b"",
                session.outcome,
                over=not session.live,
                recorded=recorded,
            )
        )

    async def _command(self, what: str, work: Callable[[Sidecar], Any]) -> Any:
        self.say(what)
        replica = self._turned_to()
        sidecar = replica.sidecar
        if sidecar is None:
            return None
        answered: asyncio.Future[Any] = self.loop.create_future()

        async def carry_out() -> None:
            try:
                result = await work(sidecar)
            except (NotAllowed, NoSuchSession, StoreUnavailable) as no:
                self.say(f"no: {no}")
                result = None
            except Exception as error:  # noqa: BLE001 -- reported, not hidden
                self.bug(error)
                result = None
            if not answered.done():
                answered.set_result(result)

        _ = replica.process.run(carry_out())
        try:
            return await self._connected(replica, answered)
        except ConnectionError:
            return None
        except TimeoutError:
            self.history.hung.append(what)
            return None


def _forbidden(before: Session | None, after: Session) -> str | None:
    """Why a send with this intent should not have been."""
    if after.cancel_requested:
        return "cancelled"
    if after.hold:
        return "held"
    if before is not None and before.state not in LIVE:
        return str(before.state)
    open_still = {AttemptStatus.IN_FLIGHT, AttemptStatus.UNKNOWN}
    if any(a.generation != after.generation and a.status in open_still for a in after.attempts):
        return "open under an earlier key"
    return None


def _code(answer: Answer) -> str:
    if answer.source is AnswerSource.GATEWAY:
        return ""
    return str(json.loads(answer.body)["type"]).removeprefix("/problems/")
