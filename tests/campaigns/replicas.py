"""Holdfasts of the campaigns: processes that are killed, paused and replaced, and start at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

from tests.campaigns.forkserver import FAILED
from tests.campaigns.shop import CREDENTIAL
from tests.support.running import ROOT, free_port

_READY_STEPS = 1500
_STEP_SECONDS = 0.008
_SETTLED_STEPS, _SETTLED_SECONDS = 50, 0.1
_SPOOLED = "holdfast_spooled_outcomes "


class Forks:
    """A process that has everything imported; a start is a fork of it."""

    def __init__(self, server: asyncio.subprocess.Process) -> None:
        self._server = server
        self._one_at_a_time = asyncio.Lock()

    async def start(self, *words: str | Path) -> int:
        """A Holdfast; its process id."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        async with self._one_at_a_time:
            self._server.stdin.write("\t".join(map(str, ("start", *words))).encode() + b"\n")
            return int(await self._server.stdout.readline())


@contextlib.asynccontextmanager
async def forks() -> AsyncIterator[Forks]:
    """The server; its children share one key, as replicas do."""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).parent / "forkserver.py"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HOLDFAST_KEY": secrets.token_hex(32),
            "CAMPAIGN_CREDENTIAL": CREDENTIAL,
        },
    )
    try:
        yield Forks(server)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        await server.wait()


class Replica:
    """One Holdfast on ports of its own. `gateways` are names, each with its profile and upstream;
    `more` is appended to the policy as it is.
    """

    def __init__(
        self, folder: Path, store: str, gateways: dict[str, tuple[str, str]], more: str
    ) -> None:
        self.doors = {name: f"http://127.0.0.1:{free_port()}" for name in gateways}
        api, admin = free_port(), free_port()
        self.api = f"http://127.0.0.1:{api}/api/payments"
        self.admin = f"http://127.0.0.1:{admin}"
        listed = "".join(
            f'  {name}: {{profile: {profile}, upstream: "{upstream}", '
            f'listen: "{self.doors[name].removeprefix("http://")}", '
            "lookup_credential: {env: CAMPAIGN_CREDENTIAL}}\n"
            for name, (profile, upstream) in gateways.items()
        )
        folder.mkdir(exist_ok=True)
        self.config = folder / "policy.yaml"
        self.config.write_text(
            f'listen: {{sessions: "127.0.0.1:{api}", admin: "127.0.0.1:{admin}"}}\n'
            f"store: {store}\ngateways:\n{listed}{more}",
            encoding="utf-8",
        )
        self.log_path = folder / "holdfast.log"
        self.upstream_ports = {
            name: int(upstream.rsplit(":", 1)[1]) for name, (_, upstream) in gateways.items()
        }
        self._pid = 0
        self._gone: asyncio.Future[None] | None = None

    async def start(self, server: Forks, *arrangement: str) -> None:
        """Fork it. It is not ready yet."""
        self._pid = await server.start(self.config, self.log_path, *arrangement)
        loop = asyncio.get_running_loop()
        gone = self._gone = loop.create_future()
        try:
            watch = os.pidfd_open(self._pid)
        except ProcessLookupError:
            gone.set_result(None)
            return

        def ended() -> None:
            loop.remove_reader(watch)
            os.close(watch)
            gone.set_result(None)

        loop.add_reader(watch, ended)

    def signal(self, number: signal.Signals) -> None:
        """To the process, if it is there still."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def there(self) -> bool:
        """Whether the process lives."""
        return self._gone is not None and not self._gone.done()

    async def gone(self) -> None:
        """Return when the process is no more."""
        assert self._gone is not None
        await asyncio.shield(self._gone)

    async def kill(self) -> None:
        """Kill -9."""
        if self.there():
            self.signal(signal.SIGKILL)
            await self.gone()

    def failures(self) -> int:
        """How many of its processes ended by themselves, and not well."""
        return self.log_path.read_text().count(FAILED)

    async def ready(self, http: aiohttp.ClientSession) -> None:
        """Wait for /readyz, or until it is gone again."""
        assert self._gone is not None
        for _ in range(_READY_STEPS):
            if self._gone.done():
                return
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(f"{self.admin}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(_STEP_SECONDS)
        raise AssertionError(self.log_path.read_text()[-4000:])

    async def settled(self, http: aiohttp.ClientSession) -> None:
        """Wait until nothing is on its spool, which is offered to the store every second, or only
        what a store that has lost its session will never take.
        """
        before, same = "", 0
        while same < _SETTLED_STEPS:
            async with http.get(f"{self.admin}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            spooled = next(line for line in lines if line.startswith(_SPOOLED))
            if float(spooled.removeprefix(_SPOOLED)) == 0:
                return
            before, same = spooled, same + 1 if spooled == before else 0
            await asyncio.sleep(_SETTLED_SECONDS)
