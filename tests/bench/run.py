"""`./dev bench [NAME …]`: speed, next to a bare aiohttp pass-through in the same minute."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import selectors
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.bench.large import large  # after the path is set
from tests.bench.latency import latency
from tests.bench.load import WrongAnswers
from tests.bench.memory import memory
from tests.bench.report import Report
from tests.bench.sizes import QUICK, Sizes
from tests.bench.start import start
from tests.bench.steps import steps
from tests.bench.stores import stores
from tests.bench.targets import Targets
from tests.bench.throughput import throughput


def fast_loop() -> asyncio.AbstractEventLoop:
    """The loop that leaves most of its CPU to the stub."""
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def exact_loop() -> asyncio.AbstractEventLoop:
    """A loop that does not sleep in whole milliseconds, as those on epoll do."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


Bench = Callable[[Targets, Sizes], Coroutine[Any, Any, Report]]
BENCHES: dict[str, tuple[Bench, Callable[[], asyncio.AbstractEventLoop]]] = {
    "throughput": (throughput, fast_loop),
    "latency": (latency, exact_loop),
    "steps": (steps, fast_loop),
    "memory": (memory, fast_loop),
    "start": (start, fast_loop),
    "large": (large, fast_loop),
    "stores": (stores, fast_loop),
}
# Filling a store with a million sessions takes longer than all the others together; servers of
# their own are not everywhere.
_ONLY_BY_NAME = {"large", "stores"}
_LONGEST_SECONDS, _LONGEST_BY_NAME_SECONDS = 235, 2400
_FSYNCS = 50


def main() -> int:
    """Run what is asked for; 0 if everything could be measured."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, too")
    parser.add_argument(
        "--quick", action="store_true", help="only see that it runs; the figures mean nothing"
    )
    options = parser.parse_args()
    names = options.names or [name for name in BENCHES if name not in _ONLY_BY_NAME]
    if unknown := set(names) - set(BENCHES):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _stop)
    signal.alarm(_LONGEST_SECONDS if _ONLY_BY_NAME.isdisjoint(names) else _LONGEST_BY_NAME_SECONDS)
    try:
        figures = _run(names, QUICK if options.quick else Sizes())
    except (WrongAnswers, RuntimeError, TimeoutError) as error:
        print(f"NOT MEASURED: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _stop(number: int, _frame: object) -> NoReturn:
    if number == signal.SIGALRM:
        print("NOT MEASURED: not done in time", file=sys.stderr)
    sys.exit(128 + number)


def _run(names: list[str], sizes: Sizes) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    # Not below /tmp, which may be memory: an fsync there costs nothing, and proves nothing.
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir="/var/tmp") as folder:
        for name in names:
            bench, loop = BENCHES[name]
            with Targets(Path(folder)) as targets:
                if not figures:
                    figures["machine"] = machine = _machine(Path(folder), targets.cpus)
                    print("\n".join(machine.values()), flush=True)
                with asyncio.Runner(loop_factory=loop) as runner:
                    report = runner.run(bench(targets, sizes))
            print(f"\n{report}", flush=True)
            figures[name] = report.plain()
    return figures


def _machine(folder: Path, cpus: str) -> dict[str, str]:
    libraries = [f"{n} {importlib.metadata.version(n)}" for n in ("aiohttp", "uvloop", "apsw")]
    versions = ", ".join([f"Python {platform.python_version()}", *libraries])
    return {
        "versions": versions,
        "cpus": cpus,
        "disk": f"fsync of 4 KiB: {_fsync_ms(folder):.2f} ms",
    }


def _fsync_ms(folder: Path) -> float:
    """The median of some, where the store will be."""
    taken = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            begun = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken)


if __name__ == "__main__":
    raise SystemExit(main())
