"""Razorpay: a payment has no key, but an order that is paid takes no second payment; refunds,
payouts and transfers have a key each, in a header of its own.

Made up: the answer of `create/json` is the payment itself, and a payment is captured at once.
"""

from __future__ import annotations

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import CLOCK, Answer, Asked, JsonObject, Problem, Simulator

DECLINED_CARD = "4000000000000002"
_TROUBLE = {
    400: ("BAD_REQUEST_ERROR", "The idempotency key is not valid"),
    404: ("BAD_REQUEST_ERROR", "The id provided does not exist"),
    409: ("BAD_REQUEST_ERROR", "Another request with this idempotency key is in progress"),
    429: ("BAD_REQUEST_ERROR", "Too many requests"),
    500: ("SERVER_ERROR", "We are facing some trouble completing your request"),
    503: ("SERVICE_UNAVAILABLE", "The service is unavailable"),
}
# By the last part of the path.
_KEYS = {
    "refund": "X-Refund-Idempotency",
    "payouts": "X-Payout-Idempotency",
    "transfers": "X-Transfer-Idempotency",
}


class SimulatedRazorpay(Simulator):
    """Razorpay."""

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/orders", self.money(self._order))
        router.add_post("/v1/payments/create/json", self.money(self._pay))
        router.add_post("/v1/payments/create/recurring", self.money(self._pay))
        router.add_post("/v1/payments/{id}/capture", self.money(self._capture))
        router.add_post("/v1/payments/{id}/refund", self.money(self._refund))
        router.add_post("/v1/payouts", self.money(self._payout))
        router.add_post("/v1/transfers", self.money(self._transfer))
        router.add_get("/v1/orders", self.reading(self._list))
        for kind in ("orders", "payments", "refunds", "payouts", "transfers"):
            router.add_get(f"/v1/{kind}/{{id}}", self.reading(self._get))
        router.add_get("/v1/orders/{id}/payments", self.reading(self._payments))
        router.add_get("/v1/payments/{id}/refunds", self.reading(self._refunds))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        header = _KEYS.get(request.path.rpartition("/")[2], "")
        return request.headers.get(header)

    @override
    def key_format(self, request: web.Request) -> str:
        return "[A-Za-z0-9_-]{10,}" if "refund" in request.path else "[A-Za-z0-9_ -]{4,36}"

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        known = request.match_info.get("id") or parameters.get("order_id", "")
        said = parameters.get("receipt") or parameters.get("reference_id", "")
        return self.orders.get(known, "") or str(said)

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, *_TROUBLE[status])

    @override
    def other_parameters(self) -> Answer:
        message = "Different request with the same idempotency key has already been processed."
        return _error(400, "BAD_REQUEST_ERROR", message)

    def _order(self, asked: Asked) -> Answer:
        """With `unique_receipt` the same receipt is the same order."""
        asks = asked.parameters
        if asks.get("unique_receipt"):
            for thing in self.things.values():
                if thing["entity"] == "order" and thing["receipt"] == asks["receipt"]:
                    return Answer(200, dict(thing))
        return self._made(
            asked, "order", status="created", amount=asks["amount"], receipt=asks.get("receipt")
        )

    def _pay(self, asked: Asked) -> Answer:
        asks = asked.parameters
        order = self.thing(asks.get("order_id", ""))
        if order["status"] == "paid":
            raise Problem(_error(400, "BAD_REQUEST_ERROR", "Order has already been paid."))
        declined = asks.get("card", {}).get("number") == DECLINED_CARD
        status = "failed" if declined else "captured"
        paid = self._made(
            asked, "payment", status=status, amount=order["amount"], order_id=order["id"]
        )
        if declined:
            message = "Your payment could not be completed as it was declined by the bank."
            complaint = _error(400, "BAD_REQUEST_ERROR", message, "payment_declined")
            complaint.body["error"]["metadata"] = {"payment_id": paid.body["id"]}
            raise Problem(complaint)
        order["status"] = "paid"
        self.charge(asked, paid.body["id"], order["amount"])
        return paid

    def _capture(self, asked: Asked) -> Answer:
        self.thing(asked.named)
        message = "This payment has already been captured"
        raise Problem(_error(400, "BAD_REQUEST_ERROR", message))

    def _refund(self, asked: Asked) -> Answer:
        payment = self.thing(asked.named)
        amount = asked.parameters.get("amount") or payment["amount"]
        self.give_back(asked, payment["id"], amount)
        return self._made(
            asked, "refund", status="processed", amount=amount, payment_id=payment["id"]
        )

    def _payout(self, asked: Asked) -> Answer:
        if asked.key is None:
            raise Problem(_error(400, "BAD_REQUEST_ERROR", "The idempotency key is required."))
        return self._sent(asked, "payout")

    def _transfer(self, asked: Asked) -> Answer:
        return self._sent(asked, "transfer")

    def _sent(self, asked: Asked, kind: str) -> Answer:
        """Money of the merchant that leaves: a line in the ledger as well."""
        amount = asked.parameters["amount"]
        sent = self._made(asked, kind, status="processed", amount=amount)
        self.charge(asked, sent.body["id"], amount)
        return sent

    def _made(self, asked: Asked, kind: str, **what: object) -> Answer:
        prefixes = {"order": "order_", "payment": "pay_", "refund": "rfnd_", "payout": "pout_"}
        thing: JsonObject = {"id": self.name(prefixes.get(kind, "trf_")), "entity": kind}
        thing |= {"currency": asked.parameters.get("currency", "INR"), **what}
        thing["created_at"] = CLOCK.now_ms() // 1000
        return Answer(200, dict(self.remember(asked, thing)))

    def _get(self, asked: Asked) -> Answer:
        return Answer(200, self.thing(asked.named))

    def _list(self, asked: Asked) -> Answer:
        receipt = asked.request.query.get("receipt")
        orders = self._listed("order")
        return _collection([one for one in orders if receipt in {None, one["receipt"]}])

    def _payments(self, asked: Asked) -> Answer:
        payments = self._listed("payment")
        return _collection([one for one in payments if one["order_id"] == asked.named])

    def _refunds(self, asked: Asked) -> Answer:
        refunds = self._listed("refund")
        return _collection([one for one in refunds if one["payment_id"] == asked.named])

    def _listed(self, kind: str) -> list[JsonObject]:
        return [one for one in self.listed() if one["entity"] == kind]


def _collection(items: list[JsonObject]) -> Answer:
    return Answer(200, {"entity": "collection", "count": len(items), "items": items})


def _error(status: int, code: str, description: str, reason: str | None = None) -> Answer:
    error: JsonObject = {"code": code, "description": description, "reason": reason}
    return Answer(status, {"error": {**error, "metadata": {}}})
