"""A policy file and the environment → settings, or every mistake at once, each at its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core import policy as core
from proxy.core.policy import OrderLock, RoutePolicy, SessionKind
from proxy.core.profile import GatewayClass, Links
from proxy.settings import defaults as d
from proxy.settings.load import ConfigError, load
from proxy.settings.values import Address, Settings
from tests.settings.wrong_policies import GATEWAY, wrong_policies
from tests.support.lab import settings_from

# The contract's own example, word for word.
CONTRACT = """\
listen: {sessions: 127.0.0.1:8081, admin: 127.0.0.1:8082}
store: sqlite:///var/holdfast.db            # relative to this file; four slashes: absolute. Or postgresql://…, redis://…
gateways:
  stripe:
    profile: stripe                          # what is known about this gateway
    listen: 127.0.0.1:8080
    upstream: https://api.stripe.com
    routes:                                  # optional: override the profile's routes, first match wins
      - {name: create-payment, match: {methods: [POST], path: /v1/payment_intents}, session: durable, timeouts: {total: 25s}}
defaults:
  timeouts: {connect: 2s, attempt: 10s, total: 30s}
  retry:    {max_attempts: 3, automatic_attempts: 3, backoff: {initial: 200ms, max: 5s, jitter: full}, respect_retry_after: true}
  budget:   {ratio: 0.2, min_per_second: 10, window: 10s}
  breaker:  {failure_ratio: 0.5, min_calls: 20, window: 30s, open_for: 15s}
  concurrency: {max_in_flight: 200, max_queue: 200, queue_timeout: 1s}
session: {expires_after: 15m, cleanup_every: 5m, replay_for: 24h, duplicate_wait: 5s}
"""  # noqa: E501 -- as the contract has it


def gateway(more: str = "", *, listen: str = "127.0.0.1:8080", upstream: str = "") -> str:
    """One gateway over four lines; `more` begins on line 5."""
    return (
        "gateways:\n"
        "  g:\n"
        f"    listen: {listen}\n"
        f"    upstream: {upstream or 'https://gw.example'}\n"
        f"{more}"
    )


def route(text: str) -> str:
    """A gateway with one route, on line 6."""
    return gateway(f"    routes:\n      - {text}\n")


def mistakes(folder: Path, text: str | bytes, environ: dict[str, str] | None = None) -> list[str]:
    """What is wrong with a file, as a person sees it, the folder left out."""
    path = folder / "policy.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    return [str(mistake).replace(f"{folder}/", "") for mistake in caught.value.mistakes]


def named(made: Settings, gateway_name: str, route_name: str) -> RoutePolicy:
    """A route by its name."""
    routes = [r for _, r in made.gateways[gateway_name].routes.routes if r.name == route_name]
    assert len(routes) == 1, routes
    return routes[0]


# --- what holds ---------------------------------------------------------------------------------


def test_the_contract_loads_as_it_stands(tmp_path: Path) -> None:
    """Every key of the contract's example is read, and means what the contract says."""
    made = settings_from(CONTRACT, tmp_path)

    assert made.sessions == Address("127.0.0.1", 8081)
    assert made.admin == Address("127.0.0.1", 8082)
    assert made.store == str(tmp_path / "var/holdfast.db")
    assert made.key_file == tmp_path / "var/holdfast.db.key"
    assert made.keys is None
    assert made.session == core.SessionPolicy(
        expires_after=900.0,
        cleanup_every=300.0,
        replay_for=86400.0,
        keep_for=35 * 86400.0,
        duplicate_wait=5.0,
        lease=10.0,
    )
    stripe = made.gateways["stripe"]
    assert (stripe.name, str(stripe.listen)) == ("stripe", "127.0.0.1:8080")
    assert stripe.upstream == "https://api.stripe.com"
    assert stripe.profile.name == "stripe"
    assert stripe.budget == core.BudgetPolicy(ratio=0.2, min_per_second=10.0, window=10.0)
    assert stripe.breaker == core.BreakerPolicy(
        failure_ratio=0.5, min_calls=20, window=30.0, open_for=15.0, probe="/v1/balance"
    )
    assert stripe.concurrency == core.ConcurrencyPolicy(
        max_in_flight=200, max_queue=200, queue_timeout=1.0
    )
    created = stripe.routes.match("POST", "/v1/payment_intents")
    assert created.name == "create-payment"
    assert created.session is SessionKind.DURABLE
    assert created.timeouts == core.Timeouts(connect=2.0, attempt=10.0, total=25.0)
    assert created.retry == core.RetryPolicy(
        max_attempts=3,
        automatic_attempts=3,
        backoff=core.Backoff(initial=0.2, max=5.0, full_jitter=True),
        respect_retry_after=True,
    )
    confirmed = stripe.routes.match("POST", "/v1/payment_intents/pi_1/confirm")
    assert confirmed.timeouts == core.Timeouts(connect=2.0, attempt=10.0, total=30.0)


def test_the_shortest_file_means_the_same_as_the_contract(tmp_path: Path) -> None:
    """What the contract's example writes out is what holds when nothing is written."""
    made = settings_from(GATEWAY, tmp_path)
    contract = settings_from(CONTRACT, tmp_path)
    assert made.sessions == contract.sessions
    assert made.admin == contract.admin
    assert made.session == contract.session
    short, long = made.gateways["g"], contract.gateways["stripe"]
    assert (short.budget, short.breaker) == (long.budget, long.breaker)
    assert short.concurrency == long.concurrency
    assert named(made, "g", "confirm-payment") == named(contract, "stripe", "confirm-payment")
    assert short.routes.read == long.routes.read
    assert short.routes.other == long.routes.other


def test_the_defaults_are_those_of_the_requirement(tmp_path: Path) -> None:
    """30 s, 3 attempts, 15 min expiry, 5 min clean-up; and the other constants are in use."""
    made = settings_from(GATEWAY, tmp_path)
    pay = named(made, "g", "create-payment")
    assert (pay.timeouts.total, pay.retry.max_attempts) == (30.0, 3)
    assert (made.session.expires_after, made.session.cleanup_every) == (900.0, 300.0)
    assert pay.timeouts == core.Timeouts(d.CONNECT_TIMEOUT, d.ATTEMPT_TIMEOUT, d.TOTAL_TIMEOUT)
    assert pay.retry.automatic_attempts == d.MAX_ATTEMPTS
    assert pay.retry.backoff == core.Backoff(d.BACKOFF_INITIAL, d.BACKOFF_MAX, full_jitter=True)
    assert (pay.max_body_bytes, pay.max_answer_bytes) == (1024 * 1024, 8 * 1024 * 1024)
    assert made.session.keep_for == d.KEEP_FOR
    assert made.shutdown.ready_delay == 0.0
    assert made.shutdown.drain == d.DRAIN_TIMEOUT
    assert made.held_request_bytes == d.HELD_REQUEST_BYTES
    assert made.store == str(tmp_path / "holdfast.db")
    assert not made.tokens


def test_settings_are_frozen(tmp_path: Path) -> None:
    """What was read once does not change under a running payment."""
    made = settings_from(GATEWAY, tmp_path)
    for value, name in (
        (made, "store"),
        (made.gateways["g"], "upstream"),
        (made.session, "keep_for"),
    ):
        with pytest.raises(AttributeError):
            setattr(value, name, "other")


@pytest.mark.parametrize(
    ("written", "file"),
    [
        ("sqlite:///var/holdfast.db", "var/holdfast.db"),
        ("sqlite://var/holdfast.db", "var/holdfast.db"),
        ("sqlite:///../up.db", "../up.db"),
    ],
)
def test_a_store_is_beside_the_policy_file(written: str, file: str, tmp_path: Path) -> None:
    """Two and three slashes are relative to the policy file, wherever the process was started."""
    made = settings_from(f"{GATEWAY}store: {written}\n", tmp_path)
    assert made.store == str(tmp_path / file)
    assert made.key_file == tmp_path / f"{file}.key"


def test_a_store_with_four_slashes_is_absolute(tmp_path: Path) -> None:
    """sqlite:////srv/x.db is /srv/x.db."""
    made = settings_from(f"{GATEWAY}store: sqlite:////srv/x.db\n", tmp_path)
    assert made.store == "/srv/x.db"


def test_the_audit_trail_is_beside_the_store(tmp_path: Path) -> None:
    """A store that is a file has one; one in memory only where it is named."""
    assert settings_from(GATEWAY, tmp_path).audit == tmp_path / "holdfast.db.audit"
    memory = f"{GATEWAY}store: memory://\n"
    assert settings_from(memory, tmp_path).audit is None
    assert settings_from(f"{memory}audit: log/trail\n", tmp_path).audit == tmp_path / "log/trail"


@pytest.mark.parametrize(
    ("written", "spool"),
    [
        ("store: sqlite:///var/x.db", "var/x.db.spool"),
        ("store: sqlite:///var/x.db\nspool: other/disk", "other/disk"),
        ("store: redis://db\nkey_file: secret/key", "secret/holdfast.spool"),
        ("store: memory://\nspool: x", "x"),
    ],
)
def test_the_spool_lies_beside_what_is_there_already(
    written: str, spool: str, tmp_path: Path
) -> None:
    """The store's file, else the key's; where the policy says so, there."""
    assert settings_from(f"{GATEWAY}{written}\n", tmp_path).spool == tmp_path / spool


def test_a_spool_without_a_store_or_key_on_disk(tmp_path: Path) -> None:
    """A server and a key from the environment: beside the policy. In memory: none."""
    key = {"HOLDFAST_KEY": "ab" * 32}
    made = settings_from(f"{GATEWAY}store: postgresql://db/holdfast\n", tmp_path, key)
    assert made.spool == tmp_path / "holdfast.spool"
    assert settings_from(f"{GATEWAY}store: memory://\n", tmp_path).spool is None


def test_a_store_in_memory_needs_no_key_that_outlives_it(tmp_path: Path) -> None:
    """There is a key file only where something sealed with it stays."""
    assert settings_from(f"{GATEWAY}store: memory://\n", tmp_path).key_file is None
    text = f"{GATEWAY}store: memory://\nkey_file: secret/key\n"
    assert settings_from(text, tmp_path).key_file == tmp_path / "secret/key"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1ms", 0.001), ("1.5s", 1.5), ("2m", 120.0), ("0.5h", 1800.0), ("7d", 604800.0)],
)
def test_durations_have_units(written: str, seconds: float, tmp_path: Path) -> None:
    """Milliseconds to days, with fractions."""
    made = settings_from(f"{GATEWAY}session: {{duplicate_wait: {written}}}\n", tmp_path)
    assert made.session.duplicate_wait == seconds


def test_several_gateways_are_strangers(tmp_path: Path) -> None:
    """Each has its own profile, listener, routes and limits."""
    made = settings_from(
        "gateways:\n"
        '  a: {profile: stripe, listen: "127.0.0.1:8080", upstream: "https://a.example"}\n'
        '  b-2: {listen: "[::1]:8080", upstream: "http://b.example:8443", budget: {ratio: 0}}\n',
        tmp_path,
    )
    assert list(made.gateways) == ["a", "b-2"]
    assert made.gateways["a"].budget.ratio == 0.2
    assert made.gateways["b-2"].budget.ratio == 0.0
    assert made.gateways["b-2"].listen == Address("::1", 8080)
    assert made.gateways["b-2"].upstream == "http://b.example:8443"
    assert made.gateways["b-2"].profile.name == "generic"


# --- inheritance --------------------------------------------------------------------------------

LAYERS = """\
defaults:
  timeouts: {connect: 1s, attempt: 5s}
  retry: {max_attempts: 4, backoff: {initial: 100ms}}
  breaker: {min_calls: 7}
gateways:
  g:
    profile: mine
    listen: 127.0.0.1:8080
    upstream: https://gw.example
    timeouts: {attempt: 6s}
    retry: {automatic_attempts: 2, backoff: {max: 3s}}
    breaker: {window: 5s}
    routes:
      - name: pay
        match: {methods: [POST], path: /v2/pay}
        timeouts: {total: 9s}
        retry: {backoff: {jitter: none}}
        lookup: null
      - {name: extra, match: {methods: [PUT], path: /extra}}
"""
MINE = """\
title: Mine
idempotency: {class: A_strong, window: 24h, key: {header: X-Key}}
results:
  - {when: {status: [200]}, result: succeeded}
routes:
  - name: pay
    match: {methods: [POST], path: /v1/pay}
    session: durable
    operation: pay
    order_lock: body
    order: {json: order.id, form: order_id}
    amount: {json: amount}
    lookup: find-it
    timeouts: {attempt: 7s, total: 20s}
    retry: {backoff: {max: 2s}}
  - name: refund
    match: {methods: [POST], path: /v1/refund}
    session: durable
    operation: refund
    order_lock: "off"
    lookup: find-it
lookups:
  find-it:
    find: /payments?key={gateway_key}
    items: "data[*]"
    match: [{path: key, value: "{gateway_key}"}]
    id: id
    read: /payments/{id}
"""


@pytest.fixture
def layers(tmp_path: Path) -> Settings:
    """A policy that writes something at every layer."""
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways/mine.yaml").write_text(MINE)
    return settings_from(LAYERS, tmp_path)


def test_a_route_inherits_field_by_field(layers: Settings) -> None:
    """Defaults → gateway → profile's route → file's route: the nearest that wrote it wins."""
    pay = named(layers, "g", "pay")
    # connect from the defaults, attempt from the profile's route, total from the file's.
    assert pay.timeouts == core.Timeouts(connect=1.0, attempt=7.0, total=9.0)
    # max_attempts: defaults; automatic: gateway; initial: defaults; max: profile; jitter: file.
    assert pay.retry == core.RetryPolicy(
        max_attempts=4,
        automatic_attempts=2,
        backoff=core.Backoff(initial=0.1, max=2.0, full_jitter=False),
        respect_retry_after=True,
    )


def test_a_route_of_the_same_name_replaces_and_inherits(layers: Settings) -> None:
    """It answers for its own path, and is otherwise what the profile said unless told."""
    pay = named(layers, "g", "pay")
    assert (pay.methods, pay.template) == (frozenset({"POST"}), "/v2/pay")
    assert (pay.session, pay.operation) == (SessionKind.DURABLE, "pay")
    assert pay.order_lock is OrderLock.BODY
    assert pay.order == core.BodyField(json="order.id", form="order_id")
    assert pay.amount == core.BodyField(json="amount")
    assert pay.lookup is None  # taken back with `null`
    table = layers.gateways["g"].routes
    assert table.match("POST", "/v2/pay").name == "pay"
    assert table.match("POST", "/v1/pay").name == "other"


def test_the_profiles_other_routes_stay(layers: Settings) -> None:
    """The file's routes come first, then what the profile has besides."""
    names = [route.name for _, route in layers.gateways["g"].routes.routes]
    assert names == ["pay", "extra", "refund"]
    refund = named(layers, "g", "refund")
    assert refund.timeouts == core.Timeouts(connect=1.0, attempt=6.0, total=30.0)
    assert refund.retry.backoff == core.Backoff(initial=0.1, max=3.0, full_jitter=True)
    assert refund.lookup == "find-it"


def test_what_no_route_names_inherits_from_the_gateway(layers: Settings) -> None:
    """The default routes for reads and the rest are ephemeral, under the gateway's own limits."""
    table = layers.gateways["g"].routes
    for policy in (table.read, table.other, named(layers, "g", "extra")):
        assert policy.session is SessionKind.EPHEMERAL
        assert policy.timeouts == core.Timeouts(connect=1.0, attempt=6.0, total=30.0)
    assert table.match("GET", "/v2/pay").name == "read"


def test_a_gateways_limits_inherit_field_by_field(layers: Settings) -> None:
    """The breaker takes one field from the defaults, one from the gateway, two from nowhere."""
    assert layers.gateways["g"].breaker == core.BreakerPolicy(
        failure_ratio=0.5, min_calls=7, window=5.0, open_for=15.0
    )


def test_lowering_the_limit_lowers_the_automatic_share(tmp_path: Path) -> None:
    """`max_attempts: 1` on a route is one send, whatever share of more the defaults named."""
    made = settings_from(
        gateway(
            "    retry: {max_attempts: 2}\n"
            "    routes:\n"
            "      - {name: once, match: {methods: [GET], path: /a}, retry: {max_attempts: 1}}\n"
            "defaults: {retry: {max_attempts: 3, automatic_attempts: 3}}\n"
        ),
        tmp_path,
    )
    assert made.gateways["g"].routes.other.retry.automatic_attempts == 2
    assert named(made, "g", "once").retry.automatic_attempts == 1


@pytest.mark.parametrize(
    ("said", "gateway_class", "horizon_hours"),
    [
        ("{}", GatewayClass.D_NONE, 18.0),
        ("{class: A_strong}", GatewayClass.A_STRONG, 18.0),
        ("{class: A_strong, window: 4h}", GatewayClass.A_STRONG, 3.0),
        ("{class: A_weak, window: 4h, resend_horizon: 4h}", GatewayClass.A_WEAK, 4.0),
        ("{resend_horizon: 1h}", GatewayClass.D_NONE, 1.0),
    ],
)
def test_an_operator_may_know_more_of_a_gateway(
    said: str, gateway_class: GatewayClass, horizon_hours: float, tmp_path: Path
) -> None:
    """The promise for a repeated key can be declared; a key is used for 3/4 of its life."""
    made = settings_from(gateway(f"    idempotency: {said}\n"), tmp_path)
    profile = made.gateways["g"].profile
    assert (profile.gateway_class, profile.resend_horizon) == (gateway_class, horizon_hours * 3600)


def test_a_profiles_own_horizon_is_kept(tmp_path: Path) -> None:
    """A profile that says how long a key may be repeated is not second-guessed."""
    (tmp_path / "gateways").mkdir()
    text = MINE.replace("window: 24h", "window: 24h, resend_horizon: 23h")
    (tmp_path / "gateways/mine.yaml").write_text(text)
    made = settings_from(gateway("    profile: mine\n"), tmp_path)
    assert made.gateways["g"].profile.resend_horizon == 23 * 3600.0


# --- profiles of one's own ----------------------------------------------------------------------


def test_a_profile_beside_the_policy_wins_over_a_shipped_one(tmp_path: Path) -> None:
    """`gateways/stripe.yaml` in the policy's folder is this installation's Stripe."""
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways/stripe.yaml").write_text(MINE)
    made = settings_from(GATEWAY, tmp_path)
    assert made.gateways["g"].profile.key.name == "X-Key"
    assert [r.name for _, r in made.gateways["g"].routes.routes] == ["pay", "refund"]


WRONG_PROFILE = """\
titel: Mine
idempotency: {class: A_strog, window: 24, key: {header: 'X Key'}}
results:
  - {when: {status: [2x, 600]}, result: success}
  - {when: {status: [200], json: [{path: 'a[', in: [[x]]}]}, result: unknown}
routes:
  - {name: pay, match: {methods: [POST], path: pay}}
  - {name: buy, match: {methods: [POST], path: /buy}, session: durable, lookup: fnid-it}
  - {name: buy, match: {methods: [POST], path: /buy2}}
errors:
  boby: {}
  refusals: {order-alredy-paid: {status: 200}}
  headers: [{header: X, value: "a\\r\\nB: c"}]
lookups:
  find-it:
    find: payments?key={gatewaykey}
    items: data
    match: [{path: key, value: constant}]
    id: id
    read: /payments
"""
TOLD_OF_PROFILE = """\
gateways/mine.yaml:1:1: titel: unknown key; did you mean 'title'?
gateways/mine.yaml:1:1: title: is missing
gateways/mine.yaml:2:15: idempotency.class: 'A_strog' is not one of 'A_strong', 'A_weak', 'B_lookup', 'C_cancel_by_key' or 'D_none'; did you mean 'A_strong'?
gateways/mine.yaml:2:31: idempotency.window: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d
gateways/mine.yaml:2:49: idempotency.key.header: 'X Key' is not the name of a header
gateways/mine.yaml:4:22: results[0].when.status[0]: write a status as 402, 4xx or 500-599
gateways/mine.yaml:4:26: results[0].when.status[1]: write a status as 402, 4xx or 500-599
gateways/mine.yaml:4:33: results[0].result: 'success' is not one of 'succeeded', 'accepted', 'declined', 'rejected', 'not_executed', 'in_progress' or 'unknown'; did you mean 'succeeded'?
gateways/mine.yaml:5:36: results[1].when.json[0].path: 'a[' is not a path: nothing fits at character 2
gateways/mine.yaml:5:53: results[1].when.json[0].in[0]: write text, a number, true or false
gateways/mine.yaml:7:42: routes[0].match.path: 'pay' is not a path template: it must start with '/'
gateways/mine.yaml:8:73: routes[1].lookup: there is no look-up 'fnid-it'; did you mean 'find-it'?
gateways/mine.yaml:9:6: routes[2].name: two routes are named 'buy'
gateways/mine.yaml:11:3: errors.boby: unknown key; did you mean 'body'?
gateways/mine.yaml:12:14: errors.refusals.order-alredy-paid: there is no such refusal; did you mean 'order-already-paid'?
gateways/mine.yaml:12:34: errors.refusals.order-alredy-paid.status: should be greater than or equal to 400
gateways/mine.yaml:13:25: errors.headers[0].value: a header's value is printable ASCII text
gateways/mine.yaml:16:5: lookups.find-it.find: nothing is known for {gatewaykey}; did you mean '{gateway_key}'?
gateways/mine.yaml:16:5: lookups.find-it.find: write the path to ask for, starting with '/'
gateways/mine.yaml:18:5: lookups.find-it.match: must compare something with {gateway_key} or {order}, or it finds someone else's payment
gateways/mine.yaml:20:5: lookups.find-it.read: must say where {id} goes, or it reads the same thing for every payment
policy.yaml:6:1: store: write a store as sqlite:///FILE, postgresql://…, redis://… or memory://
"""  # noqa: E501 -- messages as they are printed


RECIPES = {
    "{find: /a, read: '/b/{id}'}": [
        "items: is missing",
        "match: is missing",
        "id: is missing",
        (
            "match: must compare something with {gateway_key} or {order}, "
            "or it finds someone else's payment"
        ),
    ],
    "{}": ["read: is missing"],
    "{read: /a, items: 'a[*]'}": [
        "items: belongs to a list, and there is no find",
        "read: must say where {gateway_key} or {order} goes, or it reads the same thing for every payment",  # noqa: E501 -- as it is printed
    ],
    "{read: '/a/{id}/{order}'}": [
        "read: nothing is known for {id}; known here: {gateway_key}, {order}"
    ],
    "{read: '/a/{order}', not_found_proves: {after: 1m}}": [
        "not_found_proves.after: is shorter than max_processing_time (2m); the gateway may take as long",  # noqa: E501 -- as it is printed
        "not_found_proves: must say by `when` which answer means that there is no such payment",
    ],
    "{find: '/a?k={gateway_key}', items: a, match: [{path: k, value: v}], id: id, "
    "read: '/a/{id}', not_found_proves: {after: 5m, when: {status: [404]}}}": [
        "not_found_proves.when: is for a payment that is read at once; a list is empty by itself",
        "items: must end in [*], so that an empty list can be told from none",
    ],
    "{find: '/a?k={gateway_key}', items: a, match: [{path: k}, {path: k, value: v, in: [v]}], "
    "id: id, read: '/a/{id}'}": [
        "match[0]: needs exactly one of value and in",
        "match[1]: needs exactly one of value and in",
    ],
    "{cancel: {target: a, body: '{key}', proves: {status: [200]}}}": [
        "cancel.target: write the path to ask for, starting with '/'",
        "cancel.body: nothing is known for {key}; known here: {gateway_key}",
        "cancel.body: must name {gateway_key}, or it voids someone else's payment",
    ],
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_a_look_up_cannot_be(recipe: str, tmp_path: Path) -> None:
    """A part that is missing, one that belongs elsewhere, and what would ask about nobody."""
    (tmp_path / "gateways").mkdir()
    head = MINE[: MINE.index("lookups:")]
    text = f"{head}lookups:\n  find-it: {recipe}\n"
    (tmp_path / "gateways/mine.yaml").write_text(text)
    found = mistakes(tmp_path, gateway("    profile: mine\n"))
    told = [line.split("lookups.find-it.")[1] for line in found]
    assert sorted(told) == sorted(RECIPES[recipe])


def test_only_a_weak_gateway_may_be_asked_for_a_lost_answer(tmp_path: Path) -> None:
    """In the profile or in the policy: with another class it means nothing, so it is a mistake."""
    (tmp_path / "gateways").mkdir()
    mine = MINE.replace("class: A_strong,", "class: D_none, resend_lost_answers: true,")
    (tmp_path / "gateways/mine.yaml").write_text(mine)
    weak = "idempotency: {class: A_weak, resend_lost_answers: true}"
    policy = gateway("    profile: mine\n")
    assert mistakes(tmp_path, policy) == [
        "gateways/mine.yaml:2:30: idempotency.resend_lost_answers: is only meant for class A_weak"
    ]
    (tmp_path / "gateways/mine.yaml").write_text(MINE)
    strong = "    profile: mine\n    idempotency: {resend_lost_answers: true}\n"
    (told,) = mistakes(tmp_path, gateway(strong))
    assert told.endswith("idempotency.resend_lost_answers: is only meant for class A_weak")
    made = settings_from(gateway(f"    profile: mine\n    {weak}\n"), tmp_path)
    assert made.gateways["g"].profile.resend_lost_answers


LINKS = {
    "{origins: [https://api.gw.example/v2]}": (
        "links.origins[0]: write the gateway's origin, like https://api.example.com "
        "(no path, no user)"
    ),
    "{keys: [_links.*.href]}": (
        "links.keys[0]: '_links.*.href' is not the name of a key, like href (a path is not needed)"
    ),
    "{keys: []}": "links.keys: should be a list of at least one, not an empty list",
    "{headers: ['X Y']}": "links.headers[0]: 'X Y' is not the name of a header",
    "{origin: []}": "links.origin: unknown key; did you mean 'origins'?",
}


@pytest.mark.parametrize("links", LINKS)
def test_what_links_cannot_be(links: str, tmp_path: Path) -> None:
    """An origin with a path, a path for a key, no key at all, a header that is none."""
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways/mine.yaml").write_text(f"{MINE}links: {links}\n")
    (told,) = mistakes(tmp_path, gateway("    profile: mine\n"))
    assert told.split(": ", 1)[1] == LINKS[links]


def test_a_profile_says_where_links_are(tmp_path: Path) -> None:
    """Without a word there are none; with an empty one, those to the configured address."""
    (tmp_path / "gateways").mkdir()
    policy = gateway("    profile: mine\n")
    expected = {
        "": None,
        "links: {}\n": Links((), ("href",), frozenset()),
        "links: {origins: [https://a.example], keys: [url], headers: [Location]}\n": Links(
            ("https://a.example",), ("url",), frozenset({"location"})
        ),
    }
    for text, links in expected.items():
        (tmp_path / "gateways/mine.yaml").write_text(MINE + text)
        assert settings_from(policy, tmp_path).gateways["g"].profile.links == links


def test_a_profiles_mistakes_name_the_profiles_file(tmp_path: Path) -> None:
    """All of them at once, with the profile's own lines, beside those of the policy."""
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways/mine.yaml").write_text(WRONG_PROFILE)
    found = mistakes(tmp_path, gateway("    profile: mine\nstore: x\n"))
    assert found == TOLD_OF_PROFILE.splitlines()


BROKEN = (
    "3:2: not YAML: while parsing a flow sequence expected ',' or ']', but got ':' "
    "(begun on line 2)"
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"title: \xff\n", "1:8: the file is not UTF-8 text"),
        (b"", "1:1: the file is empty"),
        (
            b"a:\n  b: [1\nc: 2\n",
            BROKEN,
        ),
        (b"- a\n", "1:1: a file of settings has keys with values: `key: value`"),
    ],
)
def test_a_profile_that_cannot_be_read_is_told(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    """The profile's file is blamed, not the policy's line that names it."""
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways/mine.yaml").write_bytes(content)
    assert mistakes(tmp_path, gateway("    profile: mine\n")) == [f"gateways/mine.yaml:{expected}"]


def test_only_files_are_profiles(tmp_path: Path) -> None:
    """A folder or a link to nowhere with a profile's name is no profile."""
    (tmp_path / "gateways/mine.yaml").mkdir(parents=True)
    (tmp_path / "gateways/lost.yaml").symlink_to(tmp_path / "gone.yaml")
    for name in ("mine", "lost"):
        expected = f"policy.yaml:5:5: gateways.g.profile: there is no profile '{name}'"
        (told,) = mistakes(tmp_path, gateway(f"    profile: {name}\n"))
        assert told.startswith(expected)


# --- the environment ----------------------------------------------------------------------------


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    """Any key, two underscores for each step; values are read as in the file."""
    made = settings_from(
        GATEWAY.replace("{g:", "{my-gw:") + "defaults: {retry: {max_attempts: 5}}\n",
        tmp_path,
        {
            "HOLDFAST__STORE": "memory://",
            "HOLDFAST__LISTEN__ADMIN": "127.0.0.1:9000",
            "HOLDFAST__GATEWAYS__MY_GW__UPSTREAM": "http://127.0.0.1:12111",
            "HOLDFAST__GATEWAYS__MY_GW__RETRY__AUTOMATIC_ATTEMPTS": "1",
            "HOLDFAST__DEFAULTS__RETRY__MAX_ATTEMPTS": "4",
            "HOLDFAST__DEFAULTS__BUDGET__RATIO": "0.5",
            "HOLDFAST__DEFAULTS__RETRY__RESPECT_RETRY_AFTER": "false",
            "HOLDFAST__SESSION__EXPIRES_AFTER": "20m",
            "HOLDFASTER": "not looked at",
        },
    )
    assert made.store == "memory://"
    assert (str(made.sessions), str(made.admin)) == ("127.0.0.1:8081", "127.0.0.1:9000")
    assert made.gateways["my-gw"].upstream == "http://127.0.0.1:12111"
    retry = made.gateways["my-gw"].routes.other.retry
    assert (retry.max_attempts, retry.automatic_attempts) == (4, 1)
    assert retry.respect_retry_after is False
    assert made.gateways["my-gw"].budget.ratio == 0.5
    assert made.session.expires_after == 1200.0


WRONG_VARIABLES = """
SESION__EXPIRES_AFTER=5m        => sesion: unknown key; did you mean 'session'?
SESSION__EXPIRE_AFTER=5m        => session.expire_after: unknown key; did you mean 'expires_after'?
GATEWAYS__STRIPE__UPSTREAM=http://x => gateways.stripe.listen: is missing
DEFAULTS__RETRY__MAX_ATTEMPTS=x => defaults.retry.max_attempts: should be a whole number, not the text 'x'
STORE=                          => store: should be text, not empty
STORE=99999999999999999999      => store: write a store as sqlite:///FILE, postgresql://…, redis://… or memory://
STORE__FILE=x                   => store: should be text, not keys with values
GATEWAYS__G__ROUTES__0__NAME=x  => gateways.g.routes: should be a list, [a, b] or `- ` before each item, not keys with values
GATEWAYS__G__LISTEN=127.0.0.1:8082 => gateways.g.listen: 127.0.0.1:8082 is already used by listen.admin (127.0.0.1:8082)
DEFAULTS____RETRY=x             => defaults.: unknown key; known here: breaker, budget, concurrency, max_answer, max_body, retry, timeouts
"""  # noqa: E501 -- messages as they are printed


@pytest.mark.parametrize("case", WRONG_VARIABLES.strip().splitlines())
def test_a_wrong_override_names_its_variable(case: str, tmp_path: Path) -> None:
    """The variable is blamed, never a line of the file that says something else."""
    setting, _, told = case.partition("=> ")
    name, _, value = setting.strip().partition("=")
    found = mistakes(tmp_path, GATEWAY, {f"HOLDFAST__{name}": value})
    assert found == [f"environment variable HOLDFAST__{name}: {told}"]


TOLD_OF_BOTH = """\
policy.yaml:2:1: sesion: unknown key; did you mean 'session'?
environment variable HOLDFAST__SESSION__KEEP: session.keep: unknown key; did you mean 'keep_for'?
environment variable HOLDFAST__STOR: stor: unknown key; did you mean 'store'?
"""


def test_overrides_and_the_file_are_told_together(tmp_path: Path) -> None:
    """Mistakes in both places come in one go, the file's first."""
    environ = {"HOLDFAST__STOR": "memory://", "HOLDFAST__SESSION__KEEP": "1h"}
    assert mistakes(tmp_path, f"{GATEWAY}sesion: 1\n", environ) == TOLD_OF_BOTH.splitlines()


@pytest.mark.parametrize("text", ["a: [\n", "- a\n", "", "5\n"])
def test_nothing_is_put_over_a_file_that_is_not_one(text: str, tmp_path: Path) -> None:
    """With overrides, a broken file has the same one mistake as without."""
    environ = {"HOLDFAST__STORE": "memory://", "HOLDFAST__SESSION__EXPIRES_AFTER": "5m"}
    assert mistakes(tmp_path, text, environ) == mistakes(tmp_path, text)
    assert len(mistakes(tmp_path, text)) == 1


# --- secrets ------------------------------------------------------------------------------------


def test_secrets_come_from_the_environment_or_files(tmp_path: Path) -> None:
    """A token or key as a variable, or in the file that `…_FILE` names, less its last newline."""
    (tmp_path / "operator").write_text("operators-token-1\n")
    (tmp_path / "key").write_text("ab" * 32 + "\n")
    made = settings_from(
        GATEWAY,
        tmp_path,
        {
            "HOLDFAST_BACKEND_TOKEN": "backends-token-1",
            "HOLDFAST_OPERATOR_TOKEN_FILE": str(tmp_path / "operator"),
            "HOLDFAST_VIEWER_TOKEN": "",
            "HOLDFAST_KEY_FILE": str(tmp_path / "key"),
        },
    )
    assert (made.tokens.backend, made.tokens.operator) == (
        "backends-token-1",
        "operators-token-1",
    )
    assert made.tokens.viewer is None
    assert made.keys == (bytes.fromhex("ab" * 32),)


def test_the_lookup_credential_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    """A whole header value, from where the policy says; a file's name is beside the policy."""
    (tmp_path / "cred").write_text("Bearer rk_test_file\n")
    for written, value in (
        ("env: CRED", "Bearer rk_test_env"),
        ("file: cred", "Bearer rk_test_file"),
    ):
        made = settings_from(
            gateway(f"    lookup_credential: {{{written}, header: X-Api-Key}}\n"),
            tmp_path,
            {"CRED": "Bearer rk_test_env"},
        )
        credential = made.gateways["g"].lookup_credential
        assert credential is not None
        assert (credential.header, credential.value) == ("X-Api-Key", value)


def test_no_secret_is_printed(tmp_path: Path) -> None:
    """What shows settings in a log or a traceback shows no token, key or credential."""
    made = settings_from(
        gateway("    lookup_credential: {env: CRED}\n"),
        tmp_path,
        {
            "CRED": "s3cret-1",
            "HOLDFAST_BACKEND_TOKEN": "s3cret-s3cret-2-",
            "HOLDFAST_OPERATOR_TOKEN": "s3cret-s3cret-3-",
            "HOLDFAST_VIEWER_TOKEN": "s3cret-s3cret-4-",
            "HOLDFAST_KEY": "5ec4e7" + "00" * 29,
        },
    )
    assert "s3cret" not in repr(made)
    assert repr(made.keys) not in repr(made)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("HOLDFAST_BACKEND_TOKEN", None, "cannot read the secret file: No such file or directory"),
        ("HOLDFAST_OPERATOR_TOKEN", b"", "the secret file is empty"),
        ("HOLDFAST_VIEWER_TOKEN", b" \n", "the secret file is empty"),
        ("HOLDFAST_VIEWER_TOKEN", b"\xff", "cannot read the secret file: it is not UTF-8 text"),
        ("HOLDFAST_KEY", b"short", "not 32 bytes written as 64 hexadecimal digits"),
        ("HOLDFAST_KEY", b"zz" * 32, "not 32 bytes written as 64 hexadecimal digits"),
    ],
)
def test_a_secret_file_that_is_none_is_told(
    name: str, content: bytes | None, expected: str, tmp_path: Path
) -> None:
    """A secret that was asked for and is not there never means "no secret"."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    found = mistakes(tmp_path, GATEWAY, {f"{name}_FILE": str(path)})
    assert found == [f"environment variable {name}_FILE: {expected}"]


def test_a_wrong_key_is_told_without_being_shown(tmp_path: Path) -> None:
    """The variable is named, its value is not."""
    found = mistakes(tmp_path, GATEWAY, {"HOLDFAST_KEY": "0123456789abcdef"})
    assert found == [
        "environment variable HOLDFAST_KEY: not 32 bytes written as 64 hexadecimal digits"
    ]


@pytest.mark.parametrize("between", [",", ", ", "\n", "\r\n"])
def test_several_keys_in_one_variable(between: str, tmp_path: Path) -> None:
    """In their order, with commas between them or as the lines of a key file."""
    text = between.join(("ab" * 32, "CD" * 32, "01" * 32))
    made = settings_from(GATEWAY, tmp_path, {"HOLDFAST_KEY": text})
    assert made.keys == (b"\xab" * 32, b"\xcd" * 32, b"\x01" * 32)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ab" * 32 + "," + "cd" * 31, "key 2 is not 32 bytes written as 64 hexadecimal digits"),
        ("ab" * 32 + ",", "key 2 is not 32 bytes written as 64 hexadecimal digits"),
        ("ab" * 32 + "," + "AB" * 32, "a key stands there twice"),
    ],
)
def test_a_wrong_one_of_several_keys_is_told(text: str, told: str, tmp_path: Path) -> None:
    """Which it is, by its number."""
    found = mistakes(tmp_path, GATEWAY, {"HOLDFAST_KEY": text})
    assert found == [f"environment variable HOLDFAST_KEY: {told}"]


def test_a_credential_that_no_header_can_carry_is_told(tmp_path: Path) -> None:
    """A line break in a variable would end in a failed look-up at night."""
    text = gateway("    lookup_credential: {env: CRED}\n")
    assert mistakes(tmp_path, text, {"CRED": "Bearer a\nb"}) == [
        "policy.yaml:5:5: gateways.g.lookup_credential: the credential is not printable ASCII text"
    ]


KNOWN = ", ".join(
    f"HOLDFAST_{name}"
    for name in (
        "API",
        "BACKEND_TOKEN",
        "BACKEND_TOKEN_FILE",
        "KEY",
        "KEY_FILE",
        "OPERATOR_TOKEN",
        "OPERATOR_TOKEN_FILE",
        "STORE_PASSWORD",
        "STORE_PASSWORD_FILE",
        "VIEWER_TOKEN",
        "VIEWER_TOKEN_FILE",
    )
)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("HOLDFAST_BACKEND_TOKN", "; did you mean 'HOLDFAST_BACKEND_TOKEN'?"),
        ("HOLDFAST_KEYFILE", "; did you mean 'HOLDFAST_KEY_FILE'?"),
        ("HOLDFAST_CONFIG", f"; known here: {KNOWN}"),
        ("HOLDFAST_", f"; known here: {KNOWN}"),
    ],
)
def test_a_misspelled_variable_is_told(name: str, told: str, tmp_path: Path) -> None:
    """A secret under another name would be no secret; what every name begins with is not close."""
    assert mistakes(tmp_path, GATEWAY, {name: "x"}) == [
        f"environment variable {name}: unknown variable{told}"
    ]


def test_a_variable_that_the_policy_names_is_known(tmp_path: Path) -> None:
    """Whatever else is wrong with the gateway that names it; and the command line has one."""
    credential = "    lookup_credential: {env: HOLDFAST_CREDENTIAL}\n"
    environ = {"HOLDFAST_CREDENTIAL": "Bearer rk_1", "HOLDFAST_API": "http://127.0.0.1:8081"}
    settings_from(gateway(credential), tmp_path, environ)
    (told,) = mistakes(tmp_path, gateway(credential).replace("  g:", "  G:"), environ)
    assert told.startswith("policy.yaml:2:3: gateways.G: 'G' is not a name")
    (told,) = mistakes(tmp_path, gateway(credential), {**environ, "HOLDFAST_CREDENTAIL": "x"})
    assert told.endswith("unknown variable; did you mean 'HOLDFAST_CREDENTIAL'?")


def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    """Fewer than 16 characters: the variable is named, the token is not shown."""
    (tmp_path / "viewer").write_text("x" * 15 + "\n")
    environ = {
        "HOLDFAST_BACKEND_TOKEN": "x" * 16,
        "HOLDFAST_OPERATOR_TOKEN": "op",
        "HOLDFAST_VIEWER_TOKEN_FILE": str(tmp_path / "viewer"),
    }
    assert mistakes(tmp_path, GATEWAY, environ) == [
        f"environment variable HOLDFAST_{name}: a token of fewer than 16 characters can be guessed"
        for name in ("OPERATOR_TOKEN", "VIEWER_TOKEN_FILE")
    ]


# --- listeners ----------------------------------------------------------------------------------

EXPOSED = (
    "can be reached from other machines, so tokens are required: set HOLDFAST_BACKEND_TOKEN and "
    "HOLDFAST_OPERATOR_TOKEN (or …_FILE), or listen on 127.0.0.1"
)


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.1.2.3", "holdfast.internal"])  # noqa: S104 -- refused
def test_no_door_is_open_to_others_without_tokens(host: str, tmp_path: Path) -> None:
    """Each listener that is not loopback is refused, and the way out is said."""
    more = f'listen:\n  sessions: "{host}:8081"\n  admin: "{host}:8082"\n'
    assert mistakes(tmp_path, gateway(more, listen=f'"{host}:8080"')) == [
        f"policy.yaml:3:5: gateways.g.listen: {host}:8080 {EXPOSED}",
        f"policy.yaml:6:3: listen.sessions: {host}:8081 {EXPOSED}",
        f"policy.yaml:7:3: listen.admin: {host}:8082 {EXPOSED}",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost"])
def test_loopback_needs_no_tokens(host: str, tmp_path: Path) -> None:
    """Only this machine can come in."""
    made = settings_from(gateway(listen=f'"{host}:8080"'), tmp_path)
    assert made.gateways["g"].listen.loopback
    assert not made.tokens


def test_a_gateways_door_needs_the_backends_token(tmp_path: Path) -> None:
    """It knows no other: with an operator's or viewer's token only, it would stand open."""
    text = gateway("listen: {admin: 0.0.0.0:8082}\n", listen="0.0.0.0:8080")
    for name in ("OPERATOR", "VIEWER"):
        assert mistakes(tmp_path, text, {f"HOLDFAST_{name}_TOKEN": "t" * 16}) == [
            f"policy.yaml:3:5: gateways.g.listen: 0.0.0.0:8080 {EXPOSED}"
        ]
    made = settings_from(text, tmp_path, {"HOLDFAST_BACKEND_TOKEN": "t" * 16})
    assert made.tokens.backend == "t" * 16


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("127.0.0.1:9000", "127.0.0.1:9000", True),
        ("127.0.0.1:9000", "localhost:9000", True),
        ("127.0.0.1:9000", "0.0.0.0:9000", True),
        ("0.0.0.0:9000", "127.0.0.1:9000", True),
        ("'[::]:9000'", "'[::1]:9000'", True),
        ("127.0.0.1:9000", "127.0.0.1:09000", True),
        ("127.0.0.1:9000", "127.0.0.1:9001", False),
        ("127.0.0.1:9000", "127.0.0.2:9000", False),
        ("127.0.0.1:9000", "'[::1]:9000'", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_two_listeners_do_not_share_a_place(
    first: str, second: str, clash: bool, tmp_path: Path
) -> None:
    """The same address in any spelling is told before the second bind fails."""
    text = gateway(f"listen: {{admin: {first}}}\n", listen=second)
    environ = {"HOLDFAST_BACKEND_TOKEN": "t" * 16}
    if not clash:
        settings_from(text, tmp_path, environ)
        return
    (told,) = mistakes(tmp_path, text, environ)
    assert told.startswith("policy.yaml:3:5: gateways.g.listen: ")
    assert " is already used by listen.admin (" in told


@pytest.mark.parametrize(
    ("upstream", "listener"),
    [
        ("http://127.0.0.1:8080", "gateways.g.listen (127.0.0.1:8080)"),
        ("http://localhost:8080", "gateways.g.listen (127.0.0.1:8080)"),
        ("http://127.0.0.1:8082", "listen.admin (127.0.0.1:8082)"),
        ("https://127.0.0.1", "listen.sessions (0.0.0.0:443)"),
        ("http://127.0.0.1:8083", None),
        ("http://127.0.0.1", None),
        ("https://gw.example", None),
        ("https://10.1.2.3:443", None),
    ],
)
def test_holdfast_is_not_its_own_gateway(
    upstream: str, listener: str | None, tmp_path: Path
) -> None:
    """An upstream that is surely one of its own listeners; another machine's port may be any."""
    text = gateway("listen: {sessions: 0.0.0.0:443}\n", upstream=upstream)
    environ = {"HOLDFAST_BACKEND_TOKEN": "t" * 16}
    if listener is None:
        settings_from(text, tmp_path, environ)
        return
    assert mistakes(tmp_path, text, environ) == [
        f"policy.yaml:4:5: gateways.g.upstream: {upstream} is {listener}, Holdfast itself"
    ]


# --- files --------------------------------------------------------------------------------------


def test_a_policy_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Missing, a folder, not text: a sentence, no line where there is none."""
    for path, why in (
        (tmp_path / "missing.yaml", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert str(caught.value) == f"{path}: {why}"
    assert mistakes(tmp_path, b"store: memory://\nsession: {\xe9}\n") == [
        "policy.yaml:2:11: the file is not UTF-8 text"
    ]
    assert mistakes(tmp_path, b"#" * (1024 * 1024) + "é".encode()) == [
        "policy.yaml:1:1: the file is larger than 1024 KiB"
    ]


def test_an_endless_file_is_not_read_to_its_end() -> None:
    """A device in the place of the policy ends in a mistake."""
    with pytest.raises(ConfigError) as caught:
        load(Path("/dev/zero"), {})
    assert [m.message for m in caught.value.mistakes] == ["the file is larger than 1024 KiB"]


def test_a_file_below_the_working_directory_is_named_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistakes are clickable: relative to where the person stands."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/a.yaml").write_text("zzz: 1\n")
    monkeypatch.chdir(tmp_path)
    for path in (Path("config/a.yaml"), tmp_path / "config/a.yaml"):
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert {mistake.file for mistake in caught.value.mistakes} == {"config/a.yaml"}


def test_a_working_directory_that_is_gone_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absolute path to the policy is enough."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    (tmp_path / "p.yaml").write_text(GATEWAY + "zzz: 1\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "p.yaml", {})
    assert str(caught.value).startswith(f"{tmp_path}/p.yaml:2:1: zzz: unknown key")


# --- wrong policies -----------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "told"), wrong_policies())
def test_a_wrong_policy_is_told_at_its_line(text: str, told: list[str], tmp_path: Path) -> None:
    """Line, column, key, what is wrong with it, and the nearest valid name; nothing else."""
    assert mistakes(tmp_path, text, {"SET": "x"}) == [f"policy.yaml:{line}" for line in told]


TEN = """\
listen: {session: 127.0.0.1:8081, admin: 127.0.0.1:8082}
store: mysql://db
gateways:
  Bad Name: {listen: 127.0.0.1:8083, upstream: https://gw.example}
  stripe:
    profile: strpe
    listen: 127.0.0.1:8082
    upstream: https://gw.example/v1
    routes:
      - {name: pay, match: {methods: [POST], path: pay}}
      - {name: buy, match: {methods: [POST], path: /buy}, timeouts: {attempt: 40s}}
  other:
    listen: 0.0.0.0:8084
    upstream: https://other.example
defaults:
  timeouts: {attempt: 10}
  retry: {max_attempts: 2, automatic_attempts: 3}
session: {keep_for: 1h}
"""


TOLD_OF_TEN = """\
policy.yaml:1:10: listen.session: unknown key; did you mean 'sessions'?
policy.yaml:2:1: store: write a store as sqlite:///FILE, postgresql://…, redis://… or memory://
policy.yaml:4:3: gateways.Bad Name: 'Bad Name' is not a name: up to 63 lower-case letters, digits and '-'
policy.yaml:6:5: gateways.stripe.profile: there is no profile 'strpe'; did you mean 'stripe'?
policy.yaml:7:5: gateways.stripe.listen: 127.0.0.1:8082 is already used by listen.admin (127.0.0.1:8082)
policy.yaml:8:5: gateways.stripe.upstream: write the gateway's origin, like https://api.example.com (no path, no user)
policy.yaml:10:46: gateways.stripe.routes[0].match.path: 'pay' is not a path template: it must start with '/'
policy.yaml:11:70: gateways.stripe.routes[1].timeouts.attempt: is longer than total (30s), so it would never apply
policy.yaml:13:5: gateways.other.listen: 0.0.0.0:8084 can be reached from other machines, so tokens are required: set HOLDFAST_BACKEND_TOKEN and HOLDFAST_OPERATOR_TOKEN (or …_FILE), or listen on 127.0.0.1
policy.yaml:16:14: defaults.timeouts.attempt: write a duration with its unit: 200ms, 2s, 15m, 24h or 35d
policy.yaml:17:28: defaults.retry.automatic_attempts: is more than max_attempts (2)
policy.yaml:18:11: session.keep_for: keep_for (1h) is shorter than replay_for (1d)
environment variable HOLDFAST_KEY: not 32 bytes written as 64 hexadecimal digits
environment variable HOLDFAST__SESSION__REPLAY: session.replay: unknown key; did you mean 'replay_for'?
"""  # noqa: E501 -- messages as they are printed


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    """Wrong names, types and combinations, each once and each at its own line, in one go."""
    found = mistakes(tmp_path, TEN, {"HOLDFAST_KEY": "short", "HOLDFAST__SESSION__REPLAY": "1h"})
    assert found == TOLD_OF_TEN.splitlines()


def test_mistakes_are_told_once(tmp_path: Path) -> None:
    """Two gateways with one wrong profile are one mistake in that profile."""
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways/mine.yaml").write_text(MINE + "zzz: 1\n")
    text = (
        "gateways:\n"
        '  a: {profile: mine, listen: "127.0.0.1:8080", upstream: "https://a.example"}\n'
        '  b: {profile: mine, listen: "127.0.0.1:8083", upstream: "https://b.example"}\n'
    )
    (told,) = mistakes(tmp_path, text)
    assert told.startswith("gateways/mine.yaml:29:1: zzz: unknown key")


# --- anything at all ----------------------------------------------------------------------------

ANYTHING = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# What a file is made of, so that what is drawn is often nearly right.
WORDS = st.sampled_from(
    [
        "gateways", "defaults", "session", "listen", "store", "routes", "match", "profile",
        "upstream", "timeouts", "retry", "idempotency", "lookup_credential", "stripe", "generic",
        "127.0.0.1:8080", "https://gw.example", "memory://", "sqlite:///x", "30s", "0s", "1MiB",
        "true", "null", "~", "0", "-1", "1e999", "9" * 30, "A_strong", "[", "]", "{", "}", ",",
        ":", ": ", "- ", "\n", "\n  ", "\n    ", "&a", "*a", "!x ", "<<", "|", ">", "'", '"', "\\",
        "#", "%", "\t", "\x00", "\ud800", "é", "\u2028", "env", "file", "\U0010ffff", "[key]",
    ]
)  # fmt: skip


def only_config_errors(folder: Path, text: str, environ: dict[str, str] | None = None) -> None:
    """Load whatever it is; what comes is settings, or mistakes that can be printed."""
    path = folder / "policy.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    told: ConfigError | None = None
    try:
        load(path, environ or {})
    except ConfigError as error:
        told = error
    if told is not None:
        assert told.mistakes
        assert all(mistake.message for mistake in told.mistakes)
        assert str(told).count("\n") + 1 >= len(told.mistakes)


@ANYTHING
@given(text=st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=40).map("".join)))
def test_no_text_is_too_wrong(text: str, tmp_path: Path) -> None:
    """Whatever is written, the answer is settings or mistakes: never a traceback."""
    only_config_errors(tmp_path, text)


@st.composite
def mutated(draw: st.DrawFn, source: str) -> str:
    """A valid file with a few pieces cut out, put in twice, or replaced."""
    text = source
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 12))
        text = text[:start] + draw(st.one_of(WORDS, st.just(""))) + text[start + length :]
    return text


@ANYTHING
@given(text=mutated(CONTRACT.replace("profile: stripe ", "profile: generic ")))
def test_no_slip_of_the_pen_is_too_wrong(text: str, tmp_path: Path) -> None:
    """A good policy with a few slips in it loads or is told, never half of each."""
    only_config_errors(tmp_path, text)


@ANYTHING
@given(text=mutated(MINE))
def test_no_slip_in_a_profile_is_too_wrong(text: str, tmp_path: Path) -> None:
    """The same for a profile beside the policy."""
    (tmp_path / "gateways").mkdir(exist_ok=True)
    profile = tmp_path / "gateways/mine.yaml"
    profile.write_bytes(text.encode("utf-8", "surrogatepass"))
    only_config_errors(tmp_path, gateway("    profile: mine\n"))


LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("30s")
)


def written(value: object) -> str:
    """A value in YAML's flow style, every text in double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}": {written(v)}' for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(written(item) for item in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    return "null" if value is None else str(value).lower()


PLACES = st.sampled_from(
    ["listen", "store", "gateways", "defaults", "session", "shutdown", "key_file", "g", "timeouts",
     "retry", "backoff", "budget", "breaker", "routes", "match", "methods", "path", "name", "order",
     "json", "tls", "ca_file", "idempotency", "class", "window", "env", "file", "header",
     "sessions", "upstream", "total", "max", "ratio", "expires_after"]
)  # fmt: skip


@ANYTHING
@given(
    data=st.dictionaries(
        PLACES,
        st.recursive(
            LEAVES,
            lambda inner: st.one_of(
                st.lists(inner, max_size=3), st.dictionaries(PLACES, inner, max_size=4)
            ),
            max_leaves=12,
        ),
        max_size=5,
    ),
    variables=st.dictionaries(
        st.lists(PLACES, min_size=1, max_size=4).map(lambda p: "HOLDFAST__" + "__".join(p).upper()),
        st.text(max_size=8),
        max_size=3,
    ),
)
def test_no_shape_of_data_is_too_wrong(
    data: dict[str, Any], variables: dict[str, str], tmp_path: Path
) -> None:
    """Right names with wrong things under them, in the file and in the environment."""
    only_config_errors(tmp_path, written(data) + "\n", variables)


# --- limits ---------------------------------------------------------------------------------------


def test_an_operation_inherits_what_it_does_not_write(tmp_path: Path) -> None:
    """From the gateway, and behind that from the defaults; all others keep the gateway's."""
    text = """\
gateways:
  g:
    profile: stripe
    listen: "127.0.0.1:0"
    upstream: "https://gw.example"
    breaker: {consecutive: 5, slow_call: 8s}
    concurrency: {max_queue: 7}
    operations:
      refund: {breaker: {open_for: 60s, slow_call: null}, concurrency: {max_in_flight: 20}}
defaults: {breaker: {min_calls: 9}, concurrency: {queue_timeout: 3s}}
"""
    gateway = settings_from(text, tmp_path).gateways["g"]
    assert gateway.breaker == core.BreakerPolicy(
        0.5, 9, 30.0, 15.0, consecutive=5, slow_call=8.0, probe="/v1/balance"
    )
    assert gateway.operations == {
        "refund": core.Limits(
            core.ConcurrencyPolicy(20, 7, 3.0),
            core.BreakerPolicy(0.5, 9, 30.0, 60.0, consecutive=5, probe="/v1/balance"),
        )
    }


def test_where_a_probe_goes(tmp_path: Path) -> None:
    """Where the policy says, else where the profile says, else to the root."""
    for profile, breaker, path in (
        ("stripe", "", "/v1/balance"),
        ("generic", "", "/"),
        ("stripe", "defaults: {breaker: {probe: /ping}}\n", "/ping"),
    ):
        made = settings_from(GATEWAY.replace("stripe", profile) + breaker, tmp_path)
        assert made.gateways["g"].breaker.probe == path
