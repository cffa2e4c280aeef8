"""A refusal as the backend hears it: problem+json (RFC 9457) in a form the gateway's SDK parses.

The one place that makes an answer of our own. It says what is known: whether anything was sent,
whether a charge is possible, and whether the same request may be repeated with the same key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from proxy.core.http_rules import ATTEMPTS_HEADER, SESSION_HEADER
from proxy.core.profile import ErrorForm, GatewayProfile, RefusalForm
from proxy.core.reasons import Reason
from proxy.core.refusals import Blame, Refusal
from proxy.core.session import Session
from proxy.core.states import Outcome
from proxy.core.wire import Answer, AnswerSource, Headers

# Error tokens of RFC 9209 section 2.3 for what ended the last attempt.
PROXY_ERRORS: Mapping[Reason, str] = {
    Reason.DNS_ERROR: "dns_error",
    Reason.CONNECTION_REFUSED: "connection_refused",
    Reason.CONNECT_FAILED: "destination_ip_unroutable",
    Reason.CONNECT_TIMEOUT: "connection_timeout",
    Reason.TLS_ERROR: "tls_protocol_error",
    Reason.ATTEMPT_TIMEOUT: "http_response_timeout",
    Reason.CONNECTION_LOST: "connection_terminated",
    Reason.ANSWER_TRUNCATED: "http_response_incomplete",
    Reason.ANSWER_MALFORMED: "http_protocol_error",
    Reason.ANSWER_TOO_LARGE: "http_response_body_size",
    Reason.BREAKER_OPEN: "destination_unavailable",
    Reason.QUEUE_FULL: "connection_limit_reached",
    Reason.QUEUE_TIMEOUT: "connection_limit_reached",
    Reason.SHUTDOWN: "destination_unavailable",
    Reason.STORE_UNAVAILABLE: "proxy_internal_error",
    Reason.STORE_REGRESSED: "proxy_internal_error",
}


def problem(
    refusal: Refusal,
    *,
    profile: GatewayProfile | None = None,
    session: Session | None = None,
    reason: Reason | None = None,
    retry_after_ms: int | None = None,
) -> Answer:
    """The answer for a refusal. `profile` gives it the gateway's form; `reason` names the last
    fault.
    """
    row = refusal.value
    form = RefusalForm() if profile is None else profile.refusal_forms.get(row.code, RefusalForm())
    status = form.status or row.status
    unsure = refusal in _UNSURE
    must_name = _must_name(session, unsure=unsure)
    safe = row.safe_to_repeat and not must_name
    detail = f"{row.detail} {_NAME_IT}" if must_name else row.detail
    document: dict[str, object] = {
        "type": f"/problems/{row.code}",
        "title": row.title,
        "status": status,
        "detail": detail,
        "anythingSent": session is not None and (unsure or any(a.sent for a in session.attempts)),
        "safeToRepeat": safe,
    }
    if session is not None:
        document |= {
            "sessionId": session.id,
            "state": session.state,
            "outcome": _outcome(session, unsure=unsure),
            "attempts": session.attempt_count,
        }
    if retry_after_ms is not None:
        document["retryAfterMs"] = retry_after_ms
    if profile is not None:
        document |= _in_its_form(profile.error_form, refusal, status, form, detail)
    headers: list[tuple[str, str]] = [
        ("Content-Type", "application/problem+json"),
        ("Cache-Control", "no-store"),
        ("Proxy-Status", f"holdfast; error={PROXY_ERRORS.get(reason, row.proxy_error)}")
        if reason is not None
        else ("Proxy-Status", f"holdfast; error={row.proxy_error}"),
        *row.headers,
    ]
    if session is not None:
        headers += session_headers(session)
    if retry_after_ms is not None:
        headers.append(("Retry-After", str(-(-retry_after_ms // 1000))))
    if profile is not None and (row.final or not safe):
        headers += profile.final_answer_headers
    body = json.dumps(document, separators=(",", ":")).encode()
    return Answer(status, _phrase(status), tuple(headers), body, AnswerSource.HOLDFAST)


# What the session says may not be so: the store has lost what came after, or its walk goes on and
# may have sent it by the time this is read.
_UNSURE = frozenset({Refusal.STORE_REGRESSED, Refusal.WAIT_OVER, Refusal.IN_PROGRESS})
_NAME_IT = (
    "The request named neither key nor session nor order, so a plain repeat would be another "
    f"payment: send it again with the header {SESSION_HEADER} and this session's id."
)


def _must_name(session: Session | None, *, unsure: bool) -> bool:
    """Whether a repeat that does not name the session could charge a second time: it may have been
    charged, or can still be resumed.
    """
    return session is not None and not session.named and (unsure or session.listed)


def _outcome(session: Session, *, unsure: bool) -> Outcome:
    charged = session.outcome is Outcome.CHARGED
    return Outcome.UNKNOWN if unsure and not charged else session.outcome


def session_headers(session: Session) -> Headers:
    """The headers every answer carries."""
    return (
        (SESSION_HEADER, session.id),
        (ATTEMPTS_HEADER, str(session.attempt_count)),
    )


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase


def _in_its_form(
    errors: ErrorForm, refusal: Refusal, status: int, form: RefusalForm, detail: str
) -> dict[str, Any]:
    """What the gateway's own SDK reads: its exception is picked by it."""
    row = refusal.value
    caller = row.blame is Blame.CALLER and status < HTTPStatus.INTERNAL_SERVER_ERROR
    slots = {
        "{type}": form.error_type or errors.types[0 if caller else 1],
        "{code}": row.code.replace("-", "_"),
        "{message}": f"{row.title}. {detail}",
        "{status}": status,
    }
    return {key: _filled(value, slots) for key, value in errors.body.items()}


def _filled(value: Any, slots: Mapping[str, object]) -> Any:
    """A part of the form; what is nothing but a slot becomes what goes there, a number too."""
    match value:
        case dict():
            return {key: _filled(inner, slots) for key, inner in value.items()}
        case list():
            return [_filled(inner, slots) for inner in value]
        case str():
            return slots.get(value, value)
        case _:
            return value
