"""Figures that belong together, and how a person reads them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and between what it lies."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value per round."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.most:.2f})"


@dataclass(slots=True)
class Table:
    """One heading per column; the first column is text, the others are aligned to the right."""

    heading: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def __str__(self) -> str:
        every = [self.heading, *self.rows]
        widths = [max(len(cell) for cell in column) for column in zip(*every, strict=True)]
        lines = []
        for row in every:
            cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("   ".join([f"  {row[0]:<{widths[0]}}", *cells]).rstrip())
        return "\n".join(lines)


@dataclass(slots=True)
class Report:
    """What one measurement has found. `figures` is what `--json` writes."""

    title: str
    figures: dict[str, Any]
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        notes = "\n".join(f"  {note}" for note in self.notes)
        return "\n\n".join([self.title, *map(str, self.tables), *([notes] if notes else [])])

    def plain(self) -> dict[str, Any]:
        """The figures, spreads included, as JSON can write them."""
        return {"title": self.title, "notes": self.notes, "figures": _plain(self.figures)}


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value


def verdict(*, met: bool, goal: str) -> str:
    """A goal, and whether it is met."""
    return f"{goal}: {'met' if met else 'MISSED'}"
