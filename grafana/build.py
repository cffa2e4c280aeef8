"""Writes `holdfast.json`, the Grafana dashboard: `./dev run python grafana/build.py`.

The JSON is what is shipped and provisioned; this file is where it is changed. A test compares the
two, and runs every query below against a real Prometheus.

The first row is for three in the morning and answers three questions: are shoppers hurt, is money
at risk, is Holdfast itself fine. The rows below say where it comes from.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

with warnings.catch_warnings():
    # The SDK would rather have dashboards of version 2, which only the newest Grafana reads.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import (
        common,
        dashboard,
        prometheus,
        stat,
        statetimeline,
        timeseries,
    )
    from grafana_foundation_sdk.models import common as kinds
    from grafana_foundation_sdk.models import dashboard as models

TARGET = Path(__file__).parent / "holdfast.json"
DATASOURCE = kinds.DataSourceRef(type_val="prometheus", uid="${datasource}")

# What a query is about. Instances have no gateway, gateways no route.
INSTANCE = 'job=~"$job",instance=~"$instance"'
GATEWAY = f'{INSTANCE},gateway=~"$gateway"'
ROUTE = f'{GATEWAY},route=~"$route"'
# The routes no policy names: they move no money, and there may be many times more of them.
PAYMENT = f'{ROUTE},route!~"read|other"'
RATE = "[$__rate_interval]"

ASKED = f"sum(rate(holdfast_session_seconds_count{{{PAYMENT}}}{RATE}))"
PAID = f'sum(rate(holdfast_sessions_total{{{PAYMENT},state="COMPLETED"}}{RATE}))'
RECOVERED = f"sum(rate(holdfast_sessions_recovered_total{{{PAYMENT}}}{RATE}))"
NOT_WANTED = f'sum(rate(holdfast_sessions_total{{{PAYMENT},state=~"DECLINED|CANCELLED"}}{RATE}))'
ANSWERED = (
    f'sum(rate(holdfast_sessions_total{{{PAYMENT},state=~"COMPLETED|DECLINED|CANCELLED"}}{RATE}))'
)
OWN_FAULT = "store-unavailable|shutting-down|internal-error"

GREEN, YELLOW, RED = "green", "yellow", "red"
BREAKER = {"0": ("closed", GREEN), "1": ("half-open", YELLOW), "2": ("refusing", RED)}
READY = {"0": ("not ready", RED), "1": ("ready", GREEN)}

Panel = stat.Panel | timeseries.Panel | statetimeline.Panel
Steps = Sequence[tuple[float | None, str]]
Words = dict[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and what its series are called."""

    expr: str
    legend: str
    exemplars: bool = False


def quantile(share: float, metric: str, labels: str, by: str = "") -> str:
    """A quantile of a histogram over the rate interval."""
    return f"histogram_quantile({share}, sum by ({by}le) (rate({metric}_bucket{{{labels}}}{RATE})))"


def target(query: Query, letter: str) -> prometheus.Dataquery:
    """A query as a panel holds it."""
    built = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter)
    return built.datasource(DATASOURCE).range().exemplar(query.exemplars)


def mappings(words: Words) -> list[models.ValueMapping]:
    """Numbers that stand for words."""
    if not words:
        return []
    results = {
        number: models.ValueMappingResult(text=text, color=color)
        for number, (text, color) in words.items()
    }
    return [models.ValueMap(options=results)]


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    """Colours by value; the first step begins at nothing."""
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )


def number(  # noqa: PLR0913 -- what a stat panel is made of
    title: str,
    text: str,
    expr: str,
    *,
    unit: str,
    steps: Steps,
    words: Words | None = None,
    empty: str = "no data",
) -> Panel:
    """One big number, an eighth of the width."""
    panel = (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(DATASOURCE)
        .with_target(target(Query(expr, title), "A"))
        .unit(unit)
        .thresholds(thresholds(steps))
        .mappings(mappings(words or {}))
        .no_value(empty)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(kinds.BigValueColorMode.BACKGROUND)
        .graph_mode(kinds.BigValueGraphMode.AREA)
    )
    return panel.span(3).height(5)


def lines(
    title: str,
    text: str,
    *queries: Query,
    unit: str,
    stacked: bool = False,
    top: float | None = None,
    span: int = 8,
) -> Panel:
    """Lines over time, or areas on top of each other."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(DATASOURCE)
        .targets([target(query, "ABCDEFG"[place]) for place, query in enumerate(queries)])
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(kinds.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(kinds.TooltipDisplayMode.MULTI)
            .sort(kinds.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    if top is not None:
        panel = panel.max(top)
    return panel.span(span).height(8)


def states(title: str, text: str, query: Query, words: Words, span: int = 8) -> Panel:
    """What something was when."""
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(text)
        .datasource(DATASOURCE)
        .with_target(target(query, "A"))
        .unit("none")
        .mappings(mappings(words))
        .thresholds(thresholds([(None, "text")]))
        .show_value(kinds.VisibilityMode.NEVER)
    )
    return panel.span(span).height(8)


def rate_by(label: str, metric: str, labels: str) -> Query:
    """A counter's rate, split by one of its labels."""
    return Query(f"sum by ({label}) (rate({metric}{{{labels}}}{RATE}))", f"{{{{{label}}}}}")


ROWS: dict[str, list[Panel]] = {
    "Shoppers, money, Holdfast itself": [
        number(
            "Payments answered",
            "Are shoppers hurt? The share of payment requests that got the gateway's definite "
            "answer: paid, declined or cancelled. The rest were lost on the way, given up, or are "
            "still open. The objective is 99.5 %. Runbook: HoldfastPaymentsFailing.",
            f"clamp_max({ANSWERED} / ({ASKED} > 0), 1)",
            unit="percentunit",
            steps=[(None, RED), (0.97, YELLOW), (0.995, GREEN)],
            empty="no traffic",
        ),
        number(
            "Turned away by Holdfast",
            "Are shoppers hurt? Requests that Holdfast itself refused: its store takes no writes, "
            "it is stopping, or it failed. Runbook: HoldfastNotReady.",
            f'sum(rate(holdfast_refusals_total{{{GATEWAY},code=~"{OWN_FAULT}"}}{RATE})) '
            "or vector(0)",
            unit="reqps",
            steps=[(None, GREEN), (0.001, RED)],
        ),
        number(
            "Unknown outcomes",
            "Is money at risk? Payments that were sent, whose answer was lost, and that nobody is "
            "working on right now: each customer may or may not have been charged. A few that "
            "settle within minutes are Holdfast at work. Runbook: HoldfastUnknownOutcomes.",
            f"sum(holdfast_unknown_outcomes{{{GATEWAY}}})",
            unit="short",
            steps=[(None, GREEN), (1, YELLOW), (20, RED)],
        ),
        number(
            "Oldest unknown outcome",
            "Is money at risk? How long the oldest unknown outcome has been open. What is older "
            "than 15 minutes is not settling by itself. Runbook: HoldfastUnknownOutcomes.",
            f"max(holdfast_unknown_outcome_oldest_seconds{{{GATEWAY}}})",
            unit="s",
            steps=[(None, GREEN), (120, YELLOW), (900, RED)],
        ),
        number(
            "Circuit breaker",
            "The worst of the selected gateways. Refusing: too many calls failed or were slow, or "
            "a person opened it, and no payment is sent until probes are answered. Runbook: "
            "HoldfastBreakerOpen.",
            f"max(holdfast_breaker_state{{{GATEWAY}}})",
            unit="none",
            steps=[(None, "text")],
            words=BREAKER,
        ),
        number(
            "Holdfast ready",
            "Is Holdfast itself fine? The worst of the selected instances: whether it takes "
            "payments. Not ready means that its store takes no writes or that it is stopping. "
            "Runbooks: HoldfastNotReady, HoldfastDown.",
            f"min(holdfast_ready{{{INSTANCE}}})",
            unit="none",
            steps=[(None, "text")],
            words=READY,
            empty="nobody",
        ),
        number(
            "Added by Holdfast (p99)",
            "Is Holdfast itself fine? Time spent in Holdfast itself, neither at the gateway nor "
            "waiting to retry; the commits to its store are part of it.",
            quantile(0.99, "holdfast_overhead_seconds", ROUTE),
            unit="s",
            steps=[(None, GREEN), (0.025, YELLOW), (0.1, RED)],
            empty="no traffic",
        ),
        number(
            "Store commit (p99)",
            "Is Holdfast itself fine? How long a commit takes until it would survive a power cut. "
            "Every payment waits for at least two. Runbook: HoldfastStoreSlow.",
            quantile(0.99, "holdfast_store_seconds", f'{INSTANCE},operation="commit"'),
            unit="s",
            steps=[(None, GREEN), (0.05, YELLOW), (0.1, RED)],
            empty="no traffic",
        ),
    ],
    "Shoppers": [
        lines(
            "Success rate, with and without recovery",
            "The share of payment requests that end paid or accepted, declines and cancellations "
            "left out. Without recovery: had every payment failed at its first interruption. What "
            "lies between the two lines is what Holdfast saved.",
            Query(
                f"clamp({PAID} / (({ASKED} - {NOT_WANTED}) > 0), 0, 1)",
                "with recovery",
            ),
            Query(
                f"clamp(({PAID} - {RECOVERED}) / (({ASKED} - {NOT_WANTED}) > 0), 0, 1)",
                "without recovery",
            ),
            unit="percentunit",
            top=1,
        ),
        lines(
            "Sessions by how they ended",
            "Sessions that came to an end, by state and by what is known of the money. "
            "FAILED_MAX_RETRIES with outcome unknown stays listed until it is settled.",
            Query(
                f"sum by (state, outcome) (rate(holdfast_sessions_total{{{ROUTE}}}{RATE}))",
                "{{state}}, {{outcome}}",
            ),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Active sessions by state",
            "Sessions that can still go on. INITIATED: on the way for the first time, or created "
            "ahead of its request. INTERRUPTED: stopped without a definite answer, and waiting for "
            "a retry, a look-up, the client or a person. RESUMED: going on.",
            Query(f"sum by (state) (holdfast_sessions_active{{{GATEWAY}}})", "{{state}}"),
            unit="short",
            stacked=True,
        ),
        lines(
            "Requests by route",
            "Requests that were brought forward, by the route of the policy. Duplicates that only "
            "got an earlier answer again are not among them.",
            rate_by("route", "holdfast_session_seconds_count", ROUTE),
            unit="reqps",
            stacked=True,
            span=12,
        ),
        lines(
            "Duplicates by what they got",
            "Requests for a payment that was known already: joined the one in flight, got its "
            "answer again, resumed it, or were refused. Each is a double click, a client that "
            "retries by itself, or a key used twice.",
            rate_by("verdict", "holdfast_duplicates_total", ROUTE),
            unit="reqps",
            stacked=True,
            span=12,
        ),
    ],
    "Money": [
        lines(
            "Unknown outcomes by gateway",
            "Payments nobody is working on of which it is not known whether they were charged.",
            Query(f"sum by (gateway) (holdfast_unknown_outcomes{{{GATEWAY}}})", "{{gateway}}"),
            unit="short",
        ),
        lines(
            "Age of the oldest unknown outcome",
            "A line that climbs steadily is a payment that does not settle by itself: see the "
            "session API, outcome=unknown. A saw-tooth is Holdfast at work.",
            Query(
                f"max by (gateway) (holdfast_unknown_outcome_oldest_seconds{{{GATEWAY}}})",
                "{{gateway}}",
            ),
            unit="s",
        ),
        lines(
            "Contradictions",
            "Payments that turned out to be charged after they had been closed as not charged, or "
            "voided after they had been charged. One is too many. Runbook: HoldfastContradiction.",
            Query(
                f"sum by (gateway) (rate(holdfast_contradictions_total{{{GATEWAY}}}{RATE}))",
                "{{gateway}}",
            ),
            unit="reqps",
        ),
        lines(
            "Payments saved",
            "Payments that succeeded after at least one interruption. Without Holdfast each would "
            "have been a lost order, or a customer charged without the shop knowing.",
            rate_by("gateway", "holdfast_sessions_recovered_total", ROUTE),
            unit="reqps",
        ),
        lines(
            "Webhooks by what came of them",
            "What gateways said by themselves. refused: forged, too old, or no secret is set. "
            "unproved: it proves nothing and the gateway cannot be asked. not_forwarded: the "
            "merchant's endpoint did not take it, and the gateway sends it again.",
            rate_by("verdict", "holdfast_webhooks_total", GATEWAY),
            unit="reqps",
            stacked=True,
        ),
    ],
    "The gateway": [
        lines(
            "Attempts by result",
            "Sends to the gateway. not_sent: the connection never stood. rejected: answered, not "
            "executed. unknown: the answer was lost or says nothing.",
            rate_by("result", "holdfast_attempts_total", ROUTE),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Interruptions by reason",
            "Stops without a definite answer, by what happened.",
            rate_by("reason", "holdfast_interruptions_total", ROUTE),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Interruptions by phase",
            "How far a send had come when it stopped. Before the request was sent nothing can have "
            "been charged; from awaiting_response on it can.",
            rate_by("phase", "holdfast_interruptions_total", ROUTE),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Retries by reason",
            "Repeats that were scheduled, by what made them necessary.",
            rate_by("reason", "holdfast_retries_total", ROUTE),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Suppressed retries by reason",
            "Failed attempts that were not repeated. unsafe_to_repeat: the gateway promises "
            "nothing for a repeated key. budget_spent: too many of all requests fail, and retries "
            "would be a storm.",
            rate_by("reason", "holdfast_retries_suppressed_total", ROUTE),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Retry budget left",
            "Retries each instance would allow right now. At 0 failed attempts are not repeated.",
            Query(
                f"min by (gateway, instance) (holdfast_retry_budget_remaining{{{GATEWAY}}})",
                "{{gateway}}, {{instance}}",
            ),
            unit="short",
        ),
        states(
            "Circuit breaker by instance",
            "closed: normal. half-open: Holdfast asks with reads whether it is back. refusing: no "
            "payment is sent. Each instance has its own.",
            Query(
                f"max by (gateway, instance) (holdfast_breaker_state{{{GATEWAY}}})",
                "{{gateway}}, {{instance}}",
            ),
            BREAKER,
            span=16,
        ),
    ],
    "Latency": [
        lines(
            "From request to answer",
            "What a shopper waits for: retries, waits and the gateway included. The dots are "
            "interrupted payments, by session.",
            Query(quantile(0.5, "holdfast_session_seconds", ROUTE), "p50"),
            Query(quantile(0.95, "holdfast_session_seconds", ROUTE), "p95"),
            Query(quantile(0.99, "holdfast_session_seconds", ROUTE), "p99", exemplars=True),
            unit="s",
        ),
        lines(
            "One attempt",
            "One send to the gateway, its time included. An attempt that is given up counts with "
            "the time-out.",
            Query(quantile(0.5, "holdfast_attempt_seconds", ROUTE), "p50"),
            Query(quantile(0.95, "holdfast_attempt_seconds", ROUTE), "p95"),
            Query(quantile(0.99, "holdfast_attempt_seconds", ROUTE), "p99"),
            unit="s",
        ),
        lines(
            "Added by Holdfast",
            "Time spent in Holdfast itself: neither at the gateway nor waiting to retry. Its "
            "store's commits are part of it.",
            Query(quantile(0.5, "holdfast_overhead_seconds", ROUTE), "p50"),
            Query(quantile(0.99, "holdfast_overhead_seconds", ROUTE), "p99"),
            unit="s",
        ),
    ],
    "Holdfast itself": [
        lines(
            "Store commit",
            "Until a commit would survive a power cut, waiting for earlier ones included.",
            Query(quantile(0.5, "holdfast_store_seconds", f'{INSTANCE},operation="commit"'), "p50"),
            Query(
                quantile(0.99, "holdfast_store_seconds", f'{INSTANCE},operation="commit"'), "p99"
            ),
            unit="s",
        ),
        lines(
            "Store operations",
            "Commits to the disk; many payments share one.",
            rate_by("operation", "holdfast_store_seconds_count", INSTANCE),
            unit="ops",
        ),
        lines(
            "Store has lost writes",
            "1 while the store does not hold all it had acknowledged. "
            "Runbook: HoldfastStoreRegressed.",
            Query(f"max by (instance) (holdfast_store_regressed{{{INSTANCE}}})", "{{instance}}"),
            unit="short",
        ),
        lines(
            "Policy file taken up",
            "0 since the policy file was changed and refused: what held before goes on, and the "
            "log says why. Runbook: HoldfastPolicyRefused.",
            Query(
                f"min by (instance) (holdfast_config_last_reload_successful{{{INSTANCE}}})",
                "{{instance}}",
            ),
            unit="short",
        ),
        lines(
            "Outcomes on the spool",
            "What gateways answered and the store has not taken yet. It is offered every second; "
            "what stays although the store takes writes is in the log.",
            Query(f"max by (instance) (holdfast_spooled_outcomes{{{INSTANCE}}})", "{{instance}}"),
            unit="short",
        ),
        lines(
            "Refusals by code",
            "Requests refused before a session was touched, and callers who waited no longer "
            "(`wait-over`) while theirs went on. What each code means and who has to "
            "change something: docs/problems.md.",
            rate_by("code", "holdfast_refusals_total", GATEWAY),
            unit="reqps",
            stacked=True,
        ),
        states(
            "Ready by instance",
            "Whether each instance takes payments. A gap: it was not there, or not scraped.",
            Query(f"max by (instance) (holdfast_ready{{{INSTANCE}}})", "{{instance}}"),
            READY,
        ),
        lines(
            "Versions",
            "How many instances run which version.",
            Query(f"sum by (version) (holdfast_build_info{{{INSTANCE}}})", "{{version}}"),
            unit="short",
            stacked=True,
            span=16,
        ),
    ],
}


def variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """A choice of label values: all of them, one, or several."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(query)
        .definition(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def build() -> str:
    """The dashboard as JSON."""
    board = (
        dashboard.Dashboard("Holdfast")
        .uid("holdfast")
        .description("Payments through Holdfast: shoppers, money, the gateway, Holdfast itself.")
        .tags(["holdfast", "payments"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Source").type("prometheus")
        )
        .with_variable(variable("job", "Job", "label_values(holdfast_build_info, job)"))
        .with_variable(
            variable(
                "instance", "Instance", 'label_values(holdfast_build_info{job=~"$job"}, instance)'
            )
        )
        .with_variable(
            variable(
                "gateway",
                "Gateway",
                f"label_values(holdfast_sessions_active{{{INSTANCE}}}, gateway)",
            )
        )
        .with_variable(
            variable(
                "route",
                "Route",
                f"label_values(holdfast_session_seconds_count{{{GATEWAY}}}, route)",
            )
        )
    )
    count = 0
    for title, panels in ROWS.items():
        count += 1
        board = board.with_row(dashboard.Row(title).id(count))
        for panel in panels:
            count += 1
            board = board.with_panel(panel.id(count))
    return JSONEncoder(indent=2, sort_keys=True).encode(board.build()) + "\n"


def as_grafana_reads_it(text: str) -> str:
    """The JSON after a trip through Grafana's own model, which drops what it does not know."""
    board = models.Dashboard.from_json(json.loads(text))
    return JSONEncoder(indent=2, sort_keys=True).encode(board) + "\n"


if __name__ == "__main__":
    TARGET.write_text(build(), encoding="utf-8")
    print(f"wrote {TARGET.name}")
