"""PayPal's orders and payments: a repeated `PayPal-Request-Id` gets the state of now, with 200
instead of 201, and only within its kind of call; what is done twice without one is refused by the
state.

Made up: another body under an id is not compared, and the status of a call in progress (409).
"""

from __future__ import annotations

import json
from dataclasses import replace

from aiohttp import web
from typing_extensions import override

from proxy.demo.simulator import Answer, Asked, JsonObject, Problem, Simulator, timestamp

# The card holder that PayPal's tests have for a card that is refused: 201, but the capture is not
# made. The header `PayPal-Mock-Response` names an issue for a 422 instead.
DECLINED_HOLDER = "CCREJECT-REFUSED"
_ORIGIN = "https://api-m.paypal.com"
_TROUBLE = {
    400: ("INVALID_REQUEST", "INVALID_STRING_LENGTH"),
    404: ("RESOURCE_NOT_FOUND", "INVALID_RESOURCE_ID"),
    409: ("RESOURCE_CONFLICT", "PREVIOUS_REQUEST_IN_PROGRESS"),
    429: ("RATE_LIMIT_REACHED", "RATE_LIMIT_REACHED"),
    500: ("INTERNAL_SERVER_ERROR", "INTERNAL_SERVICE_ERROR"),
    503: ("SERVICE_UNAVAILABLE", "SERVICE_UNAVAILABLE"),
}


class SimulatedPayPal(Simulator):
    """PayPal."""

    keys_per_path = True

    @override
    def routes(self, router: web.UrlDispatcher) -> None:
        orders, payments = "/v2/checkout/orders", "/v2/payments"
        router.add_post("/v1/oauth2/token", _token)
        router.add_post(orders, self.money(self._create))
        router.add_post(f"{orders}/{{id}}/capture", self.money(self._capture))
        router.add_post(f"{orders}/{{id}}/authorize", self.money(self._authorize))
        router.add_post(f"{payments}/authorizations/{{id}}/capture", self.money(self._take))
        router.add_post(f"{payments}/authorizations/{{id}}/void", self.money(self._void))
        router.add_post(f"{payments}/captures/{{id}}/refund", self.money(self._refund))
        router.add_get(f"{orders}/{{id}}", self.reading(self._get))
        for kind in ("authorizations", "captures", "refunds"):
            router.add_get(f"{payments}/{kind}/{{id}}", self.reading(self._get))

    @override
    def key(self, request: web.Request, parameters: JsonObject) -> str | None:
        return request.headers.get("PayPal-Request-Id")

    @override
    def key_format(self, request: web.Request) -> str:
        return ".{1,108}"

    @override
    def order(self, request: web.Request, parameters: JsonObject) -> str:
        unit = parameters.get("purchase_units", [{}])[0]
        named = unit.get("custom_id") or unit.get("invoice_id") or unit.get("reference_id")
        return str(named or self.orders.get(request.match_info.get("id", ""), ""))

    @override
    def trouble(self, status: int) -> Answer:
        return _error(status, *_TROUBLE[status])

    @override
    def given(self, asked: Asked, answer: Answer, *, replayed: bool) -> Answer:
        """The latest state; minimal, unless asked for the whole."""
        if answer.status not in {200, 201}:
            return answer
        body = self.things[answer.body["id"]]
        if asked.request.headers.get("Prefer") != "return=representation":
            body = {name: body[name] for name in ("id", "status", "links")}
        return replace(answer, body=body, status=200 if replayed else answer.status)

    def _create(self, asked: Asked) -> Answer:
        asks = asked.parameters
        if "payment_source" in asks and asked.key is None:
            raise Problem(_refusal("PAYPAL_REQUEST_ID_REQUIRED"))
        order: JsonObject = {
            "id": self.name("ORD"),
            "intent": asks["intent"],
            "status": "CREATED",
            "purchase_units": [{**unit, "payments": {}} for unit in asks["purchase_units"]],
            "payment_source": asks.get("payment_source", {}),
            "create_time": timestamp(),
        }
        order["links"] = [_link(f"checkout/orders/{order['id']}", "self")]
        _refuse_mocked(asked)
        self.remember(asked, order)
        if "payment_source" in asks:
            self._pay(asked, order)
        return Answer(201, order)

    def _capture(self, asked: Asked) -> Answer:
        order = self.thing(asked.named)
        if order["status"] == "COMPLETED":
            raise Problem(_refusal("ORDER_ALREADY_CAPTURED"))
        return self._completed(asked, order)

    def _authorize(self, asked: Asked) -> Answer:
        order = self.thing(asked.named)
        if order["status"] == "COMPLETED":
            raise Problem(_refusal("ORDER_ALREADY_AUTHORIZED"))
        return self._completed(asked, order)

    def _completed(self, asked: Asked, order: JsonObject) -> Answer:
        _refuse_mocked(asked)
        order["payment_source"] = asked.parameters.get("payment_source", order["payment_source"])
        self._pay(asked, order)
        return Answer(201, order)

    def _pay(self, asked: Asked, order: JsonObject) -> None:
        """Completed is also an order whose card was refused."""
        order["status"] = "COMPLETED"
        declined = order["payment_source"].get("card", {}).get("name") == DECLINED_HOLDER
        capture = order["intent"] == "CAPTURE"
        kind, good, bad = (
            ("captures", "COMPLETED", "DECLINED")
            if capture
            else ("authorizations", "CREATED", "DENIED")
        )
        unit = order["purchase_units"][0]
        paid = self._payment(asked, kind, bad if declined else good, unit["amount"])
        unit["payments"][kind] = [paid]
        if not declined:
            self.charge(asked, paid["id"], _cents(unit["amount"]))

    def _take(self, asked: Asked) -> Answer:
        """An authorisation was charged when it was made."""
        held = self.thing(asked.named)
        if held["status"] != "CREATED":
            raise Problem(_refusal("AUTHORIZATION_ALREADY_CAPTURED"))
        held["status"] = "CAPTURED"
        return Answer(201, self._payment(asked, "captures", "COMPLETED", held["amount"]))

    def _void(self, asked: Asked) -> Answer:
        held = self.thing(asked.named)
        if held["status"] != "CREATED":
            raise Problem(_refusal("PREVIOUSLY_VOIDED"))
        held["status"] = "VOIDED"
        self.ledger.void(held["id"])
        return Answer(200, held)

    def _refund(self, asked: Asked) -> Answer:
        capture = self.thing(asked.named)
        amount = asked.parameters.get("amount") or capture["amount"]
        self.give_back(asked, capture["id"], _cents(amount))
        return Answer(201, self._payment(asked, "refunds", "COMPLETED", amount))

    def _payment(self, asked: Asked, kind: str, status: str, amount: JsonObject) -> JsonObject:
        payment: JsonObject = {"id": self.name("PAY"), "status": status, "amount": amount}
        payment["custom_id"] = asked.order
        payment["links"] = [_link(f"payments/{kind}/{payment['id']}", "self")]
        return self.remember(asked, payment)

    def _get(self, asked: Asked) -> Answer:
        return Answer(200, self.thing(asked.named))


async def _token(_request: web.Request) -> web.Response:
    return web.json_response(
        {"access_token": "A21sim", "token_type": "Bearer", "expires_in": 32400, "scope": "payments"}
    )


def _refuse_mocked(asked: Asked) -> None:
    mocked = asked.request.headers.get("PayPal-Mock-Response")
    if mocked is not None:
        raise Problem(_refusal(json.loads(mocked)["mock_application_codes"]))


def _refusal(issue: str) -> Answer:
    return _error(422, "UNPROCESSABLE_ENTITY", issue)


def _error(status: int, name: str, issue: str) -> Answer:
    message = issue.replace("_", " ").capitalize() + "."
    detail = {"issue": issue, "description": message}
    body = {"name": name, "message": message, "debug_id": "sim", "details": [detail], "links": []}
    return Answer(status, body)


def _link(path: str, relation: str) -> JsonObject:
    return {"href": f"{_ORIGIN}/v2/{path}", "rel": relation, "method": "GET"}


def _cents(amount: JsonObject) -> int:
    return round(float(amount["value"]) * 100)
