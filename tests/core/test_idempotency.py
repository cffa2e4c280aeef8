"""Who a payment is, and what a second request for it gets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.core.idempotency import (
    Duplicate,
    Identity,
    KeySource,
    closed_verdict,
    fingerprint_of,
    identify,
    judge,
    may_supersede,
    tenant_of,
)
from proxy.core.policy import OrderLock
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import InboundRequest
from proxy.keyring import Keyring
from proxy.settings.values import Gateway
from tests.support.building import AT, MINUTE, a_request, a_session

IN_FLIGHT, UNKNOWN, NOT_SENT, REJECTED, DECLINED, ACCEPTED, VOIDED, SUCCEEDED = AttemptStatus
BODY = b"amount=1999"
PAY = a_request(BODY, values={"authorization": "Bearer sk_1"})
digest = Keyring(b"k" * 32).digest


def who(
    stripe: Gateway,
    request: InboundRequest,
    *,
    route: str = "/v1/payment_intents",
    lock: OrderLock = OrderLock.NAMED,
    body_order: str | None = None,
    generation: int = 1,
) -> Identity:
    """The identity of a request to Stripe."""
    policy = dataclasses.replace(stripe.routes.match("POST", route), order_lock=lock)
    return identify(
        request,
        policy,
        digest,
        credential_headers=stripe.profile.credential_headers,
        body_order=body_order,
        random_key=lambda: "rolled",
        generation=generation,
    )


# --- identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "source"),
    [
        ({"client_key": "k-1", "session_id": "ps_1", "order_ref": "o-1"}, KeySource.CLIENT),
        ({"session_id": "ps_1", "order_ref": "o-1"}, KeySource.SESSION),
        ({"order_ref": "o-1"}, KeySource.ORDER),
        ({}, KeySource.GENERATED),
    ],
)
def test_where_the_key_comes_from(
    stripe: Gateway, named: dict[str, Any], source: KeySource
) -> None:
    """The caller's own key, else the session it names, else the order, else a new one."""
    assert who(stripe, replace(PAY, **named)).source is source


@pytest.mark.parametrize(
    ("lock", "named", "source"),
    [
        (OrderLock.BODY, {}, KeySource.BODY),
        (OrderLock.BODY, {"client_key": "k-1"}, KeySource.CLIENT),
        (OrderLock.BODY, {"order_ref": "o-1"}, KeySource.ORDER),
        (OrderLock.NAMED, {}, KeySource.GENERATED),
        (OrderLock.OFF, {}, KeySource.GENERATED),
    ],
)
def test_an_order_in_the_body_is_a_name_where_it_locks(
    stripe: Gateway, lock: OrderLock, named: dict[str, Any], source: KeySource
) -> None:
    """Its very bytes again are then the same payment."""
    identity = who(stripe, replace(PAY, **named), lock=lock, body_order="o-2")
    assert identity.source is source
    again = who(stripe, replace(PAY, **named), lock=lock, body_order="o-2")
    assert again.key_hash == identity.key_hash
    other = replace(PAY, body=b"amount=2999", **named)
    changed = who(stripe, other, lock=lock, body_order="o-2").key_hash != identity.key_hash
    assert changed is (source in {KeySource.BODY, KeySource.ORDER})


def test_the_callers_key_goes_to_the_gateway_as_it_is(stripe: Gateway) -> None:
    """It is never rewritten: the gateway may know it from before."""
    assert who(stripe, replace(PAY, client_key="k-1")).gateway_key == "k-1"
    assert who(stripe, replace(PAY, client_key='"k-1"')).gateway_key == '"k-1"'


def test_quoted_and_bare_are_the_same_payment(stripe: Gateway) -> None:
    """Which spelling was sent first is the gateway's to know."""
    bare = who(stripe, replace(PAY, client_key="k-1"))
    quoted = who(stripe, replace(PAY, client_key='"k-1"'))
    assert bare.key_hash == quoted.key_hash
    assert bare.key_hash != who(stripe, replace(PAY, client_key="k-2")).key_hash


@pytest.mark.parametrize("named", [{"session_id": "ps_1"}, {"order_ref": "o-1"}])
def test_a_derived_key_is_the_same_after_losing_the_store(
    stripe: Gateway, named: dict[str, Any]
) -> None:
    """It follows from what the request says, so that a repeat leads to the same gateway key."""
    first, second = who(stripe, replace(PAY, **named)), who(stripe, replace(PAY, **named))
    assert first == second
    assert len(first.gateway_key or "") == 32
    assert first.gateway_key != first.key_hash


def test_a_generated_key(stripe: Gateway) -> None:
    """Nothing names the payment, so nothing can name it again."""
    identity = who(stripe, PAY)
    policy = stripe.routes.match("POST", "/v1/payment_intents")
    other = identify(
        PAY,
        policy,
        digest,
        credential_headers=(),
        body_order=None,
        random_key=lambda: "rolled again",
    )
    assert len({identity.gateway_key, other.gateway_key, "rolled"}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"gateway": "plain"},
        {"values": {"authorization": "Bearer sk_2"}},
        {"values": {"authorization": "Bearer sk_1", "stripe-account": "acct_1"}},
        {"values": {}},
    ],
)
def test_keys_are_scoped_by_gateway_and_credential(stripe: Gateway, change: dict[str, Any]) -> None:
    """The same key of another merchant is another payment."""
    mine = who(stripe, replace(PAY, client_key="k-1"))
    theirs = who(stripe, replace(PAY, client_key="k-1", **change))
    assert mine.tenant != theirs.tenant
    assert mine.key_hash != theirs.key_hash


def test_only_credentials_make_a_tenant() -> None:
    """Another header of the request does not."""
    names = ("authorization", "x-api-key")
    plain = tenant_of(PAY, names, digest)
    traced = replace(PAY, values={**PAY.values, "traceparent": "00-1"})
    assert tenant_of(traced, names, digest) == plain
    swapped = replace(PAY, values={"x-api-key": "Bearer sk_1"})
    assert tenant_of(swapped, names, digest) != plain


def test_a_tenant_is_remembered_for_its_install_alone() -> None:
    """Another secret key makes another tenant of the same credential, whoever was asked first."""
    names = ("authorization",)
    ours, theirs = (tenant_of(PAY, names, Keyring(key * 32).digest) for key in (b"k", b"o"))
    assert ours != theirs
    assert ours == tenant_of(PAY, names, digest)


def test_keys_are_scoped_by_route(stripe: Gateway) -> None:
    """A key of a payment says nothing about a refund."""
    request = replace(PAY, client_key="k-1")
    pay, refund = who(stripe, request), who(stripe, request, route="/v1/refunds")
    assert pay.key_hash != refund.key_hash


@pytest.mark.parametrize(
    "change", [{"method": "PUT"}, {"target": "/v1/charges"}, {"body": b"amount=2999"}]
)
def test_the_fingerprint_is_method_target_and_body(change: dict[str, Any]) -> None:
    """Byte for byte; headers may differ."""
    changed = replace(PAY, **change)
    assert fingerprint_of(changed, digest) != fingerprint_of(PAY, digest)
    retold = replace(PAY, headers=(("User-Agent", "x"),), values={})
    assert fingerprint_of(retold, digest) == fingerprint_of(PAY, digest)


def test_another_body_for_an_order_is_another_payment(stripe: Gateway) -> None:
    """Whether it may happen is for the order lock to say."""
    named = replace(PAY, order_ref="o-1")
    again, other = who(stripe, named), who(stripe, replace(named, body=b"amount=1"))
    assert again.key_hash != other.key_hash
    assert again.order_ref == other.order_ref == "o-1"


def test_the_next_generation_has_keys_of_its_own(stripe: Gateway) -> None:
    """A new try of an order that ended without a charge; a client's own key stays what it is."""
    named = replace(PAY, order_ref="o-1")
    first, second = who(stripe, named), who(stripe, named, generation=2)
    assert first.key_hash != second.key_hash
    assert first.gateway_key != second.gateway_key
    assert second.generation == 2
    mine = replace(PAY, client_key="k-1")
    assert who(stripe, mine).key_hash == who(stripe, mine, generation=2).key_hash


@pytest.mark.parametrize(
    ("named", "body_order", "lock", "order", "locks"),
    [
        ({"order_ref": "o-1"}, None, OrderLock.NAMED, "o-1", True),
        ({"order_ref": "o-1"}, "o-2", OrderLock.NAMED, "o-1", True),
        ({"order_ref": "o-1"}, None, OrderLock.BODY, "o-1", True),
        ({"order_ref": "o-1"}, None, OrderLock.OFF, "o-1", False),
        # A session the backend created names its order: binding it keeps the lock.
        ({"session_id": "ps_1"}, None, OrderLock.NAMED, None, True),
        ({"session_id": "ps_1", "client_key": "k"}, None, OrderLock.NAMED, None, True),
        ({"session_id": "ps_1"}, None, OrderLock.OFF, None, False),
        # Read from the body it links and shows; it locks only where the policy says so.
        ({}, "o-2", OrderLock.NAMED, "o-2", False),
        ({"client_key": "k"}, "o-2", OrderLock.NAMED, "o-2", False),
        ({}, "o-2", OrderLock.BODY, "o-2", True),
        ({}, "o-2", OrderLock.OFF, "o-2", False),
        ({}, None, OrderLock.NAMED, None, False),
    ],
)
def test_the_order_and_its_lock(
    stripe: Gateway,
    named: dict[str, Any],
    body_order: str | None,
    lock: OrderLock,
    *,
    order: str | None,
    locks: bool,
) -> None:
    """Who named the order decides whether it locks."""
    identity = who(stripe, replace(PAY, **named), lock=lock, body_order=body_order)
    assert (identity.order_ref, identity.order_locks) == (order, locks)


# --- duplicates ---------------------------------------------------------------------------------

LATE = AT + 15 * MINUTE
FAILED = State.FAILED_MAX_RETRIES
SAME = Identity(
    tenant="t",
    source=KeySource.CLIENT,
    key_hash="k",
    gateway_key="gk",
    fingerprint="f",
    generation=1,
    order_ref=None,
    order_locks=False,
)
OTHER_BODY = replace(SAME, fingerprint="another")


def known(*statuses: AttemptStatus, state: State, **changes: Any) -> Session:
    """A session whose request is `SAME`."""
    return a_session(*statuses, state=state, fingerprint="f", **changes)


MATRIX = [
    (known(state=State.INITIATED), Duplicate.RESUMED),
    (known(IN_FLIGHT, state=State.INITIATED), Duplicate.IN_PROGRESS),
    (known(UNKNOWN, IN_FLIGHT, state=State.RESUMED), Duplicate.IN_PROGRESS),
    (known(IN_FLIGHT, state=State.INTERRUPTED, hold=True), Duplicate.IN_PROGRESS),
    (known(IN_FLIGHT, state=State.INITIATED, cancel_requested=True), Duplicate.IN_PROGRESS),
    (known(REJECTED, state=State.INTERRUPTED), Duplicate.RESUMED),
    (known(UNKNOWN, state=State.INTERRUPTED), Duplicate.RESUMED),
    (known(UNKNOWN, state=State.RESUMED), Duplicate.RESUMED),
    (known(NOT_SENT, state=State.INTERRUPTED, hold=True), Duplicate.HELD),
    (known(UNKNOWN, state=State.INTERRUPTED, hold=True), Duplicate.HELD),
    (known(NOT_SENT, state=State.INTERRUPTED, cancel_requested=True), Duplicate.CANCELLED),
    # Wanted cancelled, and a charge cannot be excluded: only asked about, never sent again.
    (known(UNKNOWN, state=State.INTERRUPTED, cancel_requested=True), Duplicate.RECONCILED),
    (known(SUCCEEDED, state=State.COMPLETED), Duplicate.REPLAYED),
    (known(ACCEPTED, state=State.COMPLETED), Duplicate.REPLAYED),
    (known(DECLINED, state=State.DECLINED), Duplicate.REPLAYED),
    (known(REJECTED, state=FAILED), Duplicate.REPLAYED),
    (known(UNKNOWN, state=FAILED), Duplicate.RECONCILED),
    (known(state=State.CANCELLED), Duplicate.CANCELLED),
    (known(state=State.EXPIRED), Duplicate.EXPIRED),
]


@pytest.mark.parametrize(("session", "verdict"), MATRIX)
def test_the_duplicate_matrix(session: Session, verdict: Duplicate) -> None:
    """The same key and the same request, by what the first one came to."""
    assert judge(session, SAME, being_walked=False, now_ms=AT) is verdict


@pytest.mark.parametrize(("session", "_verdict"), MATRIX)
def test_another_body_is_refused_first(session: Session, _verdict: Duplicate) -> None:
    """Whatever the session's state, and also while it is under way."""
    for walked in (True, False):
        verdict = judge(session, OTHER_BODY, being_walked=walked, now_ms=LATE)
        assert verdict is Duplicate.KEY_REUSED


@pytest.mark.parametrize(("session", "_verdict"), MATRIX)
def test_whoever_comes_while_it_is_walked_joins(session: Session, _verdict: Duplicate) -> None:
    """The walk that is under way answers both."""
    assert judge(session, SAME, being_walked=True, now_ms=LATE) is Duplicate.JOINED


@pytest.mark.parametrize(
    ("session", "verdict"),
    [
        (known(REJECTED, state=State.INTERRUPTED), Duplicate.EXPIRED),
        (known(state=State.INITIATED), Duplicate.EXPIRED),
        (known(NOT_SENT, state=State.INTERRUPTED, hold=True), Duplicate.EXPIRED),
        # Not what may have been charged, and not what has ended.
        (known(UNKNOWN, state=State.INTERRUPTED), Duplicate.RESUMED),
        (known(IN_FLIGHT, state=State.INITIATED), Duplicate.IN_PROGRESS),
        (known(SUCCEEDED, state=State.COMPLETED), Duplicate.REPLAYED),
        (known(DECLINED, state=State.DECLINED), Duplicate.REPLAYED),
    ],
)
def test_after_the_deadline(session: Session, verdict: Duplicate) -> None:
    """What is provably not charged has expired, also if no timer has said so yet."""
    assert judge(session, SAME, being_walked=False, now_ms=LATE) is verdict


@pytest.mark.parametrize(
    ("session", "verdict"),
    [(session, verdict) for session, verdict in MATRIX if not session.live],
)
def test_closed(session: Session, verdict: Duplicate) -> None:
    """The verdict on what is past sending needs nothing but the session."""
    assert closed_verdict(session) is verdict


@pytest.mark.parametrize("source", KeySource)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("outcome", Outcome)
def test_who_may_start_over(source: KeySource, state: State, outcome: Outcome) -> None:
    """Only who names nothing but the order, and only when its try is closed without a charge."""
    session = replace(a_session(state=state), outcome=outcome)
    closed = state in {State.CANCELLED, State.EXPIRED, FAILED}
    over = {
        KeySource.ORDER: closed,
        # It was never said to be another try, so after a decline it is one.
        KeySource.BODY: closed or state is State.DECLINED,
    }
    expected = over.get(source, False) and outcome is Outcome.NOT_CHARGED
    assert may_supersede(session, replace(SAME, source=source)) is expected
