"""docs/gateways.md is run: its policy starts a Holdfast, its snippets pay through it and print what
they say. Its last part, a gateway of one's own, is run by test_docs_own_gateway.py.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import stripe

from proxy.demo.gateway import SimulatedGateway
from proxy.settings.load import load
from tests.support.parts import NODE_FOLDER, node, plain_environment
from tests.support.running import ROOT, Running, running, simulated

WHOLE = (ROOT / "docs" / "gateways.md").read_text(encoding="utf-8")
PAGE = WHOLE.partition("\n## A gateway of your own\n")[0]
_LISTENERS = {"8080": "stripe", "8090": "stripe-files"}


def snippets(language: str) -> list[str]:
    """The page's code in a language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return found


def promised(snippet: str) -> list[str]:
    """What a snippet says it prints."""
    return re.findall(r"(?:#|//) → (.*)$", snippet, re.MULTILINE)


@pytest.fixture
def gateway() -> SimulatedGateway:
    """The gateway behind the page's policy."""
    return SimulatedGateway()


@pytest_asyncio.fixture
async def proxy(gateway: SimulatedGateway, tmp_path: Path) -> AsyncIterator[Running]:
    """A Holdfast with the page's own policy, on free ports and in front of a simulated gateway."""
    policy, _ = snippets("yaml")
    async with simulated(gateway) as origin:
        text = re.sub(r"upstream: https://\S+", f"upstream: {origin}", policy)
        text = re.sub(r"listen: 127\.0\.0\.1:\d+", "listen: 127.0.0.1:0", text)
        listeners = 'listen: {sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}\n'
        async with running(tmp_path, listeners + text) as started:
            yield started


async def printed(proxy: Running, folder: Path, snippet: str, *command: str) -> list[str]:
    """What a snippet prints when the page's ports are those of this Holdfast."""
    for port, name in _LISTENERS.items():
        snippet = snippet.replace(port, str(proxy.doors.gateways[name].port))
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=NODE_FOLDER,
        env=plain_environment(folder),
    )
    try:
        out, errors = await process.communicate(snippet.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return out.decode().splitlines()


@pytest.mark.parametrize("number", [0, 1])
async def test_the_python_snippets(
    proxy: Running, gateway: SimulatedGateway, tmp_path: Path, number: int
) -> None:
    """Each prints what it promises, and its order is charged once."""
    snippet = snippets("python")[number]
    told = await printed(proxy, tmp_path, snippet, sys.executable, "-")
    assert told == promised(snippet)
    assert told[0] == "succeeded"
    assert len(gateway.ledger.charges) == 1


async def test_the_node_snippet(proxy: Running, gateway: SimulatedGateway, tmp_path: Path) -> None:
    """It prints what it promises, and its order is charged once."""
    (snippet,) = snippets("js")
    told = await printed(proxy, tmp_path, snippet, node(), "--input-type=module", "-")
    assert told == promised(snippet)
    assert told[0] == "succeeded"
    assert len(gateway.ledger.charges) == 1


def test_every_snippet_is_run() -> None:
    """A new snippet needs a line in this file."""
    assert len(re.findall(r"^```\w+$", PAGE, re.MULTILINE)) == 5
    assert [len(snippets(language)) for language in ("yaml", "python", "js")] == [2, 2, 1]


def test_a_policy_for_webhooks(tmp_path: Path) -> None:
    """It loads as it stands, once its secret is there."""
    _, policy = snippets("yaml")
    (tmp_path / "policy.yaml").write_text(policy)
    settings = load(tmp_path / "policy.yaml", {"STRIPE_WEBHOOK_SECRET": "whsec_1"})
    assert settings.gateways["stripe"].webhook.forward_to is not None


def test_the_versions_are_those_that_were_tried() -> None:
    """The table names what the lock files install."""
    wanted = json.loads((NODE_FOLDER / "package.json").read_text())["dependencies"]
    assert f"| stripe-python | {stripe.VERSION} |" in PAGE
    assert f"| stripe-node | {wanted['stripe']} |" in PAGE
    assert f"stripe-stateful-mock\n{wanted['stripe-stateful-mock']}" in PAGE
    lock = (ROOT / "tests" / "requirements.lock").read_text()
    localstripe = re.search(r"^localstripe==(\S+)", lock, re.MULTILINE)
    assert localstripe is not None
    assert f"localstripe {localstripe[1]}" in PAGE
