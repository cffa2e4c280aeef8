"""Braintree's XML: there is no key. For half a minute it turns away a payment that is like another;
whether one was made is found by searching for the order id.

Made up: what makes two payments alike is their amount, order id and payment method.
"""

from __future__ import annotations

from typing import Any

import xmltodict
from aiohttp import web
from typing_extensions import override

from proxy.demo.faults import FaultPlan
from proxy.demo.simulator import CLOCK, Answer, Asked, JsonObject, Problem, Simulator, timestamp

DECLINED = "fake-processor-declined-visa-nonce"
_DUPLICATE_SECONDS = 30.0
_MESSAGES = {404: "Not Found", 429: "Too Many Requests", 500: "Server Error", 503: "Unavailable"}


class SimulatedBraintree(Simulator):
    """Braintree's classic API."""

    content_type = "application/xml"

    def __init__(self, plan: FaultPlan | None = None, *, latency: float = 0.0) -> None:
        super().__init__(plan, latency=latency)
        self.duplicate_seconds = _DUPLICATE_SECONDS
        self._seen: dict[tuple[Any, ...], float] = {}

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        all_ = "/merchants/{merchant}/transactions"
        router.add_post(all_, self.money(self._sale))
        router.add_put(f"{all_}/{{id}}/submit_for_settlement", self.money(self._settle))
        router.add_put(f"{all_}/{{id}}/void", self.money(self._void))
        router.add_post(f"{all_}/{{id}}/refund", self.money(self._refund))
        router.add_post(f"{all_}/advanced_search_ids", self.reading(self._search_ids))
        router.add_post(f"{all_}/advanced_search", self.reading(self._search))
        router.add_get(f"{all_}/{{id}}", self.reading(self._get))

    @override
    def read(self, body: bytes, content_type: str) -> JsonObject:
        """What stands in the outermost element, without attributes and with underscores."""
        if not body.strip():
            return {}
        inner = next(iter(xmltodict.parse(body, xml_attribs=False).values()))
        return {name.replace("-", "_"): value for name, value in (inner or {}).items()}

    @override
    def written(self, body: JsonObject) -> bytes:
        return str(xmltodict.unparse(body)).encode()

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return None

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        known = self.orders.get(request.match_info.get("id", ""), "")
        return known or str(parameters.get("order_id") or "")

    @override
    def trouble(self, status: int) -> Answer:
        return Answer(status, _error(_MESSAGES[status]))

    def _sale(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if "amount" not in asks:
            raise Problem(Answer(422, _error("Amount is required.")))
        nonce = asks.get("payment_method_nonce")
        sale: JsonObject = {
            "id": self.name("bt"),
            "type": asks.get("type", "sale"),
            "amount": asks["amount"],
            "order-id": asks.get("order_id"),
            "created-at": {"@type": "datetime", "#text": timestamp()},
        }
        settles = (asks.get("options") or {}).get("submit_for_settlement") == "true"
        sale["status"] = "submitted_for_settlement" if settles else "authorized"
        refusal = None
        if self._is_duplicate(sale, nonce):
            sale |= {"status": "gateway_rejected", "gateway-rejection-reason": "duplicate"}
            refusal = "Gateway Rejected: duplicate"
        elif nonce == DECLINED:
            sale |= {"status": "processor_declined", "processor-response-code": "2000"}
            refusal = "Do Not Honor"
        self.remember(asked, sale)
        if refusal is not None:
            raise Problem(Answer(422, _error(refusal, sale)))
        self.charge(asked, sale["id"], _cents(sale["amount"]))
        return Answer(201, {"transaction": dict(sale)})

    def _is_duplicate(self, sale: JsonObject, nonce: str | None) -> bool:
        now, like = CLOCK.monotonic(), (sale["amount"], sale["order-id"], nonce)
        before = self._seen.get(like)
        self._seen[like] = now
        return before is not None and now - before < self.duplicate_seconds

    def _settle(self, asked: Asked) -> Answer:
        return self._becomes(asked, "submitted_for_settlement")

    def _void(self, asked: Asked) -> Answer:
        self.ledger.void(asked.named)
        return self._becomes(asked, "voided")

    def _becomes(self, asked: Asked, status: str) -> Answer:
        sale = self.thing(asked.named)
        sale["status"] = status
        return Answer(200, {"transaction": dict(sale)})

    def _refund(self, asked: Asked) -> Answer:
        sale = self.thing(asked.named)
        refund = {
            "id": self.name("bt"),
            "type": "credit",
            "status": "submitted_for_settlement",
            "amount": asked.parameters.get("amount") or sale["amount"],
            "order-id": sale["order-id"],
            "refunded-transaction-id": sale["id"],
        }
        self.remember(asked, refund)
        self.give_back(asked, sale["id"], _cents(refund["amount"]))
        return Answer(201, {"transaction": dict(refund)})

    def _get(self, asked: Asked) -> Answer:
        return Answer(200, {"transaction": self.thing(asked.named)})

    def _search_ids(self, asked: Asked) -> Answer:
        names = [sale["id"] for sale in self._found(asked)]
        ids = {"@type": "array", "item": names}
        size = {"@type": "integer", "#text": "50"}
        return Answer(200, {"search-results": {"page-size": size, "ids": ids}})

    def _search(self, asked: Asked) -> Answer:
        page = {"@type": "integer", "#text": "1"}
        found = {"current-page-number": page, "transaction": self._found(asked)}
        return Answer(200, {"credit-card-transactions": {"@type": "collection", **found}})

    def _found(self, asked: Asked) -> list[JsonObject]:
        """By order id, newest first: all that search knows here."""
        wanted = asked.parameters["order_id"]["is"]
        return [sale for sale in self.listed() if sale["order-id"] == wanted]


def _error(message: str, sale: JsonObject | None = None) -> JsonObject:
    error: JsonObject = {"errors": {"errors": {"@type": "array"}}, "message": message}
    return {"api-error-response": error if sale is None else {**error, "transaction": sale}}


def _cents(amount: str) -> int:
    return round(float(amount) * 100)
