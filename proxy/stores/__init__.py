"""Where sessions are kept. `README.md` says what each store promises and how to add one."""

from __future__ import annotations

from pathlib import Path

from proxy.ports import Clock, Recorder, SessionStore, StoreUnavailable

_NEEDS = "this store needs {}, which is not installed: install holdfast[{}]"


def make_store(store: str, lease: float, clock: Clock, recorder: Recorder) -> SessionStore:
    """The store a setting names: `memory://`, a server's URL, or the path of an SQLite file.

    `lease`: for how many seconds a process that shares its store is taken for alive.
    """
    if store == "memory://":
        from proxy.stores.memory import MemoryStore  # noqa: PLC0415 -- load only what is used

        return MemoryStore(clock)
    if store.startswith("postgresql://"):
        try:
            from proxy.stores.postgres import PostgresStore  # noqa: PLC0415 -- load only what is used
        except ModuleNotFoundError as missing:
            raise StoreUnavailable(_NEEDS.format(missing.name, "postgresql")) from None
        return PostgresStore(store, lease, clock, recorder)
    if store.startswith("redis://"):
        try:
            from proxy.stores.redis import RedisStore  # noqa: PLC0415 -- load only what is used
        except ModuleNotFoundError as missing:
            raise StoreUnavailable(_NEEDS.format(missing.name, "redis")) from None
        return RedisStore(store, lease, clock, recorder)
    from proxy.stores.sqlite import SqliteStore  # noqa: PLC0415 -- load only what is used

    return SqliteStore(Path(store), clock, recorder)
