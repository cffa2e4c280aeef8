"""`./dev campaign all`: every campaign in turn, each a process of its own, and one table at last.

A campaign prints rows of a name and a figure. Here it is told which of them says how much was done;
every row that must be nothing is added up. A control must lose: its row says what it lost.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_RUN = Path(__file__).parent / "run.py"
_ROW = re.compile(r"(.*?)\s+(\d+(?:\.\d+)?)")
# What a claim of this product may not come to, wherever a campaign prints it.
BROKEN = frozenset(
    {
        "violations",
        "seeds with violations",
        "alive",
        "that missed something",
        "with violations",
        "charged twice",
        "charged again",
        "told paid, but not charged",
        "acknowledged sessions lost",
        "charged, but neither told nor listed",
        "unknown, but not listed",
        "store and ledger contradict",
        "told another answer when asked again",
        "never told anything",
        "sent when the lease had run out",
        "ended otherwise",
    }
)


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign: its arguments, how often `--quick` and otherwise, and the row that counts it."""

    name: str
    command: str
    option: str
    quick: int
    full: int
    counted: str
    control: bool = False

    def arguments(self, *, quick: bool) -> list[str]:
        """What `./dev campaign` is given."""
        times = str(self.quick if quick else self.full)
        control = ["--control"] if self.control else []
        return [*self.command.split(), self.option, times, *control]


CAMPAIGNS = (
    Campaign("model", "model", "--states", 100_000, 3_000_000, "distinct states"),
    Campaign("simulate", "simulate", "--seeds", 6000, 1_000_000, "seeds"),
    Campaign("mutants", "mutants", "--seeds", 900, 100_000, "mutants"),
    Campaign("power loss", "powerloss", "--losses", 400, 2000, "power cuts"),
    Campaign("kill, sqlite", "kill --points", "--kills", 60, 10_000, "kill -9"),
    Campaign(
        "kill, postgresql", "kill --points --store postgresql", "--kills", 60, 10_000, "kill -9"
    ),
    Campaign("kill, valkey", "kill --points --store valkey", "--kills", 60, 10_000, "kill -9"),
    Campaign("pause", "pause", "--pauses", 60, 1000, "pauses"),
    Campaign("rolling update", "rolling", "--updates", 2, 25, "replicas replaced"),
    Campaign("failover, postgresql", "failover", "--failovers", 5, 200, "failovers"),
    Campaign("failover, valkey", "failover --store valkey", "--failovers", 5, 200, "failovers"),
    Campaign("partition", "partition", "--cuts", 8, 200, "cuts"),
    Campaign("storm", "storm", "--down", 10, 30, "payments"),
)
CONTROLS = (
    Campaign("power loss, NORMAL and a lying disk", "powerloss", "--losses", 150, 800, "power cuts",
             control=True),
    Campaign("pause, a take-over that sends", "pause", "--pauses", 60, 200, "pauses", control=True),
    Campaign("failover, asynchronous postgresql", "failover", "--failovers", 3, 50, "failovers",
             control=True),
    Campaign("failover, everysec valkey", "failover --store valkey", "--failovers", 3, 50,
             "failovers", control=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Result:
    """What one came to. `broken`: the sum of what must be nothing; `ended`: its exit code."""

    name: str
    counted: int
    broken: int
    seconds: float
    ended: int


def run_all(*, quick: bool, say: Callable[[str], None]) -> bool:
    """Run them all; whether every promise was kept, and every control lost."""
    results = {
        which: [_run(campaign, quick=quick, say=say) for campaign in campaigns]
        for which, campaigns in (("campaign", CAMPAIGNS), ("control: must lose", CONTROLS))
    }
    for which, found in results.items():
        say("")
        say(table(which, found))
    return all(result.ended == 0 for found in results.values() for result in found)


def _run(campaign: Campaign, *, quick: bool, say: Callable[[str], None]) -> Result:
    say(f"--- {campaign.name}")
    begun = time.monotonic()
    command = [sys.executable, str(_RUN), *campaign.arguments(quick=quick)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        say(lines[-1])
    ended = process.wait()
    return read(campaign, lines, time.monotonic() - begun, ended)


def read(campaign: Campaign, lines: Sequence[str], seconds: float, ended: int) -> Result:
    """The figures out of what a campaign printed."""
    rows = list(_rows(lines))
    what = campaign.counted
    more = (f"{what} (", f"{what} of ")
    counted = [figure for name, figure in rows if name == what or name.startswith(more)]
    if not counted:
        ended = ended or 1  # whatever it did, it did not tell
    broken = sum(figure for name, figure in rows if name in BROKEN)
    return Result(campaign.name, int(sum(counted)), int(broken), seconds, ended)


def _rows(lines: Sequence[str]) -> Iterator[tuple[str, float]]:
    for line in lines:
        row = _ROW.fullmatch(line)
        if row is not None:
            yield row[1].strip(), float(row[2])


def table(which: str, results: Sequence[Result]) -> str:
    """For people."""
    lines = [f"{which:<40}{'times':>10}{'broken':>10}{'seconds':>10}  as it should be"]
    for one in results:
        verdict = "yes" if one.ended == 0 else "NO"
        figures = f"{one.counted:>10}{one.broken:>10}{one.seconds:>10.0f}"
        lines.append(f"{one.name:<40}{figures}  {verdict}")
    return "\n".join(lines)
