"""After what Holdfast repeats by itself (`retry.on`), as far as that is a question of safety.

A condition that leaves open whether the customer was charged is only for a gateway that honours its
keys. Elsewhere it is refused where it is written, unless its route takes the risk by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from proxy.core.policy import Condition, RoutePolicy, Statuses
from proxy.core.profile import GatewayClass, GatewayProfile
from proxy.core.retrying import in_doubt
from proxy.settings.schema import RetryModel
from proxy.settings.values import Gateway
from proxy.settings.yaml_lines import Document, Mistake
from proxy.settings.yaml_lines import Path as Place

# What a gateway does with a repeated key, where it does not honour it whatever came before.
_PROMISE = {
    GatewayClass.A_WEAK: "forgets a key after an error",
    GatewayClass.B_LOOKUP: "knows no keys",
    GatewayClass.C_CANCEL_BY_KEY: "only voids by key",
    GatewayClass.D_NONE: "promises nothing for a repeated key",
}


class Layer(NamedTuple):
    """A place that may have `retry`, and what is written there."""

    document: Document
    place: Place
    model: RetryModel | None

    def mistake(self, field: str, message: str, *more: int) -> Mistake:
        """One about what stands there."""
        return self.document.mistake((*self.place, "retry", field, *more), message)


def retry_mistakes(
    gateway: str, route: RoutePolicy, profile: GatewayProfile, layers: Sequence[Layer]
) -> Iterator[Mistake]:
    """What is wrong with the `on` that a route has, at the layer that wrote it. The nearest layer
    comes first, which is that of the policy file's own route; the last are the defaults.
    """
    own, defaults = layers[0], layers[-1]
    layer = next((one for one in layers if one.model and "on" in one.model.model_fields_set), own)
    written = (layer.model and layer.model.on) or []
    risks = [_risk(condition, route, profile) for condition in written]
    if own.model is not None and own.model.risk is not None:
        kind = f"class {profile.gateway_class}" if route.durable else "the route is not durable"
        yield from _own_risk(own, kind, beside=layer is own and bool(written), needed=any(risks))
        return
    for number, (condition, risk) in enumerate(zip(written, risks, strict=True)):
        if risk is not None:
            take = "beside it" if layer is own else "beside the `on` of a route of this file"
            message = (
                f"could charge twice: after {risk} nobody knows whether the customer was charged, "
                f"and {gateway} ({profile.gateway_class}) {_PROMISE[profile.gateway_class]}; "
                f"leave it out, or write `risk: may_charge_twice` {take}"
            )
            yield layer.mistake("on", message, number)
        elif _never(condition, route, profile) and layer is not defaults:
            message = f"profile {profile.name} has no retry_hint, so it would never apply"
            yield layer.mistake("on", message, number)


def _own_risk(own: Layer, kind: str, *, beside: bool, needed: bool) -> Iterator[Mistake]:
    if not beside:
        yield own.mistake("risk", "name after what it is taken, as `on` beside it")
    elif not needed:
        yield own.mistake("risk", f"nothing in `on` is a risk here ({kind}); leave it out")


def _risk(
    condition: Condition | Statuses, route: RoutePolicy, profile: GatewayProfile
) -> str | None:
    """What of the condition could charge twice, if anything could."""
    safe = not route.durable or profile.gateway_class is GatewayClass.A_STRONG
    if safe or _never(condition, route, profile):
        return None
    return in_doubt(condition, profile.rules)


def _never(condition: Condition | Statuses, route: RoutePolicy, profile: GatewayProfile) -> bool:
    asks = condition is Condition.GATEWAY_SAYS_RETRY
    return asks and profile.retry_hint is None and route.durable


def risk_mistakes(layers: Iterable[Layer]) -> Iterator[Mistake]:
    """Risks at layers that are not a route of the policy file: such a risk is taken for payments
    that nobody thought of.
    """
    for layer in layers:
        if layer.model is not None and layer.model.risk is not None:
            why = "a risk is taken by a route of the policy file: write it there, beside its `on`"
            yield layer.mistake("risk", why)


def risky_routes(gateways: Iterable[Gateway]) -> Iterator[dict[str, str]]:
    """The routes that may charge twice, for whoever says so aloud."""
    for gateway in gateways:
        for _, route in gateway.routes.routes:
            if route.retry.may_charge_twice:
                after = ", ".join(map(_written, route.retry.on or ()))
                yield {"gateway": gateway.name, "route": route.name, "repeated_after": after}


def _written(condition: Condition | Statuses) -> str:
    if isinstance(condition, Condition):
        return str(condition)
    return " ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in condition)
