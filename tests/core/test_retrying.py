"""Whether a failed attempt is repeated, and when: the verdict and its reasons."""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from proxy.core.events import VoidAsked
from proxy.core.policy import Backoff, Condition, RetryPolicy, Statuses
from proxy.core.profile import GatewayClass, rules_by_status
from proxy.core.reasons import Reason, Suppressed
from proxy.core.results import AttemptResult, Repeat
from proxy.core.retrying import (
    GiveUp,
    RetryAfter,
    Settled,
    Situation,
    barrier_to_ask_again,
    dares,
    decide,
    delay_seconds,
    in_doubt,
    repeat_barrier,
    wanted,
    wanted_again,
)
from proxy.core.session import apply
from proxy.core.states import AttemptStatus, Outcome, State
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


# --- after what (`retry.on`) ----------------------------------------------------------------------

EVERYTHING: list[Condition | Statuses] = [*Condition, ((100, 599),)]
# Nothing that `decide` hears of: forbidden before the send, its stream used up, or a person's.
_NEVER_REPEATED = {
    Reason.STORE_UNAVAILABLE,
    Reason.STORE_REGRESSED,
    Reason.BREAKER_OPEN,
    Reason.QUEUE_FULL,
    Reason.QUEUE_TIMEOUT,
    Reason.NOT_ALLOWED,
    Reason.REQUESTED,
    Reason.CLIENT_ABORTED,
}
_NO_CONNECTION = [
    Reason.DNS_ERROR,
    Reason.CONNECTION_REFUSED,
    Reason.CONNECT_FAILED,
    Reason.CONNECT_TIMEOUT,
    Reason.TLS_ERROR,
]
NAMED = [
    *((AttemptStatus.NOT_SENT, reason, 0, {"not_sent", "connect"}) for reason in _NO_CONNECTION),
    (AttemptStatus.NOT_SENT, Reason.INTERNAL_ERROR, 0, {"not_sent"}),
    (AttemptStatus.UNKNOWN, Reason.CONNECTION_LOST, 0, {"reset_before_answer"}),
    (AttemptStatus.UNKNOWN, Reason.SHUTDOWN, 0, {"reset_before_answer"}),
    (AttemptStatus.UNKNOWN, Reason.PROCESS_RESTART, 0, {"reset_before_answer"}),
    (AttemptStatus.UNKNOWN, Reason.ATTEMPT_TIMEOUT, 0, {"attempt_timeout"}),
    # The status of an answer that broke off says nothing.
    (AttemptStatus.UNKNOWN, Reason.ANSWER_TRUNCATED, 200, {"answer_broken"}),
    (AttemptStatus.UNKNOWN, Reason.ANSWER_MALFORMED, 0, {"answer_broken"}),
    (AttemptStatus.UNKNOWN, Reason.ANSWER_TOO_LARGE, 500, {"answer_broken"}),
    (AttemptStatus.UNKNOWN, Reason.INTERNAL_ERROR, 0, {"answer_broken"}),
    (AttemptStatus.UNKNOWN, Reason.IN_PROGRESS, 409, {"in_progress", "100-599"}),
    (AttemptStatus.UNKNOWN, Reason.RATE_LIMITED, 429, {"rate_limited", "100-599"}),
    (AttemptStatus.REJECTED, Reason.RATE_LIMITED, 429, {"rate_limited", "not_executed", "100-599"}),
    (AttemptStatus.REJECTED, Reason.NOT_EXECUTED, 400, {"not_executed", "100-599"}),
    (AttemptStatus.REJECTED, Reason.GATEWAY_ERROR, 503, {"not_executed", "100-599"}),
    (AttemptStatus.UNKNOWN, Reason.GATEWAY_ERROR, 503, {"100-599"}),
    (AttemptStatus.UNKNOWN, Reason.UNCLEAR_ANSWER, 302, {"100-599"}),
]  # fmt: skip


def policy_on(*on: Condition | Statuses) -> RetryPolicy:
    """The policy of these tests, with conditions."""
    return dataclasses.replace(POLICY, on=on)


@pytest.mark.parametrize(("known", "reason", "status", "names"), NAMED)
def test_each_end_has_its_names(
    known: AttemptStatus, reason: Reason, status: int, names: set[str]
) -> None:
    """A condition alone has it repeated exactly where it is meant; all of them always do."""
    result = AttemptResult(known, reason)
    spelled = {
        str(one) if isinstance(one, Condition) else "100-599"
        for one in EVERYTHING
        if wanted(policy_on(one), result, status)
    }
    assert spelled == names
    assert wanted(POLICY, result, status)


def test_no_reason_is_forgotten() -> None:
    """Whatever can lead to a repeat is in the table above, or comes before or beside a send."""
    assert {reason for _, reason, _, _ in NAMED} | _NEVER_REPEATED == set(Reason)


@pytest.mark.parametrize("barrier", [None, UNSAFE])
@pytest.mark.parametrize("outcome", [Outcome.UNKNOWN, Outcome.NOT_CHARGED])
def test_all_conditions_are_the_default(outcome: Outcome, barrier: Suppressed | None) -> None:
    """Who names everything has what holds where nothing is written, verdict for verdict."""
    for known, reason, status, _ in NAMED:
        for repeat in Repeat:
            result = AttemptResult(known, reason, repeat)
            situation = replace(UNKNOWN, outcome=outcome, barrier=barrier, http_status=status)
            expected = decide(POLICY, result, situation, 0.5)
            assert decide(policy_on(*EVERYTHING), result, situation, 0.5) == expected


def test_the_gateways_own_word_is_a_condition() -> None:
    """Its retry hint, whatever the answer was."""
    on = policy_on(Condition.GATEWAY_SAYS_RETRY)
    for known in (AttemptStatus.UNKNOWN, AttemptStatus.REJECTED):
        answered = AttemptResult(known, Reason.GATEWAY_ERROR, Repeat.YES)
        assert not wanted(on, answered, 503)
        assert wanted(on, replace(answered, asked_for=True), 503)


def test_statuses_are_named_by_ranges() -> None:
    """Both ends belong to it, and a list of them is any of them."""
    on = policy_on(((408, 408), (502, 504)))
    busy = AttemptResult(AttemptStatus.UNKNOWN, Reason.GATEWAY_ERROR)
    asked = (407, 408, 409, 501, 502, 504, 505)
    assert [status for status in asked if wanted(on, busy, status)] == [408, 502, 504]


def test_what_is_not_named_is_not_repeated() -> None:
    """It says so; a person's wish, the gateway's no and a barrier are said before it."""
    on = policy_on(Condition.NOT_SENT)
    not_in_policy = GiveUp(Suppressed.NOT_IN_POLICY)
    assert decide(on, LOST, UNKNOWN, 0.5) == not_in_policy
    assert decide(on, THROTTLED, NOT_CHARGED, 0.5) == not_in_policy
    assert decide(on, REFUSED, NOT_CHARGED, 0.5) == RetryAfter(0.1, Reason.CONNECTION_REFUSED)
    assert decide(on, LOST, replace(UNKNOWN, hold=True), 0.5) == GiveUp(Suppressed.HELD)
    assert decide(on, LOST, replace(UNKNOWN, barrier=UNSAFE), 0.5) == GiveUp(UNSAFE)
    assert decide(on, NEVER, UNKNOWN, 0.5) == GiveUp(Suppressed.GATEWAY_SAYS_NO)
    assert decide(on, PAID, replace(UNKNOWN, outcome=Outcome.CHARGED), 0.5) == Settled()


def test_a_condition_alone_lifts_no_barrier() -> None:
    """To name what may have charged has it repeated only where the gateway honours its keys."""
    for condition in EVERYTHING:
        situation = replace(UNKNOWN, barrier=UNSAFE, http_status=503)
        assert decide(policy_on(condition), LOST, situation, 0.5) == GiveUp(UNSAFE)


def test_what_is_on_record_is_wanted_again() -> None:
    """All that is in doubt must be named; what is closed need not."""
    session = a_session(AttemptStatus.UNKNOWN, AttemptStatus.NOT_SENT, AttemptStatus.UNKNOWN)
    first, refused, last = session.attempts
    first = replace(first, reason=Reason.ATTEMPT_TIMEOUT)
    last = replace(last, reason=Reason.GATEWAY_ERROR, http_status=503)
    session = replace(session, attempts=(first, refused, last))
    assert wanted_again(POLICY, session)
    assert wanted_again(policy_on(Condition.ATTEMPT_TIMEOUT, ((503, 503),)), session)
    assert not wanted_again(policy_on(Condition.ATTEMPT_TIMEOUT), session)
    assert not wanted_again(policy_on(((503, 503),)), session)


@pytest.mark.parametrize(
    ("condition", "of_plain", "of_stripe"),
    [
        (Condition.NOT_SENT, None, None),
        (Condition.CONNECT, None, None),
        (Condition.NOT_EXECUTED, None, None),
        (Condition.RATE_LIMITED, None, None),  # both profiles say that a 429 executed nothing
        (Condition.ATTEMPT_TIMEOUT, "attempt_timeout", "attempt_timeout"),
        (Condition.RESET_BEFORE_ANSWER, "reset_before_answer", "reset_before_answer"),
        (Condition.ANSWER_BROKEN, "answer_broken", "answer_broken"),
        (Condition.IN_PROGRESS, "in_progress", "in_progress"),
        (Condition.GATEWAY_SAYS_RETRY, "gateway_says_retry", "gateway_says_retry"),
        (((429, 429), (402, 402)), None, None),
        (((409, 409),), "a 409", "a 409"),
        (((400, 499),), "a 408", "a 408"),
        (((429, 429), (500, 599)), "a 500", "a 500"),
        (((302, 302),), "a 302", "a 302"),  # no rule names it
        (((200, 200),), None, "a 200"),  # of Stripe's, one without an id says nothing
    ],
)
def test_what_leaves_it_open_whether_it_was_charged(
    plain: Gateway,
    stripe: Gateway,
    condition: Condition | Statuses,
    of_plain: str | None,
    of_stripe: str | None,
) -> None:
    """By the profile's own rules: a status is in doubt unless a rule without more settles it."""
    assert in_doubt(condition, plain.profile.rules) == of_plain
    assert in_doubt(condition, stripe.profile.rules) == of_stripe


def test_a_429_that_no_rule_settles_is_in_doubt() -> None:
    """Behind some edges a 429 may come from behind the gateway's own door."""
    assert in_doubt(Condition.RATE_LIMITED, rules_by_status([])) == "a 429"


@pytest.mark.parametrize(
    ("risk", "epochs", "taken"),
    [(True, (7, 7), True), (True, (6, 7), False), (True, (), True), (False, (7, 7), False)],
)
def test_who_dares(*, risk: bool, epochs: tuple[int, ...], taken: bool) -> None:
    """Who was told to, for what this process sent itself; never for another's, or its former."""
    policy = dataclasses.replace(policy_on(Condition.ATTEMPT_TIMEOUT), may_charge_twice=risk)
    session = a_session(*[AttemptStatus.UNKNOWN] * len(epochs))
    attempts = (replace(a, epoch=e) for a, e in zip(session.attempts, epochs, strict=True))
    assert dares(policy, replace(session, attempts=tuple(attempts)), 7) is taken


def test_nobody_dares_once_a_void_was_asked_for() -> None:
    """It could come after the repeat, and undo what the backend has heard is paid."""
    policy = dataclasses.replace(policy_on(Condition.ATTEMPT_TIMEOUT), may_charge_twice=True)
    session = a_session(AttemptStatus.UNKNOWN, state=State.INTERRUPTED)
    assert dares(policy, session, 0)
    assert not dares(policy, apply(session, VoidAsked(AT)), 0)
