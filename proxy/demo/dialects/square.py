"""Square: the key is in the body, what a key has paid can be voided by the key alone, and the list
of payments knows the merchant's reference.

Made up: the statuses of a decline (402), of a used key (400) and of a busy one (409).
"""

from __future__ import annotations

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import Answer, Asked, JsonObject, Problem, Simulator, timestamp

DECLINED = "cnon:card-nonce-declined"
_CANCEL_BY_KEY = "/v2/payments/cancel"
_TROUBLE = {
    400: ("INVALID_REQUEST_ERROR", "VALUE_TOO_LONG"),
    404: ("INVALID_REQUEST_ERROR", "NOT_FOUND"),
    409: ("INVALID_REQUEST_ERROR", "CONFLICT"),
    429: ("RATE_LIMIT_ERROR", "RATE_LIMITED"),
    500: ("API_ERROR", "INTERNAL_SERVER_ERROR"),
    503: ("API_ERROR", "SERVICE_UNAVAILABLE"),
}


class SimulatedSquare(Simulator):
    """Square."""

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v2/payments", self.money(self._pay))
        router.add_post(_CANCEL_BY_KEY, self.money(self._cancel_by_key))
        router.add_post("/v2/payments/{id}/complete", self.money(self._complete))
        router.add_post("/v2/payments/{id}/cancel", self.money(self._cancel))
        router.add_post("/v2/refunds", self.money(self._refund))
        router.add_get("/v2/payments", self.reading(self._list))
        router.add_get("/v2/payments/{id}", self.reading(self._payment))
        router.add_get("/v2/refunds/{id}", self.reading(self._get_refund))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        # There the key is that of the payment to cancel.
        return None if request.path == _CANCEL_BY_KEY else parameters.get("idempotency_key")

    @override
    def key_format(self, request: web.Request) -> str:
        return ".{1,45}"

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        payment = request.match_info.get("id") or parameters.get("payment_id", "")
        return str(parameters.get("reference_id") or self.orders.get(payment, ""))

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, *_TROUBLE[status])

    @override
    def other_parameters(self) -> Answer:
        return _error(400, "INVALID_REQUEST_ERROR", "IDEMPOTENCY_KEY_REUSED")

    @override
    def keeps(self, answer: Answer) -> bool:
        return answer.status in {200, 402}  # after a decline the key is used up as well

    def _pay(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if "source_id" not in asks or "amount_money" not in asks or not asked.key:
            raise Problem(_error(400, "INVALID_REQUEST_ERROR", "MISSING_REQUIRED_PARAMETER"))
        declined = asks["source_id"] == DECLINED
        good = "COMPLETED" if asks.get("autocomplete", True) else "APPROVED"
        payment = {
            "id": self.name("sq0"),
            "created_at": timestamp(),
            "status": "FAILED" if declined else good,
            "amount_money": asks["amount_money"],
            "total_money": asks["amount_money"],
            "source_type": "CARD",
            "location_id": asks.get("location_id", "L1"),
            "reference_id": asks.get("reference_id", ""),
        }
        self.remember(asked, payment)
        if declined:
            complaint = _error(402, "PAYMENT_METHOD_ERROR", "GENERIC_DECLINE")
            raise Problem(Answer(402, {**complaint.body, "payment": dict(payment)}))
        self.charge(asked, payment["id"], asks["amount_money"]["amount"])
        return _shown(payment)

    def _complete(self, asked: Asked) -> Answer:
        payment = self.thing(asked.named)
        payment["status"] = "COMPLETED"
        return _shown(payment)

    def _cancel(self, asked: Asked) -> Answer:
        payment = self.thing(asked.named)
        payment["status"] = "CANCELED"
        self.ledger.void(payment["id"])
        return _shown(payment)

    def _cancel_by_key(self, asked: Asked) -> Answer:
        """Void what was paid with a key; it is no error if nothing was."""
        for charge in list(self.ledger.charges):
            if charge.key == asked.parameters["idempotency_key"]:
                self.thing(charge.payment)["status"] = "CANCELED"
                self.ledger.void(charge.payment)
        return Answer(200, {})

    def _refund(self, asked: Asked) -> Answer:
        asks = asked.parameters
        self.thing(asks["payment_id"])
        refund = {
            "id": self.name("rf0"),
            "status": "PENDING",
            "amount_money": asks["amount_money"],
            "payment_id": asks["payment_id"],
            "created_at": timestamp(),
        }
        self.remember(asked, refund)
        self.give_back(asked, asks["payment_id"], asks["amount_money"]["amount"])
        return Answer(200, {"refund": dict(refund)})

    def _payment(self, asked: Asked) -> Answer:
        return _shown(self.thing(asked.named))

    def _get_refund(self, asked: Asked) -> Answer:
        return Answer(200, {"refund": self.thing(asked.named)})

    def _list(self, asked: Asked) -> Answer:
        """Newest first, within the times asked for."""
        since = asked.request.query.get("begin_time", "")
        until = asked.request.query.get("end_time", "9")
        payments = [
            thing
            for thing in self.listed()
            if "payment_id" not in thing and since <= thing["created_at"] < until
        ]
        return Answer(200, {"payments": payments})


def _shown(payment: JsonObject) -> Answer:
    return Answer(200, {"payment": dict(payment)})


def _error(status: int, category: str, code: str) -> Answer:
    detail = code.replace("_", " ").capitalize() + "."
    return Answer(status, {"errors": [{"category": category, "code": code, "detail": detail}]})
