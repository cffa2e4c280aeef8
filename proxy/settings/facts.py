"""A profile file → what the flow knows of a gateway, and the checks between its fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from proxy.core import profile as facts
from proxy.core.documents import BodyKind
from proxy.core.jsonpath import parse_json_path
from proxy.core.keys import Carrier, KeyPlace
from proxy.core.refusals import Refusal
from proxy.settings import defaults as d
from proxy.settings import schema as s
from proxy.settings.profiles import nearest
from proxy.settings.texts import written_duration
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
        replayed=None if model.replayed is None else _answers(model.replayed),
        retry_hint=_hint(model.retry_hint),
        lookups={
            key: _lookup(key, _with(recipe, parameters), model)
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
    seen: set[str] = set()
    for number, route in enumerate(model.routes):
        if route.lookup is not None and route.lookup not in model.lookups:
            message = (
                f"there is no look-up {route.lookup!r}{nearest(route.lookup, [*model.lookups])}"
            )
            wrong(("routes", number, "lookup"), message)
        if route.name in seen:
            wrong(("routes", number, "name"), f"two routes are named {route.name!r}")
        seen.add(route.name)
    for name, recipe in model.lookups.items():
        filled = _with(recipe, dict.fromkeys(model.parameters, "x"))
        for place, why in _recipe_mistakes(filled, model.max_processing_time):
            wrong(("lookups", name, *place), why)
    for place, why in () if model.webhooks is None else recipe_mistakes(model.webhooks):
        wrong(("webhooks", *place), why)


_PLACEHOLDER = re.compile(r"\{[^{}\"]+\}")
_NAMES = ["{gateway_key}", "{order}", "{amount}"]
_SLOTS = {
    "find": [*_NAMES, "{since}", "{until}"],
    "find_body": _NAMES,
    "read": ["{id}"],
    "match": _NAMES,
    "target": ["{gateway_key}"],
    "body": ["{gateway_key}"],
}
# Without a list to find it in, the payment is read by a name that it has from the start.
_READ_AT_ONCE = ["{gateway_key}", "{order}"]
_OF_A_LIST = ("items", "match", "id")


def _recipe_mistakes(recipe: s.LookupModel, processing: float) -> Iterator[tuple[Place, str]]:
    """What is wrong with a look-up, by place."""
    if recipe.read is None and (recipe.cancel is None or recipe.find is not None):
        yield ("read",), "is missing"
    if recipe.find is not None:
        yield from _list_mistakes(recipe, recipe.find)
    else:
        for key in (*_OF_A_LIST, "page"):
            if key in recipe.model_fields_set:
                yield (key,), "belongs to a list, and there is no find"
    if recipe.read is not None:
        slots = _READ_AT_ONCE if recipe.find is None else _SLOTS["read"]
        yield from _text_mistakes(("read",), recipe.read, slots, path=True)
        if not any(slot in recipe.read for slot in slots):
            named = " or ".join(slots)
            why = f"must say where {named} goes, or it reads the same thing for every payment"
            yield ("read",), why
    yield from _absence_mistakes(recipe, processing)
    if recipe.cancel is not None:
        yield from _void_mistakes(recipe.cancel)


def _void_mistakes(void: s.VoidModel) -> Iterator[tuple[Place, str]]:
    yield from _text_mistakes(("cancel", "target"), void.target, _SLOTS["target"], path=True)
    yield from _text_mistakes(("cancel", "body"), void.body, _SLOTS["body"])
    if "{gateway_key}" not in void.target + void.body:
        yield ("cancel", "body"), "must name {gateway_key}, or it voids someone else's payment"


def _list_mistakes(recipe: s.LookupModel, find: str) -> Iterator[tuple[Place, str]]:
    yield from (((key,), "is missing") for key in _OF_A_LIST if not getattr(recipe, key))
    yield from _text_mistakes(("find",), find, _SLOTS["find"], path=True)
    values = "".join(match.value or "" for match in recipe.match)
    yield from _text_mistakes(("match",), values, _SLOTS["match"])
    yield from _text_mistakes(("find_body",), recipe.find_body or "", _SLOTS["find_body"])
    if not any(slot in find + (recipe.find_body or "") + values for slot in _READ_AT_ONCE):
        why = "must compare something with {gateway_key} or {order}"
        yield ("match",), f"{why}, or it finds someone else's payment"


def _text_mistakes(
    place: Place, text: str, slots: list[str], *, path: bool = False
) -> Iterator[tuple[Place, str]]:
    if path and not text.startswith("/"):
        yield place, "write the path to ask for, starting with '/'"
    for slot in _PLACEHOLDER.findall(text):
        if slot not in slots:
            yield place, f"nothing is known for {slot}{nearest(slot, slots)}"


def _absence_mistakes(recipe: s.LookupModel, processing: float) -> Iterator[tuple[Place, str]]:
    absence = recipe.not_found_proves
    if absence is None:
        return
    here: Place = ("not_found_proves",)
    if absence.after < processing:
        longest = f"max_processing_time ({written_duration(processing)})"
        yield (*here, "after"), f"is shorter than {longest}; the gateway may take as long"
    if recipe.find is None and absence.when is None:
        yield here, "must say by `when` which answer means that there is no such payment"
    if recipe.find is not None and absence.when is not None:
        yield (*here, "when"), "is for a payment that is read at once; a list is empty by itself"
    if recipe.find is not None and not (recipe.items or "").endswith("[*]"):
        yield ("items",), "must end in [*], so that an empty list can be told from none"


def rules_of(models: Sequence[s.RuleModel], place: Place) -> list[facts.Rule]:
    """Rules that are written at a place of the profile's file; at none, if it is the policy's."""
    return [
        _rule_when(model.when, model.result, place and (*place, number))
        for number, model in enumerate(models)
    ]


def _rule_when(when: s.WhenModel, verdict: facts.Verdict, place: Place = ()) -> facts.Rule:
    json = tuple(_body_test(test, BodyKind.JSON) for test in when.json_tests)
    form = tuple(_body_test(test, BodyKind.FORM) for test in when.form)
    xml = tuple(_body_test(test, BodyKind.XML) for test in when.xml)
    headers = tuple(when.header.items())
    return facts.Rule(tuple(when.status), headers, json, verdict, (*form, *xml), place)


def _body_test(test: s.BodyTestModel, kind: BodyKind) -> facts.BodyTest:
    values = None if test.is_one_of is None else frozenset(test.is_one_of)
    return facts.BodyTest(parse_json_path(test.path), values, test.present, kind)


def _with(recipe: s.LookupModel, parameters: Mapping[str, str]) -> s.LookupModel:
    """A look-up with the policy's parameters in its texts."""

    def filled(text: str) -> str:
        for name, value in parameters.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    texts = {"find": recipe.find, "find_body": recipe.find_body, "read": recipe.read}
    changes: dict[str, object] = {name: filled(text) for name, text in texts.items() if text}
    if (void := recipe.cancel) is not None:
        own = {"target": filled(void.target), "body": filled(void.body)}
        changes["cancel"] = void.model_copy(update=own)
    return recipe.model_copy(update=changes)


def _lookup(name: str, model: s.LookupModel, profile: s.ProfileFile) -> facts.LookupRecipe:
    return facts.LookupRecipe(
        name=name,
        find=_list(model),
        read_target=model.read,
        absence=_absence(model.not_found_proves),
        void=_void(model.cancel, profile.max_processing_time),
    )


def _list(model: s.LookupModel) -> facts.ListRecipe | None:
    if model.find is None or model.items is None or model.id is None:
        return None
    page = model.page
    return facts.ListRecipe(
        target=model.find,
        items=parse_json_path(model.items),
        match=tuple((parse_json_path(m.path), m.value) for m in model.match if m.value is not None),
        among=tuple((parse_json_path(m.path), tuple(m.one_of)) for m in model.match if m.one_of),
        id=parse_json_path(model.id),
        cursor=None if page is None else parse_json_path(page.cursor),
        cursor_parameter=None if page is None else page.parameter,
        more=None if page is None else parse_json_path(page.more),
        max_pages=1 if page is None else page.max_pages,
        body=model.find_body,
    )


def _absence(model: s.AbsenceModel | None) -> facts.Absence | None:
    if model is None:
        return None
    says_so = None if model.when is None else _answers(model.when)
    return facts.Absence(model.after, model.confirmations, says_so)


def _void(model: s.VoidModel | None, processing: float) -> facts.VoidRecipe | None:
    if model is None:
        return None
    after = processing if model.after is None else model.after
    return facts.VoidRecipe(model.target, model.body, _answers(model.proves), after)


def _answers(when: s.WhenModel) -> facts.RulesByStatus:
    """The answers that fulfil these conditions."""
    return facts.rules_by_status([_rule_when(when, facts.Verdict.NOT_EXECUTED)])


def _hint(model: s.HintModel | None) -> facts.RetryHint | None:
    if model is None:
        return None
    return facts.RetryHint(model.header.lower(), frozenset(model.retry), frozenset(model.stop))


def _links(model: s.LinksModel | None) -> facts.Links | None:
    if model is None:
        return None
    headers = frozenset(name.lower() for name in model.headers)
    return facts.Links(tuple(model.origins), tuple(model.keys), headers)
