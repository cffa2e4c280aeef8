"""`holdfast check`."""

from __future__ import annotations

import argparse
import sys

from proxy.cli.against import against
from proxy.settings.explain import explain
from proxy.settings.load import ConfigError, Policy, load_policy
from proxy.settings.retries import risky_routes


def check(options: argparse.Namespace) -> int:
    """Say every mistake, or that there is none, or what holds for a request."""
    if options.profile is not None and options.explain is None:
        return against(options)
    if options.profile is not None or options.against is not None:
        print("--explain goes with FILE, --against with --profile", file=sys.stderr)
        return 2
    try:
        policy = load_policy(options.file)
        if options.explain is not None:
            return _explain(policy, *options.explain)
    except ConfigError as error:
        print(error, file=sys.stderr)
        count = len(error.mistakes)
        print(f"{options.file}: {count} mistake{'s' if count != 1 else ''}", file=sys.stderr)
        return 1
    settings = policy.settings
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
    for risk in risky_routes(settings.gateways.values()):
        print(
            f"{risk['gateway']}: route {risk['route']} may charge twice: it is repeated after "
            f"{risk['repeated_after']}"
        )
    if settings.audit is None:
        print("no audit trail: `audit` names no file for what people do to sessions by hand")
    print(f"{options.file}: ok")
    return 0


def _explain(policy: Policy, method: str, path: str) -> int:
    if not path.startswith("/"):
        message = f"write the path of the request, like /v1/payment_intents, not {path!r}"
        print(message, file=sys.stderr)
        return 1
    for found in explain(policy, method.upper(), path):
        print(f"{found.gateway}: {method.upper()} {path} is route {found.route} ({found.origin})")
        for name, value, origin in found.settings:
            print(f"  {name:<32} {value:<24} {origin}")
    return 0
