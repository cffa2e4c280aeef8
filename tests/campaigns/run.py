"""`./dev campaign …`: the long runs. A slice of each is part of `./dev test`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.campaigns.kill import kill_campaign  # after the path is set
from tests.campaigns.sim.plan import plan_of
from tests.campaigns.simulate import play, simulate


def main() -> int:
    """Run a campaign; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="./dev campaign", description=__doc__)
    campaigns = parser.add_subparsers(dest="campaign", required=True)
    kill = campaigns.add_parser("kill", help="kill -9 at random moments under load")
    kill.add_argument("--kills", type=int, default=500, help="default: %(default)s")
    kill.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    simulation = campaigns.add_parser("simulate", help="the real flow on virtual time, by seeds")
    simulation.add_argument("--seeds", type=int, default=20_000, help="default: %(default)s")
    simulation.add_argument("--seed", type=int, default=0, help="the first; default: %(default)s")
    options = parser.parse_args()
    begun = time.monotonic()
    clean = _kill(options) if options.campaign == "kill" else _simulate(options)
    print(f"{'seconds':<40}{time.monotonic() - begun:>8.0f}")
    return 0 if clean else 1


def _simulate(options: argparse.Namespace) -> bool:
    if options.seeds == 1:
        violations = play(plan_of(options.seed), print)
        for violation in violations:
            print(f"{violation.name} {violation.what}")
        return not violations
    found = simulate(range(options.seed, options.seed + options.seeds), print)
    for seed, violations in found.items():
        print(f"seed {seed}: {violations[0].name} {violations[0].what}")
    print(f"{'seeds':<40}{options.seeds:>8}")
    print(f"{'seeds with violations':<40}{len(found):>8}")
    return not found


def _kill(options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="holdfast-campaign-") as folder:
        findings = asyncio.run(
            kill_campaign(Path(folder), kills=options.kills, seed=options.seed, say=print)
        )
    print(findings.table())
    return findings.clean


if __name__ == "__main__":
    raise SystemExit(main())
