"""A profile file → what the flow knows of a gateway, and the checks between its fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from proxy.core import profile as facts
from proxy.core.jsonpath import parse_json_path
from proxy.core.keys import Carrier, KeyPlace
from proxy.core.refusals import Refusal
from proxy.settings import defaults as d
from proxy.settings import schema as s
from proxy.settings.lookups import (
    answers,
    build_lookup,
    lookup_mistakes,
    rule_when,
    with_parameters,
)
from proxy.settings.profiles import nearest
from proxy.settings.routes import route_mistakes
from proxy.settings.webhooks import build_recipe, recipe_mistakes
from proxy.settings.yaml_lines import Document
from proxy.settings.yaml_lines import Path as Place

# Headers of an answer that mean the same when the answer is given again (never Set-Cookie).
_REPLAYED = frozenset({"content-type", "content-encoding", "content-language", "location"})


def build_profile(
    name: str, model: s.ProfileFile, parameters: Mapping[str, str] = MappingProxyType({})
) -> facts.GatewayProfile:
    """A profile file as the value the flow uses. `parameters` are put into its look-ups."""
    promise = model.idempotency
    return facts.GatewayProfile(
        name=name,
        gateway_class=promise.gateway_class,
        key=_key(promise.key),
        resend_horizon=promise.resend_horizon or promise.window * d.RESEND_HORIZON_SHARE,
        credential_headers=tuple(name.lower() for name in model.credential_headers),
        rules=facts.rules_by_status(rules_of(model.results, ("results",))),
        replayed=None if model.replayed is None else answers(model.replayed),
        retry_hint=_hint(model.retry_hint),
        lookups={
            key: build_lookup(key, with_parameters(recipe, parameters), model)
            for key, recipe in model.lookups.items()
        },
        error_form=facts.ErrorForm(
            model.errors.body, (model.errors.types.caller, model.errors.types.gateway)
        ),
        refusal_forms={
            code: facts.RefusalForm(form.status, form.error_type)
            for code, form in model.errors.refusals.items()
        },
        final_answer_headers=tuple((h.header, h.value) for h in model.errors.headers),
        replay_headers=_REPLAYED | {name.lower() for name in model.replay_headers},
        resend_lost_answers=promise.resend_lost_answers,
        max_processing_time=model.max_processing_time,
        links=_links(model.links),
        webhooks=None if model.webhooks is None else build_recipe(model.webhooks),
    )


def promising(profile: facts.GatewayProfile, promise: s.IdempotencyModel) -> facts.GatewayProfile:
    """The profile with what the gateway promises for a repeated key."""
    return replace(
        profile,
        gateway_class=promise.gateway_class,
        key=_key(promise.key),
        resend_horizon=promise.resend_horizon or promise.window * d.RESEND_HORIZON_SHARE,
        resend_lost_answers=promise.resend_lost_answers,
    )


def _key(model: s.KeyModel) -> KeyPlace:
    path = None if model.json_path is None else parse_json_path(model.json_path)
    places = {
        Carrier.HEADER: model.header,
        Carrier.JSON: model.json_path,
        Carrier.FORM: model.form,
    }
    carrier = next((c for c, name in places.items() if name is not None), Carrier.NOWHERE)
    return KeyPlace(
        carrier,
        places.get(carrier) or "",
        path,
        re.compile(f"[{model.characters}]+"),
        model.min_length,
        model.max_length,
        model.put_in,
    )


_RESTS_ON_A_KEY = frozenset(facts.GatewayClass) - {
    facts.GatewayClass.B_LOOKUP,
    facts.GatewayClass.D_NONE,
}


def promise_mistakes(promise: s.IdempotencyModel) -> Iterator[tuple[str, str]]:
    """What is wrong with a promise, by its field."""
    if promise.resend_horizon is not None and promise.resend_horizon > promise.window:
        yield (
            "resend_horizon",
            "is longer than the gateway keeps a key; a repeat after that is a new charge",
        )
    if promise.resend_lost_answers and promise.gateway_class is not facts.GatewayClass.A_WEAK:
        yield "resend_lost_answers", "is only meant for class A_weak"
    key = promise.key
    if key.nowhere and promise.gateway_class in _RESTS_ON_A_KEY:
        yield "key", f"class {promise.gateway_class} is a promise about keys, and there is none"
    elif key.put_in and key.json_path is not None and parse_json_path(key.json_path).key is None:
        yield "key", "is put in only at the top of the body; write put_in: false"


def check_profile(  # noqa: C901 -- a list of checks
    model: s.ProfileFile, document: Document
) -> None:
    """The checks between a profile's fields; mistakes go into its document."""

    def wrong(place: Place, message: str) -> None:
        document.mistakes.append(document.mistake(place, message))

    for key, why in promise_mistakes(model.idempotency):
        wrong(("idempotency", key), why)
    known = sorted(refusal.code for refusal in Refusal)
    for code in model.errors.refusals:
        if code not in known:
            wrong(("errors", "refusals", code), f"there is no such refusal{nearest(code, known)}")
    for place, why in route_mistakes(model.routes, model.routes):
        wrong(("routes", *place), why)
    for number, route in enumerate(model.routes):
        if route.lookup is not None and route.lookup not in model.lookups:
            message = (
                f"there is no look-up {route.lookup!r}{nearest(route.lookup, [*model.lookups])}"
            )
            wrong(("routes", number, "lookup"), message)
    for name, recipe in model.lookups.items():
        filled = with_parameters(recipe, dict.fromkeys(model.parameters, "x"))
        for place, why in lookup_mistakes(filled, model.max_processing_time):
            wrong(("lookups", name, *place), why)
    for place, why in () if model.webhooks is None else recipe_mistakes(model.webhooks):
        wrong(("webhooks", *place), why)


def rules_of(models: Sequence[s.RuleModel], place: Place) -> list[facts.Rule]:
    """Rules that are written at a place of the profile's file; at none, if it is the policy's."""
    return [
        rule_when(model.when, model.result, place and (*place, number))
        for number, model in enumerate(models)
    ]


def _hint(model: s.HintModel | None) -> facts.RetryHint | None:
    if model is None:
        return None
    return facts.RetryHint(model.header.lower(), frozenset(model.retry), frozenset(model.stop))


def _links(model: s.LinksModel | None) -> facts.Links | None:
    if model is None:
        return None
    headers = frozenset(name.lower() for name in model.headers)
    return facts.Links(tuple(model.origins), tuple(model.keys), headers)
