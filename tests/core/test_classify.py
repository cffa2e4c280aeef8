"""What the wire shows → what it means, with the profiles that ship with Holdfast."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.classify import (
    classify,
    classify_read,
    deciding_rule,
    retry_after_seconds,
)
from proxy.core.jsonpath import parse_json_path
from proxy.core.profile import BodyTest, Rule, Verdict, rules_by_status
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult, Repeat
from proxy.core.states import AttemptStatus
from proxy.core.wire import Headers, Phase, WireFacts
from proxy.settings.values import Gateway

IN_FLIGHT, UNKNOWN, NOT_SENT, REJECTED, DECLINED, ACCEPTED, VOIDED, SUCCEEDED = AttemptStatus
# 1994-11-06 08:49:37 GMT, the date of RFC 9110's own examples.
NOW = 784_111_777_000

REPLAYED = (("Idempotent-Replayed", "true"),)
SHOULD_RETRY = (("Stripe-Should-Retry", "true"),)
SHOULD_NOT_RETRY = (("Stripe-Should-Retry", "false"),)


def answered(status: int, body: bytes = b"", headers: Headers = ()) -> WireFacts:
    """A complete answer."""
    return WireFacts(sent=True, phase=Phase.ANSWERED, status=status, headers=headers, body=body)


def lost(reason: Reason, phase: Phase = Phase.AWAITING_RESPONSE, *, sent: bool) -> WireFacts:
    """No complete answer."""
    return WireFacts(sent=sent, phase=phase, reason=reason)


WITHOUT_ANSWER = [
    (lost(Reason.CONNECTION_REFUSED, Phase.CONNECTING, sent=False), NOT_SENT, Repeat.YES),
    (lost(Reason.DNS_ERROR, Phase.CONNECTING, sent=False), NOT_SENT, Repeat.YES),
    (lost(Reason.TLS_ERROR, Phase.CONNECTING, sent=False), NOT_SENT, Repeat.YES),
    (lost(Reason.CONNECT_TIMEOUT, Phase.CONNECTING, sent=False), NOT_SENT, Repeat.YES),
    (lost(Reason.STORE_UNAVAILABLE, Phase.CONNECTING, sent=False), NOT_SENT, Repeat.YES),
    (lost(Reason.ATTEMPT_TIMEOUT, sent=True), UNKNOWN, Repeat.BY_CLASS),
    (lost(Reason.CONNECTION_LOST, Phase.SENDING, sent=True), UNKNOWN, Repeat.BY_CLASS),
    (lost(Reason.ANSWER_TRUNCATED, Phase.READING_RESPONSE, sent=True), UNKNOWN, Repeat.BY_CLASS),
    (lost(Reason.ANSWER_MALFORMED, sent=True), UNKNOWN, Repeat.BY_CLASS),
    (lost(Reason.ANSWER_TOO_LARGE, Phase.READING_RESPONSE, sent=True), UNKNOWN, Repeat.BY_CLASS),
    (lost(Reason.SHUTDOWN, sent=True), UNKNOWN, Repeat.BY_CLASS),
]


@pytest.mark.parametrize(("facts", "status", "repeat"), WITHOUT_ANSWER)
def test_without_an_answer(
    stripe: Gateway, facts: WireFacts, status: AttemptStatus, repeat: Repeat
) -> None:
    """Not a byte sent is a proof; after the first byte nothing is known, money or not."""
    expected = AttemptResult(status, facts.reason, repeat)
    assert classify(facts, stripe.profile, now_ms=NOW) == expected
    assert classify_read(facts, now_ms=NOW) == expected


def test_a_cut_answer_proves_nothing_whatever_its_status(stripe: Gateway) -> None:
    """A 402 or a 200 whose body broke off is no answer."""
    for status in (200, 402):
        facts = WireFacts(True, Phase.READING_RESPONSE, Reason.ANSWER_TRUNCATED, status)
        assert classify(facts, stripe.profile, now_ms=NOW).status is UNKNOWN


DEFINITE = None
STRIPE_ANSWERS: list[tuple[int, bytes, Headers, AttemptStatus, Reason | None, Repeat]] = [
    # Money moved, is reserved, or is on its way.
    (200, b'{"id":"pi_1","status":"succeeded"}', (), SUCCEEDED, DEFINITE, Repeat.NO),
    (200, b'{"id":"pi_1","status":"requires_capture"}', (), SUCCEEDED, DEFINITE, Repeat.NO),
    (200, b'{"id":"pi_1","status":"processing"}', (), SUCCEEDED, DEFINITE, Repeat.NO),
    (201, b'{"id":"tr_1"}', (), SUCCEEDED, DEFINITE, Repeat.NO),
    (200, b' \r\n{"id":"tr_1"}\t\n', (), SUCCEEDED, DEFINITE, Repeat.NO),
    (200, b'\xef\xbb\xbf{"id":"tr_1"}', (), SUCCEEDED, DEFINITE, Repeat.NO),
    (200, '{"id":"tr_1"}'.encode("utf-16"), (), SUCCEEDED, DEFINITE, Repeat.NO),
    (200, b'{"id":"tr_1","status":{"of":"a list"}}', (), SUCCEEDED, DEFINITE, Repeat.NO),
    # Done, and nothing is charged.
    (200, b'{"id":"pi_1","status":"requires_action"}', (), ACCEPTED, DEFINITE, Repeat.NO),
    (200, b'{"id":"pi_1","status":"requires_confirmation"}', (), ACCEPTED, DEFINITE, Repeat.NO),
    (200, b'{"id":"pi_1","status":"canceled"}', (), ACCEPTED, DEFINITE, Repeat.NO),
    # The same word for a new intent and for one whose payment failed.
    (
        200, b'{"id":"pi_1","status":"requires_payment_method","last_payment_error":null}', (),
        ACCEPTED, DEFINITE, Repeat.NO,
    ),
    (
        200, b'{"id":"pi_1","status":"requires_payment_method","last_payment_error":{"a":1}}', (),
        DECLINED, DEFINITE, Repeat.NO,
    ),
    (200, b'{"id":"re_1","status":"failed"}', (), DECLINED, DEFINITE, Repeat.NO),
    (402, b'{"error":{"type":"card_error"}}', (), DECLINED, DEFINITE, Repeat.NO),
    (402, b"", SHOULD_RETRY, DECLINED, DEFINITE, Repeat.NO),
    # Not executed, and never will be.
    (400, b'{"error":{"type":"idempotency_error"}}', (), REJECTED, DEFINITE, Repeat.NO),
    (401, b"{}", (), REJECTED, DEFINITE, Repeat.NO),
    (404, b"{}", (), REJECTED, DEFINITE, Repeat.NO),
    (400, b"{}", SHOULD_NOT_RETRY, REJECTED, DEFINITE, Repeat.NO),
    # Not executed, and may be tried again: throttled, or the gateway itself asks for it.
    (429, b"{}", (), REJECTED, Reason.RATE_LIMITED, Repeat.YES),
    (429, b"{}", SHOULD_NOT_RETRY, REJECTED, Reason.RATE_LIMITED, Repeat.NO),
    (400, b"{}", SHOULD_RETRY, REJECTED, Reason.NOT_EXECUTED, Repeat.YES),
    # Still at it.
    (409, b"{}", (), UNKNOWN, Reason.IN_PROGRESS, Repeat.BY_CLASS),
    (409, b"{}", SHOULD_RETRY, UNKNOWN, Reason.IN_PROGRESS, Repeat.BY_CLASS),
    (409, b"{}", SHOULD_NOT_RETRY, UNKNOWN, Reason.IN_PROGRESS, Repeat.NO),
    # Indeterminate.
    (408, b"{}", (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (425, b"{}", (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (500, b"{}", (), UNKNOWN, Reason.GATEWAY_ERROR, Repeat.BY_CLASS),
    (503, b"busy", SHOULD_RETRY, UNKNOWN, Reason.GATEWAY_ERROR, Repeat.BY_CLASS),
    (500, b"{}", SHOULD_NOT_RETRY, UNKNOWN, Reason.GATEWAY_ERROR, Repeat.NO),
    # A stored error never changes by asking again, unless the gateway says so.
    (500, b"{}", REPLAYED, UNKNOWN, Reason.GATEWAY_ERROR, Repeat.NO),
    (500, b"{}", REPLAYED + SHOULD_RETRY, UNKNOWN, Reason.GATEWAY_ERROR, Repeat.BY_CLASS),
    # Nothing that a rule names.
    (302, b"", (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (200, b"<html>ok</html>", (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (200, b"", (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (200, b"null", (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (200, b'{"id":null}', (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (200, b'[{"id":"pi_1"}]', (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (200, b'{"id":"pi_1"}{}', (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (200, b'{"id":"pi_1","sta', (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (200, b'\xff{"id":"pi_1"}', (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
    (200, b"[" * 100_000, (), UNKNOWN, Reason.UNCLEAR_ANSWER, Repeat.BY_CLASS),
]  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(
            answered(status, body, headers),
            AttemptResult(
                known,
                reason,
                repeat,
                replayed=headers[:1] == REPLAYED,
                asked_for=reason is not None and headers[-1:] == SHOULD_RETRY,
            ),
            id=f"{status} {body[:70].decode('latin-1')} {known}",
        )
        for status, body, headers, known, reason, repeat in STRIPE_ANSWERS
    ],
)
def test_answers_of_stripe(stripe: Gateway, facts: WireFacts, expected: AttemptResult) -> None:
    """Each kind of answer that Stripe gives, and some that nobody should."""
    assert classify(facts, stripe.profile, now_ms=NOW) == expected


@pytest.mark.parametrize(
    ("status", "expected", "reason"),
    [
        (200, SUCCEEDED, None),
        (204, SUCCEEDED, None),
        (301, UNKNOWN, Reason.UNCLEAR_ANSWER),
        (400, REJECTED, None),
        (402, DECLINED, None),
        (408, UNKNOWN, Reason.UNCLEAR_ANSWER),
        (409, UNKNOWN, Reason.IN_PROGRESS),
        (422, REJECTED, None),
        (425, UNKNOWN, Reason.UNCLEAR_ANSWER),
        (429, REJECTED, Reason.RATE_LIMITED),
        (500, UNKNOWN, Reason.GATEWAY_ERROR),
        (503, UNKNOWN, Reason.GATEWAY_ERROR),
        (599, UNKNOWN, Reason.GATEWAY_ERROR),
    ],
)
def test_answers_of_a_gateway_nothing_is_known_of(
    plain: Gateway, status: int, expected: AttemptStatus, reason: Reason | None
) -> None:
    """By status alone; a hint or replay header of another gateway's means nothing here."""
    headers = SHOULD_RETRY + REPLAYED
    result = classify(answered(status, b"not json", headers), plain.profile, now_ms=NOW)
    assert (result.status, result.reason, result.replayed) == (expected, reason, False)


def test_a_settled_replay_is_marked(stripe: Gateway) -> None:
    """A success that the gateway had stored is a success, and known to be a replay."""
    facts = answered(200, b'{"id":"pi_1","status":"succeeded"}', REPLAYED)
    assert classify(facts, stripe.profile, now_ms=NOW) == AttemptResult(SUCCEEDED, replayed=True)
    facts = answered(200, b'{"id":"pi_1"}', (("Idempotent-Replayed", "false"),))
    assert not classify(facts, stripe.profile, now_ms=NOW).replayed


def test_what_the_gateway_asked_for_is_kept(stripe: Gateway) -> None:
    """`Retry-After` comes with every answer that may be repeated, and with no settled one."""
    headers = (("Retry-After", "7"),)
    for status in (409, 429, 503):
        result = classify(answered(status, b"{}", headers), stripe.profile, now_ms=NOW)
        assert result.retry_after_seconds == 7.0
    settled = classify(answered(402, b"{}", headers), stripe.profile, now_ms=NOW)
    assert settled.retry_after_seconds is None


def test_rules_are_asked_in_order(plain: Gateway) -> None:
    """The first rule whose header and JSON conditions all hold decides."""
    state = parse_json_path("state")
    rules = rules_by_status(
        [
            Rule(
                ((200, 299),),
                (("X-Result", "no"),),
                (BodyTest(state, frozenset({"done"})),),
                Verdict.DECLINED,
            ),
            Rule(((200, 200),), (), (BodyTest(state, None, present=False),), Verdict.REJECTED),
            Rule(((200, 201),), (), (BodyTest(state, frozenset({"done", 1})),), Verdict.SUCCEEDED),
        ]
    )
    profile = replace(plain.profile, rules=rules)

    def verdict(status: int, body: bytes, *headers: tuple[str, str]) -> AttemptStatus:
        return classify(answered(status, body, headers), profile, now_ms=NOW).status

    assert verdict(200, b'{"state":"done"}', ("x-result", "no")) is DECLINED
    assert verdict(200, b'{"state":"done"}', ("x-result", "NO")) is SUCCEEDED
    assert verdict(200, b'{"state":"done"}') is SUCCEEDED
    assert verdict(201, b'{"state":1}') is SUCCEEDED
    assert verdict(200, b"{}") is REJECTED
    assert verdict(200, b'{"state":null}') is REJECTED
    assert verdict(201, b"{}") is UNKNOWN
    assert verdict(200, b'{"state":["done"]}') is UNKNOWN
    assert verdict(200, b"no json") is UNKNOWN
    assert verdict(202, b'{"state":"done"}') is UNKNOWN
    assert verdict(300, b'{"state":"done"}', ("X-Result", "no")) is UNKNOWN


def test_the_rule_that_decided_is_told(stripe: Gateway) -> None:
    """With its place in the profile; none where no rule was about the answer."""
    rules = stripe.profile.rules
    declined = deciding_rule(answered(402), rules)
    assert declined is not None
    assert (declined.verdict, declined.place) == (Verdict.DECLINED, ("results", 2))
    edge = deciding_rule(answered(408), rules)
    assert edge is not None
    assert (edge.verdict, edge.place) == (Verdict.UNKNOWN, ("results", 3))
    assert deciding_rule(answered(500), rules) is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, AttemptResult(ACCEPTED)),
        (304, AttemptResult(ACCEPTED)),
        (404, AttemptResult(REJECTED)),
        (429, AttemptResult(REJECTED, Reason.RATE_LIMITED, Repeat.YES, 3.0)),
        (500, AttemptResult(UNKNOWN, Reason.GATEWAY_ERROR, Repeat.BY_CLASS, 3.0)),
        (503, AttemptResult(UNKNOWN, Reason.GATEWAY_ERROR, Repeat.BY_CLASS, 3.0)),
    ],
)
def test_reads(status: int, expected: AttemptResult) -> None:
    """Where no money moves only the class of the status counts; nothing there is ever charged."""
    assert classify_read(answered(status, b"", (("Retry-After", "3"),)), now_ms=NOW) == expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("9" * 400, float("inf")),
        # The three forms of an HTTP-date (RFC 9110 section 5.6.7), a minute ahead.
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        # Past is now.
        ("Sun, 06 Nov 1994 08:48:37 GMT", 0.0),
        # Neither seconds nor a date.
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("+5", None),
        ("1e3", None),
        ("²", None),
        ("Sun, 31 Feb 1994 08:50:37 GMT", None),
        ("Sun, 06 Nov 1994 25:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:50:37 +99999999999999999999", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    """Seconds or a date, never negative; anything else is as if it were not there."""
    assert retry_after_seconds((("retry-after", value),), NOW) == seconds


def test_no_retry_after() -> None:
    """Most answers do not carry one."""
    assert retry_after_seconds((("Content-Type", "text/plain"),), NOW) is None


WORDS = (
    "Mon Mon, Sunday, Nov 06 6 - 0 99 1994 94 08:49:37 8:49 24:60:60 : :: GMT EST +0000 -0000 "
    "+99999999999999999999 -9999 +2400 06-Nov-94 -1 1e9 , a ( ) (x) . 08.49.37 T 000 9999"
)


@settings(max_examples=500, derandomize=True, deadline=None, database=None)
@given(
    st.one_of(
        st.lists(st.sampled_from(WORDS.split()), max_size=8).map(" ".join),
        st.text(st.characters(max_codepoint=255), max_size=30),
    )
)
def test_no_retry_after_breaks_anything(value: str) -> None:
    """Whatever a gateway writes there, it is a number of seconds or nothing."""
    seconds = retry_after_seconds((("Retry-After", value),), NOW)
    assert seconds is None or seconds >= 0.0
