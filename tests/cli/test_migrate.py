"""`holdfast migrate`: the schema of a store that replicas share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest_asyncio

from proxy.stores.postgres_server import MIGRATIONS
from tests.support.postgres import empty_place, postgres
from tests.support.running import free_port, policy
from tests.support.shell import Finished, holdfast

KEY = {"HOLDFAST_KEY": "0" * 64}


@pytest_asyncio.fixture
async def url() -> AsyncIterator[str]:
    """An empty schema on a server."""
    with postgres() as server:
        yield await empty_place(server)


async def migrate(folder: Path, store: str, *more: str) -> Finished:
    """The command, for a policy with this store."""
    config = folder / "policy.yaml"
    config.write_text(policy("http://127.0.0.1:1", store=store))
    return await holdfast("migrate", "--config", config, *more, environ=KEY)


async def test_an_empty_database_gets_its_tables(url: str, tmp_path: Path) -> None:
    """Each script that ran is named; the second time there is nothing to do."""
    done = await migrate(tmp_path, url)
    assert (done.code, done.out.split()) == (0, [script.stem for script in MIGRATIONS])
    done = await migrate(tmp_path, url)
    assert (done.code, done.out) == (0, "nothing to do: the schema is up to date\n")


async def test_a_loss_is_accepted_by_a_person(url: str, tmp_path: Path) -> None:
    """Each time is another generation of the store, also if nothing was known to be lost."""
    await migrate(tmp_path, url)
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE meta SET regressed = 'it has lost 1 of the payments'")
    await connection.close()
    done = await migrate(tmp_path, url, "--accept-loss")
    assert (done.code, done.out) == (0, "accepted: the store is trusted again (generation 2)\n")
    done = await migrate(tmp_path, url, "--accept-loss")
    told = "there was nothing to accept: no loss is on record (generation 3 now)\n"
    assert (done.code, done.out) == (0, told)


async def test_a_server_that_is_away_is_named(tmp_path: Path) -> None:
    """Nothing was done, and why."""
    port = free_port()
    done = await migrate(tmp_path, f"postgresql://me@127.0.0.1:{port}/holdfast")
    told = f"nothing done: cannot open the store postgresql://127.0.0.1:{port}/holdfast: "
    assert done.code == 1
    assert done.err.startswith(told)


async def test_a_file_needs_none(tmp_path: Path) -> None:
    """SQLite is brought up to date by the start, and has nothing to accept."""
    done = await migrate(tmp_path, "sqlite:///s.db")
    assert (done.code, done.out) == (0, "nothing to do: the start brings this store up to date\n")
    done = await migrate(tmp_path, "sqlite:///s.db", "--accept-loss")
    assert done.code == 1
    file = tmp_path / "s.db"
    assert not file.exists()
