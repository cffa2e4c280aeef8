"""The proxies that are compared: how each is started on ports of its own, and always ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.parts import plain_environment
from tests.support.running import free_port
from tests.support.tools import ROOT, found

_HERE = Path(__file__).parent
_START_STEPS, _STEP_SECONDS = 1000, 0.02
_GATEWAY = 12111
_SESSIONS = 8081


@dataclass(frozen=True, slots=True)
class Proxy:
    """A program, its configuration, and what a payment meets at which of the ports there."""

    name: str
    command: tuple[str, ...]  # followed by the configuration
    config: Path
    ways: dict[int, str]

    def why_not(self) -> str | None:
        """Why it cannot take part, if it cannot."""
        return None if found(self.command[0]) else f"{self.name} is not installed"


HOLDFAST = Proxy(
    "Holdfast",
    (sys.executable, "-m", "proxy", "serve", "--config"),
    ROOT / "proxy/demo/demo.yaml",
    {8080: "Holdfast"},
)
NGINX = Proxy(
    "nginx",
    ("nginx", "-e", "stderr", "-p", ".", "-c"),
    _HERE / "nginx.conf",
    {8080: "nginx, as it comes", 8081: "nginx, retries on", 8082: "nginx, retries and a key"},
)
HAPROXY = Proxy(
    "HAProxy",
    ("haproxy", "-db", "-f"),
    _HERE / "haproxy.cfg",
    {8080: "HAProxy, as it comes", 8081: "HAProxy, retries on"},
)
ENVOY = Proxy(
    "Envoy",
    ("envoy", "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"),
    _HERE / "envoy.yaml",
    {8080: "Envoy, retries on"},
)
PROXIES = (NGINX, HAPROXY, ENVOY, HOLDFAST)


@dataclass(frozen=True, slots=True)
class Started:
    """Where a running proxy takes payments, each way at an origin of its own."""

    origins: dict[str, str]
    sessions: str  # of Holdfast


@contextlib.contextmanager
def started(proxy: Proxy, folder: Path, gateway_port: int) -> Iterator[Started]:
    """A proxy before the gateway, killed at the end with all its processes."""
    ports = {_GATEWAY: gateway_port} | {port: free_port() for port in (8080, 8081, 8082)}
    config = folder / proxy.config.name
    config.write_text(
        re.sub(
            rf"\b({'|'.join(map(str, ports))})\b",
            lambda port: str(ports[int(port[0])]),
            proxy.config.read_text(encoding="utf-8"),
        ),
        encoding="utf-8",
    )
    program = found(proxy.command[0])
    assert program is not None, proxy.why_not()
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [program, *proxy.command[1:], str(config)],
            cwd=folder,
            env={
                **plain_environment(folder),
                "PYTHONPATH": str(ROOT),
                "HOLDFAST_DEMO_CREDENTIAL": "Bearer sk_test_demo",
            },
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: nginx has workers
        )
    try:
        for port in proxy.ways:
            if not _listens(ports[port], process):
                said = log.read_text(encoding="utf-8")
                raise RuntimeError(f"{proxy.name} does not listen: {said}")
        origins = {name: f"http://127.0.0.1:{ports[port]}" for port, name in proxy.ways.items()}
        yield Started(origins, f"http://127.0.0.1:{ports[_SESSIONS]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # Only the first of its processes is waited for: the others are gone when nobody listens.
        for _ in range(_START_STEPS):
            if not any(_listens(ports[port], process) for port in proxy.ways):
                break
            time.sleep(_STEP_SECONDS)


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until it does; false if it ends instead, or takes too long."""
    for _ in range(_START_STEPS):
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return True
        if process.poll() is not None:
            return False
        time.sleep(_STEP_SECONDS)
    return False
