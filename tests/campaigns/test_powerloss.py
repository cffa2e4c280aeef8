"""A slice of `./dev campaign powerloss`, and that it has teeth."""

from __future__ import annotations

from pathlib import Path
from random import Random

import apsw
import pytest

from tests.campaigns.powerloss import Control, Findings, play, powerloss
from tests.support.power import LosingDisk

# What the store stands on: without either of these the judge must find something.
CUTS, CUTS_OF_CONTROLS = 40, 30


def test_what_was_acknowledged_survives() -> None:
    """The power goes at every kind of moment: nothing acknowledged is lost, nothing paid twice."""
    findings = powerloss(CUTS, seed=1)
    print(findings.table())
    assert findings.violations == {}
    assert findings.lossy == 0
    # Without anything to lose, in the WAL and in the middle of a checkpoint, this proves nothing.
    assert min(findings.at_risk["the WAL"], findings.at_risk["other files"]) > 0
    assert findings.charges.total() > 0
    assert findings.versions > CUTS


def test_with_normal_syncs_acknowledged_payments_are_lost() -> None:
    """The control: with synchronous = NORMAL power cuts lose versions and charge twice."""
    findings = powerloss(CUTS_OF_CONTROLS, seed=1, control=Control.NORMAL)
    print(findings.table())
    assert findings.lossy > 0
    assert findings.twice["none"] > 0


def test_on_a_disk_that_lies_everything_is_lost() -> None:
    """The control of the disk: one that does not sync loses even what FULL waited for."""
    findings = powerloss(CUTS_OF_CONTROLS, seed=1, control=Control.LIES)
    print(findings.table())
    assert findings.lossy > 0


def test_a_seed_is_a_run() -> None:
    """The same seed is the same run, word for word, the writer's thread and the disk included."""
    first: list[str] = []
    second: list[str] = []
    play(3, Findings(), None, first.append)
    play(3, Findings(), None, second.append)
    assert first == second
    assert any("POWER CUT" in line for line in first)


@pytest.mark.parametrize(
    ("journal", "synchronous", "safe"),
    [
        ("WAL", "FULL", True),
        ("WAL", "NORMAL", False),
        # Its commit is the deletion of the journal, and only EXTRA syncs the folder after that.
        ("DELETE", "EXTRA", True),
        ("DELETE", "FULL", False),
    ],
)
def test_the_disk_is_as_sqlite_describes_it(
    tmp_path: Path, journal: str, synchronous: str, safe: bool
) -> None:
    """What SQLite's manual says of each mode after a power cut is what this disk does to it."""
    kept = [_is_kept(tmp_path, seed, journal, synchronous) for seed in range(30)]
    assert all(kept) is safe


def _is_kept(folder: Path, seed: int, journal: str, synchronous: str) -> bool:
    """Whether a row is there when the power goes just after its commit."""
    before, after = folder / f"{seed}-before", folder / f"{seed}-after"
    before.mkdir()
    after.mkdir()
    disk = LosingDisk(before, Random(seed))
    connection = apsw.Connection(str(before / "s.db"), vfs=disk.name)
    for statement in (
        f"PRAGMA journal_mode = {journal}",
        f"PRAGMA synchronous = {synchronous}",
        "CREATE TABLE t (x)",
        "INSERT INTO t VALUES (1)",
    ):
        connection.execute(statement).fetchall()
    disk.leave_image(after)
    disk.on = True
    connection.close()
    found = apsw.Connection(str(after / "s.db"))
    try:
        return bool(found.execute("SELECT count(*) FROM t").get)
    except apsw.SQLError:  # not even the table
        return False
    finally:
        found.close()
