"""`holdfast schema`: what editors need to know."""

from __future__ import annotations

import pytest

from tests.support.running import ROOT
from tests.support.shell import holdfast


@pytest.mark.parametrize(("option", "name"), [((), "policy"), (("--profile",), "profile")])
async def test_it_prints_the_shipped_schema(option: tuple[str, ...], name: str) -> None:
    """Byte for byte what stands in config/, and nothing else."""
    done = await holdfast("schema", *option)
    assert (done.code, done.err) == (0, "")
    assert done.out == (ROOT / f"config/{name}.schema.json").read_text(encoding="utf-8")
