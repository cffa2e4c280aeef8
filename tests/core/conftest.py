"""The profiles that ship with Holdfast, as the core gets them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from proxy.settings.values import Gateway
from tests.support.lab import POLICY, settings_from


@pytest.fixture(scope="session")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Gateway]:
    """`stripe` (Stripe's profile) and `plain` (the generic one), read from their files."""
    return settings_from(POLICY, tmp_path_factory.mktemp("policy")).gateways


@pytest.fixture(scope="session")
def stripe(gateways: Mapping[str, Gateway]) -> Gateway:
    """A gateway with Stripe's profile."""
    return gateways["stripe"]


@pytest.fixture(scope="session")
def plain(gateways: Mapping[str, Gateway]) -> Gateway:
    """A gateway of which only the key header is known."""
    return gateways["plain"]
