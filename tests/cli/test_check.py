"""`holdfast check`: every mistake, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.running import ROOT
from tests.support.shell import holdfast

CONFIGS = sorted(path.name for path in (ROOT / "config").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS)
async def test_every_shipped_config_is_fine(config: str) -> None:
    """Each gateway on one line, `ok`, and 0."""
    done = await holdfast("check", f"config/{config}")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == f"config/{config}: ok"


async def test_the_reference_shows_what_is_printed() -> None:
    """The example in docs/policies.md is the command's own output."""
    done = await holdfast("check", "config/holdfast.yaml")
    page = (ROOT / "docs/policies.md").read_text()
    assert f"$ holdfast check config/holdfast.yaml\n{done.out}```" in page


BAD = """\
gateways:
  g: {profile: strpe, listen: 8080, upstream: https://gw.example/v1}
defaults: {timeouts: {attempt: 10}}
sesion: {}
"""
TOLD = """\
bad.yaml:2:7: gateways.g.profile: there is no profile 'strpe'; did you mean 'stripe'?
bad.yaml:2:23: gateways.g.listen: should be text, not the number 8080
bad.yaml:2:37: gateways.g.upstream: write the gateway's origin, like https://api.example.com (no path, no user)
bad.yaml:3:23: defaults.timeouts.attempt: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d
bad.yaml:4:1: sesion: unknown key; did you mean 'session'?
environment variable HOLDFAST_KEY: not 32 bytes written as 64 hexadecimal digits
environment variable HOLDFAST__STORE: store: write a store as sqlite:///FILE, postgresql://…, redis://… or memory://
bad.yaml: 7 mistakes
"""  # noqa: E501 -- messages as they are printed


async def test_every_mistake_is_told(tmp_path: Path) -> None:
    """All of them on standard error, in the order of the file, counted, and 1."""
    (tmp_path / "bad.yaml").write_text(BAD)
    environ = {"HOLDFAST__STORE": "nowhere", "HOLDFAST_KEY": "short"}
    done = await holdfast("check", "bad.yaml", folder=tmp_path, environ=environ)
    assert (done.code, done.out, done.err) == (1, "", TOLD)


async def test_what_holds_for_a_request() -> None:
    """A line for each setting, with its value and the place it was written at."""
    done = await holdfast("check", "config/holdfast.yaml", "--explain", "post", "/v1/refunds")
    first, *lines = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    origin = "proxy/gateways/stripe.yaml"
    assert first.startswith(f"stripe: POST /v1/refunds is route create-refund ({origin}:")
    settings = {line.split()[0]: line.split()[1:] for line in lines}
    assert settings["retry.max_attempts"][0] == "3"
    assert settings["session.lease"] == ["10s", "default"]
    page = (ROOT / "docs/cli.md").read_text()
    shown = page.partition("--explain POST /v1/payment_intents\n")[2].partition("```")[0]
    done = await holdfast(
        "check", "config/holdfast.yaml", "--explain", "POST", "/v1/payment_intents"
    )
    assert [line for line in shown.splitlines() if line != "  …"] == [
        line for line in done.out.splitlines() if line in shown
    ]


async def test_a_wrong_file_is_not_explained(tmp_path: Path) -> None:
    """Its mistakes are told instead; and what is not a path is said to be none."""
    (tmp_path / "bad.yaml").write_text(BAD)
    done = await holdfast("check", "bad.yaml", "--explain", "POST", "/pay", folder=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert "did you mean 'stripe'?" in done.err
    done = await holdfast("check", "config/holdfast.yaml", "--explain", "POST", "v1")
    assert (done.code, done.out) == (1, "")
    assert done.err == "write the path of the request, like /v1/payment_intents, not 'v1'\n"


async def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """No line where there is none."""
    done = await holdfast("check", "missing.yaml", folder=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == "missing.yaml: No such file or directory\nmissing.yaml: 1 mistake\n"


@pytest.mark.parametrize(
    ("store", "more", "told"),
    [
        ("postgresql://me@db.example/holdfast", "", True),
        ("postgresql://me@db.example/holdfast", "audit: trail", False),
        ("sqlite:///var/holdfast.db", "", False),
    ],
)
async def test_a_store_without_an_audit_trail_is_told(
    tmp_path: Path, store: str, more: str, told: bool
) -> None:
    """A store that is not a file has a trail only where one is named."""
    (tmp_path / "p.yaml").write_text(
        'gateways: {g: {listen: "127.0.0.1:8080", upstream: "https://gw.example"}}\n'
        f"store: {store}\n{more}\n"
    )
    done = await holdfast("check", "p.yaml", folder=tmp_path, environ={"HOLDFAST_KEY": "0" * 64})
    assert (done.code, done.err) == (0, "")
    assert ("no audit trail" in done.out) is told


async def test_a_route_that_may_charge_twice_is_told(tmp_path: Path) -> None:
    """A file that takes the risk is fine, and says on a line of its own what it risks."""
    (tmp_path / "p.yaml").write_text(
        'gateways: {g: {listen: "127.0.0.1:8080", upstream: "https://gw.example", routes: ['
        '{name: payment, match: {methods: [POST], path: "/**"}, '
        "retry: {on: [connect, attempt_timeout], risk: may_charge_twice}}]}}\n"
    )
    done = await holdfast("check", "p.yaml", folder=tmp_path)
    assert (done.code, done.err) == (0, "")
    told = "g: route payment may charge twice: it is repeated after connect, attempt_timeout"
    assert done.out.splitlines()[1] == told
    done = await holdfast("check", "p.yaml", "--explain", "POST", "/pay", folder=tmp_path)
    held = {line.split()[0]: line.split()[1:] for line in done.out.splitlines()[1:]}
    assert held["retry.on"] == ["[connect,", "attempt_timeout]", "p.yaml:1"]
    assert held["retry.risk"] == ["may_charge_twice", "p.yaml:1"]


def names_in(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


async def test_nothing_is_touched(tmp_path: Path) -> None:
    """Checking opens no store, makes no key and no folder."""
    (tmp_path / "p.yaml").write_text(
        'gateways: {g: {listen: "127.0.0.1:8080", upstream: "https://gw.example"}}\n'
        "store: sqlite:///var/holdfast.db\n"
    )
    done = await holdfast("check", "p.yaml", folder=tmp_path)
    assert done.code == 0
    assert names_in(tmp_path) == ["p.yaml"]
    # The generic profile has one route, and it is spoken of as one.
    assert done.out.splitlines()[0].endswith(" (D_none), 1 route, 1 of it durable")


async def test_a_name_the_terminal_cannot_show_is_no_error(tmp_path: Path) -> None:
    """A file's name may hold any bytes, and the terminal may know ASCII only."""
    name = b"p\xff\xc3\xa9.yaml".decode("utf-8", "surrogateescape")
    (tmp_path / name).write_text(
        'gateways: {g: {listen: "127.0.0.1:8080", upstream: "https://gw.example"}}\n'
    )
    done = await holdfast("check", name, folder=tmp_path, environ={"PYTHONIOENCODING": "ascii"})
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == r"p\udcff\xe9.yaml: ok"
