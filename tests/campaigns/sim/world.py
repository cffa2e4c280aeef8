"""One run: the plan played on virtual time in one thread, and the history it leaves."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextvars import copy_context
from math import inf
from random import Random
from typing import Any

from proxy.core.classify import classify
from proxy.core.profile import GatewayClass
from proxy.core.session import Session
from proxy.core.states import LIVE, AttemptStatus, Outcome, State
from proxy.core.wire import Answer, AnswerSource, InboundRequest, WireFacts, header
from proxy.flow.commands import NoSuchSession, NotAllowed, Order
from proxy.ports import Send, StoreUnavailable, Upstream
from tests.campaigns.checker import Heard, History, Proof, Sent, Told
from tests.campaigns.sim.clients import SimClient
from tests.campaigns.sim.fates import FINE, Fate
from tests.campaigns.sim.gateway import EPOCH_SECONDS, SimGateway
from tests.campaigns.sim.loop import Process, VirtualLoop
from tests.campaigns.sim.plan import Crash, Moment, Operation, Plan, StoreTrouble, Trouble, Verb
from tests.campaigns.sim.sidecar import WINDOWS, Sidecar, SimClock, SimDice, settings_of
from tests.campaigns.sim.store import Disk, SimSpool, SimStore, Version
from tests.campaigns.sim.wire import SimUpstream, payment_of

_HOUR = 3600.0
# Longer than a walk may take, with what may come before it.
_HANGS_AFTER = 90.0
# An outcome that could not be written is offered again every second; the slowest commit takes 12,
# and may wait for another.
_WRITTEN_WITHIN = 40.0
# An orchestrator looks that often.
_BROKEN_FOR = 1.5
# Longer than the schedule of the look-ups.
_UNTIL_QUIET = 48 * _HOUR
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
    """Everything of one run that outlives a process, and the process there is now."""

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
        self._dying: Crash | None = None
        self._seen: Counter[Moment] = Counter()
        self._process = Process(self.loop)
        self._sidecar: Sidecar | None = None
        self._connections: dict[int, asyncio.Future[Any]] = {}
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
            self._say(f"{self.loop.time():10.3f}  {text}")

    def wake(self) -> None:
        """Something happens: whatever looks around does so once a second again."""
        if self._sidecar is not None:
            self._sidecar.lazy.wake()

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
        self._start()
        clients = [
            SimClient(number, payment, client, self)
            for payment in self.plan.payments
            for number, client in enumerate(payment.clients, start=1)
        ]
        await asyncio.gather(
            *(client.live_through() for client in clients),
            *(self._operate(operation) for operation in self.plan.operations),
        )
        await asyncio.sleep(max(0.0, self.plan.healed_at - self.loop.time()))
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
        self._trouble.clear()
        self._look_ups.clear()
        for fates in self._fates.values():
            fates.clear()
        while self._sidecar is None or self._sidecar.store.why_broken is not None:  # noqa: ASYNC110
            await asyncio.sleep(1.0)
        self.history.healed_at = self.loop.time()

    def _collect(self) -> None:
        history = self.history
        history.sessions = self.disk.sessions
        history.versions = [(version.before, version.after) for version in self.disk.versions]
        history.proofs = [proof for v in self.disk.versions if (proof := self._proof(v))]
        history.bugs += [repr(error) for error in self.loop.errors]
        for process, heard in self._evidence:
            died = process.died_at
            lived = died is None or died > max(heard.at, self._well_at) + _WRITTEN_WITHIN
            if lived and not self._overtaken(heard):
                history.heard.append(heard)

    def _overtaken(self, heard: Heard) -> bool:
        """Whether more was sent after a "no": that was decided before it came, and stands for
        itself.
        """
        sent = self.history.sent
        later = any(s.session == heard.session and s.at > heard.at for s in sent)
        return later and heard.outcome is Outcome.NOT_CHARGED

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

    def _start(self) -> None:
        self._process = Process(self.loop)
        _ = self._process.run(self._boot())

    async def _boot(self) -> None:
        store = SimStore(
            self.clock,
            self.disk,
            seconds=self._commit_seconds,
            trouble=self._next_trouble,
            heard=self._at_the_disk,
        )
        sidecar = Sidecar(self, store, SimSpool(self.disk, self._commit_seconds))
        try:
            await sidecar.start()
        except StoreUnavailable:  # it exits, and is started again
            self._dying = Crash(Moment.STEP, 0, 1.0)
            return
        except Exception as error:  # noqa: BLE001 -- reported, not hidden
            self.bug(error)
            self._dying = Crash(Moment.STEP, 0, 1.0)
            return
        self.say("holdfast is up")
        self._sidecar = sidecar

    def _commit_seconds(self) -> float:
        return self._chance.random() * self.plan.slowest_commit

    def _after_step(self) -> None:
        if self._dying is not None:
            self._die(self._dying)
        elif self._crashes and self._crashes[-1].moment is Moment.STEP:
            self._happened(Moment.STEP)

    def _happened(self, moment: Moment) -> None:
        """Something that a crash may wait for."""
        self._seen[moment] += 1
        if not self._crashes or self._crashes[-1].moment is not moment:
            return
        if self._seen[moment] >= self._crashes[-1].count:
            crash = self._crashes.pop()
            self._seen.clear()
            if crash.stops and self._sidecar is not None:
                self._stop(self._sidecar, crash)
            else:
                self._dying = crash

    def _stop(self, sidecar: Sidecar, crash: Crash) -> None:
        """SIGTERM, and SIGKILL when its patience ends."""
        self.say("SIGTERM")
        process = self._process
        stopping = process.run(sidecar.stop())

        def kill(*_: object) -> None:
            if process.alive:
                self._dying = crash

        stopping.add_done_callback(kill, context=self._outside)
        self.loop.call_later(1.0 + crash.down, kill, context=self._outside)

    def _die(self, crash: Crash) -> None:
        self._dying = None
        if not self._process.alive:
            return
        self.say(f"CRASH ({crash.moment})")
        store = None if self._sidecar is None else self._sidecar.store
        self._sidecar = None
        self._process.kill()
        if store is not None:
            store.power_cut(durable=self._chance.random() < 0.5)
        self._dying = None  # what became durable at the last moment counts for nobody
        for connection in self._connections.values():
            if not connection.done():
                connection.set_exception(ConnectionError())
        self.loop.call_later(crash.down, self._start, context=self._outside)

    # --- the store ----------------------------------------------------------------------------

    def _next_trouble(self) -> StoreTrouble | None:
        batch = 1 + len(self.disk.batches)
        self.disk.batches.append(self.loop.time())
        trouble = self._trouble.pop(batch, None)
        if trouble is not None:
            self._well_at = self.loop.time() + trouble.seconds
        return trouble

    def _at_the_disk(self, what: str) -> None:
        if what == "handed":
            self._happened(Moment.HANDED)
        elif what == "written":
            self._happened(Moment.WRITTEN)
        else:
            self.say(f"disk: {what}")
            if what == Trouble.AMBIGUOUS:
                process = self._process
                self.loop.call_later(_BROKEN_FOR, self._replace, process, context=self._outside)

    def _replace(self, process: Process) -> None:
        """The orchestrator found out that only a restart helps."""
        if process.alive:
            self._die(Crash(Moment.STEP, 0, 0.5))

    # --- the wire -----------------------------------------------------------------------------

    def fate(self, payment: str) -> Fate:
        """Of the payment's next send."""
        fates = self._fates[payment]
        fate = fates.pop() if fates else FINE
        self.say(f"gateway will: {fate.name}")
        return fate

    def look_up(self, gateway: str, target: str) -> Fate:
        """Of the next read."""
        if target.startswith(("/v1/events", "/v1/payments?")):
            self._asked[gateway].append(self.loop.time())
        return self._look_ups.pop() if self._look_ups else _READ

    def _at_the_gateway(self, what: str) -> None:
        self.say(f"gateway {what}")
        self._happened(Moment.EXECUTED)

    def on_the_wire(self, gateway: str, send: Send) -> Sent:
        """The first byte leaves: note what the disk says at this moment."""
        sent = self._sent(gateway, send)
        self.history.sent.append(sent)
        self.say(f"send {sent.number} {sent.session}#{sent.attempt} {gateway} key {sent.key}")
        self._happened(Moment.SENT)
        return sent

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

    def listener(self) -> Process:
        """The process there is."""
        return self._process

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
        self._happened(Moment.ANSWERED)

    def read(self, gateway: str, target: str, facts: WireFacts) -> None:
        """A look-up was answered; if it shows a charge, that is evidence."""
        key = self.gateways[gateway].key_of(target)
        self.say(f"look-up {target}: {facts.status} {facts.body.decode()}")
        if key is None or b'"status": "succeeded"' not in facts.body:
            return
        # The key may have been another session's that never sent it.
        senders = [s.session for s in self.history.sent if (s.gateway, s.key) == (gateway, key)]
        if senders and senders[-1] is not None:
            self._evident(self._process, senders[-1], Outcome.CHARGED, "a look-up")

    def _evident(self, process: Process, session: str, outcome: Outcome, how: str) -> None:
        self._evidence.append((process, Heard(self.loop.time(), session, outcome, how)))

    # --- people -------------------------------------------------------------------------------

    async def ask(self, who: str, payment: str, request: InboundRequest) -> Told | None:
        """Send a request; None if the connection broke."""
        self.say(f"{who} asks {request.gateway}")
        if self._sidecar is None:
            return None
        answered: asyncio.Future[Answer] = self.loop.create_future()
        _ = self._process.run(self._serve(self._sidecar, request, answered))
        try:
            answer = await self._connected(answered)
        except ConnectionError:
            return None
        except TimeoutError:
            self.history.hung.append(who)
            return None
        told = self._told(who, payment, answer)
        self.history.told.append(told)
        text = f"{told.status} {told.outcome}{' over' if told.over else ''}"
        self.say(f"{who} is told {text} of {told.session} {_code(answer)}")
        self._happened(Moment.TOLD)
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

    async def _connected(self, answered: asyncio.Future[Any]) -> Any:
        """What comes over a connection that breaks when the process dies."""
        number = id(answered)
        self._connections[number] = answered
        try:
            async with asyncio.timeout(_HANGS_AFTER):
                return await answered
        finally:
            del self._connections[number]

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

    async def _apply(self, sidecar: Sidecar, verb: Verb, name: str) -> None:
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
            case Verb.COMPLETE:
                # A person vouches only for what the gateway's own pages show.
                numbers = {sent.number for sent in self.history.sent if sent.session == name}
                if any(charge.send in numbers for charge in self.history.charges):
                    _ = await commands.complete(name, "seen")

    def _acknowledged(self, session: Session) -> None:
        """An operator was told that it is cancelled (or was over before), and not charged."""
        kept = self.disk.sessions.get(session.id)
        recorded = kept is not None and kept.state is session.state
        self.history.told.append(
            Told(
                self.loop.time(),
                "operator",
                "",
                session.id,
                200,
                b"",
                session.outcome,
                over=True,
                recorded=recorded,
            )
        )

    async def _command(self, what: str, work: Callable[[Sidecar], Any]) -> Any:
        self.say(what)
        sidecar = self._sidecar
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

        _ = self._process.run(carry_out())
        try:
            return await self._connected(answered)
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
