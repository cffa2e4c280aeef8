"""What the simulation found, as scenarios."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from proxy.core.reasons import Reason
from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.core.wire import Phase, WireFacts
from proxy.ports import Send, StoreUnavailable
from proxy.upstream.scripted import Step
from tests.support.clocks import LoopClock
from tests.support.lab import POLICY, SUCCEEDED, Lab, SharedStore, pay, settings_from

pytestmark = pytest.mark.looptime

ONE_BY_ITSELF = POLICY.replace("retry: {", "retry: {automatic_attempts: 1, ")
EVENT = {
    "id": "evt_1",
    "request": {"idempotency_key": "k-1"},
    "data": {"object": {"object": "payment_intent", "id": "pi_1"}},
}
EVENTS = json.dumps({"data": [EVENT], "has_more": False}).encode()
ERROR_AGAIN = WireFacts(
    True, Phase.ANSWERED, None, 500, "", (("Idempotent-Replayed", "true"),), b'{"error":{}}'
)
NOTHING = WireFacts(True, Phase.AWAITING_RESPONSE, Reason.CONNECTION_LOST)


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """The flow, one attempt at a time."""
    built = Lab(settings_from(ONE_BY_ITSELF, tmp_path))
    yield built
    await built.close()


def after_five_seconds(lab: Lab, facts: WireFacts) -> Step:
    """What comes back of a send that left."""

    async def after(_send: Send) -> WireFacts:
        await asyncio.sleep(5)
        return facts

    return lab.gateway.connected(after)


@pytest.mark.parametrize("facts", [ERROR_AGAIN, NOTHING], ids=["error", "nothing"])
async def test_a_charge_that_is_known_is_told(lab: Lab, facts: WireFacts) -> None:
    """A look-up finds the charge while a repeat is out: its 500 or silence takes nothing back."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1"))
    lab.gateway.will(lab.gateway.loses_answer(), after_five_seconds(lab, facts))
    again = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    # As the reconciler does, if its look-up began before the repeat.
    lab.gateway.will(lab.gateway.answers(200, EVENTS), lab.gateway.answers(200, SUCCEEDED))
    found = await lab.reconcile.once(lab.lanes["stripe"], await lab.only_session())
    assert found.outcome is Outcome.CHARGED
    answers = [await again, await lab.merchant_sends(pay(key="k-1"))]
    assert [(answer.status, answer.body) for answer in answers] == [(200, SUCCEEDED)] * 2


async def test_nobody_hears_what_is_not_written_yet(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel is being written, and fails: nobody was told meanwhile to pay with a new key."""
    lab.gateway.will(lab.gateway.refuses_connection())
    await lab.merchant_sends(pay(key="k-1"))
    with monkeypatch.context() as patch:
        fail_after_five_seconds(lab, patch)
        wanted = lab.commands.cancel((await lab.only_session()).id, "wanted")
        cancel = asyncio.ensure_future(wanted)
        await asyncio.sleep(1)
        lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
        again = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
        with pytest.raises(StoreUnavailable):
            await cancel
    answer = await again
    assert (answer.status, answer.body) == (200, SUCCEEDED)
    assert (await lab.only_session()).state is State.COMPLETED


def fail_after_five_seconds(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    """A commit shows in memory at once, as in every store, and fails on its way to the disk."""
    writing: list[asyncio.Future[None]] = []

    async def commit(session: Session, *_: object) -> None:
        before = lab.store._index.by_id[session.id]
        lab.store._index.put(session)
        writing.append(asyncio.get_running_loop().create_future())
        await asyncio.sleep(5)
        lab.store._index.put(before)
        writing.pop().set_result(None)
        message = "the disk is full"
        raise StoreUnavailable(message)

    async def get(session_id: str) -> Session | None:
        if writing:
            await asyncio.wait(writing)
        return lab.store._index.by_id.get(session_id)

    patch.setattr(lab.store, "get", get)
    patch.setattr(lab.store, "commit", commit)


async def test_an_intent_that_took_too_long_is_not_used(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In time when it was handed to the disk, past the deadline when it was durable: not sent."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1"))
    await asyncio.sleep(15 * 60 - 1 - lab.clock.monotonic())
    commit = lab.store.commit

    async def slow(session: Session, expected: int, answer: bytes | None) -> None:
        await asyncio.sleep(2)
        await commit(session, expected, answer)

    monkeypatch.setattr(lab.store, "commit", slow)
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    assert len(lab.gateway.seen) == 1


async def test_an_intent_that_was_taken_over_unused_was_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its write outlasts the lease, and another takes it for lost; who never used it knows."""
    settings, clock = settings_from(ONE_BY_ITSELF, tmp_path), LoopClock()
    here = Lab(settings, SharedStore(clock, []))
    assert isinstance(here.store, SharedStore)
    there = Lab(settings, SharedStore(clock, [], here.store))
    commit = here.store.commit

    async def outlasts_the_lease(*told: Any) -> None:
        await commit(*told)
        monkeypatch.undo()
        await asyncio.sleep(SharedStore.LEASE + 1)
        await here.store.heartbeat()

    monkeypatch.setattr(here.store, "commit", outlasts_the_lease)
    here.gateway.will(here.gateway.answers(200, SUCCEEDED))
    paying = asyncio.ensure_future(here.merchant_sends(pay(key="k-1", target="/pay"), "plain"))
    await asyncio.sleep(SharedStore.LEASE + 0.5)
    assert await there.reconciler.take_over() == 1
    await paying
    assert here.gateway.seen == []
    session = await there.only_session()
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.NOT_CHARGED)
    for lab in (here, there):
        await lab.close()


async def test_an_answer_that_was_never_written_is_not_gone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settled while its write was under way, which fails: come again, not "answer not kept"."""
    lab.gateway.will(lab.gateway.answers(200, SUCCEEDED))
    await lab.merchant_sends(pay(key="k-1"))
    settled = await lab.only_session()

    async def fails(_session_id: str) -> None:
        before = replace(settled, version=settled.version - 1, state=State.INITIATED)
        lab.store._index.put(before)

    with monkeypatch.context() as patch:
        patch.setattr(lab.store, "answer", fails)
        await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 409 request-in-progress"
    # The control: it is on record as settled, and its answer is no longer kept.
    lab.store._index.put(settled)
    lab.store._answers.clear()
    await lab.merchant_sends(pay(key="k-1"))
    assert lab.transcript[-1] == "answer 409 answer-not-kept"


async def test_a_look_up_proves_nothing_about_a_later_send(lab: Lab) -> None:
    """Two minutes after a lost send it is asked, and meanwhile sent again: the gateway is at it."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1"))
    await asyncio.sleep(130)
    at_work = b'{"id":"pi_1","object":"payment_intent","status":"requires_confirmation"}'
    lab.gateway.will(lab.gateway.answers_late(5, 200, EVENTS))
    asking = lab.reconcile.once(lab.lanes["stripe"], await lab.only_session())
    look_up = asyncio.ensure_future(asking)
    await asyncio.sleep(1)
    lab.gateway.will(lab.gateway.loses_answer(), lab.gateway.answers(409))
    await lab.merchant_sends(pay(key="k-1"))
    lab.gateway.will(lab.gateway.answers(200, at_work))
    assert (await look_up).outcome is Outcome.UNKNOWN


async def test_an_acceptance_found_meanwhile_is_told(lab: Lab) -> None:
    """A look-up finds that the payer is being asked, while a repeat connects: no new payment."""
    waiting = b'{"id":"pi_1","object":"payment_intent","status":"requires_action"}'

    async def connecting(send: Send) -> WireFacts:
        await asyncio.sleep(5)
        return await lab.gateway.answers(200, SUCCEEDED)(send)

    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1"))
    await asyncio.sleep(130)
    lab.gateway.will(connecting)
    again = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(1)
    lab.gateway.will(lab.gateway.answers(200, EVENTS), lab.gateway.answers(200, waiting))
    await lab.reconcile.once(lab.lanes["stripe"], await lab.only_session())
    assert ((await again).status, (await again).body) == (200, waiting)
