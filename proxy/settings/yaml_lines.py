"""YAML with line and column for every value, under YAML 1.2's core rules.

PyYAML reads YAML 1.1, where `no` is false, `1:30` is 90 and `010` is 8. A policy file must not be
read that way, so scalars are built here from the node graph: null, true/false, integers, floats,
everything else text. Duplicate keys, tags, merge keys and oversized documents are refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import yaml
from typing_extensions import override

MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_DEPTH = 40
MAX_NODES = 50_000  # aliases are expanded, so this also stops an alias bomb
TOO_MUCH = "the document is too deep or has too many values"

# No setting has more digits; what does stays text, and is told so where a number is wanted.
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}

# What a value without a written tag is taken for by PyYAML: anything else was written.
_IMPLICIT = yaml.resolver.Resolver()

Path = tuple[str | int, ...]
Data = dict[str, "Data"] | list["Data"] | str | int | float | bool | None


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake, with where it stands. Lines and columns count from 1; 0 means "not in the
    file".
    """

    file: str
    line: int
    column: int
    where: str
    message: str

    @override
    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return (
            f"{place}: {self.where}: {self.message}" if self.where else f"{place}: {self.message}"
        )


@dataclass(slots=True)
class Document:
    """Parsed data, and for every path the place it was written at."""

    file: str
    data: Data = None
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)
    # Values that came from elsewhere (an environment variable), by path.
    origins: dict[Path, str] = field(default_factory=dict)
    # Lists that items were left out of: the places that the remaining ones were written at.
    remaining: dict[Path, list[int]] = field(default_factory=dict)

    def leave_out(self, path: Path, length: int) -> None:
        """Note that a list, of so many items by now, goes on without the item at `path`."""
        *_, number = path
        inside = self.written(path[:-1])
        del self.remaining.setdefault(inside, list(range(length)))[int(number)]

    def written(self, path: Path) -> Path:
        """A path as it was before items were left out."""
        original: Path = ()
        for step in path:
            places = self.remaining.get(original)
            if places is not None and isinstance(step, int):
                original = (*original, places[step])
            else:
                original = (*original, step)
        return original

    def origin(self, path: Path) -> str:
        """Where a value was written: a variable, or `FILE:LINE`."""
        line, _ = self.places.get(path, (1, 1))
        return self.origins.get(path) or f"{self.file}:{line}"

    def mistake(self, path: Path, message: str) -> Mistake:
        """A mistake at a path; the nearest written ancestor gives the line."""
        path = self.written(path)
        for end in range(len(path), -1, -1):
            origin = self.origins.get(path[:end])
            if origin is not None:
                return Mistake(origin, 0, 0, dotted(path), message)
            place = self.places.get(path[:end])
            if place is not None:
                return Mistake(self.file, *place, dotted(path), message)
        return Mistake(self.file, 1, 1, dotted(path), message)


def as_written(value: object) -> str:
    """A value as people write it in one line of a file; nothing is `none`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(as_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {as_written(one)}' for key, one in value.items())}}}"
    if isinstance(value, str) and value != value.strip():
        return f'"{value}"'  # else nobody sees its blanks
    return "none" if value is None else str(value)


def dotted(path: Path) -> str:
    """A path as people write it: `gateways.stripe.routes[0].name`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def read(file: str, text: str) -> Document:
    """Parse a document. Mistakes are collected in it; `data` is then what could be read."""
    document = Document(file)
    if len(text.encode(errors="surrogatepass")) > MAX_DOCUMENT_BYTES:
        message = f"the file is larger than {MAX_DOCUMENT_BYTES // 1024} KiB"
        document.mistakes.append(Mistake(file, 1, 1, "", message))
        return document
    root = _composed(document, text)
    if document.mistakes:
        return document
    if root is None:
        document.mistakes.append(Mistake(file, 1, 1, "", "the file is empty"))
        return document
    _Walker(document).walk(root)
    return document


def _composed(document: Document, text: str) -> yaml.Node | None:
    """The document's node graph; what is not YAML becomes its one mistake."""

    def broken(line: int, column: int, why: str) -> None:
        document.mistakes.append(Mistake(document.file, line, column, "", why))

    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(part for part in (error.context, error.problem) if part)
        if error.context_mark and error.context_mark.line + 1 != line:
            what += f" (begun on line {error.context_mark.line + 1})"
        broken(line, column, f"not YAML: {what}")
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = error.position - (before.rfind("\n") + 1) + 1
        broken(before.count("\n") + 1, column, f"not YAML: {str(error).partition(chr(10))[0]}")
    except _TooDeep as error:
        broken(error.mark.line + 1, error.mark.column + 1, TOO_MUCH)
    except (yaml.YAMLError, ValueError, OverflowError):
        # PyYAML lets Python's own errors through, for an escape beyond Unicode for one.
        broken(*_reached(loader), "not YAML: this cannot be read")
    return None


class _TooDeep(Exception):  # noqa: N818 -- becomes a mistake
    """More levels than a document may have; where the first too many begins."""

    def __init__(self, mark: yaml.Mark) -> None:
        super().__init__(TOO_MUCH)
        self.mark = mark


class _Loader(yaml.SafeLoader):
    """PyYAML's, which composes levels by recursion, and slower with each of them: so they are
    counted.
    """

    _levels = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._levels > MAX_DEPTH:
            raise _TooDeep(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        self._levels += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._levels -= 1


def _reached(loader: yaml.SafeLoader | None) -> tuple[int, int]:
    return (1, 1) if loader is None else (loader.line + 1, loader.column + 1)


class _Walker:
    """Builds data from nodes and notes their places."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0

    def walk(self, root: yaml.Node) -> None:
        data = self._value(root, ())
        # Of a document that is too much, no part is looked at: it would only add noise.
        self._document.data = None if self._nodes > MAX_NODES else data

    def _value(self, node: yaml.Node, path: Path) -> Data:
        self._document.places[path] = _place(node)
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            if self._nodes <= MAX_NODES + 1:
                mistake = Mistake(self._document.file, *_place(node), "", TOO_MUCH)
                self._document.mistakes.append(mistake)
            self._nodes = max(self._nodes, MAX_NODES + 1)
            return None
        if node.tag != _implicit_tag(node):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self._wrong(path, f"tags are not read here: {tag}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, i)) for i, item in enumerate(node.value)]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> Data:
        built: dict[str, Data] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key == "<<":
                self._document.mistakes.append(
                    Mistake(
                        self._document.file,
                        *_place(key_node),
                        dotted(path),
                        "keys are plain names; lists, maps and merge keys (<<) are not read here",
                    )
                )
                continue
            inner = (*path, key)
            if key in built:
                earlier = self._document.places[inner][0]
                self._document.places[inner] = _place(key_node)
                self._wrong(inner, f"written twice (first on line {earlier})")
                continue
            built[key] = self._value(value_node, inner)
            # A mistake about a key is best shown at the key.
            self._document.places[inner] = _place(key_node)
        return built

    def _wrong(self, path: Path, message: str) -> None:
        self._document.mistakes.append(self._document.mistake(path, message))


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _implicit_tag(node: yaml.Node) -> str:
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    tag = _IMPLICIT.resolve(  # type: ignore[no-untyped-call]  # it has no types
        type(node), node.value, (plain, not plain)
    )
    return str(tag)


def _scalar(node: yaml.Node) -> Data:
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return core_scalar(node.value) if plain else str(node.value)


def core_scalar(text: str) -> str | int | float | bool | None:
    """A plain scalar under YAML 1.2's core rules."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and any(c in text for c in ".eE") and math.isfinite(float(text)):
        return float(text)
    return text
