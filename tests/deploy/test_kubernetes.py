"""The Kubernetes manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.settings.load import load
from tests.deploy.test_policies import TOKENS
from tests.support import operator_rules
from tests.support.tools import ROOT, run

FOLDER = ROOT / "deploy" / "kubernetes"
BASE = FOLDER / "base"
SHOP: dict[str, Any] = yaml.safe_load((BASE / "shop.yaml").read_text(encoding="utf-8"))
POD: dict[str, Any] = SHOP["spec"]["template"]["spec"]
(SIDECAR,) = POD["initContainers"]
(BACKEND,) = POD["containers"]


def validate(path: Path) -> tuple[int, str]:
    """What kubernetes-validate says of a file."""
    done = run("kubernetes-validate", "-k", "1.32", "--strict", path)
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", ["shop.yaml", "service.yaml"])
def test_kubernetes_knows_every_field(name: str) -> None:
    """The schemas of Kubernetes 1.32, unknown fields refused."""
    code, said = validate(BASE / name)
    assert code == 0, said
    assert "passed" in said


def test_kubernetes_would_say_so(tmp_path: Path) -> None:
    """A misspelt field is refused."""
    broken = tmp_path / "shop.yaml"
    text = (BASE / "shop.yaml").read_text(encoding="utf-8")
    broken.write_text(text.replace("restartPolicy", "restartPolicie"))
    code, said = validate(broken)
    assert code == 1
    assert "restartPolicie" in said


def test_kustomize_builds_it(tmp_path: Path) -> None:
    """`kubectl kustomize` puts the policy into a ConfigMap that the pod mounts; all validates."""
    done = run("kubectl", "kustomize", BASE)
    assert done.returncode == 0, done.stdout
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(done.stdout)
    code, said = validate(rendered)
    assert code == 0, said
    documents = {doc["kind"]: doc for doc in yaml.safe_load_all(done.stdout)}
    assert sorted(documents) == ["ConfigMap", "Service", "StatefulSet"]
    config = documents["ConfigMap"]
    assert config["data"] == {"holdfast.yaml": (BASE / "holdfast.yaml").read_text()}
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    mounted = [v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v]
    assert mounted == [config["metadata"]["name"]]
    assert pod["initContainers"][0]["image"] == "holdfast:0.1.0"


def test_holdfast_is_a_native_sidecar() -> None:
    """It is ready before the shop starts, and outlives it."""
    assert SIDECAR["restartPolicy"] == "Always"
    assert SIDECAR["startupProbe"]["httpGet"] == {"path": "/readyz", "port": "holdfast-admin"}
    assert SIDECAR["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "holdfast-admin"}
    assert SIDECAR["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "holdfast-admin"}


def test_ports_and_paths_fit_the_policy() -> None:
    """The probes' port is the admin listener's, and the shop is pointed at the gateway's door."""
    settings = load(BASE / "holdfast.yaml", TOKENS)
    assert SIDECAR["ports"] == [
        {"name": "holdfast-admin", "containerPort": settings.admin.port},
    ]
    env = {entry["name"]: entry.get("value") for entry in BACKEND["env"]}
    assert env["STRIPE_API_BASE"] == f"http://{settings.gateways['stripe'].listen}"
    assert env["HOLDFAST_API"] == f"http://{settings.sessions}"
    mounts = {mount["name"]: mount["mountPath"] for mount in SIDECAR["volumeMounts"]}
    assert Path(settings.store).parent == Path(mounts["sessions"])


def test_there_is_time_to_drain() -> None:
    """The grace period holds the shop's own stopping and then Holdfast's."""
    shutdown = load(BASE / "holdfast.yaml", TOKENS).shutdown
    before = BACKEND["lifecycle"]["preStop"]["sleep"]["seconds"]
    holdfast = shutdown.ready_delay + shutdown.drain + 7
    shop_itself = 30
    assert POD["terminationGracePeriodSeconds"] >= before + shop_itself + holdfast


@pytest.mark.parametrize("container", [SIDECAR, BACKEND], ids=["holdfast", "shop"])
def test_pods_are_restricted(container: dict[str, Any]) -> None:
    """The level `restricted` of the pod security standards, and a read-only root on top."""
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_secrets_come_from_a_secret() -> None:
    """Tokens and the key are mounted files that the pod's group may read, and nobody else."""
    (secrets,) = [v["secret"] for v in POD["volumes"] if "secret" in v]
    assert secrets == {"secretName": "holdfast", "defaultMode": 0o440}
    named = {Path(entry["value"]).name for entry in SIDECAR["env"]}
    told = (BASE / "kustomization.yaml").read_text()
    assert named == {"holdfast-key", "backend-token", "operator-token", "viewer-token"}
    assert all(f"--from-file=deploy/secrets/{name}" in told for name in named)


def test_sessions_outlive_the_pod() -> None:
    """Each pod keeps its own volume, also when it is deleted: unknown outcomes are in it."""
    (claim,) = SHOP["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "sessions"
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert SHOP["spec"]["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }


def test_the_monitor_finds_the_sidecar() -> None:
    """The PodMonitor selects the shop's pods, by the port's name, with the viewer's token."""
    monitor = yaml.safe_load((FOLDER / "monitoring" / "podmonitor.yaml").read_text())["spec"]
    labels = SHOP["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["podMetricsEndpoints"] == [
        {
            "port": SIDECAR["ports"][0]["name"],
            "path": "/metrics",
            "authorization": {"credentials": {"name": "holdfast", "key": "viewer-token"}},
        }
    ]


def test_the_operator_gets_the_same_rules() -> None:
    """The wrapped rules are the plain ones, and YAML reads them as such."""
    written = operator_rules.WRAPPED.read_text(encoding="utf-8")
    plain = yaml.safe_load(operator_rules.RULES.read_text(encoding="utf-8"))
    assert written == operator_rules.wrapped(), "./dev run python -m tests.support.operator_rules"
    assert yaml.safe_load(written)["spec"] == plain
