"""GoCardless: a repeated key is answered with a conflict that names what the key has made; whether
a payment succeeds is only seen later.

Made up: the mandate whose payments fail, that another body under a key is the same conflict, and
what a key in use hears.
"""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import Answer, Asked, JsonObject, Problem, Simulator, timestamp

DECLINED = "MD_declined"
_RATES = {"ratelimit-limit": "1000", "ratelimit-remaining": "999"}
_TROUBLE = {
    404: ("invalid_api_usage", "resource_not_found", "Resource not found"),
    409: ("invalid_state", "idempotent_creation_in_progress", "Creation is in progress"),
    429: ("invalid_api_usage", "rate_limit_exceeded", "Rate limit exceeded"),
    500: ("gocardless", "internal_server_error", "Internal server error"),
    503: ("gocardless", "internal_server_error", "Service unavailable"),
}


class SimulatedGoCardless(Simulator):
    """GoCardless."""

    keys_per_path = True

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/payments", self.money(self._pay))
        router.add_post("/payments/{id}/actions/cancel", self.money(self._cancel))
        router.add_post("/refunds", self.money(self._refund))
        router.add_get("/payments", self.reading(self._list))
        router.add_get("/payments/{id}", self.reading(self._payment))
        router.add_get("/refunds/{id}", self.reading(self._get_refund))

    @override
    def read(self, body: bytes, content_type: str) -> JsonObject:
        """Without the envelope."""
        inner: JsonObject = next(iter(super().read(body, content_type).values()), {})
        return inner

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return None if "/actions/" in request.path else request.headers.get("Idempotency-Key")

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        links = parameters.get("links", {})
        known = request.match_info.get("id") or links.get("payment", "")
        said = parameters.get("metadata", {}).get("order_id") or parameters.get("reference", "")
        return self.orders.get(known, "") or str(said)

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, *_TROUBLE[status])

    @override
    def given(self, asked: Asked, answer: Answer, *, replayed: bool) -> Answer:
        if replayed:
            made = next(iter(answer.body.values()))
            links = {"conflicting_resource_id": made["id"]}
            message = "A resource has already been created with this idempotency key"
            answer = _error(409, "invalid_state", "idempotent_creation_conflict", message, links)
        return replace(answer, headers=_RATES)

    def _pay(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if "amount" not in asks or "mandate" not in asks.get("links", {}):
            problem = _error(422, "validation_failed", "validation_failed", "Validation failed")
            raise Problem(problem)
        payment = {
            "id": self.name("PM"),
            "created_at": timestamp(),
            "status": "pending_submission",
            "amount": asks["amount"],
            "currency": asks["currency"],
            "reference": asks.get("reference"),
            "metadata": asks.get("metadata", {}),
            "links": {"mandate": asks["links"]["mandate"]},
        }
        told = Answer(201, {"payments": dict(payment)})
        if payment["links"]["mandate"] == DECLINED:
            payment["status"] = "failed"  # days later
        self.remember(asked, payment)
        if payment["status"] != "failed":
            self.charge(asked, payment["id"], asks["amount"])
        return told

    def _cancel(self, asked: Asked) -> Answer:
        payment = self.thing(asked.named)
        payment["status"] = "cancelled"
        self.ledger.void(payment["id"])
        return Answer(200, {"payments": dict(payment)})

    def _refund(self, asked: Asked) -> Answer:
        asks = asked.parameters
        payment = self.thing(asks["links"]["payment"])
        refund = {
            "id": self.name("RF"),
            "created_at": timestamp(),
            "status": "submitted",
            "amount": asks["amount"],
            "links": {"payment": payment["id"]},
        }
        self.remember(asked, refund)
        self.give_back(asked, payment["id"], asks["amount"])
        return Answer(201, {"refunds": dict(refund)})

    def _payment(self, asked: Asked) -> Answer:
        return Answer(200, {"payments": self.thing(asked.named)})

    def _get_refund(self, asked: Asked) -> Answer:
        return Answer(200, {"refunds": self.thing(asked.named)})

    def _list(self, asked: Asked) -> Answer:
        """Newest first, of one mandate or of all."""
        wanted = asked.request.query.get("mandate")
        payments = [
            thing
            for thing in self.listed()
            if "payment" not in thing["links"] and wanted in {None, thing["links"]["mandate"]}
        ]
        meta = {"cursors": {"before": None, "after": None}, "limit": 50}
        return Answer(200, {"payments": payments, "meta": meta})


def _error(
    status: int, kind: str, reason: str, message: str, links: JsonObject | None = None
) -> Answer:
    detail = {"reason": reason, "message": message, "links": links or {}}
    error = {"type": kind, "code": status, "message": message, "errors": [detail]}
    return Answer(status, {"error": {**error, "request_id": "sim"}}, _RATES)
