"""What a policy file that was written anew changes, and what only a restart can."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings.changes import changes, refuse_lasting
from proxy.settings.load import ConfigError, Policy, content_hash, load_policy

PROFILE = """\
title: A gateway
idempotency: {class: D_none, window: 1h}
results:
  - {when: {status: [2xx]}, result: succeeded}
"""
POLICY = """\
listen: {admin: "127.0.0.1:8090"}
store: sqlite:///one.db
gateways:
  g: {profile: mine, listen: "127.0.0.1:8080", upstream: "https://gw.example"}
defaults: {timeouts: {total: 20s}, retry: {respect_retry_after: true}}
"""


def policy(
    folder: Path, text: str, profile: str = PROFILE, environ: dict[str, str] | None = None
) -> Policy:
    """A policy as it was written."""
    (folder / "gateways").mkdir(exist_ok=True)
    (folder / "gateways" / "mine.yaml").write_text(profile)
    (folder / "policy.yaml").write_text(text)
    return load_policy(folder / "policy.yaml", environ or {})


def test_every_change_is_a_line(tmp_path: Path) -> None:
    """What was, and what is: changed, written for the first time, and taken out; files as well."""
    before = policy(tmp_path, POLICY)
    text = POLICY.replace("total: 20s", "total: 25s, connect: 1s")
    text = text.replace(", retry: {respect_retry_after: true}", "")
    after = policy(tmp_path, text, PROFILE.replace("1h", "2h"))
    assert changes(before, after) == [
        "defaults.timeouts.total: 20s -> 25s",
        "defaults.retry.respect_retry_after: true -> not written",
        "profile mine.idempotency.window: 1h -> 2h",
        "defaults.timeouts.connect: not written -> 1s",
    ]
    refuse_lasting(before, after)
    assert changes(after, after) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("8090", "8091", "policy.yaml:1:10: listen.admin"),
        ("one.db", "two.db", "policy.yaml:2:1: store"),
        ("8080", "8083", "policy.yaml:4:22: gateways.g.listen"),
        ("  g:", "  h:", "policy.yaml:3:1: gateways.g"),
        ("defaults:", "session: {expires_after: 5m}\ndefaults:", "policy.yaml:5:1: session"),
        ("defaults:", "audit: trail\ndefaults:", "policy.yaml:5:1: audit"),
        ("defaults:", "spool: waiting\ndefaults:", "policy.yaml:5:1: spool"),
        ("defaults:", "key_file: key\ndefaults:", "policy.yaml:5:1: key_file"),
    ],
)
def test_what_is_opened_once_needs_a_restart(
    old: str, new: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doors, store and files, and how long sessions live: refused, with the line."""
    monkeypatch.chdir(tmp_path)
    before = policy(tmp_path, POLICY)
    after = policy(tmp_path, POLICY.replace(old, new))
    with pytest.raises(ConfigError) as refused:
        refuse_lasting(before, after)
    assert f"{told}: only a restart changes this" in str(refused.value).splitlines()


def test_secrets_need_a_restart(tmp_path: Path) -> None:
    """A token or a key that is another by now is not taken up, and that is said."""
    environ = {"HOLDFAST_VIEWER_TOKEN": "v" * 16, "HOLDFAST_KEY": "ab" * 32}
    before = policy(tmp_path, POLICY, environ=environ)
    other = {"HOLDFAST_VIEWER_TOKEN": "w" * 16, "HOLDFAST_KEY": "cd" * 32}
    after = policy(tmp_path, POLICY, environ=other)
    with pytest.raises(ConfigError) as refused:
        refuse_lasting(before, after)
    told = "only a restart changes this"
    assert str(refused.value).splitlines() == [f"HOLDFAST_KEY: {told}", f"a token: {told}"]


def test_what_was_only_said_again_is_no_change_of_it(tmp_path: Path) -> None:
    """A default that is now written out changes nothing, so no restart is asked for."""
    before = policy(tmp_path, POLICY)
    after = policy(tmp_path, POLICY + "session: {expires_after: 15m}\n")
    refuse_lasting(before, after)


def test_the_hash_is_of_what_stands_there(tmp_path: Path) -> None:
    """Policy and profiles: another text is another hash, the same text the same one."""
    policy(tmp_path, POLICY)
    file = tmp_path / "policy.yaml"
    first = content_hash(file)
    policy(tmp_path, POLICY)
    assert content_hash(file) == first
    policy(tmp_path, POLICY, PROFILE + "# a word\n")
    second = content_hash(file)
    file.unlink()
    assert len({first, second, content_hash(file)}) == 3
