"""The circuit breaker: closed → open → half-open → closed, by the clock that is handed in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.core.breaker import Breaker, BreakerState, Switch, proves_alive
from proxy.core.policy import BreakerPolicy
from proxy.core.reasons import Reason
from proxy.core.wire import Phase, WireFacts

POLICY = BreakerPolicy(failure_ratio=0.5, min_calls=4, window=30.0, open_for=15.0, probes=2)
CLOSED, HALF_OPEN, OPEN = BreakerState


def hear(breaker: Breaker, now: float, results: str) -> None:
    """Report results: `F` failed, `s` succeeded, `-` says nothing; `S` succeeded after 5 s."""
    for result in results:
        failed = {"F": True, "s": False, "S": False, "-": None}[result]
        seconds = 5.0 if result == "S" else 0.1
        breaker.record(breaker.generation, now, failed=failed, seconds=seconds)


def probe(breaker: Breaker, now: float, results: str) -> None:
    """Report probes: `s` was answered, `F` was not."""
    for result in results:
        breaker.probed(breaker.generation, now, alive=result == "s")


def tripped(now: float = 0.0) -> Breaker:
    """A breaker that opened at `now`."""
    breaker = Breaker(POLICY)
    hear(breaker, now, "FFFF")
    return breaker


def rested(now: float = 15.0) -> Breaker:
    """A breaker that opened a rest before `now`, and is to be probed."""
    breaker = tripped(now - 15.0)
    assert breaker.wants_probe(now)
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
        ("SSSS", CLOSED),  # nobody said what slow is
    ],
)
def test_when_it_opens(results: str, state: BreakerState) -> None:
    """At a share of failures among enough calls, at the moment of a failure."""
    breaker = Breaker(POLICY)
    hear(breaker, 1.0, results)
    assert breaker.state is state
    assert breaker.allows() is (state is CLOSED)


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("FF", CLOSED),
        ("FFF", OPEN),
        ("FFsFF", CLOSED),  # not in a row
        ("F-F-F", OPEN),  # a decline in between is neither
        ("ssssssssssFFF", OPEN),
    ],
)
def test_it_opens_at_failures_in_a_row(results: str, state: BreakerState) -> None:
    """However few calls there were, and however good the past was."""
    breaker = Breaker(replace(POLICY, consecutive=3, min_calls=1000))
    hear(breaker, 1.0, results)
    assert (breaker.state, breaker.why) == (state, "consecutive" if state is OPEN else "")


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("SSS", CLOSED),  # too few to judge by
        ("SSSS", OPEN),
        ("ssSS", OPEN),
        ("sssS", CLOSED),
        ("sSSs", CLOSED),  # asked of a slow one only
        ("sSSsS", OPEN),
    ],
)
def test_it_opens_at_slow_calls(results: str, state: BreakerState) -> None:
    """A gateway that answers everything, and too late, is given a rest as well."""
    breaker = Breaker(replace(POLICY, slow_call=5.0, slow_ratio=0.5))
    hear(breaker, 1.0, results)
    assert (breaker.state, breaker.why) == (state, "slow_ratio" if state is OPEN else "")


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


def test_open_refuses_until_probes_have_closed_it() -> None:
    """It says how much of its rest is left; that the rest is over lets no payment through."""
    breaker = tripped(100.0)
    assert breaker.retry_after(100.0) == 15.0
    assert not breaker.wants_probe(114.9)
    assert breaker.retry_after(114.0) == 1.0
    assert breaker.retry_after(120.0) == 0.0
    assert not breaker.allows()
    assert breaker.wants_probe(115.0)
    assert breaker.state is HALF_OPEN
    assert breaker.retry_after(115.0) == 0.0
    assert not breaker.allows()
    assert Breaker(POLICY).retry_after(0.0) == 0.0


def test_enough_probes_in_a_row_close_it() -> None:
    """And what failed before does not count any more."""
    breaker = rested()
    probe(breaker, 15.0, "s")
    assert breaker.wants_probe(15.2)
    assert not breaker.allows()
    probe(breaker, 15.2, "s")
    assert breaker.allows()
    assert not breaker.wants_probe(15.3)
    hear(breaker, 16.0, "FFF")
    assert breaker.state is CLOSED
    hear(breaker, 16.0, "F")
    assert breaker.state is OPEN


def test_a_probe_that_fails_opens_it_anew() -> None:
    """Its rest begins again from there, and so does the count of the good ones."""
    breaker = rested()
    probe(breaker, 20.0, "sF")
    assert breaker.state is OPEN
    assert not breaker.wants_probe(34.9)
    assert breaker.wants_probe(35.0)
    probe(breaker, 35.0, "s")
    assert breaker.state is HALF_OPEN


@pytest.mark.parametrize("result", "FsS-")
def test_a_payment_from_before_does_not_count_as_a_probe(result: str) -> None:
    """Whenever it is heard of, and whatever came of it: only probes close it, or open it again."""
    breaker = Breaker(POLICY)
    before = breaker.generation
    hear(breaker, 0.0, "FFFF")
    breaker.record(before, 10.0, failed=result == "F")
    assert (breaker.state, breaker.wants_probe(15.0)) == (OPEN, True)
    hear(breaker, 16.0, result)  # a repeat that was waiting when it opened
    breaker.record(before, 16.0, failed=result == "F")
    assert breaker.state is HALF_OPEN


def test_a_probe_from_an_earlier_rest_is_dropped() -> None:
    """A person was quicker than its answer."""
    breaker = rested()
    before = breaker.generation
    breaker.switch(Switch.CLOSED, 16.0, "it is back")
    breaker.probed(before, 17.0, alive=False)
    assert breaker.state is CLOSED
    hear(breaker, 18.0, "FFFF")
    breaker.probed(before, 19.0, alive=True)
    breaker.probed(before, 19.0, alive=True)
    assert breaker.state is OPEN


# --- by hand --------------------------------------------------------------------------------------


def test_opened_by_hand_it_stays_open() -> None:
    """No rest ends it, and nobody can say when it will close."""
    breaker = Breaker(POLICY)
    breaker.switch(Switch.OPEN, 0.0, "their maintenance")
    assert (breaker.state, breaker.by_hand, breaker.why) == (OPEN, True, "their maintenance")
    assert not breaker.allows()
    assert not breaker.wants_probe(1000.0)
    assert breaker.retry_after(1000.0) == 15.0
    breaker.switch(Switch.CLOSED, 1000.0, "done")
    assert breaker.allows()
    hear(breaker, 1001.0, "FFFF")
    assert (breaker.state, breaker.by_hand) == (OPEN, False)


def test_one_that_opened_by_itself_can_be_held_open() -> None:
    """The rest does not end then."""
    breaker = tripped()
    breaker.switch(Switch.OPEN, 1.0, "leave it alone")
    assert not breaker.wants_probe(1000.0)


def test_what_was_opened_by_hand_can_be_left_to_probes() -> None:
    """It closes if they are answered, and rests again if not."""
    breaker = Breaker(POLICY)
    breaker.switch(Switch.OPEN, 0.0, "their maintenance")
    breaker.switch(Switch.AUTO, 100.0, "see for yourself")
    assert breaker.wants_probe(100.0)
    probe(breaker, 100.0, "F")
    assert breaker.wants_probe(115.0)
    probe(breaker, 115.0, "ss")
    assert breaker.state is CLOSED


@pytest.mark.parametrize(
    ("before", "to"),
    [(Breaker(POLICY), Switch.CLOSED), (Breaker(POLICY), Switch.AUTO), (tripped(), Switch.AUTO)],
)
def test_what_is_so_already_stays_as_it_is(before: Breaker, to: Switch) -> None:
    """What was counted is not thrown away, and a rest does not begin anew."""
    generation, state = before.generation, before.state
    before.switch(to, 1.0, "to be sure")
    assert (before.generation, before.state) == (generation, state)


# --- what a probe says ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "alive"),
    [(200, True), (302, True), (401, True), (404, True), (429, False), (500, False), (503, False)],
)
def test_which_answers_prove_a_gateway_alive(status: int, *, alive: bool) -> None:
    """Any but an error of its own or a throttle: who asks for a credential works."""
    assert proves_alive(WireFacts(True, Phase.ANSWERED, status=status)) is alive


def test_no_answer_proves_nothing() -> None:
    """Nor does half of one."""
    assert not proves_alive(WireFacts(False, Phase.CONNECTING, Reason.CONNECT_TIMEOUT))
    cut = WireFacts(True, Phase.READING_RESPONSE, Reason.ANSWER_TRUNCATED, status=200)
    assert not proves_alive(cut)
