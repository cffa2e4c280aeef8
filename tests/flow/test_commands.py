"""The verbs of the session API on the flow itself; HTTP is in tests/web/test_sessions_api.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.flow.commands import Mode, NoSuchSession, NotAllowed, Order
from tests.support.clocks import LoopClock
from tests.support.lab import POLICY, SUCCEEDED, Lab, SharedStore, pay, settings_from

pytestmark = pytest.mark.looptime

ORDER = Order("o-1", "u-1", "stripe", "1999", "eur")
ONE_BY_ITSELF = POLICY.replace("retry: {", "retry: {automatic_attempts: 1, ")


async def test_a_created_session_is_durable(lab: Lab) -> None:
    """When create returns, the session is in the store."""
    session, new = await lab.commands.create(ORDER)
    assert new
    assert lab.transcript == ["store  Opened INITIATED/not_charged"]
    assert await lab.store.get(session.id) == session


async def test_creating_twice_is_creating_once(lab: Lab) -> None:
    """The same order before anything was sent: the same session."""
    first, _ = await lab.commands.create(ORDER)
    second, new = await lab.commands.create(ORDER)
    assert (second.id, new) == (first.id, False)


async def test_created_and_cancelled_at_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another replica cancels it between its claim and its commit: whoever created it is told."""
    commit = lab.store.commit

    async def later(session: Session, expected: int, answer: bytes | None) -> None:
        monkeypatch.undo()
        await lab.commands.cancel(session.id, "wanted")
        await commit(session, expected, answer)

    monkeypatch.setattr(lab.store, "commit", later)
    session, new = await lab.commands.create(ORDER)
    assert (session.state, new) == (State.CANCELLED, True)
    assert await lab.store.get(session.id) == session


async def test_creating_for_a_paid_order(lab: Lab) -> None:
    """A charged order gets no second session, but the name of the one it has."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1", order="o-1"))
    with pytest.raises(NotAllowed) as refused:
        await lab.commands.create(ORDER)
    assert refused.value.session.id == "ps_0001"


async def test_creating_after_the_last_one_expired(lab: Lab) -> None:
    """An expired session does not stand in the way of a new one."""
    first, _ = await lab.commands.create(ORDER)
    await asyncio.sleep(16 * 60)
    second, new = await lab.commands.create(ORDER)
    assert new
    assert second.id != first.id
    assert (await lab.commands.get(first.id)).state is State.EXPIRED


async def test_nobody_knows_that_session(lab: Lab) -> None:
    """Every verb says so."""
    for verb in (
        lab.commands.get("ps_x"),
        lab.commands.resume("ps_x"),
        lab.commands.cancel("ps_x", "r"),
        lab.commands.interrupt("ps_x", "r"),
        lab.commands.complete("ps_x", "pi_1"),
    ):
        with pytest.raises(NoSuchSession):
            await verb


async def test_resume_sends_what_is_still_in_memory(tmp_path: Path) -> None:
    """The request is held, so a resume sends the same bytes again by itself."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    lab.gateway.will(lab.gateway.refuses_connection(), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    done = await lab.commands.resume("ps_0001")
    assert (done.mode, done.session.state) == (Mode.SEND, State.RESUMED)
    await lab.settle_down()
    assert (await lab.only_session()).state is State.COMPLETED
    assert dict(lab.gateway.seen[0].headers)["Idempotency-Key"] == "k-1"
    await lab.close()


async def test_resume_of_an_unknown_repeats_the_same_key(tmp_path: Path) -> None:
    """At a gateway that honours keys the repeat is the reconciliation."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    done = await lab.commands.resume("ps_0001")
    assert done.mode is Mode.RECONCILE
    await lab.settle_down()
    assert (await lab.only_session()).outcome is Outcome.CHARGED
    await lab.close()


async def test_resume_without_the_request_waits_for_it(tmp_path: Path) -> None:
    """Bodies are not stored: after a restart the client must bring the request again."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    lab.gateway.will(lab.gateway.refuses_connection(), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    lab.held.drop("ps_0001")
    done = await lab.commands.resume("ps_0001")
    assert "send the same request again" in done.message
    assert (await lab.only_session()).state is State.RESUMED
    assert (await lab.merchant_sends(pay(key="k-1"))).status == 200
    await lab.close()


async def test_a_condition_is_asked_of_what_is_changed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody moved the session after it was read: the call is decided, and asked about, anew."""
    read, _ = await lab.commands.create(ORDER)
    await lab.commands.interrupt(read.id, "let me look")
    asked: list[int] = []

    async def as_it_was(_session_id: str) -> Session:
        return read

    def check(session: Session) -> None:
        asked.append(session.version)
        if session.version != read.version:
            raise PermissionError

    monkeypatch.setattr(lab.commands, "get", as_it_was)
    for call in (
        lab.commands.cancel(read.id, "r", check),
        lab.commands.interrupt(read.id, "r", check),
        lab.commands.complete(read.id, "pi_1", check),
    ):
        with pytest.raises(PermissionError):
            await call
    assert asked == [1, 2] * 3
    assert (await lab.only_session()).version == 2
    # The control: nobody asks, and it is cancelled as it is now.
    session, _ = await lab.commands.cancel(read.id, "r")
    assert (session.state, session.version) == (State.CANCELLED, 3)


async def test_resume_lifts_a_hold(tmp_path: Path) -> None:
    """Held by a person, resumed by a person."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    lab.gateway.will(lab.gateway.refuses_connection(), lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    await lab.commands.interrupt("ps_0001", "let me look")
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 409 session-held"
    await lab.commands.resume("ps_0001")
    await lab.settle_down()
    assert (await lab.only_session()).state is State.COMPLETED
    await lab.close()


async def test_a_resume_that_nobody_follows_expires(tmp_path: Path) -> None:
    """Resumed, and the request never came: after the deadline it is EXPIRED, nothing charged."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    lab.gateway.will(lab.gateway.refuses_connection())
    await lab.merchant_sends(pay(key="k-1"))
    lab.held.drop("ps_0001")
    await lab.commands.resume("ps_0001")
    await asyncio.sleep(16 * 60)
    await lab.reconciler.run_once()
    assert (await lab.only_session()).state is State.EXPIRED
    await lab.close()


async def test_complete_needs_a_charge_to_be_possible(lab: Lab) -> None:
    """Evidence settles what is open or unknown, not what was declined."""
    lab.gateway.will(lab.gateway.answers(402, b"{}"))
    await lab.merchant_sends(pay(key="k-1"))
    with pytest.raises(NotAllowed, match="DECLINED"):
        await lab.commands.complete("ps_0001", "pi_1")


async def test_complete_settles_an_unknown(lab: Lab) -> None:
    """A person vouches with the gateway's reference; the order is charged from then on."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1", order="o-1", target="/pay"), gateway="plain")
    session = await lab.commands.complete("ps_0001", "ch_77")
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert session.reference == "ch_77"
    await lab.merchant_sends(pay(key="k-1", order="o-1", target="/pay"), gateway="plain")
    assert lab.transcript[-1] == "answer 409 answer-not-kept"


async def test_a_request_in_flight_cannot_be_resumed_or_completed(lab: Lab) -> None:
    """While it is out, only its answer (or time) tells."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    for verb in (lab.commands.resume("ps_0001"), lab.commands.complete("ps_0001", "pi_1")):
        with pytest.raises(NotAllowed, match="in progress"):
            await verb
    assert (await request).status == 200


@pytest.mark.parametrize(
    ("verb", "state", "sends"),
    [
        ("cancel", State.CANCELLED, 1),
        ("interrupt", State.INTERRUPTED, 1),
        ("", State.COMPLETED, 2),  # the control: it would have been sent again
    ],
)
async def test_a_call_reaches_what_another_replica_has_in_flight(
    tmp_path: Path, verb: str, state: State, sends: int
) -> None:
    """Nothing more is sent for it; what is out is not cut off, and resume and complete wait."""
    settings, clock = settings_from(POLICY, tmp_path), LoopClock()
    here = Lab(settings, SharedStore(clock, []))
    assert isinstance(here.store, SharedStore)
    there = Lab(settings, SharedStore(clock, [], here.store))
    throttled, paid = here.gateway.answers_late(3, 429, b""), here.gateway.answers(200, SUCCEEDED)
    here.gateway.will(throttled, paid)
    paying = asyncio.ensure_future(here.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    for call in (there.commands.resume("ps_0001"), there.commands.complete("ps_0001", "pi_1")):
        with pytest.raises(NotAllowed, match="in progress"):
            await call
    for _ in range(2):  # also when its answer was lost
        if verb == "cancel":
            session, over = await there.commands.cancel("ps_0001", "the shopper left")
            assert (session.cancel_reason, over) == ("the shopper left", False)
        elif verb == "interrupt":
            session, out = await there.commands.interrupt("ps_0001", "let me look")
            assert (session.hold, out) == (True, True)
    await paying
    assert len(here.gateway.seen) == sends
    session = await there.only_session()
    assert session.state is state
    steps = [step.event for step in session.timeline]
    assert steps.count("CancelRequested") == (verb == "cancel")
    assert steps.count("Interrupted") == (verb == "interrupt")
    for lab in (here, there):
        await lab.close()


# --- by itself, and for whoever reads ------------------------------------------------------------

STRONG = POLICY.replace(
    "profile: generic,", "profile: generic, idempotency: {class: A_strong, window: 24h},"
).replace("retry: {", "retry: {max_attempts: 4, automatic_attempts: 1, ")


async def test_what_cannot_be_looked_up_is_sent_again_by_the_schedule(tmp_path: Path) -> None:
    """Same key, same bytes, 5 s and 30 s after the last send; the last send is not used up."""
    lab = Lab(settings_from(STRONG, tmp_path))
    lab.gateway.will(*[lab.gateway.loses_answer()] * 3)
    await lab.merchant_sends(pay(key="k-1", target="/pay"), "plain")
    sent_at = []
    for _ in range(600):
        await asyncio.sleep(1)
        before = len(lab.gateway.seen)
        await lab.reconciler.run_once()
        await lab.settle_down()
        sent_at += [round(lab.clock.monotonic())] * (len(lab.gateway.seen) - before)
    assert len(lab.gateway.seen) == 3
    assert sent_at[1] - sent_at[0] == 30
    keys = {dict(send.headers)["Idempotency-Key"] for send in lab.gateway.seen}
    bodies = {send.body for send in lab.gateway.seen}
    assert (keys, len(bodies)) == ({"k-1"}, 1)
    session = await lab.only_session()
    assert (session.outcome, session.sends_left()) == (Outcome.UNKNOWN, 1)
    await lab.close()


@pytest.mark.parametrize("stop", ["cancel", "interrupt", "forget"])
async def test_nothing_is_sent_again_that_somebody_stopped(tmp_path: Path, stop: str) -> None:
    """Wanted cancelled, held, or its bytes are no longer here."""
    lab = Lab(settings_from(STRONG, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1", target="/pay"), "plain")
    if stop == "cancel":
        await lab.commands.cancel("ps_0001", "changed my mind")
    elif stop == "interrupt":
        await lab.commands.interrupt("ps_0001", "wait")
    else:
        lab.held.drop("ps_0001")
    for _ in range(20):
        await asyncio.sleep(10)
        await lab.reconciler.run_once()
    assert len(lab.gateway.seen) == 1
    await lab.close()


async def test_who_reads_an_unknown_session_has_it_looked_up(lab: Lab) -> None:
    """Ten readers at once are one look, and so is whoever comes within the next second."""
    lab.gateway.will(*[lab.gateway.loses_answer()] * 3)
    await lab.merchant_sends(pay(key="k-1"))
    asked = len(lab.gateway.seen)
    lab.gateway.will(*[lab.gateway.answers(200, b'{"data": [], "has_more": false}')] * 2)
    await asyncio.gather(*(lab.commands.show("ps_0001") for _ in range(10)))
    session = await lab.commands.show("ps_0001")
    assert (len(lab.gateway.seen) - asked, session.lookups) == (1, 1)
    await asyncio.sleep(1.1)
    await lab.commands.show("ps_0001")
    assert len(lab.gateway.seen) - asked == 2


async def test_a_reader_hears_what_the_look_up_found(lab: Lab) -> None:
    """The charge is found while the reader waits."""
    lab.gateway.will(*[lab.gateway.loses_answer()] * 3)
    await lab.merchant_sends(pay(key="k-1"))
    found = (
        b'{"data": [{"id": "e", "request": {"idempotency_key": "k-1"},'
        b' "data": {"object": {"object": "payment_intent", "id": "pi_1"}}}], "has_more": false}'
    )
    lab.gateway.will(lab.gateway.answers(200, found), lab.gateway.answers(200, SUCCEEDED))
    assert (await lab.commands.show("ps_0001")).state is State.COMPLETED


async def test_a_gateway_that_hangs_does_not_hold_up_readers(lab: Lab) -> None:
    """Two seconds, then what is known; the look-up goes on, and nobody begins a second one."""
    lab.gateway.will(*[lab.gateway.loses_answer()] * 3)
    await lab.merchant_sends(pay(key="k-1"))
    asked = len(lab.gateway.seen)
    lab.gateway.will(lab.gateway.hangs())
    begun = lab.clock.monotonic()
    session = await lab.commands.show("ps_0001")
    assert lab.clock.monotonic() - begun == pytest.approx(2)
    assert session.outcome is Outcome.UNKNOWN
    await lab.commands.show("ps_0001")
    assert len(lab.gateway.seen) - asked == 1
    await asyncio.sleep(20)


async def test_what_is_known_is_read_without_asking(lab: Lab) -> None:
    """A settled session, or one that is with the gateway, is shown as it is."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    assert (await lab.commands.show("ps_0001")).state is State.COMPLETED
    assert len(lab.gateway.seen) == 1
