"""What editors and the references know of the settings, out of `schema.py`: the JSON Schema, and
what each key does.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from itertools import pairwise
from typing import Any, NamedTuple

from pydantic import BaseModel

from proxy.core.refusals import Refusal
from proxy.settings import schema as s
from proxy.settings.texts import written_default

# What editors know best.
_DIALECT = "http://json-schema.org/draft-07/schema#"
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


class Text(NamedTuple):
    """What a key does, and the reason of its default; links lead from docs/policies/."""

    does: str
    why: str


def texts() -> dict[tuple[str, str], Text]:
    """What stands below each field of the schema, by model and field.

    Read from the source, and only when it is asked for: pydantic would do so at every start.
    """
    found = {}
    for model in ast.parse(inspect.getsource(s)).body:
        lines = model.body if isinstance(model, ast.ClassDef) else []
        for line, below in pairwise(lines):
            match line, below:
                case (
                    ast.AnnAssign(target=ast.Name(field)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    does, _, why = " ".join(text.split()).partition(" Why: ")
                    found[getattr(model, "name", ""), field] = Text(does, why)
                case _:
                    pass
    return found


def printed(schema: dict[str, Any]) -> str:
    """A schema as it stands in a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def policy_schema() -> dict[str, Any]:
    """What a policy file may be, as a JSON Schema."""
    schema = _schema(s.PolicyFile, "A Holdfast policy")
    gateways = schema["properties"]["gateways"]
    del gateways["default"]  # the loader asks for them by itself
    gateways["minProperties"] = 1
    return schema | {"required": ["gateways"]}


def profile_schema() -> dict[str, Any]:
    """What a gateway profile may be, as a JSON Schema."""
    schema = _schema(s.ProfileFile, "A gateway profile of Holdfast")
    refusals = schema["$defs"]["ErrorsModel"]["properties"]["refusals"]
    refusals["propertyNames"] = {"enum": sorted(refusal.code for refusal in Refusal)}
    return schema


def _schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    schema = model.model_json_schema()
    known = texts()
    inner = schema.pop("$defs")
    _describe(model, schema, known)
    for name, part in inner.items():
        del part["title"]
        kind = getattr(s, name)
        if issubclass(kind, BaseModel):
            _describe(kind, part, known)
        else:  # an enumeration, whose words are explained where it is used
            part.pop("description", None)
    return {"$schema": _DIALECT, **schema, "title": title, "$defs": inner}


def _describe(
    model: type[BaseModel], schema: dict[str, Any], known: dict[tuple[str, str], Text]
) -> None:
    """Say of each key what it does, and its default as it would be written."""
    for name, field in model.model_fields.items():
        part = schema["properties"][field.alias or name]
        if part.get("title", "").istitle():  # the field's name once more; a kind is lower-case
            del part["title"]
        part.pop("default", None)
        text = known.get((model.__name__, name))
        if text is not None:
            why = f" Why this default: {text.why}" if text.why else ""
            part["description"] = _LINK.sub(r"\1", text.does + why)
        default = None if field.is_required() else written_default(field)
        if default is not None and not isinstance(default, BaseModel):
            part["default"] = default
        if "patternProperties" in part:
            part["additionalProperties"] = False
