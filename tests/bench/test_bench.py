"""A slice of `./dev bench`: that it runs, and that it would notice a proxy that does not."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import apsw
import asyncpg
import pytest
from aiohttp import web

from proxy.ports import SessionStore
from proxy.stores.postgres import PostgresStore
from proxy.stores.sqlite import SqliteStore
from tests.bench import large, stores
from tests.bench.load import WrongAnswers, prove
from tests.bench.stub import Gateway, serve
from tests.bench.targets import Target, Targets
from tests.support.postgres import postgres
from tests.support.running import ROOT
from tests.support.waiting import eventually

Send = Callable[[web.BaseRequest, str], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def stub() -> AsyncIterator[int]:
    """The stub in this process; its port."""
    server = await serve(Gateway())
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def proxy(upstream: int, send: Send) -> AsyncIterator[int]:
    """A proxy whose answers are what `send` brings; its port."""

    async def handle(request: web.BaseRequest) -> web.Response:
        return web.Response(body=await send(request, f"http://127.0.0.1:{upstream}"))

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def passed_on(request: web.BaseRequest, origin: str) -> bytes:
    """What an honest proxy does."""
    body = await request.read()
    async with aiohttp.request("POST", origin + request.path, data=body) as answer:
        return await answer.read()


async def sent_twice(request: web.BaseRequest, origin: str) -> bytes:
    """A proxy that sends every payment twice."""
    await passed_on(request, origin)
    return await passed_on(request, origin)


async def invented(request: web.BaseRequest, _origin: str) -> bytes:
    """A proxy that says yes without asking, and knows how a gateway would say it."""
    sent = await request.text()
    return json.dumps({"status": "succeeded", "id": sent.partition("description=")[2]}).encode()


async def another_ones(request: web.BaseRequest, origin: str) -> bytes:
    """A proxy that sends everything once, and mixes up the answers."""
    return (await passed_on(request, origin)).replace(b"payment-0", b"payment-9")


async def test_an_honest_proxy_stands_the_proof() -> None:
    """As many requests at the stub as payments were sent, and every answer is about its payment."""
    async with stub() as upstream, proxy(upstream, passed_on) as port:
        assert await prove("honest", port, upstream, 20) == (
            "honest: 20 payments sent, the stub saw 20 requests for 20"
        )


@pytest.mark.parametrize(
    ("send", "found"),
    [
        (sent_twice, "20 payments sent, the stub saw 40 requests for 20"),
        (invented, "20 payments sent, the stub saw 0 requests for 0"),
        (another_ones, "payments were not answered rightly"),
    ],
)
async def test_a_proxy_that_cheats_is_found_out(send: Send, found: str) -> None:
    """Sending twice, inventing an answer and giving another payment's end the benchmark."""
    async with stub() as upstream, proxy(upstream, send) as port:
        with pytest.raises(WrongAnswers, match=found):
            await prove("cheat", port, upstream, 20)


def interrupted(folder: Path, started: list[Target]) -> None:
    """A measurement that Ctrl-C ends."""
    with Targets(folder) as targets:
        started.append(targets.stub())
        started.append(targets.bare(started[0].port))
        raise KeyboardInterrupt


def test_processes_end_with_the_run(tmp_path: Path) -> None:
    """Whatever ends a measurement, nothing it started stays behind."""
    started: list[Target] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path, started)
    assert [target.process.returncode for target in started] == [-signal.SIGKILL] * 2


def test_a_small_run_prints_ratios(tmp_path: Path) -> None:
    """From `./dev bench` to the figures, with tiny numbers: ratios are positive and finite."""
    figures = tmp_path / "figures.json"
    quick = ("--quick", "--json", str(figures), "throughput", "steps")
    command = [sys.executable, "tests/bench/run.py", *quick]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "holdfast: 20 payments sent, the stub saw 20 requests for 20" in done.stdout
    assert "goal: requests/s of holdfast / bare at least 0.85" in done.stdout
    found = json.loads(figures.read_text())
    ratios = found["throughput"]["figures"]["ratios"]
    assert set(ratios) == {
        "holdfast / bare",
        "bare again / bare",
        "bare+uvloop / bare",
        "holdfast / bare+uvloop",
    }
    for measure in [measure for ratio in ratios.values() for measure in ratio.values()]:
        assert all(math.isfinite(value) and value > 0 for value in measure.values())
    assert all(math.isfinite(price) for price in found["steps"]["figures"]["steps"].values())


def test_a_small_run_of_large_stores(tmp_path: Path) -> None:
    """A thousand sessions beside ten thousand: all is asked, half is dropped, nothing is wrong."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, "tests/bench/run.py", "--quick", "--json", str(figures), "large"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    figures_of = json.loads(figures.read_text())["large"]["figures"]
    assert set(figures_of) == set(large.STORES)
    for found in figures_of.values():
        assert set(found["asked"]) == set(large.ASKED)
        assert [clean["sessions"] for clean in found["clean-up"]] == pytest.approx([500, 5000], 5)


async def test_syncs_of_postgresql_are_counted_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred commits, one after the other, are a hundred syncs; a few are the server's own."""
    monkeypatch.setattr(stores, "_TELLING_SECONDS", 0.0)  # a connection that ends tells at once
    with postgres() as server:
        before = await stores.wal_syncs(server.url)
        connection = await asyncpg.connect(server.url)
        await connection.execute("CREATE TABLE t (n int)")
        for number in range(100):
            await connection.execute("INSERT INTO t VALUES ($1)", number)
        await connection.close()
        after = await eventually(
            lambda: stores.wal_syncs(server.url), lambda count: count > before + 100
        )
    assert after - before <= 110


async def row_of(store: SessionStore, session_id: str) -> object:
    """What stands in the table of a session, but for the number of the write."""
    if isinstance(store, PostgresStore):
        server = await asyncpg.connect(store._url)
        row = await server.fetchval(
            "SELECT to_jsonb(sessions) - 'op' FROM sessions WHERE id = $1", session_id
        )
        await server.close()
        return row
    assert isinstance(store, SqliteStore)
    connection = apsw.Connection(str(store._path))
    rows = connection.execute("SELECT * FROM sessions WHERE id = ?", (session_id,)).fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize("name", large.STORES)
async def test_a_store_is_filled_with_what_payments_leave_there(name: str, tmp_path: Path) -> None:
    """The rows are those of payments that were written down step by step."""
    rows = []
    for number, filled in enumerate((True, False)):
        (folder := tmp_path / str(number)).mkdir()
        async with large.STORES[name](folder) as (store, fill):
            shop = large.Shop(store, 1, now=large.SPAN_MS)
            done = shop.done(0)
            if filled:
                await fill(iter([(done, None)]))
            else:
                begun = shop.begun(0, shop.started_at(0))
                intent = large.sent(begun, store.epoch)
                await store.claim(begun, 0)
                await store.commit(intent, begun.version, None)
                await store.commit(done, intent.version, None)
            rows.append(await row_of(store, done.id))
    assert rows[0] == rows[1]
