"""A stage for the session API: a Holdfast on real sockets whose clock can leap, before a gateway on
a raw socket that does with each order what the test wrote down for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import aiohttp

from proxy.app import Holdfast
from proxy.demo.faults import Fault, FaultPlan
from proxy.settings.load import load
from tests.support.raw import RawConnection, RawServer, raw_server
from tests.support.running import Running

JsonObject = dict[str, Any]
T = TypeVar("T")
_POLL_SECONDS = 0.005
_POLLS = 4000  # 20 seconds, far longer than anything here takes: a bound, not an expectation

# One gateway that promises not to charge twice for a key and cannot be asked ("plain"), one that
# promises nothing ("weak"), and Stripe, which can be asked. One send by itself, two more by hand.
POLICY = """
listen: {{sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}}
store: sqlite:///holdfast.db
gateways:
  plain:
    profile: generic
    idempotency: {{class: A_strong, window: 24h}}
    listen: "127.0.0.1:0"
    upstream: "{upstream}"
  weak: {{profile: generic, listen: "127.0.0.1:0", upstream: "{upstream}"}}
  stripe:
    profile: stripe
    listen: "127.0.0.1:0"
    upstream: "{upstream}"
    lookup_credential: {{env: LOOKUP_CREDENTIAL}}
defaults:
  retry: {{max_attempts: 3, automatic_attempts: 1, backoff: {{initial: 1ms, max: 1ms}}}}
shutdown: {{drain: 0.1s}}
"""
ENVIRON = {"LOOKUP_CREDENTIAL": "Bearer rk_test_lookup"}


class LeapingClock:
    """The real time plus what was leapt over; whoever sleeps notices a leap at once."""

    def __init__(self) -> None:
        self._leapt = 0.0
        self._leap = asyncio.Event()

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return int((time.time() + self._leapt) * 1000)

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic() + self._leapt

    async def sleep(self, seconds: float) -> None:
        """Until that long has passed or has been leapt over."""
        until = self.monotonic() + seconds
        while (rest := until - self.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leap.wait(), rest)

    def leap(self, seconds: float) -> None:
        """Let that much time pass at once."""
        self._leapt += seconds
        leap, self._leap = self._leap, asyncio.Event()
        leap.set()


def http_answer(status: int, document: object) -> bytes:
    """An answer with a JSON body, as bytes."""
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


SUCCEEDED = http_answer(200, {"id": "pi_1", "object": "payment_intent", "status": "succeeded"})
ACCEPTED = http_answer(200, {"id": "pi_1", "status": "requires_action"})
DECLINED = http_answer(402, {"error": {"type": "card_error", "code": "card_declined"}})
THROTTLED = http_answer(429, {"error": {"type": "rate_limit_error"}})
_ORDER = re.compile(rb"(?:metadata%5Border_id%5D|order_id)=([^&]*)")


class PuppetGateway:
    """Does with each order's requests what it was told, in turn; what it was not told succeeds.

    `arrivals` counts an order's requests; a held one waits for `release`.
    """

    def __init__(self) -> None:
        self.arrivals: Counter[str] = Counter()
        self.asked: list[str] = []  # targets of look-ups
        self.events: list[JsonObject] = []  # what a look-up finds
        self._script: defaultdict[str, deque[bytes | None]] = defaultdict(deque)
        self._held: dict[str, asyncio.Future[bytes | None]] = {}

    def will(self, order: str, *answers: bytes | None) -> None:
        """Answer the order's next requests so; None loses the answer (a reset connection)."""
        self._script[order].extend(answers)

    def hold(self, order: str) -> None:
        """Keep the order's next request waiting until `release`."""
        self._held[order] = asyncio.get_running_loop().create_future()

    def release(self, order: str, answer: bytes | None) -> None:
        """Let go of the held request."""
        self._held[order].set_result(answer)

    async def play(self, connection: RawConnection) -> None:
        """The script of every connection."""
        while True:
            request = await connection.request()
            if request.startswith(b"GET "):
                target = request.split(b" ", 2)[1].decode()
                self.asked.append(target)
                found = {"object": "list", "has_more": False, "data": self.events}
                await connection.send(http_answer(200, found))
                continue
            match = _ORDER.search(request)
            order = unquote(match.group(1).decode()) if match else ""
            self.arrivals[order] += 1
            answer = await self._answer(order)
            if answer is None:
                connection.reset()
                return
            await connection.send(answer)

    async def _answer(self, order: str) -> bytes | None:
        if order in self._held:
            return await self._held[order]
        return self._script[order].popleft() if self._script[order] else SUCCEEDED


class ScriptedFaults(FaultPlan):
    """Faults of the simulated gateway written down by (order, arrival); all else goes well."""

    def __init__(self, faults: dict[tuple[str, int], Fault]) -> None:
        super().__init__()
        object.__setattr__(self, "_faults", faults)

    def fault(self, order: str, arrival: int) -> Fault:
        """What was written down."""
        faults: dict[tuple[str, int], Fault] = self.__dict__["_faults"]
        return faults.get((order, arrival), Fault.NONE)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def header(self, name: str) -> str:
        """A header of it; the test fails if it is not there."""
        return self.headers[name.lower()]


async def fetch(http: aiohttp.ClientSession, method: str, url: str, **more: Any) -> Reply:
    """Make a request and read its answer whole."""
    async with http.request(method, url, **more) as answer:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(answer.status, headers, await answer.read())


class Stage:
    """A running Holdfast with a client in front and the puppet gateway behind."""

    def __init__(self, running: Running, http: aiohttp.ClientSession, clock: LeapingClock) -> None:
        self.running = running
        self.clock = clock
        self.gateway = PuppetGateway()
        self._http = http
        self._started: list[asyncio.Task[Reply]] = []

    def start(self, payment: Coroutine[Any, Any, Reply]) -> asyncio.Task[Reply]:
        """Let a payment run beside the test; it is waited for when the stage is taken down."""
        task = asyncio.ensure_future(payment)
        self._started.append(task)
        return task

    async def finish(self) -> None:
        """Wait for what was started."""
        await asyncio.gather(*self._started, return_exceptions=True)

    async def request(self, method: str, url: str, **more: Any) -> Reply:
        """Any request."""
        return await fetch(self._http, method, url, **more)

    async def call(self, method: str, path: str, body: object = None, **more: Any) -> Reply:
        """A call of the session API; `path` after /api/payments."""
        if body is not None:
            more["json"] = body
        return await self.request(method, self.running.api + path, **more)

    async def post(self, session_id: str, verb: str, body: object = None, **more: Any) -> Reply:
        """A call that changes a session."""
        return await self.call("POST", f"/session/{session_id}/{verb}", body, **more)

    async def create(self, order: str, **more: object) -> JsonObject:
        """A session created ahead of its request."""
        reply = await self.call("POST", "/session/create", {"orderId": order, **more})
        assert reply.status in {200, 201}, reply.body
        document: JsonObject = reply.json
        return document

    async def session(self, session_id: str) -> JsonObject:
        """The session as the API shows it."""
        reply = await self.call("GET", f"/session/{session_id}")
        assert reply.status == 200, reply.body
        document: JsonObject = reply.json
        return document

    async def summary(self, session_id: str) -> JsonObject:
        """The session's summary."""
        document: JsonObject = (await self.call("GET", f"/session/{session_id}/summary")).json
        return document

    async def of_order(self, order: str) -> JsonObject:
        """The one session of an order."""
        page = (await self.call("GET", "/sessions/active", None)).json["sessions"]
        page += (await self.call("GET", f"/sessions?orderId={order}")).json["sessions"]
        ids = {shown["sessionId"] for shown in page if shown["orderId"] == order}
        assert len(ids) == 1, ids
        return await self.session(ids.pop())

    async def pay(  # noqa: PLR0913 -- everything a backend can say, by name
        self,
        order: str,
        *,
        gateway: str = "plain",
        session: str | None = None,
        key: str | None = None,
        user: str | None = None,
        named: bool = True,
        credential: str = "Bearer sk_test_stage",
    ) -> Reply:
        """A payment through the gateway's listener; `named`: the order stands in a header too."""
        said = {
            "Authorization": credential,
            "X-Payment-Order-Id": order if named else None,
            "X-Payment-Session-Id": session,
            "X-Payment-User-Id": user,
            "Idempotency-Key": key,
        }
        headers = {name: value for name, value in said.items() if value is not None}
        port = self.running.doors.gateways[gateway].port
        stripe = gateway == "stripe"
        field = "metadata[order_id]" if stripe else "order_id"
        return await self.request(
            "POST",
            f"http://127.0.0.1:{port}/v1/payment_intents",
            data={"amount": "1999", "currency": "eur", field: order},
            headers=headers,
        )

    async def reaches(self, session_id: str, status: str, outcome: str) -> JsonObject:
        """The session once it is so; fails with what it is if it never is."""

        async def look() -> JsonObject:
            return await self.session(session_id)

        def so(shown: JsonObject) -> bool:
            return (shown["status"], shown["outcome"]) == (status, outcome)

        return await eventually(look, so)

    async def arrival(self, order: str, number: int = 1) -> None:
        """Return once the gateway has that many requests of the order."""

        async def count() -> int:
            return self.gateway.arrivals[order]

        await eventually(count, lambda seen: seen >= number)

    async def fill_store(self) -> None:
        """Let SQLite's file grow no further, and fill it: what a full disk does."""
        await self._pages(1)
        for number in range(1000):
            reply = await self.call("POST", "/session/create", {"orderId": f"fill-{number}"})
            if reply.status == 503:
                return
            assert reply.status == 201, reply.body
        message = "the file took a thousand sessions more"
        raise AssertionError(message)

    async def make_room(self) -> None:
        """Let the file grow again."""
        await self._pages(1_000_000)

    async def _pages(self, number: int) -> None:
        store: Any = self.running.holdfast._store
        # In the writer thread, on the connection that writes.
        await store._do(
            lambda cursor: cursor.execute(f"PRAGMA max_page_count = {number}").fetchall()
        )

    async def quiet(self) -> None:
        """Return once Holdfast brings no payment forward any more."""

        async def walking() -> int:
            return len(self.running.holdfast._walks.by_session)

        await eventually(walking, lambda number: number == 0)


async def eventually(ask: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    """Ask until the answer is as wanted, and return it; fail with the last one. Bounded."""
    answer = await ask()
    for _ in range(_POLLS):
        if wanted(answer):
            return answer
        await asyncio.sleep(_POLL_SECONDS)
        answer = await ask()
    message = f"waited in vain; at last it was {answer!r}"
    raise AssertionError(message)


@contextlib.asynccontextmanager
async def running_on(
    clock: LeapingClock, folder: Path, text: str, environ: dict[str, str] | None = None
) -> AsyncIterator[Running]:
    """A Holdfast with a policy text and a clock that can leap, stopped at the end."""
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    log = io.BytesIO()
    holdfast = Holdfast(load(path, environ or {}), log)
    holdfast._clock = clock  # type: ignore[assignment]  # the one seam: everything is built on it
    doors = await holdfast.start()
    try:
        yield Running(holdfast, doors, log)
    finally:
        await holdfast.stop()


@contextlib.asynccontextmanager
async def staged(
    folder: Path,
    *,
    environ: dict[str, str] | None = None,
    token: str | None = None,
    more: str = "",
) -> AsyncIterator[Stage]:
    """A stage with the policy above. `token` goes with every call of the session API."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    puppet: list[PuppetGateway] = []

    async def play(connection: RawConnection) -> None:
        await puppet[0].play(connection)

    server: RawServer
    async with raw_server(play) as server, aiohttp.ClientSession(headers=headers) as http:
        clock = LeapingClock()
        text = POLICY.format(upstream=server.origin) + more
        async with running_on(clock, folder, text, {**ENVIRON, **(environ or {})}) as running:
            stage = Stage(running, http, clock)
            puppet.append(stage.gateway)
            yield stage
        await stage.finish()


# --- a session in each state --------------------------------------------------------------------

# Everything below ends with the session's id.
_EXPIRED_SECONDS = 16 * 60
_LOOKUP_SECONDS = 25 * 3600  # longer than the longest pause between two look-ups
_LOOKUPS = 20  # more than are made before a person is called


async def _created(stage: Stage, order: str) -> str:
    return str((await stage.create(order))["sessionId"])


async def _in_flight(stage: Stage, order: str) -> str:
    stage.gateway.hold(order)
    _ = stage.start(stage.pay(order))
    await stage.arrival(order)
    return str((await stage.of_order(order))["sessionId"])


async def _paid(stage: Stage, order: str, *answers: bytes | None, gateway: str = "plain") -> str:
    stage.gateway.will(order, *answers)
    return (await stage.pay(order, gateway=gateway)).header("X-Payment-Session-Id")


async def _held_in_flight(stage: Stage, order: str) -> str:
    session_id = await _in_flight(stage, order)
    await stage.post(session_id, "interrupt", {"reason": "let me look"})
    return session_id


async def _interrupted(stage: Stage, order: str) -> str:
    return await _paid(stage, order, THROTTLED)


async def _unknown(stage: Stage, order: str) -> str:
    return await _paid(stage, order, None)


async def _unknown_for_good(stage: Stage, order: str) -> str:
    return await _paid(stage, order, None, gateway="weak")


async def _resumed(stage: Stage, order: str) -> str:
    session_id = await _created(stage, order)
    await stage.post(session_id, "interrupt", {"reason": "wait"})
    await stage.post(session_id, "resume")
    return session_id


async def _resumed_in_flight(stage: Stage, order: str) -> str:
    session_id = await _interrupted(stage, order)
    stage.gateway.hold(order)
    await stage.post(session_id, "resume")
    await stage.arrival(order, 2)
    return session_id


async def _completed(stage: Stage, order: str) -> str:
    return await _paid(stage, order, SUCCEEDED)


async def _accepted(stage: Stage, order: str) -> str:
    return await _paid(stage, order, ACCEPTED, gateway="stripe")


async def _declined(stage: Stage, order: str) -> str:
    return await _paid(stage, order, DECLINED)


async def _cancelled(stage: Stage, order: str) -> str:
    session_id = await _created(stage, order)
    await stage.post(session_id, "cancel", {"reason": "changed their mind"})
    return session_id


async def _expired(stage: Stage, order: str) -> str:
    session_id = await _created(stage, order)
    stage.clock.leap(_EXPIRED_SECONDS)
    return session_id


async def _failed(stage: Stage, order: str) -> str:
    session_id = await _paid(stage, order, THROTTLED, THROTTLED, THROTTLED)
    await stage.pay(order)
    return session_id


async def _failed_unknown(stage: Stage, order: str) -> str:
    """The gateway shows nothing for its key, however often it is asked."""
    session_id = await _paid(stage, order, None, gateway="stripe")
    for _ in range(_LOOKUPS):
        summary = await stage.summary(session_id)
        if summary["status"] != "INTERRUPTED":
            break
        stage.clock.leap(_LOOKUP_SECONDS)
        await eventually(partial(_moved_on, stage, session_id, len(summary["timeline"])), bool)
    return session_id


async def _moved_on(stage: Stage, session_id: str, steps: int) -> bool:
    return len((await stage.summary(session_id))["timeline"]) > steps


# Those that let time pass come first, so that many can be made on one stage.
STATES: dict[str, Callable[[Stage, str], Awaitable[str]]] = {
    "failed, unknown": _failed_unknown,
    "expired": _expired,
    "created": _created,
    "in flight": _in_flight,
    "held, in flight": _held_in_flight,
    "interrupted": _interrupted,
    "interrupted, unknown": _unknown,
    "interrupted, unknown for good": _unknown_for_good,
    "resumed": _resumed,
    "resumed, in flight": _resumed_in_flight,
    "completed": _completed,
    "accepted": _accepted,
    "declined": _declined,
    "cancelled": _cancelled,
    "failed": _failed,
}

# --- every changing call in every state -----------------------------------------------------------

# (state, call, status, part of the answer, the session afterwards)
MATRIX: list[tuple[str, str, int, JsonObject, tuple[str, str]]] = [
    ("created", "resume", 409, {}, ("INITIATED", "not_charged")),
    ("created", "cancel", 200, {"status": "CANCELLED"}, ("CANCELLED", "not_charged")),
    ("created", "interrupt", 200, {"canResume": True}, ("INTERRUPTED", "not_charged")),
    ("created", "complete", 200, {"status": "COMPLETED"}, ("COMPLETED", "charged")),
    ("in flight", "resume", 409, {}, ("INITIATED", "unknown")),
    ("in flight", "cancel", 202, {"status": "INITIATED"}, ("INITIATED", "unknown")),
    ("in flight", "interrupt", 202, {"canResume": False}, ("INTERRUPTED", "unknown")),
    ("in flight", "complete", 409, {}, ("INITIATED", "unknown")),
    ("held, in flight", "resume", 409, {}, ("INTERRUPTED", "unknown")),
    ("held, in flight", "cancel", 202, {"status": "INTERRUPTED"}, ("INTERRUPTED", "unknown")),
    ("held, in flight", "interrupt", 202, {"canResume": False}, ("INTERRUPTED", "unknown")),
    ("held, in flight", "complete", 409, {}, ("INTERRUPTED", "unknown")),
    (
        "interrupted",
        "resume",
        202,
        {"status": "RESUMED", "attempt": 2, "maxAttempts": 3, "mode": "send"},
        ("COMPLETED", "charged"),
    ),
    ("interrupted", "cancel", 200, {"status": "CANCELLED"}, ("CANCELLED", "not_charged")),
    ("interrupted", "interrupt", 200, {"canResume": True}, ("INTERRUPTED", "not_charged")),
    ("interrupted", "complete", 200, {"status": "COMPLETED"}, ("COMPLETED", "charged")),
    (
        "interrupted, unknown",
        "resume",
        202,
        {"status": "RESUMED", "attempt": 2, "maxAttempts": 3, "mode": "reconcile"},
        ("COMPLETED", "charged"),
    ),
    (
        "interrupted, unknown",
        "cancel",
        202,
        {"status": "INTERRUPTED", "outcome": "unknown"},
        ("INTERRUPTED", "unknown"),
    ),
    ("interrupted, unknown", "interrupt", 200, {"canResume": True}, ("INTERRUPTED", "unknown")),
    ("interrupted, unknown", "complete", 200, {"status": "COMPLETED"}, ("COMPLETED", "charged")),
    ("interrupted, unknown for good", "resume", 409, {}, ("INTERRUPTED", "unknown")),
    (
        "interrupted, unknown for good",
        "cancel",
        202,
        {"status": "INTERRUPTED"},
        ("INTERRUPTED", "unknown"),
    ),
    (
        "interrupted, unknown for good",
        "interrupt",
        200,
        {"canResume": False},
        ("INTERRUPTED", "unknown"),
    ),
    (
        "interrupted, unknown for good",
        "complete",
        200,
        {"status": "COMPLETED"},
        ("COMPLETED", "charged"),
    ),
    (
        "resumed",
        "resume",
        200,
        {"status": "RESUMED", "attempt": 1, "mode": "none"},
        ("RESUMED", "not_charged"),
    ),
    ("resumed", "cancel", 200, {"status": "CANCELLED"}, ("CANCELLED", "not_charged")),
    ("resumed", "interrupt", 200, {"canResume": True}, ("INTERRUPTED", "not_charged")),
    ("resumed", "complete", 200, {"status": "COMPLETED"}, ("COMPLETED", "charged")),
    (
        "resumed, in flight",
        "resume",
        200,
        {"status": "RESUMED", "attempt": 2, "mode": "none"},
        ("RESUMED", "unknown"),
    ),
    ("resumed, in flight", "cancel", 202, {"status": "RESUMED"}, ("RESUMED", "unknown")),
    ("resumed, in flight", "interrupt", 202, {"canResume": False}, ("INTERRUPTED", "unknown")),
    ("resumed, in flight", "complete", 409, {}, ("RESUMED", "unknown")),
    (
        "completed",
        "resume",
        200,
        {"status": "COMPLETED", "attempt": 1, "mode": "none"},
        ("COMPLETED", "charged"),
    ),
    ("completed", "cancel", 409, {}, ("COMPLETED", "charged")),
    ("completed", "interrupt", 409, {}, ("COMPLETED", "charged")),
    ("completed", "complete", 200, {"status": "COMPLETED"}, ("COMPLETED", "charged")),
    ("accepted", "resume", 200, {"mode": "none"}, ("COMPLETED", "not_charged")),
    ("accepted", "cancel", 409, {}, ("COMPLETED", "not_charged")),
    ("accepted", "interrupt", 409, {}, ("COMPLETED", "not_charged")),
    ("accepted", "complete", 409, {}, ("COMPLETED", "not_charged")),
    ("declined", "resume", 409, {}, ("DECLINED", "not_charged")),
    ("declined", "cancel", 409, {}, ("DECLINED", "not_charged")),
    ("declined", "interrupt", 409, {}, ("DECLINED", "not_charged")),
    ("declined", "complete", 409, {}, ("DECLINED", "not_charged")),
    ("cancelled", "resume", 409, {}, ("CANCELLED", "not_charged")),
    ("cancelled", "cancel", 200, {"reason": "changed their mind"}, ("CANCELLED", "not_charged")),
    ("cancelled", "interrupt", 409, {}, ("CANCELLED", "not_charged")),
    ("cancelled", "complete", 409, {}, ("CANCELLED", "not_charged")),
    ("expired", "resume", 409, {}, ("EXPIRED", "not_charged")),
    ("expired", "cancel", 409, {}, ("EXPIRED", "not_charged")),
    ("expired", "interrupt", 409, {}, ("EXPIRED", "not_charged")),
    ("expired", "complete", 409, {}, ("EXPIRED", "not_charged")),
    ("failed", "resume", 409, {}, ("FAILED_MAX_RETRIES", "not_charged")),
    (
        "failed",
        "cancel",
        200,
        {"status": "FAILED_MAX_RETRIES", "reason": None},
        ("FAILED_MAX_RETRIES", "not_charged"),
    ),
    ("failed", "interrupt", 409, {}, ("FAILED_MAX_RETRIES", "not_charged")),
    ("failed", "complete", 409, {}, ("FAILED_MAX_RETRIES", "not_charged")),
    (
        "failed, unknown",
        "resume",
        202,
        {"status": "FAILED_MAX_RETRIES", "attempt": 1, "mode": "reconcile"},
        ("FAILED_MAX_RETRIES", "unknown"),
    ),
    (
        "failed, unknown",
        "cancel",
        202,
        {"status": "FAILED_MAX_RETRIES", "outcome": "unknown"},
        ("FAILED_MAX_RETRIES", "unknown"),
    ),
    ("failed, unknown", "interrupt", 409, {}, ("FAILED_MAX_RETRIES", "unknown")),
    ("failed, unknown", "complete", 200, {"status": "COMPLETED"}, ("COMPLETED", "charged")),
    ("created", "not-charged", 409, {}, ("INITIATED", "not_charged")),
    ("in flight", "not-charged", 409, {}, ("INITIATED", "unknown")),
    ("held, in flight", "not-charged", 409, {}, ("INTERRUPTED", "unknown")),
    ("interrupted", "not-charged", 409, {}, ("INTERRUPTED", "not_charged")),
    # The gateway may still be at these two.
    ("interrupted, unknown", "not-charged", 409, {}, ("INTERRUPTED", "unknown")),
    ("interrupted, unknown for good", "not-charged", 409, {}, ("INTERRUPTED", "unknown")),
    ("resumed", "not-charged", 409, {}, ("RESUMED", "not_charged")),
    ("resumed, in flight", "not-charged", 409, {}, ("RESUMED", "unknown")),
    ("completed", "not-charged", 409, {}, ("COMPLETED", "charged")),
    ("accepted", "not-charged", 409, {}, ("COMPLETED", "not_charged")),
    ("declined", "not-charged", 409, {}, ("DECLINED", "not_charged")),
    ("cancelled", "not-charged", 409, {}, ("CANCELLED", "not_charged")),
    ("expired", "not-charged", 409, {}, ("EXPIRED", "not_charged")),
    ("failed", "not-charged", 409, {}, ("FAILED_MAX_RETRIES", "not_charged")),
    (
        "failed, unknown",
        "not-charged",
        200,
        {"status": "FAILED_MAX_RETRIES", "outcome": "not_charged"},
        ("FAILED_MAX_RETRIES", "not_charged"),
    ),
]
