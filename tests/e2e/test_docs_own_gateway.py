"""docs/gateways.md, "A gateway of your own": its files are written, its commands are run one after
the other, and each prints what the page shows. Acme is played by a small gateway with a ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.running import ROOT, HoldfastProcess
from tests.support.shell import environment

PAGE = (ROOT / "docs/gateways.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## A gateway of your own\n")[2].partition("\n## ")[0]
PUBLIC = "https://sandbox.acme.example"
FILES = re.findall(r"\*\*([\w/.-]+)\*\*:\n\n```\w+\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
CONSOLES = re.findall(r"^```console\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)


@dataclass(slots=True)
class Acme:
    """The gateway of the page."""

    charges: dict[str, dict[str, object]] = field(default_factory=dict)

    async def charge(self, request: web.Request) -> web.Response:
        """Charge once for a key; 66 is refused."""
        key = request.headers["Idempotency-Key"]
        replayed = {"Acme-Replayed": "true"} if key in self.charges else {}
        if key not in self.charges:
            amount = (await request.json())["amount"]
            name = f"ch_{len(self.charges)}"
            self.charges[key] = {
                "id": name,
                "state": "refused" if amount == 66 else "captured",
                "href": f"https://api.acme.example/v1/charges/{name}",
            }
        return web.json_response(self.charges[key], status=201, headers=replayed)


@contextlib.asynccontextmanager
async def acme() -> AsyncIterator[tuple[Acme, str]]:
    """The gateway on a real port, and its origin."""
    gateway, app = Acme(), web.Application()
    app.router.add_post("/v1/charges", gateway.charge)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield gateway, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def steps() -> list[tuple[str, list[str]]]:
    """Each command of the page in its order, and what it is shown to print."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(CONSOLES).splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return found


def shows(shown: list[str], printed: str) -> bool:
    """Whether it was printed so, but for spaces; `…` stands for anything, also for whole lines."""
    page, told = (" ".join(text.split()) for text in ("\n".join(shown), printed))
    pattern = ".*".join(re.escape(part.strip()) for part in page.split("…"))
    return re.fullmatch(pattern, told, re.DOTALL) is not None


async def output(command: str, folder: Path) -> str:
    """What a command prints in a shell in this folder."""
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=folder,
        env=environment({"PATH": f"{folder}/bin:{environment()['PATH']}", "NO_PROXY": "*"}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (command, err.decode())
    return out.decode()


async def test_the_walk_through(tmp_path: Path) -> None:
    """From the file to the payment: every command ends well and prints what the page shows."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "recorded").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/holdfast").write_text(f'#!/bin/sh\nexec {sys.executable} -m proxy "$@"\n')
    (tmp_path / "bin/holdfast").chmod(0o755)
    assert [name for name, _ in FILES] == [
        "config/gateways/acme.yaml",
        "recorded/error.http",
        "config/holdfast.yaml",
    ]
    async with acme() as (gateway, origin), contextlib.AsyncExitStack() as running:
        served = HoldfastProcess(tmp_path, origin)
        served.config = tmp_path / "config/holdfast.yaml"

        def placed(text: str) -> str:
            return text.replace(PUBLIC, origin).replace("8085", str(served.port))

        for name, text in FILES:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(placed(text))
        for command, shown in steps():
            if command.startswith("holdfast serve"):
                assert command == "holdfast serve --config config/holdfast.yaml"
                sessions, admin = served.api_port, served.admin_port
                own = f"sessions: '127.0.0.1:{sessions}', admin: '127.0.0.1:{admin}'"
                with served.config.open("a") as policy:
                    policy.write(f"listen: {{{own}}}\n")
                await served.start()
                running.push_async_callback(served.stop)
                continue
            printed = await output(
                f"HOLDFAST_API={served.api.removesuffix('/api/payments')} {placed(command)}",
                tmp_path,
            )
            assert shows([placed(line) for line in shown], printed), (command, printed)
        assert list(gateway.charges) == ["try-1", "try-2", "order-1001"]


def test_what_the_page_shows_must_be_printed() -> None:
    """The control: spaces and what `…` stands for may differ, and nothing else."""
    assert shows(["a  b", "…", "c ps_…"], "a b\nx\ny\nc   ps_1\n")
    assert not shows(["a b", "…", "c"], "a b\nx\n")
    assert not shows(["a b"], "a b\nc\n")
    assert not shows([], "a")
