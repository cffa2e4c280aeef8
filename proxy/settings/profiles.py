"""Profiles by name, and a document held against its model: the part policy files and profiles
share.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from proxy.settings.schema import ProfileFile
from proxy.settings.yaml_lines import MAX_DOCUMENT_BYTES, Data, Document, Mistake, read
from proxy.settings.yaml_lines import Path as Place

OWN_PROFILES = "gateways"  # the folder beside the policy file
_BUILT_IN = Path(__file__).parent.parent / "gateways"

# Leaving out one fault can bring out another (a gateway without its listener is no gateway).
_ROUNDS = 12
# What stands in for a required key that is missing or was left out, so that the rest of it can be
# looked at; chosen so that no check between fields has anything to say about it.
STAND_IN_PATH = "/stand-in"
_STAND_INS: dict[str, Data] = {
    "listen": "127.0.0.1:0",
    "upstream": "http://stand-in",
    "match": {"methods": ["GET"], "path": STAND_IN_PATH},
    "methods": ["GET"],
    "path": STAND_IN_PATH,
    "title": "stand-in",
    "idempotency": {"class": "D_none", "window": "3650d"},
    "class": "D_none",
    "window": "3650d",
    "results": [{"when": {"status": [200]}, "result": "unknown"}],
    "when": {"status": [200]},
    "status": [200],
    "result": "unknown",
}

M = TypeVar("M", bound=BaseModel)
_Fault = tuple[Place, Any]
_NOWHERE = object()


@dataclass(frozen=True, slots=True)
class Profiles:
    """The profiles a policy file may name: its own folder's first, then the built-in ones."""

    folders: tuple[Path, ...]

    def names(self) -> list[str]:
        """Every name that can be used."""
        files = (p for folder in self.folders for p in folder.glob("*.yaml"))
        return sorted({p.stem for p in files if p.is_file()})

    def load(self, name: str) -> tuple[ProfileFile | None, Document]:
        """A profile and its document, which holds the mistakes if there are any."""
        paths = [folder / f"{name}.yaml" for folder in self.folders]
        path = next((path for path in paths if path.is_file()), paths[0])  # gone meanwhile
        document = read_file(path)
        return validate(ProfileFile, document), document


def profiles_beside(policy_file: Path) -> Profiles:
    """Profiles in `gateways/` beside the policy file, then those that ship with Holdfast."""
    return Profiles((policy_file.parent / OWN_PROFILES, _BUILT_IN))


def profiles_for(written: str) -> tuple[Profiles, str]:
    """Where to find a profile that is named on the command line, and its name there: a file
    anywhere, or one that ships with Holdfast.
    """
    path = Path(written)
    if path.suffix == ".yaml":
        return Profiles((path.parent,)), path.stem
    return Profiles((_BUILT_IN,)), written


def read_file(path: Path) -> Document:
    """A file as a document; why it cannot be read is its one mistake."""
    document = Document(shown(path))
    try:
        data = read_bounded(path)
    except OSError as error:
        mistake = Mistake(document.file, 0, 0, "", error.strerror or "unreadable")
    else:
        try:
            # The cut of a file that is too large may go through a character.
            errors = "replace" if len(data) > MAX_DOCUMENT_BYTES else "strict"
            return read(document.file, data.decode("utf-8", errors))
        except UnicodeDecodeError as error:
            before = data[: error.start]
            line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
            mistake = Mistake(document.file, line, column, "", "the file is not UTF-8 text")
    document.mistakes.append(mistake)
    return document


def read_bounded(path: Path) -> bytes:
    """What stands in a file, and never more than is needed to see that it is too much: it may be a
    device. Raises OSError.
    """
    with path.open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES + 1)


def validate(model: type[M], document: Document) -> M | None:
    """The document as a model, with the mistakes noted in the document.

    With mistakes the model is only good for finding more of them; None if there is nothing to it.
    """
    if document.data is None and document.mistakes:
        return None
    if not isinstance(document.data, dict):
        message = "a file of settings has keys with values: `key: value`"
        document.mistakes.append(document.mistake((), message))
        return None
    built, faults = _held_against(model, document.data)
    for place, detail in faults:
        document.mistakes.append(document.mistake(place, _message(model, place, detail)))
    # What is wrong is left out and the rest tried again, so that checks between fields can still
    # look at the rest and every mistake is reported at once. The model is then not to be used.
    data: Data = document.data
    for _ in range(_ROUNDS):
        if built is not None or not faults:
            break
        data = _without(document, data, faults)
        built, faults = _held_against(model, data)
    return built


def _held_against(model: type[M], data: Data) -> tuple[M | None, list[_Fault]]:
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        # What is said of a key has pydantic's own mark at the end of its place.
        return None, [
            (tuple(step for step in d["loc"] if step != "[key]"), d)
            for d in error.errors(include_url=False)
        ]


def _without(document: Document, data: Data, faults: list[_Fault]) -> Data:
    """The data less its faulty parts: the value itself, or what lacks a required key for which
    nothing can stand in.
    """
    data = copy.deepcopy(data)
    paths: set[Place] = set()
    for place, detail in faults:
        if detail["type"] != "missing":
            paths.add(place)
        elif place[-1] in _STAND_INS:
            at(data, place[:-1])[place[-1]] = copy.deepcopy(_STAND_INS[str(place[-1])])
        else:
            paths.add(place[:-1])
    # Later list items first, so that the places of the earlier ones stay true.
    for path in sorted(paths, key=lambda path: [str(step).zfill(9) for step in path], reverse=True):
        if path and at(data, path) is not _NOWHERE:
            holder = at(data, path[:-1])
            if isinstance(holder, list):
                document.leave_out(path, len(holder))
            del holder[path[-1]]
    return data


def at(data: Any, path: Place) -> Any:
    """What stands at a place of the data, or a value like no other."""
    for step in path:
        if isinstance(data, dict):
            data = data.get(str(step), _NOWHERE)
        elif isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        else:
            return _NOWHERE
    return data


def _message(model: type[BaseModel], place: Place, detail: Any) -> str:
    kind = detail["type"]
    if kind == "extra_forbidden":
        name, known = str(place[-1]), sorted(_fields_at(model, place[:-1]))
        close = nearest(name, known, listed=False)
        return f"unknown key{close or _elsewhere(model, name) or nearest(name, known)}"
    if kind == "missing":
        return "is missing"
    if kind in {"enum", "literal_error"}:
        expected = str(detail["ctx"]["expected"])
        values = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
        close = nearest(str(detail["input"]), values, listed=False)
        return f"{detail['input']!r} is not one of {expected}{close}"
    if kind in _WANTED:
        return f"should be {_wanted(model, place, detail)}"
    text = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]


def _wanted(model: type[BaseModel], place: Place, detail: Any) -> str:
    wanted, written = _WANTED[detail["type"]], detail["input"]
    if detail["type"] != "model_type":
        return f"{wanted}, not {_kind_of(written)}"
    if place[-1] in {"lookup_credential", "secret"}:  # what stands there is not printed
        return "{env: NAME}, the variable that holds it; no secret stands here"
    # `gateways: {stripe: , profile: stripe}` is what a lost indentation makes.
    astray = str(place[-1]) in _fields_at(model, place)
    hint = f"; as a key of one of the {place[-2]} it is indented further" if astray else ""
    return f"{wanted}, not {_kind_of(written)}{hint}"


# In how many other places a key may stand for all of them to be told.
_FEW = 4
# What pydantic calls it → what people do.
_WANTED = {
    "bool_type": "true or false",
    "dict_type": "keys with values",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list, [a, b] or `- ` before each item",
    "model_type": "keys with values",
    "string_type": "text",
    "too_short": "a list of at least one",
}


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value!r}"
        case dict():
            return "keys with values"
        case _:
            return "a list" if value else "an empty list"


def nearest(written: str, known: list[str], *, listed: bool = True, common: str = "") -> str:
    """`; did you mean 'x'?` for the closest name, else the list of names. What all names have in
    `common` makes none of them closer.
    """
    names = {name.removeprefix(common): name for name in known}
    close = difflib.get_close_matches(written.removeprefix(common), names, n=1, cutoff=0.6)
    # Other tools have longer names: `slidingWindowSize`, `retry_policy`.
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|-", "_", written).lower()
    close = close or [name for name in names if f"_{name}_" in f"_{words}_"]
    if close:
        return f"; did you mean {names[close[0]]!r}?"
    return f"; known here: {', '.join(known)}" if known and listed else ""


def _elsewhere(model: type[BaseModel], name: str) -> str:
    """`; it goes under x or y`, where a key of that name stands in few other places."""
    places = sorted(_places(model, name, ""))
    return f" here; it goes under {' or '.join(places)}" if 0 < len(places) <= _FEW else ""


def _places(kind: Any, name: str, place: str) -> Iterator[str]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for attribute, field in kind.model_fields.items():
            key = field.alias or attribute
            if key == name:
                yield place or "the top level"
            for inner in unwrapped(field.annotation):
                yield from _places(inner, name, f"{place}.{key}" if place else key)
    elif get_origin(kind) in {list, dict}:
        item = f"{place}[]" if get_origin(kind) is list else f"{place}.NAME"
        for inner in unwrapped(get_args(kind)[-1]):
            yield from _places(inner, name, item)


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
                yield from unwrapped(field.annotation)
    elif get_origin(kind) in {list, dict}:
        yield from unwrapped(get_args(kind)[-1])


def unwrapped(annotation: Any) -> Iterator[Any]:
    """The types that a field's type stands for."""
    if get_origin(annotation) in {Union, UnionType}:
        for part in get_args(annotation):
            yield from unwrapped(part)
    elif hasattr(annotation, "__metadata__"):
        yield from unwrapped(annotation.__origin__)
    else:
        yield annotation


def shown(path: Path) -> str:
    """A path as the user knows it: relative where it can be."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the working directory is gone
        return str(path)
