"""Prometheus: its configuration, the alert rules, and a runbook for each of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.telemetry.metrics import Metrics
from tests.support.tools import ROOT, run

FOLDER = ROOT / "deploy" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"
GROUPS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})
CASE_FILES = ["rules_test.yml", "rules_days_test.yml"]
CASES: list[dict[str, Any]] = [
    case for name in CASE_FILES for case in yaml.safe_load((FOLDER / name).read_text())["tests"]
]


def test_the_configuration_is_one(tmp_path: Path) -> None:
    """`promtool check config`, with the token where it will be and the rules it loads."""
    token = tmp_path / "viewer-token"
    token.write_text("a token")
    text = (FOLDER / "prometheus.yml").read_text().replace("/run/secrets", str(tmp_path))
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "rules.yml").write_text((FOLDER / "rules.yml").read_text())
    done = run("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert done.returncode == 0, done.stdout
    assert "1 rule files found" in done.stdout


def test_the_rules_are_rules() -> None:
    """`promtool check rules`, its lint included."""
    done = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", FOLDER / "rules.yml")
    assert done.returncode == 0, done.stdout
    assert f"SUCCESS: {len(RULES)} rules found" in done.stdout


def test_each_alert_fires_when_it_should() -> None:
    """`promtool test rules`: series in, alerts out."""
    done = run("promtool", "test", "rules", *[FOLDER / name for name in CASE_FILES])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_is_seen_firing_and_quiet(name: str) -> None:
    """The cases hold each alert from both sides."""
    expected = [
        bool(check["exp_alerts"])
        for case in CASES
        for check in case["alert_rule_test"]
        if check["alertname"] == name
    ]
    assert set(expected) == {True, False}


def test_a_wrong_rule_would_be_caught(tmp_path: Path) -> None:
    """With a threshold ten times as high the cases fail: they look at the numbers."""
    rules = (FOLDER / "rules.yml").read_text().replace("> 15 * 60", "> 150 * 60")
    (tmp_path / "rules.yml").write_text(rules)
    cases = tmp_path / "rules_test.yml"
    cases.write_text((FOLDER / "rules_test.yml").read_text())
    done = run("promtool", "test", "rules", cases)
    assert done.returncode == 1
    assert "HoldfastUnknownOutcomes" in done.stdout


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_says_what_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    """How urgent it is, what it is, and a page that tells a tired person what to do."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert notes["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    text = (ROOT / notes["runbook_url"]).read_text(encoding="utf-8")
    assert text.startswith(f"# {rule['alert']}\n")
    wanted = ["## What it means", "## Look first", "## What to do", "## When it is over"]
    assert re.findall("^## .*$", text, re.MULTILINE) == wanted


def test_there_is_no_runbook_without_an_alert() -> None:
    """A page nobody is sent to is not kept up."""
    assert sorted(path.stem for path in RUNBOOKS.glob("*.md")) == NAMES


def test_rules_use_metrics_that_exist() -> None:
    """Every holdfast_ name in an expression is a metric of Holdfast."""
    known = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Metrics().collect()
    }
    used = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for rule in RULES
        for name in re.findall(r"(?<![:\w])holdfast_[a-z_]+", rule["expr"])
    }
    assert used - known == set()
    assert used >= {"holdfast_unknown_outcomes", "holdfast_ready", "holdfast_breaker_state"}
