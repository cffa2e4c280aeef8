"""The table: rewritten in place on a terminal, printed once when piped."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass

from proxy.demo.traffic import Takings, Told

_HEAD = (
    f"{'':<34}{'orders':>7}{'paid':>9}{'told failed,':>14}{'charged':>9}"
    f"{'unknown,':>10}{'p50':>9}{'p99':>9}\n"
    f"{'':<34}{'':>7}{'':>9}{'but charged':>14}{'twice':>9}{'settled':>10}{'ms':>9}{'ms':>9}"
)


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
        return (
            f"{self.name:<34}{len(t.told):>7}{self.paid_percent:>8.2f}%{self.lost:>14}"
            f"{self.twice:>9}{unknown:>10}{t.percentile(0.5) * 1000:>9.0f}"
            f"{t.percentile(0.99) * 1000:>9.0f}"
        )


class Table:
    """Shows rows as they fill."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._live = sys.stdout.isatty()
        self._drawn = 0

    def update(self) -> None:
        """Redraw, if there is a terminal to redraw on."""
        if self._live:
            self._draw()

    def finish(self) -> None:
        """The final state."""
        self._draw()

    def _draw(self) -> None:
        lines = [*_HEAD.split("\n"), *(row.line() for row in self._rows)]
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        clear = "\x1b[K" if self._live else ""
        sys.stdout.write(up + "".join(f"{line}{clear}\n" for line in lines))
        sys.stdout.flush()
        self._drawn = len(lines) if self._live else 0
