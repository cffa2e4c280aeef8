"""What the backend hears: the gateway's answer unchanged, or one of our own that says what is
known.
"""

from __future__ import annotations

from functools import cache

from msgspec.structs import replace

from proxy.core.http_rules import answer_headers
from proxy.core.problems import problem, session_headers
from proxy.core.profile import GatewayProfile
from proxy.core.reasons import Reason
from proxy.core.refusals import Refusal
from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.core.wire import Answer, AnswerSource, WireFacts

REPLAYED_HEADER = "Idempotent-Replayed"
DURABILITY_HEADER = "X-Payment-Durability"

_OUR_HEADERS = frozenset(
    {"x-payment-session-id", "x-payment-attempts", "proxy-status", "retry-after"}
)
# Looked up once: in Python 3.11 that takes longer than what is done with them.
_GATEWAY, _HOLDFAST, _UNKNOWN = AnswerSource.GATEWAY, AnswerSource.HOLDFAST, Outcome.UNKNOWN
_OVERLOAD = frozenset({Reason.QUEUE_FULL, Reason.QUEUE_TIMEOUT})


def forwarded(
    facts: WireFacts, session: Session, profile: GatewayProfile, *, gave_up: bool
) -> Answer:
    """The gateway's answer, with our headers added.

    `gave_up`: Holdfast has repeated as far as is safe, so the SDK is told not to start over.
    """
    headers = answer_headers(facts.headers)
    if gave_up:
        ours = {name.lower() for name, _ in profile.final_answer_headers}
        headers = tuple(pair for pair in headers if pair[0].lower() not in ours)
        headers += profile.final_answer_headers
    status = facts.status
    seen = f"holdfast; received-status={status}"
    if session.outcome is _UNKNOWN:
        seen += f"; charge={session.outcome}"
    return Answer(
        status,
        facts.status_text,
        (*headers, *session_headers(session), ("Proxy-Status", seen)),
        facts.body,
        _GATEWAY,
        facts.stream,
    )


def without_answer(
    session: Session, profile: GatewayProfile, reason: Reason, *, retry_after_ms: int | None = None
) -> Answer:
    """The answer when the gateway gave none: what is known, and what is safe to do."""
    return problem(
        refusal_for(session, reason),
        profile=profile,
        session=session,
        reason=reason,
        retry_after_ms=retry_after_ms,
    )


def refusal_for(session: Session, reason: Reason) -> Refusal:
    """Which refusal tells the truth about a session that came to no answer."""
    if session.outcome is Outcome.UNKNOWN:
        return Refusal.OUTCOME_UNKNOWN if session.durable else Refusal.UPSTREAM_FAILED
    by_state = {
        State.CANCELLED: Refusal.SESSION_CANCELLED,
        State.EXPIRED: Refusal.SESSION_EXPIRED,
        State.FAILED_MAX_RETRIES: Refusal.RETRIES_EXHAUSTED,
        # It has an answer, which the store does not give just now.
        State.COMPLETED: Refusal.IN_PROGRESS,
        State.DECLINED: Refusal.IN_PROGRESS,
    }
    # A request that moves no money has no key that could be used up, only a reason.
    if session.durable and session.state in by_state:
        return by_state[session.state]
    if reason is Reason.NOT_ALLOWED:
        if session.hold:
            return Refusal.SESSION_HELD
        return Refusal.SESSION_CANCELLED if session.cancel_requested else Refusal.NOT_SENT
    by_reason = {
        Reason.STORE_UNAVAILABLE: Refusal.STORE_UNAVAILABLE,
        Reason.STORE_REGRESSED: Refusal.STORE_REGRESSED,
        Reason.BREAKER_OPEN: Refusal.BREAKER_OPEN,
        Reason.SHUTDOWN: Refusal.DRAINING,
        Reason.INTERNAL_ERROR: Refusal.INTERNAL,
    }
    if reason in _OVERLOAD:
        return Refusal.OVERLOADED
    return by_reason.get(reason, Refusal.NOT_SENT)


def replayed(answer: Answer) -> Answer:
    """The same answer again, marked."""
    kept = tuple(pair for pair in answer.headers if pair[0].lower() != REPLAYED_HEADER.lower())
    return replace(answer, headers=(*kept, (REPLAYED_HEADER, "true")))


def not_recorded_yet(answer: Answer) -> Answer:
    """The true answer, marked: the store could not take it, so the session still says unknown."""
    return replace(answer, headers=(*answer.headers, (DURABILITY_HEADER, "pending")))


def pack(answer: Answer, replay_headers: frozenset[str]) -> bytes:
    """An answer as bytes to keep: who made it, its head as HTTP has it, a blank line, its body.

    Of the gateway's headers only those stay that mean the same later; `Set-Cookie` never does.
    """
    kept = None if answer.source is _HOLDFAST else _kept(replay_headers)
    lines = [f"{answer.source._value_} {answer.status} {answer.status_text}"]
    lines += [
        f"{name}: {value}" for name, value in answer.headers if kept is None or name.lower() in kept
    ]
    return "\n".join(lines).encode("latin-1") + b"\n\n" + answer.body


@cache  # one for each profile
def _kept(replay_headers: frozenset[str]) -> frozenset[str]:
    return replay_headers | _OUR_HEADERS


def unpack(data: bytes) -> Answer:
    """The answer that `pack` wrote."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    source, status, text = first.split(" ", 2)
    headers = []
    for line in lines:
        name, _, value = line.partition(": ")
        headers.append((name, value))
    return Answer(int(status), text, tuple(headers), body, AnswerSource(source))
