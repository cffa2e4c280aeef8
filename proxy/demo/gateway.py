"""Stripe's dialect of the simulated gateway: the one of the demonstration and of most tests.

It keeps Stripe's promises about keys: the first answer is stored once execution began, a 500 too,
and given again with `Idempotent-Replayed: true`, other parameters under a key are refused, a second
request while the first is running gets 409, and what is throttled or cut off at the edge executed
nothing.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from urllib.parse import parse_qsl

from aiohttp import web
from typing_extensions import override

from proxy.demo.faults import FaultPlan
from proxy.demo.simulator import CLOCK, AfterError, Answer, Asked, JsonObject, Problem, Simulator

DECLINING_METHODS = frozenset({"pm_card_chargeDeclined", "pm_card_visa_chargeDeclined"})
_ACTION_METHODS = frozenset({"pm_card_threeDSecure2Required", "pm_card_authenticationRequired"})
_NOT_KEPT = frozenset({400, 404})  # a request that fails validation executed nothing
_TROUBLE = {
    404: ("invalid_request_error", "resource_missing", "No such thing."),
    409: ("idempotency_error", "idempotency_key_in_use", "There is a request with this key."),
    429: ("rate_limit_error", "rate_limit", "Too many requests."),
    500: ("api_error", "api_error", "Something went wrong at the gateway."),
    503: ("api_error", "api_error", "The gateway is overloaded."),
}


class SimulatedGateway(Simulator):
    """Stripe."""

    after_error = AfterError.ERROR

    def __init__(self, plan: FaultPlan | None = None, *, latency: float = 0.0) -> None:
        super().__init__(plan, latency=latency)
        self._events: list[JsonObject] = []

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        post, get = self.money, self.reading
        router.add_post("/v1/payment_intents", post(self._create_intent))
        router.add_post("/v1/payment_intents/{id}/confirm", post(self._confirm))
        router.add_post("/v1/payment_intents/{id}/capture", post(self._capture))
        router.add_post("/v1/payment_intents/{id}/cancel", post(self._cancel))
        router.add_post("/v1/refunds", post(self._refund))
        router.add_get("/v1/payment_intents/{id}", get(self._get))
        router.add_get("/v1/payment_intents", get(self._list_intents))
        router.add_get("/v1/refunds/{id}", get(self._get))
        router.add_get("/v1/events", get(self._list_events))
        router.add_get("/v1/balance", get(_balance))
        router.add_post("/v1/files", self._file)

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return request.headers.get("Idempotency-Key")

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        return str(parameters.get("metadata[order_id]", parameters.get("order", "")))

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, *_TROUBLE[status])

    @override
    def other_parameters(self) -> Answer:
        message = "Keys for idempotent requests can only be used with the same parameters."
        return _error(400, "idempotency_error", "idempotency_error", message)

    @override
    def keeps(self, answer: Answer) -> bool:
        return answer.status not in _NOT_KEPT

    @override
    def given(self, asked: Asked, answer: Answer, *, replayed: bool) -> Answer:
        headers = {"Request-Id": self.name("req_")}
        if replayed:
            headers["Idempotent-Replayed"] = "true"
        return replace(answer, headers=headers)

    @override
    def read(self, body: bytes, content_type: str) -> JsonObject:
        if content_type == "application/json":
            document = super().read(body, content_type)
            metadata = document.pop("metadata", {})
            return document | {f"metadata[{name}]": value for name, value in metadata.items()}
        return dict(parse_qsl(body.decode(), keep_blank_values=True))

    # --- requests that move money -------------------------------------------------------------

    def _create_intent(self, asked: Asked) -> Answer:
        try:
            amount = int(asked.parameters["amount"])
        except (KeyError, ValueError):
            message = "Missing or invalid amount."
            answer = _error(400, "invalid_request_error", "parameter_missing", message)
            raise Problem(answer) from None
        intent: JsonObject = {
            "id": self.name("pi_"),
            "object": "payment_intent",
            "amount": amount,
            "currency": asked.parameters.get("currency", "eur"),
            "status": "requires_confirmation",
            "capture_method": asked.parameters.get("capture_method", "automatic"),
            "payment_method": asked.parameters.get("payment_method"),
            "last_payment_error": None,
            "metadata": {"order_id": asked.parameters.get("metadata[order_id]", "")},
        }
        self.remember(asked, intent)
        self._event("payment_intent.created", intent, asked)
        if str(asked.parameters.get("confirm", "")).lower() == "true":
            self._charge(intent, asked)
        return Answer(200, dict(intent))

    def _confirm(self, asked: Asked) -> Answer:
        intent = self.thing(asked.named)
        if intent["status"] == "succeeded":
            message = "This PaymentIntent has already succeeded."
            code = "payment_intent_unexpected_state"
            raise Problem(_error(400, "invalid_request_error", code, message))
        if "payment_method" in asked.parameters:
            intent["payment_method"] = asked.parameters["payment_method"]
        self._charge(intent, asked)
        return Answer(200, dict(intent))

    def _charge(self, intent: JsonObject, asked: Asked) -> None:
        method = intent["payment_method"]
        if method in DECLINING_METHODS:
            error = {"type": "card_error", "code": "card_declined", "message": "Declined."}
            intent |= {"status": "requires_payment_method", "last_payment_error": error}
            self._event("payment_intent.payment_failed", intent, asked)
            message = "Your card was declined."
            raise Problem(_error(402, "card_error", "card_declined", message))
        if method in _ACTION_METHODS:
            intent["status"] = "requires_action"
            self._event("payment_intent.requires_action", intent, asked)
            return
        manual = intent["capture_method"] == "manual"
        intent["status"] = "requires_capture" if manual else "succeeded"
        self.charge(asked, intent["id"], intent["amount"])
        kind = "amount_capturable_updated" if manual else "succeeded"
        self._event(f"payment_intent.{kind}", intent, asked)

    def _capture(self, asked: Asked) -> Answer:
        intent = self.thing(asked.named)
        intent["status"] = "succeeded"
        self._event("payment_intent.succeeded", intent, asked)
        return Answer(200, dict(intent))

    def _cancel(self, asked: Asked) -> Answer:
        intent = self.thing(asked.named)
        intent["status"] = "canceled"
        self._event("payment_intent.canceled", intent, asked)
        return Answer(200, dict(intent))

    def _refund(self, asked: Asked) -> Answer:
        intent = self.thing(str(asked.parameters.get("payment_intent", "")))
        refund: JsonObject = {
            "id": self.name("re_"),
            "object": "refund",
            "amount": int(str(asked.parameters.get("amount", intent["amount"]))),
            "payment_intent": intent["id"],
            "status": "succeeded",
        }
        self.remember(asked, refund)
        self.give_back(asked, intent["id"], refund["amount"])
        self._event("refund.created", refund, asked)
        return Answer(200, refund)

    # --- reading ------------------------------------------------------------------------------

    def _get(self, asked: Asked) -> Answer:
        return Answer(200, self.thing(asked.named))

    def _list_intents(self, _asked: Asked) -> Answer:
        intents = [one for one in self.listed() if one["object"] == "payment_intent"]
        return _list("/v1/payment_intents", intents)

    def _list_events(self, asked: Asked) -> Answer:
        """Newest first, a page at a time, as Stripe lists them."""
        query = asked.request.query
        limit = int(query.get("limit", "10"))
        since = int(query.get("created[gte]", "0"))
        until = int(query.get("created[lte]", str(2**53)))
        kinds = query.get("type", "*")
        newest_first = [
            event
            for event in reversed(self._events)
            if since <= event["created"] <= until and fnmatchcase(event["type"], kinds)
        ]
        after = query.get("starting_after")
        if after is not None:
            ids = [event["id"] for event in newest_first]
            newest_first = newest_first[ids.index(after) + 1 :] if after in ids else []
        page = newest_first[:limit]
        return _list("/v1/events", page, more=len(newest_first) > limit)

    async def _file(self, request: web.Request) -> web.Response:
        size = 0
        async for chunk in request.content.iter_any():
            size += len(chunk)
        return web.json_response({"id": self.name("file_"), "object": "file", "size": size})

    # --- parts --------------------------------------------------------------------------------

    def _event(self, kind: str, thing: JsonObject, asked: Asked) -> None:
        self._events.append(
            {
                "id": self.name("evt_"),
                "object": "event",
                "created": CLOCK.now_ms() // 1000,
                "type": kind,
                "data": {"object": dict(thing)},
                "request": {"idempotency_key": asked.key},
            }
        )


def _balance(_asked: Asked) -> Answer:
    return Answer(200, {"object": "balance", "livemode": False})


def _list(url: str, data: list[JsonObject], *, more: bool = False) -> Answer:
    return Answer(200, {"object": "list", "url": url, "has_more": more, "data": data})


def _error(status: int, kind: str, code: str, message: str) -> Answer:
    return Answer(status, {"error": {"type": kind, "code": code, "message": message}})
