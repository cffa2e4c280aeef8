"""The verbs of the session API on the flow itself; HTTP is in tests/web/test_sessions_api.py."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import Phase, WireFacts
from proxy.flow.commands import Mode, NoSuchSession, NotAllowed, Order
from proxy.flow.journal import Change
from proxy.ports import Send
from tests.support.clocks import LoopClock
from tests.support.lab import POLICY, SUCCEEDED, Lab, SharedStore, pay, settings_from

pytestmark = pytest.mark.looptime

ORDER = Order("o-1", "u-1", "stripe", "1999", "eur")
ONE_BY_ITSELF = POLICY.replace("retry: {", "retry: {automatic_attempts: 1, ")
NO_CREDENTIAL = "there is no credential to look it up with; see lookup_credential in the policy"
ONE_SEND = "retry: {max_attempts: 1, automatic_attempts: 1, "
# At a gateway that promises nothing and cannot be asked.
PLAIN = pay(key="k-1", order="o-1", target="/pay")


async def lose(lab: Lab) -> None:
    """A payment at such a gateway whose answer was lost."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(PLAIN, "plain")
    assert (await lab.only_session()).outcome is Outcome.UNKNOWN


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
        lab.commands.not_charged("ps_x", "not there"),
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


@pytest.mark.parametrize(
    ("lost", "stop"),
    [
        (True, ("requested", "awaiting_response", True)),
        (False, ("requested", "before_send", False)),  # the control: provably not a byte left
    ],
)
async def test_a_hold_says_whether_it_was_sent(
    tmp_path: Path, lost: bool, stop: tuple[str, str, bool]
) -> None:
    """Held after its answer was lost: the gateway may have seen the request, and it says so."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    fault = lab.gateway.loses_answer() if lost else lab.gateway.refuses_connection()
    lab.gateway.will(fault)
    await lab.merchant_sends(pay(key="k-1", target="/pay"), "plain")
    await lab.commands.interrupt("ps_0001", "let me look")
    held = (await lab.only_session()).interruptions[-1]
    assert (held.reason, held.phase, held.sent) == stop
    await lab.close()


async def test_holding_and_resuming_has_an_end(lab: Lab) -> None:
    """Whoever does it in a loop is refused at some time, and can cancel it still."""
    session, _ = await lab.commands.create(ORDER)

    async def hold_and_resume_for_ever() -> None:
        while True:
            await lab.commands.interrupt(session.id, "let me look")
            await lab.commands.resume(session.id)

    with pytest.raises(NotAllowed, match="too often"):
        await hold_and_resume_for_ever()
    assert len((await lab.only_session()).timeline) == 1000
    cancelled, over = await lab.commands.cancel(session.id, "enough")
    assert (cancelled.state, over) == (State.CANCELLED, True)


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


async def test_a_request_in_flight_cannot_be_resumed_or_settled(lab: Lab) -> None:
    """While it is out, only its answer (or time) tells."""
    lab.gateway.will(lab.gateway.answers_late(3, 200, SUCCEEDED))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    for verb in (
        lab.commands.resume("ps_0001"),
        lab.commands.complete("ps_0001", "pi_1"),
        lab.commands.not_charged("ps_0001", "not there"),
    ):
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


# --- a person says that it was not charged -------------------------------------------------------


async def test_not_charged_is_said_once_the_gateway_is_done_with_it(lab: Lab) -> None:
    """Refused with the seconds that are left; then it may be sent anew, under another key."""
    await lose(lab)
    await asyncio.sleep(100.5)
    with pytest.raises(NotAllowed, match="may still be at it; look again in 20 s"):
        await lab.commands.not_charged("ps_0001", "not there, says Ann")
    await asyncio.sleep(20)
    session = await lab.commands.not_charged("ps_0001", "not there, says Ann")
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.NOT_CHARGED)
    assert session.timeline[-1].note == "person: not there, says Ann"
    lab.gateway.will(lab.gateway.answers(200, b"{}"))
    await lab.merchant_sends(PLAIN, "plain")
    first, second = (dict(send.headers)["Idempotency-Key"] for send in lab.gateway.seen)
    assert first != second


@pytest.mark.parametrize(
    ("ends", "state"),
    [
        ("cancelled", State.CANCELLED),
        ("out of time", State.EXPIRED),
        ("out of sends", State.FAILED_MAX_RETRIES),
    ],
)
async def test_not_charged_frees_the_order_of_what_is_not_sent_again(
    tmp_path: Path, ends: str, state: State
) -> None:
    """Locked for as long as nobody knew, and free from then on."""
    policy = POLICY if ends != "out of sends" else POLICY.replace("retry: {", ONE_SEND)
    lab = Lab(settings_from(policy, tmp_path))
    await lose(lab)
    if ends == "cancelled":
        await lab.commands.cancel("ps_0001", "the shopper left")
    await asyncio.sleep(20 * 60 if ends == "out of time" else 2 * 60)
    with pytest.raises(NotAllowed, match="the order has session ps_0001"):
        await lab.commands.create(ORDER)
    session = await lab.commands.not_charged("ps_0001", "not there")
    assert (session.state, session.outcome) == (state, Outcome.NOT_CHARGED)
    assert await lab.store.listed() == []
    _, new = await lab.commands.create(ORDER)
    assert new
    await lab.close()


async def test_only_what_is_unknown_is_said_not_to_be_charged(lab: Lab) -> None:
    """What was charged stays so, and what provably was not needs nobody's word."""
    for answer in (lab.gateway.answers(200, SUCCEEDED), lab.gateway.answers(402, b"{}")):
        lab.gateway.will(answer)
    await lab.merchant_sends(pay(key="k-1"))
    await lab.merchant_sends(pay(key="k-2"))
    for session_id, outcome in (("ps_0001", "charged"), ("ps_0002", "not_charged")):
        with pytest.raises(NotAllowed, match=f"its outcome is known: {outcome}"):
            await lab.commands.not_charged(session_id, "not there")


async def test_not_charged_twice_is_once(lab: Lab) -> None:
    """The same word again changes nothing, and does not speak for what was sent since."""
    await lose(lab)
    await asyncio.sleep(120)
    session = await lab.commands.not_charged("ps_0001", "not there")
    assert await lab.commands.not_charged("ps_0001", "not there") == session
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(PLAIN, "plain")
    await asyncio.sleep(120)
    with pytest.raises(NotAllowed, match="was said of an earlier send"):
        await lab.commands.not_charged("ps_0001", "not there")
    session = await lab.commands.not_charged("ps_0001", "not there either")
    assert (session.outcome, session.generation) == (Outcome.NOT_CHARGED, 3)


async def test_a_gateway_that_is_gone_from_the_policy_has_no_time(lab: Lab) -> None:
    """How long it may be at a send is not known any more, so nobody's word is taken."""
    await lose(lab)
    await asyncio.sleep(3600)
    del lab.lanes["plain"]
    with pytest.raises(NotAllowed, match="its gateway is not in the policy"):
        await lab.commands.not_charged("ps_0001", "not there")


async def test_a_charge_after_a_persons_word_pages(lab: Lab) -> None:
    """It was charged after all: a contradiction, in sight until somebody has seen to it."""
    await lose(lab)
    await lab.commands.cancel("ps_0001", "the shopper left")
    await asyncio.sleep(120)
    session = await lab.commands.not_charged("ps_0001", "not there")
    assert session.state is State.CANCELLED
    session = await lab.commands.hear("ps_0001", AttemptStatus.SUCCEEDED, "ch_7", key="k-1")
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert (session.late_evidence, session.review_required) == (True, True)
    assert [listed.id for listed in await lab.store.listed()] == ["ps_0001"]
    with pytest.raises(NotAllowed, match="its outcome is known: charged"):
        await lab.commands.not_charged("ps_0001", "not there")
    assert [
        before.outcome for before, _, after in lab.notes.moves if before and after.late_evidence
    ] == [Outcome.NOT_CHARGED]


@pytest.mark.parametrize(
    ("waits", "charges"),
    [
        (True, 1),
        (False, 2),  # the control: a person's word counts at once
    ],
)
async def test_a_word_that_comes_too_soon_does_not_charge_twice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, waits: bool, charges: int
) -> None:
    """The gateway shows nothing yet and charges a minute later, whoever looked meanwhile."""
    if not waits:
        monkeypatch.setattr("proxy.flow.commands.settled", lambda *_: True)
    ledger: list[str] = []

    async def charges_late(send: Send) -> WireFacts:
        async def at_last() -> None:
            await asyncio.sleep(90)
            ledger.append(dict(send.headers)["Idempotency-Key"])

        _ = lab.tasks.start(at_last(), "charge")
        return WireFacts(sent=True, phase=Phase.AWAITING_RESPONSE, reason=Reason.CONNECTION_LOST)

    async def charges_now(send: Send) -> WireFacts:
        ledger.append(dict(send.headers)["Idempotency-Key"])
        return WireFacts(sent=True, phase=Phase.ANSWERED, status=200, body=SUCCEEDED)

    lab.gateway.will(lab.gateway.connected(charges_late), lab.gateway.connected(charges_now))
    await lab.merchant_sends(PLAIN, "plain")
    for _ in range(6):  # whoever is told to look again does so
        await asyncio.sleep(30)
        if ledger:
            break
        with contextlib.suppress(NotAllowed):
            await lab.commands.not_charged("ps_0001", "not there")
            await lab.merchant_sends(PLAIN, "plain")
    await asyncio.sleep(120)
    assert len(ledger) == charges
    assert len(set(ledger)) == charges


# --- what the gateway cannot be asked about ------------------------------------------------------


@pytest.mark.parametrize(
    ("gateway", "waits_for"),
    [
        ("plain", "a person: the profile has no look-up for route payment"),
        ("stripe", f"the same request again, or a person: {NO_CREDENTIAL}"),
        ("gone", "a person: its gateway is not in the policy"),
    ],
)
async def test_what_nobody_looks_up_waits_for_somebody(
    tmp_path: Path, gateway: str, waits_for: str
) -> None:
    """No look-up, no credential, no gateway: who must do something, and what is missing."""
    lab = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    lab.gateway.will(lab.gateway.loses_answer())
    stripe = gateway == "stripe"
    await lab.merchant_sends(pay(key="k-1") if stripe else PLAIN, "stripe" if stripe else "plain")
    lab.held.drop("ps_0001")
    if gateway == "gone":
        del lab.lanes["plain"]
    session = await lab.only_session()
    assert lab.commands.waits_for(session) == waits_for
    if stripe:
        for _ in range(2):  # also the second time
            done = await lab.commands.resume("ps_0001")
            assert "send the same request again" in done.message
            assert done.message.endswith(f"the gateway is not asked: {NO_CREDENTIAL}")
        await asyncio.sleep(16 * 60)
        done = await lab.commands.resume("ps_0001")
        assert done.message.startswith("already resumed; it waits for a person: ")
    else:
        with pytest.raises(NotAllowed, match="a repeat could charge twice and the gateway cannot"):
            await lab.commands.resume("ps_0001")
    await lab.close()


async def test_what_is_asked_about_waits_for_nobody(lab: Lab) -> None:
    """The request is in memory, and with it a credential to look it up with."""
    lab.gateway.will(*[lab.gateway.loses_answer()] * 3)
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.commands.waits_for(await lab.only_session()) is None


async def test_an_unknown_that_failed_is_no_reason_to_pay_anew(lab: Lab) -> None:
    """Looked up in vain to the end, and then the credential is gone: resume names a person."""
    lab.gateway.will(*[lab.gateway.loses_answer()] * 3)
    await lab.merchant_sends(pay(key="k-1"))
    session = await lab.only_session()
    await lab.journal.update(
        session, lambda _: Change([ev.Exhausted(lab.clock.now_ms())]), frozenset()
    )
    lab.held.drop("ps_0001")
    with pytest.raises(NotAllowed, match="a person must settle it") as refused:
        await lab.commands.resume("ps_0001")
    assert "new payment" not in refused.value.why


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
