"""A laboratory for the flow: the real pipeline between a scripted gateway and the memory store.

Everything that happens is written into one `transcript`, in order, so that a test can say what must
be durable before what leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

from proxy.app import make_lane
from proxy.background.prober import Prober
from proxy.background.reconciler import Reconciler
from proxy.core import events as ev
from proxy.core.http_rules import Checked, check_request
from proxy.core.session import Session
from proxy.core.wire import Answer, Headers, InboundRequest
from proxy.flow.admission import Admissions
from proxy.flow.commands import Commands
from proxy.flow.held import HeldRequests
from proxy.flow.journal import Journal
from proxy.flow.pipeline import Pipeline
from proxy.flow.reconcile import Reconcile
from proxy.flow.saver import Saver
from proxy.flow.walk import BodyTooLarge, Lane, Walks
from proxy.keyring import Keyring
from proxy.ports import StoreUnavailable
from proxy.settings.load import load
from proxy.settings.values import Settings
from proxy.stores.memory import MemoryStore
from proxy.tasks import Tasks
from proxy.upstream.scripted import ScriptedUpstream
from tests.support.clocks import LoadedDice, LoopClock

POLICY = """
store: memory://
gateways:
  stripe: {profile: stripe, listen: "127.0.0.1:0", upstream: "http://127.0.0.1:1"}
  plain: {profile: generic, listen: "127.0.0.1:0", upstream: "http://127.0.0.1:1"}
defaults:
  retry: {backoff: {initial: 200ms, max: 5s}}
"""
SUCCEEDED = b'{"id":"pi_1","object":"payment_intent","status":"succeeded"}'
DECLINED = b'{"error":{"type":"card_error","code":"card_declined"}}'


class TranscribingStore(MemoryStore):
    """The memory store, telling what it made durable; can be told to fail."""

    def __init__(self, clock: LoopClock, heard: list[str]) -> None:
        super().__init__(clock)
        self.heard = heard
        self.failing = False

    async def commit(
        self,
        session: Session,
        expected_version: int,
        answer: bytes | None,
        request: bytes | None = None,
    ) -> None:
        if self.failing:
            message = "the disk is full"
            raise StoreUnavailable(message)
        await super().commit(session, expected_version, answer, request)
        steps = session.timeline[expected_version:] or session.timeline[-1:]
        for step in steps:
            self.heard.append(f"store  {step.event} {step.state}/{step.outcome}")


class SharedStore(TranscribingStore):
    """One replica's view of a store that several share; `beside` is another's view of it."""

    shared = True
    LEASE = 10.0

    def __init__(
        self, clock: LoopClock, heard: list[str], beside: SharedStore | None = None
    ) -> None:
        super().__init__(clock, heard)
        self.leases: dict[int, float] = {}
        if beside is not None:
            self._index, self.leases = beside._index, beside.leases
            self._answers, self._requests = beside._answers, beside._requests
        self.epoch = len(self.leases) + 1
        self.leases[self.epoch] = clock.monotonic() + self.LEASE

    async def heartbeat(self) -> None:
        """Renew the lease."""
        if self.lease_seconds() <= 0:
            self.epoch = len(self.leases) + 1
        self.leases[self.epoch] = self._clock.monotonic() + self.LEASE

    def lease_seconds(self) -> float:
        """What is left of it."""
        return self.leases[self.epoch] - self._clock.monotonic()

    @property
    def leads(self) -> bool:  # type: ignore[override]  # never set, only asked for
        """The one that has been there for longest."""
        now = self._clock.monotonic()
        return self.epoch == min(epoch for epoch, until in self.leases.items() if until > now)

    async def abandoned(self) -> list[Session]:
        """In flight under a lease that ran out."""
        now = self._clock.monotonic()
        gone = {epoch for epoch, until in self.leases.items() if until <= now}
        return [session for session in await self.listed() if session.sender in gone]


class TranscribingSpool:
    """A spool in memory, telling what it was given; can be told to be full."""

    def __init__(self, heard: list[str]) -> None:
        self._heard = heard
        self._waiting: dict[int, bytes] = {}
        self.full = False

    async def keep(self, record: bytes) -> int:
        if self.full:
            message = "the spool is full"
            raise StoreUnavailable(message)
        number = max(self._waiting, default=0) + 1
        self._waiting[number] = record
        self._heard.append("spool  AttemptEnded")
        return number

    def records(self) -> dict[int, bytes]:
        return dict(self._waiting)

    async def done(self, number: int) -> None:
        del self._waiting[number]
        self._heard.append("spool  done")


class Notes:
    """A recorder that keeps everything."""

    def __init__(self) -> None:
        self.moves: list[tuple[Session | None, ev.Event, Session]] = []
        self.facts: list[ev.Fact] = []

    def moved(self, before: Session | None, event: ev.Event, after: Session) -> None:
        self.moves.append((before, event, after))

    def dropped(self, session: Session) -> None:
        """Not of interest."""

    def note(self, fact: ev.Fact) -> None:
        self.facts.append(fact)

    def of(self, kind: type[ev.Fact]) -> list[ev.Fact]:
        """The facts of one kind."""
        return [fact for fact in self.facts if isinstance(fact, kind)]


class GivenBody:
    """A body that is there already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, limit: int) -> bytes:
        if len(self._data) > limit:
            raise BodyTooLarge
        return self._data

    async def stream(self) -> AsyncIterator[bytes]:
        yield self._data


def settings_from(text: str, folder: Path, environ: dict[str, str] | None = None) -> Settings:
    """A policy written down and read again, as an operator's would be."""
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ or {})


class RequestHead(NamedTuple):
    """A request's head as a backend writes it."""

    method: str
    target: str
    headers: Headers


def pay(  # noqa: PLR0913 -- everything a backend can say, by name
    *,
    key: str | None = None,
    order: str | None = None,
    session: str | None = None,
    user: str | None = None,
    body: bytes = b"amount=1999&currency=eur",
    method: str = "POST",
    target: str = "/v1/payment_intents",
    credential: str = "Bearer sk_test_lab",
    headers: Headers = (),
) -> tuple[RequestHead, bytes]:
    """A request as a backend sends it."""
    named: list[tuple[str, str]] = [
        ("Host", "127.0.0.1"),
        ("Authorization", credential),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Length", str(len(body))),
        *headers,
    ]
    for name, value in (
        ("Idempotency-Key", key),
        ("X-Payment-Order-Id", order),
        ("X-Payment-Session-Id", session),
        ("X-Payment-User-Id", user),
    ):
        if value is not None:
            named.append((name, value))
    return RequestHead(method, target, tuple(named)), body


class Lab:
    """The flow with everything around it; with the store of another it goes on with its
    transcript.
    """

    def __init__(
        self,
        settings: Settings,
        store: TranscribingStore | None = None,
        spool: TranscribingSpool | None = None,
    ) -> None:
        self.transcript: list[str] = [] if store is None else store.heard
        self.clock = LoopClock()
        self.dice = LoadedDice()
        self.notes = Notes()
        self.bugs: list[BaseException] = []
        self.settings = settings
        self.secrets = Keyring(b"k" * 32)
        self.store = store or TranscribingStore(self.clock, self.transcript)
        self.spool = spool or TranscribingSpool(self.transcript)
        self.gateway = ScriptedUpstream(self.transcript.append)
        self.merchant = ScriptedUpstream(self.transcript.append)  # where webhooks are forwarded
        self.journal = Journal(self.store, self.secrets, self.notes)
        self.held = HeldRequests(settings.held_request_bytes)
        self.walks = Walks()
        self.tasks = Tasks(self.bugs.append)
        self.reconcile = Reconcile(self.journal, self.held, self.clock, self.secrets.digest)
        self.saver = Saver(
            self.journal, self.secrets, self.spool, self.clock, self.tasks, self.bugs.append
        )
        self.lanes = {name: self._lane(name) for name in settings.gateways}
        self.pipeline = Pipeline(
            store=self.store,
            journal=self.journal,
            secrets=self.secrets,
            recorder=self.notes,
            clock=self.clock,
            dice=self.dice,
            policy=settings.session,
            held=self.held,
            reconcile=self.reconcile,
            walks=self.walks,
            saver=self.saver,
            tasks=self.tasks,
            on_bug=self.bugs.append,
        )
        self.commands = Commands(
            store=self.store,
            journal=self.journal,
            pipeline=self.pipeline,
            reconcile=self.reconcile,
            lanes=self.lanes,
            walks=self.walks,
            tasks=self.tasks,
            clock=self.clock,
            dice=self.dice,
            policy=settings.session,
            default_max_attempts=3,
        )
        self.reconciler = Reconciler(
            self.store, self.journal, self.commands, self.clock, self.bugs.append
        )
        self.prober = Prober(self.lanes, self.clock, self.bugs.append)

    def _lane(self, name: str) -> Lane:
        gateway = self.settings.gateways[name]
        limits = gateway.limits, gateway.budget
        admissions = Admissions(name, *limits, self.clock, self.notes)
        merchant = None if gateway.webhook.forward_to is None else self.merchant
        return make_lane(gateway, self.gateway, admissions, merchant)

    async def merchant_sends(
        self, request: tuple[RequestHead, bytes], gateway: str = "stripe"
    ) -> Answer:
        """Send a request through the pipeline, as the gateway's listener would."""
        head, body = request
        lane = self.lanes[gateway]
        raw = tuple((n.encode("latin-1"), v.encode("latin-1")) for n, v in head.headers)
        checked = check_request(head.method, head.target, raw, "holdfast-lab", lane.key_headers)
        assert isinstance(checked, Checked), checked
        inbound = InboundRequest(
            gateway=gateway,
            method=head.method,
            target=head.target,
            headers=checked.forward,
            has_body=checked.has_body,
            session_id=checked.values.get("x-payment-session-id"),
            order_ref=checked.values.get("x-payment-order-id"),
            user_ref=checked.values.get("x-payment-user-id"),
            values=checked.values,
        )
        # As at a gateway's door: who hangs up does not end the request's task.
        handling = asyncio.ensure_future(self.pipeline.handle(lane, inbound, GivenBody(body)))
        answer = await asyncio.shield(handling)
        self.transcript.append(f"answer {answer.status}{_code(answer)}")
        return answer

    async def session(self, answer: Answer) -> Session:
        """The session an answer names."""
        found = await self.store.get(header_of(answer, "X-Payment-Session-Id"))
        assert found is not None
        return found

    async def only_session(self) -> Session:
        """The one session there is."""
        sessions: Sequence[Session] = list(self.store._index.by_id.values())
        assert len(sessions) == 1, sessions
        return sessions[0]

    async def close(self) -> None:
        """Stop what runs; a bug that was caught fails the test here."""
        await self.tasks.stop()
        assert not self.bugs, self.bugs

    async def settle_down(self) -> None:
        """Let what was started in the background come to its next wait."""
        for _ in range(20):
            await asyncio.sleep(0)


def header_of(answer: Answer, name: str) -> str:
    """A header of an answer; the test fails if it is not there."""
    found = [value for key, value in answer.headers if key.lower() == name.lower()]
    assert found, f"no {name} in {answer.headers}"
    return found[0]


def _code(answer: Answer) -> str:
    if b'"type":"/problems/' not in answer.body:
        return ""
    return " " + answer.body.split(b'"/problems/')[1].split(b'"')[0].decode()
