"""How to find out what became of a payment: a profile's look-ups as values, and what is wrong with
them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from proxy.core import profile as facts
from proxy.core.documents import BodyKind
from proxy.core.jsonpath import parse_json_path
from proxy.settings import schema as s
from proxy.settings.profiles import nearest
from proxy.settings.texts import written_duration
from proxy.settings.yaml_lines import Path as Place

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


def lookup_mistakes(recipe: s.LookupModel, processing: float) -> Iterator[tuple[Place, str]]:
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
        at_once = recipe.find is None
        slots = _READ_AT_ONCE if at_once else _SLOTS["read"]
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
    for index, match in enumerate(recipe.match):
        if (match.value is None) == (match.is_one_of is None):
            yield ("match", index), "needs exactly one of value and in"
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


def rule_when(when: s.WhenModel, verdict: facts.Verdict, place: Place = ()) -> facts.Rule:
    """A rule with these conditions. `place`: where it stands in the file."""
    json = tuple(_body_test(test, BodyKind.JSON) for test in when.json_tests)
    form = tuple(_body_test(test, BodyKind.FORM) for test in when.form)
    xml = tuple(_body_test(test, BodyKind.XML) for test in when.xml)
    headers = tuple(when.header.items())
    return facts.Rule(tuple(when.status), headers, json, verdict, (*form, *xml), place)


def _body_test(test: s.BodyTestModel, kind: BodyKind) -> facts.BodyTest:
    values = None if test.is_one_of is None else frozenset(test.is_one_of)
    return facts.BodyTest(parse_json_path(test.path), values, test.present, kind)


def answers(when: s.WhenModel) -> facts.RulesByStatus:
    """The answers that fulfil these conditions."""
    return facts.rules_by_status([rule_when(when, facts.Verdict.NOT_EXECUTED)])


def with_parameters(recipe: s.LookupModel, parameters: Mapping[str, str]) -> s.LookupModel:
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


def build_lookup(name: str, model: s.LookupModel, profile: s.ProfileFile) -> facts.LookupRecipe:
    """A look-up as the flow uses it."""
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
        among=tuple(
            (parse_json_path(m.path), tuple(m.is_one_of)) for m in model.match if m.is_one_of
        ),
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
    says_so = None if model.when is None else answers(model.when)
    return facts.Absence(model.after, model.confirmations, says_so)


def _void(model: s.VoidModel | None, processing: float) -> facts.VoidRecipe | None:
    if model is None:
        return None
    after = processing if model.after is None else model.after
    return facts.VoidRecipe(model.target, model.body, answers(model.proves), after)
