"""What a campaign arranges in one of its Holdfasts before that begins to serve.

Nothing of this is in the product: its rooms' own functions are wrapped from outside.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.flow import attempts, pipeline
from tests.support.crashing import crash_at


def _sends_again() -> None:
    """What is unknown is sent again by whoever took it over, whatever the gateway promises."""
    for room in (attempts, pipeline):
        room.repeat_barrier = lambda *_: None  # type: ignore[attr-defined]


_KINDS: dict[str, Callable[..., None]] = {
    "crash": lambda point, passings: crash_at(point, int(passings)),
    "take-over-sends-again": _sends_again,
}


def arrange(words: list[str]) -> None:
    """Carry out what the words say: a kind, and what it needs to know."""
    if words:
        kind, *more = words
        _KINDS[kind](*more)
