"""Payments per second at saturation, as ratios to the bare pass-through in slices side by side.

Absolutes of a shared machine differ twofold between minutes; two slices one second apart do not.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from operator import attrgetter

from tests.bench.load import Line, closed, compare, open_lines, percentile, prove
from tests.bench.report import Report, Spread, Table, verdict
from tests.bench.sizes import Sizes
from tests.bench.targets import Target, Targets

GOAL = 0.85
_MEASURES = ("rate", "cpu_us", "p50_ms", "p99_ms")
_Pairs = dict[tuple[str, str], list[tuple["Slice", "Slice"]]]


@dataclass(frozen=True, slots=True)
class Slice:
    """One target under full load for a moment."""

    rate: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    generator: float  # the CPU that load and stub used of the one they share


@dataclass(frozen=True, slots=True)
class _Bench:
    sizes: Sizes
    stub: Target
    lines: dict[str, list[Line]]
    slices: dict[str, list[Slice]]

    async def slice(self, target: Target, *, keep: bool = True) -> Slice:
        """Load a target; every payment must be answered, and reach the stub once."""
        own, stub, proxy = time.process_time(), self.stub.cpu_seconds(), target.cpu_seconds()
        begun = time.perf_counter()
        tally = await closed(self.lines[target.name], self.sizes.slice_seconds)
        elapsed = time.perf_counter() - begun
        proxy = target.cpu_seconds() - proxy
        own, stub = time.process_time() - own, self.stub.cpu_seconds() - stub
        tally.checked(target.name)
        await compare(target.name, tally.sent, self.stub.port)
        measured = Slice(
            rate=tally.rate,
            cpu_us=proxy / tally.sent * 1e6,
            p50_ms=percentile(tally.latencies, 0.5) * 1000,
            p99_ms=percentile(tally.latencies, 0.99) * 1000,
            generator=(own + stub) / elapsed,
        )
        if keep:
            self.slices[target.name].append(measured)
        return measured


async def throughput(targets: Targets, sizes: Sizes) -> Report:
    """All targets up at once; in each round every one has a slice of the base beside it."""
    stub = targets.stub()
    base, twin = targets.bare(stub.port), targets.bare(stub.port, uvloop=True)
    ours = targets.holdfast(stub.port)
    every = (base, twin, ours)
    proofs = [await prove(t.name, t.port, stub.port, sizes.proof_payments) for t in every]
    lines = {t.name: await open_lines(t.port, sizes.connections) for t in every}
    bench = _Bench(sizes, stub, lines, defaultdict(list))
    for target in every:
        await bench.slice(target, keep=False)
    pairs: _Pairs = defaultdict(list)
    for number in range(sizes.rounds):
        first, second = (ours, twin) if number % 2 == 0 else (twin, ours)
        before, one = await bench.slice(base), await bench.slice(first)
        two, after = await bench.slice(second), await bench.slice(base)
        pairs[first.name, base.name].append((one, before))
        pairs[second.name, base.name].append((two, after))
        both = (one, two) if first is ours else (two, one)
        pairs[ours.name, twin.name].append(both)
    return _report(sizes, pairs, bench.slices, proofs)


def _report(
    sizes: Sizes, pairs: _Pairs, slices: dict[str, list[Slice]], proofs: list[str]
) -> Report:
    table = Table(("ratio, median (min-max)", "requests/s", "CPU/request", "p50", "p99"))
    ratios = {}
    for (name, base), sides in sorted(pairs.items()):
        found = {m: Spread.of([_ratio(a, b, m) for a, b in sides]) for m in _MEASURES}
        ratios[f"{name} / {base}"] = found
        table.rows.append((f"{name} / {base}", *map(str, found.values())))
    absolute = Table(
        ("absolute, median", "requests/s", "CPU us (best)", "p50 ms", "p99 ms", "gen %")
    )
    absolutes = {}
    for name, taken in slices.items():
        found = {m: Spread.of([attrgetter(m)(s) for s in taken]) for m in (*_MEASURES, "generator")}
        absolutes[name] = found
        rate, cpu, p50, p99, generator = found.values()
        absolute.rows.append(
            (
                name,
                f"{rate.median:.0f}",
                f"{cpu.median:.0f} ({cpu.least:.0f})",
                f"{p50.median:.1f}",
                f"{p99.median:.1f}",
                f"{generator.median * 100:.0f}",
            )
        )
    reached = ratios["holdfast / bare"]["rate"].median
    return Report(
        f"throughput: {sizes.connections} connections, {sizes.rounds} rounds of slices of "
        f"{sizes.slice_seconds:g} s",
        {"ratios": ratios, "absolutes": absolutes, "proofs": proofs},
        [table, absolute],
        [
            verdict(
                met=reached >= GOAL, goal=f"goal: requests/s of holdfast / bare at least {GOAL}"
            ),
            "gen %: of the CPU that load and stub share; near 100, only CPU/request tells",
            "held to account before, and in every slice:",
            *(f"  {proof}" for proof in proofs),
        ],
    )


def _ratio(one: Slice, other: Slice, measure: str) -> float:
    read = attrgetter(measure)
    return float(read(one) / read(other))
