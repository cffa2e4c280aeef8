"""A slice of `./dev campaign simulate`, and proof that it has teeth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.session import Session
from proxy.core.wire import Headers
from proxy.flow import attempts, pipeline
from proxy.flow.attempts import Attempts
from proxy.flow.walk import Walk
from tests.campaigns.sim.plan import plan_of
from tests.campaigns.simulate import play, simulate

Mutation = Callable[[pytest.MonkeyPatch], None]


def test_a_thousand_seeds() -> None:
    """Crashes, faults, repeats, cancels: nothing charged twice, nothing told wrongly or lost."""
    assert simulate(range(1000)) == {}


def test_a_seed_is_a_run() -> None:
    """The same seed is the same run, word for word."""
    first: list[str] = []
    second: list[str] = []
    play(plan_of(7), first.append)
    play(plan_of(7), second.append)
    assert first == second
    assert first != []


def a_new_key_for_each_send(patch: pytest.MonkeyPatch) -> None:
    """The gateway cannot know that it is the same payment."""
    real = Attempts._headers

    def headers(self: Attempts, walk: Walk) -> Headers:
        number = len(walk.session.attempts)
        kept = [pair for pair in real(self, walk) if pair[0].lower() != "idempotency-key"]
        return (*kept, ("Idempotency-Key", f"{walk.session.id}-{number}"))

    patch.setattr(Attempts, "_headers", headers)


def repeats_without_a_promise(patch: pytest.MonkeyPatch) -> None:
    """Every gateway is treated as if it honoured keys for ever."""

    def never(*_: Any) -> None:
        return None

    patch.setattr(attempts, "repeat_barrier", never)
    patch.setattr(pipeline, "repeat_barrier", never)


def no_order_lock(patch: pytest.MonkeyPatch) -> None:
    """Two keys for one order are two payments."""
    patch.setattr(Session, "locks_order", property(lambda _: False))


@pytest.mark.parametrize(
    "mutation", [a_new_key_for_each_send, repeats_without_a_promise, no_order_lock]
)
def test_a_protection_switched_off_is_noticed(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative controls: customers are charged twice, and the checker says so."""
    mutation(monkeypatch)
    for seed in range(2000):
        if any(violation.name == "I1" for violation in play(plan_of(seed))):
            return
    pytest.fail("nobody noticed")
