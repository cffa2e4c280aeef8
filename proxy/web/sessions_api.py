"""The session API: what `openapi.yaml` describes, call by call."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, TypeVar
from weakref import WeakValueDictionary

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
from typing_extensions import override

from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.flow.commands import Check, Commands, NoSuchSession, NotAllowed, Order
from proxy.ports import (
    Audit,
    AuditUnavailable,
    Clock,
    Page,
    Query,
    Secrets,
    SessionStore,
    StoreUnavailable,
)
from proxy.telemetry.logs import masked_text
from proxy.web.auth import CHALLENGE, Gatekeeper, Role

OPENAPI = Path(__file__).parent / "openapi.yaml"
_MAX_BODY = 64 * 1024
_MAX_LIMIT = 500
# The largest whole number that every JSON reader keeps exact; stores count in 64 bits.
_MAX_NUMBER = 2**53 - 1
_TEXT = "[!-~]{1,200}"
# Sessions' names are shorter; what stands in their place may be anything.
_MAX_NAME = 100


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

    @property
    def given(self) -> Mapping[str, str]:
        """What the audit trail keeps of it."""
        return {}


class CreateBody(_Body):
    """`POST /session/create`."""

    order_id: Text
    user_id: Text | None = None
    gateway: Text | None = None
    amount: Amount | None = None
    currency: Currency | None = None

    @property
    @override
    def given(self) -> Mapping[str, str]:
        return {"order": self.order_id}


class NoBody(_Body):
    """`POST …/resume`: nothing, or an object without fields."""


class ReasonBody(_Body):
    """`POST …/cancel` and `…/interrupt`."""

    reason: Sentence

    @property
    @override
    def given(self) -> Mapping[str, str]:
        return {"reason": self.reason}


class PaymentDetails(_Body):
    """The evidence of a charge: the gateway's own reference for it."""

    reference: Text


class CompleteBody(_Body):
    """`POST …/complete`."""

    payment_details: PaymentDetails

    @property
    @override
    def given(self) -> Mapping[str, str]:
        return {"reference": self.payment_details.reference}


class NotChargedBody(_Body):
    """`POST …/not-charged`: what proves it, the gateway's reference or a note of who looked."""

    reference: Sentence

    @property
    @override
    def given(self) -> Mapping[str, str]:
        return {"reference": self.reference}


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
Change = Callable[[web.Request, "Deed"], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Deed:
    """A call that changes something, for its entry in the audit trail; filled in as it goes on."""

    action: str
    session_id: str | None
    role: Role
    peer: str | None
    given: Mapping[str, str] = field(default_factory=dict)
    before: Session | None = None
    after: Session | None = None

    def said(self, result: str, why: str | None) -> dict[str, object]:
        """What the entry says of it."""
        name = None if self.session_id is None else self.session_id[:_MAX_NAME]
        return {
            "source": "session API",
            "who": {"role": self.role.name.lower(), "peer": self.peer},
            "action": self.action,
            "session": name,
            **{what: masked_text(text) for what, text in self.given.items()},
            "before": _seen(self.before),
            "after": _seen(self.after),
            "result": result,
            "why": why,
        }


def _seen(session: Session | None) -> dict[str, object] | None:
    if session is None:
        return None
    return {"status": session.state, "outcome": session.outcome, "version": session.version}


class ApiProblem(Exception):  # noqa: N818 -- becomes an answer, not a traceback
    """An answer of the session API that is not the wanted one."""

    def __init__(self, status: int, code: str, title: str, **more: object) -> None:
        super().__init__(title)
        self.status = status
        self.document = {"type": f"/problems/{code}", "title": title, "status": status, **more}


class VersionMoved(Exception):  # noqa: N818 -- an answer to a person, not an error
    """The session that a call would decide on is not the one its `If-Match` speaks of."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.id)
        self.session = session


class SessionsApi:
    """The calls about sessions."""

    def __init__(
        self,
        commands: Commands,
        store: SessionStore,
        secrets: Secrets,
        gatekeeper: Gatekeeper,
        clock: Clock,
        audit: Audit | None,
    ) -> None:
        self._commands = commands
        self._store = store
        self._secrets = secrets
        self._gatekeeper = gatekeeper
        self._clock = clock
        self._audit = audit
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._description = OPENAPI.read_bytes()

    def app(self) -> web.Application:
        """The aiohttp application of the session listener."""
        app = web.Application(middlewares=[_problems], client_max_size=_MAX_BODY)
        # Not "create": another method there is a mistake, not a question about a session.
        one = "/api/payments/session/{id:(?!create$)[^{}/]+}"
        app.router.add_get(one, self.get)
        app.router.add_post("/api/payments/session/create", self._audited("create", self.create))
        verbs = (self.resume, self.complete, self.not_charged, self.cancel, self.interrupt)
        for verb in verbs:
            name = verb.__name__.replace("_", "-")
            app.router.add_post(f"{one}/{name}", self._audited(name, verb))
        app.router.add_get(f"{one}/summary", self.summary)
        app.router.add_get("/api/payments/sessions/active", self.active)
        app.router.add_get("/api/payments/sessions", self.search)
        app.router.add_get("/openapi.yaml", self.openapi)
        return app

    # --- one session --------------------------------------------------------------------------

    async def create(self, request: web.Request, deed: Deed) -> web.Response:
        self._may(deed, Role.BACKEND)
        body = await _body(request, CreateBody)
        deed.given = body.given
        order = Order(body.order_id, body.user_id, body.gateway, body.amount, body.currency)
        if order.gateway is not None and not self._commands.knows(order.gateway):
            raise ApiProblem(422, "invalid-request", "There is no such gateway", field="gateway")
        session, new = await self._commands.create(order)
        deed.session_id = session.id
        deed.before, deed.after = None if new else session, session
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
        answer = _json(self._shown(session))
        answer.headers["ETag"] = _tag(session)
        return answer

    async def resume(self, request: web.Request, deed: Deed) -> web.Response:
        async with self._turn(request, deed, Role.CLIENT, NoBody) as (name, _, check):
            done = await self._commands.resume(name, check)
            deed.after = session = done.session
        document = {
            "status": session.state,
            "attempt": done.attempt,
            "maxAttempts": session.max_attempts,
            "mode": done.mode,
            "message": done.message,
        }
        return _json(document, 200 if done.mode == "none" else 202)

    async def complete(self, request: web.Request, deed: Deed) -> web.Response:
        async with self._turn(request, deed, Role.BACKEND, CompleteBody) as (name, body, check):
            reference = body.payment_details.reference
            deed.after = session = await self._commands.complete(name, reference, check)
        document = {
            "status": session.state,
            "processingTime": _processing_time(session),
            "reference": session.reference,
        }
        return _json(document)

    async def not_charged(self, request: web.Request, deed: Deed) -> web.Response:
        async with self._turn(request, deed, Role.BACKEND, NotChargedBody) as (name, body, check):
            session = await self._commands.not_charged(name, body.reference, check)
            deed.after = session
        document = {
            "status": session.state,
            "outcome": session.outcome,
            "reference": session.reference,
        }
        return _json(document)

    async def cancel(self, request: web.Request, deed: Deed) -> web.Response:
        async with self._turn(request, deed, Role.CLIENT, ReasonBody) as (name, body, check):
            session, now = await self._commands.cancel(name, body.reason, check)
            deed.after = session
        document = {
            "status": session.state,
            "reason": session.cancel_reason,
            "outcome": session.outcome,
        }
        return _json(document, 200 if now else 202)

    async def interrupt(self, request: web.Request, deed: Deed) -> web.Response:
        async with self._turn(request, deed, Role.CLIENT, ReasonBody) as (name, body, check):
            session, in_flight = await self._commands.interrupt(name, body.reason, check)
            deed.after = session
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
                    {
                        "at": step.at,
                        "event": step.event,
                        "status": step.state,
                        "outcome": step.outcome,
                        "note": step.note,
                    }
                    for step in session.timeline
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

    def _audited(self, action: str, change: Change) -> Handler:
        """The call with its entry in the audit trail, also if it is refused. Nothing is done while
        entries are known not to be written.
        """

        async def handle(request: web.Request) -> web.StreamResponse:
            if self._audit is not None:
                await self._audit.ready()
            session_id = request.match_info.get("id")
            role = self._gatekeeper.role(request, session_id)
            deed = Deed(action, session_id, role, request.remote)
            try:
                answer = await change(request, deed)
            except BaseException as error:  # also a call that is ended from outside
                await self._enter(deed, error)
                raise
            await self._enter(deed, None)
            return answer

        return handle

    async def _enter(self, deed: Deed, error: BaseException | None) -> None:
        """Write the entry. Nothing waits between what a call does and this: its place is taken
        before the next call of its session goes on.
        """
        if self._audit is None:
            return
        refusal = _refusal(error)
        if error is None:
            unchanged = _seen(deed.before) == _seen(deed.after)
            said = deed.said("unchanged" if unchanged else "changed", None)
        elif refusal is not None:
            said = deed.said("refused", refusal.get("detail", refusal["title"]))
        else:
            said = deed.said("failed", type(error).__name__)
        try:
            await self._audit.write(said)
        except AuditUnavailable:
            if error is None or refusal is not None:
                raise _unaudited(done=error is None) from None

    @asynccontextmanager
    async def _turn(
        self, request: web.Request, deed: Deed, role: Role, model: type[B]
    ) -> AsyncIterator[tuple[str, B, Check]]:
        """A call's turn at its session: the session's name, what was sent, and what to ask of the
        session that the call decides on. Calls about one session are made one after the other.
        """
        session_id: str = request.match_info["id"]
        self._may(deed, role)
        body = await _body(request, model)
        deed.given = body.given
        tags = ",".join(request.headers.getall("If-Match", ["*"])).split(",")
        wanted = {tag.strip() for tag in tags}

        def check(current: Session) -> None:
            deed.before = current
            if wanted.isdisjoint({"*", _tag(current)}):
                raise VersionMoved(current)

        async with self._turn_of(session_id):
            yield session_id, body, check

    def _turn_of(self, session_id: str) -> asyncio.Lock:
        return self._turns.setdefault(session_id, asyncio.Lock())

    def _may(self, deed: Deed, role: Role) -> None:
        # A viewer sees everything and changes nothing.
        self._allow(deed.role, Role.OPERATOR if deed.role is Role.VIEWER else role)

    def _need(self, request: web.Request, role: Role, session_id: str | None = None) -> None:
        self._allow(self._gatekeeper.role(request, session_id), role)

    def _allow(self, have: Role, role: Role) -> None:
        if have is Role.NOBODY:
            raise ApiProblem(401, "token-required", self._gatekeeper.nobody)
        if have < role:
            raise ApiProblem(403, "not-allowed", f"A {have.name.lower()} may not do this")

    async def _session(self, request: web.Request) -> Session:
        session_id: str = request.match_info["id"]
        self._need(request, Role.CLIENT, session_id)
        return await self._commands.show(session_id)

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
            "held": session.hold and session.live,
            "reviewRequired": session.review_required,
            "waitsFor": self._commands.waits_for(session),
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
    data = await request.read()
    if model is NoBody and not data:
        data = b"{}"
    try:
        document = json.loads(data)
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


def _tag(session: Session) -> str:
    """A session's version as `ETag` and `If-Match` have it (RFC 9110 section 8.8.3)."""
    return f'"{session.version}"'


def _unaudited(*, done: bool) -> ApiProblem:
    """The trail takes no entries. What was done is not taken back for it."""
    title, detail = "The audit trail takes no entries", "It was not carried out."
    if done:
        detail = "It was carried out; its entry is written as soon as that is possible."
    return ApiProblem(503, "audit-unavailable", title, detail=detail, carriedOut=done)


def _of(session: Session) -> dict[str, object]:
    """What a problem says of a session."""
    return {
        "sessionId": session.id,
        "state": session.state,
        "outcome": session.outcome,
        "attempts": session.attempt_count,
    }


def _refusal(error: BaseException | None) -> dict[str, Any] | None:  # noqa: PLR0911 -- one each
    """What an error is to whoever called; None for one that is a fault of ours."""
    match error:
        case ApiProblem():
            return error.document
        case AuditUnavailable():
            return _unaudited(done=False).document
        case NoSuchSession():
            title = "There is no such session"
            return {"type": "/problems/session-unknown", "title": title, "status": 404}
        case NotAllowed():
            return {
                "type": "/problems/not-in-this-state",
                "title": "The session's state does not allow this",
                "status": 409,
                "detail": error.why,
                **_of(error.session),
            }
        case VersionMoved():
            return {
                "type": "/problems/version-moved",
                "title": "The session has another version",
                "status": 412,
                **_of(error.session),
            }
        case StoreUnavailable():
            title = "The session store is not available"
            return {"type": "/problems/store-unavailable", "title": title, "status": 503}
        case web.HTTPException():
            return {"type": "about:blank", "title": error.reason, "status": error.status}
        case _:
            return None


@web.middleware
async def _problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:
        document = _refusal(error)
        if document is None:
            raise
        headers: Mapping[str, str] = {}
        if document["status"] == HTTPStatus.UNAUTHORIZED:
            headers = CHALLENGE
        if isinstance(error, web.HTTPException):
            headers = {k: v for k, v in error.headers.items() if k.lower() == "allow"}
        if isinstance(error, VersionMoved):
            headers = {"ETag": _tag(error.session)}
        return _problem(document, headers)


def _problem(document: dict[str, Any], headers: Mapping[str, str]) -> web.Response:
    return web.Response(
        body=json.dumps(document).encode(),
        status=int(document["status"]),
        content_type="application/problem+json",
        headers={"Cache-Control": "no-store", **headers},
    )
