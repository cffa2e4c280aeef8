"""The real clock and dice: their units, their order, and that what must be a secret is one."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxy import system
from proxy.system import SystemClock, SystemDice
from tests.gateways.test_profiles import SHIPPED, shipped


class Moments:
    """Stands in for the `time` module: every reading is the next of these."""

    def __init__(self, *wall: float) -> None:
        self._wall = iter(wall)

    def time_ns(self) -> int:
        """The next moment."""
        return round(next(self._wall) * 1_000_000_000)


# --- the clock ----------------------------------------------------------------------------------


def test_the_wall_clock_counts_whole_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epoch milliseconds, as an integer, and never one that has not come yet."""
    monkeypatch.setattr(system, "time", Moments(1_706_000_000.0, 1_706_000_000.9999))
    clock = SystemClock()
    assert [clock.now_ms(), clock.now_ms()] == [1_706_000_000_000, 1_706_000_000_999]


def test_the_wall_clock_is_the_machines(tmp_path: Path) -> None:
    """A file written between two readings bears a time between them, to a second."""
    clock = SystemClock()
    before = clock.now_ms()
    path = tmp_path / "now"
    path.touch()
    written_ms = path.stat().st_mtime_ns // 1_000_000
    assert before - 1000 <= written_ms <= clock.now_ms() + 1000


def test_durations_do_not_see_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone sets the clock back an hour: the wall clock jumps, durations do not."""
    clock = SystemClock()
    real = system.time.monotonic  # type: ignore[attr-defined]  # the module's own clock
    hour_back = Moments(1_706_003_600.0, 1_706_000_000.0)
    monkeypatch.setattr(system, "time", SimpleNamespace(time_ns=hour_back.time_ns, monotonic=real))
    begun = clock.monotonic()
    assert clock.now_ms() - clock.now_ms() == 3_600_000
    assert clock.monotonic() >= begun


def test_the_monotonic_clock_never_goes_back() -> None:
    """Ten thousand readings, each as late as the one before or later."""
    clock = SystemClock()
    readings = [clock.monotonic() for _ in range(10_000)]
    assert all(earlier <= later for earlier, later in pairwise(readings))


@pytest.mark.looptime
async def test_sleep_takes_seconds() -> None:
    """Ninety is a minute and a half on the event loop's clock, and nothing else waits meanwhile."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    asleep = asyncio.ensure_future(SystemClock().sleep(90))
    await asyncio.sleep(89)
    assert not asleep.done()
    await asleep
    assert loop.time() == begun + 90


# --- the dice -----------------------------------------------------------------------------------


def test_jitter_is_a_share() -> None:
    """From 0 up to but not 1, and spread over all of it: retries must not come back in step."""
    dice = SystemDice()
    rolls = [dice.jitter() for _ in range(10_000)]
    assert all(0.0 <= roll < 1.0 for roll in rolls)
    assert {int(roll * 10) for roll in rolls} == set(range(10))


def test_session_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that began later has the greater id, also where the number gets a digit more."""
    moments = (0.0, 0.001, 0.255, 0.256, 65.535, 65.536, 1_706_000_000.0, 4_102_444_800.0)
    monkeypatch.setattr(system, "time", Moments(*moments))
    dice = SystemDice()
    ids = [dice.session_id() for _ in moments]
    assert ids == sorted(ids)
    assert [int(name[3:15], 16) for name in ids] == [round(at * 1000) for at in moments]


def test_session_ids_cannot_be_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand of one millisecond: 160 random bits each, none twice, every digit in use."""
    monkeypatch.setattr(system, "time", SimpleNamespace(time_ns=lambda: 1_706_000_000_000_000_000))
    dice = SystemDice()
    ids = [dice.session_id() for _ in range(10_000)]
    assert all(re.fullmatch(r"ps_[0-9a-f]{12}[0-9a-f]{40}", name) for name in ids)
    secrets = [name[15:] for name in ids]
    assert len(set(secrets)) == 10_000
    assert all(len(set(place)) == 16 for place in zip(*secrets, strict=True))


def test_gateway_keys_cannot_be_guessed() -> None:
    """128 random bits as hexadecimal digits, none twice."""
    dice = SystemDice()
    keys = [dice.key() for _ in range(10_000)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", key) for key in keys)
    assert len(set(keys)) == 10_000
    assert all(len(set(place)) == 16 for place in zip(*keys, strict=True))


def test_names_do_not_come_from_the_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator of the jitter can be calculated from its output; ids and keys never use it."""
    monkeypatch.setattr(system, "random", None)
    dice = SystemDice()
    assert dice.session_id() != dice.session_id()
    assert dice.key() != dice.key()
    with pytest.raises(AttributeError):
        dice.jitter()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_key_fits_the_gateway(name: str, tmp_path: Path) -> None:
    """Whatever gateway it goes to, a key of ours is not longer than it takes."""
    assert len(SystemDice().key()) <= shipped(name, tmp_path).profile.key.max_length
