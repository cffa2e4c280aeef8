"""Ask the gateway what became of a session whose outcome is unknown: one step, start to end.

Used on the fly when the client repeats, resumes or reads the session, and by the reconciler in the
background. It reads, and where the gateway's class says so (or a person wants the payment
cancelled) it has voided what may be there. What it learns is evidence and settles the session; what
it does not find changes nothing but the time of the next look.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from proxy.core import events as ev
from proxy.core import lookup
from proxy.core.classify import fits
from proxy.core.documents import kind_of
from proxy.core.idempotency import Digest, next_gateway_key
from proxy.core.profile import LookupRecipe
from proxy.core.reasons import Reason
from proxy.core.recovery import may_be_voided, next_lookup_at, ripe
from proxy.core.retrying import key_moved, promised
from proxy.core.session import Session, apply
from proxy.core.slots import filled_body, filled_target
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import Headers
from proxy.flow.answer import forwarded, without_answer
from proxy.flow.held import HeldRequests
from proxy.flow.journal import Change, Journal
from proxy.flow.walk import Lane
from proxy.ports import Clock, Send

# A look-up is a read; it gets the time-outs of one.
_CONNECT_SECONDS = 2.0
_MAX_ANSWER_BYTES = 8 * 1024 * 1024


class Reconcile:
    """Settles sessions by the gateway's own word."""

    def __init__(self, journal: Journal, held: HeldRequests, clock: Clock, digest: Digest) -> None:
        self._journal = journal
        self._held = held
        self._clock = clock
        self._digest = digest

    def possible(self, lane: Lane, session: Session) -> bool:
        """Whether the gateway can be asked about it."""
        return self.missing(lane, session) is None

    def missing(self, lane: Lane, session: Session) -> str | None:
        """What it takes to ask and is not there: a recipe for what the session needs, or a
        credential to ask with.
        """
        recipe = self._recipe(lane, session)
        if recipe is None:
            return f"the profile has no look-up for route {session.route}"
        if not self._credential(lane, session):
            return "there is no credential to look it up with; see lookup_credential in the policy"
        voidable = may_be_voided(session, recipe, promised(lane.profile, session))
        may_void = voidable and self._sees_all(lane, session)
        if may_void or lookup.can_read(recipe, session):
            return None
        return "its look-up cannot read it: by an order the gateway was not told, or not at all"

    def _recipe(self, lane: Lane, session: Session) -> LookupRecipe | None:
        """How this session's kind is looked up."""
        for _, route in lane.routes.routes:
            if route.name == session.route:
                return lane.profile.lookups.get(route.lookup or "")
        return None

    def _credential(self, lane: Lane, session: Session) -> Headers:
        """The request's own credential while it is in memory, else the configured one."""
        return self._own_credential(lane, session) or lane.lookup_credential

    def _own_credential(self, lane: Lane, session: Session) -> Headers:
        request = self._held.get(session.id)
        if request is None:
            return ()
        names = lane.profile.credential_headers
        return tuple((n, request.values[n]) for n in names if n in request.values)

    def _sees_all(self, lane: Lane, session: Session) -> bool:
        """Whether what the credential does not see is not there: another account's, or one of test
        mode, never sees anything, and nobody sees what was sent to another address.
        """
        if session.in_doubt_at_another(lane.endpoint) or key_moved(lane.profile, session):
            return False
        return lane.lookup_sees_all or bool(self._own_credential(lane, session))

    def holds(self, session: Session) -> bool:
        """Whether its request is in this process's memory."""
        return self._held.get(session.id) is not None

    async def recall(self, lane: Lane, session: Session) -> None:
        """Bring back its request, where its route keeps it in the store."""
        keeps = any(r.keep_request for _, r in lane.routes.routes if r.name == session.route)
        if keeps and session.listed and not self.holds(session):
            request = await self._journal.request_of(session.id)
            if request is not None:
                self._held.keep(session.id, request)

    async def once(self, lane: Lane, session: Session) -> Session:
        """One step. The session as it is afterwards; unchanged if nothing can be done."""
        recipe, credential = self._recipe(lane, session), self._credential(lane, session)
        if recipe is None or not credential:
            return session
        # Asked before its time (a repeat, a person): that is not one of its looks.
        early = session.next_at is not None and self._clock.now_ms() < session.next_at
        if lookup.can_read(recipe, session):
            session = await self._look(lane, recipe, session, credential)
        voidable = may_be_voided(session, recipe, promised(lane.profile, session))
        if early or not voidable or not self._sees_all(lane, session):
            return session
        return await self._void(lane, recipe, session, self._credential(lane, session))

    async def learn(
        self, lane: Lane, session: Session, status: AttemptStatus, reference: str, *, key: str
    ) -> Session:
        """What the gateway says by itself (a webhook) about the payment it has under a key.

        A charge always counts. Anything else speaks for what was sent last, so it counts only for
        the key in use, and once the gateway is done with that; sooner, a look-up will tell. Not for
        a session at risk: another send may have charged.
        """
        now, charged = self._clock.now_ms(), status is AttemptStatus.SUCCEEDED

        def settle(current: Session) -> Change:
            if current.outcome is Outcome.CHARGED:
                return Change()
            over = lookup.settled(lane.profile, current, now) and not current.in_flight
            over = over and not current.at_risk
            counts = current.outcome is Outcome.UNKNOWN and over and current.gateway_key == key
            if not charged and not counts:
                return Change()
            if status is AttemptStatus.VOIDED:
                return self.not_charged(lane, current, ev.EvidenceSource.WEBHOOK, reference, now)
            return Change([ev.EvidenceFound(now, ev.EvidenceSource.WEBHOOK, status, reference)])

        return await self._updated(lane, session, settle)

    # --- reading ------------------------------------------------------------------------------

    async def _look(
        self, lane: Lane, recipe: LookupRecipe, session: Session, credential: Headers
    ) -> Session:
        begun, sees_all = self._clock.now_ms(), self._sees_all(lane, session)
        found = await self._ask(lane, recipe, session, credential, begun)
        now = self._clock.now_ms()
        if isinstance(found, lookup.Nothing) and not sees_all:
            found = lookup.Inconclusive("nothing is there for this credential")

        def settle(current: Session) -> Change:
            if current.outcome is not Outcome.UNKNOWN:
                return Change()
            charged = lookup.charged(found)
            overtaken = current.last_send_at != session.last_send_at
            if charged and lookup.may_be_void(lane.profile, current, begun):
                return self._in_vain(recipe, current, now, absent=False)
            if isinstance(found, lookup.Inconclusive):
                there = False if found.there else None
                return self._in_vain(recipe, current, now, absent=there)
            if overtaken and not charged:
                # Sent again while we asked: of that send the gateway's word says nothing yet.
                return Change()
            if isinstance(found, lookup.Nothing):
                return self._missed(lane, recipe, current, begun, now)
            return self._settled(lane, current, found, now)

        return await self._updated(lane, session, settle)

    async def _ask(
        self, lane: Lane, recipe: LookupRecipe, session: Session, credential: Headers, begun: int
    ) -> lookup.Found | lookup.Nothing | lookup.Inconclusive:
        step: lookup.Step = lookup.begin(recipe, lane.profile, session, begun)
        while isinstance(step, lookup.Ask):
            facts = await lane.upstream.send(_question(step, credential))
            lane.admissions.looked_up(facts)
            step = lookup.proceed(recipe, lane.profile, session, step, facts, now_ms=begun)
        if session.at_risk and not lookup.charged(step):
            return lookup.Inconclusive("it speaks for one send, and another may have charged")
        return step

    def _in_vain(
        self, recipe: LookupRecipe, session: Session, now: int, *, absent: bool | None = None
    ) -> Change:
        early = session.next_at is not None and now < session.next_at
        looked = ev.LookedUp(now, next_lookup_at(session, now, recipe), absent)
        return Change([] if early else [looked])

    def _missed(
        self, lane: Lane, recipe: LookupRecipe, session: Session, begun: int, now: int
    ) -> Change:
        """The gateway has nothing of it: one more confirmation, and perhaps the last. It speaks for
        when it was asked: two that overlap are one.
        """
        confirms = lookup.confirms(recipe, session, begun)
        looked = self._in_vain(recipe, session, now, absent=True if confirms else None)
        if not looked.events or session.in_flight:
            return looked
        after = apply(session, looked.events[0])
        if not lookup.proves(recipe, after):
            return looked
        since = datetime.fromtimestamp(after.not_found[0] / 1000, UTC).isoformat("T", "seconds")
        reference = f"not found {len(after.not_found)} times since {since}"
        proof = self.not_charged(lane, after, ev.EvidenceSource.LOOKUP, reference, now)
        return Change([*looked.events, *proof.events], proof.keep, after)

    def _settled(self, lane: Lane, session: Session, found: lookup.Found, now: int) -> Change:
        if found.status is AttemptStatus.VOIDED:
            return self.not_charged(lane, session, ev.EvidenceSource.LOOKUP, found.reference, now)
        evidence = ev.EvidenceFound(now, ev.EvidenceSource.LOOKUP, found.status, found.reference)
        settled = apply(session, evidence)
        # The gateway's own words about the payment, as it stands now, are the answer from here on.
        charged = found.status is AttemptStatus.SUCCEEDED
        answer = forwarded(found.facts, settled, lane.profile, gave_up=not charged)
        return Change([evidence], answer, settled)

    def not_charged(
        self, lane: Lane, session: Session, source: ev.EvidenceSource, reference: str, now: int
    ) -> Change:
        """Proof that nothing was charged: the next send, if there may be one, is a new attempt."""
        key = next_gateway_key(self._digest, session)
        events: list[ev.Event] = [
            ev.EvidenceFound(now, source, AttemptStatus.VOIDED, reference, key)
        ]
        after = first = apply(session, events[0])
        if after.outcome is not Outcome.NOT_CHARGED:  # one that is in flight stands for itself
            return Change(events, after=first)
        if after.due_to_expire(now):
            events.append(ev.Expired(now))
        elif after.state is State.INTERRUPTED and after.sends_left() == 0:
            events.append(ev.Exhausted(now))
            after = apply(after, events[-1])
        gone = after.state is State.FAILED_MAX_RETRIES
        answer = without_answer(after, lane.profile, Reason.ATTEMPT_TIMEOUT) if gone else None
        return Change(events, answer, first)

    # --- voiding ------------------------------------------------------------------------------

    async def _void(
        self, lane: Lane, recipe: LookupRecipe, session: Session, credential: Headers
    ) -> Session:
        """Have the gateway void what it has under the key. It cannot charge, but it can undo a
        charge: that it is asked stands on record before it is.
        """
        void, begun, intended = recipe.void, self._clock.now_ms(), False
        if void is None or not ripe(void, session, begun):
            return session

        def intend(current: Session) -> Change:
            nonlocal intended
            still = may_be_voided(current, recipe, promised(lane.profile, current))
            intended = still and current.last_send_at == session.last_send_at
            return Change([ev.VoidAsked(begun)] if intended else [])

        asked = await self._updated(lane, session, intend)
        if not intended:
            return asked
        target, body = filled_target(void.target, asked), filled_body(void.body, asked)
        facts = await lane.upstream.send(_post(target, body, credential))
        voided, now = fits(facts, void.proves), self._clock.now_ms()

        def settle(current: Session) -> Change:
            if not voided:
                unknown = current.outcome is Outcome.UNKNOWN
                turn = unknown and not lookup.can_read(recipe, current)  # else it is counted
                return self._in_vain(recipe, current, now) if turn else Change()
            overtaken = current.last_send_at != asked.last_send_at
            return Change() if overtaken else self._voided(lane, current, now)

        return await self._updated(lane, asked, settle)

    def _voided(self, lane: Lane, session: Session, now: int) -> Change:
        if session.outcome is Outcome.CHARGED:
            # Heard of meanwhile by another way, and undone: a person has to sort that out.
            charge = session.reference or "a charge"
            undone = f"voided by its key after {charge} was seen"
            source, status = ev.EvidenceSource.CANCEL, AttemptStatus.VOIDED
            return Change([ev.EvidenceFound(now, source, status, undone)])
        if session.outcome is not Outcome.UNKNOWN:
            return Change()
        source = ev.EvidenceSource.CANCEL
        return self.not_charged(lane, session, source, "voided by its key", now)

    async def _updated(
        self, lane: Lane, session: Session, change: Callable[[Session], Change]
    ) -> Session:
        return await self._journal.update(session, change, lane.profile.replay_headers)


def _question(ask: lookup.Ask, credential: Headers) -> Send:
    if ask.body is None:
        return _send("GET", ask.target, (*credential, ("Accept", "application/json")), b"")
    return _post(ask.target, ask.body, credential)


def _post(target: str, body: bytes, credential: Headers) -> Send:
    kind = f"application/{kind_of(body)}"
    return _send("POST", target, (*credential, ("Accept", kind), ("Content-Type", kind)), body)


def _send(method: str, target: str, headers: Headers, body: bytes) -> Send:
    async def nothing_to_record() -> None:
        return

    return Send(
        method=method,
        target=target,
        headers=headers,
        body=body,
        stream=None,
        answer_whole=True,
        max_answer_bytes=_MAX_ANSWER_BYTES,
        connect_timeout=_CONNECT_SECONDS,
        attempt_timeout=lookup.ASKING_SECONDS,
        fresh_connection=False,
        before_bytes=nothing_to_record,
    )
