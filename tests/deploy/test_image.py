"""The Dockerfile, as far as it can be judged without building it."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.tools import ROOT, run

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
# Lines joined where they continue; comments dropped.
INSTRUCTIONS = [
    line.strip()
    for line in re.sub(r"\\\n\s*", "", DOCKERFILE.read_text(encoding="utf-8")).splitlines()
    if line.strip() and not line.startswith("#")
]
STAGES = [number for number, line in enumerate(INSTRUCTIONS) if line.startswith("FROM ")]
FINAL = INSTRUCTIONS[STAGES[-1] :]


def only(name: str) -> str:
    """The argument of an instruction that stands once in the final stage."""
    (line,) = [line for line in FINAL if line.startswith(f"{name} ")]
    return line.removeprefix(f"{name} ")


def test_hadolint_is_content() -> None:
    """No finding, not even a hint."""
    done = run("hadolint", "--failure-threshold", "style", DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_say_so() -> None:
    """The linter finds what is wrong with a bad one."""
    done = run("hadolint", "-", stdin="FROM debian:latest\nRUN sudo apt-get install curl\n")
    assert done.returncode == 1
    assert "DL3004" in done.stdout


def test_two_stages_from_one_base() -> None:
    """What builds does not ship, and the base can be chosen."""
    assert INSTRUCTIONS[0].startswith("ARG BASE=")
    assert [INSTRUCTIONS[number] for number in STAGES] == [
        "FROM ${BASE} AS build",
        "FROM ${BASE}",
    ]


def test_nothing_is_installed_that_is_not_pinned_by_its_hash() -> None:
    """The first install checks the lock's hashes; the second may fetch nothing."""
    (line,) = [line for line in INSTRUCTIONS if "requirements.lock" in line and "RUN" in line]
    assert "--require-hashes --requirement wheels/requirements.lock" in line
    installs = [line for line in INSTRUCTIONS if "pip install" in line]
    assert all("--no-deps" in line for line in installs)


def test_the_final_stage_runs_nothing() -> None:
    """No RUN, and no instruction that would need a shell later: a base without one will do."""
    assert not [line for line in FINAL if line.startswith("RUN ")]
    health = only("HEALTHCHECK")
    for command in (only("ENTRYPOINT"), only("CMD"), health[health.index("CMD ") + 4 :]):
        assert isinstance(json.loads(command), list)


def test_it_runs_as_nobody_and_drains_on_sigterm() -> None:
    """A numeric user that is not root, and the signal that drains."""
    assert only("USER") == "65532:65532"
    assert only("STOPSIGNAL") == "SIGTERM"
    assert only("VOLUME") == '["/var/lib/holdfast"]'


def test_it_is_healthy_by_its_own_word() -> None:
    """The health check needs no curl, and asks for liveness."""
    command = only("HEALTHCHECK").split("CMD ")[1]
    assert json.loads(command) == [
        "/opt/holdfast/bin/holdfast",
        "health",
        "--url",
        "http://127.0.0.1:8082/healthz",
    ]


@pytest.mark.parametrize(
    "label", ["title", "description", "licenses", "version", "revision"], ids=str
)
def test_it_carries_the_usual_labels(label: str) -> None:
    """The names of the Open Container Initiative."""
    assert f"org.opencontainers.image.{label}=" in only("LABEL")


def test_what_is_copied_is_there_and_not_ignored() -> None:
    """Every source of a COPY exists, and the ignore file lets it through to the builder."""
    copies = [
        word
        for line in INSTRUCTIONS
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert copies == [
        "deploy/requirements.lock",
        "deploy/wheel[s]",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "proxy",
    ]
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    for source in copies:
        name = source.replace("[s]", "s")
        assert f"!{name}" in ignored
        assert name == "deploy/wheels" or (ROOT / name).exists()
