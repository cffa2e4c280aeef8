"""`holdfast migrate`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys

from proxy.ports import StoreUnavailable
from proxy.settings.load import ConfigError, load

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
            generation = asyncio.run(server.accept_loss(settings.store))
            print(f"accepted: the store is trusted again (generation {generation})")
            return 0
        done = asyncio.run(server.migrate(settings.store))
    except (StoreUnavailable, ModuleNotFoundError) as error:
        print(f"nothing done: {error}", file=sys.stderr)
        return 1
    print("\n".join(done) if done else "nothing to do: the schema is up to date")
    return 0
