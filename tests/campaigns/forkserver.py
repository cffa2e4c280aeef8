"""Starts Holdfasts quickly: everything is imported once, each start is a fork. Run as a script.

Reads lines of `start`, CONFIG, LOG and an ARRANGEMENT, with tabs between, on standard input and
answers with the new process's id. The children are ordinary Holdfasts: the same `serve`, the same
store, killed for real; an arrangement (`tests.campaigns.arrangements`) is made in the child alone.
"""

from __future__ import annotations

import argparse
import functools
import gc
import io
import os
import signal
import sys
import tempfile
from pathlib import Path

import uvloop

import proxy.stores.postgres  # imported here so that no child has to
import proxy.stores.redis
import proxy.stores.sqlite  # noqa: F401 -- likewise
from proxy.app import Holdfast
from proxy.cli import serve
from proxy.settings.load import load_policy
from proxy.telemetry import logs
from tests.campaigns.arrangements import arrange
from tests.support.running import policy

FAILED = "it did not end as it should"
_SOMEWHERE = "http://127.0.0.1:9"


def main() -> None:
    """Fork a Holdfast for every line, until the input ends."""
    _serve_once()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: the kernel may bury them
    # A policy is read here, once for all who have it.
    load = serve.load_policy = functools.cache(load_policy)  # type: ignore[attr-defined]
    for line in sys.stdin:
        _, config, log, *arrangement = line.rstrip("\n").split("\t")
        load(Path(config))
        gc.freeze()  # what is there now is no child's to look through
        child = os.fork()
        if child == 0:
            _become_holdfast(config, log, arrangement)
        print(child, flush=True)


def _serve_once() -> None:
    """Start one and stop it: what is made when it is first used no child has to make."""
    with tempfile.TemporaryDirectory(prefix="holdfast-campaign-") as folder:
        path = Path(folder, "policy.yaml")
        path.write_text(policy(_SOMEWHERE, store="memory://"), encoding="utf-8")
        settings = load_policy(path).settings

    async def serve_once() -> None:
        holdfast = Holdfast(settings, nowhere)
        await holdfast.start()
        await holdfast.stop()

    nowhere = io.BytesIO()
    logs.configure(nowhere)
    uvloop.run(serve_once())


def _become_holdfast(config: str, log: str, arrangement: list[str]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.close(0)
    code = 1
    try:
        arrange(arrangement)
        code = serve.serve(argparse.Namespace(config=Path(config)))
    finally:
        if code:
            print(FAILED, flush=True)
        os._exit(code)


if __name__ == "__main__":
    main()
