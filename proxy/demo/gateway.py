"""A Stripe-shaped gateway that can be made to fail, with a ledger that tells what was really
charged.

It keeps Stripe's promises about keys: the first answer is stored once execution began and given
again with `Idempotent-Replayed: true`, other parameters under a key are refused, a second request
while the first is running gets 409, and what is throttled or cut off at the edge executed nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from socket import SO_LINGER, SOL_SOCKET
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from proxy.demo.faults import Fault, FaultPlan
from proxy.system import SystemClock

_CLOCK = SystemClock()
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
DECLINING_METHODS = frozenset({"pm_card_chargeDeclined", "pm_card_visa_chargeDeclined"})
_ACTION_METHODS = frozenset({"pm_card_threeDSecure2Required", "pm_card_authenticationRequired"})

JsonObject = dict[str, Any]


@dataclass(slots=True)
class Charge:
    """One line of the ledger."""

    order: str
    intent: str
    amount: int
    key: str | None

    def shown(self) -> JsonObject:
        """As JSON."""
        return {"order": self.order, "intent": self.intent, "amount": self.amount, "key": self.key}


@dataclass(slots=True)
class _Kept:
    """What is stored for an idempotency key."""

    parameters: str
    answer: tuple[int, JsonObject] | None = None  # None while it is being executed


@dataclass(slots=True)
class Ledger:
    """What was really charged. The judge in every test of money."""

    charges: list[Charge] = field(default_factory=list)

    def per_order(self) -> Counter[str]:
        """How often each order was charged."""
        return Counter(charge.order for charge in self.charges)


class GatewayProblem(Exception):  # noqa: N818 -- becomes the gateway's answer
    """An error answer of the gateway."""

    def __init__(self, status: int, kind: str, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: JsonObject = {"error": {"type": kind, "code": code, "message": message}}


class SimulatedGateway:
    """The gateway's state and its aiohttp application."""

    def __init__(self, plan: FaultPlan | None = None, *, latency: float = 0.0) -> None:
        self.plan = plan or FaultPlan(interruptions=0.0, slow=0.0)
        self.latency = latency
        self.ledger = Ledger()
        self.arrivals: Counter[str] = Counter()
        self._intents: dict[str, JsonObject] = {}
        self._refunds: dict[str, JsonObject] = {}
        self._events: list[JsonObject] = []
        self._keys: dict[tuple[str, str], _Kept] = {}
        self._serial = 0

    def app(self) -> web.Application:
        """The gateway's own API, and `/_…` for those who watch it."""
        app = web.Application(client_max_size=256 * 1024 * 1024)
        post = self._money
        app.router.add_post("/v1/payment_intents", post(self._create_intent))
        app.router.add_post("/v1/payment_intents/{id}/confirm", post(self._confirm))
        app.router.add_post("/v1/payment_intents/{id}/capture", post(self._capture))
        app.router.add_post("/v1/payment_intents/{id}/cancel", post(self._cancel))
        app.router.add_post("/v1/refunds", post(self._refund))
        app.router.add_get("/v1/payment_intents/{id}", self._get_intent)
        app.router.add_get("/v1/payment_intents", self._list_intents)
        app.router.add_get("/v1/refunds/{id}", self._get_refund)
        app.router.add_get("/v1/events", self._list_events)
        app.router.add_get("/v1/balance", self._balance)
        app.router.add_post("/v1/files", self._file)
        app.router.add_get("/_ledger", self._show_ledger)
        app.router.add_delete("/_ledger", self._reset)
        app.router.add_put("/_faults", self._set_faults)
        return app

    # --- requests that move money -------------------------------------------------------------

    def _money(self, execute: Callable[[web.Request, JsonObject], JsonObject]) -> Any:
        """Faults at the edge, then the key, then execution, then faults on the way back."""

        async def handle(request: web.Request) -> web.StreamResponse:
            parameters = _parameters(await request.read(), request.content_type)
            order = str(parameters.get("metadata[order_id]", parameters.get("order", "")))
            self.arrivals[order] += 1
            fault = self.plan.fault(order, self.arrivals[order])
            if fault in _BEFORE:
                return await _interrupt(request, fault)
            status, body, replayed = await self._with_key(request, parameters, execute)
            await asyncio.sleep(_SLOW_SECONDS if fault is Fault.SLOW else self.latency)
            if fault is not Fault.NONE and fault is not Fault.SLOW:
                return await _interrupt(request, fault, body)
            headers = {"Request-Id": self._name("req")}
            if replayed:
                headers["Idempotent-Replayed"] = "true"
            return web.json_response(body, status=status, headers=headers)

        return handle

    async def _with_key(
        self,
        request: web.Request,
        parameters: JsonObject,
        execute: Callable[[web.Request, JsonObject], JsonObject],
    ) -> tuple[int, JsonObject, bool]:
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return (*self._execute(request, parameters, execute), False)
        scope = (request.headers.get("Authorization", ""), key)
        said = json.dumps([request.path, parameters], sort_keys=True)
        kept = self._keys.get(scope)
        if kept is not None:
            if kept.parameters != said:
                message = "Keys for idempotent requests can only be used with the same parameters."
                problem = GatewayProblem(400, "idempotency_error", "idempotency_error", message)
                return problem.status, problem.body, False
            if kept.answer is None:
                message = "There is a request in progress with this key."
                code = "idempotency_key_in_use"
                problem = GatewayProblem(409, "idempotency_error", code, message)
                return problem.status, problem.body, False
            return (*kept.answer, True)
        kept = self._keys[scope] = _Kept(said)
        status, body = self._execute(request, parameters, execute)
        if status in {400, 404}:  # a request that fails validation executed nothing: not kept
            del self._keys[scope]
        else:
            kept.answer = status, body
        return status, body, False

    def _execute(
        self,
        request: web.Request,
        parameters: JsonObject,
        execute: Callable[[web.Request, JsonObject], JsonObject],
    ) -> tuple[int, JsonObject]:
        try:
            return 200, execute(request, parameters)
        except GatewayProblem as problem:
            return problem.status, problem.body

    def _create_intent(self, request: web.Request, parameters: JsonObject) -> JsonObject:
        try:
            amount = int(parameters["amount"])
        except (KeyError, ValueError):
            message = "Missing or invalid amount."
            raise GatewayProblem(
                400, "invalid_request_error", "parameter_missing", message
            ) from None
        intent: JsonObject = {
            "id": self._name("pi"),
            "object": "payment_intent",
            "amount": amount,
            "currency": parameters.get("currency", "eur"),
            "status": "requires_confirmation",
            "capture_method": parameters.get("capture_method", "automatic"),
            "payment_method": parameters.get("payment_method"),
            "last_payment_error": None,
            "metadata": {"order_id": parameters.get("metadata[order_id]", "")},
        }
        self._intents[intent["id"]] = intent
        self._event("payment_intent.created", intent, request)
        if str(parameters.get("confirm", "")).lower() == "true":
            self._charge(intent, request)
        return dict(intent)

    def _confirm(self, request: web.Request, parameters: JsonObject) -> JsonObject:
        intent = self._intent(request)
        if intent["status"] == "succeeded":
            message = "This PaymentIntent has already succeeded."
            code = "payment_intent_unexpected_state"
            raise GatewayProblem(400, "invalid_request_error", code, message)
        if "payment_method" in parameters:
            intent["payment_method"] = parameters["payment_method"]
        self._charge(intent, request)
        return dict(intent)

    def _charge(self, intent: JsonObject, request: web.Request) -> None:
        method = intent["payment_method"]
        if method in DECLINING_METHODS:
            error = {"type": "card_error", "code": "card_declined", "message": "Declined."}
            intent |= {"status": "requires_payment_method", "last_payment_error": error}
            self._event("payment_intent.payment_failed", intent, request)
            raise GatewayProblem(402, "card_error", "card_declined", "Your card was declined.")
        if method in _ACTION_METHODS:
            intent["status"] = "requires_action"
            self._event("payment_intent.requires_action", intent, request)
            return
        manual = intent["capture_method"] == "manual"
        intent["status"] = "requires_capture" if manual else "succeeded"
        self.ledger.charges.append(
            Charge(
                intent["metadata"]["order_id"],
                intent["id"],
                intent["amount"],
                request.headers.get("Idempotency-Key"),
            )
        )
        kind = "amount_capturable_updated" if manual else "succeeded"
        self._event(f"payment_intent.{kind}", intent, request)

    def _capture(self, request: web.Request, _parameters: JsonObject) -> JsonObject:
        intent = self._intent(request)
        intent["status"] = "succeeded"
        self._event("payment_intent.succeeded", intent, request)
        return dict(intent)

    def _cancel(self, request: web.Request, _parameters: JsonObject) -> JsonObject:
        intent = self._intent(request)
        intent["status"] = "canceled"
        self._event("payment_intent.canceled", intent, request)
        return dict(intent)

    def _refund(self, request: web.Request, parameters: JsonObject) -> JsonObject:
        intent = self._intents.get(str(parameters.get("payment_intent", "")))
        if intent is None:
            message = "No such payment_intent."
            raise GatewayProblem(404, "invalid_request_error", "resource_missing", message)
        refund: JsonObject = {
            "id": self._name("re"),
            "object": "refund",
            "amount": int(str(parameters.get("amount", intent["amount"]))),
            "payment_intent": intent["id"],
            "status": "succeeded",
        }
        self._refunds[refund["id"]] = refund
        self._event("refund.created", refund, request)
        return refund

    # --- reading ------------------------------------------------------------------------------

    async def _get_intent(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(self._intent(request))
        except GatewayProblem as problem:
            return web.json_response(problem.body, status=problem.status)

    async def _list_intents(self, _request: web.Request) -> web.Response:
        return web.json_response(_list("/v1/payment_intents", list(self._intents.values())))

    async def _get_refund(self, request: web.Request) -> web.Response:
        refund = self._refunds.get(request.match_info["id"])
        if refund is None:
            problem = GatewayProblem(404, "invalid_request_error", "resource_missing", "No refund.")
            return web.json_response(problem.body, status=404)
        return web.json_response(refund)

    async def _list_events(self, request: web.Request) -> web.Response:
        """Newest first, a page at a time, as Stripe lists them."""
        limit = int(request.query.get("limit", "10"))
        since = int(request.query.get("created[gte]", "0"))
        until = int(request.query.get("created[lte]", str(2**53)))
        kinds = request.query.get("type", "*")
        newest_first = [
            event
            for event in reversed(self._events)
            if since <= event["created"] <= until and fnmatchcase(event["type"], kinds)
        ]
        after = request.query.get("starting_after")
        if after is not None:
            ids = [event["id"] for event in newest_first]
            newest_first = newest_first[ids.index(after) + 1 :] if after in ids else []
        page = newest_first[:limit]
        return web.json_response(_list("/v1/events", page, more=len(newest_first) > limit))

    async def _balance(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "balance", "livemode": False})

    async def _file(self, request: web.Request) -> web.Response:
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        return web.json_response({"id": self._name("file"), "object": "file", "size": size})

    # --- for those who watch ------------------------------------------------------------------

    async def _show_ledger(self, _request: web.Request) -> web.Response:
        charges = [charge.shown() for charge in self.ledger.charges]
        return web.json_response({"charges": charges, "arrivals": dict(self.arrivals)})

    async def _reset(self, _request: web.Request) -> web.Response:
        self.__init__(self.plan, latency=self.latency)  # type: ignore[misc]  # as new
        return web.Response(status=204)

    async def _set_faults(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self.plan = FaultPlan(**wanted)
        return web.Response(status=204)

    # --- parts --------------------------------------------------------------------------------

    def _intent(self, request: web.Request) -> JsonObject:
        intent = self._intents.get(request.match_info["id"])
        if intent is None:
            message = "No such payment_intent."
            raise GatewayProblem(404, "invalid_request_error", "resource_missing", message)
        return intent

    def _event(self, kind: str, thing: JsonObject, request: web.Request) -> None:
        self._events.append(
            {
                "id": self._name("evt"),
                "object": "event",
                "created": _CLOCK.now_ms() // 1000,
                "type": kind,
                "data": {"object": dict(thing)},
                "request": {"idempotency_key": request.headers.get("Idempotency-Key")},
            }
        )

    def _name(self, prefix: str) -> str:
        self._serial += 1
        return f"{prefix}_sim{self._serial:08d}"


def _parameters(body: bytes, content_type: str) -> JsonObject:
    if content_type == "application/json":
        document: JsonObject = json.loads(body or b"{}")
        metadata = document.pop("metadata", {})
        return document | {f"metadata[{name}]": value for name, value in metadata.items()}
    return dict(parse_qsl(body.decode(), keep_blank_values=True))


def _list(url: str, data: list[JsonObject], *, more: bool = False) -> JsonObject:
    return {"object": "list", "url": url, "has_more": more, "data": data}


async def _interrupt(
    request: web.Request, fault: Fault, body: JsonObject | None = None
) -> web.StreamResponse:
    """Do to the connection what the fault says."""
    if fault in {Fault.HANG_BEFORE, Fault.HANG_AFTER}:
        await asyncio.sleep(_HANG_SECONDS)
        return web.Response(status=504)
    if fault in {Fault.RESET_BEFORE, Fault.RESET_AFTER}:
        _reset_connection(request)
        return web.Response()
    if fault is Fault.TRUNCATED:
        whole = json.dumps(body).encode()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = len(whole)
        with contextlib.suppress(ConnectionError):  # whoever asked may have gone
            await response.prepare(request)
            await response.write(whole[: len(whole) // 2])
        _reset_connection(request)
        return response
    if fault is Fault.THROTTLED:
        error = {"type": "rate_limit_error", "code": "rate_limit", "message": "Too many requests."}
        return web.json_response({"error": error}, status=429)
    headers = {"Retry-After": "1"} if fault is Fault.UNAVAILABLE_LATER else {}
    error = {"type": "api_error", "message": "The gateway is overloaded."}
    return web.json_response({"error": error}, status=503, headers=headers)


def _reset_connection(request: web.Request) -> None:
    transport = request.transport
    if transport is None:
        return
    socket = transport.get_extra_info("socket")
    # Linger on with time 0: the kernel sends RST instead of FIN.
    socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
