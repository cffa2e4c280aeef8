"""The systemd unit."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

from proxy.settings.load import load
from tests.support.tools import ROOT, run

FOLDER = ROOT / "deploy" / "systemd"
UNIT = (FOLDER / "holdfast.service").read_text(encoding="utf-8")


def _installed(folder: Path, text: str) -> Path:
    """The unit with a `holdfast` that exists: systemd-analyze looks for it."""
    program = Path(sys.executable).parent / "holdfast"
    unit = folder / "holdfast.service"
    unit.write_text(text.replace("/opt/holdfast/bin/holdfast", str(program)))
    return unit


def _option(name: str) -> str:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as it stands there
    parser.read_string(UNIT)
    return parser.get("Service", name)


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    """`systemd-analyze verify` says nothing; it ends with 0 whatever it says."""
    done = run("systemd-analyze", "verify", _installed(tmp_path, UNIT))
    assert (done.returncode, done.stdout) == (0, "")


def test_systemd_would_say_so(tmp_path: Path) -> None:
    """A misspelt key is told, although the exit code is 0."""
    misspelt = UNIT.replace("ProtectSystem=", "ProtectSistem=")
    done = run("systemd-analyze", "verify", _installed(tmp_path, misspelt))
    assert "Unknown key 'ProtectSistem'" in done.stdout


def test_it_may_do_little(tmp_path: Path) -> None:
    """What systemd judges the service to be exposed to, from 0 to 10: at most 1.5."""
    unit = _installed(tmp_path, UNIT)
    done = run("systemd-analyze", "security", "--offline=true", "--threshold=15", unit)
    assert done.returncode == 0, done.stdout


def test_there_is_time_to_drain() -> None:
    """The stop time-out holds the drain, what is written down after it, and the closing."""
    shutdown = load(FOLDER / "holdfast.yaml", {}).shutdown
    needed = shutdown.ready_delay + shutdown.drain + 7
    assert float(_option("TimeoutStopSec").removesuffix("s")) > needed
    assert _option("KillSignal") == "SIGTERM"


def test_the_store_is_in_the_state_folder() -> None:
    """What systemd makes for the service's own user is where the policy keeps the sessions."""
    assert (_option("StateDirectory"), _option("StateDirectoryMode")) == ("holdfast", "0700")
    assert load(FOLDER / "holdfast.yaml", {}).store == "/var/lib/holdfast/holdfast.db"
