"""The walk of a payment, as transcripts: what is durable before what leaves."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.reasons import Reason
from proxy.core.states import Outcome, State
from tests.support.lab import DECLINED, SUCCEEDED, Lab, header_of, pay

pytestmark = pytest.mark.looptime


async def test_intent_before_bytes_outcome_before_answer(lab: Lab) -> None:
    """A payment that goes well: two durable writes, one on each side of the wire."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(key="k-1"))

    assert lab.transcript == [
        "store  AttemptStarted INITIATED/unknown",
        "wire   POST /v1/payment_intents",
        "store  AttemptEnded COMPLETED/charged",
        "answer 200",
    ]
    assert answer.body == SUCCEEDED
    assert header_of(answer, "X-Payment-Attempts") == "1"
    assert header_of(answer, "Proxy-Status") == "holdfast; received-status=200"


async def test_lost_answer_is_repeated_under_the_same_key(lab: Lab) -> None:
    """A gateway that honours keys gets the same bytes and key again; the loss is on record."""
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    answer = await lab.merchant_sends(pay())

    assert lab.transcript == [
        "store  AttemptStarted INITIATED/unknown",
        "wire   POST /v1/payment_intents",
        "wire   connection_lost",
        "store  AttemptEnded INTERRUPTED/unknown",
        "store  RetryScheduled INTERRUPTED/unknown",
        "store  Resumed RESUMED/unknown",
        "store  AttemptStarted RESUMED/unknown",
        "wire   POST /v1/payment_intents",
        "store  AttemptEnded COMPLETED/charged",
        "answer 200",
    ]
    first, second = lab.gateway.seen
    assert first.headers == second.headers
    assert first.body == second.body
    assert any(name == "Idempotency-Key" for name, _ in first.headers)
    session = await lab.session(answer)
    assert [stop.reason for stop in session.interruptions] == [Reason.CONNECTION_LOST]
    assert session.recovered


async def test_lost_answer_is_not_sent_again_without_a_promise(lab: Lab) -> None:
    """A gateway of which nothing is known gets a request once, whatever happens to the answer."""
    lab.gateway.will(lab.gateway.loses_answer())
    answer = await lab.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")

    assert lab.transcript == [
        "store  AttemptStarted INITIATED/unknown",
        "wire   POST /pay",
        "wire   connection_lost",
        "store  AttemptEnded INTERRUPTED/unknown",
        "answer 504 outcome-unknown",
    ]
    session = await lab.session(answer)
    assert session.listed
    assert session.outcome is Outcome.UNKNOWN


async def test_a_connection_that_never_stood_is_retried_everywhere(lab: Lab) -> None:
    """Provably unsent is retried at any gateway, and no intent is written for it."""
    lab.gateway.will(
        lab.gateway.refuses_connection(),
        lab.gateway.refuses_connection(Reason.CONNECT_TIMEOUT),
        lab.gateway.answers(201, SUCCEEDED),
    )
    answer = await lab.merchant_sends(pay(target="/pay"), gateway="plain")

    assert answer.status == 201
    assert len(lab.gateway.seen) == 1
    session = await lab.session(answer)
    assert [a.sent for a in session.attempts] == [False, False, True]


async def test_exhausted_without_being_sent(lab: Lab) -> None:
    """Three refused connections: nothing charged, the order free, and the answer says so."""
    lab.gateway.will(*[lab.gateway.refuses_connection()] * 3)
    answer = await lab.merchant_sends(pay(key="k-1"))

    assert lab.transcript[-1] == "answer 502 retries-exhausted"
    session = await lab.session(answer)
    assert (session.state, session.outcome) == (State.FAILED_MAX_RETRIES, Outcome.NOT_CHARGED)
    assert b'"anythingSent":false' in answer.body


async def test_the_last_real_answer_is_what_the_client_gets(lab: Lab) -> None:
    """After exhaustion the gateway's own 503 goes back, not one of ours."""
    lab.gateway.will(*[lab.gateway.answers(503, b'{"error":{"message":"busy"}}')] * 3)
    answer = await lab.merchant_sends(pay(key="k-1"))

    assert (answer.status, answer.body) == (503, b'{"error":{"message":"busy"}}')
    assert header_of(answer, "Stripe-Should-Retry") == "false"
    assert header_of(answer, "Proxy-Status").endswith("charge=unknown")
    assert (await lab.session(answer)).listed


async def test_an_unsent_attempt_after_an_answer_keeps_that_answer(lab: Lab) -> None:
    """503, then two refused connections: the 503 is still the last word of the gateway."""
    lab.gateway.will(
        lab.gateway.answers(503, b"busy"),
        lab.gateway.refuses_connection(),
        lab.gateway.refuses_connection(),
    )
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert (answer.status, answer.body) == (503, b"busy")


async def test_a_lost_answer_after_an_answer_is_unknown(lab: Lab) -> None:
    """503, then lost answers: the old 503 must not hide that a later send may have charged."""
    lab.gateway.will(lab.gateway.answers(503, b"busy"), *[lab.gateway.loses_answer()] * 2)
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 504 outcome-unknown"


async def test_a_decline_is_final(lab: Lab) -> None:
    """The gateway's no is passed on as it is, not retried, and frees the order."""
    lab.gateway.will(lab.gateway.answers(402, DECLINED))
    answer = await lab.merchant_sends(pay(key="k-1", order="o-1"))

    assert (answer.status, answer.body) == (402, DECLINED)
    session = await lab.session(answer)
    assert (session.state, session.outcome) == (State.DECLINED, Outcome.NOT_CHARGED)
    assert not session.locks_order


async def test_a_throttled_repeat_leaves_unknown_unknown(lab: Lab) -> None:
    """429 to a repeat comes from before the key is looked up: it says nothing of the first send."""
    lab.gateway.will(lab.gateway.loses_answer(), *[lab.gateway.answers(429, b"slow down")] * 2)
    answer = await lab.merchant_sends(pay(key="k-1"))
    session = await lab.session(answer)
    assert session.outcome is Outcome.UNKNOWN
    assert session.state is State.INTERRUPTED


async def test_a_validation_error_to_a_repeat_leaves_unknown_unknown(lab: Lab) -> None:
    """400 to a repeat proves nothing of the send before it, and is not what the backend hears."""
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(400, b'{"error":{}}'))
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 504 outcome-unknown"
    assert (await lab.session(answer)).outcome is Outcome.UNKNOWN


async def test_a_decline_of_a_repeat_settles_the_first_send_too(lab: Lab) -> None:
    """A decline speaks for the key: both sends are settled by it."""
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(402, DECLINED))
    answer = await lab.merchant_sends(pay(key="k-1"))
    session = await lab.session(answer)
    assert (session.state, session.outcome) == (State.DECLINED, Outcome.NOT_CHARGED)


async def test_the_total_covers_backoff_and_is_never_passed(lab: Lab) -> None:
    """Three attempts of ten seconds do not fit thirty with backoff: the third gets what is left."""
    lab.gateway.will(*[lab.gateway.hangs()] * 3)
    begun = lab.clock.monotonic()
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.clock.monotonic() - begun <= 30.0
    assert lab.gateway.sends[-1].attempt_timeout < 10.0


async def test_retry_after_is_a_floor_and_capped(lab: Lab) -> None:
    """`Retry-After: 2` waits two seconds; an hour is capped at the policy's maximum."""
    lab.gateway.will(
        lab.gateway.answers(503, b"", (("Retry-After", "2"),)),
        lab.gateway.answers(503, b"", (("Retry-After", "3600"),)),
        lab.gateway.answers(200, SUCCEEDED),
    )
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert [retry.delay_ms for retry in (await lab.session(answer)).retries] == [2000, 5000]


async def test_a_client_that_hangs_up_changes_nothing(lab: Lab) -> None:
    """The backend is gone; the charge runs on, and its answer waits for the repeat."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    request.cancel()
    await asyncio.sleep(5)

    answer = await lab.merchant_sends(pay(key="k-1"))
    assert (answer.status, answer.body) == (200, SUCCEEDED)
    assert len(lab.gateway.seen) == 1
    assert header_of(answer, "Idempotent-Replayed") == "true"
