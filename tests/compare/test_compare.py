"""A slice of `./dev compare`, and README's table of it against what the faults must come to."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.demo.faults import Fault, FaultPlan
from tests.compare.proxies import HOLDFAST, NGINX, PROXIES, Proxy, started
from tests.compare.run import DIRECTLY, ORDERS, ROUNDS, SEED, compare
from tests.support.running import free_port
from tests.support.tools import ROOT

BLIND, ONCE = "directly, retrying 3x without a key", "directly, one try"
_GOOD = {Fault.NONE, Fault.SLOW}
_CUT = {Fault.TRUNCATED}  # after its beginning was passed on, nobody can repeat it
_CHARGING = {*_GOOD, *_CUT, Fault.HANG_AFTER, Fault.RESET_AFTER}
_ALL = set(Fault) - _GOOD


@dataclass(frozen=True, slots=True)
class Habits:
    """What somebody repeats, three times at most, and whether under a key."""

    repeats: set[Fault]
    key: bool = False


HABITS = {
    ONCE: Habits(set()),
    BLIND: Habits(_ALL),
    "nginx, as it comes": Habits(set()),
    "nginx, retries on": Habits(_ALL - _CUT),
    "nginx, retries and a key": Habits(_ALL - _CUT, key=True),
    "HAProxy, as it comes": Habits(set()),
    "HAProxy, retries on": Habits(_ALL - _CUT - {Fault.THROTTLED}),
    "Envoy, retries on": Habits(_ALL - _CUT),
    "Holdfast": Habits(_ALL, key=True),
}


def test_every_way_has_its_habits() -> None:
    """The names of the rows are those of the run, in their order."""
    assert list(HABITS) == [*DIRECTLY, *(name for proxy in PROXIES for name in proxy.ways.values())]


def skip_without(proxy: Proxy) -> None:
    """A proxy that is not here is not tested."""
    if reason := proxy.why_not():
        pytest.skip(reason)


@pytest.mark.parametrize("proxy", PROXIES, ids=lambda proxy: proxy.name)
async def test_only_repeats_without_a_key_charge_twice(proxy: Proxy) -> None:
    """Under one plan: a retrying client does, every proxy's retries do, Holdfast does not."""
    skip_without(proxy)
    ways = await compare(FaultPlan(seed=SEED, interruptions=0.3), 60, 1, (proxy,))
    assert list(ways) == [*DIRECTLY, *proxy.ways.values()]
    for name, way in ways.items():
        habits = HABITS[name]
        assert (way.twice > 0) is (habits.repeats != set() and not habits.key), name
        if habits.repeats != _ALL:  # there is something after which it gives up
            assert way.lost > 0, name
    if proxy is HOLDFAST:
        assert ways["Holdfast"].lost == 0


def interrupted(proxy: Proxy, folder: Path, origins: list[str]) -> None:
    """A comparison that Ctrl-C ends."""
    with started(proxy, folder, free_port()) as running:
        origins += running.origins.values()
        raise KeyboardInterrupt


@pytest.mark.parametrize("proxy", PROXIES, ids=lambda proxy: proxy.name)
def test_a_proxy_ends_with_the_run(proxy: Proxy, tmp_path: Path) -> None:
    """Whatever ends a comparison, nothing it started listens any more."""
    skip_without(proxy)
    origins: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(proxy, tmp_path, origins)
    assert len(origins) == len(proxy.ways)
    for origin in origins:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(origin.rpartition(":")[2])), 5)


def test_a_proxy_that_does_not_start_says_why(tmp_path: Path) -> None:
    """A configuration with a mistake ends the comparison with the program's own words."""
    skip_without(NGINX)
    wrong = tmp_path / "wrong.conf"
    wrong.write_text("nonsense on;")
    (folder := tmp_path / "nginx").mkdir()
    proxy = Proxy("nginx", NGINX.command, wrong, NGINX.ways)
    with (
        pytest.raises(RuntimeError, match='unknown directive "nonsense"'),
        started(proxy, folder, free_port()),
    ):
        pass


async def test_a_proxy_that_is_missing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason; the others go on."""
    missing = Proxy("Nobody's", ("no-such-program",), HOLDFAST.config, {8080: "Nobody's"})
    ways = await compare(FaultPlan(), 2, 1, (missing,))
    assert list(ways) == list(DIRECTLY)
    assert "Nobody's is not installed: left out" in capsys.readouterr().err


def test_the_command_prints_the_table() -> None:
    """From the command line to the last row, with few orders; Holdfast keeps its promise."""
    ran = subprocess.run(
        [sys.executable, "tests/compare/run.py", "--orders", "10", "--seed", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    here = [
        *DIRECTLY,
        *(name for proxy in PROXIES if not proxy.why_not() for name in proxy.ways.values()),
    ]
    rows = table_in(ran.stdout)
    assert list(rows) == here
    assert rows["Holdfast"][1:3] == ["0", "0"]


def table_in(text: str) -> dict[str, list[str]]:
    """The cells of a table by its first column."""
    found = re.findall(r"^\| (\S.*?) +\|(.*)\|$", text, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in found}


# --- README ---------------------------------------------------------------------------------------

README = (
    (ROOT / "README.md")
    .read_text(encoding="utf-8")
    .partition("## Beside other proxies\n")[2]
    .partition("\n## ")[0]
)


@pytest.mark.parametrize("name", HABITS)
def test_the_counts_in_readme_follow_from_the_faults(name: str) -> None:
    """The counts are what these orders, faults and habits come to, and nothing else."""
    paid, twice, lost, failed = 0, 0, 0, 0
    for number in range(1, ROUNDS + 1):
        for order in range(ORDERS // ROUNDS):
            told, charges = outcome(f"order-{number}-{order}", HABITS[name])
            paid += told
            twice += charges > 1
            lost += not told and charges > 0
            failed += not told and charges == 0
    counts = [f"{100 * paid / ORDERS:.2f}%", str(twice), str(lost), str(failed), "0, 0"]
    assert table_in(README)[name][:5] == counts


def outcome(order: str, habits: Habits) -> tuple[bool, int]:
    """Whether the shop is told that an order is paid, and how often it is charged."""
    charges = 0
    for arrival in range(1, 5):
        fault = FaultPlan(seed=SEED).fault(order, arrival)
        charges += fault in _CHARGING and not (habits.key and charges)
        if fault not in habits.repeats:
            return fault in _GOOD, charges
    return False, charges


def test_readme_says_what_was_run() -> None:
    """The table is of the defaults."""
    assert f"{ORDERS:,} orders" in README
