"""What a policy file that was written anew changes, and whether that can be done while payments go
through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from proxy.core.policy import RoutePolicy
from proxy.settings.load import ConfigError, Policy
from proxy.settings.values import Settings
from proxy.settings.yaml_lines import Data, Mistake, as_written, dotted
from proxy.settings.yaml_lines import Path as Place

_ONLY_A_RESTART = "only a restart changes this"
# What is opened once, and what decides how long promises that were made are kept.
_LASTING: dict[str, Place] = {
    "sessions": ("listen", "sessions"),
    "admin": ("listen", "admin"),
    "store": ("store",),
    "key_file": ("key_file",),
    "audit": ("audit",),
    "spool": ("spool",),
    "session": ("session",),
}
# Of a route: how it is treated. All else says who a payment is, or what may be done with it.
_TREATMENT = frozenset({"timeouts", "retry", "max_body_bytes", "max_answer_bytes", "new_key"})
_WHAT_IT_IS = [field.name for field in fields(RoutePolicy) if field.name not in _TREATMENT]
_NOT_WRITTEN = object()


def refuse_lasting(before: Policy, after: Policy) -> None:
    """Raise `ConfigError` for changes that cannot be made while Holdfast runs, each as a mistake in
    the new file.
    """
    old, new = before.settings, after.settings
    places = [place for name, place in _LASTING.items() if getattr(old, name) != getattr(new, name)]
    names = sorted(old.gateways.keys() ^ new.gateways.keys())
    places += [("gateways", name) for name in names]
    for name in sorted(old.gateways.keys() & new.gateways.keys()):
        was, now = _lasting(before, name), _lasting(after, name)
        places += [("gateways", name, key) for key in was if was[key] != now[key]]
    mistakes = [after.document.mistake(place, _ONLY_A_RESTART) for place in places]
    mistakes += [Mistake(origin, 0, 0, "", _ONLY_A_RESTART) for origin in _secrets(old, new)]
    if mistakes:
        raise ConfigError(mistakes)


def _lasting(policy: Policy, name: str) -> dict[str, object]:
    """What of a gateway holds for payments that are there already, by its key in the file. Under
    another route's name, promise or credential a repeat would be another payment, or be sent where
    it must not.
    """
    model, resolved = policy.model.gateways[name], policy.settings.gateways[name]
    table = resolved.routes
    routes = [*(route for _, route in table.routes), table.read, table.other]
    return {
        "listen": resolved.listen,
        "profile": (model.profile, policy.profiles[model.profile][1].data),
        "idempotency": model.idempotency,
        "routes": [
            resolved.of_routes,
            *([getattr(route, field) for field in _WHAT_IT_IS] for route in routes),
        ],
    }


def _secrets(old: Settings, new: Settings) -> Iterator[str]:
    if old.tokens != new.tokens:
        yield "a token"
    if old.keys != new.keys:
        yield "HOLDFAST_KEY"


def changes(before: Policy, after: Policy) -> list[str]:
    """What is written otherwise now, a line each: `place: before -> after`."""
    old, new = _written(before), _written(after)
    places = [place for place in {**old, **new} if _at(old, place) != _at(new, place)]
    return [f"{dotted(p)}: {_shown(_at(old, p))} -> {_shown(_at(new, p))}" for p in places]


def _written(policy: Policy) -> dict[Place, Data]:
    """Every single value of the file and of the profiles it names, by its place."""
    found = dict(_leaves(policy.document.data, ()))
    for name, (_, document) in policy.profiles.items():
        found |= dict(_leaves(document.data, (f"profile {name}",)))
    return found


def _leaves(data: Data, place: Place) -> Iterator[tuple[Place, Data]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, (*place, key))
    elif isinstance(data, list) and data:
        for number, value in enumerate(data):
            yield from _leaves(value, (*place, number))
    else:
        yield place, data


def _at(written: dict[Place, Data], place: Place) -> object:
    return written.get(place, _NOT_WRITTEN)


def _shown(value: object) -> str:
    return "not written" if value is _NOT_WRITTEN else as_written(value)
