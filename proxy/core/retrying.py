"""May a failed attempt be sent again, and when: the one verdict that the attempt loop reads.

The rule is a function of what the gateway can have seen and of what it promises for a repeated key
(money rules, section 3), never of the status code alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from msgspec import Struct

from proxy.core.events import VoidAsked
from proxy.core.keys import Carrier
from proxy.core.policy import Condition, RetryPolicy, Statuses
from proxy.core.profile import GatewayClass, GatewayProfile, Rule, RulesByStatus
from proxy.core.profile import Verdict as Reading
from proxy.core.reasons import Reason, Suppressed
from proxy.core.results import AttemptResult, Repeat
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome
from proxy.core.wire import Phase

# A clock that is kept in step is put back by less.
_CLOCK_SLACK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Settled:
    """The last answer stands; there is nothing to retry."""


class RetryAfter(Struct, frozen=True, gc=False):
    """Send the same bytes under the same key again, after `delay_seconds`."""

    delay_seconds: float
    because: Reason


class GiveUp(Struct, frozen=True, gc=False):
    """Stop sending; the session keeps whatever outcome is proved."""

    why: Suppressed


Verdict = Settled | RetryAfter | GiveUp


class Situation(Struct, frozen=True, gc=False):
    """What `decide` needs to know of a session, right after an attempt ended."""

    outcome: Outcome
    attempts: int
    limit: int  # how many sends are allowed in this walk
    cancel_requested: bool
    hold: bool
    barrier: Suppressed | None  # why an unknown outcome may not be repeated (`repeat_barrier`)
    remaining_seconds: float  # of the total deadline
    http_status: int = 0  # of the answer, if there was one


def decide(
    policy: RetryPolicy, result: AttemptResult, situation: Situation, jitter: float
) -> Verdict:
    """The verdict after an attempt. `jitter` is a random number in [0, 1)."""
    if result.reason is None or situation.outcome is Outcome.CHARGED:
        # A definite answer, or a charge that was heard of by another way meanwhile. If an answer
        # speaks only for this send (REJECTED) while an earlier one is open, there is still nothing
        # to gain from a repeat: the bytes are refused.
        unsettled = situation.outcome is Outcome.UNKNOWN
        return GiveUp(Suppressed.GATEWAY_SAYS_NO) if unsettled else Settled()
    suppressed = _suppressed(result, situation)
    if suppressed is None and not wanted(policy, result, situation.http_status):
        suppressed = Suppressed.NOT_IN_POLICY
    if suppressed is not None:
        return GiveUp(suppressed)
    delay = delay_seconds(policy, result, situation.attempts, jitter)
    if delay >= situation.remaining_seconds:
        return GiveUp(Suppressed.DEADLINE)
    return RetryAfter(delay, result.reason)


def _suppressed(result: AttemptResult, situation: Situation) -> Suppressed | None:
    if situation.cancel_requested:
        return Suppressed.CANCELLED
    if situation.hold:
        return Suppressed.HELD
    if result.repeat is Repeat.NO:
        return Suppressed.GATEWAY_SAYS_NO
    if situation.outcome is Outcome.UNKNOWN and situation.barrier is not None:
        return situation.barrier
    if situation.attempts >= situation.limit:
        return Suppressed.ATTEMPTS_SPENT
    return None


# --- after what (`retry.on`) ----------------------------------------------------------------------

_NO_CONNECTION = frozenset(
    {
        Reason.DNS_ERROR,
        Reason.CONNECTION_REFUSED,
        Reason.CONNECT_FAILED,
        Reason.CONNECT_TIMEOUT,
        Reason.TLS_ERROR,
    }
)
_BY_REASON: Mapping[Reason, Condition] = {
    Reason.CONNECTION_LOST: Condition.RESET_BEFORE_ANSWER,
    # Cut off by our own end.
    Reason.SHUTDOWN: Condition.RESET_BEFORE_ANSWER,
    Reason.PROCESS_RESTART: Condition.RESET_BEFORE_ANSWER,
    Reason.ATTEMPT_TIMEOUT: Condition.ATTEMPT_TIMEOUT,
    Reason.ANSWER_TRUNCATED: Condition.ANSWER_BROKEN,
    Reason.ANSWER_MALFORMED: Condition.ANSWER_BROKEN,
    Reason.ANSWER_TOO_LARGE: Condition.ANSWER_BROKEN,
    Reason.INTERNAL_ERROR: Condition.ANSWER_BROKEN,  # we could not read it
    Reason.IN_PROGRESS: Condition.IN_PROGRESS,
    Reason.RATE_LIMITED: Condition.RATE_LIMITED,
}
# Of a whole answer; the status of one that broke off says nothing.
_ANSWERED = frozenset(
    {
        Reason.GATEWAY_ERROR,
        Reason.RATE_LIMITED,
        Reason.IN_PROGRESS,
        Reason.UNCLEAR_ANSWER,
        Reason.NOT_EXECUTED,
    }
)


def wanted(policy: RetryPolicy, result: AttemptResult, http_status: int) -> bool:
    """Whether the policy has Holdfast repeat by itself what came to this."""
    if policy.on is None:
        return True
    names = set(_names(result))
    answered = result.reason in _ANSWERED
    return any(
        condition in names
        if isinstance(condition, Condition)
        else answered and any(low <= http_status <= high for low, high in condition)
        for condition in policy.on
    )


def wanted_again(policy: RetryPolicy, session: Session) -> bool:
    """The same of all that is in doubt, as far as it is on record."""
    doubtful = (a for a in session.attempts if a.status is AttemptStatus.UNKNOWN)
    return all(
        wanted(policy, AttemptResult(a.status, Reason(a.reason)), a.http_status or 0)
        for a in doubtful
        if a.reason is not None
    )


def _names(result: AttemptResult) -> Iterator[Condition]:
    if result.status is AttemptStatus.NOT_SENT:
        yield Condition.NOT_SENT
        if result.reason in _NO_CONNECTION:
            yield Condition.CONNECT
    elif result.reason is not None and result.reason in _BY_REASON:
        yield _BY_REASON[result.reason]
    if result.status is AttemptStatus.REJECTED:
        yield Condition.NOT_EXECUTED
    if result.asked_for:
        yield Condition.GATEWAY_SAYS_RETRY


_IN_DOUBT = frozenset(
    {
        Condition.RESET_BEFORE_ANSWER,
        Condition.ATTEMPT_TIMEOUT,
        Condition.ANSWER_BROKEN,
        Condition.IN_PROGRESS,
        Condition.GATEWAY_SAYS_RETRY,
    }
)


def in_doubt(condition: Condition | Statuses, rules: RulesByStatus) -> str | None:
    """What of a condition leaves open whether the customer was charged, by the rules for answers:
    the condition itself, or the first of its statuses.
    """
    if condition in _IN_DOUBT:
        return str(condition)
    if condition is Condition.RATE_LIMITED:
        condition = ((HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.TOO_MANY_REQUESTS),)
    if isinstance(condition, Condition):
        return None
    statuses = (status for low, high in condition for status in range(low, high + 1))
    return next((f"a {status}" for status in statuses if _may_be_unknown(rules, status)), None)


def _may_be_unknown(rules: RulesByStatus, status: int) -> bool:
    found = rules.by_status.get(status)
    for rule in () if found is None else found.rules:
        if rule.verdict in {Reading.UNKNOWN, Reading.IN_PROGRESS}:
            return True
        plain = Rule(rule.statuses, (), (), rule.verdict, place=rule.place)
        if rule == plain:  # it has no other condition, of whatever kind
            return False
    return True


def dares(policy: RetryPolicy, session: Session, epoch: int) -> bool:
    """Whether the operator has taken the risk of a second charge for what is in doubt: all of it
    sent since this process last began (`epoch`), so never what was taken over, and nobody has had
    it voided, which could undo the repeat unheard.
    """
    if not policy.may_charge_twice:
        return False
    doubtful = (a for a in session.attempts if a.status is AttemptStatus.UNKNOWN)
    voided = any(step.event == VoidAsked.__name__ for step in session.timeline)
    return not voided and all(attempt.epoch == epoch for attempt in doubtful)


# --- when -----------------------------------------------------------------------------------------


def delay_seconds(
    policy: RetryPolicy, result: AttemptResult, attempts: int, jitter: float
) -> float:
    """Full-jitter exponential backoff, or what the gateway asked for if that is longer.

    Full jitter (uniform in [0, cap)) keeps many sidecars from returning in step; `Retry-After` is a
    floor, not a replacement, and never more than `backoff.max`: a gateway cannot park a payment.
    """
    ceiling = min(policy.backoff.max, policy.backoff.initial * 2.0 ** (attempts - 1))
    delay = ceiling * jitter if policy.backoff.full_jitter else ceiling
    if policy.respect_retry_after and result.retry_after_seconds is not None:
        asked = min(result.retry_after_seconds, policy.backoff.max)
        delay = max(delay, asked)
    return delay


# --- what is in the way ---------------------------------------------------------------------------


def promised(profile: GatewayProfile, session: Session) -> GatewayClass:
    """What the gateway promises for this session: nothing that rests on a key holds without one."""
    keyless = session.gateway_key is None or profile.key.carrier is Carrier.NOWHERE
    keyless = keyless or key_moved(profile, session)
    rests_on_a_key = profile.gateway_class is not GatewayClass.B_LOOKUP
    return GatewayClass.D_NONE if keyless and rests_on_a_key else profile.gateway_class


def key_moved(profile: GatewayProfile, session: Session) -> bool:
    """Whether its key would now go elsewhere than it went (a profile was mended meanwhile): to the
    gateway one that it never saw.
    """
    return session.key_at not in {None, profile.key.where}


def repeat_barrier(
    gateway_class: GatewayClass, first_send_ms: int | None, now_ms: int, horizon_seconds: float
) -> Suppressed | None:
    """Why an unknown outcome may not be answered by the same key and bytes again, or None if it
    may.

    Only a gateway that honours the key whatever came before, and only well inside the life of the
    key: after it, the same key is a new charge.
    """
    if gateway_class is not GatewayClass.A_STRONG:
        return Suppressed.UNSAFE_TO_REPEAT
    if first_send_ms is None:
        return None
    age = (now_ms - first_send_ms) / 1000
    # A first send in the future: the clock was put back, and nobody knows how old the key is.
    if age >= horizon_seconds or age < -_CLOCK_SLACK_SECONDS:
        return Suppressed.KEY_WINDOW_OVER
    return None


# Nothing of an answer came back, as far as whoever waited for it can say. After a crash nobody can.
_UNHEARD = frozenset({Reason.ATTEMPT_TIMEOUT, Reason.CONNECTION_LOST, Reason.SHUTDOWN})
_UNANSWERED = frozenset({Phase.SENDING, Phase.AWAITING_RESPONSE})


def barrier_to_ask_again(
    profile: GatewayProfile, session: Session, now_ms: int, endpoint: str
) -> Suppressed | None:
    """The barrier for whoever brings an unknown payment again (a client, a person), after what a
    look-up could do. `endpoint` is where it would go now: a key is known where it was sent.

    It also lets a lost answer be asked for again where the key is forgotten after an error, if the
    operator says so: an error whose answer was lost would then be executed a second time.
    """
    if session.in_doubt_at_another(endpoint):
        return Suppressed.UNSAFE_TO_REPEAT
    promise = promised(profile, session)
    if promise is GatewayClass.A_WEAK and profile.resend_lost_answers and _unheard(session):
        promise = GatewayClass.A_STRONG
    return repeat_barrier(promise, session.first_send_at, now_ms, profile.resend_horizon)


def _unheard(session: Session) -> bool:
    """Whether none of the sends in doubt was answered in any way."""
    doubtful = [a for a in session.attempts if a.status is AttemptStatus.UNKNOWN]
    return all(
        a.reason in _UNHEARD and a.phase in _UNANSWERED and a.http_status is None for a in doubtful
    )
