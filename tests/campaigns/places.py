"""The stores that a campaign can be run on: real servers, or a file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tests.support.postgres import postgres
from tests.support.valkey import valkey


@contextlib.contextmanager
def _file() -> Iterator[str]:
    yield "sqlite:///holdfast.db"


@contextlib.contextmanager
def _postgresql() -> Iterator[str]:
    with postgres() as server:
        yield server.url


@contextlib.contextmanager
def _valkey() -> Iterator[str]:
    with valkey() as server:
        yield server.url


PLACES: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "sqlite": _file,
    "postgresql": _postgresql,
    "valkey": _valkey,
}
# Where several processes share a store.
SHARED = frozenset(PLACES) - {"sqlite"}
