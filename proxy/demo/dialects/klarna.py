"""Klarna's order management: money moves when an order is captured, and two captures without a key,
or with two, are two. An answer to a capture has no body.

Made up: the authorization that is declined and how, that making an order takes a key as well, that
other parameters under a key are not compared, and what a key in use hears (the conflict that Klarna
has for a wrong state).
"""

from __future__ import annotations

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import Answer, Asked, JsonObject, Problem, Simulator

DECLINED = "declined"
_TROUBLE = {
    404: "NO_SUCH_ORDER",
    409: "CONFLICT",
    429: "TOO_MANY_REQUESTS",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}


class SimulatedKlarna(Simulator):
    """Klarna."""

    keys_per_path = True

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        one = "/ordermanagement/v1/orders/{id}"
        router.add_post("/payments/v1/authorizations/{token}/order", self.money(self._order))
        router.add_post("/customer-token/v1/tokens/{token}/order", self.money(self._order))
        router.add_post(f"{one}/captures", self.money(self._capture))
        router.add_post(f"{one}/refunds", self.money(self._refund))
        router.add_post(f"{one}/cancel", self.money(self._cancel))
        router.add_get(one, self.reading(self._get))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return request.headers.get("Klarna-Idempotency-Key")

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        known = self.orders.get(request.match_info.get("id", ""), "")
        return known or str(parameters.get("merchant_reference1", ""))

    @override
    def written(self, body: JsonObject) -> bytes:
        return super().written(body) if body else b""

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, _TROUBLE[status])

    def _order(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if asked.request.match_info["token"] == DECLINED:
            raise Problem(_error(403, "NOT_ALLOWED"))
        name = self.name("ord-")
        order = {
            "id": name,
            "order_id": name,
            "status": "AUTHORIZED",
            "fraud_status": "ACCEPTED",
            "merchant_reference1": asks.get("merchant_reference1"),
            "order_amount": asks["order_amount"],
            "remaining_authorized_amount": asks["order_amount"],
            "captures": [],
            "refunds": [],
        }
        self.remember(asked, order)
        told = ("order_id", "fraud_status")
        return Answer(200, {field: order[field] for field in told})

    def _capture(self, asked: Asked) -> Answer:
        order = self.thing(asked.named)
        amount = asked.parameters["captured_amount"]
        if amount > order["remaining_authorized_amount"]:
            raise Problem(_error(403, "CAPTURE_NOT_ALLOWED"))
        order["remaining_authorized_amount"] -= amount
        order["status"] = "PART_CAPTURED" if order["remaining_authorized_amount"] else "CAPTURED"
        capture = {"capture_id": self.name("cap-"), "captured_amount": amount}
        order["captures"].append(capture)
        self.charge(asked, order["id"], amount)
        return _made(order, f"captures/{capture['capture_id']}")

    def _refund(self, asked: Asked) -> Answer:
        order = self.thing(asked.named)
        refund = {
            "refund_id": self.name("ref-"),
            "refunded_amount": asked.parameters["refunded_amount"],
        }
        order["refunds"].append(refund)
        self.give_back(asked, order["id"], refund["refunded_amount"])
        return _made(order, f"refunds/{refund['refund_id']}")

    def _cancel(self, asked: Asked) -> Answer:
        order = self.thing(asked.named)
        if order["captures"]:
            raise Problem(_error(403, "CANCEL_NOT_ALLOWED"))
        order |= {"status": "CANCELLED", "remaining_authorized_amount": 0}
        return Answer(204, {})

    def _get(self, asked: Asked) -> Answer:
        return Answer(200, self.thing(asked.named))


def _made(order: JsonObject, what: str) -> Answer:
    where = f"https://api.klarna.com/ordermanagement/v1/orders/{order['id']}/{what}"
    return Answer(201, {}, {"Location": where})


def _error(status: int, code: str) -> Answer:
    messages = [code.replace("_", " ").capitalize()]
    return Answer(status, {"correlation_id": "sim", "error_code": code, "error_messages": messages})
