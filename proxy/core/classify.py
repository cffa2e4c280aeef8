"""Wire facts + what is known of the gateway → `AttemptResult`. Done once per attempt, here only.

Order (money rules, section 3): what the transport proves, then the profile's rules on the complete
answer, then the gateway's own retry hint. What no rule names is unknown, never failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from proxy.core.coding import plain
from proxy.core.documents import NO_DOCUMENT, BodyKind, document
from proxy.core.profile import (
    BodyTest,
    GatewayProfile,
    RetryHint,
    Rule,
    RulesByStatus,
    StatusRules,
    Verdict,
)
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult, Repeat
from proxy.core.states import AttemptStatus
from proxy.core.wire import Headers, WireFacts, by_name, header

_PLAIN = (str, int, float)
_NONE = StatusRules(())

# What settles a payment, by whether it was a replay.
_SETTLED = {
    verdict: (AttemptResult(status), AttemptResult(status, replayed=True))
    for verdict, status in (
        (Verdict.SUCCEEDED, AttemptStatus.SUCCEEDED),
        (Verdict.ACCEPTED, AttemptStatus.ACCEPTED),
        (Verdict.DECLINED, AttemptStatus.DECLINED),
        (Verdict.REJECTED, AttemptStatus.REJECTED),
    )
}
# Looked up once: in Python 3.11 that takes longer than what is done with it.
_REJECTED, _UNKNOWN = Verdict.REJECTED, Verdict.UNKNOWN


def classify(facts: WireFacts, profile: GatewayProfile, *, now_ms: int) -> AttemptResult:
    """What this attempt of a durable route came to. `now_ms` dates a `Retry-After` given as a
    date.
    """
    if facts.reason is not None:
        return _without_answer(facts)
    headers = by_name(facts.headers)
    rule = _deciding(facts, headers, profile.rules)
    verdict = _UNKNOWN if rule is None else rule.verdict
    replayed = profile.replayed is not None and _fits(facts, headers, profile.replayed)
    hint = _hint(headers, profile.retry_hint)
    if verdict is _REJECTED and hint is Repeat.YES:
        # The gateway itself says these bytes are worth another try, so it executed nothing.
        verdict = Verdict.NOT_EXECUTED
    settled = _SETTLED.get(verdict)
    if settled is not None:
        return settled[replayed]
    reason = _reason(verdict, facts.status)
    retry_after = retry_after_seconds(facts.headers, now_ms)
    more = (retry_after, replayed, hint is Repeat.YES)
    if verdict is Verdict.NOT_EXECUTED:
        repeat = Repeat.NO if hint is Repeat.NO else Repeat.YES
        return AttemptResult(AttemptStatus.REJECTED, reason, repeat, *more)
    # A replayed error never changes by asking again (a gateway that stores errors keeps answering
    # it for the life of the key): look it up instead.
    stop = hint is Repeat.NO or (replayed and hint is not Repeat.YES)
    repeat = Repeat.NO if stop else Repeat.BY_CLASS
    return AttemptResult(AttemptStatus.UNKNOWN, reason, repeat, *more)


def classify_read(facts: WireFacts, *, now_ms: int) -> AttemptResult:
    """What an attempt of a route that moves no money came to; only the status class matters."""
    if facts.reason is not None:
        return _without_answer(facts)
    retry_after = retry_after_seconds(facts.headers, now_ms)
    if facts.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        reason = Reason.GATEWAY_ERROR
        return AttemptResult(AttemptStatus.UNKNOWN, reason, Repeat.BY_CLASS, retry_after)
    if facts.status == HTTPStatus.TOO_MANY_REQUESTS:
        reason = Reason.RATE_LIMITED
        return AttemptResult(AttemptStatus.REJECTED, reason, Repeat.YES, retry_after)
    if facts.status >= HTTPStatus.BAD_REQUEST:
        return AttemptResult(AttemptStatus.REJECTED)
    return AttemptResult(AttemptStatus.ACCEPTED)


def _without_answer(facts: WireFacts) -> AttemptResult:
    if not facts.sent:
        return AttemptResult(AttemptStatus.NOT_SENT, facts.reason, Repeat.YES)
    return AttemptResult(AttemptStatus.UNKNOWN, facts.reason, Repeat.BY_CLASS)


def fits(facts: WireFacts, rules: RulesByStatus) -> bool:
    """Whether a complete answer is one that these rules are about, whatever their verdict."""
    headers = by_name(facts.headers)
    return facts.reason is None and _fits(facts, headers, rules)


def _fits(facts: WireFacts, headers: Mapping[str, str], rules: RulesByStatus) -> bool:
    rule = _deciding(facts, headers, rules)
    return rule is not None and rule.verdict is not _UNKNOWN


def deciding_rule(facts: WireFacts, rules: RulesByStatus) -> Rule | None:
    """The rule that says what a complete answer means; none if it is unknown for want of one."""
    headers = by_name(facts.headers)
    return _deciding(facts, headers, rules)


def _deciding(facts: WireFacts, headers: Mapping[str, str], rules: RulesByStatus) -> Rule | None:
    few = rules.by_status.get(facts.status, _NONE)
    body = plain(facts.body, headers) if "content-encoding" in headers else facts.body
    read = document(body) if few.read_json else None
    read_as: dict[BodyKind, object] = {}
    for rule in _left(few, read):
        for name, value in rule.headers:
            if headers.get(name) != value:
                break
        else:
            for test in rule.json:
                if not _holds(test, read):
                    break
            else:
                if all(_holds(test, _read_as(read_as, test.kind, body)) for test in rule.others):
                    return rule
    return None


def _read_as(read_as: dict[BodyKind, object], kind: BodyKind, body: bytes) -> object:
    """The body as a document of a kind, read once however many rules look into it."""
    if kind not in read_as:
        read_as[kind] = document(body, kind)
    return read_as[kind]


def _left(few: StatusRules, read: object) -> Sequence[Rule]:
    """Those rules of a status that the document does not rule out at once."""
    if few.key is None or not isinstance(read, dict):
        return few.rules
    value = read.get(few.key)
    return few.by_value.get(value, few.others) if isinstance(value, _PLAIN) else few.others


def _holds(test: BodyTest, read: object) -> bool:
    if read is NO_DOCUMENT:
        return False
    key = test.path.key
    if key is not None and isinstance(read, dict):  # most are one key of an object
        value = read.get(key)
        if test.values is None:
            return (value is not None) is test.present
        return isinstance(value, _PLAIN) and value in test.values
    reached = test.path.values(read)
    if test.values is None:
        there = any(value is not None for value in reached)
        return there is test.present
    return any(isinstance(value, _PLAIN) and value in test.values for value in reached)


def _hint(headers: Mapping[str, str], hint: RetryHint | None) -> Repeat | None:
    value = None if hint is None else headers.get(hint.header)
    if hint is None or value is None:
        return None
    if value in hint.retry_values:
        return Repeat.YES
    return Repeat.NO if value in hint.stop_values else None


def _reason(verdict: Verdict, status: int) -> Reason:
    if verdict is Verdict.IN_PROGRESS:
        return Reason.IN_PROGRESS
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Reason.RATE_LIMITED
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Reason.GATEWAY_ERROR
    return Reason.NOT_EXECUTED if verdict is Verdict.NOT_EXECUTED else Reason.UNCLEAR_ANSWER


def retry_after_seconds(headers: Headers, now_ms: int) -> float | None:
    """`Retry-After` in seconds from now: delay-seconds or HTTP-date (RFC 9110 section 10.2.3).

    Nothing for a value that is neither; never negative.
    """
    value = header(headers, "Retry-After")
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # a time zone of any size is parsed as a number
        return None
    if moment.tzinfo is None:  # an HTTP-date is GMT even where the parser cannot see it
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_ms / 1000)
