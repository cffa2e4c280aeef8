"""Where sessions are kept. `README.md` says what each store promises and how to add one."""

from __future__ import annotations

from pathlib import Path

from proxy.ports import Clock, Recorder, SessionStore


def make_store(store: str, clock: Clock, recorder: Recorder) -> SessionStore:
    """The store a setting names: `memory://`, or the path of an SQLite file."""
    if store == "memory://":
        from proxy.stores.memory import MemoryStore  # noqa: PLC0415 -- load only what is used

        return MemoryStore(clock)
    from proxy.stores.sqlite import SqliteStore  # noqa: PLC0415 -- load only what is used

    return SqliteStore(Path(store), clock, recorder)
