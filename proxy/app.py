"""The composition root: the only file that names every concrete class, and the order of start and
stop.

Start: key, store, spool, what the last process left behind, background work, and only then the
doors.
Stop: not ready, a moment for load balancers to see it, no new sends, payments in flight finish or
are recorded as interrupted, doors close, store closes.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from proxy import __version__
from proxy.audit import AuditFile
from proxy.background.gauges import Gauges
from proxy.background.heartbeat import Heartbeat
from proxy.background.janitor import Janitor
from proxy.background.prober import Prober
from proxy.background.reconciler import Reconciler
from proxy.background.reload import Reloader
from proxy.background.watch import Watch
from proxy.flow.admission import Admissions
from proxy.flow.commands import Commands
from proxy.flow.held import HeldRequests
from proxy.flow.journal import Journal
from proxy.flow.pipeline import Pipeline
from proxy.flow.reconcile import Reconcile
from proxy.flow.saver import Saver
from proxy.flow.walk import Lane, Walks
from proxy.flow.webhooks import Webhooks
from proxy.keyring import KEY_BYTES, Keyring, read_keys, read_or_make_keys
from proxy.ports import Recorder, SessionStore, Upstream
from proxy.settings.defaults import MAX_ATTEMPTS
from proxy.settings.load import Policy
from proxy.settings.retries import risky_routes
from proxy.settings.values import Address, Gateway, Settings
from proxy.spool import FileSpool
from proxy.stores import make_store
from proxy.system import SystemClock, SystemDice
from proxy.tasks import Tasks
from proxy.telemetry.logs import LineSink, Sink
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.recorder import MetricsRecorder
from proxy.upstream.lean import LeanUpstream
from proxy.web.admin import Admin
from proxy.web.auth import Gatekeeper
from proxy.web.breakers import Breakers
from proxy.web.forward import Forward
from proxy.web.listeners import Listeners, check_parser
from proxy.web.sessions_api import SessionsApi
from proxy.web.webhooks import WebhooksDoor


@dataclass(frozen=True, slots=True)
class Doors:
    """Where it really listens (a port of 0 in the settings is any free one)."""

    sessions: Address
    admin: Address
    gateways: Mapping[str, Address]


class Holdfast:
    """One running sidecar. `log_stream` takes its log lines; standard output by default. `policy`
    is what the settings were read from, if they may change.
    """

    def __init__(
        self, settings: Settings, log_stream: Sink | None = None, policy: Policy | None = None
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._log_stream = log_stream
        self._log = structlog.get_logger()
        self._clock = SystemClock()
        self._dice = SystemDice()
        self._metrics = Metrics()
        self._listeners = Listeners()
        self._walks = Walks()
        self._lanes: dict[str, Lane] = {}
        self._forwards: dict[str, Forward] = {}
        self._reloader: Reloader | None = None
        self._stopping = False
        # Closed in the reverse order of opening, also when opening fails half-way.
        self._open = AsyncExitStack()

    async def start(self) -> Doors:
        """Open everything. Raises `UnsafeParser`, `KeyFileError`, `StoreUnavailable`, or OSError
        for an address or a spool that is in use; what was opened before is then closed again.
        """
        check_parser()
        try:
            doors = await self._start()
        except BaseException:
            await self._open.aclose()
            raise
        if self._policy is not None:  # which moves what has been opened
            self._reloader = Reloader(self._policy, self._use, self._recorder, self._clock)
            _ = self._tasks.start(self._reloader.run(), "reloader")
        return doors

    async def _start(self) -> Doors:
        settings, clock = self._settings, self._clock
        keyring = self._keyring()
        later = asyncio.get_running_loop().call_soon
        lines = LineSink(self._log_stream)
        self._recorder = recorder = MetricsRecorder(self._metrics, lines, clock, later)
        self._store = store = await self._open_store(recorder, keyring)
        self._audit = self._open_audit()
        self._open_lanes()
        spool = await self._opened_spool()
        self._tasks = tasks = Tasks(self._bug)
        self._open.push_async_callback(tasks.stop)
        journal = Journal(store, keyring, recorder)
        held = HeldRequests(settings.held_request_bytes)
        reconcile = Reconcile(journal, held, clock, keyring.digest)
        saver = Saver(journal, keyring, spool, clock, tasks, self._bug)
        self._pipeline = Pipeline(
            store=store,
            journal=journal,
            secrets=keyring,
            recorder=recorder,
            clock=clock,
            dice=self._dice,
            policy=settings.session,
            held=held,
            reconcile=reconcile,
            walks=self._walks,
            saver=saver,
            tasks=tasks,
            on_bug=self._bug,
        )
        commands = Commands(
            store=store,
            journal=journal,
            pipeline=self._pipeline,
            reconcile=reconcile,
            lanes=self._lanes,
            walks=self._walks,
            tasks=tasks,
            clock=clock,
            dice=self._dice,
            policy=settings.session,
            default_max_attempts=MAX_ATTEMPTS,
        )
        reconciler = Reconciler(store, journal, commands, clock, self._bug)
        if store.shared:  # first: what was left behind may be more than one lease's work
            _ = tasks.start(
                Heartbeat(store, settings.session.lease, clock, self._bug).run(), "heartbeat"
            )
        await self._catch_up(saver, reconciler)
        for work, name in (
            (reconciler, "reconciler"),
            (Prober(self._lanes, clock, self._bug), "prober"),
            (Watch(store, recorder, clock), "watch"),
            (Janitor(store, settings.session, clock), "janitor"),
        ):
            _ = tasks.start(work.run(), name)
        gatekeeper = Gatekeeper(settings.tokens, keyring)
        sessions = SessionsApi(commands, store, keyring, gatekeeper, clock, self._audit)
        webhooks = Webhooks(commands, store, recorder, clock, keyring.digest)
        gauges = Gauges(
            metrics=self._metrics,
            store=store,
            walks=self._walks,
            lanes=self._lanes,
            spool=spool,
            tasks=tasks,
            clock=clock,
            unready=self._unready,
        )
        admin = Admin(
            metrics=self._metrics,
            refresh=gauges.refresh,
            unready=self._unready,
            broken=lambda: store.broken,
            gatekeeper=gatekeeper,
            reload=self._reload,
            breakers=Breakers(self._lanes, gatekeeper, self._audit),
        )
        self._open.push_async_callback(self._listeners.close)
        return await self._open_doors(WebhooksDoor(webhooks, self._lanes, sessions), admin, keyring)

    async def _open_store(self, recorder: Recorder, keyring: Keyring) -> SessionStore:
        settings = self._settings
        store = make_store(settings.store, settings.session.lease, self._clock, recorder)
        await store.open()
        self._open.push_async_callback(store.close)
        await store.bind(keyring.digest("whose store it is"))
        if store.promise is not None:  # one that cannot promise everything says so, every time
            self._log.warning("store", promise=store.promise)
        return store

    def _warn_of_risks(self) -> None:
        for risk in risky_routes(self._settings.gateways.values()):
            self._log.warning("may charge twice", **risk)

    def _open_lanes(self) -> None:
        self._warn_of_risks()
        for name, gateway in self._settings.gateways.items():
            limits = gateway.limits, gateway.budget
            admissions = Admissions(name, *limits, self._clock, self._recorder)
            upstream = self._open_upstream(gateway.upstream, gateway.ca_file)
            merchant = self._open_merchant(gateway)
            self._lanes[name] = make_lane(gateway, upstream, admissions, merchant)

    def _open_upstream(self, origin: str, ca_file: Path | None) -> LeanUpstream:
        upstream = LeanUpstream(origin, ca_file=ca_file)
        self._open.push_async_callback(upstream.close)
        return upstream

    def _open_merchant(self, gateway: Gateway) -> LeanUpstream | None:
        """The way to where its webhooks are forwarded."""
        if gateway.webhook.forward_to is None:
            return None
        where = urlsplit(gateway.webhook.forward_to)
        return self._open_upstream(f"{where.scheme}://{where.netloc}", None)

    def _open_audit(self) -> AuditFile | None:
        if self._settings.audit is None:
            self._log.warning("no audit trail", setting="audit")
            return None
        audit = AuditFile(self._settings.audit, self._clock)
        audit.open()
        self._open.push_async_callback(audit.close)
        return audit

    async def _opened_spool(self) -> FileSpool | None:
        if self._settings.spool is None:
            return None
        spool = FileSpool(self._settings.spool, self._clock)
        await spool.open()
        self._open.push_async_callback(spool.close)
        return spool

    async def _catch_up(self, saver: Saver, reconciler: Reconciler) -> None:
        """What an earlier process left behind: first what it knew, then what nobody knows."""
        replayed = await saver.replay()
        if replayed:
            self._log.warning("outcomes replayed from the spool", outcomes=replayed)
        unknown = await reconciler.begin()
        if unknown:
            self._log.warning("interrupted by restart", sessions=unknown)

    def _keyring(self) -> Keyring:
        if self._settings.keys is not None:
            return Keyring(*self._settings.keys)
        path = self._settings.key_file
        if path is None:  # a store that forgets everything needs no key that outlives it
            return Keyring(os.urandom(KEY_BYTES))
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Keyring(*read_or_make_keys(path), read_again=partial(read_keys, path))

    async def _open_doors(self, sessions: WebhooksDoor, admin: Admin, keyring: Keyring) -> Doors:
        settings, listeners = self._settings, self._listeners
        # The same on every replica of an installation, so that a loop through two is one too.
        via = f"holdfast-{keyring.digest('via')[:8]}"
        self._metrics.config_last_reload_successful.set(1)
        opened: dict[str, Address] = {}
        for name, gateway in settings.gateways.items():
            token = None if gateway.listen.loopback else settings.tokens.backend
            forward = Forward(self._pipeline, self._lanes[name], via=via, token=token)
            self._forwards[name] = forward
            where = gateway.listen
            with _named(f"gateways.{name}.listen", where):
                port = await listeners.open_gateway(forward.handle, where.host, where.port)
            opened[name] = Address(where.host, port)
        where = settings.sessions
        with _named("listen.sessions", where):
            port = await listeners.open_app(sessions.app(), where.host, where.port)
        api = Address(where.host, port)
        where = settings.admin
        with _named("listen.admin", where):
            port = await listeners.open_app(admin.app(), where.host, where.port)
        doors = Doors(api, Address(where.host, port), opened)
        self._metrics.ready.set(1)
        self._metrics.build_info.set(1, __version__)
        self._log.info(
            "ready",
            version=__version__,
            sessions=str(doors.sessions),
            admin=str(doors.admin),
            **{f"gateway_{name}": str(address) for name, address in opened.items()},
            audit_head=None if self._audit is None else self._audit.head,
        )
        return doors

    async def _reload(self) -> list[str]:
        return [] if self._reloader is None else await self._reloader.reload()

    def reload_soon(self) -> None:
        """Take up the policy file as it is now; the log says what came of it."""
        if self._reloader is not None and not self._stopping:
            _ = self._tasks.start(self._reloader.soon(), "reload")

    def _use(self, policy: Policy) -> None:
        """Have everything that begins from now on go by this policy."""
        before, gateways = self._settings.gateways, policy.settings.gateways
        # What is under way keeps the connections it has.
        moved = {
            name: self._open_upstream(gateway.upstream, gateway.ca_file)
            for name, gateway in gateways.items()
            if (gateway.upstream, gateway.ca_file) != (before[name].upstream, before[name].ca_file)
        }
        self._settings = policy.settings
        self._warn_of_risks()
        for name, gateway in gateways.items():
            lane = self._lanes[name]
            lane.admissions.use(gateway.limits, gateway.budget)
            upstream, merchant = moved.get(name, lane.upstream), lane.merchant
            if gateway.webhook.forward_to != before[name].webhook.forward_to:
                merchant = self._open_merchant(gateway)
            self._lanes[name] = lane = make_lane(gateway, upstream, lane.admissions, merchant)
            self._forwards[name].use(lane)

    async def stop(self) -> None:
        """Drain and close. In-flight payments finish, or are durably marked as interrupted."""
        shutdown = self._settings.shutdown
        self._stopping = True
        self._metrics.ready.set(0)
        self._log.info("stopping", drain_seconds=shutdown.drain)
        await self._clock.sleep(shutdown.ready_delay)
        await self._pipeline.drain(shutdown.drain)
        await self._open.aclose()
        self._log.info("stopped")

    def _unready(self) -> str | None:
        if self._stopping:
            return "stopping"
        return None if self._store.trouble is None else "the session store takes no writes"

    def _bug(self, error: BaseException) -> None:
        self._log.error("internal error", exc_info=error)


@contextmanager
def _named(setting: str, where: Address) -> Iterator[None]:
    """An address that cannot be listened on is told with the setting that asks for it."""
    try:
        yield
    except OSError as error:
        # A name that is not known has a number of its own kind; else asyncio's text tells it all
        # over again, with the address as a Python tuple.
        unknown = isinstance(error, socket.gaierror) or error.errno is None
        why = str(error.strerror or error) if unknown else os.strerror(error.errno or 0)
        message = f"{setting} {where}: {why[:1].lower()}{why[1:]}"
        raise OSError(message) from None


def make_lane(
    gateway: Gateway, upstream: Upstream, admissions: Admissions, merchant: Upstream | None = None
) -> Lane:
    """A gateway as a walk through it needs it, route by route."""
    credential = gateway.lookup_credential
    lane = Lane(
        name=gateway.name,
        profile=gateway.profile,
        routes=gateway.routes,
        endpoint=gateway.upstream,
        upstream=upstream,
        admissions=admissions,
        lookup_credential=() if credential is None else ((credential.header, credential.value),),
        lookup_sees_all=credential is not None and credential.sees_all,
        webhook=gateway.webhook,
        merchant=merchant,
    )
    of_routes = {r: replace(lane, profile=known) for r, known in gateway.of_routes.items()}
    return replace(lane, of_routes=of_routes)
