"""`holdfast demo` and `holdfast gateway`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys

import structlog
from aiohttp import web

from proxy.demo.dialects import DIALECTS
from proxy.demo.faults import FaultPlan
from proxy.demo.run import DemoOptions, run_demo
from proxy.demo.simulator import Simulator
from proxy.settings.texts import parse_listen


def demo(options: argparse.Namespace) -> int:
    """Show it."""
    # What is set for a real Holdfast (tokens, overrides) is not meant for this one.
    for name in [name for name in os.environ if name.startswith("HOLDFAST")]:
        del os.environ[name]
    # The table is the output; the log lines would run through it.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger().setLevel(logging.CRITICAL)
    wanted = DemoOptions(options.orders, options.seed, options.interruptions, options.stay)
    return asyncio.run(run_demo(wanted))


def gateway(options: argparse.Namespace) -> int:
    """Run the simulated gateway until told to stop."""
    try:
        host, _, port = parse_listen(options.listen).rpartition(":")
    except ValueError as error:
        print(f"--listen {options.listen}: {error}", file=sys.stderr)
        return 2
    dialect = DIALECTS.get(options.dialect)
    if dialect is None:
        print(f"--dialect {options.dialect}: it speaks {', '.join(DIALECTS)}", file=sys.stderr)
        return 2
    plan = FaultPlan(seed=options.seed, interruptions=options.interruptions)
    try:
        asyncio.run(_gateway(dialect(plan, latency=options.latency), host, int(port)))
    except OSError as error:
        print(f"the simulated gateway cannot start: {error}", file=sys.stderr)
        return 1
    return 0


async def _gateway(simulated: Simulator, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(simulated.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]"), port)
        await site.start()
        where = f"{host}:{runner.addresses[0][1]}"
        print(f"simulated gateway on {where} (pid {os.getpid()})", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()
