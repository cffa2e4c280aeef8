"""A session survives being written down."""

from __future__ import annotations

import orjson
import pytest

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult, Repeat
from proxy.core.session import Attempt, Interruption, Retry, Session, Step, apply
from proxy.core.states import AttemptStatus
from proxy.core.wire import Phase
from proxy.stores.codec import decode, encode
from tests.stores.test_conformance import opened, sent


def test_every_field_comes_back() -> None:
    """A session with attempts, interruptions, retries and a timeline is the same after a round."""
    lost = AttemptResult(AttemptStatus.UNKNOWN, Reason.CONNECTION_LOST, Repeat.BY_CLASS)
    session = opened(1, order_ref="o-ü", user_ref="u", amount="1999", currency="eur")
    session = apply(
        sent(session),
        ev.AttemptEnded(3000, 1, "stripe", lost, Phase.AWAITING_RESPONSE, True, 0, 2000),
    )
    session = apply(session, ev.RetryScheduled(3000, 2, 412, Reason.CONNECTION_LOST))
    session = apply(session, ev.Resumed(3412, ev.ResumedBy.TIMER))
    session = apply(sent(session), ev.CancelRequested(3500, "the shopper left"))
    assert decode(encode(session)) == session


def test_kinds_come_back_as_what_they_were() -> None:
    """States and statuses are enumerations again, not just equal text."""
    session = decode(encode(sent(opened(1))))
    assert type(session.state).__name__ == "State"
    assert type(session.attempts[0].status).__name__ == "AttemptStatus"


def test_the_order_of_fields_is_that_of_the_files() -> None:
    """Stored sessions are values by position: fields may only be added, at the end."""
    written = (
        "id gateway started_at expires_at max_attempts route operation durable tenant key_hash "
        "gateway_key generation fingerprint named order_ref order_locks user_ref amount currency "
        "state outcome version updated_at finished_at attempts interruptions retries timeline "
        "cancel_requested cancel_reason hold review_required late_evidence reference lookups "
        "next_at"
    )
    rows = (
        (Session.__struct_fields__, written),
        (
            Attempt.__struct_fields__,
            "number generation endpoint status started_at ended_at sent reason phase",
        ),
        (Interruption.__struct_fields__, "at reason phase attempt sent detail"),
        (Retry.__struct_fields__, "at attempt delay_ms because"),
        (Step.__struct_fields__, "at event state outcome note"),
    )
    for fields, names in rows:
        assert " ".join(fields).startswith(names)


def test_a_session_of_an_earlier_version() -> None:
    """Fields at the end that were not there yet are as they always begin."""
    session = sent(opened(1))
    shortened = orjson.loads(encode(session))[: Session.__struct_fields__.index("cancel_requested")]
    assert decode(orjson.dumps(shortened)) == session


def test_a_step_of_an_earlier_version() -> None:
    """It has no note, and is read without one."""
    cancelled = apply(opened(1), ev.Cancelled(3000, "the shopper left"))
    written = orjson.loads(encode(cancelled))
    timeline = Session.__struct_fields__.index("timeline")
    written[timeline] = [step[:4] for step in written[timeline]]
    session = decode(orjson.dumps(written))
    assert [step.note for step in session.timeline] == [None, None]
    assert [step.event for step in session.timeline] == ["Opened", "Cancelled"]


@pytest.mark.parametrize("data", [b'{"id":"ps_1"}', b'["ps_1"]', b'"ps_1"', b"ps_1"])
def test_something_else_is_not_a_session(data: bytes) -> None:
    """What `encode` never wrote is refused, not guessed at."""
    with pytest.raises(ValueError, match=r"array|malformed"):
        decode(data)


def test_a_session_that_is_nested_without_end_is_none() -> None:
    """What a failing disk made of it is refused as well."""
    nested = encode(opened(1))[:-1] + b"," + b"[" * 100_000 + b"]" * 100_000 + b"]"
    with pytest.raises(ValueError, match="recursion"):
        decode(nested)
