"""Amazon Pay: a signed request, whose key is part of what is signed and is kept for ever.

Made up: what a key in use hears (409), that errors are not stored for a key, and that any signature
is good.
"""

from __future__ import annotations

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import Answer, Asked, JsonObject, Problem, Simulator, timestamp

# In this header Amazon's sandbox is told what to simulate: `HardDeclined` and the like.
SIMULATION = "x-amz-pay-simulation-code"
_SIGNED = "AMZN-PAY-RSASSA-PSS"
_TROUBLE = {
    400: "InvalidHeaderValue",
    404: "ResourceNotFound",
    409: "TransactionInProgress",
    429: "TooManyRequests",
    500: "InternalServerError",
    503: "ServiceUnavailable",
}


class SimulatedAmazonPay(Simulator):
    """Amazon Pay, with the environment in the path."""

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        charges, refunds = "/{environment}/v2/charges", "/{environment}/v2/refunds"
        router.add_post(charges, self.money(self._charge))
        router.add_post(f"{charges}/{{id}}/capture", self.money(self._capture))
        router.add_delete(f"{charges}/{{id}}/cancel", self.money(self._cancel))
        router.add_post(refunds, self.money(self._refund))
        router.add_get(f"{charges}/{{id}}", self.reading(self._get))
        router.add_get(f"{refunds}/{{id}}", self.reading(self._get))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return request.headers.get("x-amz-pay-idempotency-key")

    @override
    def key_format(self, request: web.Request) -> str:
        return "[A-Za-z0-9_-]{1,32}"

    @override
    def account(self, request: web.Request) -> str:
        """By the name of the key that signs: the signature is another one each time."""
        return request.headers.get("Authorization", "").partition(",")[0]

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        known = request.match_info.get("id") or parameters.get("chargeId", "")
        metadata = parameters.get("merchantMetadata", {})
        return self.orders.get(known, "") or str(metadata.get("merchantReferenceId", ""))

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, _TROUBLE[status])

    @override
    def refusal(self, asked: Asked) -> Answer | None:
        headers = asked.request.headers
        signed = headers.get("Authorization", "").startswith(_SIGNED)
        good = signed and "x-amz-pay-date" in headers
        return None if good else _error(401, "UnauthorizedAccess")

    @override
    def other_parameters(self) -> Answer:
        return _error(400, "DuplicateIdempotencyKey")

    def _charge(self, asked: Asked) -> Answer:
        asks = asked.parameters
        simulated = asked.request.headers.get(SIMULATION)
        good = "Captured" if asks.get("captureNow") else "Authorized"
        name = self.name("S01-")
        charge = {
            "id": name,
            "chargeId": name,
            "chargePermissionId": asks["chargePermissionId"],
            "chargeAmount": asks["chargeAmount"],
            "creationTimestamp": timestamp(),
            "statusDetails": {"state": "Declined" if simulated else good, "reasonCode": simulated},
            "merchantMetadata": asks.get("merchantMetadata", {}),
        }
        self.remember(asked, charge)
        if simulated is not None:
            raise Problem(_error(422, simulated))
        self.charge(asked, name, _cents(asks["chargeAmount"]))
        return Answer(201, dict(charge))

    def _capture(self, asked: Asked) -> Answer:
        charge = self.thing(asked.named)
        charge["statusDetails"] = {"state": "Captured"}
        return Answer(200, dict(charge))

    def _cancel(self, asked: Asked) -> Answer:
        charge = self.thing(asked.named)
        charge["statusDetails"] = {"state": "Canceled"}
        self.ledger.void(charge["id"])
        return Answer(200, dict(charge))

    def _refund(self, asked: Asked) -> Answer:
        asks = asked.parameters
        charge = self.thing(asks["chargeId"])
        name = self.name("S01-R")
        refund = {
            "id": name,
            "refundId": name,
            "chargeId": charge["id"],
            "refundAmount": asks["refundAmount"],
            "statusDetails": {"state": "RefundInitiated"},
        }
        self.remember(asked, refund)
        self.give_back(asked, charge["id"], _cents(asks["refundAmount"]))
        return Answer(201, dict(refund))

    def _get(self, asked: Asked) -> Answer:
        return Answer(200, self.thing(asked.named))


def _error(status: int, code: str) -> Answer:
    return Answer(status, {"reasonCode": code, "message": f"{code}."})


def _cents(amount: JsonObject) -> int:
    return round(float(amount["amount"]) * 100)
