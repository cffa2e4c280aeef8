"""Ask the gateway what became of a session whose outcome is unknown: one look-up, start to end.

Used on the fly when the client repeats or resumes, and by the reconciler in the background. It only
reads. What it finds is evidence and settles the session; what it does not find changes nothing but
the time of the next look.
"""

from __future__ import annotations

from proxy.core import events as ev
from proxy.core import lookup
from proxy.core.profile import LookupRecipe
from proxy.core.recovery import next_lookup_at
from proxy.core.session import Session, apply
from proxy.core.states import AttemptStatus, Outcome
from proxy.core.wire import Headers
from proxy.flow.answer import forwarded
from proxy.flow.held import HeldRequests
from proxy.flow.journal import Change, Journal
from proxy.flow.walk import Lane
from proxy.ports import Clock, Send

# A look-up is a read; it gets the time-outs of one.
_CONNECT_SECONDS = 2.0
_ATTEMPT_SECONDS = 10.0
_MAX_ANSWER_BYTES = 8 * 1024 * 1024


class Reconcile:
    """Settles sessions by the gateway's own word."""

    def __init__(self, journal: Journal, held: HeldRequests, clock: Clock) -> None:
        self._journal = journal
        self._held = held
        self._clock = clock

    def possible(self, lane: Lane, session: Session) -> bool:
        """Whether there is a recipe for the session's route and a credential to ask with."""
        return self.recipe(lane, session) is not None and bool(self.credential(lane, session))

    def recipe(self, lane: Lane, session: Session) -> LookupRecipe | None:
        """How this session's kind is looked up."""
        for _, route in lane.routes.routes:
            if route.name == session.route:
                return lane.profile.lookups.get(route.lookup or "")
        return None

    def credential(self, lane: Lane, session: Session) -> Headers:
        """The request's own credential while it is in memory, else the configured one."""
        request = self._held.get(session.id)
        if request is None:
            return lane.lookup_credential
        names = lane.profile.credential_headers
        own = tuple((n, request.values[n]) for n in names if n in request.values)
        return own or lane.lookup_credential

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
        """One look-up. The session as it is afterwards; unchanged if it cannot be looked up."""
        recipe, credential = self.recipe(lane, session), self.credential(lane, session)
        if recipe is None or not credential:
            return session
        found = await self._ask(lane, recipe, session, credential)
        now = self._clock.now_ms()

        def settle(current: Session) -> Change:
            if current.outcome is not Outcome.UNKNOWN:
                return Change()
            if isinstance(found, lookup.Inconclusive):
                # Asked before its time (a repeat, a person): that is not one of its looks.
                early = current.next_at is not None and now < current.next_at
                return Change([] if early else [ev.LookedUp(now, next_lookup_at(current, now))])
            overtaken = current.last_send_at != session.last_send_at
            if overtaken and found.status is not AttemptStatus.SUCCEEDED:
                # Sent again while we asked: of that send the gateway's word says nothing yet.
                return Change()
            return self._settled(lane, current, found, now)

        return await self._journal.update(session, settle, lane.profile.replay_headers)

    def _settled(self, lane: Lane, session: Session, found: lookup.Found, now: int) -> Change:
        evidence = ev.EvidenceFound(now, ev.EvidenceSource.LOOKUP, found.status, found.reference)
        settled = apply(session, evidence)
        # The gateway's own words about the payment, as it stands now, are the answer from here on.
        charged = found.status is AttemptStatus.SUCCEEDED
        answer = forwarded(found.facts, settled, lane.profile, gave_up=not charged)
        return Change([evidence], answer, settled)

    async def _ask(
        self, lane: Lane, recipe: LookupRecipe, session: Session, credential: Headers
    ) -> lookup.Found | lookup.Inconclusive:
        step: lookup.Ask | lookup.Found | lookup.Inconclusive = lookup.begin(recipe, session)
        while isinstance(step, lookup.Ask):
            facts = await lane.upstream.send(_read(step.target, credential))
            step = lookup.proceed(
                recipe, lane.profile, session, step, facts, now_ms=self._clock.now_ms()
            )
        return step


def _read(target: str, credential: Headers) -> Send:
    async def nothing_to_record() -> None:
        return

    return Send(
        method="GET",
        target=target,
        headers=(*credential, ("Accept", "application/json")),
        body=b"",
        stream=None,
        answer_whole=True,
        max_answer_bytes=_MAX_ANSWER_BYTES,
        connect_timeout=_CONNECT_SECONDS,
        attempt_timeout=_ATTEMPT_SECONDS,
        fresh_connection=False,
        before_bytes=nothing_to_record,
    )
