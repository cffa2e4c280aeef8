"""Mollie: a first payment is a link that somebody has to follow, a recurring one takes the money;
the links in an answer lead to Mollie itself, wherever it was asked.

Made up: the mandate that is declined, and that errors are not stored for a key.
"""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import Answer, Asked, JsonObject, Problem, Simulator, timestamp

DECLINED = "mdt_declined"
_API = "https://api.mollie.com/v2"
_TROUBLE = {
    404: ("Not Found", "No payment exists with this token."),
    409: ("Conflict", "A request with this idempotency key is being processed."),
    429: ("Too Many Requests", "Your request has hit the rate limit."),
    500: ("Internal Server Error", "An internal server error occurred."),
    503: ("Service Unavailable", "The service is temporarily unavailable."),
}


class SimulatedMollie(Simulator):
    """Mollie."""

    content_type = "application/hal+json"

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v2/payments", self.money(self._pay))
        router.add_post("/v2/customers/{customer}/payments", self.money(self._pay))
        router.add_post("/v2/payments/{id}/refunds", self.money(self._refund))
        router.add_delete("/v2/payments/{id}", self.money(self._cancel))
        router.add_get("/v2/payments", self.reading(self._list))
        router.add_get("/v2/payments/{id}", self.reading(self._get))
        router.add_get("/v2/payments/{payment}/refunds/{id}", self.reading(self._get))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return request.headers.get("Idempotency-Key") if request.method == "POST" else None

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        known = self.orders.get(request.match_info.get("id", ""))
        metadata = parameters.get("metadata") or {}
        return known or str(metadata.get("order_id") or parameters.get("description", ""))

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, *_TROUBLE[status])

    @override
    def other_parameters(self) -> Answer:
        return _error(400, "Bad Request", "This idempotency key was used for another request.")

    @override
    def given(self, asked: Asked, answer: Answer, *, replayed: bool) -> Answer:
        return replace(answer, headers={"Idempotent-Replayed": "true"} if replayed else {})

    def _pay(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if "amount" not in asks or "description" not in asks:
            problem = _error(422, "Unprocessable Entity", "The amount is missing.")
            raise Problem(Answer(422, {**problem.body, "field": "amount"}))
        recurring = asks.get("sequenceType") == "recurring"
        declined = asks.get("mandateId") == DECLINED
        payment: JsonObject = {
            "resource": "payment",
            "id": self.name("tr_"),
            "mode": "test",
            "status": ("failed" if declined else "paid") if recurring else "open",
            "amount": asks["amount"],
            "description": asks["description"],
            "metadata": asks.get("metadata"),
            "sequenceType": asks.get("sequenceType", "oneoff"),
            "createdAt": timestamp(),
        }
        payment["_links"] = {"self": _link(f"{_API}/payments/{payment['id']}")}
        if not recurring:
            payment["_links"]["checkout"] = _link(f"https://www.mollie.com/pay/{payment['id']}")
        self.remember(asked, payment)
        if payment["status"] == "paid":
            self.charge(asked, payment["id"], _cents(asks["amount"]))
        return Answer(201, dict(payment))

    def _refund(self, asked: Asked) -> Answer:
        payment = self.thing(asked.named)
        refund: JsonObject = {
            "resource": "refund",
            "id": self.name("re_"),
            "status": "pending",
            "amount": asked.parameters["amount"],
            "paymentId": payment["id"],
            "createdAt": timestamp(),
        }
        where = f"{_API}/payments/{payment['id']}"
        refund["_links"] = {"self": _link(f"{where}/refunds/{refund['id']}")}
        self.remember(asked, refund)
        self.give_back(asked, payment["id"], _cents(refund["amount"]))
        return Answer(201, dict(refund))

    def _cancel(self, asked: Asked) -> Answer:
        payment = self.thing(asked.named)
        payment["status"] = "canceled"
        return Answer(200, dict(payment))

    def _get(self, asked: Asked) -> Answer:
        return Answer(200, self.thing(asked.named))

    def _list(self, asked: Asked) -> Answer:
        """Newest first, a page at a time."""
        limit = int(asked.request.query.get("limit", "50"))
        payments = [p for p in self.listed() if p["resource"] == "payment"]
        begin = asked.request.query.get("from")
        first = 0 if begin is None else payments.index(self.thing(begin))
        page, rest = payments[first : first + limit], payments[first + limit :]
        after = _link(f"{_API}/payments?from={rest[0]['id']}&limit={limit}") if rest else None
        links = {"self": _link(f"{_API}/payments"), "previous": None, "next": after}
        body = {"_embedded": {"payments": page}, "count": len(page), "_links": links}
        return Answer(200, body)


def _error(status: int, title: str, detail: str) -> Answer:
    links = {"documentation": {"href": "https://docs.mollie.com/errors", "type": "text/html"}}
    return Answer(status, {"status": status, "title": title, "detail": detail, "_links": links})


def _link(href: str) -> JsonObject:
    return {"href": href, "type": "application/hal+json"}


def _cents(amount: JsonObject) -> int:
    return round(float(amount["value"]) * 100)
