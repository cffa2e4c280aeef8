"""`holdfast serve`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import resource
import signal
import sys

from proxy.app import Holdfast
from proxy.keyring import KeyFileError
from proxy.ports import StoreUnavailable
from proxy.settings.load import ConfigError, Policy, load_policy
from proxy.telemetry import logs
from proxy.telemetry.outlet import Outlet
from proxy.web.listeners import UnsafeParser


def serve(options: argparse.Namespace) -> int:
    """Run until told to stop."""
    try:
        policy = load_policy(options.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    out = Outlet(sys.stdout.buffer)
    logs.configure(out)
    _allow_many_sockets()
    try:
        return _run_loop(policy, out)
    finally:
        out.close()


def _run_loop(policy: Policy, out: Outlet) -> int:
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 -- the optional extra `speed`

        return uvloop.run(_serve(policy, out))
    return asyncio.run(_serve(policy, out))


async def _serve(policy: Policy, out: Outlet) -> int:
    holdfast = Holdfast(policy.settings, out, policy)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, holdfast.reload_soon)
    try:
        await holdfast.start()
    except (UnsafeParser, StoreUnavailable, KeyFileError, OSError) as error:
        print(f"holdfast cannot start: {error}", file=sys.stderr)
        return 1
    # What is there now stays; looking through it again and again finds nothing.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    await stop.wait()
    await holdfast.stop()
    return 0


def _allow_many_sockets() -> None:
    """An open payment needs two files, and the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
