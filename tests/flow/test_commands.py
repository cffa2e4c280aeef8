"""The verbs of the session API on the flow itself; HTTP is in tests/web/test_sessions_api.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.core.states import Outcome, State
from proxy.flow.commands import Mode, NoSuchSession, NotAllowed, Order
from tests.support.lab import POLICY, SUCCEEDED, Lab, pay, settings_from

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
