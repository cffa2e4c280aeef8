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

    def values(self, document: object) -> list[object]:
        """Every value the path reaches; nothing where a step does not fit."""
        reached = [document]
        for step in self.steps:
            found: list[object] = []
            for value in reached:
                if isinstance(step, str):
                    if isinstance(value, dict) and step in value:
                        found.append(value[step])
                elif isinstance(value, list):
                    if step is None:
                        found.extend(value)
                    elif step < len(value):
                        found.append(value[step])
            reached = found
        return reached

    def first(self, document: object) -> object:
        """The first value, or None."""
        return next(iter(self.values(document)), None)


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
    return JsonPath(text, tuple(steps))
