"""Who is this payment? Opens a session for a new one, and finds the known one for a duplicate.

Session and duplicate check are one claim: whoever claims the key (and the order) first has the
payment, everyone else is told who has it. Nothing is sent on a claim alone.
"""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from msgspec import Struct
from msgspec.structs import replace

from proxy.core import events as ev
from proxy.core.bodyfields import body_values
from proxy.core.idempotency import (
    Duplicate,
    Identity,
    closed_verdict,
    identify,
    judge,
    may_supersede,
)
from proxy.core.policy import NewKey, RoutePolicy, SessionPolicy
from proxy.core.refusals import Refusal
from proxy.core.session import Session, apply, opened
from proxy.core.states import Outcome
from proxy.core.wire import InboundRequest
from proxy.flow.journal import Change, Journal
from proxy.flow.recent import Recent
from proxy.flow.walk import Lane, Walks
from proxy.ports import Clock, Conflict, Dice, KeyTaken, OrderTaken, Secrets, SessionStore


class Opened(Struct, frozen=True):
    """A new payment: the session is claimed, and the caller brings it forward. `twin` is the one
    that asked for the very same under another key.
    """

    session: Session
    twin: Session | None = None


class Known(Struct, frozen=True):
    """A duplicate: the session it is of, and what it gets."""

    session: Session
    verdict: Duplicate


class Refused(Struct, frozen=True):
    """The request contradicts what is known."""

    refusal: Refusal
    session: Session | None = None


class Arrival(Struct, frozen=True):
    """A request with who it says it is and what its body tells."""

    lane: Lane
    route: RoutePolicy
    request: InboundRequest
    identity: Identity
    amount: str | None
    currency: str | None
    body_order: str | None


class Intake:
    """Opens sessions."""

    def __init__(  # noqa: PLR0913 -- the ports it needs, no more
        self,
        *,
        store: SessionStore,
        journal: Journal,
        walks: Walks,
        secrets: Secrets,
        clock: Clock,
        dice: Dice,
        policy: SessionPolicy,
    ) -> None:
        self._store = store
        self._journal = journal
        self._walks = walks
        self._secrets = secrets
        self._clock = clock
        self._dice = dice
        self._expires_after_ms = int(policy.expires_after * 1000)
        self._recent = Recent(clock, policy.expires_after)
        self._binding: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def arrival(self, lane: Lane, route: RoutePolicy, request: InboundRequest) -> Arrival:
        """Read who the payment is."""
        told = body_values(request, route.places)
        order = told["order"]
        identity = self._identity(lane, route, request, body_order=order, generation=1)
        return Arrival(lane, route, request, identity, told["amount"], told["currency"], order)

    def _identity(
        self,
        lane: Lane,
        route: RoutePolicy,
        request: InboundRequest,
        *,
        body_order: str | None,
        generation: int,
    ) -> Identity:
        return identify(
            request,
            route,
            self._secrets.digest,
            credential_headers=lane.profile.credential_headers,
            body_order=body_order,
            random_key=self._dice.key,
            carries_key=lane.profile.key.carries(request),
            generation=generation,
        )

    async def open_or_join(self, arrival: Arrival) -> Opened | Known | Refused:
        """Claim the payment, or find who has it. Raises `StoreUnavailable`."""
        session_id = arrival.request.session_id
        while True:
            try:
                return await self._claim(arrival, session_id)
            except KeyTaken as taken:
                if not may_supersede(taken.holder, arrival.identity):
                    return self._known(taken.holder, arrival)
                arrival = self._next_generation(arrival, taken.holder)
            except OrderTaken as taken:
                if await self._expired(taken.holder) is not None:
                    continue
                if taken.holder.bound or session_id is not None:
                    return _order_taken(taken.holder)
                # The backend created a session for this order and now sends its request without
                # naming it: it is this payment's session.
                session_id = taken.holder.id
            except Conflict:  # someone was quicker; look again
                continue

    async def _claim(self, arrival: Arrival, session_id: str | None) -> Opened | Known | Refused:
        if session_id is not None:
            # One at a time: until the store has answered, nobody can tell that it is being walked.
            binding = self._binding.setdefault(session_id, asyncio.Lock())
            async with binding:
                return await self._bind(arrival, session_id)
        event = ev.Opened(self._clock.now_ms())
        session = self._new(arrival, event)
        claimed = False
        try:
            twin = await self._twin(arrival, session)
            if twin is not None and arrival.route.new_key is NewKey.REFUSE:
                return Refused(Refusal.NEW_KEY, twin if twin.id else None)
            await self._first(session, 0)
            claimed = True
        finally:  # its key has another session, is refused, or the store is away
            if not claimed:
                self._recent.drop(arrival.identity, session.id)
        self._journal.opened(session, event)
        return Opened(session, twin)

    async def _twin(self, arrival: Arrival, session: Session) -> Session | None:
        """The session that asked for the very same under another key, and is open or has charged;
        no locked order keeps it from being paid twice.
        """
        identity = arrival.identity
        if arrival.route.new_key is NewKey.ALLOW or session.locks_order:
            return None
        others = self._recent.others(identity)
        self._recent.add(identity, session.id)  # before anything else can come between
        for key_hash, session_id in others.items():
            walk = self._walks.by_key.get(key_hash)
            other = await self._store.get(session_id) if walk is None else walk.session
            if other is not None and (other.live or other.outcome is not Outcome.NOT_CHARGED):
                return other
        return None

    async def _first(self, session: Session, expected_version: int) -> None:
        """Claim it. Whoever has it already is told as it is on record: what is being written of
        that one may still fail, and nobody may hear of it before.
        """
        try:
            await self._store.claim(session, expected_version)
        except (KeyTaken, OrderTaken) as taken:
            holder = await self._store.get(taken.holder.id)
            if holder is None or (isinstance(taken, OrderTaken) and not holder.locks_order):
                raise Conflict(holder) from None
            raise type(taken)(holder) from None

    async def _bind(self, arrival: Arrival, session_id: str) -> Opened | Known | Refused:
        """A request that belongs to a session the backend created before."""
        stored = await self._store.get(session_id)
        if stored is None:
            return Refused(Refusal.SESSION_UNKNOWN)
        identity = arrival.identity
        if not _belongs(stored, arrival):
            return Refused(Refusal.SESSION_TAKEN, stored)
        if stored.bound:
            return self._known(stored, arrival)
        if (expired := await self._expired(stored)) is not None:
            return Refused(Refusal.SESSION_EXPIRED, expired)
        if not stored.live:
            return Known(stored, closed_verdict(stored))
        bound = ev.Bound(
            at=self._clock.now_ms(),
            gateway=arrival.lane.name,
            route=arrival.route.name,
            operation=arrival.route.operation,
            tenant=identity.tenant,
            key_hash=identity.key_hash,
            gateway_key=identity.gateway_key,
            fingerprint=identity.fingerprint,
            order_locks=identity.order_locks,
            named=identity.named,
            max_attempts=arrival.route.retry.max_attempts,
            order_in_body=arrival.body_order is not None and arrival.body_order == stored.order_ref,
            key_at=arrival.lane.profile.key.where,
        )
        session = apply(stored, bound)
        await self._first(session, stored.version)
        return Opened(session)

    def _known(self, session: Session, arrival: Arrival) -> Known:
        verdict = judge(
            session,
            arrival.identity,
            being_walked=session.id in self._walks.by_session,
            now_ms=self._clock.now_ms(),
        )
        return Known(session, verdict)

    async def _expired(self, session: Session) -> Session | None:
        """The session, closed, if its deadline had passed without a charge."""
        now = self._clock.now_ms()
        if not session.due_to_expire(now) or session.id in self._walks.by_session:
            return None

        def expire(current: Session) -> Change:
            return Change([ev.Expired(now)] if current.due_to_expire(now) else [])

        return await self._journal.update(session, expire, frozenset())

    def _next_generation(self, arrival: Arrival, earlier: Session) -> Arrival:
        """The same order and body once more, after the earlier try is closed without a charge.

        The key at the gateway changes only where the gateway has seen it: were the store lost, what
        was never sent must lead to the same key again.
        """
        identity = self._identity(
            arrival.lane,
            arrival.route,
            arrival.request,
            body_order=arrival.identity.order_ref,
            generation=arrival.identity.generation + 1,
        )
        if earlier.gateway_key is not None and not any(a.sent for a in earlier.attempts):
            identity = replace(identity, gateway_key=earlier.gateway_key)
        return replace(arrival, identity=identity)

    def _new(self, arrival: Arrival, event: ev.Opened) -> Session:
        route, identity = arrival.route, arrival.identity
        return opened(
            event,
            self._dice.session_id(),
            arrival.lane.name,
            event.at + self._expires_after_ms,
            route.retry.max_attempts,
            route.name,
            route.operation,
            identity.tenant,
            identity.key_hash,
            identity.gateway_key,
            identity.generation,
            identity.fingerprint,
            named=identity.named,
            order_ref=identity.order_ref,
            order_locks=identity.order_locks,
            user_ref=arrival.request.user_ref,
            amount=arrival.amount,
            currency=arrival.currency,
            order_in_body=arrival.body_order is not None
            and arrival.body_order == identity.order_ref,
            key_at=arrival.lane.profile.key.where,
        )


def _belongs(stored: Session, arrival: Arrival) -> bool:
    """Whether a named session can be this request's.

    Before its request has come, by gateway and order. Afterwards by its key; a request without a
    key of its own may name the session instead, with the same credential and on the same route
    (another body is then refused as another body).
    """
    if stored.bound and arrival.request.client_key is not None:
        return stored.key_hash == arrival.identity.key_hash
    if stored.bound:
        same_credential = stored.tenant == arrival.identity.tenant
        return same_credential and stored.route == arrival.route.name
    here = stored.gateway in {None, arrival.lane.name}
    return here and arrival.request.order_ref in {None, stored.order_ref}


def _order_taken(holder: Session) -> Refused:
    charged = holder.outcome is Outcome.CHARGED
    return Refused(Refusal.ORDER_PAID if charged else Refusal.ORDER_OPEN, holder)
