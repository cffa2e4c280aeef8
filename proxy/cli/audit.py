"""`holdfast audit`."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from proxy.audit import BrokenChain, links


def verify(options: argparse.Namespace) -> int:
    """Say how far the chain goes, or where it is broken."""
    count, first, last = 0, None, None
    try:
        for link in links(options.file):
            first, last, count = first or link, link, count + 1
    except BrokenChain as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot read {options.file}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"entries  {count}")
    if first is not None and last is not None:
        print(f"first    {_time(first.at)}")
        print(f"last     {_time(last.at)}")
        print(f"head     {last.hash}")
    return 0


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
