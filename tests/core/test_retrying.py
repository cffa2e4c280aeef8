"""Whether a failed attempt is repeated, and when: the verdict and its reasons."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from proxy.core.policy import Backoff, RetryPolicy
from proxy.core.profile import GatewayClass
from proxy.core.reasons import Reason, Suppressed
from proxy.core.results import AttemptResult, Repeat
from proxy.core.retrying import (
    GiveUp,
    RetryAfter,
    Settled,
    Situation,
    barrier_to_ask_again,
    decide,
    delay_seconds,
    repeat_barrier,
)
from proxy.core.states import AttemptStatus, Outcome
from proxy.core.wire import Phase
from proxy.settings.values import Gateway
from tests.support.building import AT, a_session

POLICY = RetryPolicy(
    max_attempts=3,
    automatic_attempts=3,
    backoff=Backoff(initial=0.2, max=5.0, full_jitter=True),
    respect_retry_after=True,
)
LOST = AttemptResult(AttemptStatus.UNKNOWN, Reason.CONNECTION_LOST, Repeat.BY_CLASS)
REFUSED = AttemptResult(AttemptStatus.NOT_SENT, Reason.CONNECTION_REFUSED, Repeat.YES)
THROTTLED = AttemptResult(AttemptStatus.REJECTED, Reason.RATE_LIMITED, Repeat.YES)
NEVER = AttemptResult(AttemptStatus.UNKNOWN, Reason.GATEWAY_ERROR, Repeat.NO)
PAID = AttemptResult(AttemptStatus.SUCCEEDED)
REJECTED = AttemptResult(AttemptStatus.REJECTED)

UNKNOWN = Situation(
    outcome=Outcome.UNKNOWN,
    attempts=1,
    limit=3,
    cancel_requested=False,
    hold=False,
    barrier=None,
    remaining_seconds=30.0,
)
NOT_CHARGED = replace(UNKNOWN, outcome=Outcome.NOT_CHARGED)
UNSAFE = Suppressed.UNSAFE_TO_REPEAT


@pytest.mark.parametrize(
    ("result", "situation", "expected"),
    [
        # Repeated: the gateway honours the key, or nothing was executed.
        (LOST, UNKNOWN, RetryAfter(0.1, Reason.CONNECTION_LOST)),
        (REFUSED, NOT_CHARGED, RetryAfter(0.1, Reason.CONNECTION_REFUSED)),
        (THROTTLED, NOT_CHARGED, RetryAfter(0.1, Reason.RATE_LIMITED)),
        # What was provably not executed is repeated at any gateway.
        (REFUSED, replace(NOT_CHARGED, barrier=UNSAFE), RetryAfter(0.1, Reason.CONNECTION_REFUSED)),
        (THROTTLED, replace(NOT_CHARGED, barrier=UNSAFE), RetryAfter(0.1, Reason.RATE_LIMITED)),
        # Not so when an earlier send is still open.
        (REFUSED, replace(UNKNOWN, barrier=UNSAFE), GiveUp(UNSAFE)),
        (THROTTLED, replace(UNKNOWN, barrier=UNSAFE), GiveUp(UNSAFE)),
        (LOST, replace(UNKNOWN, barrier=UNSAFE), GiveUp(UNSAFE)),
        (
            LOST,
            replace(UNKNOWN, barrier=Suppressed.KEY_WINDOW_OVER),
            GiveUp(Suppressed.KEY_WINDOW_OVER),
        ),
        # A person's wish comes before everything else.
        (LOST, replace(UNKNOWN, cancel_requested=True), GiveUp(Suppressed.CANCELLED)),
        (REFUSED, replace(NOT_CHARGED, cancel_requested=True), GiveUp(Suppressed.CANCELLED)),
        (LOST, replace(UNKNOWN, hold=True), GiveUp(Suppressed.HELD)),
        (NEVER, replace(UNKNOWN, cancel_requested=True, hold=True), GiveUp(Suppressed.CANCELLED)),
        # The gateway says that it will not change.
        (NEVER, UNKNOWN, GiveUp(Suppressed.GATEWAY_SAYS_NO)),
        # Charged all the same, says the gateway by another way.
        (LOST, replace(UNKNOWN, outcome=Outcome.CHARGED), Settled()),
        # Spent.
        (LOST, replace(UNKNOWN, attempts=3), GiveUp(Suppressed.ATTEMPTS_SPENT)),
        (LOST, replace(UNKNOWN, attempts=4), GiveUp(Suppressed.ATTEMPTS_SPENT)),
        (LOST, replace(UNKNOWN, attempts=1, limit=1), GiveUp(Suppressed.ATTEMPTS_SPENT)),
        # The deadline must leave time for the delay, and for something after it.
        (LOST, replace(UNKNOWN, remaining_seconds=0.1), GiveUp(Suppressed.DEADLINE)),
        (LOST, replace(UNKNOWN, remaining_seconds=-1.0), GiveUp(Suppressed.DEADLINE)),
        (
            LOST,
            replace(UNKNOWN, remaining_seconds=0.11),
            RetryAfter(0.1, Reason.CONNECTION_LOST),
        ),
        # Settled: whatever else holds, there is nothing to repeat.
        (PAID, replace(UNKNOWN, outcome=Outcome.CHARGED), Settled()),
        (REJECTED, NOT_CHARGED, Settled()),
        (REJECTED, replace(NOT_CHARGED, cancel_requested=True), Settled()),
        # The bytes are refused, but an earlier send of them is still open.
        (REJECTED, UNKNOWN, GiveUp(Suppressed.GATEWAY_SAYS_NO)),
    ],
)
def test_decide(result: AttemptResult, situation: Situation, expected: object) -> None:
    """The verdict follows from what the gateway can have seen and what it promises."""
    assert decide(POLICY, result, situation, jitter=0.5) == expected


@pytest.mark.parametrize(
    ("attempts", "jitter", "seconds"),
    [
        (1, 0.5, 0.1),
        (2, 0.5, 0.2),
        (3, 0.5, 0.4),
        (6, 0.5, 2.5),  # 0.2 x 2^5 would be 6.4
        (50, 0.5, 2.5),
        (1, 0.0, 0.0),
        (3, 0.999, 0.7992),
    ],
)
def test_full_jitter(attempts: int, jitter: float, seconds: float) -> None:
    """Uniform below a ceiling that doubles, up to its own ceiling."""
    assert delay_seconds(POLICY, LOST, attempts, jitter) == pytest.approx(seconds)


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 0.2), (2, 0.4), (3, 0.8), (9, 5.0)])
def test_without_jitter(attempts: int, seconds: float) -> None:
    """The ceiling itself, whatever the dice say."""
    exact = dataclasses.replace(
        POLICY, backoff=dataclasses.replace(POLICY.backoff, full_jitter=False)
    )
    assert delay_seconds(exact, LOST, attempts, 0.0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("asked", "respect", "seconds"),
    [
        (None, True, 0.1),
        (2.0, True, 2.0),
        (0.05, True, 0.1),
        (0.0, True, 0.1),
        (3600.0, True, 5.0),
        (float("inf"), True, 5.0),
        (2.0, False, 0.1),
    ],
)
def test_retry_after_is_a_floor_and_capped(
    asked: float | None, *, respect: bool, seconds: float
) -> None:
    """The gateway may ask for more patience than the backoff has, but cannot park a payment."""
    policy = dataclasses.replace(POLICY, respect_retry_after=respect)
    result = replace(THROTTLED, retry_after_seconds=asked)
    assert delay_seconds(policy, result, 1, 0.5) == pytest.approx(seconds)


def test_what_the_gateway_asks_for_counts_against_the_deadline() -> None:
    """Two seconds asked for, one left: given up at once instead of after waiting."""
    result = replace(THROTTLED, retry_after_seconds=2.0)
    situation = replace(NOT_CHARGED, remaining_seconds=1.0)
    assert decide(POLICY, result, situation, 0.5) == GiveUp(Suppressed.DEADLINE)


@pytest.mark.parametrize(
    ("gateway_class", "first_send", "now", "expected"),
    [
        (GatewayClass.A_STRONG, AT, AT, None),
        (GatewayClass.A_STRONG, AT, AT + 3_599_999, None),
        (GatewayClass.A_STRONG, AT, AT + 3_600_000, Suppressed.KEY_WINDOW_OVER),
        (GatewayClass.A_STRONG, AT, AT + 86_400_000, Suppressed.KEY_WINDOW_OVER),
        (GatewayClass.A_STRONG, None, AT, None),
        # The clock was put back a little, as clocks are; or by so much that nobody knows the age.
        (GatewayClass.A_STRONG, AT, AT - 5_000, None),
        (GatewayClass.A_STRONG, AT, AT - 5_001, Suppressed.KEY_WINDOW_OVER),
        (GatewayClass.A_WEAK, AT, AT, UNSAFE),
        (GatewayClass.B_LOOKUP, AT, AT, UNSAFE),
        (GatewayClass.C_CANCEL_BY_KEY, AT, AT, UNSAFE),
        (GatewayClass.D_NONE, AT, AT, UNSAFE),
        (GatewayClass.D_NONE, None, AT, UNSAFE),
    ],
)
def test_who_may_be_sent_an_unknown_again(
    gateway_class: GatewayClass, first_send: int | None, now: int, expected: Suppressed | None
) -> None:
    """Only a gateway that honours the key whatever came before, and only within its life."""
    assert repeat_barrier(gateway_class, first_send, now, horizon_seconds=3600) is expected


@pytest.mark.parametrize(
    ("reason", "phase", "status", "allowed"),
    [
        (Reason.ATTEMPT_TIMEOUT, Phase.AWAITING_RESPONSE, None, True),
        (Reason.CONNECTION_LOST, Phase.SENDING, None, True),
        # An answer had begun, or had come: an error may have made the gateway forget the key.
        (Reason.CONNECTION_LOST, Phase.READING_RESPONSE, None, False),
        (Reason.GATEWAY_ERROR, Phase.ANSWERED, 500, False),
        # Whether one had come, nobody can say.
        (Reason.PROCESS_RESTART, Phase.AWAITING_RESPONSE, None, False),
    ],
)
def test_a_lost_answer_of_a_weak_gateway(
    plain: Gateway, reason: Reason, phase: Phase, status: int | None, *, allowed: bool
) -> None:
    """Asked for again only where nothing of it was seen, and only if the operator says so."""
    session = a_session(AttemptStatus.UNKNOWN)
    (attempt,) = session.attempts
    lost = replace(attempt, reason=reason, phase=phase, http_status=status)
    session = replace(session, attempts=(lost,))
    weak = dataclasses.replace(plain.profile, gateway_class=GatewayClass.A_WEAK)
    assert barrier_to_ask_again(weak, session, AT, "stripe") is UNSAFE
    opted = dataclasses.replace(weak, resend_lost_answers=True)
    assert (barrier_to_ask_again(opted, session, AT, "stripe") is None) is allowed
    for other in (GatewayClass.B_LOOKUP, GatewayClass.C_CANCEL_BY_KEY, GatewayClass.D_NONE):
        unlike = dataclasses.replace(opted, gateway_class=other)
        assert barrier_to_ask_again(unlike, session, AT, "stripe") is UNSAFE
    much_later = AT + 24 * 3_600_000
    assert barrier_to_ask_again(opted, session, much_later, "stripe") is not None


def test_a_key_is_known_where_it_was_sent(stripe: Gateway) -> None:
    """Whose upstream was changed meanwhile: there the same key would be a new payment."""
    session = a_session(AttemptStatus.UNKNOWN)
    assert barrier_to_ask_again(stripe.profile, session, AT, "stripe") is None
    assert barrier_to_ask_again(stripe.profile, session, AT, "https://eu.example.com") is UNSAFE
    settled = a_session(AttemptStatus.NOT_SENT)
    assert barrier_to_ask_again(stripe.profile, settled, AT, "https://eu.example.com") is None
