"""The session API: what `openapi.yaml` describes, call by call."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.flow.commands import Commands, NoSuchSession, NotAllowed, Order
from proxy.ports import Clock, Page, Query, Secrets, SessionStore, StoreUnavailable
from proxy.web.auth import CHALLENGE, Gatekeeper, Role

OPENAPI = Path(__file__).parent / "openapi.yaml"
_MAX_BODY = 64 * 1024
_MAX_LIMIT = 500
# The largest whole number that every JSON reader keeps exact; stores count in 64 bits.
_MAX_NUMBER = 2**53 - 1
_TEXT = "[!-~]{1,200}"


def _like(pattern: str, wanted: str) -> BeforeValidator:
    """A text of this form; whoever sends another is told in words, not in a pattern."""
    form = re.compile(pattern, re.DOTALL)

    def check(value: object) -> object:
        if isinstance(value, str) and form.fullmatch(value):
            return value
        kind = "form"
        raise PydanticCustomError(kind, "{wanted}", {"wanted": wanted})

    return BeforeValidator(check)


def _minor_units(value: object) -> object:
    """A whole number as the text it is kept as."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_NUMBER:
        return str(value)
    return value


Text = Annotated[str, _like(_TEXT, "1 to 200 visible ASCII characters")]
Sentence = Annotated[str, _like(".{1,500}", "1 to 500 characters")]
# Whole minor units or the gateway's own notation.
Amount = Annotated[
    str,
    _like(_TEXT, "a whole number from 0, or 1 to 200 visible ASCII characters"),
    BeforeValidator(_minor_units),
]
Currency = Annotated[str, _like("[A-Za-z]{3}", "three letters")]
# When the last session of a page began, and which it is.
Cursor = Annotated[str, _like("[0-9]{1,15}-[!-~]{1,100}", "what `next` of the page before says")]
Moment = Annotated[int, Field(ge=0, le=_MAX_NUMBER)]


class _Body(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=to_camel, validate_by_name=False
    )


class CreateBody(_Body):
    """`POST /session/create`."""

    order_id: Text
    user_id: Text | None = None
    gateway: Text | None = None
    amount: Amount | None = None
    currency: Currency | None = None


class NoBody(_Body):
    """`POST …/resume`: nothing, or an object without fields."""


class ReasonBody(_Body):
    """`POST …/cancel` and `…/interrupt`."""

    reason: Sentence


class PaymentDetails(_Body):
    """The evidence of a charge: the gateway's own reference for it."""

    reference: Text


class CompleteBody(_Body):
    """`POST …/complete`."""

    payment_details: PaymentDetails


class SearchQuery(_Body):
    """`GET /sessions` and `/sessions/active`."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, validate_by_name=False, strict=False
    )

    order_id: str | None = None
    user_id: str | None = None
    status: State | None = None
    outcome: Outcome | None = None
    gateway: str | None = None
    since: Annotated[Moment | None, Field(alias="from")] = None
    until: Annotated[Moment | None, Field(alias="to")] = None
    limit: Annotated[int, Field(ge=1, le=_MAX_LIMIT)] = 50
    cursor: Cursor | None = None


class ActiveQuery(_Body):
    """`GET /sessions/active`."""

    model_config = SearchQuery.model_config

    status: State | None = None
    outcome: Outcome | None = None
    gateway: str | None = None
    older_than_seconds: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=_MAX_LIMIT)] = 50
    cursor: Cursor | None = None


B = TypeVar("B", bound=_Body)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiProblem(Exception):  # noqa: N818 -- becomes an answer, not a traceback
    """An answer of the session API that is not the wanted one."""

    def __init__(self, status: int, code: str, title: str, **more: object) -> None:
        super().__init__(title)
        self.status = status
        self.document = {"type": f"/problems/{code}", "title": title, "status": status, **more}


class SessionsApi:
    """The calls about sessions."""

    def __init__(
        self,
        commands: Commands,
        store: SessionStore,
        secrets: Secrets,
        gatekeeper: Gatekeeper,
        clock: Clock,
    ) -> None:
        self._commands = commands
        self._store = store
        self._secrets = secrets
        self._gatekeeper = gatekeeper
        self._clock = clock
        self._description = OPENAPI.read_bytes()

    def app(self) -> web.Application:
        """The aiohttp application of the session listener."""
        app = web.Application(middlewares=[_problems], client_max_size=_MAX_BODY)
        # Not "create": another method there is a mistake, not a question about a session.
        one = "/api/payments/session/{id:(?!create$)[^{}/]+}"
        app.router.add_post("/api/payments/session/create", self.create)
        app.router.add_get(one, self.get)
        app.router.add_post(f"{one}/resume", self.resume)
        app.router.add_post(f"{one}/complete", self.complete)
        app.router.add_post(f"{one}/cancel", self.cancel)
        app.router.add_post(f"{one}/interrupt", self.interrupt)
        app.router.add_get(f"{one}/summary", self.summary)
        app.router.add_get("/api/payments/sessions/active", self.active)
        app.router.add_get("/api/payments/sessions", self.search)
        app.router.add_get("/openapi.yaml", self.openapi)
        return app

    # --- one session --------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.Response:
        self._need(request, Role.BACKEND)
        body = await _body(request, CreateBody)
        order = Order(body.order_id, body.user_id, body.gateway, body.amount, body.currency)
        if order.gateway is not None and not self._commands.knows(order.gateway):
            raise ApiProblem(422, "invalid-request", "There is no such gateway", field="gateway")
        session, new = await self._commands.create(order)
        document = {
            "sessionId": session.id,
            "maxAttempts": session.max_attempts,
            "status": session.state,
            "expiresAt": session.expires_at,
            "clientToken": self._secrets.client_token(session.id),
        }
        return _json(document, 201 if new else 200)

    async def get(self, request: web.Request) -> web.Response:
        session = await self._session(request)
        return _json(self._shown(session))

    async def resume(self, request: web.Request) -> web.Response:
        session_id = self._id(request, Role.CLIENT)
        if await request.read():
            await _body(request, NoBody)
        done = await self._commands.resume(session_id)
        session = done.session
        document = {
            "status": session.state,
            "attempt": done.attempt,
            "maxAttempts": session.max_attempts,
            "mode": done.mode,
            "message": done.message,
        }
        return _json(document, 200 if done.mode == "none" else 202)

    async def complete(self, request: web.Request) -> web.Response:
        session_id = self._id(request, Role.BACKEND)
        body = await _body(request, CompleteBody)
        session = await self._commands.complete(session_id, body.payment_details.reference)
        return _json({"status": session.state, "processingTime": _processing_time(session)})

    async def cancel(self, request: web.Request) -> web.Response:
        session_id = self._id(request, Role.CLIENT)
        body = await _body(request, ReasonBody)
        session, now = await self._commands.cancel(session_id, body.reason)
        document = {
            "status": session.state,
            "reason": session.cancel_reason,
            "outcome": session.outcome,
        }
        return _json(document, 200 if now else 202)

    async def interrupt(self, request: web.Request) -> web.Response:
        session_id = self._id(request, Role.CLIENT)
        body = await _body(request, ReasonBody)
        session, in_flight = await self._commands.interrupt(session_id, body.reason)
        document = {"status": session.state, "canResume": self._commands.can_resume(session)}
        return _json(document, 202 if in_flight else 200)

    async def summary(self, request: web.Request) -> web.Response:
        session = await self._session(request)
        gateway_ms = sum(
            (a.ended_at or session.updated_at) - a.started_at for a in session.attempts
        )
        return _json(
            {
                "sessionId": session.id,
                "orderId": session.order_ref,
                "status": session.state,
                "outcome": session.outcome,
                "attempts": session.attempt_count,
                "maxAttempts": session.max_attempts,
                "reviewRequired": session.review_required,
                "reference": session.reference,
                "interruptions": Counter(i.reason for i in session.interruptions),
                "durations": {
                    "processingTime": _processing_time(session),
                    "atGateway": gateway_ms,
                    "backoff": sum(retry.delay_ms for retry in session.retries),
                },
                "timeline": [
                    {"at": s.at, "event": s.event, "status": s.state, "outcome": s.outcome}
                    for s in session.timeline
                ],
            }
        )

    # --- many sessions ------------------------------------------------------------------------

    async def active(self, request: web.Request) -> web.Response:
        self._need(request, Role.VIEWER)
        asked = _query(request, ActiveQuery)
        until = None
        if asked.older_than_seconds is not None:
            until = self._clock.now_ms() - asked.older_than_seconds * 1000
        query = Query(
            state=asked.status,
            outcome=asked.outcome,
            gateway=asked.gateway,
            until=until,
            listed_only=True,
            limit=asked.limit,
            after=_place(asked.cursor),
        )
        return self._page(await self._store.search(query))

    async def search(self, request: web.Request) -> web.Response:
        self._need(request, Role.VIEWER)
        asked = _query(request, SearchQuery)
        query = Query(
            order_ref=asked.order_id,
            user_ref=asked.user_id,
            state=asked.status,
            outcome=asked.outcome,
            gateway=asked.gateway,
            since=asked.since,
            until=asked.until,
            limit=asked.limit,
            after=_place(asked.cursor),
        )
        return self._page(await self._store.search(query))

    def _page(self, page: Page) -> web.Response:
        last = page.sessions[-1] if page.more else None
        return _json(
            {
                "sessions": [self._shown(session) for session in page.sessions],
                "total": page.total,
                "next": None if last is None else f"{last.started_at}-{last.id}",
            }
        )

    async def openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._description, content_type="application/yaml")

    # --- the parts of it ----------------------------------------------------------------------

    def _id(self, request: web.Request, role: Role) -> str:
        session_id: str = request.match_info["id"]
        self._need(request, role, session_id)
        return session_id

    def _need(self, request: web.Request, role: Role, session_id: str | None = None) -> None:
        have = self._gatekeeper.role(request, session_id)
        if have is Role.NOBODY:
            raise ApiProblem(401, "token-required", self._gatekeeper.nobody)
        # A viewer sees everything and changes nothing.
        changes = request.method not in {"GET", "HEAD"}
        if have < role or (have is Role.VIEWER and changes):
            raise ApiProblem(403, "not-allowed", f"A {have.name.lower()} may not do this")

    async def _session(self, request: web.Request) -> Session:
        return await self._commands.show(self._id(request, Role.CLIENT))

    def _shown(self, session: Session) -> dict[str, object]:
        """A session as the contract shows it."""
        return {
            "sessionId": session.id,
            "orderId": session.order_ref,
            "userId": session.user_ref,
            "gateway": session.gateway,
            "route": session.route,
            "status": session.state,
            "outcome": session.outcome,
            "attempts": session.attempt_count,
            "maxAttempts": session.max_attempts,
            "canResume": self._commands.can_resume(session),
            "cancelRequested": session.cancel_requested,
            "held": session.hold,
            "reviewRequired": session.review_required,
            "amount": session.amount,
            "currency": session.currency,
            "startedAt": session.started_at,
            "expiresAt": session.expires_at,
            "processingTime": _processing_time(session),
            "metadata": {
                "interruptions": [
                    {
                        "at": stop.at,
                        "reason": stop.reason,
                        "phase": stop.phase,
                        "attempt": stop.attempt,
                        "sent": stop.sent,
                        "detail": stop.detail,
                    }
                    for stop in session.interruptions
                ],
                "retries": [
                    {
                        "at": retry.at,
                        "attempt": retry.attempt,
                        "delayMs": retry.delay_ms,
                        "because": retry.because,
                    }
                    for retry in session.retries
                ],
                "lastActivity": session.updated_at,
            },
        }


def _processing_time(session: Session) -> int | None:
    return None if session.finished_at is None else session.finished_at - session.started_at


def _json(document: object, status: int = 200) -> web.Response:
    return web.json_response(document, status=status, headers={"Cache-Control": "no-store"})


async def _body(request: web.Request, model: type[B]) -> B:
    try:
        document = json.loads(await request.read())
    except (ValueError, RecursionError):  # the latter: nested deeper than anyone means it
        raise ApiProblem(400, "invalid-request", "The body is not JSON") from None
    if not isinstance(document, dict):
        raise ApiProblem(422, "invalid-request", "The body is not a JSON object")
    return _valid(model, document)


def _query(request: web.Request, model: type[B]) -> B:
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise ApiProblem(422, "invalid-request", "A parameter stands twice", field=name)
    return _valid(model, dict(request.query))


_UNKNOWN = "extra_forbidden"
# What pydantic calls it → what people do.
_WANTED = {"missing": "is missing", "model_type": "an object"}


def _valid(model: type[B], document: object) -> B:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        # What is unknown first: it is often the missing one, misspelled.
        first = min(mistakes, key=lambda mistake: mistake["type"] != _UNKNOWN)
        field = ".".join(str(step) for step in first["loc"])
        wanted = _WANTED.get(first["type"], first["msg"].removeprefix("Input should be "))
        title = "Unknown field" if first["type"] == _UNKNOWN else f"{field}: {wanted}"
        raise ApiProblem(422, "invalid-request", title, field=field) from None


def _place(cursor: str | None) -> tuple[int, str] | None:
    """Where the page before ended."""
    if cursor is None:
        return None
    started, _, session_id = cursor.partition("-")
    return int(started), session_id


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiProblem as error:
        unnamed = error.status == HTTPStatus.UNAUTHORIZED
        return _problem(error.document, CHALLENGE if unnamed else None)
    except NoSuchSession:
        title = "There is no such session"
        return _problem({"type": "/problems/session-unknown", "title": title, "status": 404})
    except NotAllowed as error:
        shown = error.session
        return _problem(
            {
                "type": "/problems/not-in-this-state",
                "title": "The session's state does not allow this",
                "status": 409,
                "detail": error.why,
                "sessionId": shown.id,
                "state": shown.state,
                "outcome": shown.outcome,
                "attempts": shown.attempt_count,
            }
        )
    except StoreUnavailable:
        title = "The session store is not available"
        return _problem({"type": "/problems/store-unavailable", "title": title, "status": 503})
    except web.HTTPException as error:
        title = error.reason
        kind = "about:blank"
        headers = {k: v for k, v in error.headers.items() if k.lower() == "allow"}
        return _problem({"type": kind, "title": title, "status": error.status}, headers)


def _problem(document: dict[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=json.dumps(document).encode(),
        status=int(document["status"]),
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
