"""Keys by what was asked for with them: how many are remembered, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.idempotency import Identity, KeySource
from proxy.flow import recent
from proxy.flow.recent import Recent
from tests.support.clocks import LoopClock

pytestmark = pytest.mark.looptime


def identity(key: str, asked: str = "f", tenant: str = "t") -> Identity:
    """Who asks for it, under which key."""
    return Identity(tenant, KeySource.CLIENT, key, key, asked, 1, None, False)


async def test_only_the_same_request_of_the_same_credential() -> None:
    """Another body, or another account, is another matter."""
    remembered = Recent(LoopClock(), 60)
    remembered.add(identity("a"), "ps_1")
    remembered.add(identity("b"), "ps_2")
    assert remembered.others(identity("c")) == {"b": "ps_2", "a": "ps_1"}
    assert remembered.others(identity("c", asked="g")) == {}
    assert remembered.others(identity("c", tenant="u")) == {}


async def test_a_key_that_is_known_is_not_new() -> None:
    """A repeat of the first key is a repeat, whatever came after it. What was dropped is new."""
    remembered = Recent(LoopClock(), 60)
    for key in ("a", "b"):
        remembered.add(identity(key), f"ps_{key}")
    assert remembered.others(identity("a")) == {}
    remembered.drop(identity("b"), "ps_b")
    assert remembered.others(identity("b")) == {"a": "ps_a"}


async def test_a_repeat_stands_for_the_session_that_its_key_has() -> None:
    """It was to have one of its own, and that was never opened."""
    remembered = Recent(LoopClock(), 60)
    for session_id in ("ps_1", "ps_2"):
        remembered.add(identity("a"), session_id)
    remembered.drop(identity("a"), "ps_2")
    assert remembered.others(identity("c")) == {"a": "ps_1"}


async def test_nothing_is_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not beyond its time, not more requests than there is room for, not every key of one."""
    monkeypatch.setattr(recent, "_MOST", 2)
    remembered = Recent(LoopClock(), 60)
    for number in range(20):
        remembered.add(identity(f"k{number}"), f"ps_{number}")
    assert list(remembered.others(identity("x")).values()) == [f"ps_{n}" for n in range(19, 11, -1)]
    for asked in ("g", "h"):
        remembered.add(identity("a", asked), "ps_a")
    assert remembered.others(identity("x")) == {}
    await asyncio.sleep(61)
    assert remembered.others(identity("x", "h")) == {}
    remembered.add(identity("b", "h"), "ps_b")
    assert remembered.others(identity("x", "h")) == {"b": "ps_b"}
