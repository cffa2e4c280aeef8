"""The walk of a payment, as transcripts: what is durable before what leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.core.wire import Answer, Phase, WireFacts
from proxy.ports import Send
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


# --- callers that say how long they wait ----------------------------------------------------------

WAITS = ("x-envoy-expected-rq-timeout-ms", "1050")  # one second, and the answer's way back


@pytest.mark.parametrize("says", [WAITS, ("grpc-timeout", "1050m"), ("Prefer", "a=b, wait=1")])
async def test_a_caller_that_waits_no_longer_is_told_what_is_known(
    lab: Lab, says: tuple[str, str]
) -> None:
    """Its time is up: an answer of our own; the charge runs on, is recorded, and is replayed."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(key="k-1", headers=(says,)))
    assert lab.clock.monotonic() == pytest.approx(1, abs=0.06)
    assert lab.transcript == [
        "store  AttemptStarted INITIATED/unknown",
        "wire   POST /v1/payment_intents",
        "answer 504 wait-over",
    ]
    assert told(answer) == {
        "sessionId": (await lab.only_session()).id,
        "state": "INITIATED",
        "outcome": "unknown",
        "attempts": 1,
        "anythingSent": True,
        "safeToRepeat": True,
        "retryAfterMs": 1000,
    }
    assert header_of(answer, "Retry-After") == "1"

    repeat = await lab.merchant_sends(pay(key="k-1"))
    assert lab.clock.monotonic() == pytest.approx(3)
    assert (repeat.status, repeat.body) == (200, SUCCEEDED)
    assert header_of(repeat, "Idempotent-Replayed") == "true"
    assert (await lab.session(answer)).state is State.COMPLETED
    assert len(lab.gateway.seen) == 1


async def test_a_deadline_handed_on_as_a_time_out_charges_twice(lab: Lab) -> None:
    """The negative control: who takes its time being up for a failure pays anew, and twice."""
    lab.gateway.will(*[lab.gateway.answers_late(3, 200, SUCCEEDED)] * 2)
    await lab.merchant_sends(pay(key="k-1", headers=(WAITS,)))
    await lab.merchant_sends(pay(key="k-2"))
    assert len(lab.gateway.seen) == 2


async def test_the_walk_goes_on_without_its_caller(lab: Lab) -> None:
    """Attempts and backoff are as if the caller were there."""
    lab.gateway.will(
        lab.gateway.answers_late(2, 503),
        lab.gateway.loses_answer(),
        lab.gateway.answers(200, SUCCEEDED),
    )
    answer = await lab.merchant_sends(pay(key="k-1", headers=(WAITS,)))
    await asyncio.sleep(10)
    session = await lab.session(answer)
    assert (session.state, session.attempt_count) == (State.COMPLETED, 3)
    assert lab.walks.by_key == {}


async def test_a_repeat_may_say_how_long_it_waits_too(lab: Lab) -> None:
    """Three calls of a second each for a charge of two and a half: the third has the answer."""
    lab.gateway.will(lab.gateway.answers_late(2.5, 200, SUCCEEDED))
    answers = [await lab.merchant_sends(pay(key="k-1", headers=(WAITS,))) for _ in range(3)]
    assert [answer.status for answer in answers] == [504, 504, 200]
    assert len({header_of(answer, "X-Payment-Session-Id") for answer in answers}) == 1
    assert len(lab.gateway.seen) == 1


async def test_a_wait_is_only_made_shorter(lab: Lab) -> None:
    """A caller that would wait an hour gets the answer that one gets that does not say."""
    lab.gateway.will(*[lab.gateway.hangs()] * 3)
    headers = (("grpc-timeout", "1H"),)
    await lab.merchant_sends(pay(key="k-1", headers=headers))
    assert lab.clock.monotonic() == pytest.approx(30)
    assert lab.transcript[-1] == "answer 504 outcome-unknown"


async def test_a_duplicate_waits_no_longer_than_duplicates_do(lab: Lab) -> None:
    """A wait between `duplicate_wait` and the total: 409 after five seconds, as without it."""
    lab.gateway.will(lab.gateway.answers_late(9, 200, SUCCEEDED))
    first = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    await lab.merchant_sends(pay(key="k-1", headers=(("Prefer", "wait=20"),)))
    assert lab.clock.monotonic() == pytest.approx(6)
    assert lab.transcript[-1] == "answer 409 request-in-progress"
    await first


@pytest.mark.parametrize("says", ["0", "50"])
async def test_no_payment_is_begun_that_nobody_can_hear_of(lab: Lab, says: str) -> None:
    """No time is left: no session, no send, and the same request is welcome with more time."""
    headers = (("x-envoy-expected-rq-timeout-ms", says),)
    answer = await lab.merchant_sends(pay(key="k-1", headers=headers))
    assert lab.transcript == ["answer 504 wait-over"]
    assert told(answer) == {"anythingSent": False, "safeToRepeat": True}

    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    assert (await lab.merchant_sends(pay(key="k-1"))).status == 200


async def test_what_is_no_deadline_is_not_refused(lab: Lab) -> None:
    """Garbage in a hint changes nothing."""
    lab.gateway.will(lab.gateway.answers_late(9, 200, SUCCEEDED))
    headers = (("x-envoy-expected-rq-timeout-ms", "-1"), ("Prefer", "wait=now"))
    assert (await lab.merchant_sends(pay(key="k-1", headers=headers))).status == 200


async def test_a_payment_that_waits_for_a_place_is_not_told_as_unsent(lab: Lab) -> None:
    """Its caller goes while it is in backoff: it may be sent before the answer is read."""
    lab.gateway.will(lab.gateway.refuses_connection(), lab.gateway.answers_late(1, 200, SUCCEEDED))
    headers = (("x-envoy-expected-rq-timeout-ms", "100"),)
    answer = await lab.merchant_sends(pay(key="k-1", headers=headers))
    assert (await lab.session(answer)).outcome is Outcome.NOT_CHARGED
    assert told(answer)["outcome"] == "unknown"
    assert told(answer)["anythingSent"] is True
    assert len(lab.gateway.seen) == 0
    await asyncio.sleep(2)
    assert (await lab.session(answer)).outcome is Outcome.CHARGED


async def test_a_request_without_a_name_is_told_the_session_to_name(lab: Lab) -> None:
    """Neither key nor order: only the session's id makes its repeat the same payment."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(headers=(WAITS,)))
    assert told(answer)["safeToRepeat"] is False
    assert header_of(answer, "Stripe-Should-Retry") == "false"
    repeat = await lab.merchant_sends(pay(session=header_of(answer, "X-Payment-Session-Id")))
    assert (repeat.status, repeat.body) == (200, SUCCEEDED)
    assert len(lab.gateway.seen) == 1


@pytest.mark.parametrize("key", ["k-1", None])
async def test_a_slow_store_has_to_name_the_session_first(lab: Lab, key: str | None) -> None:
    """While it opens, one that named itself hears what duplicates hear; another waits for it."""
    claim, opens = lab.store.claim, asyncio.Event()

    async def slow(session: Session, expected_version: int) -> None:
        await opens.wait()
        await claim(session, expected_version)

    lab.store.claim = slow  # type: ignore[method-assign]
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    asyncio.get_running_loop().call_later(2, opens.set)
    answer = await lab.merchant_sends(pay(key=key, headers=(WAITS,)))
    named = key is not None
    assert lab.transcript[-1] == f"answer {'409 request-in-progress' if named else '504 wait-over'}"
    assert lab.clock.monotonic() == pytest.approx(1 if named else 2, abs=0.11)
    assert ("sessionId" in told(answer)) is not named
    await asyncio.sleep(5)
    assert (await lab.only_session()).state is State.COMPLETED


async def test_the_sdk_may_ask_again_by_itself(lab: Lab) -> None:
    """Holdfast is not done: an SDK whose own repeat joins the payment is not told to stop."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(key="k-1", headers=(WAITS,)))
    assert "Stripe-Should-Retry" not in dict(answer.headers)


async def test_a_stop_finishes_what_goes_on_without_its_caller(lab: Lab) -> None:
    """The drain waits for it as for every other payment."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    answer = await lab.merchant_sends(pay(key="k-1", headers=(WAITS,)))
    await lab.pipeline.drain(10)
    assert lab.clock.monotonic() == pytest.approx(3)
    assert (await lab.session(answer)).state is State.COMPLETED


async def test_a_read_ends_its_wait_in_the_same_way(lab: Lab) -> None:
    """GET moves no money: the same answer, and what comes after it is let go."""
    closed = asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        try:
            yield b"{}"
        finally:
            closed.set()

    async def late(_send: Send) -> WireFacts:
        await asyncio.sleep(3)
        body = stream()
        await anext(body)
        return WireFacts(sent=True, phase=Phase.ANSWERED, status=200, stream=body)

    lab.gateway.will(lab.gateway.connected(late))
    read = pay(method="GET", target="/v1/payment_intents/pi_1", body=b"", headers=(WAITS,))
    answer = await lab.merchant_sends(read)
    assert lab.transcript == ["wire   GET /v1/payment_intents/pi_1", "answer 504 wait-over"]
    assert told(answer)["anythingSent"] is True
    assert told(answer)["safeToRepeat"] is True
    await asyncio.sleep(3)
    assert closed.is_set()
    assert lab.walks.by_session == {}


async def test_what_more_than_reads_is_not_cut_short(lab: Lab) -> None:
    """No money, but a change: nobody knows whether its repeat is safe, so its caller waits."""
    lab.gateway.will(lab.gateway.answers_late(3, 200))
    answer = await lab.merchant_sends(pay(target="/v1/customers", headers=(WAITS,)))
    assert answer.status == 200


def told(answer: Answer) -> dict[str, Any]:
    """What an answer says of the payment."""
    document = json.loads(answer.body)
    return {
        name: value
        for name, value in document.items()
        if name not in {"type", "title", "status", "detail", "error"}
    }
