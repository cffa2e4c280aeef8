"""The table of docs/gateways.md names the SDKs that are tried here, as they are installed."""

from __future__ import annotations

from importlib.metadata import version

from tests.e2e.gateways.shops import SHOPS
from tests.support.running import ROOT

# Of these there is no SDK for Python, or it is the one of another row.
OTHERS = {"amazon-pay", "generic", "klarna", "paystack", "stripe-v2"}


def rows() -> list[list[str]]:
    """The cells of the table's rows."""
    page = (ROOT / "docs/gateways.md").read_text(encoding="utf-8")
    section = page.split("## SDKs that were tried\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_every_sdk_has_its_row() -> None:
    """Each shop's gateway is in the table, and every row is whole."""
    named = {row[0].lower().removesuffix(".com").replace(" ", "-") for row in rows()}
    assert named >= SHOPS.keys() | OTHERS
    assert {len(row) for row in rows()} == {5}


def test_the_versions_are_those_that_are_installed() -> None:
    """Whoever raises one in the lock file tries it, and says so."""
    for name, tried in (sdk.split() for _, sdk, *_ in rows() if sdk != "none"):
        assert (name, version(name)) == (name, tried)
