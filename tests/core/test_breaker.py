"""The circuit breaker: closed → open → half-open → closed, by the clock that is handed in."""

from __future__ import annotations

import pytest

from proxy.core.breaker import Breaker, BreakerState
from proxy.core.policy import BreakerPolicy

POLICY = BreakerPolicy(failure_ratio=0.5, min_calls=4, window=30.0, open_for=15.0)
CLOSED, HALF_OPEN, OPEN = BreakerState


def hear(breaker: Breaker, now: float, results: str) -> None:
    """Report results: `F` failed, `s` succeeded, `-` says nothing."""
    for result in results:
        failed = {"F": True, "s": False, "-": None}[result]
        breaker.record(breaker.generation, now, failed=failed)


def tripped(now: float = 0.0) -> Breaker:
    """A breaker that opened at `now`."""
    breaker = Breaker(POLICY)
    hear(breaker, now, "FFFF")
    return breaker


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("", CLOSED),
        ("FFF", CLOSED),  # too few to judge by
        ("FFFF", OPEN),
        ("ssFF", OPEN),  # half of them
        ("sssF", CLOSED),
        ("ssssssFFF", CLOSED),
        ("ssssFFFF", OPEN),
        ("FFFs", CLOSED),  # only a failure opens it: a success is good news
        ("FFFsF", OPEN),
        ("F-F-F---", CLOSED),  # what says nothing does not count
        ("F-F-F-F", OPEN),
    ],
)
def test_when_it_opens(results: str, state: BreakerState) -> None:
    """At a share of failures among enough calls, at the moment of a failure."""
    breaker = Breaker(POLICY)
    hear(breaker, 1.0, results)
    assert breaker.state is state
    assert breaker.allows(1.0) is (state is CLOSED)


def test_old_results_are_forgotten() -> None:
    """Three failures half a minute ago are no reason to open now; a moment less, and they are."""
    breaker = Breaker(POLICY)
    hear(breaker, 0.0, "FFF")
    hear(breaker, 30.1, "F")
    assert breaker.state is CLOSED
    hear(breaker, 30.1, "FF")
    assert breaker.state is CLOSED
    hear(breaker, 60.1, "F")
    assert breaker.state is OPEN


def test_successes_are_forgotten_too() -> None:
    """A good past does not outweigh a bad present."""
    breaker = Breaker(POLICY)
    hear(breaker, 0.0, "ssssssss")
    hear(breaker, 30.1, "FFFF")
    assert breaker.state is OPEN


def test_open_refuses_until_its_rest_is_over() -> None:
    """Fifteen seconds, and it says how many are left."""
    breaker = tripped(100.0)
    assert not breaker.allows(100.0)
    assert breaker.retry_after(100.0) == 15.0
    assert not breaker.allows(114.9)
    assert breaker.retry_after(114.0) == 1.0
    assert breaker.retry_after(120.0) == 0.0
    assert breaker.allows(115.0)
    assert breaker.state is HALF_OPEN
    assert breaker.retry_after(115.0) == 0.0
    assert Breaker(POLICY).retry_after(0.0) == 0.0


def test_one_probe_at_a_time() -> None:
    """Half-open lets one through and refuses the rest until it is heard of."""
    breaker = tripped()
    assert breaker.allows(15.0)
    assert not breaker.allows(15.0)
    assert not breaker.allows(20.0)


def test_a_probe_that_succeeds_closes_it() -> None:
    """And what failed before does not count any more."""
    breaker = tripped()
    assert breaker.allows(15.0)
    hear(breaker, 16.0, "s")
    assert breaker.state is CLOSED
    hear(breaker, 16.0, "FFF")
    assert breaker.state is CLOSED
    assert breaker.allows(16.0)
    hear(breaker, 16.0, "F")
    assert breaker.state is OPEN


def test_a_probe_that_fails_opens_it_anew() -> None:
    """Its rest begins again from there."""
    breaker = tripped()
    assert breaker.allows(15.0)
    hear(breaker, 20.0, "F")
    assert breaker.state is OPEN
    assert not breaker.allows(34.9)
    assert breaker.allows(35.0)


def test_a_probe_that_says_nothing_is_given_back() -> None:
    """Cancelled before it was sent: the next may probe."""
    breaker = tripped()
    assert breaker.allows(15.0)
    hear(breaker, 16.0, "-")
    assert breaker.state is HALF_OPEN
    assert breaker.allows(16.0)


def test_a_probe_that_is_never_heard_of_does_not_refuse_for_ever() -> None:
    """After another rest without a word the next may probe."""
    breaker = tripped()
    assert breaker.allows(15.0)
    assert not breaker.allows(29.9)
    assert breaker.allows(30.0)
    assert not breaker.allows(30.0)


@pytest.mark.parametrize("result", "Fs-")
def test_a_result_from_before_is_dropped(result: str) -> None:
    """A send that began while it was closed says nothing about it half-open."""
    breaker = Breaker(POLICY)
    before = breaker.generation
    hear(breaker, 0.0, "FFFF")
    assert breaker.allows(15.0)
    failed = {"F": True, "s": False, "-": None}[result]
    breaker.record(before, 16.0, failed=failed)
    assert breaker.state is HALF_OPEN
    assert not breaker.allows(16.0)


def test_results_while_open_are_dropped() -> None:
    """Answers to sends from before it opened neither close it nor lengthen its rest."""
    breaker = Breaker(POLICY)
    before = breaker.generation
    hear(breaker, 0.0, "FFFF")
    breaker.record(before, 10.0, failed=True)
    breaker.record(before, 10.0, failed=False)
    assert breaker.state is OPEN
    assert breaker.allows(15.0)
