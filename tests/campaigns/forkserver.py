"""Starts Holdfasts quickly: everything is imported once, each start is a fork. Run as a script.

Reads `start CONFIG LOG [ARRANGEMENT …]` lines on standard input and answers with the new process's
id. The children are ordinary Holdfasts: the same `serve`, the same store, killed for real; an
arrangement (`tests.campaigns.arrangements`) is made in the child alone.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import signal
import sys
from pathlib import Path

import proxy.stores.postgres  # imported here so that no child has to
import proxy.stores.redis
import proxy.stores.sqlite  # noqa: F401 -- likewise
from proxy.cli import serve
from proxy.settings.load import load as load_policy
from tests.campaigns.arrangements import arrange


def main() -> None:
    """Fork a Holdfast for every line, until the input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: the kernel may bury them
    # A policy is read here, once for all who have it.
    load = serve.load = functools.cache(load_policy)  # type: ignore[attr-defined]
    for line in sys.stdin:
        _, config, log, *arrangement = line.split()
        load(Path(config))
        gc.freeze()  # what is there now is no child's to look through
        child = os.fork()
        if child == 0:
            _become_holdfast(config, log, arrangement)
        print(child, flush=True)


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
        os._exit(code)


if __name__ == "__main__":
    main()
