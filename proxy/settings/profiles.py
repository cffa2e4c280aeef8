"""Profiles by name, and a document held against its model: the part policy files and profiles
share.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from proxy.settings.schema import ProfileFile
from proxy.settings.yaml_lines import Data, Document, read
from proxy.settings.yaml_lines import Path as Place

_BUILT_IN = Path(__file__).parent.parent / "gateways"

# Leaving out one fault can bring out another (a gateway without its listener is no gateway).
_ROUNDS = 8

M = TypeVar("M", bound=BaseModel)
_Fault = tuple[Place, Any]
_NOWHERE = object()


@dataclass(frozen=True, slots=True)
class Profiles:
    """The profiles a policy file may name: its own folder's first, then the built-in ones."""

    folders: tuple[Path, ...]

    def names(self) -> list[str]:
        """Every name that can be used."""
        return sorted({p.stem for folder in self.folders for p in folder.glob("*.yaml")})

    def load(self, name: str) -> tuple[ProfileFile | None, Document]:
        """A profile and its document, which holds the mistakes if there are any."""
        path = next(p for f in self.folders if (p := f / f"{name}.yaml").is_file())
        document = read(shown(path), path.read_text(encoding="utf-8", errors="surrogateescape"))
        return validate(ProfileFile, document), document


def profiles_beside(policy_file: Path) -> Profiles:
    """Profiles in `gateways/` beside the policy file, then those that ship with Holdfast."""
    return Profiles((policy_file.parent / "gateways", _BUILT_IN))


def validate(model: type[M], document: Document) -> M | None:
    """The document as a model, with the mistakes noted in the document.

    With mistakes the model is only good for finding more of them; None if there is nothing to it.
    """
    if document.data is None and document.mistakes:
        return None
    built, faults = _held_against(model, document.data)
    for place, detail in faults:
        document.mistakes.append(document.mistake(place, _message(model, place, detail)))
    # What is wrong is left out and the rest tried again, so that checks between fields can still
    # look at the rest and every mistake is reported at once. The model is then not to be used.
    data = document.data
    for _ in range(_ROUNDS):
        if built is not None or not faults:
            break
        data = _without(data, faults)
        built, faults = _held_against(model, data)
    return built


def _held_against(model: type[M], data: Data) -> tuple[M | None, list[_Fault]]:
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        return None, [(tuple(d["loc"]), d) for d in error.errors(include_url=False)]


def _without(data: Data, faults: list[_Fault]) -> Data:
    """The data less its faulty parts: the value itself, or what lacks a required key."""
    data = copy.deepcopy(data)
    paths = {place[:-1] if d["type"] == "missing" else place for place, d in faults}
    # Later list items first, so that the places of the earlier ones stay true.
    for path in sorted(paths, key=lambda path: [str(step).zfill(9) for step in path], reverse=True):
        holder: Any = data
        for step in path[:-1]:
            holder = _step_into(holder, step)
        if path and _step_into(holder, path[-1]) is not _NOWHERE:
            del holder[path[-1]]
    return data


def _step_into(holder: Any, step: str | int) -> Any:
    if isinstance(holder, dict):
        return holder.get(step, _NOWHERE)
    if isinstance(holder, list) and isinstance(step, int) and step < len(holder):
        return holder[step]
    return _NOWHERE


def _message(model: type[BaseModel], place: Place, detail: Any) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = sorted(_fields_at(model, place[:-1]))
        return f"unknown key{nearest(str(place[-1]), known)}"
    if kind == "missing":
        return "is missing"
    if kind in {"enum", "literal_error"}:
        expected = str(detail["ctx"]["expected"])
        values = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
        return (
            f"{detail['input']!r} is not one of {expected}{nearest(str(detail['input']), values)}"
        )
    text = str(detail["msg"])
    text = text.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:] if text.startswith("Should") else text


def nearest(written: str, known: list[str]) -> str:
    """`; did you mean 'x'?` for the closest name, else the list of names."""
    close = difflib.get_close_matches(written, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _fields_at(model: type[BaseModel], place: Place) -> set[str]:
    """The keys that may stand at a place, found by walking the models' types along it."""
    kinds: list[Any] = [model]
    for step in place:
        kinds = [inner for kind in kinds for inner in _inside(kind, step)]
    return {
        field.alias or name
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, BaseModel)
        for name, field in kind.model_fields.items()
    }


def _inside(kind: Any, step: str | int) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if (field.alias or name) == step:
                yield from _unwrapped(field.annotation)
    elif get_origin(kind) in {list, dict}:
        yield from _unwrapped(get_args(kind)[-1])


def _unwrapped(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in {Union, UnionType}:
        for part in get_args(annotation):
            yield from _unwrapped(part)
    elif hasattr(annotation, "__metadata__"):
        yield from _unwrapped(annotation.__origin__)
    else:
        yield annotation


def shown(path: Path) -> str:
    """A path as the user knows it: relative where it can be."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
