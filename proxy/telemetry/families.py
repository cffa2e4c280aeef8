"""The three kinds of metric, as plain numbers by the values of their labels.

Moving one is a look-up and an addition; prometheus_client's own take ten times that, and a payment
moves six. Its families are made of these numbers when somebody looks, and only then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.utils import floatToGoString

Number = TypeVar("Number")


class Metric(dict[tuple[str, ...], Number]):
    """What is counted or measured, by the values of its labels.

    Values are shown from the first time they are named, in that order.
    """

    def __init__(self, name: str, meaning: str, labels: Sequence[str] = ()) -> None:
        super().__init__()
        self.name = name
        self.meaning = meaning
        self.labels = labels


class Counter(Metric[int]):
    """Only ever grows: `counter["stripe", "declined"] += 1`."""

    def __missing__(self, _values: tuple[str, ...]) -> int:
        return 0

    def begin(self, *values: str) -> None:
        """Show it at 0 before it has moved."""
        self.setdefault(values, 0)

    def family(self) -> CounterMetricFamily:
        """As prometheus_client wants it."""
        family = CounterMetricFamily(self.name, self.meaning, labels=self.labels)
        for values, count in self.items():
            family.add_metric([*map(str, values)], count)
        return family


class Gauge(Metric[float]):
    """Goes up and down: `gauge.set(2, "stripe")`."""

    def set(self, number: float, *values: str) -> None:
        """What it is now."""
        self[values] = number

    def family(self) -> GaugeMetricFamily:
        """As prometheus_client wants it."""
        family = GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
        for values, number in self.items():
            family.add_metric([*map(str, values)], number)
        return family


class Buckets:
    """What was measured for one set of labels: how often up to each bound, and all in all."""

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last is for what lies beyond every bound
        self.exemplars: dict[int, Exemplar] = {}
        self.total = 0.0

    def observe(self, size: float) -> None:
        """Add a measurement."""
        self.counts[bisect_left(self._bounds, size)] += 1
        self.total += size

    def name(self, exemplar: Exemplar) -> None:
        """Say whose measurement it was; a bucket keeps the last it was told."""
        self.exemplars[bisect_left(self._bounds, exemplar.value)] = exemplar


class Histogram(Metric[Buckets]):
    """Counts measurements by size: `histogram["stripe", "refund"].observe(0.2)`."""

    def __init__(
        self, name: str, meaning: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        super().__init__(name, meaning, labels)
        self._bounds = tuple(map(float, bounds))
        self._names = (*map(floatToGoString, self._bounds), "+Inf")

    def __missing__(self, values: tuple[str, ...]) -> Buckets:
        buckets = self[values] = Buckets(self._bounds)
        return buckets

    def family(self) -> HistogramMetricFamily:
        """As prometheus_client wants it."""
        family = HistogramMetricFamily(self.name, self.meaning, labels=self.labels)
        for values, buckets in self.items():
            up_to = accumulate(buckets.counts)
            exemplars = map(buckets.exemplars.get, range(len(self._names)))
            shown: list[Any] = [*zip(self._names, up_to, exemplars, strict=True)]
            family.add_metric([*map(str, values)], shown, buckets.total)
        return family
