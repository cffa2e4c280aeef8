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
    """What was, and what is: changed, written for the first time, taken out; profiles as well."""
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


WITH_A_ROUTE = """\
gateways:
  g:
    profile: mine
    listen: 127.0.0.1:8080
    upstream: https://gw.example
    idempotency: {class: D_none}
    routes:
      - {name: pay, match: {methods: [POST], path: /pay}, session: durable, lookup: null}
"""
ANOTHER = "routes:\n      - {name: one, match: {methods: [PUT], path: /}}"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("name: pay", "name: buy", "routes"),  # the same key would be another payment's
        ("durable, lookup: null", "ephemeral", "routes"),  # and go out without its intent
        ("path: /pay", "path: /buy", "routes"),
        ("lookup: null", "order: {json: order}", "routes"),
        ("lookup: null", "keep_request: true", "routes"),
        ("routes:", ANOTHER, "routes"),
        ("{class: D_none}", "{class: A_strong}", "idempotency"),  # not what was sent was promised
        ("{class: D_none}", "{class: D_none, window: 30m}", "idempotency"),
        ("profile: mine", "profile: generic", "profile"),
    ],
)  # fmt: skip
def test_who_a_payment_is_needs_a_restart(
    old: str, new: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeat of what is open or charged would not be recognised, or be sent where it must not."""
    monkeypatch.chdir(tmp_path)
    assert old in WITH_A_ROUTE
    before = policy(tmp_path, WITH_A_ROUTE)
    after = policy(tmp_path, WITH_A_ROUTE.replace(old, new))
    with pytest.raises(ConfigError, match=f"gateways.g.{key}: only a restart changes this"):
        refuse_lasting(before, after)


def test_a_profile_that_says_otherwise_needs_a_restart(tmp_path: Path) -> None:
    """What is known about the gateway is what its payments were sent by."""
    before = policy(tmp_path, POLICY)
    after = policy(tmp_path, POLICY, PROFILE.replace("1h", "2h"))
    with pytest.raises(ConfigError, match=r"gateways\.g\.profile: only a restart changes this"):
        refuse_lasting(before, after)
    refuse_lasting(before, policy(tmp_path, POLICY, PROFILE + "# a word\n"))


def test_how_payments_are_treated_does_not(tmp_path: Path) -> None:
    """Times, tries, limits, sizes, and where they go: a reload is enough."""
    before = policy(tmp_path, POLICY)
    more = (
        'upstream: "https://other.example", timeouts: {total: 9s, attempt: 3s}, '
        "retry: {max_attempts: 5}, budget: {ratio: 0.1}, breaker: {min_calls: 5}, "
        "concurrency: {max_queue: 1}"
    )
    text = POLICY.replace('upstream: "https://gw.example"', more)
    refuse_lasting(before, policy(tmp_path, text + "shutdown: {drain: 1s}\n"))


def test_nor_do_the_limits_of_an_operation(tmp_path: Path) -> None:
    """They are how its payments are treated."""
    before = policy(tmp_path, WITH_A_ROUTE)
    apart = "    operations: {charge: {breaker: {probe: /ping}}}\n    routes:"
    after = policy(tmp_path, WITH_A_ROUTE.replace("    routes:", apart))
    assert before.settings.gateways["g"].limits != after.settings.gateways["g"].limits
    refuse_lasting(before, after)


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
