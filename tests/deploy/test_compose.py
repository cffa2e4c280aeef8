"""compose.yaml and what it provisions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.settings.load import load
from tests.deploy.test_policies import handed_over
from tests.support.tools import ROOT, run

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_compose_takes_it() -> None:
    """`docker-compose config` finds no mistake and warns of nothing."""
    done = run("docker-compose", "-f", DEPLOY / "compose.yaml", "config", "--quiet")
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_would_say_so(tmp_path: Path) -> None:
    """A misspelt key is refused."""
    broken = tmp_path / "compose.yaml"
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    broken.write_text(text.replace("stop_grace_period", "stop_grace_periode"))
    done = run("docker-compose", "-f", broken, "config", "--quiet")
    assert done.returncode == 1
    assert "stop_grace_periode" in done.stdout


def test_what_is_in_it() -> None:
    """Holdfast, a gateway to try it with, and those who watch."""
    assert list(SERVICES) == ["holdfast", "gateway", "prometheus", "grafana"]


@pytest.mark.parametrize("name", SERVICES)
def test_only_this_machine_can_reach_it(name: str) -> None:
    """Every published port is published on loopback."""
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), port


@pytest.mark.parametrize("name", SERVICES)
def test_services_may_do_little(name: str) -> None:
    """No capability, and no way to get one."""
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", ["holdfast", "gateway", "prometheus"])
def test_root_is_read_only(name: str) -> None:
    """What is written goes to a volume."""
    assert SERVICES[name]["read_only"] is True


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_the_file(name: str) -> None:
    """Tokens, keys and passwords come from files; the one value that is written is no secret."""
    for variable, value in SERVICES[name].get("environment", {}).items():
        if variable == "HOLDFAST_LOOKUP_CREDENTIAL":
            assert value == "Bearer demo-only-no-secret"
        elif re.search("TOKEN|KEY|PASSWORD|SECRET|CREDENTIAL", variable):
            assert variable.endswith("_FILE")
            assert value.removeprefix("/run/secrets/") in SERVICES[name]["secrets"]


def test_make_secrets_makes_them(tmp_path: Path) -> None:
    """One command makes every secret file that is asked for, each different, none twice."""
    folder = tmp_path / "secrets"
    first = run(str(DEPLOY / "make-secrets"), folder)
    made = {path.name: path.read_text() for path in folder.iterdir()}
    wanted = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert first.returncode == 0
    assert set(made) == wanted
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in made.values())
    assert len(set(made.values())) == len(made)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}

    again = run(str(DEPLOY / "make-secrets"), folder)
    assert "is there already" in again.stdout
    assert {path.name: path.read_text() for path in folder.iterdir()} == made


def test_secrets_are_not_committed() -> None:
    """The folder they are made in ignores everything but the file that says so."""
    ignored = (DEPLOY / "secrets" / ".gitignore").read_text().splitlines()
    assert ignored[-2:] == ["*", "!.gitignore"]


def test_holdfast_can_start_with_what_it_is_given(tmp_path: Path) -> None:
    """The policy loads with exactly the environment and the secret files of its service."""
    run(str(DEPLOY / "make-secrets"), tmp_path)
    environ = {
        name: value.replace("/run/secrets", str(tmp_path))
        for name, value in SERVICES["holdfast"]["environment"].items()
    }
    settings = load(DEPLOY / "compose" / "holdfast.yaml", environ)
    assert settings.keys == (bytes.fromhex((tmp_path / "holdfast-key").read_text()),)
    assert settings.tokens.viewer == (tmp_path / "viewer-token").read_text()
    credential = settings.gateways["stripe"].lookup_credential
    assert credential is not None
    assert credential.value == "Bearer demo-only-no-secret"


def test_names_and_ports_fit_together() -> None:
    """Holdfast finds the gateway, Prometheus finds Holdfast, Grafana finds Prometheus."""
    settings = load(DEPLOY / "compose" / "holdfast.yaml", handed_over("compose"))
    command = SERVICES["gateway"]["command"]
    gateway_port = command[command.index("--listen") + 1].rpartition(":")[2]
    assert settings.gateways["stripe"].upstream == f"http://gateway:{gateway_port}"

    watching = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = watching["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"holdfast:{settings.admin.port}"]
    assert Path(job["authorization"]["credentials_file"]).name in SERVICES["prometheus"]["secrets"]

    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert source["jsonData"]["timeInterval"] == watching["global"]["scrape_interval"]


def test_the_ports_that_are_published_are_listened_on() -> None:
    """8080 to the gateway's door, 8081 to the session API, 8082 to health and metrics."""
    settings = load(DEPLOY / "compose" / "holdfast.yaml", handed_over("compose"))
    doors = [settings.gateways["stripe"].listen, settings.sessions, settings.admin]
    published = [port.rpartition(":")[2] for port in SERVICES["holdfast"]["ports"]]
    assert published == [str(door.port) for door in doors]


def test_the_dashboard_is_provisioned() -> None:
    """The file that is mounted is the dashboard, into the folder that Grafana looks into."""
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    inside = mounts["../grafana/holdfast.json"]
    assert json.loads((ROOT / "grafana" / "holdfast.json").read_text())["uid"] == "holdfast"
    provider = yaml.safe_load(
        (DEPLOY / "grafana" / "provisioning" / "dashboards" / "holdfast.yaml").read_text()
    )["providers"][0]
    assert provider["options"]["path"] == str(Path(inside).parent)
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == inside
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"


def test_there_is_time_to_drain() -> None:
    """The grace period holds the drain, what is written down after it, and the closing."""
    shutdown = load(DEPLOY / "compose" / "holdfast.yaml", handed_over("compose")).shutdown
    grace = float(SERVICES["holdfast"]["stop_grace_period"].removesuffix("s"))
    assert grace > shutdown.ready_delay + shutdown.drain + 7
