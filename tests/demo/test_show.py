"""The table of the demonstration, on a terminal and piped."""

from __future__ import annotations

import io
import sys
from collections import Counter
from itertools import count

import pytest
from typing_extensions import override

from proxy.demo.show import Row, Table
from proxy.demo.traffic import Takings, Told


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    @override
    def isatty(self) -> bool:
        return True


def row(name: str = "directly, retrying 3x") -> Row:
    """The widest there is: a thousand orders, each of them slow and lost, charged and unknown."""
    told = {f"o-{number}": Told.PAID for number in range(1000)}
    return Row(name, Takings(told, [10.0] * 1000), Counter(dict.fromkeys(told, 2)), settled=100)


def drawn(monkeypatch: pytest.MonkeyPatch, columns: int, updates: int = 1) -> str:
    """What a terminal of this width gets, at an update every 30 ms."""
    terminal = Terminal()
    ticks = count(1)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr("proxy.demo.show.time.perf_counter", lambda: next(ticks) * 0.03)
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table([row()])
    for _ in range(updates):
        table.update()
    return terminal.getvalue()


def test_the_table_fits_the_usual_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not one line reaches column 80, and none is cut there; piped, it is plain."""
    Table([row()]).finish()
    piped = capsys.readouterr().out.splitlines()
    assert [len(line) for line in piped] == [79, 79, 79]
    assert drawn(monkeypatch, 80).replace("\x1b[K", "").splitlines() == piped


def test_a_narrow_terminal_gets_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that wraps would be two on the way up, and the table would run down the screen."""
    lines = drawn(monkeypatch, 40).replace("\x1b[K", "").splitlines()
    assert [len(line) for line in lines] == [40, 40, 40]


def test_it_is_drawn_ten_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty updates in a second and a bit, each over the one before."""
    text = drawn(monkeypatch, 80, updates=30)
    assert 1 < text.count("directly") <= 10
    assert text.count("\x1b[3F") == text.count("directly") - 1
