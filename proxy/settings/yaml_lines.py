"""YAML with line and column for every value, under YAML 1.2's core rules.

PyYAML reads YAML 1.1, where `no` is false, `1:30` is 90 and `010` is 8. A policy file must not be
read that way, so scalars are built here from the node graph: null, true/false, integers, floats,
everything else text. Duplicate keys, tags, merge keys and oversized documents are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml
from typing_extensions import override

MAX_DOCUMENT_BYTES = 1024 * 1024
MAX_DEPTH = 40
MAX_NODES = 50_000  # aliases are expanded, so this also stops an alias bomb

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}

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

    def mistake(self, path: Path, message: str) -> Mistake:
        """A mistake at a path; the nearest written ancestor gives the line."""
        for end in range(len(path), -1, -1):
            origin = self.origins.get(path[:end])
            if origin is not None:
                return Mistake(origin, 0, 0, dotted(path), message)
            place = self.places.get(path[:end])
            if place is not None:
                return Mistake(self.file, *place, dotted(path), message)
        return Mistake(self.file, 1, 1, dotted(path), message)


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
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(part for part in (error.context, error.problem) if part)
        document.mistakes.append(Mistake(file, line, column, "", f"not YAML: {what}"))
        return document
    except (yaml.YAMLError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        document.mistakes.append(Mistake(file, 1, 1, "", f"not YAML: {first}"))
        return document
    if root is None:
        document.mistakes.append(Mistake(file, 1, 1, "", "the file is empty"))
        return document
    _Walker(document).walk(root, ())
    return document


class _Walker:
    """Builds data from nodes and notes their places."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0

    def walk(self, root: yaml.Node, path: Path) -> None:
        self._document.data = self._value(root, path)

    def _value(self, node: yaml.Node, path: Path) -> Data:
        self._document.places[path] = _place(node)
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_DEPTH:
            if self._nodes <= MAX_NODES + 1:
                self._wrong(path, "the document is too deep or has too many values")
            self._nodes = max(self._nodes, MAX_NODES + 1)
            return None
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self._wrong(path, f"tags are not read here: {node.tag}")
            return None
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


def _scalar(node: yaml.Node) -> Data:
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    return core_scalar(node.value) if plain else str(node.value)


def core_scalar(text: str) -> str | int | float | bool | None:
    """A plain scalar under YAML 1.2's core rules."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and any(c in text for c in ".eE"):
        return float(text)
    return text
