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


def main() -> int:
    """Run a campaign; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(prog="./dev campaign", description=__doc__)
    campaigns = parser.add_subparsers(dest="campaign", required=True)
    kill = campaigns.add_parser("kill", help="kill -9 at random moments under load")
    kill.add_argument("--kills", type=int, default=500, help="default: %(default)s")
    kill.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdfast-campaign-") as folder:
        findings = asyncio.run(
            kill_campaign(Path(folder), kills=options.kills, seed=options.seed, say=print)
        )
    print(findings.table())
    print(f"{'seconds':<40}{time.monotonic() - begun:>8.0f}")
    return 0 if findings.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
