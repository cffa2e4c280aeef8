"""The demonstration from start to end, in small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.demo.run import DemoOptions, run_demo

ROOT = Path(__file__).parent.parent.parent


async def test_holdfast_keeps_its_promise_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Direct loses, retrying charges twice, Holdfast does neither; and there are links."""
    code = await run_demo(DemoOptions(orders=60, seed=1, interruptions=0.3, stay=False))
    out = capsys.readouterr().out
    assert code == 0
    rows = [
        line for line in out.splitlines() if re.search(r"\d%", line) and "simulated" not in line
    ]
    assert len(rows) == 3
    twice = [int(row.split("%")[1].split()[1]) for row in rows]
    assert twice[1] > 0
    assert twice[2] == 0
    assert out.count("http://127.0.0.1:") == 3


def test_the_readme_shows_what_the_demonstration_prints() -> None:
    """The table at the top of README is a real one: the same head as the program's own."""
    from proxy.demo.show import _HEAD  # noqa: PLC0415

    readme = (ROOT / "README.md").read_text()
    assert _HEAD.split("\n")[0].rstrip() in readme
