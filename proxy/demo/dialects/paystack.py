"""Paystack: there is no key, but a reference is taken once. Who sends it again hears that it is
taken, not what became of it; for that, it is looked up by the reference.

Made up: the card that is declined; that a reference is taken while its payment is being made.
"""

from __future__ import annotations

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import Answer, Asked, JsonObject, Problem, Simulator, timestamp

DECLINED = "AUTH_declined"
_TROUBLE = {
    400: ("Invalid reference.", "invalid_params"),
    404: ("Transaction reference not found.", "transaction_not_found"),
    409: ("Duplicate Transaction Reference", "duplicate_reference"),
    429: ("Too many requests.", "rate_limited"),
    500: ("An error occurred.", "api_error"),
    503: ("Service unavailable.", "api_error"),
}


class SimulatedPaystack(Simulator):
    """Paystack."""

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/charge", self.money(self._pay))
        router.add_post("/transaction/charge_authorization", self.money(self._pay))
        router.add_post("/transfer", self.money(self._transfer))
        router.add_post("/refund", self.money(self._refund))
        for path in ("/transaction/verify", "/transfer/verify", "/charge"):
            router.add_get(f"{path}/{{id}}", self.reading(self._verify))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return parameters.get("reference")

    @override
    def key_format(self, request: web.Request) -> str:
        return "[a-z0-9_-]{16,}" if request.path == "/transfer" else ".+"

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        metadata = parameters.get("metadata") or {}
        known = self.orders.get(parameters.get("transaction", ""), "")
        return known or str(metadata.get("order_id") or parameters.get("reference", ""))

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, *_TROUBLE[status])

    @override
    def in_progress(self) -> Answer:
        return _error(400, *_TROUBLE[409])

    @override
    def given(self, asked: Asked, answer: Answer, *, replayed: bool) -> Answer:
        return self.in_progress() if replayed else answer

    def _pay(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if "amount" not in asks or "email" not in asks:
            raise Problem(_error(400, "Email and amount are required.", "missing_params"))
        good = asks.get("authorization_code") != DECLINED
        reason = "Approved" if good else "Declined"
        return self._moved(asked, "success" if good else "failed", gateway_response=reason)

    def _transfer(self, asked: Asked) -> Answer:
        return self._moved(asked, "success", transfer_code=self.name("TRF_"))

    def _moved(self, asked: Asked, status: str, **more: str) -> Answer:
        """Known by its reference from now on."""
        name = asked.parameters.get("reference") or self.name("ref-")
        data = {
            "reference": name,
            "status": status,
            "amount": asked.parameters["amount"],
            "currency": asked.parameters.get("currency", "NGN"),
            "metadata": asked.parameters.get("metadata"),
            "created_at": timestamp(),
            **more,
        }
        self.remember(asked, {"id": name, "data": data})
        if status == "success":
            self.charge(asked, name, data["amount"])
        return _told("Charge attempted", data)

    def _refund(self, asked: Asked) -> Answer:
        paid = self.thing(asked.parameters["transaction"])["data"]
        amount = asked.parameters.get("amount") or paid["amount"]
        self.give_back(asked, paid["reference"], amount)
        what = {"transaction": paid["reference"], "amount": amount, "status": "pending"}
        return _told("Refund has been queued for processing", what)

    def _verify(self, asked: Asked) -> Answer:
        return _told("Verification successful", self.thing(asked.named)["data"])


def _told(message: str, data: JsonObject) -> Answer:
    return Answer(200, {"status": True, "message": message, "data": dict(data)})


def _error(status: int, message: str, code: str) -> Answer:
    body = {"status": False, "message": message, "type": "validation_error", "code": code}
    return Answer(status, {**body, "meta": {"nextStep": "Try again with a new reference"}})
