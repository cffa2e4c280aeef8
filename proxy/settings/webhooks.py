"""A profile's `webhooks` and a policy's `webhook`: as the flow uses them, and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.core.documents import BodyKind
from proxy.core.jsonpath import JsonPath, parse_json_path
from proxy.core.signatures import KeyForm, Signature
from proxy.core.webhooks import EventRule, Says, Tie, WebhookRecipe
from proxy.settings import schema as s
from proxy.settings.profiles import nearest
from proxy.settings.yaml_lines import Path as Place

_SLOTS = ["{body}", "{timestamp}", "{url}"]
_SLOT = re.compile(r"\{[^{}]+\}")
# What is only there for one kind of signature.
_BELONGS = {"part": "header", "timestamp": "header", "over": "header", "fields": "json"}
_IN = {"header": "a header", "json": "the events"}
_WHOLE_BYTES = re.compile("(?:[0-9a-fA-F]{2})+")


def build_recipe(model: s.WebhooksModel) -> WebhookRecipe:
    """A profile's `webhooks` as the flow uses it."""
    tie = model.tie
    return WebhookRecipe(
        signature=None if model.signature is None else _signature(model.signature),
        body=model.body,
        payload=model.payload,
        each=_path(model.each),
        tie=Tie(
            key=_path(tie.key),
            order=tuple(map(parse_json_path, tie.order)),
            amount=_path(tie.amount),
            at=_path(tie.at),
            reference=parse_json_path(tie.reference),
        ),
        events=tuple(map(_event, model.events)),
        answer=model.answer,
    )


def _signature(model: s.SignatureModel) -> Signature:
    return Signature(
        header=None if model.header is None else model.header.lower(),
        form=model.form,
        json=_path(model.json_path),
        part=model.part,
        timestamp=model.timestamp,
        tolerance=model.tolerance,
        over=model.over,
        fields=tuple(map(parse_json_path, model.fields)),
        algorithm=model.algorithm,
        base64=model.encoding == "base64",
        key=model.key,
    )


def _event(model: s.EventRuleModel) -> EventRule:
    when = tuple((parse_json_path(t.path), frozenset(t.is_one_of)) for t in model.when)
    return EventRule(when, model.says, _path(model.object_path), model.operation)


def _path(text: str | None) -> JsonPath | None:
    return None if text is None else parse_json_path(text)


def recipe_mistakes(model: s.WebhooksModel) -> Iterator[tuple[Place, str]]:
    """What is wrong with a profile's `webhooks`, by place."""
    if model.signature is not None:
        for key, why in _signature_mistakes(model, model.signature):
            yield ("signature", *key), why
    needs_payload = model.body is BodyKind.XML
    if needs_payload is (model.payload is None):
        yield ("payload",), "is missing" if needs_payload else "is only read where body is xml"
    if model.tie.order and model.tie.at is None:
        why = "is missing: without it an old event could settle a new payment"
        yield ("tie", "at"), why
    yield from _event_mistakes(model)


def _event_mistakes(model: s.WebhooksModel) -> Iterator[tuple[Place, str]]:
    for number, event in enumerate(model.events):
        place: Place = ("events", number)
        if "says" in event.model_fields_set and event.object_path is not None:
            yield (*place, "says"), "is what object tells; write one of them"
        if model.signature is None and (event.object_path or event.says is not Says.LOOK_UP):
            yield place, "proves nothing without a signature; leave says and object out"
        if event.says is Says.DECLINED and model.tie.key is None:
            why = "a no only counts for a key, and tie.key is missing; write look_up"
            yield (*place, "says"), why


def _signature_mistakes(
    model: s.WebhooksModel, signature: s.SignatureModel
) -> Iterator[tuple[Place, str]]:
    places = {
        "header": signature.header,
        "form": signature.form,
        "json": signature.json_path,
    }
    if sum(place is not None for place in places.values()) != 1:
        yield (), "name exactly one of header, form and json"
        return
    for key, needed in _BELONGS.items():
        if key in signature.model_fields_set and places[needed] is None:
            yield (key,), f"belongs to a signature in {_IN[needed]}"
    if signature.json_path is not None and not signature.fields:
        yield ("fields",), "is missing: what is signed of each event"
    if signature.form is not None and model.body is not BodyKind.XML:
        yield ("form",), "signs the payload of a webhook with body: xml"
    if signature.header is not None:
        yield from _over_mistakes(signature)


def _over_mistakes(signature: s.SignatureModel) -> Iterator[tuple[Place, str]]:
    for slot in _SLOT.findall(signature.over):
        if slot not in _SLOTS:
            yield ("over",), f"nothing is known for {slot}{nearest(slot, _SLOTS)}"
    if "{body}" not in signature.over:
        yield ("over",), "must say where {body} goes, or it signs nothing"
    if ("{timestamp}" in signature.over) is (signature.timestamp is None):
        yield ("over",), "must have {timestamp} where timestamp names it, and only there"
    if signature.timestamp is not None and signature.part is None:
        yield ("timestamp",), "stands in a list of parts, and part is missing"


def webhook_mistakes(
    model: s.WebhookModel, spoken: s.WebhooksModel, secret: str | None
) -> Iterator[tuple[str, str]]:
    """What does not fit between a policy's `webhook` and its profile, by key. Never the secret."""
    signature = spoken.signature
    if signature is None:
        if model.secret is not None:
            yield "secret", "this gateway's webhooks are not signed, so that nothing is checked"
        return
    if secret is not None and signature.key is KeyForm.HEX and not _WHOLE_BYTES.fullmatch(secret):
        yield "secret", "is not a key in hexadecimal digits"
    if "{url}" in signature.over and model.url is None:
        yield "url", "is missing: this gateway signs the address it calls"
