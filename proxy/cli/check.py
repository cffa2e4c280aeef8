"""`holdfast check`."""

from __future__ import annotations

import argparse
import sys

from proxy.settings.load import ConfigError, load


def check(options: argparse.Namespace) -> int:
    """Say every mistake, or that there is none."""
    try:
        settings = load(options.file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        count = len(error.mistakes)
        print(f"{options.file}: {count} mistake{'s' if count != 1 else ''}", file=sys.stderr)
        return 1
    for gateway in settings.gateways.values():
        routes = [route for _, route in gateway.routes.routes]
        durable = sum(route.durable for route in routes)
        count = len(routes)
        counted = (
            f"{count} routes, {durable} of them" if count != 1 else f"1 route, {durable} of it"
        )
        print(
            f"{gateway.name}: {gateway.listen} -> {gateway.upstream}, profile "
            f"{gateway.profile.name} ({gateway.profile.gateway_class}), {counted} durable"
        )
    if settings.audit is None:
        print("no audit trail: `audit` names no file for what people do to sessions by hand")
    print(f"{options.file}: ok")
    return 0
