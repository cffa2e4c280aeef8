"""What is wrong with the routes of a file, a policy's or a profile's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from proxy.core.policy import SessionKind
from proxy.core.routing import compile_template, is_safe
from proxy.settings import schema as s
from proxy.settings.profiles import STAND_IN_PATH
from proxy.settings.yaml_lines import Path as Place

# What only a payment has.
_OF_PAYMENTS = {"order_lock", "new_key", "lookup", "keep_request", "max_body"}


def route_mistakes(
    written: Sequence[s.RouteModel], hold: Sequence[s.RouteModel]
) -> Iterator[tuple[Place, str]]:
    """Names, and what would never apply, by place. `hold`: what holds of each."""
    for number, (wrote, route) in enumerate(zip(written, hold, strict=True)):
        before = hold[:number]
        if route.name in {one.name for one in before}:
            yield (number, "name"), f"two routes are named {route.name!r}"
        elif first := next((one.name for one in before if _takes_all(one, route)), None):
            why = f"route {first!r} before it takes all of its requests, so it would never apply"
            yield (number, "match"), why
        if route.session is SessionKind.EPHEMERAL:
            reads = any(map(is_safe, route.match.methods))  # what changes something is sent once
            keys = _OF_PAYMENTS if reads else _OF_PAYMENTS | {"retry"}
            for key in sorted(keys & wrote.model_fields_set):
                yield (number, key), "means nothing unless the route says `session: durable`"


def _takes_all(first: s.RouteModel, route: s.RouteModel) -> bool:
    if route.match.path == STAND_IN_PATH:  # what was written is wrong by itself
        return False
    # What stands for any segment, and for any number of them.
    path = re.sub(r"\{[^{}/]*\}", "\0", route.match.path.replace("**", "\0/" * 30))
    covers = {*route.match.methods} <= {*first.match.methods}
    return covers and compile_template(first.match.path).fullmatch(path) is not None
