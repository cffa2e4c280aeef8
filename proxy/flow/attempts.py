"""The attempt loop: intent, send, outcome, and whether to repeat. The only file that knows
tenacity.

Order is the product here: the intent (T1) is durable before the first byte leaves, the outcome (T2)
before the backend is answered. Whatever stops this process in between leaves the intent behind, and
an intent without an outcome reads as unknown.

tenacity drives the loop; the brain is `core.retrying.decide`, asked once per attempt. A fresh
`AsyncRetrying` per walk, entered only after a first failure: shared ones lose results between
concurrent calls (jd/tenacity#93), and most payments never need one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_before_delay

from proxy.core import events as ev
from proxy.core.classify import classify, classify_read
from proxy.core.coding import readably
from proxy.core.keys import Unfit
from proxy.core.profile import GatewayClass
from proxy.core.reasons import Reason, Suppressed
from proxy.core.retrying import (
    GiveUp,
    RetryAfter,
    Settled,
    Situation,
    Verdict,
    barrier_to_ask_again,
    dares,
    decide,
    promised,
    repeat_barrier,
)
from proxy.core.routing import is_safe
from proxy.core.session import Session, apply, of_another
from proxy.core.states import OPEN, AttemptStatus, Outcome, State
from proxy.core.wire import Answer, Headers, InboundRequest, Phase, WireFacts, close_stream
from proxy.flow.answer import forwarded, not_recorded_yet, without_answer
from proxy.flow.journal import Change, Journal
from proxy.flow.saver import Saver, exhausted, merged
from proxy.flow.walk import Walk
from proxy.ports import Clock, Dice, Recorder, Send, SendForbidden, StoreUnavailable

# Bound once: reaching a member through its enum costs more than what is done with it.
_UNKNOWN = Outcome.UNKNOWN
_NOT_SENT = AttemptStatus.NOT_SENT
_INTERRUPTED, _CANCELLED = State.INTERRUPTED, State.CANCELLED
_A_STRONG, _TIMER = GatewayClass.A_STRONG, ev.ResumedBy.TIMER

# Reasons for which a send was stopped by ourselves before its first byte.
_OUR_OWN_NO = frozenset({Reason.NOT_ALLOWED, Reason.STORE_UNAVAILABLE})
# What a gateway says of one send, which need not be so of the others.
_OF_THIS_SEND = frozenset({AttemptStatus.REJECTED, AttemptStatus.DECLINED, AttemptStatus.ACCEPTED})
# States that come with an answer of the gateway, kept for whoever asks.
_SETTLED = frozenset({State.COMPLETED, State.DECLINED})
_SETTLED_VERDICT = Settled()


class Attempts:
    """Brings a session forward by sending it."""

    def __init__(
        self,
        journal: Journal,
        recorder: Recorder,
        clock: Clock,
        dice: Dice,
        saver: Saver,
        listen: Callable[[Walk, Send, ev.AttemptEnded], None],
    ) -> None:
        self._journal = journal
        self._recorder = recorder
        self._clock = clock
        self._dice = dice
        self._saver = saver
        self._listen = listen
        self.draining = False

    async def run(self, walk: Walk) -> Answer:
        """Send until the payment is settled or no further send is right; the answer to give."""
        try:
            verdict = await self._attempt(walk)
            if isinstance(verdict, RetryAfter):
                verdict = await self._keep_trying(walk, verdict)
        except asyncio.CancelledError:
            return await self._stopped(walk)
        if walk.answer is None:  # tenacity stopped where `decide` would have gone on
            why = verdict.why if isinstance(verdict, GiveUp) else Suppressed.DEADLINE
            self._suppressed(walk, why)
            walk.answer = self._answer(walk, walk.session, GiveUp(why))
        return walk.answer

    async def never_sent(self, walk: Walk, reason: Reason) -> Answer:
        """Admission said no: record it, and say that nothing was sent."""

        def refused(session: Session) -> Change:
            stop = ev.Interrupted(self._clock.now_ms(), reason, Phase.BEFORE_SEND)
            return Change([stop] if session.live else [])

        walk.session = await self._updated(walk, refused)
        return _untold(walk, reason, retry_after_ms=walk.admission.retry_after_ms())

    # --- the loop -----------------------------------------------------------------------------

    async def _keep_trying(self, walk: Walk, first: RetryAfter) -> Verdict:
        ahead: list[Verdict] = [first]

        async def next_verdict() -> Verdict:
            return ahead.pop() if ahead else await self._attempt(walk)

        loop = AsyncRetrying(
            retry=retry_if_result(lambda verdict: isinstance(verdict, RetryAfter)),
            wait=_delay,
            # `decide` has already kept the delay inside the total; recording the outcome took time
            # too (a slow disk), and this is asked after it.
            stop=stop_before_delay(max(0.0, walk.deadline - self._clock.monotonic())),
            retry_error_callback=lambda _: GiveUp(Suppressed.DEADLINE),
            sleep=partial(self._rest, walk),
        )
        verdict: Verdict = await loop(next_verdict)
        return verdict

    async def _rest(self, walk: Walk, seconds: float) -> None:
        if self.draining:
            raise asyncio.CancelledError
        walk.resting = True
        begun = self._clock.monotonic()
        try:
            await self._clock.sleep(seconds)
        finally:
            walk.resting = False
            walk.waited_seconds += self._clock.monotonic() - begun

    async def _stopped(self, walk: Walk) -> Answer:
        """Cancelled while nothing was out: what was sent is on record; say why it stopped."""
        current = asyncio.current_task()
        if current is not None:
            current.uncancel()
        if walk.answer is not None:  # it had just come to its end; is that on record?
            return not_recorded_yet(walk.answer) if walk.session.in_flight else walk.answer
        stop = ev.Interrupted(self._clock.now_ms(), Reason.SHUTDOWN, Phase.BEFORE_SEND)
        walk.session = await self._updated(
            walk, lambda session: Change([stop] if session.live else [])
        )
        return _untold(walk, Reason.SHUTDOWN)

    # --- one attempt --------------------------------------------------------------------------

    async def _attempt(self, walk: Walk) -> Verdict:
        lane, route, clock = walk.lane, walk.route, self._clock
        number = len(walk.session.attempts) + 1
        endpoint = lane.endpoint
        generation = walk.admission.breaker.generation
        started_ms, begun = clock.now_ms(), clock.monotonic()
        walk.intent_seconds, walk.intended_at = 0.0, 0
        send = self._send(walk, number, endpoint)
        try:
            facts = await lane.upstream.send(send)
        except asyncio.CancelledError:
            facts = _cut_off(send)
        walk.facts = facts
        took = clock.monotonic() - begun - walk.intent_seconds
        walk.gateway_seconds += took
        self._recorder.note(ev.AttemptTimed(lane.name, route.name, took))
        now_ms = clock.now_ms()
        if route.durable:
            result = classify(facts, lane.profile, now_ms=now_ms)
            walk.admission.record(result, generation, took)
        else:
            result = classify_read(facts, now_ms=now_ms)
        walk.result = result
        ended = ev.AttemptEnded(
            now_ms, number, endpoint, result, facts.phase, facts.sent, facts.status, started_ms,
            walk.intended_at, walk.epoch,
        )  # fmt: skip
        if facts.reason in _OUR_OWN_NO:
            return await self._not_begun(walk, facts, ended)
        if facts.reason is None or result.status is not _NOT_SENT:
            walk.last_answer = facts if facts.reason is None else None
        try:
            return await self._conclude(walk, ended)
        finally:
            self._listen(walk, send, ended)

    async def _not_begun(self, walk: Walk, facts: WireFacts, ended: ev.AttemptEnded) -> GiveUp:
        """Nothing was sent, and nothing will be: someone cancelled or held the session, its time
        is up, the store cannot write, or we are stopping. An intent that stands is taken back.
        """
        reason = facts.reason or Reason.NOT_ALLOWED
        why = Suppressed.HELD if walk.session.hold else Suppressed.CANCELLED
        if self.draining:
            reason, why = Reason.SHUTDOWN, Suppressed.DRAINING
        elif reason is Reason.STORE_UNAVAILABLE:
            why = Suppressed.STORE_UNAVAILABLE
        elif self._clock.now_ms() >= walk.session.expires_at:
            why = Suppressed.DEADLINE
        now = self._clock.now_ms()
        stop = ev.Interrupted(now, reason, Phase.CONNECTING)

        def record(session: Session) -> Change:
            unsent = _intended(walk, session, ended.number)
            events: list[ev.Event] = [ended] if unsent else []
            after = apply(session, ended) if unsent else session
            if after.due_to_expire(now):
                events.append(ev.Expired(now))
            elif after.live and not unsent and reason is not Reason.NOT_ALLOWED:
                events.append(stop)  # what a person did is on record already
            return Change(events)

        try:
            session = await self._updated(walk, record)
            # As it is durable: whoever forbade the send may have written that in vain.
            walk.session = await self._journal.store.get(session.id) or session
        except StoreUnavailable:
            self._take_back(walk, ended)
        self._suppressed(walk, why)
        walk.answer = _untold(walk, reason)
        return GiveUp(why)

    def _take_back(self, walk: Walk, ended: ev.AttemptEnded) -> None:
        """A store that said no may have recorded the intent all the same. Then it has to hear that
        nothing was sent, or the session stays in flight for ever.
        """

        def unsent(session: Session) -> Change:
            return Change([ended] if _intended(walk, session, ended.number) else [])

        self._saver.later(walk, unsent)

    def _send(self, walk: Walk, number: int, endpoint: str) -> Send:
        route = walk.route
        remaining = max(0.001, walk.deadline - self._clock.monotonic())
        weak = promised(walk.lane.profile, walk.session) is not _A_STRONG
        request, timeouts, durable = walk.request, route.timeouts, route.durable
        before_bytes: Callable[[], Awaitable[None]] = partial(self._intent, walk, number, endpoint)
        headers, body = self._headers(walk), request.body
        if durable and walk.session.gateway_key is not None:
            try:
                place = walk.lane.profile.key
                headers, body = place.put(request, headers, walk.session.gateway_key)
            except Unfit:  # its key was proved to have charged nothing, and cannot be changed
                before_bytes = _no_key
        return Send(  # in the order of the fields: naming them takes longest
            request.method,
            request.target,
            headers,
            body,
            _touching(walk) if walk.stream is not None else None,
            durable,  # answer_whole
            route.max_answer_bytes,
            min(timeouts.connect, remaining),
            min(timeouts.attempt, remaining),
            # Where a lost answer cannot be repeated, a connection that may be dying is not used.
            durable and weak,
            before_bytes,
            walk.lane.profile.max_processing_time if durable else 0.0,  # late_seconds
        )

    def _headers(self, walk: Walk) -> Headers:
        """The caller's headers."""
        headers = walk.request.headers
        signed = not walk.lane.profile.key.put_in
        if walk.route.durable and not signed and "accept-encoding" in walk.request.values:
            headers = readably(headers)
        length = walk.request.values.get("content-length")
        if walk.stream is not None and length is not None:
            # A body that is passed on keeps its framing: some gateways refuse chunked requests.
            headers = (*headers, ("Content-Length", length))
        return headers

    async def _intent(self, walk: Walk, number: int, endpoint: str) -> None:
        """T1: the last thing before the first byte, and the last chance to say no."""
        repeats = False  # what may have been charged already

        def begin(session: Session) -> Change:
            nonlocal repeats
            now = self._clock.now_ms()
            repeats = session.outcome is _UNKNOWN
            unwanted = session.cancel_requested or session.hold or not session.live
            # Another process sends it, or has sent it: a client that clicks twice may reach two.
            # Or its key was proved to have charged nothing, and the bytes at hand still bear it.
            begun = session.in_flight or len(session.attempts) >= number
            walk.elsewhere = begun or session.generation != walk.session.generation
            late = self._late(walk, session, now, repeats=repeats)
            if unwanted or walk.elsewhere or self.draining or late:
                walk.session = session
                walk.settled_elsewhere = session.state in _SETTLED
                raise SendForbidden(f"{session.state} does not send")
            self._check_store(walk)
            walk.intended_at, walk.epoch = now, self._journal.store.epoch
            started = ev.AttemptStarted(
                now, number, endpoint, walk.epoch, repeats and self._dares(walk, session)
            )
            if session.state is _INTERRUPTED:
                return Change([ev.Resumed(now, walk.resumed_by), started])
            return Change([started], request=_to_keep(walk, session))

        begun = self._clock.monotonic()
        try:
            walk.session = await self._updated(walk, begin)
        finally:
            walk.intent_seconds = self._clock.monotonic() - begun
        walk.resumed_by = _TIMER
        self._check_store(walk)
        # Another epoch: the lease was lost meanwhile, and another process may have taken this over.
        lost = walk.epoch != self._journal.store.epoch
        if lost or self._late(walk, walk.session, self._clock.now_ms(), repeats=repeats):
            message = "recording the intent took longer than there was time"
            raise SendForbidden(message)

    def _late(self, walk: Walk, session: Session, now: int, *, repeats: bool) -> bool:
        """Waiting, connecting or recording the intent can outlast the session, or the key."""
        barrier = None
        if repeats and walk.route.durable:
            lane = walk.lane
            if self._dares(walk, session):
                barrier = self._barrier(walk, session, now)
            else:
                barrier = barrier_to_ask_again(lane.profile, session, now, lane.endpoint)
        return barrier is not None or now >= session.expires_at

    def _check_store(self, walk: Walk) -> None:
        """Raises `StoreUnavailable` if an intent would not do what it is for.

        When the lease is over, another process may take this one for gone and its sends for lost.
        A store that has lost what it had acknowledged may not know of a charge; a gateway that
        recognises the key by itself does.
        """
        store = self._journal.store
        if store.lease_seconds() <= 0:
            message = "the lease on the store has run out"
            raise StoreUnavailable(message)
        promise = promised(walk.lane.profile, walk.session)
        if store.regressed is not None and promise is not _A_STRONG:
            raise StoreUnavailable(store.regressed)

    # --- what it came to ----------------------------------------------------------------------

    async def _conclude(self, walk: Walk, ended: ev.AttemptEnded) -> Verdict:
        """T2: decide on the session as it is with this attempt, and record both at once."""
        jitter = self._dice.jitter()
        verdict: Verdict = _SETTLED_VERDICT
        admitted: list[Suppressed | None] = []  # what admission said, once it was asked

        def conclude(session: Session) -> Change:
            nonlocal verdict
            # An answer may have been decided on what is no longer so. And another process has begun
            # what was not begun here, or what the store has lost: what came of it here is no news
            # of what that one has sent. But for a charge, or a doubt.
            walk.answer, walk.elsewhere = None, of_another(session, ended)
            if walk.elsewhere and ended.result.status is not AttemptStatus.SUCCEEDED:
                verdict = GiveUp(Suppressed.UNSAFE_TO_REPEAT)
                return merged(ended, lambda _: None, session)
            concluded = after = apply(session, ended)
            # Unless it was charged after all, which is what everybody hears from now on.
            walk.settled_elsewhere = session.state in _SETTLED and after.outcome is session.outcome
            verdict = self._verdict(walk, after, ended, jitter, admitted)
            if isinstance(verdict, RetryAfter):
                delay_ms = round(verdict.delay_seconds * 1000)
                again = ev.RetryScheduled(ended.at, ended.number + 1, delay_ms, verdict.because)
                return Change([ended, again], after=concluded)
            events: list[ev.Event] = [ended]
            if exhausted(after):
                events.append(ev.Exhausted(ended.at))
                after = apply(after, events[-1])
            walk.answer = self._answer(walk, after, verdict)
            keep = not (after.live or walk.settled_elsewhere)
            return Change(events, walk.answer if keep else None, concluded)

        try:
            walk.session = await self._updated(walk, conclude)
        except StoreUnavailable:
            await self._unrecorded(walk, ended)
            verdict = _not_again(verdict)
        if isinstance(verdict, GiveUp):
            self._suppressed(walk, verdict.why)
        if isinstance(verdict, RetryAfter) and walk.facts is not None:
            await close_stream(walk.facts.stream)
        return verdict

    async def _unrecorded(self, walk: Walk, ended: ev.AttemptEnded) -> None:
        """The store could not take the outcome. If anything was sent, the intent stands there and
        keeps everyone from sending again; the spool and then the backend get the truth now, the
        store when it can.
        """
        if walk.facts is None or not walk.facts.sent:
            self._take_back(walk, ended)
            reason = Reason.STORE_UNAVAILABLE
            walk.answer = without_answer(walk.session, walk.lane.profile, reason)
            return
        for event in merged(ended, lambda _: None, walk.session).events:
            walk.session = apply(walk.session, event)
        if walk.answer is None:  # it would have been repeated; without a store it cannot be
            why = GiveUp(Suppressed.STORE_UNAVAILABLE)
            walk.answer = self._answer(walk, walk.session, why)
        keep = None if walk.session.live else walk.answer
        walk.answer = not_recorded_yet(walk.answer)  # before the wait, which a drain may cut short
        await self._saver.keep(walk, ended, keep)

    def _verdict(
        self,
        walk: Walk,
        after: Session,
        ended: ev.AttemptEnded,
        jitter: float,
        admitted: list[Suppressed | None],
    ) -> Verdict:
        if ended.result.reason is None:
            if after.outcome is not _UNKNOWN:
                return _SETTLED_VERDICT
        elif walk.stream_touched:
            return GiveUp(Suppressed.BODY_CONSUMED)
        elif self.draining:
            return GiveUp(Suppressed.DRAINING)
        situation = Situation(
            outcome=after.outcome,
            attempts=ended.number,
            limit=walk.limit,
            cancel_requested=after.cancel_requested or after.state is _CANCELLED,
            hold=after.hold,
            barrier=self._barrier(walk, after, ended.at),
            remaining_seconds=walk.deadline - self._clock.monotonic(),
            http_status=ended.http_status or 0,
        )
        verdict = decide(walk.route.retry, ended.result, situation, jitter)
        if isinstance(verdict, RetryAfter):
            if not admitted:  # else the change is decided anew: a retry is withdrawn only once
                admitted.append(self._admitted(walk))
            if admitted[0] is not None:
                return GiveUp(admitted[0])
        return verdict

    def _barrier(self, walk: Walk, session: Session, now_ms: int) -> Suppressed | None:
        if not walk.route.durable:
            return None if is_safe(walk.request.method) else Suppressed.UNSAFE_TO_REPEAT
        profile, first = walk.lane.profile, session.first_send_at
        promise = _A_STRONG if self._dares(walk, session) else promised(profile, session)
        return repeat_barrier(promise, first, now_ms, profile.resend_horizon)

    def _dares(self, walk: Walk, session: Session) -> bool:
        """Whether a second charge is risked. Only by the walk that a session began with: never for
        a client's repeat, a resume, or after a restart.
        """
        return walk.first and dares(walk.route.retry, session, self._journal.store.epoch)

    def _admitted(self, walk: Walk) -> Suppressed | None:
        admission = walk.admission
        return admission.may_retry() if walk.route.durable else admission.may_retry_read()

    def _answer(self, walk: Walk, session: Session, verdict: Verdict) -> Answer:
        """What to tell the backend. After exhaustion that is the last real answer, if one still
        stands: nothing that might have reached the gateway came after it.
        """
        profile = walk.lane.profile
        gave_up = isinstance(verdict, GiveUp)
        misleading = _misleads(walk, session)
        if walk.last_answer is not None and not misleading:
            return forwarded(walk.last_answer, session, profile, gave_up=gave_up)
        reason = Reason.NOT_EXECUTED if misleading else Reason.INTERNAL_ERROR
        if walk.result is not None and walk.result.reason is not None:
            reason = walk.result.reason
        return without_answer(session, profile, reason)

    def _suppressed(self, walk: Walk, why: Suppressed) -> None:
        self._recorder.note(ev.RetrySuppressed(walk.lane.name, walk.route.name, why))

    def _updated(self, walk: Walk, change: Callable[[Session], Change]) -> Awaitable[Session]:
        return self._journal.update(walk.session, change, walk.lane.profile.replay_headers)


def _untold(walk: Walk, reason: Reason, *, retry_after_ms: int | None = None) -> Answer:
    """What is known of a walk that sends no more. What settled its session meanwhile (a late
    answer, while it waited) is then told instead.
    """
    walk.settled_elsewhere = walk.session.state in _SETTLED
    session, profile = walk.session, walk.lane.profile
    return without_answer(session, profile, reason, retry_after_ms=retry_after_ms)


def _misleads(walk: Walk, session: Session) -> bool:
    """Whether the answer says no to the repeat alone (429, 401, "this key was used"; at risk, a
    decline too). Handed on, it would tell the backend that nothing was charged, which nobody knows.
    """
    if walk.result is None or not session.durable or session.outcome is not _UNKNOWN:
        return False
    if walk.result.status in _OF_THIS_SEND:
        return True
    if walk.last_answer is None or not _is_a_no(walk.last_answer.status):
        return False
    # Where every send was told so, that is how it stands.
    earlier = (a for a in session.attempts[:-1] if a.status in OPEN)
    return any(not _is_a_no(attempt.http_status or 0) for attempt in earlier)


def _is_a_no(status: int) -> bool:
    return 400 <= status < 500  # noqa: PLR2004 -- to an SDK, all 4xx


async def _no_key() -> None:
    message = "its request cannot bear the key that it would be sent under"
    raise SendForbidden(message)


def _delay(state: RetryCallState) -> float:
    """How long to wait: what the verdict says."""
    verdict = state.outcome.result() if state.outcome is not None else None
    return verdict.delay_seconds if isinstance(verdict, RetryAfter) else 0.0


def _cut_off(send: Send) -> WireFacts:
    """The drain's patience is over. What was sent is out there; it must not be forgotten."""
    current = asyncio.current_task()
    if current is not None:
        current.uncancel()
    phase = Phase.AWAITING_RESPONSE if send.sent else Phase.CONNECTING
    return WireFacts(send.sent, phase, Reason.SHUTDOWN)


def _to_keep(walk: Walk, session: Session) -> InboundRequest | None:
    """The request, where its route keeps it and it has not been sent before."""
    return walk.request if walk.route.keep_request and not session.attempts else None


def _not_again(verdict: Verdict) -> Verdict:
    """What cannot be recorded is not sent again."""
    again = isinstance(verdict, RetryAfter)
    return GiveUp(Suppressed.STORE_UNAVAILABLE) if again else verdict


def _intended(walk: Walk, session: Session, number: int) -> bool:
    """Whether the walk's intent of that number is on record, and nobody knows what came of it: it
    has no end, or this process was taken for gone.
    """
    mine = (number, walk.intended_at, walk.epoch)
    return any(
        a.status in OPEN and (a.number, a.started_at, a.epoch) == mine for a in session.attempts
    )


async def _touching(walk: Walk) -> AsyncIterator[bytes]:
    """The body as it comes; from the first look at it on, it cannot be sent a second time."""
    walk.stream_touched = True
    if walk.stream is not None:
        async for chunk in walk.stream:
            yield chunk
