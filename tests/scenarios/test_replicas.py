"""Two processes, one store: what each may do with a payment that the other has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import Answer, WireFacts
from proxy.flow.journal import Change
from proxy.ports import Send, StoreUnavailable
from tests.support.building import found
from tests.support.clocks import LoopClock
from tests.support.lab import DECLINED, POLICY, SUCCEEDED, Lab, SharedStore, pay, settings_from

pytestmark = pytest.mark.looptime

Pair = tuple[Lab, Lab]


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two replicas, with one gateway that both send to and one transcript."""
    settings = settings_from(POLICY, tmp_path)
    heard: list[str] = []
    store = SharedStore(LoopClock(), heard)
    here = Lab(settings, store)
    there = Lab(settings, SharedStore(LoopClock(), heard, store))
    yield here, there
    await here.close()
    await there.close()


async def only(lab: Lab) -> Session:
    """The one session there is, as everybody sees it."""
    return await lab.only_session()


def died(lab: Lab) -> None:
    """The process is gone, and its lease has run out."""
    store = lab.store
    assert isinstance(store, SharedStore)
    store.leases[store.epoch] = 0.0


async def test_a_second_click_at_the_other_replica_waits_for_the_answer(pair: Pair) -> None:
    """One send, and both hear of it."""
    here, there = pair
    here.gateway.will(here.gateway.answers_late(3, 200, SUCCEEDED))
    first = asyncio.ensure_future(here.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    second = await there.merchant_sends(pay(key="k-1"))
    assert (second.status, second.body) == (200, SUCCEEDED)
    assert (await first).body == SUCCEEDED
    assert there.gateway.seen == []


async def test_whoever_waits_for_too_long_is_told_that_it_is_in_progress(pair: Pair) -> None:
    """As long as a duplicate waits in one process."""
    here, there = pair
    here.gateway.will(here.gateway.answers_late(9, 200, SUCCEEDED))
    first = asyncio.ensure_future(here.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    second = await there.merchant_sends(pay(key="k-1"))
    assert second.status == 409
    assert here.transcript[-1] == "answer 409 request-in-progress"
    assert (await first).status == 200


async def test_two_clicks_at_the_same_moment_are_one_send(pair: Pair) -> None:
    """Both replicas are at it before either has its intent: one of them sends."""
    here, there = pair
    for lab in pair:
        lab.gateway.will(lab.gateway.answers_late(1, 200, SUCCEEDED))
    answers = await asyncio.gather(*(lab.merchant_sends(pay(key="k-1")) for lab in pair))
    assert [answer.body for answer in answers] == [SUCCEEDED, SUCCEEDED]
    assert len(here.gateway.seen) + len(there.gateway.seen) == 1


async def test_negative_control_without_the_intents_guard_both_send(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same two clicks, and nobody looks whether a send is in flight."""
    monkeypatch.setattr(Session, "in_flight", property(lambda _: False))
    monkeypatch.setattr("proxy.flow.attempts.len", lambda _: 0, raising=False)
    here, there = pair
    for lab in pair:
        lab.gateway.will(lab.gateway.answers_late(1, 200, SUCCEEDED))
    await asyncio.gather(*(lab.merchant_sends(pay(key="k-1")) for lab in pair))
    assert len(here.gateway.seen) + len(there.gateway.seen) == 2


async def test_taking_over_sends_nothing(pair: Pair) -> None:
    """A process that is gone had a payment in flight: unknown, and nothing more."""
    here, there = pair
    here.gateway.will(here.gateway.hangs())
    first = asyncio.ensure_future(here.merchant_sends(pay(key="k-1"), "plain"))
    await asyncio.sleep(1)
    assert await there.reconciler.take_over() == 0  # its lease is good
    died(here)
    assert await there.reconciler.take_over() == 1
    session = await only(there)
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)
    assert session.interruptions[-1].reason == Reason.PROCESS_RESTART
    assert there.gateway.seen == []
    await first


async def test_evidence_counts_whoever_brings_it(pair: Pair) -> None:
    """Taken for gone, it was only slow: the answer it brings is the truth all the same."""
    here, there = pair
    here.gateway.will(here.gateway.answers_late(5, 200, SUCCEEDED))
    first = asyncio.ensure_future(here.merchant_sends(pay(key="k-1"), "plain"))
    await asyncio.sleep(1)
    died(here)
    await there.reconciler.take_over()
    assert (await first).body == SUCCEEDED
    session = await only(there)
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)


async def test_a_charge_after_all_is_what_everybody_hears(pair: Pair) -> None:
    """Taken over and settled as declined, whoever said so; then its own answer says charged."""
    here, there = pair
    here.gateway.will(here.gateway.answers_late(5, 200, SUCCEEDED))
    first = asyncio.ensure_future(here.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    died(here)
    await there.reconciler.take_over()
    settled = found(AttemptStatus.DECLINED, at=there.clock.now_ms())
    declined = Change([settled], Answer(402, "Payment Required", (), DECLINED))
    await there.journal.update(await only(there), lambda _: declined, frozenset())
    assert (await first).body == SUCCEEDED
    session = await only(there)
    assert (session.state, session.late_evidence) == (State.COMPLETED, True)
    assert (await there.merchant_sends(pay(key="k-1"))).body == SUCCEEDED


async def test_without_a_lease_nothing_is_begun(pair: Pair) -> None:
    """Others may already take this process for gone: it sends nothing, and says so."""
    here, there = pair
    died(here)
    here.gateway.will(here.gateway.answers(200, SUCCEEDED))
    answer = await here.merchant_sends(pay(key="k-1"))
    assert answer.status == 503
    assert b'"anythingSent":false' in answer.body
    assert here.gateway.seen == []
    there.gateway.will(there.gateway.answers(200, SUCCEEDED))
    assert (await there.merchant_sends(pay(key="k-1"))).status == 200


async def test_a_store_that_lost_something_only_serves_gateways_with_a_memory(pair: Pair) -> None:
    """After a failover that lost writes nobody knows what is missing: fail closed."""
    here, there = pair
    for lab in pair:
        lab.store.regressed = "the store lost what it had acknowledged"
        lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    for lab in pair:  # by whoever asks, and as often as anybody does
        refused = await lab.merchant_sends(pay(key="k-1", target="/pay"), "plain")
        assert lab.transcript[-1] == "answer 503 store-regressed"
        assert b'"anythingSent":true' in refused.body  # perhaps, before
        assert b'"outcome":"unknown"' in refused.body
    await asyncio.sleep(16 * 60)  # its session is past its time, and the doubt is not
    refused = await here.merchant_sends(pay(key="k-1", target="/pay"), "plain")
    assert b'"outcome":"unknown"' in refused.body
    assert here.gateway.seen == []
    assert (await there.merchant_sends(pay(key="k-2"))).status == 200


async def test_what_was_put_on_record_after_a_loss_is_told(pair: Pair) -> None:
    """Once a person has accepted the loss, it is a payment like any other."""
    here, _ = pair
    here.store.regressed = "the store lost what it had acknowledged"
    await here.merchant_sends(pay(key="k-1", target="/pay"), "plain")
    here.store.regressed = None
    here.gateway.will(here.gateway.answers(200, SUCCEEDED))
    assert (await here.merchant_sends(pay(key="k-1", target="/pay"), "plain")).status == 200


async def test_what_is_in_backoff_elsewhere_goes_on_where_the_client_is(pair: Pair) -> None:
    """The client comes to the other replica while the first waits for its next try."""
    here, there = pair
    here.dice.value = 0.99
    here.gateway.will(here.gateway.answers(503, b"busy"), here.gateway.answers(200, b"never"))
    there.gateway.will(there.gateway.answers(200, SUCCEEDED))
    first = asyncio.ensure_future(here.merchant_sends(pay(key="k-1")))
    await here.settle_down()
    second = await there.merchant_sends(pay(key="k-1"))
    assert second.body == SUCCEEDED
    assert (await first).body == SUCCEEDED  # and not another send
    assert (len(here.gateway.seen), len(there.gateway.seen)) == (1, 1)


async def test_one_of_them_looks_after_what_nobody_walks(pair: Pair) -> None:
    """The leader, and whoever still holds the request; the next leader when that one is gone."""
    here, there = pair
    there.gateway.will(there.gateway.loses_answer())
    await there.merchant_sends(pay(key="k-1", target="/pay"), "plain")
    await asyncio.sleep(1)
    await here.reconciler.run_once()
    assert (await only(here)).review_required


async def test_who_did_not_get_through_says_nothing_of_the_others_send(pair: Pair) -> None:
    """One could not connect while the other sent: that send is still out, and not repeated."""
    here, there = pair

    async def refused_late(send: Send) -> WireFacts:
        await asyncio.sleep(2)
        return await here.gateway.refuses_connection()(send)

    here.gateway.will(refused_late, here.gateway.answers(200, b"never"))
    there.gateway.will(there.gateway.answers_late(4, 200, SUCCEEDED))
    first = asyncio.ensure_future(here.merchant_sends(pay(key="k-1", target="/pay"), "plain"))
    await asyncio.sleep(1)
    second = asyncio.ensure_future(there.merchant_sends(pay(key="k-1", target="/pay"), "plain"))
    await asyncio.sleep(2)
    session = await only(here)
    assert (session.in_flight, session.outcome) == (True, Outcome.UNKNOWN)
    assert [(await first).body, (await second).body] == [SUCCEEDED, SUCCEEDED]
    assert (len(here.gateway.seen), len(there.gateway.seen)) == (0, 1)


async def test_a_lease_lost_and_taken_anew_begins_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two another process may have taken the payment over: its bytes stay here."""
    here, _ = pair
    store = here.store
    assert isinstance(store, SharedStore)
    commit = store.commit

    async def slow(*arguments: Any) -> None:
        await commit(*arguments)
        died(here)
        await store.heartbeat()

    monkeypatch.setattr(store, "commit", slow)
    here.gateway.will(here.gateway.answers(200, SUCCEEDED))
    answer = await here.merchant_sends(pay(key="k-1"), "plain")
    assert b'"anythingSent":false' in answer.body
    assert here.gateway.seen == []
    assert (await only(here)).outcome is Outcome.NOT_CHARGED


def loses_its_intent(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    """After the send the store fails over to a server that has the claim and not the intent."""
    store, commit = lab.store, lab.store.commit
    claimed: list[Session] = []

    async def failover(session: Session, *more: Any) -> None:
        if session.begins_send:
            claimed.append(store._index.by_id[session.id])
            await commit(session, *more)
            return
        store._index.put(claimed[0])
        message = "failing over"
        raise StoreUnavailable(message)

    patch.setattr(store, "commit", failover)


@pytest.mark.parametrize("order", ["o-1", None])
async def test_the_end_of_one_send_is_not_taken_for_that_of_another(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, order: str | None
) -> None:
    """A failover lost an intent and gave its number away: a "no" says nothing of the other send."""
    here, there = pair
    loses_its_intent(here, monkeypatch)
    here.gateway.will(here.gateway.answers(401, b"{}"))
    there.gateway.will(*(there.gateway.hangs() for _ in range(3)))
    assert (await here.merchant_sends(pay(key="k-1", order=order))).status == 401
    monkeypatch.undo()
    assert (await there.merchant_sends(pay(key="k-1", order=order))).status == 504
    await asyncio.sleep(3)  # the first offers what it has, again and again
    session = await only(there)
    assert (session.live, session.outcome) == (True, Outcome.UNKNOWN)


async def test_a_doubt_whose_number_another_send_has_is_a_doubt(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, and no answer: that the other got nothing through does not free the order."""
    here, there = pair
    loses_its_intent(here, monkeypatch)
    here.gateway.will(here.gateway.hangs())
    there.gateway.will(*(there.gateway.refuses_connection() for _ in range(3)))
    assert (await here.merchant_sends(pay(key="k-1", order="o-1"))).status == 504
    monkeypatch.undo()
    await there.merchant_sends(pay(key="k-1", order="o-1"))
    await asyncio.sleep(3)
    session = await only(there)
    assert (session.outcome, session.locks_order) == (Outcome.UNKNOWN, True)


async def test_a_doubt_that_comes_after_a_no_is_told_to_whoever_asks(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A "no" that was written over the intent of another does not silence what that came to."""
    here, there = pair
    store, commit = here.store, here.store.commit

    async def failover(session: Session, *more: Any) -> None:
        before = store._index.by_id[session.id]
        await commit(session, *more)
        if session.begins_send:
            store._index.put(before)

    monkeypatch.setattr(store, "commit", failover)
    here.gateway.will(here.gateway.answers_late(5, 402, DECLINED))
    there.gateway.will(*(there.gateway.hangs() for _ in range(3)))
    first = asyncio.ensure_future(here.merchant_sends(pay(key="k-1", order="o-1")))
    await asyncio.sleep(1)
    await there.merchant_sends(pay(key="k-1", order="o-1"))
    assert (await first).status == 402
    session = await only(there)
    assert (session.outcome, session.locks_order) == (Outcome.UNKNOWN, True)
    there.gateway.will(there.gateway.answers(500))
    await there.merchant_sends(pay(key="k-1", order="o-1"))
    assert there.transcript[-1] == "answer 504 outcome-unknown"


async def test_a_charge_whose_number_another_send_has_is_a_charge(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same failover, and the gateway had said yes: that is never lost."""
    here, there = pair
    loses_its_intent(here, monkeypatch)
    here.gateway.will(here.gateway.answers(200, SUCCEEDED))
    there.gateway.will(*(there.gateway.hangs() for _ in range(3)))
    assert (await here.merchant_sends(pay(key="k-1"))).status == 200
    monkeypatch.undo()
    await there.merchant_sends(pay(key="k-1"))
    await asyncio.sleep(3)
    assert (await only(there)).outcome is Outcome.CHARGED
