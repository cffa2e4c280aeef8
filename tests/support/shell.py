"""The real command line, as a person or a script would run it."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.running import ROOT

_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without anything that is meant for a Holdfast, and `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST")}
    # Where the tests run from must not decide which package is found.
    return kept | {"PYTHONPATH": str(ROOT)} | (more or {})


async def start(
    *arguments: str | Path, environ: dict[str, str] | None = None, folder: Path | None = None
) -> asyncio.subprocess.Process:
    """Start `holdfast` with these arguments; nothing on its standard input."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "proxy",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder or ROOT,
        env=environment(environ),
    )


async def finish(process: asyncio.subprocess.Process) -> Finished:
    """Wait for its end. A traceback is never an answer, whatever the exit code."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Finished(process.returncode, out.decode(), err.decode())


async def holdfast(
    *arguments: str | Path, environ: dict[str, str] | None = None, folder: Path | None = None
) -> Finished:
    """Run `holdfast` with these arguments to its end."""
    return await finish(await start(*arguments, environ=environ, folder=folder))
