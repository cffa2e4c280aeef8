"""Checkout.com: only what succeeded is stored for a key. After an error the same key is executed
again, so an error after charging and a repeat are two charges; the payments can be asked for by
reference.

Made up: the token that is declined; another body under a key is not compared.
"""

from __future__ import annotations

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import (
    AfterError,
    Answer,
    Asked,
    JsonObject,
    Problem,
    Simulator,
    timestamp,
)

DECLINED = "tok_declined"
_TROUBLE = {
    404: ("invalid_request", "resource_not_found"),
    409: ("request_conflict", "idempotency_key_in_use"),
    429: ("rate_limited", "too_many_requests"),
    500: ("processing_error", "internal_error"),
    503: ("processing_error", "service_unavailable"),
}


class SimulatedCheckout(Simulator):
    """Checkout.com."""

    after_error = AfterError.NOTHING

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/payments", self.money(self._pay))
        router.add_post("/payments/{id}/captures", self.money(self._capture))
        router.add_post("/payments/{id}/voids", self.money(self._void))
        router.add_post("/payments/{id}/refunds", self.money(self._refund))
        router.add_get("/payments", self.reading(self._list))
        router.add_get("/payments/{id}", self.reading(self._get))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return request.headers.get("Cko-Idempotency-Key")

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        known = self.orders.get(request.match_info.get("id", ""))
        return known or str(parameters.get("reference", ""))

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, *_TROUBLE[status])

    def _pay(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if "source" not in asks or "amount" not in asks:
            raise Problem(_error(422, "request_invalid", "source_required"))
        good = asks["source"].get("token") != DECLINED
        payment = {
            "id": self.name("pay_"),
            "action_id": self.name("act_"),
            "amount": asks["amount"],
            "currency": asks.get("currency", "EUR"),
            "approved": good,
            "status": "Authorized" if good else "Declined",
            "response_code": "10000" if good else "20005",
            "response_summary": "Approved" if good else "Declined - Do Not Honour",
            "reference": asks.get("reference", ""),
            "requested_on": timestamp(),
        }
        self.remember(asked, payment)
        if good:
            self.charge(asked, payment["id"], asks["amount"])
        return Answer(201, dict(payment))

    def _capture(self, asked: Asked) -> Answer:
        return self._acted(asked, "Captured")

    def _void(self, asked: Asked) -> Answer:
        self.ledger.void(asked.named)
        return self._acted(asked, "Voided")

    def _refund(self, asked: Asked) -> Answer:
        payment = self.thing(asked.named)
        self.give_back(asked, payment["id"], asked.parameters.get("amount") or payment["amount"])
        return self._acted(asked, "Refunded")

    def _acted(self, asked: Asked, status: str) -> Answer:
        payment = self.thing(asked.named)
        payment["status"] = status
        return Answer(202, {"action_id": self.name("act_"), "reference": payment["reference"]})

    def _get(self, asked: Asked) -> Answer:
        return Answer(200, self.thing(asked.named))

    def _list(self, asked: Asked) -> Answer:
        """Newest first; without a reference there are none."""
        wanted = asked.request.query.get("reference")
        found = [one for one in self.listed() if one["reference"] == wanted]
        return Answer(200, {"limit": 10, "skip": 0, "total_count": len(found), "data": found})


def _error(status: int, kind: str, code: str) -> Answer:
    return Answer(status, {"request_id": "sim", "error_type": kind, "error_codes": [code]})
