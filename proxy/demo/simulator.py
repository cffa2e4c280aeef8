"""What every simulated gateway has behind its counter: a ledger that tells what was really charged,
what it keeps for an idempotency key, and the faults. How it is spoken to is its dialect, one class
per gateway: `gateway.py` speaks Stripe's, `dialects/` the others'.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from aiohttp import web

from proxy.demo.faults import Fault, FaultPlan
from proxy.demo.ledger import Charge, Ledger
from proxy.system import SystemClock

CLOCK = SystemClock()
# Longer than any client of the demonstration waits.
_HANG_SECONDS = 30.0
_SLOW_SECONDS = 0.2
_BEFORE = frozenset(
    {
        Fault.HANG_BEFORE,
        Fault.RESET_BEFORE,
        Fault.UNAVAILABLE,
        Fault.UNAVAILABLE_LATER,
        Fault.THROTTLED,
    }
)
_SERVED = frozenset({Fault.NONE, Fault.SLOW, Fault.FAILED_AFTER})

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway says."""

    status: int
    body: JsonObject
    headers: Mapping[str, str] = field(default_factory=dict)


class Problem(Exception):  # noqa: N818 -- becomes the gateway's answer
    """Raised where a request cannot be done; the gateway says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, read as its dialect has it."""

    request: web.Request
    parameters: JsonObject
    key: str | None
    order: str

    @property
    def named(self) -> str:
        """The id in the path."""
        return self.request.match_info["id"]


class AfterError(Enum):
    """What a key keeps if the gateway has charged and then says 500."""

    ERROR = auto()  # the 500, for good: a repeat says 500 again
    OUTCOME = auto()  # what was done: a repeat is told it
    NOTHING = auto()  # a repeat is executed again, and charges again


@dataclass(slots=True)
class _Kept:
    """What is stored for an idempotency key."""

    said: str
    answer: Answer | None = None  # None while it is being executed


Execute = Callable[[Asked], Answer]


class Simulator:
    """A gateway without a language. A dialect says its routes, how the key and the order are read,
    what a key keeps, and how it complains.
    """

    content_type = "application/json"
    after_error = AfterError.OUTCOME

    def __init__(self, plan: FaultPlan | None = None, *, latency: float = 0.0) -> None:
        self.plan = plan or FaultPlan(interruptions=0.0, slow=0.0)
        self.latency = latency
        self.ledger = Ledger()
        self.arrivals: Counter[str] = Counter()
        self._keys: dict[tuple[str, str], _Kept] = {}
        self._serial = 0

    def app(self) -> web.Application:
        """The gateway's own API, and `/_…` for those who watch it."""
        app = web.Application(client_max_size=256 * 1024 * 1024)
        self.routes(app.router)
        app.router.add_get("/_ledger", self._show_ledger)
        app.router.add_delete("/_ledger", self._reset)
        app.router.add_put("/_faults", self._set_faults)
        return app

    # --- what a dialect says ------------------------------------------------------------------

    def routes(self, router: web.UrlDispatcher) -> None:
        """Add the gateway's paths, with `money` or `reading` around each."""
        raise NotImplementedError

    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        """The idempotency key, or None where the gateway takes none."""
        raise NotImplementedError

    def order(self, request: web.Request, parameters: JsonObject) -> str:
        """The merchant's name for what is paid."""
        raise NotImplementedError

    def trouble(self, status: int) -> Answer:
        """An answer that is not about the payment: 429, 500 or 503, in the gateway's envelope."""
        raise NotImplementedError

    def in_progress(self) -> Answer:
        """What a second request hears while the first with its key is running."""
        return self.trouble(409)

    def other_parameters(self) -> Answer | None:
        """What other parameters under a key hear; None if they are not compared."""
        return None

    def keeps(self, answer: Answer) -> bool:
        """Whether an answer is stored for its key."""
        return answer.status < 300  # noqa: PLR2004 -- only what was done

    def given(self, asked: Asked, answer: Answer, *, replayed: bool) -> Answer:
        """An answer as it goes out, the first time or again."""
        del asked, replayed
        return answer

    def read(self, body: bytes, content_type: str) -> JsonObject:
        """A request's body."""
        del content_type
        parameters: JsonObject = json.loads(body or b"{}")
        return parameters

    def written(self, body: JsonObject) -> bytes:
        """An answer's body."""
        return json.dumps(body).encode()

    # --- the walk of a request ----------------------------------------------------------------

    def money(self, execute: Execute) -> Any:
        """Faults at the edge, then the key, then execution, then faults on the way back."""

        async def handle(request: web.Request) -> web.StreamResponse:
            asked = await self._asked(request)
            self.arrivals[asked.order] += 1
            fault = self.plan.fault(asked.order, self.arrivals[asked.order])
            if fault in _BEFORE:
                return await self._interrupt(request, fault)
            answer = await self._with_key(asked, execute, fault)
            if fault not in _SERVED:
                return await self._interrupt(request, fault, answer)
            return self._response(answer)

        return handle

    def reading(self, execute: Execute) -> Any:
        """Nothing goes wrong with what only reads."""

        async def handle(request: web.Request) -> web.StreamResponse:
            return self._response(_executed(await self._asked(request), execute))

        return handle

    async def _asked(self, request: web.Request) -> Asked:
        parameters = self.read(await request.read(), request.content_type)
        key, order = self.key(request, parameters), self.order(request, parameters)
        return Asked(request, parameters, key, order)

    async def _with_key(self, asked: Asked, execute: Execute, fault: Fault) -> Answer:
        if asked.key is None:
            done = await self._perform(asked, execute, fault)
            return self._told(asked, done, fault)
        headers = asked.request.headers
        credential = headers.get("Authorization") or headers.get("X-API-Key") or ""
        scope = credential, asked.key
        said = json.dumps([asked.request.path, asked.parameters], sort_keys=True)
        kept = self._keys.get(scope)
        if kept is None:
            kept = self._keys[scope] = _Kept(said)
            done = await self._perform(asked, execute, fault)
            self._keep(scope, done, fault)
            return self._told(asked, done, fault)
        complaint = self.other_parameters() if kept.said != said else None
        if complaint is not None:
            return complaint
        if kept.answer is None:
            return self.in_progress()
        return self.given(asked, kept.answer, replayed=True)

    async def _perform(self, asked: Asked, execute: Execute, fault: Fault) -> Answer:
        done = _executed(asked, execute)
        await asyncio.sleep(_SLOW_SECONDS if fault is Fault.SLOW else self.latency)
        return done

    def _keep(self, scope: tuple[str, str], done: Answer, fault: Fault) -> None:
        failed = fault is Fault.FAILED_AFTER
        if not self.keeps(done) or (failed and self.after_error is AfterError.NOTHING):
            del self._keys[scope]
        elif failed and self.after_error is AfterError.ERROR:
            self._keys[scope].answer = self.trouble(500)
        else:
            self._keys[scope].answer = done

    def _told(self, asked: Asked, done: Answer, fault: Fault) -> Answer:
        said = self.trouble(500) if fault is Fault.FAILED_AFTER else done
        return self.given(asked, said, replayed=False)

    def _response(self, answer: Answer) -> web.Response:
        return web.Response(
            body=self.written(answer.body),
            status=answer.status,
            headers=answer.headers,
            content_type=self.content_type,
        )

    async def _interrupt(
        self, request: web.Request, fault: Fault, answer: Answer | None = None
    ) -> web.StreamResponse:
        """Do to the connection what the fault says."""
        if fault in {Fault.HANG_BEFORE, Fault.HANG_AFTER}:
            await asyncio.sleep(_HANG_SECONDS)
            return web.Response(status=504)
        if fault in {Fault.RESET_BEFORE, Fault.RESET_AFTER}:
            _reset_connection(request)
            return web.Response()
        if answer is not None:  # it is cut
            whole = self.written(answer.body)
            response = web.StreamResponse(headers={"Content-Type": self.content_type})
            response.content_length = len(whole)
            with contextlib.suppress(ConnectionError):  # whoever asked may have gone
                await response.prepare(request)
                await response.write(whole[: len(whole) // 2])
            _reset_connection(request)
            return response
        if fault is Fault.THROTTLED:
            return self._response(self.trouble(429))
        busy = self.trouble(503)
        later = {"Retry-After": "1"} if fault is Fault.UNAVAILABLE_LATER else {}
        return self._response(replace(busy, headers={**busy.headers, **later}))

    # --- for those who watch ------------------------------------------------------------------

    async def _show_ledger(self, _request: web.Request) -> web.Response:
        lines = {
            "charges": [charge.shown() for charge in self.ledger.charges],
            "voided": [charge.shown() for charge in self.ledger.voided],
            "refunds": [refund.shown() for refund in self.ledger.refunds],
        }
        return web.json_response({**lines, "arrivals": dict(self.arrivals)})

    async def _reset(self, _request: web.Request) -> web.Response:
        self.__init__(self.plan, latency=self.latency)  # type: ignore[misc]  # as new
        return web.Response(status=204)

    async def _set_faults(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self.plan = FaultPlan(**wanted)
        return web.Response(status=204)

    # --- parts --------------------------------------------------------------------------------

    def name(self, prefix: str) -> str:
        """An id that nothing else has."""
        self._serial += 1
        return f"{prefix}sim{self._serial:08d}"

    def charge(self, asked: Asked, payment: str, amount: int, order: str | None = None) -> None:
        """Take the money. `order` where the request itself does not name it."""
        of = asked.order if order is None else order
        self.ledger.charges.append(Charge(of, payment, amount, asked.key))

    def refund(self, asked: Asked, payment: str, amount: int) -> None:
        """Give money back."""
        orders = {charge.payment: charge.order for charge in self.ledger.charges}
        line = Charge(orders.get(payment, ""), payment, amount, asked.key)
        self.ledger.refunds.append(line)


def _executed(asked: Asked, execute: Execute) -> Answer:
    try:
        return execute(asked)
    except Problem as problem:
        return problem.answer


def _reset_connection(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    socket = transport.get_extra_info("socket")
    # Linger on with time 0: the kernel sends RST instead of FIN.
    socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
