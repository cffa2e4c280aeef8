"""Who a payment is, and what a second request for it gets.

The key of a payment is the client's own, else the session it names, else the order it names, else
the `Idempotency-Key` that it sends though its gateway reads none there, else the order in its body
(where the route says that this one locks), else a generated one. The gateway key is derived from
the same identity (never from a clock or a session's id that Holdfast made), so that even the loss
of the whole store leads to the same key at the gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import StrEnum
from functools import lru_cache
from typing import Protocol

from msgspec import Struct

from proxy.core.http_rules import normal_key
from proxy.core.policy import OrderLock, RoutePolicy
from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.core.wire import InboundRequest

# Whoever sends this expects one payment of it, wherever the gateway wants its key.
KEY_HEADER = "idempotency-key"
_TENANTS = 256  # remembered at once; one more and the longest unseen is forgotten


class Digest(Hashable, Protocol):
    """A keyed hash of some text parts, as hex. Keyed, because bodies hold guessable secrets."""

    def __call__(self, *texts: str, body: bytes = b"") -> str:
        """The hash; texts are told apart by their length."""
        ...


class KeySource(StrEnum):
    """Where a payment's key came from."""

    CLIENT = "client"
    SESSION = "session"
    ORDER = "order"
    BODY = "body"
    GENERATED = "generated"


# Bound once: reaching a member through its enum costs more than what is done with it.
_CLIENT, _SESSION, _ORDER, _IN_BODY, _GENERATED = (
    KeySource.CLIENT,
    KeySource.SESSION,
    KeySource.ORDER,
    KeySource.BODY,
    KeySource.GENERATED,
)
_BODY, _OFF = OrderLock.BODY, OrderLock.OFF


class Identity(Struct, frozen=True, gc=False):
    """Who a payment is."""

    tenant: str
    source: KeySource
    key_hash: str
    gateway_key: str | None  # None: what is sent bears no key
    fingerprint: str
    generation: int
    order_ref: str | None
    order_locks: bool

    @property
    def named(self) -> bool:
        """Whether the same bytes again are the same payment."""
        return self.source is not _GENERATED


def tenant_of(request: InboundRequest, credential_headers: tuple[str, ...], digest: Digest) -> str:
    """Keys of one credential never meet keys of another. Header names in lower case."""
    return _tenant(digest, request.gateway, *map(request.values.get, credential_headers))


@lru_cache(maxsize=_TENANTS)
def _tenant(digest: Digest, gateway: str, *credentials: str | None) -> str:
    """Remembered: a backend shows the same few credentials with every request."""
    return digest("tenant", gateway, *(credential or "" for credential in credentials))[:32]


def fingerprint_of(request: InboundRequest, digest: Digest) -> str:
    """What makes two requests the same one: method, target and body, byte for byte."""
    return digest("fingerprint", request.method, request.target, body=request.body)


def identify(  # noqa: PLR0913 -- the parts of an identity, each from another place
    request: InboundRequest,
    route: RoutePolicy,
    digest: Digest,
    *,
    credential_headers: tuple[str, ...],
    body_order: str | None,
    random_key: Callable[[], str],
    carries_key: bool = True,
    generation: int = 1,
) -> Identity:
    """The identity of a request. `random_key` is used when nothing names the payment;
    `carries_key`: whether one can be put into a request that has none.
    """
    tenant = tenant_of(request, credential_headers, digest)
    fingerprint = fingerprint_of(request, digest)
    named_order = request.order_ref
    if request.client_key is not None:
        # Quoted or bare it is the same payment. What the gateway saw is kept as it was sent.
        source, name = _CLIENT, normal_key(request.client_key) or request.client_key
    elif request.session_id is not None:
        source, name = _SESSION, request.session_id
    elif named_order is not None:
        # The body is part of an order's key: another body for the same order is another payment,
        # and whether it may happen is for the order lock to say.
        source, name = _ORDER, f"{named_order}\n{fingerprint}\n{generation}"
    elif (told := normal_key(request.values.get(KEY_HEADER, ""))) is not None:
        source, name = _CLIENT, told
    elif body_order is not None and route.order_lock is _BODY:
        source, name = _IN_BODY, f"{body_order}\n{fingerprint}\n{generation}"
    else:
        source, name = _GENERATED, random_key()
    scope, text = (tenant, route.name, source), name.encode()
    key_hash = digest("key", *scope, body=text)[:32]
    made = digest("gateway key", *scope, body=text)[:32] if carries_key else None
    gateway_key = request.client_key or made
    # A session that the backend created names its order too: binding must not lose the lock.
    named = named_order is not None or request.session_id is not None
    locks = named or route.order_lock is _BODY
    return Identity(
        tenant,
        source,
        key_hash,
        gateway_key,
        fingerprint,
        generation,
        named_order or body_order,
        locks and route.order_lock is not _OFF,
    )


def next_gateway_key(digest: Digest, session: Session) -> str:
    """The gateway key of what is sent once the one before is proved to have charged nothing.

    A client's own key is the first, as it was sent; every later one is made of the one before, so
    that the same proofs lead to the same keys.
    """
    return _key_after(digest, session, session.gateway_key or "", session.generation)


def _key_after(digest: Digest, session: Session, key: str, generation: int) -> str:
    return digest("next gateway key", session.tenant or "", key, str(generation + 1))[:32]


def had_key(digest: Digest, session: Session, key: str) -> bool:
    """Whether that is the session's gateway key, or one before it."""
    for first in range(session.generation, 0, -1):
        later = key
        for generation in range(first, session.generation):
            later = _key_after(digest, session, later, generation)
        if later == session.gateway_key:
            return True
    return False


class Duplicate(StrEnum):
    """What a second request for a known payment gets; label `verdict` of
    `holdfast_duplicates_total`.
    """

    JOINED = "joined"
    REPLAYED = "replayed"
    RESUMED = "resumed"
    RECONCILED = "reconciled"
    KEY_REUSED = "key_reused"
    ORDER_LOCKED = "order_locked"
    NEW_KEY = "new_key"
    IN_PROGRESS = "in_progress"
    HELD = "held"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


def judge(session: Session, identity: Identity, *, being_walked: bool, now_ms: int) -> Duplicate:
    """The verdict on a request whose key is already known (the duplicate matrix).

    `being_walked`: this process is bringing the session forward right now.
    """
    if session.fingerprint != identity.fingerprint:
        return Duplicate.KEY_REUSED
    if being_walked:
        return Duplicate.JOINED
    if session.due_to_expire(now_ms) and not session.in_flight:
        return Duplicate.EXPIRED
    return _judge_live(session) if session.live else closed_verdict(session)


def closed_verdict(session: Session) -> Duplicate:
    """What a request for a session gets that is past sending."""
    if session.outcome is Outcome.UNKNOWN:  # whatever was told before
        return Duplicate.RECONCILED
    match session.state:
        case State.CANCELLED:
            return Duplicate.CANCELLED
        case State.EXPIRED:
            return Duplicate.EXPIRED
        case _:
            return Duplicate.REPLAYED


def _judge_live(session: Session) -> Duplicate:
    if session.in_flight:
        return Duplicate.IN_PROGRESS
    if session.cancel_requested and session.outcome is Outcome.NOT_CHARGED:
        return Duplicate.CANCELLED
    if session.hold:
        return Duplicate.HELD
    if session.cancel_requested:
        return Duplicate.RECONCILED
    return Duplicate.RESUMED


def may_supersede(session: Session, identity: Identity) -> bool:
    """Whether a request that only names its order may start over under a new generation.

    A client with a key of its own says "new try" with a new key; one that names only the order
    cannot, so once the earlier try is closed without a charge the next request is the new try. One
    that only says it in the body, as it always did, means another try after a decline as well.
    """
    closed = {State.CANCELLED, State.EXPIRED, State.FAILED_MAX_RETRIES}
    if identity.source is _IN_BODY:
        closed.add(State.DECLINED)
    return (
        identity.source in {_ORDER, _IN_BODY}
        and session.state in closed
        and session.outcome is Outcome.NOT_CHARGED
    )
