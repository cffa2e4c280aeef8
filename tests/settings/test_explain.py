"""What holds for a request, and where each value of it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings.explain import Explained, explain
from proxy.settings.load import load_policy

PROFILE = """\
title: A gateway
max_processing_time: 90s
idempotency: {class: D_none, window: 1h}
results:
  - {when: {status: [2xx]}, result: succeeded}
routes:
  - name: pay
    match: {methods: [POST], path: "/pay/**"}
    session: durable
    operation: capture
    order: {json: order}
    timeouts: {attempt: 9s}
"""
POLICY = """\
gateways:
  g:
    profile: mine
    listen: 127.0.0.1:8080
    upstream: https://gw.example
    idempotency: {window: 2h}
    timeouts: {total: 20s}
    routes:
      - name: pay
        match: {methods: [POST], path: "/pay/**"}
        order: {form: order_id}
        timeouts: {connect: 1500ms}
      - {name: back, match: {methods: [POST], path: /b}, session: durable, operation: refund}
    operations: {capture: {breaker: {open_for: 60s}}, refund: {breaker: {open_for: 99s}}}
defaults:
  retry: {max_attempts: 2}
  max_body: 64KiB
"""


def explained(
    folder: Path, request: str = "POST /pay/now?a=b", environ: dict[str, str] | None = None
) -> Explained:
    """What is said of a request at the only gateway."""
    (folder / "gateways").mkdir()
    (folder / "gateways" / "mine.yaml").write_text(PROFILE)
    (folder / "policy.yaml").write_text(POLICY)
    method, _, path = request.partition(" ")
    (only,) = explain(load_policy(folder / "policy.yaml", environ or {}), method, path)
    return only


@pytest.mark.parametrize(
    ("setting", "value", "origin"),
    [
        ("timeouts.connect", "1500ms", "policy.yaml:12"),  # the policy's route
        ("order.form", "order_id", "policy.yaml:11"),
        ("order.json", "order", "mine.yaml:11"),  # the profile's route of that name
        ("operation", "capture", "mine.yaml:10"),
        ("timeouts.attempt", "9s", "mine.yaml:12"),
        ("timeouts.total", "20s", "policy.yaml:7"),  # the gateway
        ("retry.max_attempts", "2", "policy.yaml:16"),  # the defaults
        ("max_body", "64KiB", "policy.yaml:17"),
        ("max_answer", "8MiB", "default"),  # nobody
        ("breaker.open_for", "60s", "policy.yaml:14"),  # the operation
        ("breaker.probe", "/", "from the profile's probe"),
        ("concurrency.max_queue", "200", "default"),
        ("retry.backoff.initial", "200ms", "default"),
        ("keep_request", "false", "default"),
        ("amount.json", "none", "default"),
        ("idempotency.window", "2h", "policy.yaml:6"),
        ("idempotency.class", "D_none", "mine.yaml:3"),
        ("max_processing_time", "90s", "mine.yaml:2"),
        ("session.expires_after", "15m", "default"),
        # What follows from another setting is shown as it holds, and from which.
        ("idempotency.resend_horizon", "90m", "from idempotency.window"),
        ("retry.automatic_attempts", "2", "from retry.max_attempts"),
    ],
)
def test_the_nearest_place_that_wrote_it_is_named(
    setting: str, value: str, origin: str, tmp_path: Path
) -> None:
    """Route, profile's route, gateway, defaults, and what is built in, in this order."""
    found = {held.name: held for held in explained(tmp_path).settings}[setting]
    assert (found.value, found.origin.rpartition("/")[2]) == (value, origin)


NULLS = {
    "order: {form: order_id}": ("order: null", "order.json", "none"),  # the profile's is taken back
    "timeouts: {connect: 1500ms}": ("timeouts: null", "timeouts.attempt", "10s"),
    "idempotency: {window: 2h}": ("idempotency: {window: null}", "idempotency.window", "1h"),
}


@pytest.mark.parametrize("written", NULLS)
def test_null_is_shown_as_it_is_taken(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes back what the profile's route has, and is otherwise as if nothing were written."""
    null, setting, value = NULLS[written]
    monkeypatch.setattr(f"{__name__}.POLICY", POLICY.replace(written, null))
    found = {held.name: held.value for held in explained(tmp_path).settings}
    assert found[setting] == value
    assert found["timeouts.total"] == "20s"


def test_a_time_in_other_units_is_as_it_was_written(tmp_path: Path) -> None:
    """No word of another setting; a horizon that a shorter window overrides has one."""
    policy = POLICY.replace("window: 2h", "resend_horizon: 30m")
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways" / "mine.yaml").write_text(PROFILE)
    (tmp_path / "policy.yaml").write_text(policy.replace("30m", "1800s"))
    (only,) = explain(load_policy(tmp_path / "policy.yaml", {}), "POST", "/pay/now")
    horizon = next(held for held in only.settings if held.name == "idempotency.resend_horizon")
    assert (horizon.value, horizon.origin.rpartition("/")[2]) == ("1800s", "policy.yaml:6")


def test_what_would_look_like_nothing_is_said(tmp_path: Path) -> None:
    """No list of conditions is no ban on repeats, and a blank is a character."""
    found = {held.name: (held.value, held.origin) for held in explained(tmp_path).settings}
    assert found["retry.on"] == ("all that are safe", "from idempotency.class")
    assert found["idempotency.key.characters"] == ('" -~"', "default")


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    """Two slashes at its beginning make no host of what follows."""
    assert explained(tmp_path, "POST //x/pay/now").route == "other"


def test_a_variable_is_named_as_such(tmp_path: Path) -> None:
    """What the environment has put over the file is not the file's."""
    variable = "HOLDFAST__DEFAULTS__RETRY__MAX_ATTEMPTS"
    found = explained(tmp_path, environ={variable: "5"}).settings
    retry = next(held for held in found if held.name == "retry.max_attempts")
    assert retry == ("retry.max_attempts", "5", f"environment variable {variable}")


def test_the_route_is_named(tmp_path: Path) -> None:
    """With the place of the layer that is nearest."""
    found = explained(tmp_path)
    assert (found.gateway, found.route) == ("g", "pay")
    assert found.origin.endswith("policy.yaml:9")


def test_what_no_route_is_for(tmp_path: Path) -> None:
    """It says so, and what holds then; the routes' own values do not."""
    found = explained(tmp_path, "GET /pay/now")
    assert (found.route, found.origin) == ("read", "no route is for it")
    held = {name: (value, origin) for name, value, origin in found.settings}
    assert held["operation"] == ("charge", "default")
    assert held["timeouts.attempt"] == ("10s", "default")
    assert held["timeouts.total"][0] == "20s"


def test_links_are_shown_where_they_are_turned(tmp_path: Path) -> None:
    """With their place in the profile; a profile that says nothing of them has no line."""
    assert not [held for held in explained(tmp_path).settings if held.name.startswith("links")]
    profile = tmp_path / "gateways/mine.yaml"
    profile.write_text(profile.read_text() + "links: {origins: [https://a.example]}\n")
    (only,) = explain(load_policy(tmp_path / "policy.yaml", {}), "POST", "/pay/now")
    origins, keys, headers = (held for held in only.settings if held.name.startswith("links."))
    assert origins.origin.rpartition("/")[2].startswith("mine.yaml:")
    assert origins.value == "[https://a.example]"
    assert (keys.value, headers.value) == ("[href]", "[]")
