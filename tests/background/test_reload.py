"""A changed policy file is taken up, all of it or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.background.reload import Reloader
from proxy.core.events import PolicyRefused, PolicyReloaded
from proxy.settings import load
from proxy.settings.load import ConfigError, Policy, load_policy
from proxy.system import SystemClock
from tests.support.lab import Notes

POLICY = """\
gateways:
  g: {profile: stripe, listen: "127.0.0.1:8080", upstream: "https://gw.example"}
defaults: {retry: {max_attempts: 2}}
"""


class Taken:
    """A reloader of a file, what it took up and what it told."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "policy.yaml"
        self.write(POLICY)
        self.used: list[Policy] = []
        self.notes = Notes()
        policy = load_policy(self.file, {})
        self.reloader = Reloader(policy, self.used.append, self.notes, SystemClock())

    def write(self, text: str) -> None:
        """The file, as it is from now on."""
        self.file.write_text(text)

    async def look(self) -> None:
        """As often as it takes to see that a file rests."""
        await self.reloader.look()
        await self.reloader.look()


@pytest.fixture
def taken(tmp_path: Path) -> Taken:
    """One that has taken up nothing yet."""
    return Taken(tmp_path)


async def test_a_changed_file_is_taken_up(taken: Taken) -> None:
    """Once; as long as nothing changes, nothing happens."""
    await taken.look()
    assert taken.used == []
    taken.write(POLICY.replace("max_attempts: 2", "max_attempts: 4"))
    await taken.look()
    await taken.look()
    (policy,) = taken.used
    retry = policy.settings.gateways["g"].routes.other.retry
    assert retry.max_attempts == 4
    (told,) = taken.notes.of(PolicyReloaded)
    assert told == PolicyReloaded(("defaults.retry.max_attempts: 2 -> 4",))


async def test_a_file_that_is_being_written_is_waited_for(taken: Taken) -> None:
    """What is another at each look may be half of it: it is read once it rests."""
    for text in (POLICY[:20], POLICY[:60], POLICY.replace("attempts: 2", "attempts: 3")):
        taken.write(text)
        await taken.reloader.look()
    assert taken.used == []
    assert taken.notes.of(PolicyRefused) == []
    await taken.reloader.look()
    assert len(taken.used) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gateways: {", "not YAML"),
        (POLICY.replace("max_attempts", "max_atempts"), "did you mean 'max_attempts'?"),
        (POLICY.replace("8080", "8083"), "gateways.g.listen: only a restart changes this"),
        (POLICY.replace("profile:", 'tls: {ca_file: "a\\0b"}, profile:'), "not the name of a file"),
    ],
)
async def test_a_wrong_file_changes_nothing(taken: Taken, text: str, told: str) -> None:
    """Said once, not at every look; who asks for it hears all; and the next good file holds."""
    taken.write(text)
    await taken.look()
    await taken.look()
    (refused,) = taken.notes.of(PolicyRefused)
    assert isinstance(refused, PolicyRefused)
    assert told in refused.why
    with pytest.raises(ConfigError) as error:
        await taken.reloader.reload()
    assert str(error.value) == refused.why
    assert taken.used == []
    taken.write(POLICY.replace("max_attempts: 2", "max_attempts: 5"))
    assert await taken.reloader.reload() == ["defaults.retry.max_attempts: 2 -> 5"]


async def test_files_that_are_replaced_one_by_one_are_read_whole(
    taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the policy is read its profile is replaced: it is read again, and no mixture holds."""
    real, reads = load._read, []

    def read(*told: Any) -> Policy:
        reads.append(real(*told))
        if len(reads) == 1:  # the next version is there, before this one was read to its end
            taken.write(POLICY.replace("attempts: 2", "attempts: 4"))
        return reads[-1]

    monkeypatch.setattr(load, "_read", read)
    taken.write(POLICY.replace("attempts: 2", "attempts: 3"))
    assert await taken.reloader.reload() == ["defaults.retry.max_attempts: 2 -> 4"]
    assert len(reads) == 2


async def test_a_fault_is_told_and_the_next_file_is_read(
    taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong while a file is read, the one after it is taken up."""

    def broken(*_: object) -> Policy:
        message = "nobody thought of this"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(load, "_read", broken)
        taken.write(POLICY.replace("attempts: 2", "attempts: 3"))
        await taken.look()
    (refused,) = taken.notes.of(PolicyRefused)
    assert "nobody thought of this" in str(refused)
    taken.write(POLICY.replace("attempts: 2", "attempts: 4"))
    await taken.look()
    assert len(taken.used) == 1


async def test_to_ask_for_it_needs_no_change(taken: Taken) -> None:
    """The same file again: taken up, nothing changed."""
    assert await taken.reloader.reload() == []
    assert len(taken.used) == 1
