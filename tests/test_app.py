"""The composition root with everything real: the order of start and stop, a start that fails, what
is scraped of a store that is shared or away, and what a stop leaves behind.

Elsewhere: the process around it, its exit codes and what it prints (cli/test_serve.py); SIGTERM and
kill -9 to that process (scenarios/test_crash_points.py); what the drain does to each kind of walk
(flow/test_attempts.py); /readyz and the gauge while it drains and while the store takes no writes
(web/test_admin.py, telemetry/test_metrics.py); the lock on the file (stores/test_sqlite.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import re
import shlex
import shutil
import socket
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from structlog.testing import capture_logs

from proxy import app
from proxy.app import Holdfast
from proxy.background.reconciler import Reconciler
from proxy.flow.pipeline import Pipeline
from proxy.ports import Page, Query, StoreUnavailable
from proxy.settings.load import load, load_policy
from proxy.stores.sqlite import SqliteStore
from proxy.system import SystemClock
from proxy.tasks import Tasks
from proxy.upstream.client import AiohttpUpstream
from proxy.web.listeners import Listeners
from tests.support.postgres import Postgres, empty_place, postgres
from tests.support.raw import RawConnection, RawServer, raw_server
from tests.support.running import Running, policy
from tests.support.stage import SUCCEEDED, THROTTLED, PuppetGateway, Reply, eventually, fetch
from tests.support.tools import ROOT
from tests.support.valkey import DURABLE, valkey
from tests.support.wire import LoopTime, settle, soon, until
from tests.support.wire import loop_time as loop_time  # noqa: PLC0414 -- a fixture

NOWHERE = "http://127.0.0.1:1"
# A payment without the end of its body.
HALF = (
    b"POST /v1/payment_intents HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n"
    b"Content-Length: 11\r\n\r\namount"
)
# A call of the session API, likewise.
HALF_A_CALL = (
    b"POST /api/payments/session/create HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\n"
    b"Content-Length: 17\r\n\r\n{"
)
# Attempts that outlast the drain, and as few of them as possible.
PATIENT = """
defaults: {timeouts: {attempt: 28s}, retry: {automatic_attempts: 1}}
shutdown: {drain: 20s}
"""


# --- a shop in front, a gateway behind ------------------------------------------------------------


@dataclass(slots=True)
class Shop:
    """A backend with a Holdfast and the puppet gateway behind it."""

    holdfast: Running
    gateway: PuppetGateway
    upstream: RawServer
    http: aiohttp.ClientSession
    _stop: asyncio.Future[None] | None = None

    def stops(self) -> asyncio.Future[None]:
        """Holdfast's end, from now on."""
        if self._stop is None:
            self._stop = asyncio.ensure_future(self.holdfast.holdfast.stop())
        return self._stop

    @property
    def ports(self) -> list[int]:
        """Of every door."""
        doors = self.holdfast.doors
        return [door.port for door in (*doors.gateways.values(), doors.sessions, doors.admin)]

    async def pay(self, order: str, *, key: str | None = None) -> Reply:
        """Pay an order."""
        return await fetch(
            self.http,
            "POST",
            f"{self.holdfast.url}/v1/payment_intents",
            data={"amount": "1999", "metadata[order_id]": order},
            headers={} if key is None else {"Idempotency-Key": key},
        )

    async def held(self, order: str, *, key: str | None = None) -> asyncio.Task[Reply]:
        """A payment that is with the gateway and stays there until it is released."""
        self.gateway.hold(order)
        payment = asyncio.ensure_future(self.pay(order, key=key))
        await until(lambda: self.gateway.arrivals[order])
        return payment

    async def call(self, method: str, path: str, **more: Any) -> Reply:
        """A call of the session API."""
        return await fetch(self.http, method, self.holdfast.api + path, **more)

    async def sessions(self, path: str = "/sessions") -> list[dict[str, Any]]:
        """All sessions, as the session API shows them."""
        found: list[dict[str, Any]] = (await self.call("GET", path)).json["sessions"]
        return found

    async def active(self) -> list[dict[str, Any]]:
        """Those that are not settled."""
        return await self.sessions("/sessions/active")

    async def gauges(self) -> Counter[str]:
        """What a scrape shows, each metric summed over its labels."""
        text = (await fetch(self.http, "GET", f"{self.holdfast.admin}/metrics")).body.decode()
        shown: Counter[str] = Counter()
        for family in parse_text(text):
            for sample in family.samples:
                shown[sample.name] += sample.value  # type: ignore[assignment]  # floats
        return shown

    async def token(self) -> str:
        """The client token of an order's session: derived from the key, so the same with it."""
        created = await self.call("POST", "/session/create", json={"orderId": "o-1"})
        client_token: str = created.json["clientToken"]
        return client_token


def written(folder: Path, text: str, environ: dict[str, str] | None = None) -> Holdfast:
    """A Holdfast with a policy text, not started."""
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return Holdfast(load(path, environ or {}), io.BytesIO())


@contextlib.asynccontextmanager
async def in_front(
    folder: Path,
    more: str = "",
    *,
    store: str = "",
    environ: dict[str, str] | None = None,
    port: int = 0,
) -> AsyncIterator[Shop]:
    """A shop whose Holdfast keeps its files in a folder; stopped once, by the test or at the end.

    (`running` stops it in any case, and a second stop would wait a second time.)
    """
    gateway = PuppetGateway()
    async with raw_server(gateway.play, port=port) as upstream, aiohttp.ClientSession() as http:
        holdfast = written(folder, policy(upstream.origin, more, store=store), environ)
        running = Running(holdfast, await holdfast.start(), io.BytesIO())
        shop = Shop(running, gateway, upstream, http)
        try:
            yield shop
        finally:
            await shop.stops()


def names_in(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}


# --- the order of things --------------------------------------------------------------------------

STEPS: tuple[tuple[object, str, str], ...] = (
    (app, "read_or_make_keys", "the key is read"),
    (SqliteStore, "open", "the store is open"),
    (Reconciler, "take_over", "what was in flight is on record"),
    (Tasks, "start", "background work begins"),
    (Listeners, "open_gateway", "a gateway's door is open"),
    (Listeners, "open_app", "a door of our own is open"),
    (Pipeline, "drain", "payments have ended"),
    (Listeners, "close", "the doors are closed"),
    (Tasks, "stop", "background work has ended"),
    (AiohttpUpstream, "close", "the way to a gateway is closed"),
    (SqliteStore, "close", "the store is closed"),
)
OPENED = [
    "the key is read",
    "the store is open",
    "what was in flight is on record",
    "background work begins",
    "background work begins",
    "background work begins",
    "background work begins",
    "a gateway's door is open",
    "a gateway's door is open",
    "a door of our own is open",
    "a door of our own is open",
]
CLOSED = [
    "the doors are closed",
    "background work has ended",
    "the way to a gateway is closed",
    "the way to a gateway is closed",
    "the store is closed",
]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What every Holdfast does, each line written when the step is done."""
    lines: list[str] = []
    for owner, name, line in STEPS:
        step = _heard(getattr(owner, name), partial(lines.append, line))
        monkeypatch.setattr(owner, name, step)
    return lines


def _heard(real: Callable[..., Any], done: Callable[[], None]) -> Callable[..., Any]:
    def step(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        done()
        return result

    async def awaited_step(*arguments: Any, **named: Any) -> Any:
        result = await real(*arguments, **named)
        done()
        return result

    return awaited_step if inspect.iscoroutinefunction(real) else step


DOORS = ("stripe", "plain", "sessions", "admin")


def on_ports(ports: dict[str, int], upstream: str = NOWHERE) -> str:
    """A policy of two gateways on these ports."""
    return (
        f'listen: {{sessions: "127.0.0.1:{ports["sessions"]}", '
        f'admin: "127.0.0.1:{ports["admin"]}"}}\n'
        "store: sqlite:///holdfast.db\n"
        "gateways:\n"
        f'  stripe: {{profile: stripe, listen: "127.0.0.1:{ports["stripe"]}", '
        f'upstream: "{upstream}"}}\n'
        f'  plain: {{profile: generic, listen: "127.0.0.1:{ports["plain"]}", '
        f'upstream: "{upstream}"}}\n'
    )


async def test_start_and_stop_in_their_order(tmp_path: Path, heard: list[str]) -> None:
    """Doors open last and close first; the store is there before and after everything else."""
    holdfast = written(tmp_path, on_ports(dict.fromkeys(DOORS, 0)))
    await holdfast.start()
    assert heard == OPENED
    heard.clear()
    await holdfast.stop()
    assert heard == ["payments have ended", *CLOSED]
    heard.clear()
    await holdfast.stop()
    assert heard == ["payments have ended"]  # and there is nothing left to close


@pytest.mark.parametrize("taken", DOORS)
async def test_a_port_in_use_closes_what_was_opened(
    taken: str, tmp_path: Path, heard: list[str]
) -> None:
    """The start fails and says which address it is; store, ports, tasks and threads are free."""
    tasks = asyncio.all_tasks()
    with contextlib.ExitStack() as stack:
        held = {name: socket.create_server(("127.0.0.1", 0)) for name in DOORS}
        ports = {name: door.getsockname()[1] for name, door in held.items()}
        stack.enter_context(held.pop(taken))
        for door in held.values():
            door.close()
        holdfast = written(tmp_path, on_ports(ports))
        with pytest.raises(OSError, match="address already in use") as caught:
            await holdfast.start()
    setting = f"gateways.{taken}.listen" if taken in {"stripe", "plain"} else f"listen.{taken}"
    assert str(caught.value) == f"{setting} 127.0.0.1:{ports[taken]}: address already in use"
    opened = OPENED[: 7 + DOORS.index(taken)]
    assert heard == [*opened, *CLOSED]
    assert asyncio.all_tasks() == tasks
    assert "sqlite" not in {thread.name for thread in threading.enumerate()}

    # The same store and the same ports, at once.
    again = written(tmp_path, on_ports(ports))
    doors = await again.start()
    assert [door.port for door in (*doors.gateways.values(), doors.sessions, doors.admin)] == [
        ports[name] for name in DOORS
    ]
    await again.stop()


class Pauses(SystemClock):
    """A clock whose first pauses take no time: something happens in each of them instead."""

    def __init__(self, *happenings: Callable[[], Awaitable[object]]) -> None:
        self._happenings = deque(happenings)

    async def sleep(self, seconds: float) -> None:
        """What happens meanwhile; once all has happened, the real time."""
        if self._happenings:
            await self._happenings.popleft()()
        else:
            await super().sleep(seconds)


async def nothing() -> None:
    """It is only waited."""


def beside(folder: Path, *meanwhile: Callable[[], Awaitable[object]]) -> Holdfast:
    """Another Holdfast on the store in a folder; what happens while it waits for the store."""
    other = folder / "other"
    other.mkdir()
    holdfast = written(other, policy(NOWHERE, store=f"sqlite:///{folder / 'holdfast.db'}"))
    holdfast._clock = Pauses(*meanwhile)  # everything is built on this one
    return holdfast


async def test_a_second_holdfast_is_told_and_touches_nothing(
    tmp_path: Path, heard: list[str]
) -> None:
    """Two on one file would charge twice: the second one gives up, and the first one goes on."""
    async with in_front(tmp_path) as shop:
        heard.clear()
        with pytest.raises(StoreUnavailable) as caught:
            await beside(tmp_path, *[nothing] * 100).start()
        store = tmp_path / "holdfast.db"
        assert str(caught.value) == f"the store {store} is in use by another Holdfast"
        assert heard == ["the key is read"]
        assert (await shop.pay("o-1")).status == 200


async def test_a_spool_that_is_in_use_stops_the_start(tmp_path: Path) -> None:
    """Two stores, one spool: the second start says which setting to change, and frees its store."""
    spool = f"spool: {tmp_path / 'shared.spool'}\n"
    async with in_front(tmp_path, more=spool):
        other = tmp_path / "other"
        other.mkdir()
        second = written(other, policy(NOWHERE, spool))
        with pytest.raises(OSError, match="another Holdfast has it") as caught:
            await second.start()
        assert str(caught.value).startswith(f"spool {tmp_path / 'shared.spool'}: ")
        assert str(caught.value).endswith("(`spool` in the policy, or HOLDFAST__SPOOL)")
    again = written(other, policy(NOWHERE, spool))
    await again.start()
    await again.stop()


async def test_a_start_waits_a_little_for_the_one_before(tmp_path: Path) -> None:
    """The one before is just ending: the next one gets the store, and all that is in it."""
    async with in_front(tmp_path) as shop:
        paid = (await shop.pay("o-1")).header("X-Payment-Session-Id")
        second = beside(tmp_path, nothing, nothing, shop.stops)
        doors = await second.start()
        api = f"http://127.0.0.1:{doors.sessions.port}/api/payments"
        shown = (await fetch(shop.http, "GET", f"{api}/session/{paid}")).json
        assert (shown["status"], shown["outcome"]) == ("COMPLETED", "charged")
        await second.stop()


async def test_what_was_in_flight_is_on_record_before_anyone_can_ask(tmp_path: Path) -> None:
    """The files of a Holdfast that died while paying: unknown, and said so before `ready`."""
    grave = tmp_path / "died"
    grave.mkdir()
    async with in_front(tmp_path) as shop:
        payment = await shop.held("o-1")
        for name in ("holdfast.db", "holdfast.db-wal", "holdfast.db.key"):
            shutil.copy(tmp_path / name, grave / name)
        shop.gateway.release("o-1", SUCCEEDED)
        assert (await payment).status == 200
    with capture_logs() as said:
        async with in_front(grave) as shop:
            (session,) = await shop.active()
    assert [line["event"] for line in said[:2]] == ["interrupted by restart", "ready"]
    assert said[0]["sessions"] == 1
    assert (session["status"], session["outcome"]) == ("INTERRUPTED", "unknown")


async def test_a_risk_is_said_aloud(tmp_path: Path) -> None:
    """At every start and at every reload that has it; a policy without one says nothing."""
    route = 'name: payment, match: {methods: [POST], path: "/**"}'
    retry = "retry: {on: [attempt_timeout, {status: [5xx]}], risk: may_charge_twice}"
    careful = policy(NOWHERE, profile="generic", store="memory://")
    risky = careful.replace(
        "{profile: generic,", f"{{routes: [{{{route}, {retry}}}], profile: generic,"
    )
    file = tmp_path / "policy.yaml"
    file.write_text(risky)
    told: list[Any] = []
    async with contextlib.AsyncExitStack() as stack:
        said = stack.enter_context(capture_logs())
        found = load_policy(file, {})
        holdfast = Holdfast(found.settings, io.BytesIO(), found)
        doors = await holdfast.start()
        stack.push_async_callback(holdfast.stop)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        for text in (risky, careful, risky + "session: {}\n"):
            file.write_text(text)
            async with http.post(f"http://{doors.admin}/-/reload") as answer:
                assert answer.status == 200, await answer.text()
            told.append([line for line in said if line["event"] == "may charge twice"])
            said.clear()
    start, none, again = told
    warning = {
        "event": "may charge twice",
        "log_level": "warning",
        "gateway": "gateway",
        "route": "payment",
        "repeated_after": "attempt_timeout, 500-599",
    }
    assert (start, none, again) == ([warning, warning], [], [warning])


# --- the key --------------------------------------------------------------------------------------


async def test_the_key_outlives_the_process(tmp_path: Path) -> None:
    """Made beside the store at the first start; what a browser was given is good after a second."""
    tokens = set()
    for _ in range(2):
        async with in_front(tmp_path) as shop:
            tokens.add(await shop.token())
    assert len(tokens) == 1
    assert (tmp_path / "holdfast.db.key").stat().st_mode & 0o777 == 0o600


async def test_a_given_key_is_written_nowhere(tmp_path: Path) -> None:
    """The key from the environment is used, and none is made."""
    async with in_front(tmp_path, environ={"HOLDFAST_KEY": "ab" * 32}) as shop:
        await shop.token()
    assert names_in(tmp_path) == {
        "policy.yaml",
        "holdfast.db",
        "holdfast.db.lock",
        "holdfast.db.audit",
        "holdfast.db.spool",
    }


async def test_a_store_that_forgets_needs_no_key_file(tmp_path: Path) -> None:
    """In memory nothing outlives the process, so its key does not either, and no file is left."""
    for _ in range(2):
        async with in_front(tmp_path, store="memory://") as shop:
            assert (await shop.pay("o-1")).status == 200
    assert names_in(tmp_path) == {"policy.yaml"}


# --- what is scraped, of a store that is shared or away -------------------------------------------

UNKNOWN, ACTIVE = "holdfast_unknown_outcomes", "holdfast_sessions_active"
SPOOLED, READY = "holdfast_spooled_outcomes", "holdfast_ready"


@contextlib.asynccontextmanager
async def a_replica(folder: Path, name: str, store: str) -> AsyncIterator[Shop]:
    """One of those that share a store and a key. A lost answer stays lost."""
    (folder / name).mkdir()
    more = (
        f"key_file: {folder / 'key'}\n"
        f"spool: {folder / name / 'spool'}\n"
        "session: {lease: 1s}\n"
        "defaults: {retry: {max_attempts: 1}}\n"
    )
    async with in_front(folder / name, more, store=store) as shop:
        yield shop


async def test_the_gauges_of_replicas_can_be_summed(tmp_path: Path) -> None:
    """What is in the store is shown by one of them, what only a process knows by that one."""
    with postgres() as server:
        store = await empty_place(server)
        async with (
            a_replica(tmp_path, "one", store) as one,
            a_replica(tmp_path, "two", store) as two,
        ):
            for shop, order in ((one, "o-1"), (two, "o-2")):
                shop.gateway.will(order, None)
                assert (await shop.pay(order)).status == 504
            in_flight = await two.held("o-3")
            # It moves no money, so nobody but this process has heard of it.
            two.gateway.hold("o-4")
            url, data = f"{two.holdfast.url}/v1/files", {"metadata[order_id]": "o-4"}
            passing = asyncio.ensure_future(fetch(two.http, "POST", url, data=data))
            await until(lambda: two.gateway.arrivals["o-4"])

            shown = [await shop.gauges() for shop in (one, two)]
            assert [each[UNKNOWN] for each in shown] == [2, 0]
            assert [each[ACTIVE] for each in shown] == [3, 1]
            two.gateway.release("o-3", SUCCEEDED)
            two.gateway.release("o-4", SUCCEEDED)
            await asyncio.gather(in_flight, passing)
            await one.stops()

            left = await eventually(two.gauges, lambda shown: shown[UNKNOWN] > 0)
            assert (left[UNKNOWN], left[ACTIVE]) == (2, 2)


async def test_two_replicas_on_one_host_as_the_page_has_them(tmp_path: Path) -> None:
    """The example of proxy/stores/README.md, but for its addresses: they are one Holdfast."""
    page = (ROOT / "proxy/stores/README.md").read_text(encoding="utf-8")
    example = page.partition("### Two replicas on one host")[2].partition("\n### ")[0]
    text, commands = re.findall(r"^```\w+\n(.*?)^```$", example, re.MULTILINE | re.DOTALL)
    gateway = PuppetGateway()
    with postgres() as server:
        store = await empty_place(server)
        async with raw_server(gateway.play) as upstream, aiohttp.ClientSession() as http:
            here = {
                "postgresql://holdfast@127.0.0.1/holdfast": store,
                "/var/lib/holdfast": str(tmp_path),
                "https://api.stripe.com": upstream.origin,
            }
            for theirs, ours in here.items():
                text, commands = text.replace(theirs, ours), commands.replace(theirs, ours)
            text, commands = (re.sub(r"(?<=:)8\d{3}\b", "0", each) for each in (text, commands))
            replicas, environ = [], {}
            for command in shlex.split(commands):
                if "=" in command:
                    name, _, value = command.partition("=")
                    environ[name] = value
                elif command == "serve":
                    replicas.append(written(tmp_path, text, environ))
            doors = [await replica.start() for replica in replicas]
            urls = [f"http://{each.gateways['stripe']}/v1/payment_intents" for each in doors]
            said: dict[str, Any] = {
                "data": {"amount": "1999"},
                "headers": {"Idempotency-Key": "k-1"},
            }
            paid, again = [await fetch(http, "POST", url, **said) for url in urls]
            assert (paid.status, again.status) == (200, 200)
            assert again.header("Idempotent-Replayed") == "true"
            assert upstream.requests == 1
            for replica in replicas:
                await replica.stop()
    made = {"key", "one.spool", "one.audit", "two.spool", "two.audit", "policy.yaml"}
    assert names_in(tmp_path) == made


def away(server: Postgres, how: str) -> Callable[[], None]:
    """Take the server away; what brings it back."""
    if how == "killed":
        server.kill()
        return server.start
    server.pause()
    return server.go_on


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_metrics_answer_while_the_store_does_not(tmp_path: Path, how: str) -> None:
    """What is known here is told, also of a store that hangs; what was counted last stays."""
    with postgres() as server:
        store = await empty_place(server)
        async with a_replica(tmp_path, "one", store) as shop:
            shop.gateway.will("o-1", None)
            assert (await shop.pay("o-1")).status == 504
            payment = await shop.held("o-2")
            assert (await shop.gauges())[UNKNOWN] == 1

            back = away(server, how)
            first = await shop.gauges()  # nobody has noticed yet
            counting = [task for task in asyncio.all_tasks() if task.get_name() == "count"]
            assert len(counting) == (how != "killed")
            assert (first[UNKNOWN], first[READY]) == (1, 1)
            shop.gateway.release("o-2", SUCCEEDED)
            assert (await payment).status == 200
            assert (await shop.pay("o-3")).status == 503
            shown = await eventually(shop.gauges, lambda shown: not shown[READY])
            assert (shown[UNKNOWN], shown[SPOOLED]) == (1, 1)
            assert shown["holdfast_refusals_total"] == 1

            back()
            # Its spool may be empty before it has the store's lease again.
            await eventually(shop.gauges, lambda shown: not shown[SPOOLED])
            shown = await eventually(shop.gauges, lambda shown: shown[READY] == 1)
            assert shown[UNKNOWN] == 1


async def test_who_cannot_know_who_leads_shows_what_it_counted(tmp_path: Path) -> None:
    """A Redis store leads no more once its lease is over: nobody else need have taken over."""
    with valkey() as server:
        async with a_replica(tmp_path, "one", server.url) as shop:
            shop.gateway.will("o-1", None)
            assert (await shop.pay("o-1")).status == 504
            assert (await shop.gauges())[UNKNOWN] == 1
            server.kill()
            store = shop.holdfast.holdfast._store
            await until(lambda: not store.leads)
            assert (await shop.gauges())[UNKNOWN] == 1
            server.start(**DURABLE)
            await until(lambda: store.leads)
            assert (await shop.gauges())[UNKNOWN] == 1


# --- stopping -------------------------------------------------------------------------------------


async def test_it_still_pays_while_load_balancers_look(tmp_path: Path, loop_time: LoopTime) -> None:
    """For `ready_delay` it says that it is not ready and takes payments; then its doors close."""
    async with in_front(tmp_path, "shutdown: {ready_delay: 30s}\n") as shop:
        stopping = shop.stops()
        await loop_time.forward(15)
        ready = await fetch(shop.http, "GET", f"{shop.holdfast.admin}/readyz")
        assert (ready.status, ready.body) == (503, b"stopping\n")
        assert (await shop.pay("o-1")).status == 200
        assert not stopping.done()
        await loop_time.forward(15)
        await soon(stopping)
        for port in shop.ports:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)


async def test_idle_connections_hold_nothing_up(tmp_path: Path) -> None:
    """Connections without a request on them, new or kept alive, end with the stop."""
    async with in_front(tmp_path) as shop:
        idle = []
        for port in shop.ports:
            idle.append(await asyncio.open_connection("127.0.0.1", port))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await soon(reader.readuntil(b"\r\n\r\n"))
            idle.append((reader, writer))
        await soon(shop.stops())
        for reader, writer in idle:
            await soon(reader.read())
            assert reader.at_eof()
            writer.close()


async def endless(connection: RawConnection) -> None:
    """A gateway whose answer does not end."""
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await connection.send(b"5\r\npiece\r\n")
        await asyncio.sleep(1)


async def test_what_clients_leave_open_holds_it_up_for_a_moment(
    tmp_path: Path, loop_time: LoopTime
) -> None:
    """Half a payment, half a call, a download: two seconds, and no half looks like a whole."""
    async with raw_server(endless) as gateway:
        holdfast = written(tmp_path, policy(gateway.origin, PATIENT))
        doors = await holdfast.start()
        opened = {}
        for port, request, sign in (
            (doors.gateways["gateway"].port, HALF, b" 100 Continue\r\n\r\n"),
            (doors.sessions.port, HALF_A_CALL, b" 100 Continue\r\n\r\n"),
            (doors.gateways["gateway"].port, b"GET /v1/files HTTP/1.0\r\n\r\n", b"piece"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            assert await soon(reader.readuntil(sign))
            opened[reader] = writer
        stopping = asyncio.ensure_future(holdfast.stop())
        waited = 0.0
        while not stopping.done() and waited < 300:
            await loop_time.forward(0.5)
            await asyncio.sleep(0.002)  # the store's writer is a thread: real time
            waited += 0.5
        await soon(stopping)
        assert waited <= 3  # it had nothing to drain

        *halves, download = opened
        assert [await soon(reader.read()) for reader in halves] == [b"", b""]
        with pytest.raises(ConnectionResetError):
            await soon(download.read())
        for writer in opened.values():
            writer.close()


async def test_a_call_that_is_being_answered_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doors are closed to others, and wait for the call of the session API that was inside."""
    async with in_front(tmp_path) as shop:
        inside, go_on = asyncio.Event(), asyncio.Event()
        search = SqliteStore.search

        async def slow_search(store: SqliteStore, query: Query) -> Page:
            inside.set()
            await go_on.wait()
            return await search(store, query)

        monkeypatch.setattr(SqliteStore, "search", slow_search)
        call = asyncio.ensure_future(shop.call("GET", "/sessions"))
        await soon(inside.wait())
        stopping = shop.stops()
        await settle()
        for port in shop.ports:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
        assert not stopping.done()
        go_on.set()
        assert (await soon(call)).status == 200
        await soon(stopping)


async def test_the_drain_is_as_long_as_it_says(tmp_path: Path, loop_time: LoopTime) -> None:
    """Who is answered within it gets the answer; who is not is unknown, on record, and listed."""
    async with in_front(tmp_path, PATIENT) as shop:
        quick, slow = await shop.held("quick"), await shop.held("slow", key="k-slow")
        stopping = shop.stops()
        await loop_time.forward(10)
        assert 20 in [round(seconds) for seconds in loop_time.timers]
        shop.gateway.release("quick", SUCCEEDED)
        assert (await soon(quick)).status == 200
        assert not slow.done()
        assert not stopping.done()

        await loop_time.forward(10)
        cut_off = await soon(slow)
        assert (cut_off.status, cut_off.json["type"]) == (504, "/problems/outcome-unknown")
        await soon(stopping)

    # The same gateway: what is in doubt is not sent to another origin.
    async with in_front(tmp_path, PATIENT, port=shop.upstream.port) as shop:
        (session,) = await shop.active()
        assert session["sessionId"] == cut_off.header("X-Payment-Session-Id")
        assert (session["status"], session["outcome"]) == ("INTERRUPTED", "unknown")
        # The one reason: the next process found nothing that had been left in flight.
        assert [stop["reason"] for stop in session["metadata"]["interruptions"]] == ["shutdown"]
        assert (await shop.pay("slow", key="k-slow")).status == 200
        assert await shop.active() == []


async def test_while_it_drains_nothing_new_leaves(tmp_path: Path) -> None:
    """Payments, reads and uploads are told to come back: no byte is sent and no session made."""
    async with in_front(tmp_path, PATIENT) as shop:
        payment = await shop.held("o-1")
        before = [bytes(connection.received) for connection in shop.upstream.connections]
        stopping = shop.stops()
        await settle()

        for method, path in (
            ("POST", "/v1/payment_intents"),
            ("GET", "/v1/balance"),
            ("POST", "/v1/files"),
        ):
            refused = await fetch(shop.http, method, shop.holdfast.url + path, data=b"amount=1")
            assert refused.status == 503
            assert refused.json["type"] == "/problems/shutting-down"
            assert refused.json["anythingSent"] is False
            assert refused.json["safeToRepeat"] is True
            assert "sessionId" not in refused.json

        assert [bytes(each.received) for each in shop.upstream.connections] == before
        assert len(await shop.sessions()) == 1
        shop.gateway.release("o-1", SUCCEEDED)
        assert (await soon(payment)).status == 200
        await soon(stopping)


async def test_a_body_that_ends_too_late_is_not_sent(tmp_path: Path) -> None:
    """The stop comes in the middle of a request: its other half arrives, and nothing is sent."""
    async with in_front(tmp_path, PATIENT) as shop:
        payment = await shop.held("o-1")
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.holdfast.port)
        writer.write(HALF)
        await soon(reader.readuntil(b"100 Continue\r\n\r\n"))  # its body is being read
        stopping = shop.stops()
        await settle()
        writer.write(b"=1999")
        answer = await soon(reader.readuntil(b"}}"))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"type":"/problems/shutting-down"' in answer
        writer.close()

        assert shop.upstream.requests == 1  # the first payment's
        late = next(session for session in await shop.sessions() if session["attempts"] == 0)
        assert (late["status"], late["outcome"]) == ("INTERRUPTED", "not_charged")
        assert [stop["reason"] for stop in late["metadata"]["interruptions"]] == ["shutdown"]
        shop.gateway.release("o-1", SUCCEEDED)
        assert (await soon(payment)).status == 200
        await soon(stopping)


async def test_a_resume_while_it_drains_sends_nothing(tmp_path: Path) -> None:
    """A person resumes a session during the drain: no send, and it can be resumed afterwards."""
    async with in_front(tmp_path, PATIENT) as shop:
        shop.gateway.will("o-2", THROTTLED)
        throttled = (await shop.pay("o-2", key="k-2")).header("X-Payment-Session-Id")
        payment = await shop.held("o-1")
        stopping = shop.stops()
        await settle()
        await shop.call("POST", f"/session/{throttled}/resume")
        await until(lambda: throttled not in shop.holdfast.holdfast._walks.by_session)
        shop.gateway.release("o-1", SUCCEEDED)
        assert (await soon(payment)).status == 200
        await soon(stopping)
        assert shop.gateway.arrivals["o-2"] == 1

    async with in_front(tmp_path, PATIENT) as shop:
        (session,) = await shop.active()
        assert (session["status"], session["outcome"]) == ("INTERRUPTED", "not_charged")
        assert session["canResume"] is True
        assert (await shop.pay("o-2", key="k-2")).status == 200
