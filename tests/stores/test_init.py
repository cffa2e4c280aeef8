"""Which store a setting names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.ports import StoreUnavailable
from proxy.stores import make_store
from proxy.stores.memory import MemoryStore
from proxy.stores.sqlite import SqliteStore
from proxy.system import SystemClock
from tests.support.lab import Notes
from tests.support.shell import environment

# Which modules of a fresh process know of a store, once one was made; nothing is opened.
_MAKE = """
import sys
from proxy.stores import make_store
make_store(sys.argv[1], 10.0, None, None)
stores = ("memory", "sqlite", "postgres", "redis")
stores = (*(f"proxy.stores.{name}" for name in stores), "asyncpg", "redis", "apsw", "sqlite3")
print(*(name for name in stores if name in sys.modules))
"""


def test_memory_is_named_as_a_url() -> None:
    """`memory://` is the store that forgets."""
    assert isinstance(make_store("memory://", 10.0, SystemClock(), Notes()), MemoryStore)


async def test_everything_else_is_a_file(tmp_path: Path) -> None:
    """A path is an SQLite file, made when the store is opened and not before."""
    path = tmp_path / "sessions.db"
    store = make_store(str(path), 10.0, SystemClock(), Notes())
    assert isinstance(store, SqliteStore)
    assert not path.exists()
    await store.open()
    assert path.read_bytes().startswith(b"SQLite format 3")
    await store.close()


def test_a_store_whose_client_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clients of servers are extras."""
    monkeypatch.delitem(sys.modules, "proxy.stores.postgres", raising=False)
    monkeypatch.delitem(sys.modules, "proxy.stores.postgres_server", raising=False)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(StoreUnavailable, match=r"asyncpg.* install holdfast\[postgresql\]"):
        make_store("postgresql://h/d", 10.0, SystemClock(), Notes())


@pytest.mark.parametrize(
    ("named", "loaded"),
    [
        ("memory://", ["proxy.stores.memory"]),
        ("holdfast.db", ["proxy.stores.sqlite", "apsw"]),
        ("redis://h/0", ["proxy.stores.redis", "redis"]),
        ("postgresql://h/d", ["proxy.stores.postgres", "asyncpg"]),
    ],
)
def test_only_the_store_in_use_is_loaded(named: str, loaded: list[str], tmp_path: Path) -> None:
    """A Holdfast that keeps sessions in memory never loads SQLite, nor the other way round."""
    done = subprocess.run(
        [sys.executable, "-c", _MAKE, named],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == loaded
    assert list(tmp_path.iterdir()) == []
