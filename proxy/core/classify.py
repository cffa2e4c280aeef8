"""Wire facts + what is known of the gateway → `AttemptResult`. Done once per attempt, here only.

Order (money rules, section 3): what the transport proves, then the profile's rules on the complete
answer, then the gateway's own retry hint. What no rule names is unknown, never failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from proxy.core.profile import GatewayProfile, JsonTest, RulesByStatus, Verdict
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult, Repeat
from proxy.core.states import AttemptStatus
from proxy.core.wire import Headers, WireFacts, header

_NOT_JSON = object()
_PLAIN = (str, int, float)

_SETTLED = {
    Verdict.SUCCEEDED: AttemptStatus.SUCCEEDED,
    Verdict.ACCEPTED: AttemptStatus.ACCEPTED,
    Verdict.DECLINED: AttemptStatus.DECLINED,
    Verdict.REJECTED: AttemptStatus.REJECTED,
}


def classify(facts: WireFacts, profile: GatewayProfile, *, now_ms: int) -> AttemptResult:
    """What this attempt of a durable route came to. `now_ms` dates a `Retry-After` given as a
    date.
    """
    if facts.reason is not None:
        return _without_answer(facts)
    headers = _by_name(facts.headers)
    verdict = _verdict(facts, headers, profile.rules)
    replayed = _is_replay(headers, profile)
    hint = _hint(headers, profile)
    if verdict is Verdict.REJECTED and hint is Repeat.YES:
        # The gateway itself says these bytes are worth another try, so it executed nothing.
        verdict = Verdict.NOT_EXECUTED
    if verdict in _SETTLED:
        return AttemptResult(_SETTLED[verdict], replayed=replayed)
    reason = _reason(verdict, facts.status)
    retry_after = retry_after_seconds(facts.headers, now_ms)
    if verdict is Verdict.NOT_EXECUTED:
        repeat = Repeat.NO if hint is Repeat.NO else Repeat.YES
        return AttemptResult(AttemptStatus.REJECTED, reason, repeat, retry_after, replayed)
    # A replayed error never changes by asking again (a gateway that stores errors keeps answering
    # it for the life of the key): look it up instead.
    stop = hint is Repeat.NO or (replayed and hint is not Repeat.YES)
    repeat = Repeat.NO if stop else Repeat.BY_CLASS
    return AttemptResult(AttemptStatus.UNKNOWN, reason, repeat, retry_after, replayed)


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


_ByName = Mapping[str, str]


def _by_name(headers: Headers) -> _ByName:
    """The first value of each header, by lower-case name."""
    return {name.lower(): value for name, value in reversed(headers)}


def _verdict(facts: WireFacts, headers: _ByName, rules: RulesByStatus) -> Verdict:
    document: object = None
    for rule in rules.get(facts.status):
        if rule.headers and any(headers.get(name.lower()) != v for name, v in rule.headers):
            continue
        if rule.json:
            if document is None:
                document = _parse(facts.body)
            if not all(_holds(test, document) for test in rule.json):
                continue
        return rule.verdict
    return Verdict.UNKNOWN


def _parse(body: bytes) -> object:
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):  # nested too deeply to be an answer
        return _NOT_JSON
    return document


def _holds(test: JsonTest, document: object) -> bool:
    if document is _NOT_JSON:
        return False
    reached = test.path.values(document)
    if test.values is None:
        there = any(value is not None for value in reached)
        return there is test.present
    return any(isinstance(value, _PLAIN) and value in test.values for value in reached)


def _is_replay(headers: _ByName, profile: GatewayProfile) -> bool:
    if profile.replay_marker is None:
        return False
    name, value = profile.replay_marker
    return headers.get(name.lower()) == value


def _hint(headers: _ByName, profile: GatewayProfile) -> Repeat | None:
    if profile.retry_hint is None:
        return None
    value = headers.get(profile.retry_hint.header.lower())
    if value in profile.retry_hint.retry_values:
        return Repeat.YES
    if value in profile.retry_hint.stop_values:
        return Repeat.NO
    return None


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
