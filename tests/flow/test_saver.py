"""What the store could not take: spooled before anybody is answered, and merged when it can be."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import DecodeError

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import Answer, Phase, WireFacts
from proxy.flow.journal import Change
from proxy.flow.saver import merged
from proxy.keyring import Keyring
from proxy.ports import SealBroken, Send
from proxy.upstream.scripted import Step
from tests.support.building import a_session, after, ended, found
from tests.support.lab import DECLINED, SUCCEEDED, Lab, header_of, pay

pytestmark = pytest.mark.looptime


def then_the_disk_is_full(lab: Lab, status: int = 200, body: bytes = SUCCEEDED) -> Step:
    """A gateway that answers when the store takes nothing any more."""

    async def fails(_send: Send) -> WireFacts:
        lab.store.failing = True
        return WireFacts(sent=True, phase=Phase.ANSWERED, status=status, body=body)

    return lab.gateway.connected(fails)


async def killed(lab: Lab) -> Lab:
    """The process is gone; another one finds its store, which takes writes again, and its spool."""
    await lab.close()
    lab.store.failing = False
    lab.store.epoch += 1
    return Lab(lab.settings, lab.store, lab.spool)


async def charged_but_unsaved(lab: Lab) -> Answer:
    """A payment at a gateway that cannot be asked, whose outcome the store did not take."""
    lab.gateway.will(then_the_disk_is_full(lab))
    return await lab.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")


# --- while the process lives ----------------------------------------------------------------------


async def test_spooled_before_the_answer_and_saved_when_the_store_is_back(lab: Lab) -> None:
    """The order of it all: intent, send, spool, answer; then the store, and the spool is empty."""
    answer = await charged_but_unsaved(lab)
    assert (answer.status, answer.body) == (200, SUCCEEDED)
    assert header_of(answer, "X-Payment-Durability") == "pending"
    await asyncio.sleep(5)
    lab.store.failing = False
    await asyncio.sleep(2)
    assert lab.transcript == [
        "store  AttemptStarted INITIATED/unknown",
        "wire   POST /pay",
        "spool  AttemptEnded",
        "answer 200",
        "store  AttemptEnded COMPLETED/charged",
        "spool  done",
    ]
    assert lab.spool.records() == {}
    assert lab.notes.of(ev.OutcomeUnsaved) == [ev.OutcomeUnsaved("ps_0001", spooled=True)]
    assert lab.notes.of(ev.OutcomeSaved) == [ev.OutcomeSaved("ps_0001")]


async def test_a_full_spool_leaves_it_in_memory(lab: Lab) -> None:
    """Neither takes it: the backend gets the truth all the same, and the store when it can."""
    lab.spool.full = True
    answer = await charged_but_unsaved(lab)
    assert (answer.status, header_of(answer, "X-Payment-Durability")) == (200, "pending")
    assert lab.notes.of(ev.OutcomeUnsaved) == [ev.OutcomeUnsaved("ps_0001", spooled=False)]
    assert lab.notes.of(ev.OutcomeSaved) == []
    lab.store.failing = False
    await asyncio.sleep(2)
    assert (await lab.only_session()).state is State.COMPLETED
    assert lab.notes.of(ev.OutcomeSaved) == [ev.OutcomeSaved("ps_0001")]


async def test_a_slow_spool_does_not_hold_up_a_stop(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drain's patience ends while the spool writes: the true answer, marked, and it is kept."""
    keep = lab.spool.keep

    async def slowly(record: bytes) -> int:
        await asyncio.sleep(60)
        return await keep(record)

    monkeypatch.setattr(lab.spool, "keep", slowly)
    request = asyncio.ensure_future(charged_but_unsaved(lab))
    await asyncio.sleep(1)
    await lab.pipeline.drain(1)
    answer = await request
    assert (answer.body, header_of(answer, "X-Payment-Durability")) == (SUCCEEDED, "pending")
    await asyncio.sleep(60)
    assert len(lab.spool.records()) == 1


async def test_nothing_is_in_clear(lab: Lab) -> None:
    """The record names the session and what the send came to; the answer in it is sealed."""
    answer = await charged_but_unsaved(lab)
    (record,) = lab.spool.records().values()
    assert header_of(answer, "X-Payment-Session-Id").encode() in record
    assert b"pi_1" not in record
    assert b"\n" not in record


async def test_a_retry_that_was_not_made_is_not_written_down(lab: Lab) -> None:
    """It would have been repeated; without a store it was not, and only the failure is saved."""
    lab.gateway.will(then_the_disk_is_full(lab, 429, b"{}"))
    answer = await lab.merchant_sends(pay(key="k-1"))
    assert answer.status == 429
    lab.store.failing = False
    await asyncio.sleep(2)
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.NOT_CHARGED)
    assert session.retries == ()


# --- after a kill -9 ------------------------------------------------------------------------------


async def test_after_a_kill_it_is_known_without_asking(lab: Lab) -> None:
    """The next process finds the record: COMPLETED, the same answer, and the gateway not asked."""
    first = await charged_but_unsaved(lab)
    then = await killed(lab)
    assert await then.saver.replay() == 1
    assert await then.reconciler.take_over() == 0
    session = await then.session(first)
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert session.interruptions == ()
    replay = await then.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    assert replay.body == SUCCEEDED
    assert then.gateway.seen == []
    assert then.spool.records() == {}
    await then.close()


async def test_negative_control_without_the_spool_nobody_knows(lab: Lab) -> None:
    """The same kill, nothing spooled: the outcome is unknown, and stays it at such a gateway."""
    lab.spool.full = True
    first = await charged_but_unsaved(lab)
    then = await killed(lab)
    assert await then.saver.replay() == 0
    assert await then.reconciler.take_over() == 1
    session = await then.session(first)
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)
    again = await then.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    assert again.status == 504
    await then.close()


@pytest.mark.parametrize(
    ("status", "body"), [(200, SUCCEEDED), (402, DECLINED), (429, b"{}"), (500, b"{}")]
)
async def test_a_replay_writes_what_would_have_been_written(
    lab: Lab, status: int, body: bytes
) -> None:
    """Saved by the process that saw it, or replayed by the next: the same version and answer."""
    other = Lab(lab.settings)
    for here in (lab, other):
        here.gateway.will(then_the_disk_is_full(here, status, body))
        await here.merchant_sends(pay(key="k-1"))
    lab.store.failing = False
    await asyncio.sleep(2)
    then = await killed(other)
    await then.saver.replay()
    saved, replayed = await lab.only_session(), await then.only_session()
    assert replayed == saved
    answers = [await here.store.answer(saved.id) for here in (lab, then)]
    opened = [
        a and here.secrets.unseal(saved.id, a) for here, a in zip((lab, then), answers, strict=True)
    ]
    assert opened[0] == opened[1]
    assert (opened[0] is None) == saved.live
    await then.close()


async def test_a_store_that_is_not_back_yet_is_offered_it_later(lab: Lab) -> None:
    """It takes nothing at the next start either: the record waits, and is taken in the end."""
    await charged_but_unsaved(lab)
    then = await killed(lab)
    then.store.failing = True
    assert await then.saver.replay() == 1
    await asyncio.sleep(5)
    assert len(then.spool.records()) == 1
    then.store.failing = False
    await asyncio.sleep(2)
    assert (await then.only_session()).state is State.COMPLETED
    assert then.spool.records() == {}
    await then.close()


async def test_replayed_after_somebody_else_settled_it(lab: Lab) -> None:
    """A look-up found the charge first: the record adds nothing, and is done."""
    first = await charged_but_unsaved(lab)
    then = await killed(lab)
    await then.reconciler.take_over()
    taken_over = await then.session(first)
    settled = after(taken_over, found(AttemptStatus.SUCCEEDED, at=then.clock.now_ms()))
    await then.store.commit(settled, taken_over.version, b"the look-up's answer")
    assert await then.saver.replay() == 1
    assert await then.only_session() == settled
    assert await then.store.answer(settled.id) == b"the look-up's answer"
    assert then.spool.records() == {}
    await then.close()


async def test_replayed_after_it_was_taken_for_unknown(lab: Lab) -> None:
    """Another process took it over meanwhile: the truth still comes in, with its answer."""
    first = await charged_but_unsaved(lab)
    then = await killed(lab)
    assert await then.reconciler.take_over() == 1
    assert await then.saver.replay() == 1
    assert (await then.session(first)).outcome is Outcome.CHARGED
    replay = await then.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    assert replay.body == SUCCEEDED
    await then.close()


async def test_odd_records_hold_up_nobody_and_are_not_thrown_away(lab: Lab) -> None:
    """One that cannot be read, and one of a session that the store does not know: told, kept."""
    await charged_but_unsaved(lab)
    (record,) = lab.spool.records().values()
    then = await killed(lab)
    await then.spool.keep(b"{")
    await then.spool.keep(record.replace(b'"ps_', b'"px_', 1))
    assert await then.saver.replay() == 3
    assert (await then.only_session()).state is State.COMPLETED
    assert list(then.spool.records()) == [2, 3]
    # Of the last also that its answer belongs to another.
    assert [type(bug) for bug in then.bugs] == [DecodeError, SealBroken, LookupError]
    then.bugs.clear()
    await then.close()


async def test_a_charge_stands_without_its_answer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that sealed the answer was dropped: told, and the charge is known all the same."""
    monkeypatch.setattr(lab.saver, "_secrets", Keyring(b"k" * 32, b"l" * 32))
    await charged_but_unsaved(lab)
    then = await killed(lab)
    assert await then.saver.replay() == 1
    assert (await then.only_session()).outcome is Outcome.CHARGED
    assert await then.store.answer("ps_0001") is None
    assert then.spool.records() == {}
    (told,) = then.bugs
    assert isinstance(told, SealBroken)
    then.bugs.clear()
    await then.close()


# --- merging --------------------------------------------------------------------------------------

ANSWER = Answer(200, "OK", (), SUCCEEDED)
RESULTS = [status for status in AttemptStatus if status is not AttemptStatus.IN_FLIGHT]
SETTLING = {AttemptStatus.SUCCEEDED, AttemptStatus.DECLINED, AttemptStatus.ACCEPTED}


def came_to(status: AttemptStatus) -> ev.AttemptEnded:
    """The end of the first send."""
    return ended(status, None if status in SETTLING else Reason.GATEWAY_ERROR)


@pytest.mark.parametrize("status", RESULTS)
@pytest.mark.parametrize("stored", AttemptStatus)
def test_merging_twice_is_merging_once(status: AttemptStatus, stored: AttemptStatus) -> None:
    """Whatever the store knows of the send, the same evidence changes it at most once."""
    session = a_session(stored)
    once = after(session, *merged(came_to(status), lambda _: ANSWER, session).events)
    assert merged(came_to(status), lambda _: ANSWER, once) == Change()
    if session.outcome is Outcome.CHARGED:
        assert once.outcome is Outcome.CHARGED


@pytest.mark.parametrize(
    ("session", "kept"),
    [
        (a_session(AttemptStatus.IN_FLIGHT), True),
        (a_session(AttemptStatus.UNKNOWN, state=State.INTERRUPTED), True),
        (a_session(AttemptStatus.UNKNOWN, state=State.FAILED_MAX_RETRIES), True),
        (a_session(AttemptStatus.DECLINED, state=State.DECLINED), True),
        (a_session(AttemptStatus.SUCCEEDED, state=State.COMPLETED), False),
        (a_session(AttemptStatus.UNKNOWN, AttemptStatus.SUCCEEDED, state=State.COMPLETED), False),
    ],
    ids=lambda value: value.state if isinstance(value, Session) else "",
)
def test_an_answer_is_kept_that_settles(session: Session, kept: bool) -> None:
    """A charge that ends the session, or contradicts its end; not one that is known already."""
    change = merged(came_to(AttemptStatus.SUCCEEDED), lambda _: ANSWER, session)
    assert (change.keep is ANSWER) == kept
    assert after(session, *change.events).state is State.COMPLETED


def test_an_answer_that_settles_nothing_is_not_kept() -> None:
    """The gateway failed, and there are sends left: the session goes on."""
    change = merged(
        came_to(AttemptStatus.REJECTED), lambda _: ANSWER, a_session(AttemptStatus.IN_FLIGHT)
    )
    assert (len(change.events), change.keep) == (1, None)


def test_the_last_send_without_a_charge_ends_the_session() -> None:
    """As it does when the store is there: FAILED_MAX_RETRIES, with the answer."""
    session = a_session(AttemptStatus.IN_FLIGHT, max_attempts=1)
    change = merged(came_to(AttemptStatus.REJECTED), lambda _: ANSWER, session)
    assert after(session, *change.events).state is State.FAILED_MAX_RETRIES
    assert change.keep is ANSWER
