"""`./dev campaign …`: the long runs. A slice of each is part of `./dev test`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from proxy.core.profile import GatewayClass  # after the path is set
from tests.campaigns.apart import store_apart, why_not
from tests.campaigns.everything import run_all
from tests.campaigns.failover import Control as Weakened
from tests.campaigns.failover import Failovers, failover_campaign
from tests.campaigns.kill import kill_campaign
from tests.campaigns.model import ALL, ALONE, TWO, search
from tests.campaigns.mutants import MUTANTS, RARE, Killed, hunt, table
from tests.campaigns.pairs import PAIRS
from tests.campaigns.partition import partition_campaign
from tests.campaigns.pause import CONTROL, pause_campaign
from tests.campaigns.places import PLACES
from tests.campaigns.powerloss import Control, powerloss
from tests.campaigns.rolling import LEASE, rolling_campaign
from tests.campaigns.sim.plan import plan_of
from tests.campaigns.sim.shrink import shrink
from tests.campaigns.simulate import play, simulate
from tests.campaigns.storm import LIMIT, OPEN_FOR, storm_campaign


def main() -> int:
    """Run a campaign; 0 if every promise was kept."""
    options = parser().parse_args()
    begun = time.monotonic()
    clean = _CAMPAIGNS[options.campaign](options)
    print(f"{'seconds':<40}{time.monotonic() - begun:>8.0f}")
    return 0 if clean else 1


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    known = argparse.ArgumentParser(prog="./dev campaign", description=__doc__)
    campaigns = known.add_subparsers(dest="campaign", required=True)
    _failover_options(campaigns.add_parser("failover", help="a standby takes over, under load"))
    every = campaigns.add_parser("all", help="every one of these, and a table of what they came to")
    every.add_argument("--quick", action="store_true", help="a few of each, in some minutes")
    _kill_options(campaigns.add_parser("kill", help="kill -9 under load"))
    _partition_options(campaigns.add_parser("partition", help="replicas cut off from their store"))
    model = campaigns.add_parser("model", help="every sequence of events, over the pure core")
    wide = "how far to go in each scope, if it does not end before; default: %(default)s"
    model.add_argument("--states", type=int, default=3_000_000, help=wide)
    _pause_options(campaigns.add_parser("pause", help="SIGSTOP past the lease, under load"))
    power = campaigns.add_parser(
        "powerloss", help="the power goes, and what was not synced with it"
    )
    power.add_argument("--losses", type=int, default=2000, help="default: %(default)s")
    power.add_argument("--seed", type=int, default=1, help="the first; default: %(default)s")
    without = "without what the store stands on: then it must lose"
    power.add_argument("--control", action="store_true", help=without)
    rolling = campaigns.add_parser("rolling", help="every replica replaced, under load")
    rolling.add_argument("--updates", type=int, default=25, help="default: %(default)s")
    rolling.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    simulation = campaigns.add_parser("simulate", help="the real flow on virtual time, by seeds")
    simulation.add_argument("--seed", type=int, help="play this one and print what happens")
    simulation.add_argument("--shrink", action="store_true", help="and make it smaller before")
    simulation.add_argument("--seeds", type=int, default=20_000, help="default: %(default)s")
    simulation.add_argument("--first", type=int, default=0, help="default: %(default)s")
    outage = campaigns.add_parser("storm", help="a gateway that fails altogether, under load")
    outage.add_argument("--rate", type=int, default=200, help="payments a second; %(default)s")
    outage.add_argument("--down", type=float, default=30.0, help="seconds; default: %(default)s")
    teeth = campaigns.add_parser("mutants", help="protections taken out, and who notices")
    teeth.add_argument("--seeds", type=int, default=20_000, help="for each; default: %(default)s")
    return known


def _kill_options(kill: argparse.ArgumentParser) -> None:
    kill.add_argument("--store", choices=PLACES, default="sqlite", help="default: %(default)s")
    kill.add_argument("--kills", type=int, default=500, help="default: %(default)s")
    kill.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    named = "every second kill at a named point of a payment, the others at random moments"
    kill.add_argument("--points", action="store_true", help=named)


def _kill(options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="holdfast-campaign-") as folder:
        findings = uvloop.run(
            kill_campaign(
                Path(folder),
                kills=options.kills,
                seed=options.seed,
                store=options.store,
                points=options.points,
                say=print,
            )
        )
    print(f"{'store':<40}{options.store:>8}", f"{'seed':<40}{options.seed:>8}", sep="\n")
    print(findings.table())
    return findings.clean


def _failover_options(failover: argparse.ArgumentParser) -> None:
    failover.add_argument("--store", choices=PAIRS, default="postgresql", help="%(default)s")
    failover.add_argument("--failovers", type=int, default=200, help="default: %(default)s")
    failover.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    behind = "with a standby that is behind: then it must lose, and without its guard charge twice"
    failover.add_argument("--control", action="store_true", help=behind)


def _failover(options: argparse.Namespace) -> bool:
    as_it_should = True
    print(f"{'store':<40}{options.store:>8}", f"{'seed':<40}{options.seed:>8}", sep="\n")
    for control in Weakened if options.control else (None,):
        findings = _failed_over(options, control)
        print(control or "a standby that has everything", findings.table(), sep="\n")
        if control is None:
            as_it_should = findings.clean
        elif control is Weakened.BEHIND:
            noticed = findings.noticed == findings.failovers
            as_it_should = noticed and bool(findings.acknowledged_but_lost)
        else:
            as_it_should = as_it_should and bool(findings.charged_twice)
    return as_it_should


def _failed_over(options: argparse.Namespace, control: Weakened | None) -> Failovers:
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-campaign-") as folder,
        PAIRS[options.store](synchronous=control is None) as pair,
    ):
        return asyncio.run(
            failover_campaign(
                Path(folder),
                pair,
                failovers=options.failovers,
                seed=options.seed,
                control=control,
                say=print,
            )
        )


def _partition_options(partition: argparse.ArgumentParser) -> None:
    partition.add_argument("--cuts", type=int, default=200, help="default: %(default)s")
    partition.add_argument("--seed", type=int, default=1, help="default: %(default)s")


def _partition(options: argparse.Namespace) -> bool:
    reason = why_not()
    if reason is not None:
        print(f"skipped: {reason}")
        return True
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-campaign-") as folder,
        store_apart(2) as apart,
    ):
        findings = asyncio.run(
            partition_campaign(Path(folder), apart, cuts=options.cuts, seed=options.seed, say=print)
        )
    print(f"{'seed':<40}{options.seed:>8}", findings.table(), sep="\n")
    return findings.clean


def _model(options: argparse.Namespace) -> bool:
    clean = True
    for gateway_class in (
        GatewayClass.D_NONE,
        GatewayClass.B_LOOKUP,
        GatewayClass.C_CANCEL_BY_KEY,
        GatewayClass.A_STRONG,
    ):
        for scope in (ALONE, TWO, ALL):
            print(f"{gateway_class}, {scope}")
            findings = search(gateway_class, scope, options.states, print)
            ended = "all there are" if findings.complete else f"all up to {findings.depth} events"
            print(f"{f'distinct states ({ended})':<40}{findings.states:>8}")
            print(f"{'violations':<40}{len(findings.violations):>8}")
            for violation in findings.violations:
                print(violation.name, violation.what, *findings.trace, sep="\n  ")
            clean = clean and not findings.violations
    return clean


def _pause_options(pause: argparse.ArgumentParser) -> None:
    pause.add_argument("--pauses", type=int, default=200, help="default: %(default)s")
    pause.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    sends = "with a take-over that sends again: then it must charge twice"
    pause.add_argument("--control", action="store_true", help=sends)


def _pause(options: argparse.Namespace) -> bool:
    control = CONTROL if options.control else None
    with tempfile.TemporaryDirectory(prefix="holdfast-campaign-") as folder:
        running = pause_campaign(
            Path(folder), pauses=options.pauses, seed=options.seed, control=control, say=print
        )
        findings = asyncio.run(running)
    print(f"{'seed':<40}{options.seed:>8}", findings.table(), sep="\n")
    return bool(findings.charged_twice) if options.control else findings.clean


def _powerloss(options: argparse.Namespace) -> bool:
    as_it_should = True
    for control in Control if options.control else (None,):
        findings = powerloss(options.losses, options.seed, control, print)
        print(control or "synchronous = FULL", findings.table(), sep="\n")
        if control is not None:
            as_it_should = as_it_should and findings.lossy > 0
            continue
        for seed, violations in findings.violations.items():
            print(f"seed {seed}: {violations[0].name} {violations[0].what}")
        as_it_should = not findings.violations
    return as_it_should


def _rolling(options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="holdfast-campaign-") as folder:
        running = rolling_campaign(
            Path(folder), updates=options.updates, seed=options.seed, say=print
        )
        findings = asyncio.run(running)
    print(f"{'seed':<40}{options.seed:>8}", findings.table(), sep="\n")
    refused = findings.longest_refused
    print(refused.order, *refused.tries, sep="\n  ")
    return findings.clean and refused.seconds <= LEASE


def _simulate(options: argparse.Namespace) -> bool:
    if options.seed is not None:
        return _replay(options.seed, smaller=options.shrink)
    seeds = range(options.first, options.first + options.seeds)
    found = simulate(seeds, partial(print, flush=True))
    print(f"{'seeds':<40}{options.seeds:>8}")
    print(f"{'seeds with violations':<40}{len(found):>8}")
    return not found


def _replay(seed: int, *, smaller: bool) -> bool:
    plan = plan_of(seed)
    if smaller and (violations := play(plan)):
        name = violations[0].name
        plan = shrink(plan, lambda less: any(v.name == name for v in play(less)))
    print(plan)
    violations = play(plan, print)
    for name, what in violations:
        print(f"{name} {what}")
    return not violations


def _storm(options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="holdfast-campaign-") as folder:
        running = storm_campaign(Path(folder), rate=options.rate, down=options.down, say=print)
        shipped, bare = asyncio.run(running)
    counts = [*shipped.ledger.values(), *bare.ledger.values()]
    twice = sum(count > 1 for count in counts)
    offered = len(shipped.offered) + len(bare.offered)
    print(f"{'payments':<40}{offered:>8}", f"{'charged twice':<40}{twice:>8}", sep="\n")
    kept = shipped.worst <= LIMIT and shipped.recovery <= OPEN_FOR + 2
    return kept and bare.worst > LIMIT and twice == 0


def _mutants(options: argparse.Namespace) -> bool:
    killed: dict[str, Killed | None] = {}
    for name in MUTANTS:
        first = RARE.get(name, 0)
        killed[name] = hunt(name, range(first, first + options.seeds))
        print(table({name: killed[name]}))
    alive = [name for name, how in killed.items() if how is None]
    print(f"{'mutants':<40}{len(killed):>8}")
    print(f"{'alive':<40}{len(alive):>8}")
    return not alive


def _all(options: argparse.Namespace) -> bool:
    return run_all(quick=options.quick, say=partial(print, flush=True))


_CAMPAIGNS = {
    "all": _all,
    "failover": _failover,
    "kill": _kill,
    "model": _model,
    "mutants": _mutants,
    "partition": _partition,
    "pause": _pause,
    "powerloss": _powerloss,
    "rolling": _rolling,
    "simulate": _simulate,
    "storm": _storm,
}


if __name__ == "__main__":
    raise SystemExit(main())
