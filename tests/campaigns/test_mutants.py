"""A slice of `./dev campaign mutants`: the campaigns notice when a protection is gone."""

from __future__ import annotations

import pytest

from tests.campaigns.mutants import MUTANTS, RARE, hunt

SEEDS = 900


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mutant_is_killed(name: str) -> None:
    """The protection is taken out, and the model or a few hundred seeds find it out."""
    first = RARE.get(name, 0)
    killed = hunt(name, range(first, first + SEEDS))
    assert killed is not None
    print(name, killed)
