"""After what Holdfast repeats by itself: which layer has the say, and who is told of a risk.

What is refused is among the wrong policies (`wrong_policies.py`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.core.policy import Condition
from proxy.settings.load import ConfigError, load_policy
from proxy.settings.retries import risky_routes
from proxy.settings.values import Settings
from tests.settings.wrong_policies import wrong_policies
from tests.support.lab import settings_from
from tests.support.running import ROOT

POLICY = """\
gateways:
  g:
    profile: mine
    listen: 127.0.0.1:8080
    upstream: https://gw.example
    idempotency: {class: A_strong}
    retry: {on: [connect]}
    routes: []
defaults: {retry: {on: [not_sent, {status: [502, 5xx]}]}}
"""
PROFILE = """\
title: A gateway
idempotency: {class: D_none, window: 1h}
results:
  - {when: {status: [2xx]}, result: succeeded}
routes:
  - name: pay
    match: {methods: [POST], path: "/pay/**"}
    session: durable
    retry: {on: [attempt_timeout]}
"""
ROUTE = 'routes: [{name: pay, match: {methods: [POST], path: "/pay/**"}, '


def made(folder: Path, policy: str = POLICY, profile: str = PROFILE) -> Settings:
    """What a policy comes to, with a profile of its own beside it."""
    (folder / "gateways").mkdir()
    (folder / "gateways" / "mine.yaml").write_text(profile)
    return settings_from(policy, folder)


@pytest.mark.parametrize(
    ("written", "instead", "on"),
    [
        ("", "", (Condition.ATTEMPT_TIMEOUT,)),  # the profile's route
        ("routes: []", ROUTE + "retry: {on: [in_progress]}}]", (Condition.IN_PROGRESS,)),
        ("routes: []", ROUTE + "retry: {on: null}}]", None),
        ("routes: []", ROUTE + "retry: null}]", (Condition.CONNECT,)),  # the gateway
        (
            "    retry: {on: [connect]}\n    routes: []",
            f"    {ROUTE}retry: null}}]",
            (Condition.NOT_SENT, ((502, 502), (500, 599))),  # the defaults
        ),
    ],
)
def test_the_nearest_list_counts_whole(
    tmp_path: Path, written: str, instead: str, on: object
) -> None:
    """Route, profile's route, gateway, defaults; a list is not put together from several."""
    settings = made(tmp_path, POLICY.replace(written, instead) if written else POLICY)
    route = settings.gateways["g"].routes.match("POST", "/pay/1")
    assert route.retry.on == on


def told(folder: Path, policy: str, profile: str = PROFILE) -> list[str]:
    """The mistakes, without the folder."""
    with pytest.raises(ConfigError) as wrong:
        made(folder, policy, profile)
    return [str(mistake).removeprefix(f"{folder}/") for mistake in wrong.value.mistakes]


def test_a_profile_is_told_in_its_own_file(tmp_path: Path) -> None:
    """Its route has a list that its class, or the one a policy gives it, makes unsafe."""
    (mistake,) = told(tmp_path, POLICY.replace("class: A_strong", "class: B_lookup"))
    assert mistake.startswith("gateways/mine.yaml:9:18: routes[0].retry.on[0]: could charge twice")
    assert "g (B_lookup) knows no keys" in mistake


def test_a_route_is_told_by_its_own_promise(tmp_path: Path) -> None:
    """One that honours no keys at a gateway that does; and the other way round it is fine."""
    weaker = ROUTE + "idempotency: {class: A_weak}, retry: null}]"
    policy = POLICY.replace("routes: []", weaker).replace("[connect]", "[in_progress]")
    (mistake,) = told(tmp_path, policy)
    assert mistake.startswith("policy.yaml:7:18: gateways.g.retry.on[0]: could charge twice")
    assert "g (A_weak) forgets a key after an error" in mistake
    stronger = policy.replace("A_strong", "D_none").replace("A_weak", "A_strong")
    assert settings_from(stronger, tmp_path).gateways


def test_a_profile_takes_no_risk(tmp_path: Path) -> None:
    """Whether customers may be charged twice is not a fact about a gateway."""
    profile = PROFILE.replace("[attempt_timeout]", "[attempt_timeout], risk: may_charge_twice")
    (mistake,) = told(tmp_path, POLICY, profile)
    assert mistake.startswith("gateways/mine.yaml:9:36: routes[0].retry.risk: a risk is taken by")


def test_what_moves_no_money_is_free(tmp_path: Path) -> None:
    """A read after a time-out is repeated at any gateway."""
    policy = POLICY.replace("{class: A_strong}", "{class: D_none}").replace("[connect]", "null")
    policy = policy.replace(
        "[not_sent, {status: [502, 5xx]}]", "[attempt_timeout, {status: [5xx]}]"
    )
    profile = PROFILE.replace("session: durable", "session: ephemeral").replace("POST", "GET")
    settings = made(tmp_path, policy, profile)
    assert settings.gateways["g"].routes.read.retry.on is None
    assert settings.gateways["g"].routes.match("GET", "/pay/1").retry.on is not None


def test_risky_routes_are_named(tmp_path: Path) -> None:
    """Gateway, route, and after what; nobody else."""
    assert list(risky_routes(made(tmp_path).gateways.values())) == []
    retry = "retry: {on: [attempt_timeout, {status: [500, 502-504]}], risk: may_charge_twice}}]"
    policy = POLICY.replace("class: A_strong", "class: D_none").replace("routes: []", ROUTE + retry)
    (tmp_path / "policy.yaml").write_text(policy)
    settings = load_policy(tmp_path / "policy.yaml", {}).settings
    assert list(risky_routes(settings.gateways.values())) == [
        {"gateway": "g", "route": "pay", "repeated_after": "attempt_timeout, 500 502-504"}
    ]


def test_the_reference_quotes_what_is_told() -> None:
    """The refusal on the page is one that a wrong policy gets."""
    page = (ROOT / "docs/policies.md").read_text()
    quoted = page.partition("```text\npolicy.yaml:")[2].partition("\n```")[0]
    assert quoted in {line for case in wrong_policies() for line in case.values[1]}  # type: ignore[attr-defined]
