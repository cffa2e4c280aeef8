"""deploy/README.md is true: its commands are those of the files, and its snippet pays."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from proxy.demo.gateway import SimulatedGateway
from tests.support.parts import plain_environment
from tests.support.running import policy, running, simulated
from tests.support.tools import ROOT

DEPLOY = ROOT / "deploy"
PAGE = (DEPLOY / "README.md").read_text(encoding="utf-8")
FILES = [
    "Dockerfile",
    "compose.yaml",
    "kubernetes/base/kustomization.yaml",
    "kubernetes/monitoring/kustomization.yaml",
    "systemd/holdfast.service",
]


def blocks(language: str) -> list[str]:
    """The page's code in a language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return found


def test_its_commands_stand_in_the_files() -> None:
    """A command is the same where it is explained and where it is needed."""
    said = "\n".join((DEPLOY / name).read_text(encoding="utf-8") for name in FILES)
    said = re.sub(r"^# *", "", said, flags=re.MULTILINE)
    for block in blocks("sh"):
        for line in block.splitlines():
            assert line.strip() in said


def test_it_explains_every_part() -> None:
    """What is in the folder is in its table."""
    rows = "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE))
    for path in DEPLOY.iterdir():
        if path.name not in {"README.md", "Dockerfile.dockerignore", "secrets", "wheels"}:
            assert f"`{path.name}" in rows, path.name


async def test_its_snippet_pays_where_a_token_is_needed(tmp_path: Path) -> None:
    """The official SDK, with the token in a header of its session; without, it is turned away."""
    token = "a-token-of-this-test"
    (tmp_path / "token").write_text(token)
    gateway = SimulatedGateway()
    environ = {"HOLDFAST_BACKEND_TOKEN": token}
    async with simulated(gateway) as origin:
        text = policy(origin).replace(', listen: "127.0.0.1:0"', ', listen: "0.0.0.0:0"')
        async with running(tmp_path, text, environ) as proxy:
            (snippet,) = blocks("python")
            snippet = snippet.replace("http://127.0.0.1:8080", proxy.url)
            snippet = snippet.replace("deploy/secrets/backend-token", str(tmp_path / "token"))
            assert await ran(snippet, tmp_path) == (0, "succeeded\n")
            code, _ = await ran(snippet.replace("X-Holdfast-Token", "X-Other"), tmp_path)
            assert code == 1
    assert len(gateway.ledger.charges) == 1


async def ran(snippet: str, folder: Path) -> tuple[int | None, str]:
    """Exit code and output of a Python program."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        snippet,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=plain_environment(folder),
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()
