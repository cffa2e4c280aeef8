"""What can happen to one send on its way to the gateway, there, and back (F1-F9 of the money
rules, section 6.2). Times are virtual seconds.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from proxy.core.reasons import Reason


class Fate(NamedTuple):
    """One send's. `arrives`, `answers` None: never. `edge`: answered before anyone looks at keys.

    `breaks`: the gateway answers 500, having charged ("after") or having done nothing ("before").
    A gateway is done with a request within two minutes, however late it arrived: that is what
    `proxy.core.lookup.SETTLE_SECONDS` takes for granted.
    """

    name: str
    connects: float = 0.0
    refused: Reason | None = None
    arrives: float | None = 0.01
    edge: int | None = None
    hint: str | None = None
    works: float = 0.05
    breaks: str | None = None
    answers: float | None = 0.01
    resets: float | None = None
    truncated: bool = False


FINE = Fate("fine")


def refused(dice: Random) -> Fate:
    """The connection never stands."""
    reasons = (Reason.CONNECTION_REFUSED, Reason.DNS_ERROR, Reason.TLS_ERROR)
    return Fate("refused", dice.choice((0.0, 0.2, 1.5)), refused=dice.choice(reasons))


def connect_timeout(_dice: Random) -> Fate:
    """Nobody takes the call."""
    return Fate("connect timeout", 60.0)


def _slow(dice: Random) -> Fate:
    return Fate("slow", dice.choice((0.0, 0.3, 1.9)), works=dice.choice((0.5, 3.0, 8.0)))


def timeout_charged(_dice: Random) -> Fate:
    """Executed, and nothing comes back."""
    return Fate("no answer, executed", answers=None)


def timeout_lost(_dice: Random) -> Fate:
    """It never arrives."""
    return Fate("no answer, never arrived", arrives=None)


def executed_late(dice: Random) -> Fate:
    """The gateway is still at it when the sender gives up."""
    works = dice.choice((11.0, 25.0, 60.0, 100.0))
    return Fate("executed late", works=works, answers=dice.choice((None, 0.01)))


def _arrives_late(dice: Random) -> Fate:
    arrives = dice.choice((9.9, 12.0, 40.0, 90.0))
    return Fate("arrives late", arrives=arrives, works=dice.choice((0.05, 3.0)), answers=None)


def _answers_late(dice: Random) -> Fate:
    return Fate("answers late", answers=dice.choice((9.93, 10.5, 20.0, 100.0)))


def reset_before(_dice: Random) -> Fate:
    """Cut off on the way there."""
    return Fate("reset before it arrived", arrives=None, resets=0.1)


def _reset_while_working(dice: Random) -> Fate:
    return Fate("reset while working", works=dice.choice((1.0, 6.0, 30.0)), resets=0.1)


def _reset_after(_dice: Random) -> Fate:
    return Fate("reset after it was executed", resets=0.2, answers=None)


def unavailable(dice: Random) -> Fate:
    """Turned away by whatever stands before the gateway."""
    return Fate("503 at the edge", edge=503, hint=dice.choice((None, None, "true")))


def _error_before(dice: Random) -> Fate:
    return Fate("500, nothing done", breaks="before", hint=dice.choice((None, "false")))


def _error_after(dice: Random) -> Fate:
    return Fate("500, executed", breaks="after", hint=dice.choice((None, "false")))


def _truncated(_dice: Random) -> Fate:
    return Fate("answer cut", truncated=True)


def throttled(_dice: Random) -> Fate:
    """Turned away, and told when to come again."""
    return Fate("429 at the edge", edge=429)


def _in_progress(dice: Random) -> Fate:
    return Fate("409 at the edge", edge=409, hint=dice.choice((None, "true")))


def _unauthorized(_dice: Random) -> Fate:
    return Fate("401 at the edge", edge=401)


_MIX = (
    (lambda _: FINE, 10), (_slow, 4), (refused, 4), (connect_timeout, 2), (timeout_charged, 6),
    (timeout_lost, 6), (executed_late, 5), (_arrives_late, 3), (_answers_late, 3),
    (reset_before, 3), (_reset_while_working, 4), (_reset_after, 3), (unavailable, 4),
    (_error_before, 2), (_error_after, 3), (_truncated, 3), (throttled, 3), (_in_progress, 2),
    (_unauthorized, 1),
)  # fmt: skip
_TOTAL = sum(weight for _, weight in _MIX)


def draw_fate(dice: Random) -> Fate:
    """What one send meets while things go wrong."""
    rest = dice.randrange(_TOTAL)
    for kind, weight in _MIX:
        rest -= weight
        if rest < 0:
            return kind(dice)
    raise AssertionError


def draw_look_up(dice: Random) -> Fate:
    """What one read meets: mostly an answer, sooner or later."""
    if dice.random() < 0.7:
        return Fate("read", works=dice.choice((0.02, 0.02, 1.0, 4.0, 9.0)))
    if dice.random() < 0.5:
        return Fate("read fails", edge=dice.choice((429, 500, 401)))
    return Fate("read lost", resets=dice.choice((0.1, None)), answers=None)
