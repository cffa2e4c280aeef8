"""What every simulated gateway has behind its counter: a ledger that tells what was really charged,
what it keeps for an idempotency key, and the faults. How it is spoken to is its dialect, one class
per gateway: `gateway.py` speaks Stripe's, `dialects/` the others'.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from aiohttp import web

from proxy.demo.cutting import CUT_AFTER, CUT_BEFORE, cut
from proxy.demo.faults import Fault, FaultPlan
from proxy.demo.ledger import Charge, Ledger
from proxy.system import SystemClock

CLOCK = SystemClock()
_SLOW_SECONDS = 0.2
_REFUSED = {Fault.THROTTLED: 429, Fault.UNAVAILABLE: 503, Fault.UNAVAILABLE_LATER: 503}

JsonObject = dict[str, Any]
_Scope = tuple[str, str, str]  # account, path, key


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
    body: bytes
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


def timestamp() -> str:
    """Now, as most gateways write it."""
    now = datetime.fromtimestamp(CLOCK.now_ms() / 1000, UTC)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Simulator:
    """A gateway without a language. A dialect says its routes, how the key and the order are read,
    what a key keeps, and how it complains.
    """

    content_type = "application/json"
    after_error = AfterError.OUTCOME
    keys_per_path = False  # else a key means another thing at another path

    def __init__(self, plan: FaultPlan | None = None, *, latency: float = 0.0) -> None:
        self.plan = plan or FaultPlan(interruptions=0.0, slow=0.0)
        self.latency = latency
        self.ledger = Ledger()
        self.arrivals: Counter[str] = Counter()
        self.lag = 0.0  # by so many seconds its lists are behind
        self.things: dict[str, JsonObject] = {}  # payments, refunds, orders: by their ids
        self._since: dict[str, float] = {}
        self.orders: dict[str, str] = {}  # what the merchant calls each of them
        self._keys: dict[_Scope, _Kept] = {}
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

    def key_format(self, _request: web.Request) -> str:
        """The pattern of a key that the gateway takes."""
        return ".*"

    def account(self, request: web.Request) -> str:
        """Whose the keys are."""
        return request.headers.get("Authorization") or request.headers.get("X-API-Key") or ""

    def order(self, request: web.Request, parameters: JsonObject) -> str:
        """The merchant's name for what is paid."""
        raise NotImplementedError

    def trouble(self, status: int) -> Answer:
        """An answer that is not about the payment, in the gateway's envelope: 400 for a key that is
        none, 404 for what it does not know, 409 while a key is in use, 429, 500 and 503.
        """
        raise NotImplementedError

    def refusal(self, asked: Asked) -> Answer | None:
        """Why a request is turned away at the door, before its key is looked at."""
        del asked
        return None

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
        parameters: JsonObject | None = json.loads(body or b"{}")
        return parameters or {}

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
            if fault in _REFUSED:
                return self._response(self._busy(fault))
            if fault in CUT_BEFORE:
                return await cut(request, fault)
            answer = self.refusal(asked) or await self._with_key(asked, execute, fault)
            if fault in CUT_AFTER:
                return await cut(request, fault, self.written(answer.body), self.content_type)
            return self._response(answer)

        return handle

    def reading(self, execute: Execute) -> Any:
        """Nothing goes wrong with what only reads."""

        async def handle(request: web.Request) -> web.StreamResponse:
            asked = await self._asked(request)
            return self._response(self.refusal(asked) or _executed(asked, execute))

        return handle

    async def _asked(self, request: web.Request) -> Asked:
        body = await request.read()
        parameters = self.read(body, request.content_type)
        key, order = self.key(request, parameters), self.order(request, parameters)
        return Asked(request, body, parameters, key, order)

    def _busy(self, fault: Fault) -> Answer:
        answer = self.trouble(_REFUSED[fault])
        later = {"Retry-After": "1"} if fault is Fault.UNAVAILABLE_LATER else {}
        return replace(answer, headers={**answer.headers, **later})

    async def _with_key(self, asked: Asked, execute: Execute, fault: Fault) -> Answer:
        if asked.key is None:
            done = await self._perform(asked, execute, fault)
            return self._told(asked, done, fault)
        if not re.fullmatch(self.key_format(asked.request), asked.key):
            return self.trouble(400)
        path = asked.request.path if self.keys_per_path else ""
        scope = self.account(asked.request), path, asked.key
        said = json.dumps([asked.request.path, asked.parameters], sort_keys=True)
        if (kept := self._keys.get(scope)) is None:
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

    def _keep(self, scope: _Scope, done: Answer, fault: Fault) -> None:
        failed = fault is Fault.FAILED_AFTER
        if not self.keeps(done) or (failed and self.after_error is AfterError.NOTHING):
            del self._keys[scope]
        elif failed and self.after_error is AfterError.ERROR:
            self._keys[scope].answer = self.trouble(500)
        else:
            self._keys[scope].answer = done

    def _told(self, asked: Asked, done: Answer, fault: Fault) -> Answer:
        failed = fault is Fault.FAILED_AFTER
        return self.given(asked, self.trouble(500) if failed else done, replayed=False)

    def _response(self, answer: Answer) -> web.Response:
        return web.Response(
            body=self.written(answer.body),
            status=answer.status,
            headers=answer.headers,
            content_type=self.content_type,
        )

    # --- for those who watch ------------------------------------------------------------------

    async def _show_ledger(self, _request: web.Request) -> web.Response:
        return web.json_response({**self.ledger.shown(), "arrivals": dict(self.arrivals)})

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

    def remember(self, asked: Asked, thing: JsonObject) -> JsonObject:
        """Know it by its id from now on."""
        self.things[thing["id"]] = thing
        self._since[thing["id"]] = CLOCK.monotonic()
        self.orders[thing["id"]] = asked.order
        return thing

    def thing(self, name: str) -> JsonObject:
        """What it knows by that id."""
        if name not in self.things:
            raise Problem(self.trouble(404))
        return self.things[name]

    def listed(self) -> list[JsonObject]:
        """All that its lists show, newest first."""
        until = CLOCK.monotonic() - self.lag
        return [self.things[name] for name in reversed(self.things) if self._since[name] <= until]

    def charge(self, asked: Asked, payment: str, amount: int) -> None:
        """Take the money for a payment it knows."""
        self.ledger.charges.append(Charge(self.orders[payment], payment, amount, asked.key))

    def give_back(self, asked: Asked, payment: str, amount: int) -> None:
        """Refund a payment it knows."""
        self.ledger.refunds.append(Charge(self.orders[payment], payment, amount, asked.key))


def _executed(asked: Asked, execute: Execute) -> Answer:
    try:
        return execute(asked)
    except Problem as problem:
        return problem.answer
