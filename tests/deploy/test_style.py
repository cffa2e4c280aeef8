"""YAML and shell below deploy/ are tidy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tools import ROOT, run

DEPLOY = ROOT / "deploy"
YAML = sorted(path for path in DEPLOY.rglob("*") if path.suffix in {".yaml", ".yml"})
SHELL = sorted(
    path
    for path in DEPLOY.rglob("*")
    if path.is_file() and path.read_bytes().startswith(b"#!/bin/sh\n")
)
RULES = """
extends: default
rules:
  document-start: disable   # one document per file
  line-length: disable      # queries are as long as they are
  comments: {min-spaces-from-content: 1}
"""


def name_of(path: Path) -> str:
    """A path below deploy/."""
    return path.relative_to(DEPLOY).as_posix()


def test_there_is_something_to_check() -> None:
    """The two lists below are not empty by accident."""
    assert len(YAML) >= 15
    assert [name_of(path) for path in SHELL] == ["make-secrets"]


@pytest.mark.parametrize("path", YAML, ids=name_of)
def test_yaml_is_tidy(path: Path) -> None:
    """The linter of YAML finds nothing, not even a warning."""
    done = run("yamllint", "--strict", "-d", RULES, path)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", SHELL, ids=name_of)
def test_shell_is_sound(path: Path) -> None:
    """The linter of shell scripts finds nothing."""
    done = run("shellcheck", path)
    assert (done.returncode, done.stdout) == (0, "")
