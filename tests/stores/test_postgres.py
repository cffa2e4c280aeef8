"""What only the PostgreSQL store promises, against real servers."""

from __future__ import annotations

from proxy.ports import StoreUnavailable
from proxy.stores.postgres import PostgresStore
from proxy.system import SystemClock
from tests.support.lab import Notes
from tests.support.running import free_port


async def refused(url: str) -> str:
    """Why a store does not open."""
    try:
        await PostgresStore(url, 10.0, SystemClock(), Notes()).open()
    except StoreUnavailable as error:
        return str(error)
    raise AssertionError


async def test_no_server_is_told_without_the_password() -> None:
    """The sentence names the server, and not how to get in."""
    port = free_port()
    told = await refused(f"postgresql://me:secret@127.0.0.1:{port}/holdfast?sslmode=disable")
    assert told.startswith(f"cannot open the store postgresql://127.0.0.1:{port}/holdfast: ")
    assert "secret" not in told
