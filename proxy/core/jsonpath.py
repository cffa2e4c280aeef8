"""A small path into JSON: `status`, `error.type`, `data[*].id`, `errors[0].category`.

Only what profiles need: keys, one index, and `[*]` for every item.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+|\*)\]")


@dataclass(frozen=True, slots=True)
class JsonPath:
    """A parsed path; `text` is how it was written."""

    text: str
    steps: tuple[str | int | None, ...]  # None stands for [*]
    key: str | None = None  # the one step, if it is a key

    def values(self, document: object) -> list[object]:
        """Every value the path reaches; nothing where a step does not fit."""
        if self.key is not None:  # most paths are one key, and each answer meets several
            return _below(document, self.key)
        reached = [document]
        for step in self.steps:
            reached = [found for value in reached for found in _below(value, step)]
        return reached

    def reaches_a_list(self, document: object) -> bool:
        """Whether there is a list, perhaps an empty one, where the path ends in `[*]`."""
        reached = JsonPath(self.text, self.steps[:-1]).values(document)
        return self.steps[-1] is None and len(reached) == 1 and isinstance(reached[0], list)

    def first(self, document: object) -> object:
        """The first value, or None."""
        return next(iter(self.values(document)), None)


def _below(value: object, step: str | int | None) -> list[object]:
    """What one step leads to: nothing where it does not fit."""
    if isinstance(step, str):
        return [value[step]] if isinstance(value, dict) and step in value else []
    if not isinstance(value, list):
        return []
    return value if step is None else value[step : step + 1]


def parse_json_path(text: str) -> JsonPath:
    """Parse a path. Raises ValueError that names the spot where it stops making sense."""
    steps: list[str | int | None] = []
    position = 0
    while position < len(text):
        if steps and text[position] == ".":
            position += 1
        match = _STEP.match(text, position)
        if match is None:
            message = f"{text!r} is not a path: nothing fits at character {position + 1}"
            raise ValueError(message)
        key, index = match.groups()
        steps.append(key if key is not None else None if index == "*" else int(index))
        position = match.end()
    if not steps:
        message = "an empty path leads nowhere"
        raise ValueError(message)
    only = steps[0] if len(steps) == 1 else None
    return JsonPath(text, tuple(steps), only if isinstance(only, str) else None)
