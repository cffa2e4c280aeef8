"""Adyen: what a key got is stored for good, errors too, unless they are marked as transient; a
payment cannot be asked for, but it can be voided by the merchant's reference.

Made up: other parameters under a key are not compared, and a 429 is not marked as transient.
"""

from __future__ import annotations

from dataclasses import replace

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import AfterError, Answer, Asked, JsonObject, Problem, Simulator

# What the name on the card makes of a payment, as at Adyen's own tests: result, reason, its code.
_RESULTS = {
    "DECLINED": ("Refused", "Refused", "2"),
    "NOT_ENOUGH_BALANCE": ("Refused", "Not enough balance", "12"),
    "UNKNOWN": ("Error", "Unknown", "0"),
    "PENDING": ("Received", None, None),
}
_TROUBLE = {
    400: (400, "702", "The idempotency key is not valid", "validation"),
    404: (404, "158", "Transaction not found", "validation"),
    409: (422, "704", "request already processed or in progress", "validation"),
    429: (429, "010", "Too many requests", "security"),
    500: (500, "905", "Payment details are not supported", "internal"),
    503: (503, "703", "required resource temporarily unavailable", "internal"),
}
_TRANSIENT = frozenset({"703", "704"})


class SimulatedAdyen(Simulator):
    """Adyen's Checkout API, of any version."""

    after_error = AfterError.ERROR

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/{version}/payments", self.money(self._pay))
        router.add_post("/{version}/cancels", self.money(self._cancel_by_reference))
        router.add_post("/{version}/payments/{id}/captures", self.money(self._modify))
        router.add_post("/{version}/payments/{id}/refunds", self.money(self._refund))
        router.add_post("/{version}/payments/{id}/cancels", self.money(self._cancel))
        router.add_post("/{version}/payments/{id}/reversals", self.money(self._cancel))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return request.headers.get("Idempotency-Key")

    @override
    def key_format(self, request: web.Request) -> str:
        return ".{1,64}"

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        known = self.orders.get(request.match_info.get("id", ""), "")
        return known or str(parameters.get("paymentReference") or parameters.get("reference", ""))

    @override
    def trouble(self, status: int) -> Answer:
        return _error(*_TROUBLE[status])

    @override
    def keeps(self, answer: Answer) -> bool:
        return "transient-error" not in answer.headers

    @override
    def given(self, asked: Asked, answer: Answer, *, replayed: bool) -> Answer:
        if asked.key is None:
            return answer
        return replace(answer, headers={**answer.headers, "Idempotency-Key": asked.key})

    def _pay(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if "amount" not in asks or "reference" not in asks:
            raise Problem(_error(422, "100", "No amount specified", "validation"))
        card = str(asks.get("paymentMethod", {}).get("holderName", ""))
        result, reason, code = _RESULTS.get(card, ("Authorised", None, None))
        payment = {
            "pspReference": self.name("PSP"),
            "resultCode": result,
            "merchantReference": asks["reference"],
            "amount": asks["amount"],
        }
        if reason is not None:
            payment |= {"refusalReason": reason, "refusalReasonCode": code}
        self.remember(asked, {"id": payment["pspReference"], **payment})
        if result == "Authorised":
            self.charge(asked, payment["pspReference"], asks["amount"]["value"])
        return Answer(200, payment)

    def _cancel_by_reference(self, asked: Asked) -> Answer:
        """Whether there was something to void is only told by a webhook."""
        for charge in list(self.ledger.charges):
            if charge.order == asked.parameters["paymentReference"]:
                self.ledger.void(charge.payment)
        return self._received(asked, {"paymentReference": asked.parameters["paymentReference"]})

    def _cancel(self, asked: Asked) -> Answer:
        self.ledger.void(asked.named)
        return self._modify(asked)

    def _refund(self, asked: Asked) -> Answer:
        self.thing(asked.named)
        self.give_back(asked, asked.named, asked.parameters["amount"]["value"])
        return self._modify(asked)

    def _modify(self, asked: Asked) -> Answer:
        self.thing(asked.named)
        return self._received(asked, {"paymentPspReference": asked.named})

    def _received(self, asked: Asked, what: JsonObject) -> Answer:
        """A modification is never more than received: how it went is told by a webhook."""
        return Answer(
            201,
            {
                **what,
                "merchantAccount": asked.parameters.get("merchantAccount", ""),
                "pspReference": self.name("PSP"),
                "reference": asked.parameters.get("reference", ""),
                "status": "received",
            },
        )


def _error(status: int, code: str, message: str, kind: str) -> Answer:
    body = {"status": status, "errorCode": code, "message": message, "errorType": kind}
    return Answer(status, body, {"transient-error": "true"} if code in _TRANSIENT else {})
