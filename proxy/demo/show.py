"""The table: rewritten in place on a terminal, printed once when piped."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass

from proxy.demo.traffic import Takings, Told

# Narrower than 80 columns, or every redraw would scroll the usual terminal.
_COLUMNS = "{:<21}{:>7}{:>8}{:>13}{:>9}{:>9}{:>6}{:>6}"
_HEAD = (
    _COLUMNS.format("", "orders", "paid", "told failed,", "charged", "unknown,", "p50", "p99"),
    _COLUMNS.format("", "", "", "but charged", "twice", "settled", "ms", "ms"),
)
_REDRAW_SECONDS = 0.1


@dataclass(slots=True)
class Row:
    """One way of paying, and what it came to."""

    name: str
    takings: Takings
    charges: Counter[str]
    settled: int = 0

    @property
    def lost(self) -> int:
        """Orders whose customer was charged while the shop was told it failed."""
        failed = {order for order, told in self.takings.told.items() if told is Told.FAILED}
        return sum(1 for order in failed if self.charges[order])

    @property
    def twice(self) -> int:
        """Orders charged more than once."""
        return sum(1 for order in self.takings.told if self.charges[order] > 1)

    @property
    def paid_percent(self) -> float:
        """Share of orders the shop knows to be paid."""
        orders = len(self.takings.told)
        return 100 * self.takings.count(Told.PAID) / orders if orders else 0.0

    def line(self) -> str:
        """As a line of the table."""
        t = self.takings
        unknown = f"{t.count(Told.UNKNOWN)}, {self.settled}"
        return _COLUMNS.format(
            self.name,
            len(t.told),
            f"{self.paid_percent:.2f}%",
            self.lost,
            self.twice,
            unknown,
            f"{t.percentile(0.5) * 1000:.0f}",
            f"{t.percentile(0.99) * 1000:.0f}",
        )


class Table:
    """Shows rows as they fill."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._live = sys.stdout.isatty()
        self._drawn = 0
        self._drawn_at = float("-inf")

    def update(self) -> None:
        """Redraw, if there is a terminal to redraw on, as often as an eye can follow."""
        if self._live and time.perf_counter() - self._drawn_at >= _REDRAW_SECONDS:
            self._draw()

    def finish(self) -> None:
        """The final state."""
        self._draw()

    def _draw(self) -> None:
        lines = [*_HEAD, *(row.line() for row in self._rows)]
        if self._live:  # a line that wraps would count as two on the way up
            width = shutil.get_terminal_size().columns
            lines = [f"\x1b[K{line[:width]}" for line in lines]
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        sys.stdout.write(up + "".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
        self._drawn = len(lines) if self._live else 0
        self._drawn_at = time.perf_counter()
