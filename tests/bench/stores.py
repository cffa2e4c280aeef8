"""Payments per second in each store, by how many are under way, and what they cost in syncs.

One Holdfast per store, each loaded in turn. The servers run beside the load and the stub, on the
CPU that Holdfast does not have. A payment has two durable steps (its intent and its outcome), so
alone it costs two syncs; payments at the same time share them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import asyncpg

from tests.bench.load import closed, compare, open_lines, percentile, prove
from tests.bench.report import Report, Spread, Table
from tests.bench.sizes import Sizes
from tests.bench.targets import Target, Targets
from tests.support.postgres import postgres
from tests.support.valkey import valkey

AT_ONCE = (1, 32, 256)
_BATCHES = re.compile(rb'holdfast_store_seconds_count\{operation="commit"\} (\d+)')
_KEY = "key_file: key\n"
# A connection that has nothing to do tells its figures after ten seconds, a busy one each second.
_TELLING_SECONDS = 11.0
_WAL_SYNCS = "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"  # there since PostgreSQL 18

Syncs = Callable[[Target], Awaitable[int | None]]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A store that is up: its URL, and how many syncs it has made for a Holdfast so far."""

    url: str
    syncs: Syncs


@contextlib.contextmanager
def _sqlite() -> Iterator[_Kept]:
    async def batches(target: Target) -> int:
        """Every batch is one transaction, which is synced once."""
        said = (target.folder / "log").read_text(encoding="utf-8")
        ready = next(json.loads(line) for line in said.splitlines() if '"ready"' in line)
        url = f"http://{ready['admin']}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())
        found = _BATCHES.search(page)
        return int(found[1]) if found else 0

    yield _Kept("sqlite:///holdfast.db", batches)


@contextlib.contextmanager
def _postgresql() -> Iterator[_Kept]:
    with postgres() as server:

        async def syncs(_: Target) -> int:
            return await wal_syncs(server.url)

        yield _Kept(server.url, syncs)


async def wal_syncs(url: str) -> int:
    """How often a PostgreSQL server has synced its log, once all its processes have told."""
    await asyncio.sleep(_TELLING_SECONDS)
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval(_WAL_SYNCS))
    finally:
        await connection.close()


@contextlib.contextmanager
def _valkey() -> Iterator[_Kept]:
    with valkey() as server:

        async def nobody_counts(_: Target) -> None:
            return None

        yield _Kept(server.url, nobody_counts)


_STORES = {"sqlite": _sqlite, "postgresql": _postgresql, "valkey": _valkey}


async def stores(targets: Targets, sizes: Sizes) -> Report:
    """Each store in turn, with so many payments under way."""
    stub = targets.stub()
    table = Table(("store, at once", "payments/s", "p50 ms", "p99 ms", "syncs/payment"))
    figures: dict[str, dict[str, object]] = {}
    proofs: list[str] = []
    for name, kept in _STORES.items():
        with kept() as store:
            target = targets.holdfast(stub.port, _KEY, store=store.url)
            proofs.append(await prove(name, target.port, stub.port, sizes.proof_payments))
            for at_once in AT_ONCE:
                row = await _measured(target, stub.port, store.syncs, at_once, sizes)
                figures[f"{name} {at_once}"] = row
                syncs = row["syncs"]
                table.rows.append(
                    (
                        f"{name}, {at_once}",
                        *(str(row[column]) for column in ("rate", "p50_ms", "p99_ms")),
                        "not counted" if syncs is None else f"{syncs:.2f}",
                    )
                )
            targets.end(target)
    return Report(
        "stores: payments per second, each fsynced twice over",
        {"stores": figures, "proofs": proofs},
        [table],
        ["medians and ranges of the slices; Valkey does not tell how often it syncs", *proofs],
    )


async def _measured(
    target: Target, stub: int, syncs: Syncs, at_once: int, sizes: Sizes
) -> dict[str, object]:
    lines = await open_lines(target.port, at_once)
    sent = (await closed(lines, sizes.warm_up_seconds)).checked(target.name).sent
    before, counted = await syncs(target), 0
    rates: list[float] = []
    latencies: list[list[float]] = []
    for _ in range(sizes.store_slices):
        tally = (await closed(lines, sizes.store_seconds)).checked(target.name)
        counted += tally.sent
        rates.append(tally.rate)
        latencies.append([seconds * 1000 for seconds in tally.latencies])
    after = await syncs(target)
    for line in lines:
        line.close()
    await compare(target.name, sent + counted, stub)
    return {
        "rate": Spread.of(rates),
        "p50_ms": Spread.of([percentile(each, 0.5) for each in latencies]),
        "p99_ms": Spread.of([percentile(each, 0.99) for each in latencies]),
        "syncs": None if before is None or after is None else (after - before) / counted,
    }
