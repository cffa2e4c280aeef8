"""Holdfast's own numbers: they are shown byte for byte as prometheus_client shows its own."""

from __future__ import annotations

from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, disable_created_metrics, exposition, openmetrics
from prometheus_client.core import Exemplar, Metric
from prometheus_client.registry import Collector

from proxy.core.states import Outcome
from proxy.telemetry.families import Counter, Gauge, Histogram

NAMES = st.tuples(
    st.sampled_from(["stripe", 'a "quoted"\\name', "two\nlines", ""]),
    st.sampled_from([*Outcome, "other"]),
)
BOUNDS = (0.0005, 0.25, 1, 2.5, 60)
SIZES = st.one_of(st.sampled_from([0, *BOUNDS, 61]), st.floats(0, 100))
LABELS = ("gateway", "outcome")
ENCODERS: list[Any] = [exposition.generate_latest, openmetrics.exposition.generate_latest]


class Ours(Collector):
    """A collector of one metric, as `Metrics` is one of all."""

    def __init__(self, metric: Counter | Gauge | Histogram) -> None:
        self.metric = metric

    def collect(self) -> list[Metric]:
        """Its family."""
        return [self.metric.family()]


def shown(collector: Collector, encode: Any) -> str:
    """What a scraper gets."""
    registry = CollectorRegistry()
    registry.register(collector)
    text: bytes = encode(registry)
    return text.decode()


def theirs(kind: Any, *arguments: Any, **more: Any) -> Any:
    """One of prometheus_client's own."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    return kind("holdfast_things", "What it is.", *arguments, registry=None, **more)


@pytest.mark.parametrize("encode", ENCODERS)
@given(moves=st.lists(st.tuples(NAMES, st.booleans())))
def test_a_counter(encode: Any, moves: list[tuple[tuple[str, str], bool]]) -> None:
    """Named or moved, in any order and by any names."""
    ours, wanted = (
        Counter("holdfast_things", "What it is.", LABELS),
        theirs(prometheus_client.Counter, LABELS),
    )
    for names, moved in moves:
        child = wanted.labels(*names)
        ours.begin(*names)
        if moved:
            child.inc()
            ours[names] += 1
    assert shown(Ours(ours), encode) == shown(wanted, encode)


@pytest.mark.parametrize("encode", ENCODERS)
@given(moves=st.lists(st.tuples(NAMES, st.one_of(st.integers(0, 9), st.floats(), st.booleans()))))
def test_a_gauge(encode: Any, moves: list[tuple[tuple[str, str], float]]) -> None:
    """Whatever it is set to."""
    ours, wanted = (
        Gauge("holdfast_things", "What it is.", LABELS),
        theirs(prometheus_client.Gauge, LABELS),
    )
    for names, number in moves:
        wanted.labels(*names).set(number)
        ours.set(number, *names)
    assert shown(Ours(ours), encode) == shown(wanted, encode)


@pytest.mark.parametrize("encode", ENCODERS)
def test_a_gauge_without_labels(encode: Any) -> None:
    """One number, without braces."""
    ours, wanted = Gauge("holdfast_things", "What it is."), theirs(prometheus_client.Gauge)
    ours.set(1)
    wanted.set(1)
    assert shown(Ours(ours), encode) == shown(wanted, encode)


@pytest.mark.parametrize("encode", ENCODERS)
@given(moves=st.lists(st.tuples(NAMES, SIZES, st.booleans())))
def test_a_histogram(encode: Any, moves: list[tuple[tuple[str, str], float, bool]]) -> None:
    """At a bound, between two and beyond all; a bucket shows the last exemplar it was given."""
    ours = Histogram("holdfast_things", "What it is.", LABELS, BOUNDS)
    wanted = theirs(prometheus_client.Histogram, LABELS, buckets=BOUNDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prometheus_client.metrics.time.time", lambda: 1.5)
        for names, size, named in moves:
            case = {"session_id": "ps_1"} if named else None
            wanted.labels(*names).observe(size, case)
            ours[names].observe(size)
            if case is not None:
                ours[names].name(Exemplar(case, size, 1.5))
    assert shown(Ours(ours), encode) == shown(wanted, encode)
