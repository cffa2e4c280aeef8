"""Stripe's second API: JSON, and a repeated key does what is left to do. What succeeded is not done
again, what failed is tried again, so that nothing but a success stays with a key.

Made up: the payout method without money; that a repeat is not marked as one.
"""

from __future__ import annotations

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import Answer, Asked, JsonObject, Problem, Simulator, timestamp

DECLINED = "pm_no_money"
_PAYMENTS = "/v2/money_management/outbound_payments"
_TROUBLE = {
    404: ("invalid_request_error", "not_found"),
    409: ("idempotency_error", "idempotency_key_in_use"),
    429: ("rate_limit", "rate_limit"),
    500: ("api_error", "internal_error"),
    503: ("api_error", "service_unavailable"),
}


class SimulatedStripeV2(Simulator):
    """Stripe's outbound payments."""

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post(_PAYMENTS, self.money(self._pay))
        router.add_post(f"{_PAYMENTS}/{{id}}/cancel", self.money(self._cancel))
        router.add_get(_PAYMENTS, self.reading(self._list))
        router.add_get(f"{_PAYMENTS}/{{id}}", self.reading(self._get))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return request.headers.get("Idempotency-Key")

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        known = self.orders.get(request.match_info.get("id", ""), "")
        return known or str(parameters.get("metadata", {}).get("order_id", ""))

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, *_TROUBLE[status])

    @override
    def other_parameters(self) -> Answer:
        return _error(400, "idempotency_error", "idempotency_error")

    def _pay(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if asks["to"].get("payout_method") == DECLINED:
            raise Problem(_error(400, "insufficient_funds", "outbound_payment_insufficient_funds"))
        payment = {
            "id": self.name("obp_"),
            "object": "v2.money_management.outbound_payment",
            "amount": asks["amount"],
            "status": "processing",
            "from": asks["from"],
            "to": asks["to"],
            "metadata": asks.get("metadata", {}),
            "created": timestamp(),
            "livemode": False,
        }
        told = Answer(200, dict(payment))
        payment["status"] = "posted"  # a moment later
        self.remember(asked, payment)
        self.charge(asked, payment["id"], asks["amount"]["value"])
        return told

    def _cancel(self, asked: Asked) -> Answer:
        payment = self.thing(asked.named)
        payment["status"] = "canceled"
        self.ledger.void(payment["id"])
        return Answer(200, dict(payment))

    def _get(self, asked: Asked) -> Answer:
        return Answer(200, self.thing(asked.named))

    def _list(self, _asked: Asked) -> Answer:
        """Newest first."""
        return Answer(
            200, {"data": self.listed(), "next_page_url": None, "previous_page_url": None}
        )


def _error(status: int, kind: str, code: str) -> Answer:
    message = code.replace("_", " ").capitalize() + "."
    return Answer(status, {"error": {"type": kind, "code": code, "message": message}})
