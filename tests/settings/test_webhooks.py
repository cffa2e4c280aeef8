"""What a profile and a policy may say of webhooks, and what is told to whoever says it wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.core.policy import WebhookPolicy
from proxy.core.signatures import KeyForm
from proxy.settings.changes import changes, refuse_lasting
from proxy.settings.load import ConfigError, load, load_policy

PROFILE = """\
title: mine
idempotency: {class: D_none, window: 24h}
results: [{when: {status: [200]}, result: succeeded}]
webhooks:
  signature: {header: X-Signature}
  tie: {order: [order], at: at, reference: id}
  events: [{says: succeeded}]
"""
POLICY = """\
gateways:
  g:
    profile: mine
    listen: 127.0.0.1:8080
    upstream: https://gw.example
    webhook: {secret: {env: WHSEC}, forward_to: "http://127.0.0.1:3000/hooks"}
"""
ENVIRON = {"WHSEC": "whsec_1"}
ADDRESS = '{header: X, over: "{url}{body}"}'


def write(folder: Path, profile: str = PROFILE, policy: str = POLICY) -> Path:
    """A policy file with a profile beside it."""
    (folder / "gateways").mkdir(exist_ok=True)
    (folder / "gateways/mine.yaml").write_text(profile, encoding="utf-8")
    path = folder / "policy.yaml"
    path.write_text(policy, encoding="utf-8")
    return path


def mistakes(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    """What is told, without the files' names."""
    with pytest.raises(ConfigError) as caught:
        load(path, ENVIRON if environ is None else environ)
    return [f"{m.line}: {m.where}: {m.message}" for m in caught.value.mistakes]


def test_what_is_written_is_what_holds(tmp_path: Path) -> None:
    """Secret, address, where it goes, and how it is signed."""
    gateway = load(write(tmp_path), ENVIRON).gateways["g"]
    assert gateway.webhook == WebhookPolicy("whsec_1", None, "http://127.0.0.1:3000/hooks")
    recipe = gateway.profile.webhooks
    assert recipe is not None
    assert recipe.signature is not None
    signature = recipe.signature
    assert (signature.header, signature.algorithm, signature.key) == (
        "x-signature",
        "sha256",
        KeyForm.TEXT,
    )
    assert signature.tolerance == 300


def test_a_secret_is_never_printed(tmp_path: Path) -> None:
    """Neither in the settings nor in a line about what has changed."""
    assert "whsec_1" not in repr(load(write(tmp_path), ENVIRON))


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    """Beside the policy file."""
    (tmp_path / "secret").write_text("whsec_2\n", encoding="utf-8")
    policy = POLICY.replace("env: WHSEC", "file: secret")
    assert load(write(tmp_path, policy=policy), {}).gateways["g"].webhook.secret == "whsec_2"


def test_a_secrets_variable_may_be_called_as_ours_are(tmp_path: Path) -> None:
    """One that nothing names is a slip of the pen; the control."""
    policy = POLICY.replace("env: WHSEC", "env: HOLDFAST_STRIPE_WEBHOOKS")
    path = write(tmp_path, policy=policy)
    environ = {"HOLDFAST_STRIPE_WEBHOOKS": "whsec_3"}
    assert load(path, environ).gateways["g"].webhook.secret == "whsec_3"
    with pytest.raises(ConfigError, match="unknown variable"):
        load(path, {**environ, "HOLDFAST_STRIPE_WEBHOOK": "whsec_3"})


def test_without_it_nothing_is_agreed(tmp_path: Path) -> None:
    """What is signed is then refused."""
    policy = POLICY.partition("    webhook:")[0]
    assert load(write(tmp_path, policy=policy), {}).gateways["g"].webhook == WebhookPolicy()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("{}", None),
        ("{secret: {}}", "secret: name exactly one of env and file"),
        ("{secret: {env: A, file: b}}", "secret: name exactly one of env and file"),
        ("{secret: {env: A}}", "secret: the environment variable A is not set"),
        (
            "{secret: {file: gone}}",
            "secret.file: cannot read the secret file: No such file or directory",
        ),
        (
            "{secret: whsec_1}",
            "secret: should be {env: NAME}, the variable that holds it; no secret stands here",
        ),
        (
            "{forward_to: shop}",
            "forward_to: write a whole address, like https://shop.example.com/webhooks (no user)",
        ),
        (
            "{forward_to: 'http://u:p@shop/x'}",
            "forward_to: write a whole address, like https://shop.example.com/webhooks (no user)",
        ),
        (
            "{url: 'https://shop:99999/x'}",
            "url: write a whole address, like https://shop.example.com/webhooks (no user)",
        ),
        ("{forward: x}", "forward: unknown key; did you mean 'forward_to'?"),
    ],
)
def test_a_wrong_policy_is_told(tmp_path: Path, written: str, told: str | None) -> None:
    """At its line, with what is wrong."""
    policy = POLICY.partition("{secret")[0] + written + "\n"
    path = write(tmp_path, policy=policy)
    if told is None:
        _ = load(path, {})
    else:
        assert mistakes(path, {}) == [f"6: gateways.g.webhook.{told}"]


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (
            PROFILE.replace("{header: X-Signature}", "{header: X, key: hex}"),
            "secret: is not a key in hexadecimal digits",
        ),
        (
            PROFILE.replace("{header: X-Signature}", ADDRESS),
            "url: is missing: this gateway signs the address it calls",
        ),
        (
            PROFILE.replace("  signature: {header: X-Signature}\n", "\n").replace(
                "{says: succeeded}", "{}"
            ),
            "secret: this gateway's webhooks are not signed, so that nothing is checked",
        ),
    ],
)
def test_a_policy_must_fit_its_profile(tmp_path: Path, profile: str, told: str) -> None:
    """What this gateway needs, and what it has no use for."""
    assert mistakes(write(tmp_path, profile)) == [f"6: gateways.g.webhook.{told}"]


def test_a_gateway_without_webhooks_has_none_to_agree_on(tmp_path: Path) -> None:
    """The generic profile does not know how they would look."""
    why = "the profile does not say how this gateway's webhooks are read"
    policy = POLICY.replace("profile: mine", "profile: generic")
    assert mistakes(write(tmp_path, policy=policy)) == [f"6: gateways.g.webhook: {why}"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("{}", "signature: name exactly one of header, form and json"),
        ("{header: X, form: y}", "signature: name exactly one of header, form and json"),
        ("{json: sig}", "signature.fields: is missing: what is signed of each event"),
        ("{header: X, fields: [a]}", "signature.fields: belongs to a signature in the events"),
        ("{json: s, fields: [a], part: v1}", "signature.part: belongs to a signature in a header"),
        ("{form: sig}", "signature.form: signs the payload of a webhook with body: xml"),
        (
            '{header: X, over: "{bdy}{body}"}',
            "signature.over: nothing is known for {bdy}; did you mean '{body}'?",
        ),
        (
            '{header: X, over: "x"}',
            "signature.over: must say where {body} goes, or it signs nothing",
        ),
        (
            "{header: X, timestamp: t, part: v1}",
            "signature.over: must have {timestamp} where timestamp names it, and only there",
        ),
        (
            '{header: X, timestamp: t, over: "{timestamp}{body}"}',
            "signature.timestamp: stands in a list of parts, and part is missing",
        ),
        (
            "{header: X, algorithm: md5}",
            "signature.algorithm: 'md5' is not one of 'sha1', 'sha256' or 'sha512'",
        ),
        (
            "{header: X, key: hx}",
            "signature.key: 'hx' is not one of 'text', 'hex' or 'sha1'; did you mean 'hex'?",
        ),
        (
            "{header: X, tolerance: 5}",
            "signature.tolerance: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d",
        ),
    ],
)
def test_a_wrong_signature_is_told(tmp_path: Path, written: str, told: str) -> None:
    """At its line in the profile."""
    profile = PROFILE.replace("{header: X-Signature}", written)
    policy = POLICY.partition("    webhook:")[0]
    (mistake,) = mistakes(write(tmp_path, profile, policy), {})
    assert mistake == f"5: webhooks.{told}"


@pytest.mark.parametrize(
    ("line", "written", "told"),
    [
        (
            6,
            "{order: [order], reference: id}",
            "tie.at: is missing: without it an old event could settle a new payment",
        ),
        (
            6,
            "{order: ['a..b'], at: t, reference: id}",
            "tie.order[0]: 'a..b' is not a path: nothing fits at character 3",
        ),
        (6, "{order: [order], at: at}", "tie.reference: is missing"),
        (
            7,
            "[{says: look_up, object: x}]",
            "events[0].says: is what object tells; write one of them",
        ),
        (
            7,
            "[{says: paid}]",
            "events[0].says: 'paid' is not one of 'succeeded', 'declined' or 'look_up'",
        ),
        (
            7,
            "[{says: declined}]",
            "events[0].says: a no only counts for a key, and tie.key is missing; write look_up",
        ),
        (7, "[]", "events: should be a list of at least one, not an empty list"),
        (
            7,
            "[{says: look_up, when: [{path: a, in: []}]}]",
            "events[0].when[0].in: should be a list of at least one, not an empty list",
        ),
    ],
)
def test_a_wrong_event_is_told(tmp_path: Path, line: int, written: str, told: str) -> None:
    """The ties and the events."""
    lines = PROFILE.splitlines()
    lines[line - 1] = f"{lines[line - 1].partition(':')[0]}: {written}"
    policy = POLICY.partition("    webhook:")[0]
    assert mistakes(write(tmp_path, "\n".join(lines), policy), {}) == [f"{line}: webhooks.{told}"]


@pytest.mark.parametrize("event", ["says: succeeded", "says: declined", "object: payment"])
def test_what_nobody_signed_proves_nothing(tmp_path: Path, event: str) -> None:
    """It is told to whoever thinks that it does."""
    profile = PROFILE.replace("  signature: {header: X-Signature}\n", "")
    profile = profile.replace("tie: {", "tie: {key: k, ").replace("says: succeeded", event)
    policy = POLICY.partition("    webhook:")[0]
    why = "proves nothing without a signature; leave says and object out"
    assert mistakes(write(tmp_path, profile, policy), {}) == [f"6: webhooks.events[0]: {why}"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("  body: xml\n", "4: webhooks.payload: is missing"),
        ("  payload: p\n", "8: webhooks.payload: is only read where body is xml"),
    ],
)
def test_a_payload_is_where_it_is_read(tmp_path: Path, more: str, told: str) -> None:
    """A field of a form, for XML only."""
    policy = POLICY.partition("    webhook:")[0]
    assert mistakes(write(tmp_path, PROFILE + more, policy), {}) == [told]


def test_what_is_agreed_may_change_while_it_runs(tmp_path: Path) -> None:
    """A secret is changed now and then; how the gateway speaks is the profile's."""
    before = load_policy(write(tmp_path), ENVIRON)
    policy = POLICY.replace("env: WHSEC", "env: NEXT").replace("3000", "3001")
    after = load_policy(write(tmp_path, policy=policy), {"NEXT": "whsec_2"})
    refuse_lasting(before, after)
    assert changes(before, after) == [
        "gateways.g.webhook.secret.env: WHSEC -> NEXT",
        "gateways.g.webhook.forward_to: http://127.0.0.1:3000/hooks -> http://127.0.0.1:3001/hooks",
    ]
    profile = PROFILE.replace("header: X-Signature", "header: X-Other")
    with pytest.raises(ConfigError, match="only a restart changes this"):
        refuse_lasting(before, load_policy(write(tmp_path, profile), ENVIRON))
