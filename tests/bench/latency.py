"""What Holdfast adds to each payment's time at a fixed rate, over going to the stub directly."""

from __future__ import annotations

from collections import defaultdict

from tests.bench.load import Tally, at_rate, compare, percentile, prove
from tests.bench.report import Report, Spread, Table, verdict
from tests.bench.sizes import Sizes
from tests.bench.targets import Targets

GOALS = {"p50": 2.0, "p99": 6.0}
_SHARES = {"p50": 0.5, "p99": 0.99}
_WARM_UP_SECONDS = 0.5


async def latency(targets: Targets, sizes: Sizes) -> Report:
    """Each run takes all targets, one after the other, in a different order."""
    stub = targets.stub()
    proxies = (targets.bare(stub.port), targets.holdfast(stub.port))
    ports = {"direct": stub.port, **{target.name: target.port for target in proxies}}
    names = list(ports)
    proofs = [
        await prove(name, port, stub.port, sizes.proof_payments) for name, port in ports.items()
    ]
    tallies: dict[str, list[Tally]] = defaultdict(list)
    for number in range(-1, sizes.runs):
        seconds = sizes.run_seconds if number >= 0 else min(_WARM_UP_SECONDS, sizes.run_seconds)
        at = number % len(names)
        for name in names[at:] + names[:at]:
            tally = (await at_rate(ports[name], sizes.rate, seconds)).checked(name)
            await compare(name, tally.sent, stub.port)
            if number >= 0:
                tallies[name].append(tally)
    return _report(sizes, tallies, proofs)


def _report(sizes: Sizes, tallies: dict[str, list[Tally]], proofs: list[str]) -> Report:
    table = Table(("ms", "p50", "p99", "added p50 (best)", "added p99 (best)", "reached/s"))
    figures: dict[str, dict[str, Spread]] = {}
    for name, runs in tallies.items():
        at = {p: [percentile(t.latencies, s) * 1000 for t in runs] for p, s in _SHARES.items()}
        straight = {
            p: [percentile(t.latencies, s) * 1000 for t in tallies["direct"]]
            for p, s in _SHARES.items()
        }
        figures[name] = {p: Spread.of(values) for p, values in at.items()}
        figures[name] |= {
            f"added_{p}": Spread.of([a - b for a, b in zip(at[p], straight[p], strict=True)])
            for p in _SHARES
        }
        p50, p99, *added = figures[name].values()
        figures[name]["reached"] = reached = Spread.of([tally.rate for tally in runs])
        shown = [f"{a.median:.2f} ({a.least:.2f})" if name != "direct" else "" for a in added]
        table.rows.append(
            (name, f"{p50.median:.2f}", f"{p99.median:.2f}", *shown, f"{reached.median:.0f}")
        )
    lags = [lag * 1000 for runs in tallies.values() for tally in runs for lag in tally.lags]
    lag = {"p50": percentile(lags, 0.5), "p99": percentile(lags, 0.99), "most": max(lags)}
    ours = figures["holdfast"]
    return Report(
        f"latency: open loop at {sizes.rate:g}/s, {sizes.runs} runs of {sizes.run_seconds:g} s",
        {"targets": figures, "generator_lag_ms": lag, "proofs": proofs},
        [table],
        [
            *(
                verdict(
                    met=ours[f"added_{p}"].least <= most,
                    goal=f"goal: {p} added by holdfast at most {most:g} ms in the best run",
                )
                for p, most in GOALS.items()
            ),
            "medians of the runs; latencies of who fell behind the rate are its backlog",
            "the generator's own lag, ms, part of every latency above: "
            + ", ".join(f"{of} {value:.2f}" for of, value in lag.items()),
            *proofs,
        ],
    )
