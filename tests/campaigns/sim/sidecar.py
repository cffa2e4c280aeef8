"""One Holdfast of a simulation: the real flow, wired as `app.py` does it, between a simulated store
and simulated gateways.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from functools import cache
from math import inf
from pathlib import Path
from random import Random
from typing import Protocol

from proxy.app import make_lane
from proxy.background.heartbeat import Heartbeat
from proxy.background.janitor import Janitor
from proxy.background.prober import Prober
from proxy.background.reconciler import Reconciler
from proxy.core import events as ev
from proxy.core.session import Session
from proxy.core.wire import Answer, InboundRequest
from proxy.flow.admission import Admissions
from proxy.flow.commands import Commands
from proxy.flow.held import HeldRequests
from proxy.flow.journal import Journal
from proxy.flow.pipeline import Pipeline
from proxy.flow.reconcile import Reconcile
from proxy.flow.saver import Saver
from proxy.flow.walk import Lane, Walks
from proxy.keyring import Keyring
from proxy.ports import SessionStore, Upstream
from proxy.settings.load import load
from proxy.settings.values import Settings
from proxy.tasks import Tasks
from tests.campaigns.sim.gateway import EPOCH_SECONDS
from tests.campaigns.sim.loop import VirtualLoop
from tests.campaigns.sim.store import SimSpool

_GATEWAYS = """\
store: memory://
gateways:
  stripe:
    profile: stripe
    listen: "127.0.0.1:0"
    upstream: "http://127.0.0.1:1"
    {credential}
  strong:
    profile: generic
    idempotency: {{class: A_strong, window: {window}}}
    listen: "127.0.0.1:0"
    upstream: "http://127.0.0.1:1"
  none: {{profile: generic, listen: "127.0.0.1:0", upstream: "http://127.0.0.1:1"}}
  search: {{profile: search, listen: "127.0.0.1:0", upstream: "http://127.0.0.1:1"{whole}}}
  weak: {{profile: weak, listen: "127.0.0.1:0", upstream: "http://127.0.0.1:1"{whole}}}
  void: {{profile: void, listen: "127.0.0.1:0", upstream: "http://127.0.0.1:1"{whole}}}
"""
# Gateways without a useful key. They are done with a request after 103 s (`fates.py`), their list
# lags behind by up to 130 s, and an old copy of it may be shown for 200 s after that.
_PROFILE = """\
title: A gateway without a useful key
idempotency: {class: CLASS, window: 24h}
results:
  - {when: {status: [402]}, result: declined}
  - {when: {status: [429]}, result: not_executed}
  - {when: {status: [409]}, result: in_progress}
  - {when: {status: [4xx]}, result: rejected}
  - {when: {status: [2xx], json: [{path: status, in: [succeeded]}]}, result: succeeded}
  - {when: {status: [2xx], json: [{path: last_payment_error}]}, result: declined}
routes:
  - name: payment
    match: {methods: [POST], path: /**}
    session: durable
    lookup: payment
lookups:
  payment:
    find: "/v1/payments?key={gateway_key}"
    items: payments[*]
    match: [{path: key, value: "{gateway_key}"}]
    id: id
    read: /v1/payments/{id}
"""
_PROFILES = {
    "weak": _PROFILE.replace("CLASS", "A_weak"),
    "search": _PROFILE.replace("CLASS", "B_lookup")
    + "    not_found_proves: {after: 4m, confirmations: 2}\n",
    "void": _PROFILE.replace("CLASS", "C_cancel_by_key")
    + """\
    cancel:
      target: /v1/payments/cancel
      body: '{"key": "{gateway_key}"}'
      proves: {status: [200], json: [{path: voided, in: [true]}]}
      after: 130s
""",
}
_MANY = "defaults: {retry: {max_attempts: 8, automatic_attempts: 2}}\n"
_CREDENTIAL = "lookup_credential: {env: LOOK_UP}"
_POLICIES = {
    # As shipped: three attempts, fifteen minutes.
    "usual": (_CREDENTIAL, "24h", ""),
    # Clients may bring it again after Holdfast has given up by itself.
    "patient": (_CREDENTIAL, "24h", _MANY),
    "no credential": ("", "24h", _MANY),
    # The horizon (three quarters of the window) comes before the deadline of the session.
    "short window": (_CREDENTIAL, "10m", _MANY),
    # The deadline comes after the end of the key's life.
    "long": (_CREDENTIAL, "24h", _MANY + "session: {expires_after: 3d, replay_for: 7d}\n"),
}
WINDOWS = {"short window": 600.0}
_HOUR = 3600.0
_LONGEST_PAUSE = 6 * _HOUR


@cache
def settings_of(policy: str) -> Settings:
    """A policy by its name."""
    credential, window, rest = _POLICIES[policy]
    sees_all = policy != "patient"  # there, several accounts use one gateway
    whole = f", lookup_credential: {{env: LOOK_UP, sees_all: {str(sees_all).lower()}}}"
    whole = whole if credential else ""
    text = _GATEWAYS.format(credential=credential, window=window, whole=whole) + rest
    with tempfile.TemporaryDirectory(prefix="holdfast-simulate-") as folder:
        path = Path(folder) / "policy.yaml"
        (path.parent / "gateways").mkdir()
        for name, profile in _PROFILES.items():
            (path.parent / "gateways" / f"{name}.yaml").write_text(profile, encoding="utf-8")
        path.write_text(text, encoding="utf-8")
        return load(path, {"LOOK_UP": "Bearer sk_one"})


@cache
def secrets() -> Keyring:
    """The install's key; the same for every run."""
    return Keyring(b"k" * 32)


class SimClock:
    """The loop's time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return EPOCH_SECONDS * 1000 + round(self._loop.time() * 1000)

    def monotonic(self) -> float:
        """Seconds."""
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Virtual."""
        await asyncio.sleep(seconds)


class LazyClock(SimClock):
    """For what looks around once a second: while nothing happens it looks ever less often, so that
    days of quiet cost nothing. `wake` brings it back to once a second, and it never sleeps past
    what is `due`.
    """

    def __init__(
        self, loop: VirtualLoop, shortest: float, due: Callable[[], float] = lambda: inf
    ) -> None:
        super().__init__(loop)
        self._shortest = self._pause = shortest
        self._due = due
        self._end: asyncio.TimerHandle | None = None
        self._asleep: asyncio.Future[None] | None = None
        self._context = copy_context()  # whoever wakes it, the step is its process's own

    async def sleep(self, seconds: float) -> None:
        """For a while."""
        self._asleep = self._loop.create_future()
        until_due = self._due() - self._loop.time()
        pause = max(seconds, min(self._pause, until_due))
        self._end = self._loop.call_later(pause, self._up)
        self._pause = min(self._pause * 4.0, _LONGEST_PAUSE)
        await self._asleep

    def wake(self) -> None:
        """Something happens."""
        self._pause = self._shortest
        if self._end is not None and self._end.when() > self._loop.time() + self._pause:
            self._end.cancel()
            self._end = self._loop.call_later(self._pause, self._up, context=self._context)

    def _up(self) -> None:
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)


class SimDice:
    """Jitter from the run's own chance; names that no process of the run gives twice."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._named = 0

    def jitter(self) -> float:
        """In [0, 1)."""
        return self._chance.random()

    def session_id(self) -> str:
        """A name that a person can follow: s1, s2 and so on."""
        self._named += 1
        return f"s{self._named}"

    def key(self) -> str:
        """A key nobody else has."""
        self._named += 1
        return f"generated-{self._named}"


class GivenBody:
    """A body that is there already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, limit: int) -> bytes:
        """All of it."""
        assert len(self._data) <= limit
        return self._data

    async def stream(self) -> AsyncIterator[bytes]:
        """All of it."""
        yield self._data


class Silent:
    """A recorder that tells the transcript of moves, and of breakers whoever probes them."""

    def __init__(
        self, say: Callable[[str], None] | None, breaker_moved: Callable[[], None] = lambda: None
    ) -> None:
        self._say = say
        self._breaker_moved = breaker_moved

    def moved(self, _before: Session | None, event: ev.Event, after: Session) -> None:
        """A session moved."""
        if self._say is not None:
            name = type(event).__name__
            self._say(f"{after.id} {name} -> {after.state}/{after.outcome}")

    def dropped(self, session: Session) -> None:
        """Of no interest."""

    def note(self, fact: ev.Fact) -> None:
        """Of no interest, but for the breakers."""
        if isinstance(fact, ev.BreakerMoved):
            self._breaker_moved()
            if self._say is not None:
                self._say(f"breaker of {fact.gateway} {fact.state}: {fact.why}")


class MortalStore(SessionStore, Protocol):
    """A store whose process can die."""

    @property
    def why_broken(self) -> str | None:
        """Why only a restart can help, or None."""
        ...

    def power_cut(self, *, durable: bool) -> None:
        """The process is gone. What was being written is durable, or it is not."""
        ...


class Surroundings(Protocol):
    """What a Holdfast is put into."""

    loop: VirtualLoop
    settings: Settings
    clock: SimClock
    dice: SimDice
    upstreams: dict[str, Upstream]

    @property
    def tell(self) -> Callable[[str], None] | None:
        """Where to say what happens, if anybody listens."""
        ...

    def bug(self, error: BaseException) -> None:
        """An exception nobody expected."""
        ...

    def next_due(self) -> float:
        """When the next look-up is due (loop time)."""
        ...


class Sidecar:
    """The flow with everything around it, in one process."""

    def __init__(
        self,
        around: Surroundings,
        store: MortalStore,
        spool: SimSpool,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        settings, clock = around.settings, around.clock
        probing = LazyClock(around.loop, 1.0, self._next_probe)
        self._recorder = recorder = Silent(around.tell, probing.wake)
        self.store = store
        self._heartbeat = heartbeat
        self._around = around
        self._clock = clock
        self.journal = Journal(store, secrets(), recorder)
        held = HeldRequests(settings.held_request_bytes)
        walks = Walks()
        self.tasks = Tasks(around.bug)
        reconcile = Reconcile(self.journal, held, clock, secrets().digest)
        self._spool = spool
        self._saver = Saver(self.journal, secrets(), spool, clock, self.tasks, around.bug)
        self.lanes = {name: self._lane(name) for name in settings.gateways}
        self.pipeline = Pipeline(
            store=store,
            journal=self.journal,
            secrets=secrets(),
            recorder=recorder,
            clock=clock,
            dice=around.dice,
            policy=settings.session,
            held=held,
            reconcile=reconcile,
            walks=walks,
            saver=self._saver,
            tasks=self.tasks,
            on_bug=around.bug,
        )
        self.commands = Commands(
            store=store,
            journal=self.journal,
            pipeline=self.pipeline,
            reconcile=reconcile,
            lanes=self.lanes,
            walks=walks,
            tasks=self.tasks,
            clock=clock,
            dice=around.dice,
            policy=settings.session,
            default_max_attempts=3,
        )
        self.lazy = LazyClock(around.loop, 1.0, around.next_due)
        self._reconciler = Reconciler(store, self.journal, self.commands, self.lazy, around.bug)
        self._prober = Prober(self.lanes, probing, around.bug)
        self._janitor = Janitor(store, settings.session, LazyClock(around.loop, _HOUR))

    def _lane(self, name: str) -> Lane:
        gateway = self._around.settings.gateways[name]
        limits = gateway.limits, gateway.budget
        admissions = Admissions(name, *limits, self._clock, self._recorder)
        return make_lane(gateway, self._around.upstreams[name], admissions)

    def _next_probe(self) -> float:
        """Until every breaker is closed the prober is as restless as it is in earnest."""
        closed = all(a.breaker.allows() for lane in self.lanes.values() for a in lane.admissions)
        return inf if closed else 0.0

    async def start(self) -> None:
        """As `app.py` does. Raises `StoreUnavailable`."""
        if self._heartbeat is not None:
            _ = self.tasks.start(self._heartbeat.run(), "heartbeat")
        await self._saver.replay()
        await self._reconciler.begin()
        _ = self.tasks.start(self._reconciler.run(), "reconciler")
        _ = self.tasks.start(self._prober.run(), "prober")
        _ = self.tasks.start(self._janitor.run(), "janitor")

    async def handle(self, request: InboundRequest) -> Answer:
        """A request that arrived at a gateway's listener."""
        lane = self.lanes[request.gateway]
        return await self.pipeline.handle(lane, request, GivenBody(request.body))

    async def stop(self) -> None:
        """SIGTERM."""
        await self.pipeline.drain(self._around.settings.shutdown.drain)
        await self.tasks.stop()
        await self._spool.close()
        await self.store.close()
