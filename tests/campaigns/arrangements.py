"""What a campaign arranges in one of its Holdfasts before that begins to serve.

Nothing of this is in the product: its rooms' own functions are wrapped from outside.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy import app
from proxy.flow import attempts, pipeline
from proxy.stores import postgres
from tests.support.crashing import crash_at


def _sends_again() -> None:
    """What is unknown is sent again by whoever took it over, whatever the gateway promises."""
    for room in (attempts, pipeline):
        room.repeat_barrier = lambda *_: None  # type: ignore[attr-defined]


def _version(name: str) -> None:
    """A build of another name; on a shared store it stands with the process's epoch."""
    for room in (app, postgres):
        room.__version__ = name  # type: ignore[attr-defined]


_KINDS: dict[str, Callable[..., None]] = {
    "crash": lambda point, passings: crash_at(point, int(passings)),
    "take-over-sends-again": _sends_again,
    "version": _version,
}


def arrange(words: list[str]) -> None:
    """Carry out what the words say: a kind, and what it needs to know."""
    if words:
        kind, *more = words
        _KINDS[kind](*more)
