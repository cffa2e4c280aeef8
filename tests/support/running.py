"""Running Holdfasts: in this process on real sockets, or as a process that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from proxy.app import Doors, Holdfast
from proxy.demo.simulator import Simulator
from proxy.settings.load import load

ROOT = Path(__file__).parent.parent.parent


_GIVEN: set[int] = set()


def free_port() -> int:
    """A port nobody has, and not one that was given before: its owner may not have come to it yet.
    Below the range from which the system serves whoever asks for any port, or it would soon belong
    to someone else: a listener of the same test, the near end of a connection.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _GIVEN:
                _GIVEN.add(port)
                return port


def policy(upstream: str, more: str = "", *, profile: str = "stripe", store: str = "") -> str:
    """A policy file for one gateway on any free ports; `more` is appended as it is."""
    return (
        'listen: {sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}\n'
        f"store: {store or 'sqlite:///holdfast.db'}\n"
        "gateways:\n"
        f'  gateway: {{profile: {profile}, listen: "127.0.0.1:0", upstream: "{upstream}"}}\n'
        f"{more}"
    )


@dataclass(slots=True)
class Running:
    """A Holdfast on real sockets in this process."""

    holdfast: Holdfast
    doors: Doors
    log: io.BytesIO

    @property
    def port(self) -> int:
        """Of the (first) gateway's listener."""
        return next(iter(self.doors.gateways.values())).port

    @property
    def url(self) -> str:
        """Of the (first) gateway's listener."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """Of the session API."""
        return f"http://127.0.0.1:{self.doors.sessions.port}/api/payments"

    @property
    def admin(self) -> str:
        """Of health and metrics."""
        return f"http://127.0.0.1:{self.doors.admin.port}"


@contextlib.asynccontextmanager
async def running(
    folder: Path, text: str, environ: dict[str, str] | None = None
) -> AsyncIterator[Running]:
    """A Holdfast with a policy text, stopped at the end."""
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    log = io.BytesIO()
    holdfast = Holdfast(load(path, environ or {}), log)
    doors = await holdfast.start()
    try:
        yield Running(holdfast, doors, log)
    finally:
        await holdfast.stop()


@contextlib.asynccontextmanager
async def simulated(gateway: Simulator) -> AsyncIterator[str]:
    """A simulated gateway on a real port; its origin."""
    runner = web.AppRunner(gateway.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class HoldfastProcess:
    """A `holdfast serve` of its own, on fixed ports, so that it can come back after a kill -9."""

    def __init__(
        self, folder: Path, upstream: str, more: str = "", *, profile: str = "stripe"
    ) -> None:
        self.folder = folder
        self.port, self.api_port, self.admin_port = free_port(), free_port(), free_port()
        self.config = folder / "policy.yaml"
        self.config.write_text(
            f'listen: {{sessions: "127.0.0.1:{self.api_port}", '
            f'admin: "127.0.0.1:{self.admin_port}"}}\n'
            "store: sqlite:///holdfast.db\n"
            "gateways:\n"
            f'  gateway: {{profile: {profile}, listen: "127.0.0.1:{self.port}", '
            f'upstream: "{upstream}"}}\n{more}',
            encoding="utf-8",
        )
        self.process: asyncio.subprocess.Process | None = None
        self.log_path = folder / "holdfast.log"

    @property
    def url(self) -> str:
        """Of the gateway's listener."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """Of the session API."""
        return f"http://127.0.0.1:{self.api_port}/api/payments"

    @property
    def admin(self) -> str:
        """Of health and metrics."""
        return f"http://127.0.0.1:{self.admin_port}"

    async def start(self, *command: str, environ: dict[str, str] | None = None) -> None:
        """Start it (or another launcher with the same arguments) and wait until it is ready."""
        launcher = command or (sys.executable, "-m", "proxy")
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *launcher,
                "serve",
                "--config",
                str(self.config),
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **(environ or {})},
            )
        await self.ready()

    async def ready(self) -> None:
        """Wait for /readyz; fails with the log if the process ends instead."""
        assert self.process is not None
        async with aiohttp.ClientSession() as http:
            for _ in range(2000):
                if self.process.returncode is not None:
                    raise AssertionError(self.log_path.read_text())
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{self.admin}/readyz") as answer:
                        if answer.status == 200:
                            return
                await asyncio.sleep(0.005)
        raise AssertionError(self.log_path.read_text())

    async def kill(self) -> None:
        """Kill -9."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log lines so far."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines() if line]
