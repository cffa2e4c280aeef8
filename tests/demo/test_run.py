"""The demonstration from start to end, in small; and the real one, which stands in README."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.demo.run import DemoOptions, run_demo

ROOT = Path(__file__).parent.parent.parent


async def test_holdfast_keeps_its_promise_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Direct loses, retrying charges twice, Holdfast does neither; and there are links."""
    code = await run_demo(DemoOptions(orders=60, seed=1, interruptions=0.3, stay=False))
    out = capsys.readouterr().out
    assert code == 0, out
    rows = [
        line for line in out.splitlines() if re.search(r"\d%", line) and "simulated" not in line
    ]
    assert len(rows) == 3
    twice = [int(row.split("%")[1].split()[1]) for row in rows]
    assert twice[1] > 0
    assert twice[2] == 0
    assert out.count("http://127.0.0.1:") == 3


def test_readme_opens_with_what_the_demonstration_prints() -> None:
    """Every word and every count is the program's own; the milliseconds are of the day."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("$ ./dev demo\n")[2].partition("```")[0]
    ran = subprocess.run(
        [sys.executable, "-m", "proxy", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert without_times(shown) == without_times(ran.stdout)


def without_times(text: str) -> str:
    """The two last columns of the table, and ports that may have been taken, made the same."""
    text = re.sub(r"( +\d+){2}$", " p50 p99", text, flags=re.MULTILINE)
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", text).strip()
