"""The policies that come with the deployment files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from proxy.settings.load import ConfigError, load
from tests.support.tools import ROOT, run

DEPLOY = ROOT / "deploy"
TOKENS = {
    "HOLDFAST_BACKEND_TOKEN": "a-backend-s-token",
    "HOLDFAST_OPERATOR_TOKEN": "an-operator-s-token",
    "HOLDFAST_VIEWER_TOKEN": "a-viewer-s-token",
}
# Only the policy of Compose names a credential, and only there the variable means something.
CREDENTIAL = {"HOLDFAST_LOOKUP_CREDENTIAL": "Bearer nobody"}
POLICIES = ["compose/holdfast.yaml", "kubernetes/base/holdfast.yaml", "systemd/holdfast.yaml"]


def handed_over(name: str) -> dict[str, str]:
    """The variables that a deployment sets for its policy."""
    return TOKENS | (CREDENTIAL if name.startswith("compose") else {})


def test_these_are_all_the_policies() -> None:
    """Every YAML file below deploy/ that names gateways is in the list that is checked."""
    found = [
        path.relative_to(DEPLOY).as_posix()
        for path in sorted(DEPLOY.rglob("*.y*ml"))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if "gateways" in document
    ]
    assert found == POLICIES


@pytest.mark.parametrize("name", POLICIES)
def test_holdfast_takes_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`holdfast check` finds no mistake, given the secrets the deployment hands over."""
    for variable, value in handed_over(name).items():
        monkeypatch.setenv(variable, value)
    done = run("holdfast", "check", DEPLOY / name)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("holdfast.yaml: ok\n")


@pytest.mark.parametrize("name", ["compose/holdfast.yaml", "kubernetes/base/holdfast.yaml"])
def test_it_is_refused_without_tokens(name: str) -> None:
    """What can be reached from other machines does not start without tokens."""
    environ = CREDENTIAL if name.startswith("compose") else {}
    with pytest.raises(ConfigError, match="so tokens are required"):
        load(DEPLOY / name, environ)


@pytest.mark.parametrize("name", POLICIES)
def test_the_store_is_where_the_volume_is(name: str) -> None:
    """Every deployment keeps sessions in /var/lib/holdfast, the one place that may be written."""
    assert load(DEPLOY / name, handed_over(name)).store == "/var/lib/holdfast/holdfast.db"


def test_the_sidecar_listens_for_its_pod_only() -> None:
    """In Kubernetes only health and metrics leave the pod."""
    settings = load(DEPLOY / "kubernetes/base/holdfast.yaml", TOKENS)
    assert settings.sessions.loopback
    assert all(gateway.listen.loopback for gateway in settings.gateways.values())
    assert str(settings.admin) == "0.0.0.0:8082"


def test_the_service_listens_on_loopback_only(tmp_path: Path) -> None:
    """Under systemd no token is needed, because nobody else can call."""
    settings = load(DEPLOY / "systemd/holdfast.yaml", {})
    assert settings.sessions.loopback
    assert settings.admin.loopback
    assert all(gateway.listen.loopback for gateway in settings.gateways.values())
