"""A real Prometheus, started with a configuration and asked over its API."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.running import free_port
from tests.support.tools import tool


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an instant query: its labels and its value now."""

    labels: dict[str, str]
    value: float


@dataclass(slots=True)
class Prometheus:
    """A running one."""

    url: str
    http: aiohttp.ClientSession

    async def query(self, expr: str) -> list[Series]:
        """The finite series of an expression. An expression it refuses fails the test."""
        data = await self.get("query", query=expr)
        series = [Series(row["metric"], float(row["value"][1])) for row in data["result"]]
        return [one for one in series if math.isfinite(one.value)]

    async def get(self, call: str, **parameters: str) -> Any:
        """The data of one call of its API."""
        async with self.http.get(f"{self.url}/api/v1/{call}", params=parameters) as answer:
            document = await answer.json()
        assert document["status"] == "success", (parameters, document)
        return document["data"]


@contextlib.asynccontextmanager
async def prometheus(folder: Path, config: Path) -> AsyncIterator[Prometheus]:
    """Start one that keeps its data in `folder`; skips the test if there is none."""
    port = free_port()
    log = folder / "prometheus.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            tool("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
            stdout=out,
            stderr=out,
        )
    try:
        async with aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{port}"
            assert await _ready(http, url, process), log.read_text()
            yield Prometheus(url, http)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(
    http: aiohttp.ClientSession, url: str, process: asyncio.subprocess.Process
) -> bool:
    for _ in range(1000):
        if process.returncode is not None:
            return False
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(f"{url}/-/ready") as answer:
                if answer.status == 200:
                    return True
        await asyncio.sleep(0.02)
    return False
