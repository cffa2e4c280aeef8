"""A slice of `./dev campaign mutants`: the campaigns notice when a protection is gone."""

from __future__ import annotations

import pytest

from tests.campaigns.mutants import MUTANTS, hunt

# Seen only where rare things meet: where the long run found it. To be renewed when plans change.
RARE = {
    "a store that went back is believed": 84_917,
    "what the store cannot take is in memory only": 3_016,
}
SEEDS = 900


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mutant_is_killed(name: str) -> None:
    """The protection is taken out, and the model or a few hundred seeds find it out."""
    first = RARE.get(name, 0)
    killed = hunt(name, range(first, first + SEEDS))
    assert killed is not None
    print(name, killed)
