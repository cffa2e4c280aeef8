"""Programs that are not Python: found on PATH (or beside Python), else the test is skipped and says
so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def found(name: str) -> str | None:
    """Where a program is, if it is anywhere; servers are not on everyone's PATH."""
    beside = Path(sys.executable).parent / name
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    return str(beside) if beside.exists() else shutil.which(name, path=path)


def tool(name: str) -> str:
    """Where a program is; skips the test if it is nowhere."""
    program = found(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return program


def run(
    name: str, *arguments: str | Path, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, from the top of the project; standard error joins the output."""
    return subprocess.run(
        [tool(name), *map(str, arguments)],
        cwd=ROOT,
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
