"""The session API: what `openapi.yaml` describes, call by call."""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.flow.commands import Commands, NoSuchSession, NotAllowed, Order
from proxy.ports import Clock, Page, Query, Secrets, SessionStore, StoreUnavailable
from proxy.web.auth import Gatekeeper, Role

OPENAPI = Path(__file__).parent / "openapi.yaml"
_MAX_BODY = 64 * 1024
_MAX_LIMIT = 500

Text = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class _Body(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=to_camel, validate_by_name=False
    )


class CreateBody(_Body):
    """`POST /session/create`."""

    order_id: Text
    user_id: Text | None = None
    gateway: Text | None = None
    amount: Annotated[int, Field(ge=0)] | Text | None = None
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]{3}$")] | None = None


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
    since: Annotated[int | None, Field(ge=0)] = Field(default=None, alias="from")
    until: Annotated[int | None, Field(ge=0)] = Field(default=None, alias="to")
    limit: Annotated[int, Field(ge=1, le=_MAX_LIMIT)] = 50
    cursor: str | None = None


class ActiveQuery(_Body):
    """`GET /sessions/active`."""

    model_config = SearchQuery.model_config

    status: State | None = None
    outcome: Outcome | None = None
    gateway: str | None = None
    older_than_seconds: Annotated[int, Field(ge=0)] | None = None
    limit: Annotated[int, Field(ge=1, le=_MAX_LIMIT)] = 50
    cursor: str | None = None


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

    def app(self) -> web.Application:
        """The aiohttp application of the session listener."""
        app = web.Application(middlewares=[_problems], client_max_size=_MAX_BODY)
        one = "/api/payments/session/{id}"
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
        amount = None if body.amount is None else str(body.amount)
        order = Order(body.order_id, body.user_id, body.gateway, amount, body.currency)
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
        await _no_body(request)
        done = await self._commands.resume(session_id)
        session = done.session
        document = {
            "status": session.state,
            "attempt": len(session.attempts) + (done.mode == "send"),
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
        document = {"status": session.state, "canResume": self._can_resume(session)}
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
                "attempts": len(session.attempts),
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
            after=_cursor(asked.cursor),
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
            after=_cursor(asked.cursor),
        )
        return self._page(await self._store.search(query))

    def _page(self, page: Page) -> web.Response:
        last = page.sessions[-1] if page.more else None
        following = None
        if last is not None:
            place = f"{last.started_at} {last.id}".encode()
            following = base64.urlsafe_b64encode(place).decode()
        return _json(
            {
                "sessions": [self._shown(session) for session in page.sessions],
                "total": page.total,
                "next": following,
            }
        )

    async def openapi(self, _request: web.Request) -> web.FileResponse:
        return web.FileResponse(OPENAPI, headers={"Content-Type": "application/yaml"})

    # --- the parts of it ----------------------------------------------------------------------

    def _id(self, request: web.Request, role: Role) -> str:
        session_id: str = request.match_info["id"]
        self._need(request, role, session_id)
        return session_id

    def _need(self, request: web.Request, role: Role, session_id: str | None = None) -> None:
        have = self._gatekeeper.role(request, session_id)
        if have is Role.NOBODY:
            raise ApiProblem(401, "token-required", "A token is required")
        # A viewer sees everything and changes nothing.
        changes = request.method != "GET"
        if have < role or (have is Role.VIEWER and changes):
            raise ApiProblem(403, "not-allowed", f"A {have.name.lower()} may not do this")

    async def _session(self, request: web.Request) -> Session:
        return await self._commands.get(self._id(request, Role.CLIENT))

    def _can_resume(self, session: Session) -> bool:
        possible = self._commands.lookup_possible(session)
        return session.can_resume(self._clock.now_ms(), lookup_possible=possible)

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
            "attempts": len(session.attempts),
            "maxAttempts": session.max_attempts,
            "canResume": self._can_resume(session),
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
    except ValueError:
        raise ApiProblem(400, "invalid-request", "The body is not JSON") from None
    return _valid(model, document)


async def _no_body(request: web.Request) -> None:
    given = await request.read()
    if given.strip() not in {b"", b"{}"}:
        raise ApiProblem(400, "invalid-request", "This call takes no body")


def _query(request: web.Request, model: type[B]) -> B:
    for name in request.query:
        if len(request.query.getall(name)) > 1:
            raise ApiProblem(422, "invalid-request", "A parameter stands twice", field=name)
    return _valid(model, dict(request.query))


def _valid(model: type[B], document: object) -> B:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(step) for step in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        title = "Unknown field" if unknown else first["msg"]
        raise ApiProblem(422, "invalid-request", title, field=field) from None


def _cursor(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    try:
        started, session_id = base64.urlsafe_b64decode(text.encode()).decode().split(" ")
        return int(started), session_id
    except (ValueError, binascii.Error):
        raise ApiProblem(422, "invalid-request", "Not a cursor", field="cursor") from None


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiProblem as error:
        return _problem(error.document)
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
                "attempts": len(shown.attempts),
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


def _problem(document: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=json.dumps(document).encode(),
        status=int(document["status"]),
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )
