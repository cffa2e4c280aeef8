"""`holdfast demo` and `holdfast gateway`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal

import structlog
from aiohttp import web

from proxy.demo.faults import FaultPlan
from proxy.demo.gateway import SimulatedGateway
from proxy.demo.run import DemoOptions, run_demo
from proxy.settings.schema import parse_listen


def demo(options: argparse.Namespace) -> int:
    """Show it."""
    # The table is the output; the log lines would run through it.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.getLogger().setLevel(logging.CRITICAL)
    wanted = DemoOptions(options.orders, options.seed, options.interruptions, options.stay)
    return asyncio.run(run_demo(wanted))


def gateway(options: argparse.Namespace) -> int:
    """Run the simulated gateway until told to stop."""
    host, _, port = parse_listen(options.listen).rpartition(":")
    plan = FaultPlan(seed=options.seed, interruptions=options.interruptions)
    asyncio.run(_gateway(SimulatedGateway(plan, latency=options.latency), host, int(port)))
    return 0


async def _gateway(simulated: SimulatedGateway, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(simulated.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host.strip("[]"), port)
    await site.start()
    print(f"simulated gateway on {host}:{runner.addresses[0][1]} (pid {os.getpid()})", flush=True)
    await stop.wait()
    await runner.cleanup()
