"""The table of all campaigns: what it reads, and that a broken promise cannot hide in it."""

from __future__ import annotations

import pytest

from tests.campaigns.everything import BROKEN, CAMPAIGNS, CONTROLS, Campaign, read, table
from tests.campaigns.run import parser

KILL = CAMPAIGNS[4]
PRINTED = """\
50 kills, 300 orders
store                                     sqlite
kill -9                                       60
  at random                                   30
orders paid through them                     397
longest until told, seconds                  3.5
charged twice                                  0
acknowledged sessions lost                     2
seconds                                       16
"""


@pytest.mark.parametrize("campaign", [*CAMPAIGNS, *CONTROLS], ids=lambda campaign: campaign.name)
@pytest.mark.parametrize("quick", [True, False])
def test_each_is_one_that_can_be_run(campaign: Campaign, quick: bool) -> None:
    """Its arguments are those that `./dev campaign` takes."""
    options = parser().parse_args(campaign.arguments(quick=quick))
    assert options.campaign == campaign.command.split()[0]


def test_the_figures_are_read_from_what_is_printed() -> None:
    """How much was done, and the sum of what must be nothing."""
    result = read(KILL, PRINTED.splitlines(), 16.4, 1)
    assert (result.counted, result.broken, result.ended) == (60, 2, 1)
    assert table("campaign", [result]).splitlines()[1].split()[-4:] == ["60", "2", "16", "NO"]


def test_what_tells_nothing_is_not_as_it_should_be() -> None:
    """A campaign that says it is fine and not what it did has not been run."""
    assert read(KILL, ["charged twice   0"], 1.0, 0).ended == 1


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_each_broken_promise_counts(name: str) -> None:
    """Also where a row is set in."""
    printed = ["kill -9                    1", f"  {name:<38}       3"]
    assert read(KILL, printed, 1.0, 0).broken == 3
