"""START HERE: the walk of one request through the rooms, with every branch of it in this file.

A request that moves money is read whole, becomes one payment (or joins it), is admitted, sent,
recorded and answered. Its task does not end with the connection (`web/listeners.py`): a backend
that hangs up changes nothing, and one that says how long it waits is answered when that is over,
while its payment goes on. Requests that move no money stream through, with a session in memory
only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from math import inf
from typing import Any

from msgspec.structs import replace

from proxy.core import events as ev
from proxy.core.classify import classify
from proxy.core.deadlines import caller_wait
from proxy.core.idempotency import Duplicate, closed_verdict
from proxy.core.keys import Unfit
from proxy.core.policy import RoutePolicy, SessionPolicy
from proxy.core.problems import problem
from proxy.core.profile import GatewayClass
from proxy.core.reasons import Reason
from proxy.core.refusals import Refusal
from proxy.core.retrying import barrier_to_ask_again, promised
from proxy.core.routing import is_safe
from proxy.core.session import Session, apply
from proxy.core.states import Outcome, State
from proxy.core.wire import Answer, InboundRequest, close_stream
from proxy.flow.answer import forwarded, refusal_for, replayed, unpack, without_answer
from proxy.flow.attempts import Attempts
from proxy.flow.held import HeldRequests
from proxy.flow.intake import Arrival, Intake, Known, Opened, Refused
from proxy.flow.journal import Change, Journal
from proxy.flow.reconcile import Reconcile
from proxy.flow.saver import Saver, merged
from proxy.flow.walk import Body, BodyIncomplete, BodyTooLarge, Lane, Walk, Walks
from proxy.ports import (
    Clock,
    Dice,
    Recorder,
    SealBroken,
    Secrets,
    Send,
    SessionStore,
    StoreUnavailable,
)
from proxy.tasks import Tasks

# How often a payment that another process has with the gateway is looked at.
_LOOK_AGAIN_SECONDS = 0.1
# When a caller whose time was up may ask again: at once, as its repeat waits for the same walk. A
# second (less cannot be said in `Retry-After`) keeps a loop of such calls from spinning.
_ASK_AGAIN_MS = 1000
# After the drain's patience: time to record what was cut off. A commit takes milliseconds.
_LAST_WORDS_SECONDS = 5.0
# Refusals of what is a duplicate of another session.
_AS_DUPLICATE = {
    Refusal.ORDER_OPEN: Duplicate.ORDER_LOCKED,
    Refusal.ORDER_PAID: Duplicate.ORDER_LOCKED,
    Refusal.NEW_KEY: Duplicate.NEW_KEY,
}
# What a walk has before its session is opened or found.
_NOBODY = Session(id="", gateway=None, started_at=0, expires_at=0, max_attempts=0)


class Pipeline:
    """Brings requests to their answers."""

    def __init__(  # noqa: PLR0913 -- the composition root hands over every port once
        self,
        *,
        store: SessionStore,
        journal: Journal,
        secrets: Secrets,
        recorder: Recorder,
        clock: Clock,
        dice: Dice,
        policy: SessionPolicy,
        held: HeldRequests,
        reconcile: Reconcile,
        walks: Walks,
        saver: Saver,
        tasks: Tasks,
        on_bug: Callable[[Exception], None],
    ) -> None:
        self._store = store
        self._journal = journal
        self._secrets = secrets
        self._recorder = recorder
        self._clock = clock
        self._dice = dice
        self._policy = policy
        self._held = held
        self._reconcile = reconcile
        self._walks = walks
        self._tasks = tasks
        self._on_bug = on_bug
        self._saver = saver
        self._attempts = Attempts(journal, recorder, clock, dice, saver, self._listen)
        self._intake = Intake(
            store=store,
            journal=journal,
            walks=walks,
            secrets=secrets,
            clock=clock,
            dice=dice,
            policy=policy,
        )

    async def handle(  # noqa: PLR0911 -- one list of refusals
        self, lane: Lane, request: InboundRequest, body: Body
    ) -> Answer:
        """Bring a request to its answer. Never raises but for cancellation.

        To be called in a task that outlives the backend's connection.
        """
        route = lane.routes.match(request.method, request.path)
        if self._attempts.draining:
            return self.refuse(lane, Refusal.DRAINING)
        wait = caller_wait(request.values)
        if wait <= 0:  # whatever came of it, its caller would never hear
            return self.refuse(lane, Refusal.WAIT_OVER)
        if not route.durable:
            return await self._pass_through(lane, route, request, body, wait)
        lane = lane.of(route.name)
        try:
            whole = await body.read(route.max_body_bytes)
        except BodyTooLarge:
            return self.refuse(lane, Refusal.BODY_TOO_LARGE)
        except BodyIncomplete:
            return self.refuse(lane, Refusal.BODY_INCOMPLETE)
        request = request.with_body(whole)
        try:
            request = replace(request, client_key=lane.profile.key.of(request))
        except Unfit:
            return self.refuse(lane, Refusal.KEY_INVALID)
        return await self._pay(self._intake.arrival(lane, route, request), wait)

    def refuse(self, lane: Lane, refusal: Refusal, session: Session | None = None) -> Answer:
        """Say no before anything was sent."""
        self._recorder.note(ev.RequestRefused(lane.name, refusal.code))
        return problem(refusal, profile=lane.profile, session=session)

    # --- requests that move money -------------------------------------------------------------

    def _pay(self, arrival: Arrival, wait: float) -> Coroutine[Any, Any, Answer]:
        """Join the walk of this payment if there is one, else begin it."""
        known = self._walks.by_key.get(arrival.identity.key_hash)
        if known is not None:
            return self._join(known, arrival, wait)
        walk = self._walk_for(arrival)
        self._walks.by_key[arrival.identity.key_hash] = walk
        steps = self._open_and_go(walk, arrival)
        steps = self._see_through(walk, arrival.identity.key_hash, steps)
        if wait >= walk.route.timeouts.total:
            walk.task = asyncio.current_task()
            return steps
        walk.task = self._tasks.start(steps, "walk")
        return self._answer_within(wait, walk, named=arrival.identity.named)

    async def _answer_within(self, wait: float, walk: Walk, *, named: bool) -> Answer:
        """Its answer, or what is known of it when its caller waits no longer."""
        answered = walk.answered()
        await asyncio.wait({answered}, timeout=wait)
        # Only the session's name makes the repeat of a request that names nothing the same payment.
        while not (answered.done() or walk.session.id or named):
            await asyncio.wait({answered}, timeout=_LOOK_AGAIN_SECONDS)
        return answered.result() if answered.done() else self._wait_over(walk)

    def _wait_over(self, walk: Walk) -> Answer:
        """The caller's time is up. The walk goes on, and a repeat joins it or gets its answer."""
        if not walk.session.id:  # as every other request hears that comes for it now
            return self._in_progress(walk.lane, walk.session)
        self._recorder.note(ev.RequestRefused(walk.lane.name, Refusal.WAIT_OVER.code))
        return problem(
            Refusal.WAIT_OVER,
            profile=walk.lane.profile,
            session=walk.session,
            retry_after_ms=_ASK_AGAIN_MS,
        )

    def _walk_for(self, arrival: Arrival) -> Walk:
        return Walk(
            arrival.lane,
            arrival.route,
            arrival.request,
            self._clock.monotonic(),
            _NOBODY,
            fingerprint=arrival.identity.fingerprint,
        )

    async def _see_through(
        self, walk: Walk, key: str | None, steps: Coroutine[Any, Any, Answer]
    ) -> Answer:
        """Whatever happens, whoever waits gets an answer, and the walk ends."""
        try:
            answer = await steps
        except StoreUnavailable:
            answer = self._cut_short(walk, Reason.STORE_UNAVAILABLE)
        except asyncio.CancelledError:  # the drain's patience is over, and nothing is out
            if walk.task is not None:
                walk.task.uncancel()
            answer = self._cut_short(walk, Reason.SHUTDOWN)
        except Exception as error:  # noqa: BLE001 -- a bug must not leave a backend unanswered
            self._on_bug(error)
            answer = self._cut_short(walk, Reason.INTERNAL_ERROR)
        finally:
            if walk.saving is None:
                self._walks.leave(walk, key)
            else:  # until the store knows what came of it, only this walk can tell
                walk.saving.add_done_callback(lambda _: self._walks.leave(walk, key))
        if walk.session.listed and walk.session.bound:
            self._held.keep(walk.session.id, walk.request)
        else:
            self._held.drop(walk.session.id)
        self._timed(walk)
        walk.end(answer)
        return answer

    def _cut_short(self, walk: Walk, reason: Reason) -> Answer:
        """The answer of a walk that came to none: what is known of its session, if it has one."""
        if not walk.session.id:
            return self.refuse(walk.lane, refusal_for(walk.session, reason))
        return without_answer(walk.session, walk.lane.profile, reason)

    async def _open_and_go(self, walk: Walk, arrival: Arrival) -> Answer:
        """The branches of a payment, in the order they are asked."""
        match await self._intake.open_or_join(arrival):
            case Opened() as opened:
                self._begin(walk, opened)
            case Refused(refusal, session):
                if refusal in _AS_DUPLICATE:
                    self._duplicate(walk, _AS_DUPLICATE[refusal])
                return self.refuse(walk.lane, refusal, session)
            case Known(session, Duplicate.JOINED):
                return await self._join(self._walks.by_session[session.id], arrival)
            case Known(session, Duplicate.RESUMED | Duplicate.RECONCILED as verdict):
                self._duplicate(walk, verdict)
                walk.session = session
                walk.limit = session.max_attempts
                walk.resumed_by = ev.ResumedBy.REPEAT
                if verdict is Duplicate.RECONCILED or not self._may_send(walk):
                    return await self._reconciled(walk)
            case Known(session, verdict):
                self._duplicate(walk, verdict)
                return await self._closed(walk.lane, session, verdict)
        return await self._go(walk)

    def _forgotten(self, lane: Lane, session: Session) -> bool:
        """Whether the store may have lost that it was sent, and the gateway would not know it."""
        strong = promised(lane.profile, session) is GatewayClass.A_STRONG
        unsent = session.outcome is Outcome.NOT_CHARGED and session.last_send_at is None
        return self._store.regressed is not None and not strong and unsent

    def _begin(self, walk: Walk, opened: Opened) -> None:
        walk.session, walk.first = opened.session, True
        walk.limit = walk.route.retry.automatic_attempts
        if opened.twin is not None:
            self._duplicate(walk, Duplicate.NEW_KEY)
            at, new, earlier = (walk.lane.name, walk.route.name), opened.session, opened.twin
            self._recorder.note(ev.NewKeySeen(*at, new.id, earlier.id))

    async def _go(self, walk: Walk) -> Answer:
        """Admission, then the attempts; everyone hears the same of a payment."""
        self._walks.enter(walk)
        answer = await self._admitted(walk)
        if walk.settled_elsewhere or walk.elsewhere:
            return await self._elsewhere(walk.lane, walk.session)
        told_before = walk.result is not None and walk.result.replayed
        if told_before and walk.session.outcome is Outcome.UNKNOWN:
            # It would only be told so again: what became of the first one has to be looked up.
            await self._look_up(walk)
            if not walk.session.live and walk.session.outcome is not Outcome.UNKNOWN:
                return await self._closed(walk.lane, walk.session, closed_verdict(walk.session))
        return answer

    async def _admitted(self, walk: Walk) -> Answer:
        """Its answer, or why it may not go now."""
        if self._forgotten(walk.lane, walk.session):
            return await self._attempts.never_sent(walk, Reason.STORE_REGRESSED)
        admission = walk.admission
        if not admission.take():
            begun = self._clock.monotonic()
            refused = await admission.enter()
            walk.waited_seconds += self._clock.monotonic() - begun
            if refused is not None:
                return await self._attempts.never_sent(walk, refused)
        try:
            if not admission.may_send_first():
                return await self._attempts.never_sent(walk, Reason.BREAKER_OPEN)
            return await self._attempts.run(walk)
        finally:
            admission.leave()

    def _may_send(self, walk: Walk) -> bool:
        """Whether the bytes the client brought again may go out again."""
        session, profile = walk.session, walk.lane.profile
        if session.sends_left() == 0:
            return False
        if session.outcome is not Outcome.UNKNOWN:
            return True
        now = self._clock.now_ms()
        if now >= session.expires_at:  # past its deadline nobody expects a charge any more
            return False
        if promised(profile, session) is GatewayClass.A_WEAK and session.next_at is None:
            return False  # not looked up since it was sent
        return barrier_to_ask_again(profile, session, now, walk.lane.endpoint) is None

    # --- duplicates ---------------------------------------------------------------------------

    async def _join(self, walk: Walk, arrival: Arrival, wait: float = inf) -> Answer:
        """Wait for the answer of the same payment, for a while."""
        if walk.fingerprint != arrival.identity.fingerprint:
            self._duplicate(walk, Duplicate.KEY_REUSED)
            return self.refuse(walk.lane, Refusal.KEY_REUSED)
        patience = self._policy.duplicate_wait
        try:
            async with asyncio.timeout(min(wait, patience)):
                answer = await walk.answered()
        except TimeoutError:
            self._duplicate(walk, Duplicate.IN_PROGRESS)
            if wait < patience:
                return self._wait_over(walk)
            return self._in_progress(walk.lane, await self._on_record(walk.session))
        self._duplicate(walk, Duplicate.JOINED)
        return replayed(answer)

    async def _on_record(self, session: Session) -> Session:
        """As the store has it, if that is later: another process may have sent it meanwhile."""
        if not self._store.shared or not session.id or session.outcome is Outcome.CHARGED:
            return session
        try:
            current = await self._store.get(session.id)
        except StoreUnavailable:
            return session  # who hears of it is told that it is unknown
        return session if current is None or current.version < session.version else current

    async def _closed(self, lane: Lane, session: Session, verdict: Duplicate) -> Answer:
        """What a duplicate of a payment gets that will not be sent again."""
        if self._forgotten(lane, session):
            return self.refuse(lane, Refusal.STORE_REGRESSED, session)
        if verdict is Duplicate.REPLAYED:
            return await self._replay(lane, session)
        if verdict is Duplicate.IN_PROGRESS:
            return await self._elsewhere(lane, session)
        if verdict is Duplicate.EXPIRED and session.live:
            now = self._clock.now_ms()
            session = await self._journal.update(
                session,
                lambda s: Change([ev.Expired(now)] if s.due_to_expire(now) else []),
                frozenset(),
            )
        refusals = {
            Duplicate.KEY_REUSED: Refusal.KEY_REUSED,
            Duplicate.HELD: Refusal.SESSION_HELD,
            Duplicate.CANCELLED: Refusal.SESSION_CANCELLED,
            Duplicate.EXPIRED: Refusal.SESSION_EXPIRED,
        }
        # Who reuses a key for something else learns nothing about what it was used for.
        shown = None if verdict is Duplicate.KEY_REUSED else session
        return self.refuse(lane, refusals[verdict], shown)

    async def _elsewhere(self, lane: Lane, session: Session) -> Answer:
        """Somebody else brought it forward: what is on record of that. Another process may have it
        with the gateway still: its answer is waited for as one's own would be.
        """
        session = await self._store.get(session.id) or session
        patience = self._policy.duplicate_wait if self._store.shared else 0.0
        until = self._clock.monotonic() + patience
        while _with_the_gateway(session) and self._clock.monotonic() < until:
            await self._clock.sleep(_LOOK_AGAIN_SECONDS)
            session = await self._store.get(session.id) or session
        if _with_the_gateway(session):
            return self._in_progress(lane, session)
        if session.outcome is Outcome.UNKNOWN or session.live:
            return without_answer(session, lane.profile, Reason.ATTEMPT_TIMEOUT)
        return await self._closed(lane, session, closed_verdict(session))

    async def _replay(self, lane: Lane, session: Session) -> Answer:
        sealed = await self._store.answer(session.id)
        if sealed is None:
            on_record = await self._store.get(session.id)
            if on_record is not None and on_record.version < session.version:
                # What settled it could not be written: so it is not over, and its answer not gone.
                return self._in_progress(lane, session)
            return self.refuse(lane, Refusal.ANSWER_GONE, session)
        try:
            answer = unpack(self._secrets.unseal(session.id, sealed))
        except SealBroken as error:  # its key was dropped; what came of the payment still stands
            self._on_bug(error)
            return self.refuse(lane, Refusal.ANSWER_GONE, session)
        return replayed(answer)

    def _in_progress(self, lane: Lane, session: Session) -> Answer:
        retry_after = int(max(1.0, self._policy.duplicate_wait) * 1000)
        shown = session if session.id else None
        return problem(
            Refusal.IN_PROGRESS,
            profile=lane.profile,
            session=shown,
            retry_after_ms=retry_after,
        )

    async def _reconciled(self, walk: Walk) -> Answer:
        """The client asks again and nothing may be sent: ask the gateway, then say
        what is known.
        """
        self._walks.enter(walk)
        await self._look_up(walk)
        session = walk.session
        if session.outcome is Outcome.UNKNOWN:
            return without_answer(session, walk.lane.profile, Reason.ATTEMPT_TIMEOUT)
        if session.state is State.INTERRUPTED and self._may_send(walk):
            return await self._go(walk)  # proved not charged: a new attempt
        if session.live:
            return without_answer(session, walk.lane.profile, Reason.NOT_ALLOWED)
        return await self._closed(walk.lane, session, closed_verdict(session))

    async def _look_up(self, walk: Walk) -> None:
        """One step, with the credential of the request at hand."""
        self._held.keep(walk.session.id, walk.request)
        with contextlib.suppress(TimeoutError):  # the client does not wait for every page
            async with asyncio.timeout(walk.deadline - self._clock.monotonic()):
                walk.session = await self._reconcile.once(walk.lane, walk.session)

    def _duplicate(self, walk: Walk, verdict: Duplicate) -> None:
        self._recorder.note(ev.DuplicateSeen(walk.lane.name, walk.route.name, verdict))

    # --- resumed by a person ------------------------------------------------------------------

    def resume(self, lane: Lane, session: Session, by: ev.ResumedBy = ev.ResumedBy.REQUEST) -> bool:
        """Send a session's own request again in the background; False if it is not held. A person's
        resume uses the sends that are left, Holdfast itself one of them.
        """
        request = self._held.get(session.id)
        route = next((r for _, r in lane.routes.routes if r.name == session.route), None)
        if request is None or route is None or session.id in self._walks.by_session:
            return False
        if not route.durable:  # by now it is said to move no money: without intent, key and barrier
            return False
        walk = Walk(
            lane=lane,
            route=route,
            request=request,
            started=self._clock.monotonic(),
            session=session,
            fingerprint=session.fingerprint,
            limit=session.max_attempts,
            resumed_by=by,
        )
        if by is ev.ResumedBy.RECONCILER:
            walk.limit = len(session.attempts) + 1
        if not self._may_send(walk):
            return False
        key = session.key_hash
        if key is not None:
            self._walks.by_key[key] = walk
        self._walks.enter(walk)
        walk.task = self._tasks.start(self._see_through(walk, key, self._go(walk)), "walk")
        return True

    # --- requests that move no money ----------------------------------------------------------

    async def _pass_through(
        self,
        lane: Lane,
        route: RoutePolicy,
        request: InboundRequest,
        body: Body,
        wait: float,
    ) -> Answer:
        """Stream a request and its answer; repeated only if that is safe and
        nothing was used up.
        """
        now = self._clock.now_ms()
        begun = ev.Opened(now)
        session = apply(
            Session(
                id=self._dice.session_id(),
                gateway=lane.name,
                route=route.name,
                operation=route.operation,
                durable=False,
                started_at=now,
                expires_at=now + int(self._policy.expires_after * 1000),
                max_attempts=route.retry.max_attempts,
                order_ref=request.order_ref,
                user_ref=request.user_ref,
            ),
            begun,
        )
        self._journal.opened(session, begun)
        walk = Walk(
            lane=lane,
            route=route,
            request=request,
            started=self._clock.monotonic(),
            session=session,
            stream=body.stream() if request.has_body else None,
            limit=route.retry.automatic_attempts,
        )
        # Of one that does more than read the body may still be on its way, and nobody could say
        # that its repeat is safe.
        reads = is_safe(request.method) and not request.has_body
        if wait >= route.timeouts.total or not reads:
            return await self._streamed(walk)
        reading: asyncio.Task[Answer] = self._tasks.start(self._streamed(walk), "walk")
        await asyncio.wait({reading}, timeout=wait)
        if reading.done():
            return reading.result()
        _ = self._tasks.start(_unheard(reading), "unheard answer")
        return self._wait_over(walk)

    async def _streamed(self, walk: Walk) -> Answer:
        walk.task = asyncio.current_task()
        self._walks.enter(walk)
        try:
            return await self._attempts.run(walk)
        finally:
            self._walks.leave(walk, None)
            self._recorder.dropped(walk.session)
            self._timed(walk)

    def _timed(self, walk: Walk) -> None:
        if not walk.session.id:
            return
        seconds = self._clock.monotonic() - walk.started
        own = max(0.0, seconds - walk.gateway_seconds - walk.waited_seconds)
        case = walk.session.id if walk.session.interruptions else None
        fact = ev.WalkEnded(walk.lane.name, walk.route.name, case, seconds, own)
        self._recorder.note(fact)

    # --- trouble and the end ------------------------------------------------------------------

    def _listen(self, walk: Walk, send: Send, ended: ev.AttemptEnded) -> None:
        """Merge what still comes of a send whose time was up, whatever became of its session."""
        if send.late is None:
            return
        profile, late = walk.lane.profile, send.late

        async def listen() -> None:
            facts = await late
            now = self._clock.now_ms()
            result = classify(facts, profile, now_ms=now)
            seen = replace(
                ended, at=now, result=result, phase=facts.phase, http_status=facts.status
            )
            answer = partial(forwarded, facts, profile=profile, gave_up=False)
            await self._saver.now(walk, partial(merged, seen, answer))

        _ = self._tasks.start(listen(), "late answer")

    async def drain(self, patience: float) -> None:
        """No new sends; what is with the gateway may finish; what does not is recorded as such."""
        self._attempts.draining = True
        ends: dict[asyncio.Future[Any], asyncio.Task[Any]] = {}
        for walk in {id(w): w for w in self._walks.by_session.values()}.values():
            if walk.task is not None:
                # A payment's task is that of its request, and its client may keep it for longer.
                end = walk.answered() if walk.route.durable else walk.task
                ends[end] = walk.task
                if walk.resting:
                    walk.task.cancel()
        if not ends:
            return
        _, late = await asyncio.wait(ends, timeout=patience)
        for end in late:
            ends[end].cancel()
        if late:
            await asyncio.wait(late, timeout=_LAST_WORDS_SECONDS)


async def _unheard(reading: asyncio.Task[Answer]) -> None:
    """Let go of an answer that comes when nobody waits for it any more."""
    answer = await reading
    await close_stream(answer.stream)


def _with_the_gateway(session: Session) -> bool:
    """Whether what came of it is still to be heard. A charge is the last word, whatever is out."""
    return session.in_flight and session.outcome is Outcome.UNKNOWN
