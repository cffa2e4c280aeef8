"""What a campaign arranges in one of its Holdfasts before that begins to serve.

Nothing of this is in the product: its rooms' own functions are wrapped from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy import app
from proxy.flow import attempts, pipeline
from proxy.stores import postgres, redis, redis_server
from tests.support.crashing import crash_at


def _sends_again() -> None:
    """What is unknown is sent again by whoever took it over, whatever the gateway promises."""
    attempts.repeat_barrier = lambda *_: None  # type: ignore[attr-defined]
    for room in (attempts, pipeline):
        room.barrier_to_ask_again = lambda *_: None  # type: ignore[attr-defined]


def _version(name: str) -> None:
    """A build of another name; on a shared store it stands with the process's epoch."""
    for room in (app, postgres):
        room.__version__ = name  # type: ignore[attr-defined]


def _trusting(*more: str) -> None:
    """A Redis server is taken as it is and at its word: what it has answered counts. `unguarded`:
    nobody asks a server that is another than before for what was acknowledged.
    """
    redis_server._MUST_BE = ()  # type: ignore[assignment]
    check = redis_server.Server._check

    async def unconfirmed(server: redis_server.Server, connection: Any) -> None:
        await check(server, connection)
        server.confirm = None

    redis_server.Server._check = unconfirmed  # type: ignore[method-assign, assignment]
    if "unguarded" in more:
        for store in (postgres, redis):
            store.lost = lambda *_: None  # type: ignore[attr-defined]


_KINDS: dict[str, Callable[..., None]] = {
    "crash": lambda point, passings: crash_at(point, int(passings)),
    "take-over-sends-again": _sends_again,
    "trusting": _trusting,
    "version": _version,
}


def arrange(words: list[str]) -> None:
    """Carry out what the words say: a kind, and what it needs to know."""
    if words:
        kind, *more = words
        _KINDS[kind](*more)
