"""What happens to sessions that the last process left behind, and to those nobody walks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.session import Session, apply
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.flow.commands import Order
from tests.support.clocks import LoopClock
from tests.support.lab import SUCCEEDED, Lab, SharedStore, pay, settings_from

pytestmark = pytest.mark.looptime


async def left_behind(lab: Lab) -> None:
    """A session whose process was killed while its request was out."""
    session, _ = await lab.commands.create(Order("o-1", None, "stripe", None, None))
    intent = apply(session, ev.AttemptStarted(lab.clock.now_ms(), 1, "stripe"))
    await lab.store.commit(intent, session.version, None)


async def test_what_was_in_flight_is_unknown_after_a_restart(lab: Lab) -> None:
    """The owner of the send is gone: INTERRUPTED, unknown, listed, with the reason."""
    await left_behind(lab)
    assert await lab.reconciler.take_over() == 1
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)
    assert [stop.reason for stop in session.interruptions] == [Reason.PROCESS_RESTART]
    assert session.listed
    assert await lab.reconciler.take_over() == 0


async def test_a_charge_does_not_hide_a_send_whose_process_died(lab: Lab) -> None:
    """Charged by the late answer of the send before, while another was out: that is closed, too."""
    await left_behind(lab)
    session = await lab.only_session()
    charge = ev.EvidenceFound(
        lab.clock.now_ms(), ev.EvidenceSource.WEBHOOK, AttemptStatus.SUCCEEDED, "pi_1"
    )
    sent = replace(session.attempts[0], number=2)
    lost = replace(sent, number=1, status=AttemptStatus.SUCCEEDED)
    charged = replace(apply(session, charge), attempts=(lost, sent))
    await lab.store.commit(charged, session.version, None)
    assert (charged.in_flight, charged.listed) == (True, True)
    assert await lab.reconciler.take_over() == 1
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.COMPLETED, Outcome.CHARGED)
    assert (session.in_flight, session.listed) == (False, False)


async def test_a_session_without_a_send_is_left_alone_by_a_restart(lab: Lab) -> None:
    """Created and waiting for its request: it still waits."""
    await lab.commands.create(Order("o-1", None, None, None, None))
    assert await lab.reconciler.take_over() == 0
    assert (await lab.only_session()).state is State.INITIATED


async def test_deadlines_pass_by_themselves(lab: Lab) -> None:
    """Fifteen minutes without a request: EXPIRED, without anyone asking."""
    await lab.commands.create(Order("o-1", None, None, None, None))
    await asyncio.sleep(15 * 60 - 1)
    await lab.reconciler.run_once()
    assert (await lab.only_session()).state is State.INITIATED
    await asyncio.sleep(1)
    await lab.reconciler.run_once()
    assert (await lab.only_session()).state is State.EXPIRED


async def test_an_unknown_never_expires(lab: Lab) -> None:
    """A timer does not turn unknown into anything."""
    lab.gateway.will(lab.gateway.loses_answer())
    await lab.merchant_sends(pay(key="k-1", target="/pay"), gateway="plain")
    await asyncio.sleep(40 * 24 * 3600)
    await lab.reconciler.run_once()
    session = await lab.only_session()
    assert (session.state, session.outcome) == (State.INTERRUPTED, Outcome.UNKNOWN)


async def test_a_walk_is_left_to_its_walker(lab: Lab) -> None:
    """What is being brought forward right now is nobody else's business."""
    lab.gateway.will(lab.gateway.answers_late(8, 200, SUCCEEDED))
    request = asyncio.ensure_future(lab.merchant_sends(pay(key="k-1")))
    await asyncio.sleep(5)
    await lab.reconciler.run_once()
    assert (await request).status == 200
    assert len(lab.gateway.seen) == 1


async def test_it_runs_until_it_is_stopped(lab: Lab) -> None:
    """Once a second, and a store that fails for a while does not end it."""
    await lab.commands.create(Order("o-1", None, None, None, None))
    running = asyncio.ensure_future(lab.reconciler.run())
    lab.store.failing = True
    await asyncio.sleep(16 * 60)
    assert (await lab.only_session()).state is State.INITIATED
    lab.store.failing = False
    await asyncio.sleep(2)
    assert (await lab.only_session()).state is State.EXPIRED
    running.cancel()


async def test_one_bad_session_does_not_stop_the_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug with one of them is told, and the next is looked after."""
    for order in ("o-1", "o-2"):
        await lab.commands.create(Order(order, None, None, None, None))
    real, seen = lab.commands.look_after, []

    async def look_after(session: Session) -> None:
        seen.append(session.order_ref)
        if session.order_ref == "o-1":
            message = "odd"
            raise RuntimeError(message)
        await real(session)

    monkeypatch.setattr(lab.commands, "look_after", look_after)
    await lab.reconciler.run_once()
    assert seen == ["o-1", "o-2"]
    assert [str(bug) for bug in lab.bugs] == ["odd"]
    lab.bugs.clear()


async def test_a_slow_gateway_holds_up_its_own_sessions_only(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one gateway takes its time to be asked, another one's payments are settled."""
    for gateway in ("stripe", "plain"):
        await lab.commands.create(Order(f"o-{gateway}", None, gateway, None, None))
    settled: list[tuple[str | None, float]] = []
    begun = lab.clock.monotonic()

    async def look_after(session: Session) -> None:
        await asyncio.sleep(60 if session.gateway == "stripe" else 1)
        settled.append((session.gateway, lab.clock.monotonic() - begun))

    monkeypatch.setattr(lab.commands, "look_after", look_after)
    await lab.reconciler.run_once()
    assert settled == [("plain", 1), ("stripe", 60)]


KEEPING = """
store: memory://
gateways:
  strong:
    profile: generic
    idempotency: {class: A_strong, window: 24h}
    listen: "127.0.0.1:0"
    upstream: "http://127.0.0.1:1"
    routes:
      - {name: pay, match: {methods: [POST], path: /pay}, session: durable, keep_request: KEEP}
"""


@pytest.mark.parametrize("keep", ["true", "false"])
async def test_a_kept_request_is_resumed_after_a_restart(tmp_path: Path, keep: str) -> None:
    """The next process sends the same bytes; not kept, only the backend can bring them."""
    settings = settings_from(KEEPING.replace("KEEP", keep), tmp_path)
    heard: list[str] = []
    before = Lab(settings, SharedStore(LoopClock(), heard))
    before.gateway.will(before.gateway.hangs())
    paying = asyncio.ensure_future(before.merchant_sends(pay(key="k", target="/pay"), "strong"))
    await asyncio.sleep(1)
    assert isinstance(before.store, SharedStore)
    sealed = await before.store.request((await before.only_session()).id)
    assert sealed is None or b"sk_test_lab" not in sealed
    before.store.leases[1] = 0.0  # it is gone

    after = Lab(settings, SharedStore(LoopClock(), heard, before.store))
    assert await after.reconciler.take_over() == 1
    after.gateway.will(after.gateway.answers(200, SUCCEEDED))
    session = await after.only_session()
    resumption = await after.commands.resume(session.id)
    await after.settle_down()
    assert resumption.message.startswith("sending" if keep == "true" else "send the same request")
    assert len(after.gateway.seen) == (keep == "true")
    if keep == "true":
        (first,), (again,) = before.gateway.seen, after.gateway.seen
        assert (again.headers, again.body) == (first.headers, first.body)
        session = await after.only_session()
        assert session.outcome is Outcome.CHARGED
        assert await after.store.request(session.id) is None
    paying.cancel()
    await before.close()
    await after.close()
