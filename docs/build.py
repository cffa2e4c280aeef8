"""Fills the tables of the references from the code: `./dev run python docs/build.py`.

What a setting does, its default and the reason of it stand in `proxy/settings/schema.py`, metrics
in `proxy/telemetry/metrics.py`. A page says between two comments what belongs there:

    <!-- keys: defaults.retry gateways.NAME.retry -->      every setting below these
    <!-- metrics: holdfast_retries_total -->               what each says
    <!-- pages -->                                         the pages of docs/policies/
    <!-- end -->

A setting belongs to the block that names most of its path, so that a new one finds its page by
itself. It also writes the schemas for editors. A test compares all of it with what is committed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from proxy.settings import schema as s
from proxy.settings.json_schema import Text, policy_schema, printed, profile_schema, texts
from proxy.settings.texts import written_default
from proxy.telemetry.families import Counter
from proxy.telemetry.metrics import Metrics

ROOT = Path(__file__).parent.parent
POLICIES = ROOT / "docs/policies"
INDEX = ROOT / "docs/policies.md"
PROFILES = ROOT / "proxy/gateways/README.md"
PAGES = sorted(POLICIES.glob("*.md"))
SCHEMAS = {"config/policy.schema.json": policy_schema, "config/profile.schema.json": profile_schema}

_BLOCK = re.compile(
    r"(?P<begin>^<!-- (?P<what>keys|metrics|pages)(?:: (?P<of>[^>]*?))? -->\n)"
    r".*?(?P<end>^<!-- end -->$)",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]+)")


class WrongError(Exception):
    """What has to be written before the pages can be."""


class Setting(NamedTuple):
    """A key of a file with all that the references say of it."""

    key: str
    kind: str
    default: str
    text: Text


def settings(model: type[BaseModel], shared: tuple[type[BaseModel], ...] = ()) -> list[Setting]:
    """Every setting of a file, each where it is met first; sections of the file are none.

    `shared` are models that another reference explains.
    """
    whole = policy_schema() if model is s.PolicyFile else profile_schema()
    known, seen = texts(), set(shared)

    def below(model: type[BaseModel], schema: dict[str, Any], prefix: str) -> Iterator[Setting]:
        # The gateways come last: what they share with the defaults is explained there.
        for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] in _LAST):
            key, part = f"{prefix}{field.alias or name}", schema["properties"][field.alias or name]
            text = known.get((model.__name__, name), Text("", ""))
            if text.does or not isinstance(field.default, BaseModel):
                default = _default(field, required=(field.alias or name) in schema["required"])
                _complain(f"{model.__name__}.{name}", field, text)
                yield Setting(key, _kind(part, whole["$defs"]), default, text)
            for inner, mark in _inside(part, whole["$defs"]):
                kind = getattr(s, inner)
                if kind not in seen:
                    seen.add(kind)
                    yield from below(kind, whole["$defs"][inner], f"{key}{mark}.")

    for part in (whole, *whole["$defs"].values()):
        part.setdefault("required", [])
    return list(below(model, whole, ""))


_LAST = {"gateways"}


def _complain(place: str, field: FieldInfo, text: Text) -> None:
    """Raises `WrongError` where somebody added a setting and did not say what it is."""
    where = f"proxy/settings/schema.py: {place}"
    if not text.does:
        raise WrongError(f'{where}: say what it does in a docstring below it: """…"""')
    default = None if field.is_required() else written_default(field)
    plain = isinstance(default, BaseModel) or default in (None, [], {}, "")
    if not plain and not text.why:
        raise WrongError(f"{where}: its default is {default}; end its text with `Why: …`")


def _default(field: FieldInfo, *, required: bool) -> str:
    if required:
        return "required"
    match written_default(field):
        case None:
            words = "none"
        case BaseModel():
            words = "below"
        case bool(value):
            words = f"`{str(value).lower()}`"
        case list(values):
            words = f"`[{', '.join(values)}]`"
        case float(number):
            words = f"`{number:g}`"
        case value:
            words = f"`{value}`" if value != "" else '`""`'
    return words


def _kind(part: dict[str, Any], defs: dict[str, Any]) -> str:
    """What may be written there, in words."""
    if "$ref" in part:
        part = defs[part["$ref"].rpartition("/")[2]]
    match part:
        case {"title": str(words)}:
            return words
        case {"anyOf": [inner, {"type": "null"}]}:
            return _kind(inner, defs)
        case {"enum": [*choices]}:
            *others, last = (f"`{choice}`" for choice in choices)
            return f"{', '.join(others)} or {last}"
        case {"type": "array", "items": inner}:
            return f"list: {_kind(inner, defs)}"
        case {"type": "object"}:
            return "section" if "properties" in part else "by name"
        case _:
            return _WORDS[part["type"]] + _limits(part)


_WORDS = {
    "string": "text",
    "boolean": "`true` or `false`",
    "integer": "whole number",
    "number": "number",
}


def _limits(part: dict[str, Any]) -> str:
    above = part.get("exclusiveMinimum")
    low, high = part.get("minimum"), part.get("maximum")
    said = [f"above {above}"] if above is not None else []
    if low is not None and high is not None:
        said.append(f"{low} to {high}")
    elif low is not None:
        said.append(f"at least {low}")
    elif high is not None:
        said.append(f"at most {high}")
    return f", {', '.join(said)}" if said else ""


def _inside(part: dict[str, Any], defs: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The models that may stand there, and the mark of their place: [] in lists, NAME in maps."""
    name = part.get("$ref", "").rpartition("/")[2]
    if "properties" in defs.get(name, {}):
        yield name, ""
    for inner in part.get("anyOf", []):
        yield from _inside(inner, defs)
    if "items" in part:
        yield from ((inner, f"[]{mark}") for inner, mark in _inside(part["items"], defs))
    named = [*part.get("patternProperties", {}).values(), part.get("additionalProperties")]
    for value in named:
        if isinstance(value, dict):
            yield from ((inner, f".NAME{mark}") for inner, mark in _inside(value, defs))


# What may be written in both is explained where it is written most.
_OF_PROFILES = (s.KeyModel, s.RuleModel)
_OF_POLICIES = (s.RouteModel, s.TimeoutsModel)

# --- the pages ----------------------------------------------------------------------------------


def built() -> dict[Path, str]:
    """Every generated file with what should be in it."""
    policy = (settings(s.PolicyFile, _OF_PROFILES), [INDEX, *PAGES])
    profile = (settings(s.ProfileFile, _OF_POLICIES), [PROFILES])
    found = {ROOT / name: printed(schema()) for name, schema in SCHEMAS.items()}
    for known, pages in (policy, profile):
        found |= _filled(known, {page: page.read_text(encoding="utf-8") for page in pages})
    return found


def _filled(known: list[Setting], pages: dict[Path, str]) -> dict[Path, str]:
    named = [
        prefix
        for text in pages.values()
        for block in _BLOCK.finditer(text)
        if block["what"] == "keys"
        for prefix in block["of"].split()
    ]
    if len(named) > len(set(named)):
        raise WrongError(f"two blocks of keys name the same: {sorted(named)}")
    owner = {setting.key: _owner(setting.key, named) for setting in known}
    idle = set(named) - set(owner.values())
    if idle:
        raise WrongError(
            f"no setting is left for {sorted(idle)}: is it gone, or all told elsewhere?"
        )

    def fill(page: Path, block: re.Match[str]) -> str:
        of = (block["of"] or "").split()
        if block["what"] == "metrics":
            lines = _metrics(of, page)
        elif block["what"] == "pages":
            lines = _contents()
        else:
            lines = _keys([each for prefix in of for each in known if owner[each.key] == prefix])
        table = _LINK.sub(lambda link: f"]({_from(page, link[1])}", "\n".join(lines))
        return f"{block['begin']}\n{table}\n\n{block['end']}"

    return {page: _BLOCK.sub(partial(fill, page), text) for page, text in pages.items()}


def _owner(key: str, named: list[str]) -> str:
    """The block that names most of a key's path."""
    mine = [p for p in named if re.match(rf"{re.escape(p)}(?:$|[.\[])", key) or p == "*"]
    if not mine:
        raise WrongError(f"{key} is on no page: name it in a `<!-- keys: … -->` of docs/policies/")
    return max(mine, key=len)


def _keys(known: list[Setting]) -> list[str]:
    rows = [
        f"| `{each.key}` | {each.kind} | {each.default} | {each.text.does}"
        + (f" **Why:** {each.text.why}" if each.text.why else "")
        + " |"
        for each in known
    ]
    return [
        "| Key | Type | Default | What it does, and why that is the default |",
        "|---|---|---|---|",
        *rows,
    ]


def _metrics(names: list[str], page: Path) -> list[str]:
    known = {
        f"{each.name}_total" if isinstance(each, Counter) else each.name: each
        for each in Metrics().all()
    }
    for name in names:
        if name not in known:
            raise WrongError(f"{page.name}: there is no metric {name}")
    rows = [f"| [`{name}`](../metrics.md) | {known[name].meaning} |" for name in names]
    return ["| Metric | What it says |", "|---|---|", *rows]


def _contents() -> list[str]:
    """Each page by its title, with its first sentence."""
    rows = []
    for page in PAGES:
        title, _, first = page.read_text(encoding="utf-8").removeprefix("# ").partition("\n\n")
        sentence = " ".join(first.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
        rows.append(f"| [{title}]({page.name}) | {sentence}. |")
    return ["| Page | About |", "|---|---|", *rows]


def _from(page: Path, link: str) -> str:
    """A link that leads from docs/policies/, as it leads from a page."""
    return os.path.relpath(os.path.normpath(POLICIES / link), page.parent)


def main() -> None:
    """Renew what has changed, and say what that was."""
    try:
        files = built()
    except WrongError as error:
        raise SystemExit(str(error)) from None
    for path, text in files.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} renewed")


if __name__ == "__main__":
    main()
