"""What holds for a request, value by value, and where each was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import BaseModel

from proxy.settings import schema as s
from proxy.settings.load import Policy
from proxy.settings.profiles import at, unwrapped
from proxy.settings.texts import parse_duration, written_default, written_duration
from proxy.settings.values import Gateway
from proxy.settings.yaml_lines import Document, as_written
from proxy.settings.yaml_lines import Path as Place

_DEFAULT = "default"
# `null` there is as if nothing were written.
_SKIPS_NULL = frozenset({"max_body", "max_answer"})
_LIMITS = ("max_body", "max_answer", "budget", "breaker", "concurrency")
_ELSEWHERE = {"name", "match", "idempotency", "results", *_LIMITS}
_OF_A_ROUTE = [f for f in s.RouteModel.model_fields if f not in _ELSEWHERE]
# Written anew, nothing of what was written before holds of it.
_WHOLE = frozenset({"key"})


class Held(NamedTuple):
    """A setting, its value as it would be written, and where it was written."""

    name: str
    value: str
    origin: str


class Explained(NamedTuple):
    """What holds for a request at one gateway. `origin`: where its route was written."""

    gateway: str
    route: str
    origin: str
    settings: list[Held]


class _Layer(NamedTuple):
    """A part of a file that may have a value; the nearest layer that wrote it has the say."""

    model: BaseModel
    place: Place
    document: Document


def explain(policy: Policy, method: str, target: str) -> list[Explained]:
    """For each gateway, the route that a request meets there and all that holds for it."""
    path = target.partition("?")[0]
    return [_at_gateway(policy, name, method, path) for name in policy.model.gateways]


def _at_gateway(policy: Policy, name: str, method: str, path: str) -> Explained:
    model, document = policy.model, policy.document
    gateway, own = model.gateways[name], ("gateways", name)
    profile, facts = policy.profiles[gateway.profile]
    resolved = policy.settings.gateways[name]
    route = resolved.routes.match(method, path)
    named = any(route is one for _, one in resolved.routes.routes)
    known = resolved.of_routes.get(route.name, resolved.profile)
    routes = [
        *_routes(gateway.routes, (*own, "routes"), document, route.name),
        *_routes(profile.routes, ("routes",), facts, route.name),
    ]
    routes = routes if named else []  # what no route is for has a name of its own
    around = [
        _Layer(gateway, own, document),
        _Layer(profile, (), facts),
        _Layer(model.defaults, ("defaults",), document),
    ]
    apart = [
        _Layer(limits, (*own, "operations", operation), document)
        for operation, limits in gateway.operations.items()
        if operation == route.operation
    ]
    promise = [
        *_inside(routes, "idempotency", "idempotency"),
        _Layer(gateway.idempotency, (*own, "idempotency"), document),
        _Layer(profile.idempotency, ("idempotency",), facts),
    ]
    held = [
        *_held(s.RouteModel, [*routes, *around], _OF_A_ROUTE),
        *_held(s.DefaultsModel, [*routes, *apart, *around], _LIMITS),
        *_held(s.IdempotencyModel, promise, prefix="idempotency."),
        *_held(s.ProfileFile, [_Layer(profile, (), facts)], _of_a_profile(profile)),
        *_held(s.SessionModel, [_Layer(model.session, ("session",), document)], prefix="session."),
    ]
    follows = {  # what may come to something else than is written, and from which setting
        "retry.automatic_attempts": (str(route.retry.automatic_attempts), "retry.max_attempts"),
        "idempotency.resend_horizon": (
            written_duration(known.resend_horizon),
            "idempotency.window",
        ),
        **({"retry.on": ("all that are safe", "idempotency.class")} if not route.retry.on else {}),
        "breaker.probe": (_probe(resolved, route.operation), "the profile's probe"),
    }
    held = [_as_it_holds(one, *follows.get(one.name, (one.value, ""))) for one in held]
    origin = routes[0].document.origin(routes[0].place) if routes else "no route is for it"
    return Explained(name, route.name, origin, held)


def _of_a_profile(profile: s.ProfileFile) -> list[str]:
    """What of a profile decides how a request is treated. Links are turned where it says so."""
    return ["max_processing_time", *(["links"] if profile.links is not None else [])]


def _probe(gateway: Gateway, operation: str) -> str:
    limits = gateway.limits
    return limits.get(operation, limits[None]).breaker.probe


def _as_it_holds(held: Held, value: str, source: str) -> Held:
    """With what it comes to, where that follows from another setting."""
    return held if _same(held.value, value) else Held(held.name, value, f"from {source}")


def _same(one: str, other: str) -> bool:
    """Whether two values are written alike, or are the same time in other units."""
    try:
        return bool(parse_duration(one) == parse_duration(other))
    except ValueError:
        return one == other


def _routes(
    routes: Sequence[s.RouteModel], place: Place, document: Document, name: str
) -> Iterator[_Layer]:
    for number, route in enumerate(routes):
        if route.name == name:
            yield _Layer(route, (*place, number), document)


def _held(
    model: type[BaseModel],
    layers: Sequence[_Layer],
    only: Sequence[str] | None = None,
    prefix: str = "",
) -> Iterator[Held]:
    """The settings of a model, each from the first layer that has it."""
    for name in model.model_fields if only is None else only:
        field = model.model_fields[name]
        wrote = [layer for layer in layers if _has(layer, name)]
        wrote = wrote[:1] if name in _WHOLE else wrote
        key = field.alias or name
        kind = next(kind for kind in unwrapped(field.annotation) if kind is not type(None))
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _held(kind, _inside(wrote, name, key), prefix=f"{prefix}{key}.")
        elif wrote:
            place, document = (*wrote[0].place, key), wrote[0].document
            written = as_written(at(document.data, place))
            yield Held(f"{prefix}{key}", written, document.origin(place))
        else:
            yield Held(f"{prefix}{key}", as_written(written_default(field)), _DEFAULT)


def _has(layer: _Layer, name: str) -> bool:
    """Whether the layer has a say in it."""
    if name not in layer.model.model_fields_set:
        return False
    skips = name in _SKIPS_NULL or isinstance(layer.model, s.IdempotencyOverride)
    return not skips or getattr(layer.model, name) is not None


def _inside(layers: Sequence[_Layer], name: str, key: str) -> list[_Layer]:
    """What the layers have there. `null` of a route takes back what the routes after it have."""
    found, taken_back = [], False
    for layer in layers:
        inner, of_a_route = getattr(layer.model, name), isinstance(layer.model, s.RouteModel)
        if inner is not None and not (of_a_route and taken_back):
            found.append(layer._replace(model=inner, place=(*layer.place, key)))
        taken_back = taken_back or (of_a_route and inner is None)
    return found
