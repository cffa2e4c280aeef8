"""The dashboard: what it is made of, and that every query of it finds data at a real Prometheus
that scrapes a running Holdfast.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from grafana import build as generator
from proxy.demo.faults import FaultPlan
from proxy.demo.gateway import SimulatedGateway
from proxy.demo.traffic import Shop, Takings, pay_all
from proxy.telemetry.metrics import Metrics
from tests.support.prometheus import Prometheus, prometheus
from tests.support.raw import RawConnection, raw_server
from tests.support.running import Running, running, simulated
from tests.support.tools import ROOT

WRITTEN = (ROOT / "grafana" / "holdfast.json").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads(WRITTEN)
PANELS: list[dict[str, Any]] = [p for p in DASHBOARD["panels"] if p["type"] != "row"]
VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]

# Metrics that are on no panel, each with its reason.
ON_NO_PANEL: dict[str, str] = {}

VIEWER, OPERATOR = "viewer-token-of-this-test", "operator-token-of-this-test"
POLICY = """
listen: {{sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}}
store: sqlite:///holdfast.db
gateways:
  stripe: {{profile: stripe, listen: "127.0.0.1:0", upstream: "{stripe}"}}
  plain: {{profile: generic, listen: "127.0.0.1:0", upstream: "{plain}"}}
defaults:
  timeouts: {{connect: 500ms, attempt: 300ms, total: 4s}}
  retry: {{backoff: {{initial: 10ms, max: 50ms}}}}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A query of a panel."""

    panel: str
    expr: str
    legend: str

    def __str__(self) -> str:
        return f"{self.panel}: {self.expr}"


TARGETS = [
    Target(panel["title"], target["expr"], target["legendFormat"])
    for panel in PANELS
    for target in panel["targets"]
]


def metrics_in(text: str) -> set[str]:
    """The metrics a query names, without the endings that Prometheus gives their series."""
    names = set(re.findall(r"\bholdfast_[a-z_]+", text))
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}


def declared() -> dict[str, str]:
    """Every metric Holdfast has, by the name of its series, and its type."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in Metrics().collect()
    }


def selectors(expr: str) -> Iterator[tuple[str, str]]:
    """Each metric of a query with the labels in its braces."""
    for match in re.finditer(r"(holdfast_[a-z_]+)(?:\{([^}]*)\})?", expr):
        yield match.group(1), match.group(2) or ""


# --- what it is made of ---------------------------------------------------------------------------


def test_the_json_is_what_the_generator_writes() -> None:
    """The dashboard is changed in build.py; a JSON edited by hand would be lost with the next."""
    assert generator.build() == WRITTEN, "./dev run python grafana/build.py"


def test_the_json_is_a_dashboard_of_grafana() -> None:
    """Read into Grafana's own model and written again nothing is lost, so no key is misspelt."""
    assert generator.as_grafana_reads_it(WRITTEN) == WRITTEN


def test_it_can_be_provisioned_and_linked_to() -> None:
    """A fixed address, not to be edited in place, no questions on import."""
    assert DASHBOARD["uid"] == "holdfast"
    assert DASHBOARD["editable"] is False
    assert "__inputs" not in DASHBOARD
    assert "id" not in DASHBOARD
    assert DASHBOARD["schemaVersion"] == 42


def test_the_first_row_answers_the_three_questions() -> None:
    """What is on the screen before anybody scrolls."""
    assert DASHBOARD["panels"][0]["title"] == "Shoppers, money, Holdfast itself"
    shown = [p["title"] for p in PANELS if p["gridPos"]["y"] <= 1]
    assert shown == [
        "Payments answered",
        "Turned away by Holdfast",
        "Unknown outcomes",
        "Oldest unknown outcome",
        "Circuit breaker",
        "Holdfast ready",
        "Added by Holdfast (p99)",
        "Store commit (p99)",
    ]


def test_panels_have_ids_and_places_of_their_own() -> None:
    """Links to a panel stay what they were, and nothing lies on top of anything."""
    everything = DASHBOARD["panels"]
    assert [p["id"] for p in everything] == list(range(1, len(everything) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", PANELS, ids=lambda p: p["title"])
def test_panels_explain_themselves(panel: dict[str, Any]) -> None:
    """A title, a sentence that says what it means, a unit, the chosen source, and a query."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for holder in (panel, *panel["targets"]):
        assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_runbooks_that_panels_name_exist() -> None:
    """A panel that says where to read on says the truth."""
    named = {
        name
        for panel in PANELS
        for sentence in re.findall(r"Runbooks?: ([^.]*)\.", panel["description"])
        for name in sentence.split(", ")
    }
    assert named == {
        "HoldfastBreakerOpen",
        "HoldfastContradiction",
        "HoldfastDown",
        "HoldfastNotReady",
        "HoldfastPaymentsFailing",
        "HoldfastPolicyRefused",
        "HoldfastStoreRegressed",
        "HoldfastStoreSlow",
        "HoldfastUnknownOutcomes",
    }
    for name in named:
        assert (ROOT / "docs" / "runbooks" / f"{name}.md").is_file(), name


def test_variables_are_the_ones_people_expect() -> None:
    """The source, then from the whole to the part; all of each unless chosen otherwise."""
    assert [v["name"] for v in VARIABLES] == ["datasource", "job", "instance", "gateway", "route"]
    source, *choices = VARIABLES
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    for choice in choices:
        assert choice["type"] == "query"
        assert choice["datasource"]["uid"] == "${datasource}"
        assert (choice["multi"], choice["includeAll"], choice["allValue"]) == (True, True, ".+")
        # Looked up again with the time range, or yesterday's gateways cannot be chosen.
        assert choice["refresh"] == 2


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_queries_keep_to_the_chosen_part(target: Target) -> None:
    """Every metric is narrowed to the chosen jobs, instances, and where it can be, gateways."""
    labels = {
        family.name: set(metric.labels)
        for metric in Metrics().all()
        for family in [metric.family()]
    }
    for name, given in selectors(target.expr):
        family = re.sub(r"_(bucket|count|sum|total)$", "", name)
        wanted = {"job", "instance"} | ({"gateway", "route"} & labels[family])
        narrowed = {v for v in ("job", "instance", "gateway", "route") if f'{v}=~"${v}"' in given}
        assert narrowed == wanted, name


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_queries_take_counters_by_their_rate(target: Target) -> None:
    """A counter or a histogram is only ever read through rate(…[$__rate_interval])."""
    types = declared()
    for match in re.finditer(r"holdfast_[a-z_]+(?:\{[^}]*\})?", target.expr):
        name = metrics_in(match.group()).pop()
        before, after = target.expr[: match.start()], target.expr[match.end() :]
        rated = before.endswith("rate(") and after.startswith("[$__rate_interval])")
        assert rated is (types[name] in {"counter", "histogram"}), match.group()
    assert re.findall(r"\[[^]$]+\]", target.expr) == []


def test_every_metric_is_on_a_panel() -> None:
    """What is measured is shown, or the list above says why not; what is shown is measured."""
    shown = {name for target in TARGETS for name in metrics_in(target.expr)}
    assert shown - set(declared()) == set()
    assert set(declared()) - shown == set(ON_NO_PANEL)


def test_variables_ask_for_metrics_that_exist() -> None:
    """The choices come from metrics that Holdfast has."""
    asked = {name for variable in VARIABLES[1:] for name in metrics_in(variable["query"])}
    assert asked == {
        "holdfast_build_info",
        "holdfast_sessions_active",
        "holdfast_session_seconds",
    }


# --- what it shows --------------------------------------------------------------------------------


@dataclass(slots=True)
class Watched:
    """A Holdfast that takes traffic, and the Prometheus that scrapes it."""

    holdfast: Running
    prometheus: Prometheus
    http: aiohttp.ClientSession
    rounds: int = 0

    async def traffic(self) -> None:
        """A bit of everything that can happen to a payment."""
        self.rounds += 1
        orders = f"round-{self.rounds}"
        stripe, plain = (f"http://{self.holdfast.doors.gateways[n]}" for n in ("stripe", "plain"))
        shop = Shop(stripe, patience=10.0, send_order=True, order_prefix=orders)
        await pay_all(shop, 8, 8, Takings())
        declined = {"payment_method": "pm_card_chargeDeclined"}
        # 504: this gateway is a faulty one, and all of its answers may be lost.
        assert await self._pay(stripe, f"{orders}-declined", declined) in {402, 504}
        key = {"Idempotency-Key": f"{orders}-twice"}
        await self._pay(stripe, f"{orders}-twice", headers=key)
        await self._pay(stripe, f"{orders}-twice", headers=key)
        assert await self._pay(stripe, f"{orders}-other", headers=key) == 400  # another body
        # No answer, and no promise for a repeated key: nobody knows.
        assert await self._pay(plain, f"{orders}-unknown") == 504
        async with self.http.get(f"{stripe}/v1/balance") as answer:
            assert answer.status == 200
        # A webhook that nobody has signed.
        api = f"http://{self.holdfast.doors.sessions}"
        async with self.http.post(f"{api}/webhooks/stripe", data=b"{}") as answer:
            assert answer.status == 401

    async def _pay(
        self,
        origin: str,
        order: str,
        more: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        data = {
            "amount": "1999",
            "currency": "eur",
            "confirm": "true",
            "payment_method": "pm_card_visa",
            "metadata[order_id]": order,
            **(more or {}),
        }
        named = {"Authorization": "Bearer sk_test_dashboard", **(headers or {})}
        url = f"{origin}/v1/payment_intents"
        async with self.http.post(url, data=data, headers=named) as answer:
            await answer.read()
            return answer.status


async def _loses_everything(connection: RawConnection) -> None:
    await connection.request()
    connection.reset()


def _watching(folder: Path, holdfast: Running) -> Path:
    """The shipped configuration of Prometheus, for this Holdfast, scraping twice a second."""
    shipped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    token = folder / "viewer-token"
    token.write_text(VIEWER)
    shipped["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    shipped["rule_files"] = [str(ROOT / "deploy" / "prometheus" / "rules.yml")]
    (job,) = shipped["scrape_configs"]
    job["authorization"]["credentials_file"] = str(token)
    job["static_configs"][0]["targets"] = [str(holdfast.doors.admin)]
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(shipped))
    return config


@pytest_asyncio.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    """Holdfast with two gateways that fail, and the shipped Prometheus configuration."""
    faulty = SimulatedGateway(FaultPlan(seed=3, interruptions=0.3))
    tokens = {"HOLDFAST_VIEWER_TOKEN": VIEWER, "HOLDFAST_OPERATOR_TOKEN": OPERATOR}
    async with simulated(faulty) as stripe, raw_server(_loses_everything) as plain:
        policy = POLICY.format(stripe=stripe, plain=plain.origin)
        async with (
            running(tmp_path, policy, tokens) as holdfast,
            prometheus(tmp_path, _watching(tmp_path, holdfast)) as watcher,
            aiohttp.ClientSession() as http,
        ):
            yield Watched(holdfast, watcher, http)


def _chosen(expr: str) -> str:
    """A query with everything chosen, as Grafana would send it."""
    for name in ("job", "instance", "gateway", "route"):
        expr = expr.replace(f"${name}", ".+")
    return expr.replace("$__rate_interval", "15s")


async def test_every_query_finds_data(watched: Watched) -> None:
    """No panel stays empty while payments succeed, fail, are declined, repeated and lost."""
    waiting = set(TARGETS)
    for _ in range(40):
        await watched.traffic()
        for target in list(waiting):
            series = await watched.prometheus.query(_chosen(target.expr))
            named = set(re.findall(r"\{\{(\w+)\}\}", target.legend))
            if series and all(named <= set(one.labels) for one in series):
                waiting.discard(target)
        if not waiting:
            break
        await asyncio.sleep(0.25)
    assert waiting == set()


async def test_every_choice_has_something_to_choose(watched: Watched) -> None:
    """The variables list what is there."""
    await watched.traffic()
    seen: dict[str, list[str]] = {}
    wanted = {
        "job": ["holdfast"],
        "instance": [str(watched.holdfast.doors.admin)],
        "gateway": ["none", "plain", "stripe"],
        "route": ["create-payment", "payment", "read"],
    }
    for _ in range(100):
        for variable in VARIABLES[1:]:
            match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
            assert match, variable["query"]
            call = f"label/{match.group(2)}/values"
            seen[variable["name"]] = await watched.prometheus.get(
                call, **{"match[]": _chosen(match.group(1))}
            )
        if seen == wanted:
            break
        await asyncio.sleep(0.1)
    assert seen == wanted


async def test_the_slow_lead_to_a_session(watched: Watched) -> None:
    """An exemplar of the p99 line names an interrupted session that the session API knows."""
    metric = "holdfast_session_seconds_bucket"
    found: list[dict[str, Any]] = []
    for _ in range(40):
        await watched.traffic()
        found = await watched.prometheus.get(
            "query_exemplars", query=metric, start="0", end="9999999999"
        )
        if found:
            break
        await asyncio.sleep(0.25)
    assert found, "no exemplar was stored"
    session = found[0]["exemplars"][0]["labels"]["session_id"]
    url = f"{watched.holdfast.api}/session/{session}"
    bearer = {"Authorization": f"Bearer {OPERATOR}"}
    async with watched.http.get(url, headers=bearer) as answer:
        assert answer.status == 200
        assert (await answer.json())["metadata"]["interruptions"] != []
