"""Real gateways of the tests, each a process of its own on 127.0.0.1: localstripe and
stripe-stateful-mock.

localstripe is GPL: it is started by a launcher given to `python -c` and never imported here. Each
part names its port on its first line, ends with the end of its standard input (so none outlives a
test run, however that ends), and keeps what it says in a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NODE_FOLDER = Path(__file__).parent.parent / "node"
KEY = "sk_test_e2e00000"

# Its command line binds every address and loads a pickle from a fixed place: neither is wanted, so
# the application is served as it is, on loopback, with a store that stays in memory.
_LOCALSTRIPE = """
import os, socket, sys, threading
from aiohttp import web
from localstripe import resources, server
resources.Store.dump_to_disk = lambda self: None
def end_with_stdin():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=end_with_stdin, daemon=True).start()
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
web.run_app(server.app, sock=listener, print=None)
"""

_STATEFUL_MOCK = """
process.stdin.on('end', () => process.exit(0)).resume();
require('loglevel').setLevel('warn');
const listener = require('stripe-stateful-mock').createExpressApp().listen(0, '127.0.0.1', () => {
    console.log(listener.address().port);
});
"""


@dataclass(frozen=True, slots=True)
class Part:
    """A running gateway."""

    port: int
    log_path: Path

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    def forget_everything(self) -> None:
        """A fresh state (localstripe only)."""
        self._ask("DELETE", "/_config/data")

    def read(self, path: str) -> Any:
        """What it answers to a GET, as its owner would look at its ledger: past every proxy."""
        return json.loads(self._ask("GET", path))

    def _ask(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(  # noqa: S310 -- a literal http origin
            f"{self.url}{path}", method=method, headers={"Authorization": f"Bearer {KEY}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            body: bytes = answer.read()
            return body


def localstripe(folder: Path) -> contextlib.AbstractContextManager[Part]:
    """A Stripe with payment intents and without idempotency keys: a repeat pays again."""
    return _running((sys.executable, "-c", _LOCALSTRIPE), folder / "localstripe.log")


def stripe_stateful_mock(folder: Path) -> contextlib.AbstractContextManager[Part]:
    """A Stripe with charges that keeps idempotency keys as Stripe does."""
    command = (node(), "-e", _STATEFUL_MOCK)
    return _running(command, folder / "stripe-stateful-mock.log")


def node() -> str:
    """The node command; the test is skipped where it or its packages are missing."""
    command = shutil.which("node")
    if command is None:
        pytest.skip("node is not installed")
    if not (NODE_FOLDER / "node_modules" / "stripe").is_dir():
        pytest.skip("the Node packages are not installed (./dev setup)")
    return command


def plain_environment(folder: Path) -> dict[str, str]:
    """An environment in which an SDK finds no proxy and leaves nothing in anyone's home."""
    return {"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "NO_PROXY": "127.0.0.1"}


@contextlib.contextmanager
def _running(command: tuple[str, ...], log_path: Path) -> Iterator[Part]:
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=NODE_FOLDER,
            env=plain_environment(log_path.parent),
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        first_line = process.stdout.readline()
        assert first_line.strip().isdigit(), f"{command[0]}: {log_path.read_text()}"
        yield Part(int(first_line), log_path)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        print(log_path.read_text(), end="")  # pytest shows it with the test that failed
