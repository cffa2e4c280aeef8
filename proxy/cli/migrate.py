"""`holdfast migrate`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from types import ModuleType

from proxy.ports import StoreUnavailable
from proxy.settings.load import ConfigError, load
from proxy.settings.values import Settings
from proxy.stores import make_store
from proxy.system import SystemClock
from proxy.telemetry.logs import LineSink
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.recorder import MetricsRecorder

# Stores that replicas share: the module that can `migrate` and `accept_loss`, by the URL's scheme.
_SERVERS = {"postgresql": "proxy.stores.postgres_server", "redis": "proxy.stores.redis"}


def migrate(options: argparse.Namespace) -> int:
    """Bring the store's schema up to date, or trust a store again that has lost something."""
    try:
        settings = load(options.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    module = _SERVERS.get(settings.store.partition("://")[0])
    if module is None:
        if options.accept_loss:
            print("nothing done: this store has one owner and misses nothing", file=sys.stderr)
            return 1
        print("nothing to do: the start brings this store up to date")
        return 0
    try:
        server = importlib.import_module(module)
        if options.accept_loss:
            print(asyncio.run(_accept_loss(server, settings)))
            return 0
        done = asyncio.run(server.migrate(settings.store))
    except (StoreUnavailable, ModuleNotFoundError) as error:
        print(f"nothing done: {error}", file=sys.stderr)
        return 1
    print("\n".join(done) if done else "nothing to do: the schema is up to date")
    return 0


async def _accept_loss(server: ModuleType, settings: Settings) -> str:
    """What was accepted, and from which generation on. A replica may miss something that is not on
    record in the store (it was put back to before that), so the next generation begins anyway.
    """
    clock, later = SystemClock(), asyncio.get_running_loop().call_soon
    recorder = MetricsRecorder(Metrics(), LineSink(), clock, later)
    store = make_store(settings.store, settings.session.lease, clock, recorder)
    await store.open()
    lost = store.regressed
    await store.close()
    generation = await server.accept_loss(settings.store)
    if lost is None:
        return f"there was nothing to accept: no loss is on record (generation {generation} now)"
    return f"accepted: the store is trusted again (generation {generation})"
