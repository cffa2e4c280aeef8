"""What people and backends may do to a session by hand: create, resume, complete, say that it was
not charged, cancel, interrupt.

Each command decides on the session as it is, inside the journal, so that it cannot race with an
answer that is just arriving. None of them ever says "not charged" without proof.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from proxy.core import events as ev
from proxy.core.lookup import may_be_void, seconds_since_send, settled, voiding_seconds
from proxy.core.policy import SessionPolicy
from proxy.core.reasons import Reason
from proxy.core.recovery import Care, care_for
from proxy.core.retrying import promised, repeat_barrier, wanted_again
from proxy.core.session import Session, apply
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import Phase
from proxy.flow.journal import Change, Journal
from proxy.flow.pipeline import Pipeline
from proxy.flow.reconcile import Reconcile
from proxy.flow.walk import Lane, Walks
from proxy.ports import Clock, Conflict, Dice, OrderTaken, SessionStore, StoreUnavailable
from proxy.tasks import Tasks

# How long a reader waits for a look-up, and how long there is none after it.
_READER_WAITS_SECONDS = 2.0
_READERS_LOOK_EVERY_SECONDS = 1.0


class NotAllowed(Exception):  # noqa: N818 -- an answer to a person, not an error
    """The session's state does not allow the command; `why` is for the person who asked."""

    def __init__(self, session: Session, why: str) -> None:
        super().__init__(why)
        self.session = session
        self.why = why


class NoSuchSession(Exception):  # noqa: N818 -- an answer to a person, not an error
    """There is no session with this id."""


class Mode(StrEnum):
    """How a resumed session goes on."""

    SEND = "send"
    RECONCILE = "reconcile"
    NONE = "none"  # there was nothing left to do: it is resumed, or completed, already


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a resume came to. `attempt` is the send that comes next, or the last one there was."""

    session: Session
    mode: Mode
    attempt: int
    message: str


Check = Callable[[Session], None]
"""Asked about the session that a call decides on, each time it does. What it raises, the call
raises, and nothing is done; whatever moves the session after it was asked has the call decide anew.
"""


def _as_it_is(_session: Session) -> None:
    """Whoever asks for nothing gets it done to the session as it is."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a backend says of a payment before it sends it."""

    order_ref: str
    user_ref: str | None
    gateway: str | None
    amount: str | None
    currency: str | None


class Commands:
    """The verbs of the session API."""

    def __init__(  # noqa: PLR0913 -- the ports it needs, no more
        self,
        *,
        store: SessionStore,
        journal: Journal,
        pipeline: Pipeline,
        reconcile: Reconcile,
        lanes: Mapping[str, Lane],
        walks: Walks,
        tasks: Tasks,
        clock: Clock,
        dice: Dice,
        policy: SessionPolicy,
        default_max_attempts: int,
    ) -> None:
        self._store = store
        self._journal = journal
        self._pipeline = pipeline
        self._reconcile = reconcile
        self._lanes = lanes
        self._walks = walks
        self._tasks = tasks
        self._clock = clock
        self._dice = dice
        self._policy = policy
        self._default_max_attempts = default_max_attempts
        self._looked: dict[str, asyncio.Future[None]] = {}  # for readers, within the last second

    async def get(self, session_id: str) -> Session:
        """The session as it is, expired if its time is up. Raises `NoSuchSession`."""
        session = await self._store.get(session_id)
        if session is None:
            raise NoSuchSession(session_id)
        now = self._clock.now_ms()
        if session.due_to_expire(now) and session_id not in self._walks.by_session:
            session = await self._journal.update(
                session,
                lambda s: Change([ev.Expired(now)] if s.due_to_expire(now) else []),
                frozenset(),
            )
        return session

    async def show(self, session_id: str) -> Session:
        """The session for whoever reads it; one of which nobody knows whether it was charged is
        looked up first. A gateway that is slow to tell is not waited for.
        """
        session = await self.get(session_id)
        looked = self.look_up_now(session)
        if looked is None:
            return session
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READER_WAITS_SECONDS):
                await asyncio.shield(looked)
        return await self._store.get(session_id) or session

    def look_up_now(self, session: Session) -> asyncio.Future[None] | None:
        """Have the gateway asked about a session of which nobody knows whether it was charged: once
        a second at most, however many want it. When that is done; None if it is not asked.
        """
        lane = self._lane(session)
        busy = session.in_flight or session.id in self._walks.by_session
        if lane is None or busy or session.outcome is not Outcome.UNKNOWN:
            return None
        looked = self._looked.get(session.id)
        if looked is None and self._reconcile.possible(lane, session):
            looked = self._looked[session.id] = asyncio.get_running_loop().create_future()
            _ = self._tasks.start(self._look_for_readers(lane, session, looked), "look up")
        return looked

    async def _look_for_readers(
        self, lane: Lane, session: Session, looked: asyncio.Future[None]
    ) -> None:
        """One look-up for everyone who reads the session meanwhile, and none soon after it."""
        try:
            await self._look_up(lane, session)
        finally:
            looked.set_result(None)
            try:
                await self._clock.sleep(_READERS_LOOK_EVERY_SECONDS)
            finally:
                del self._looked[session.id]

    async def hear(
        self, session_id: str, status: AttemptStatus, reference: str, *, key: str
    ) -> Session:
        """What the gateway says by itself (a webhook) of the payment it has under a key. Raises
        `NoSuchSession`.
        """
        session = await self.get(session_id)
        lane = self._lane(session)
        if lane is None:
            return session
        return await self._reconcile.learn(lane, session, status, reference, key=key)

    def _lane(self, session: Session) -> Lane | None:
        """What its gateway and its route are like; None if the gateway is not in the policy."""
        lane = self._lanes.get(session.gateway or "")
        return None if lane is None else lane.of(session.route)

    def knows(self, gateway: str) -> bool:
        """Whether there is such a gateway."""
        return gateway in self._lanes

    def lookup_possible(self, session: Session) -> bool:
        """Whether the gateway can be asked about it."""
        return self._not_asked(session) is None

    def _not_asked(self, session: Session) -> str | None:
        """Why the gateway cannot be asked about it."""
        lane = self._lane(session)
        if lane is None:
            return "its gateway is not in the policy"
        return self._reconcile.missing(lane, session)

    def waits_for(self, session: Session) -> str | None:
        """Who must do something about a session whose outcome is unknown, and why Holdfast does not
        find out by itself. None where it does, or nothing is unknown.
        """
        why = self._not_asked(session) if session.outcome is Outcome.UNKNOWN else None
        if why is None or session.in_flight or session.id in self._walks.by_session:
            return None
        may_return = self._may_return(session)
        who = "the same request again, or a person" if may_return else "a person"
        return f"{who}: {why}"

    def _may_return(self, session: Session) -> bool:
        """Whether an unknown one is sent again once its request comes."""
        wanted = session.live and not session.cancel_requested and not session.hold
        in_time = session.sends_left() > 0 and self._clock.now_ms() < session.expires_at
        return wanted and in_time and self._may_repeat(session)

    def holds_request(self, session: Session) -> bool:
        """Whether this process still has its request, and with it the credential to ask with."""
        return self._reconcile.holds(session)

    async def recall(self, session: Session) -> None:
        """Bring back what a session's process that is gone had in memory, where that was kept."""
        lane = self._lane(session)
        if lane is not None:
            await self._reconcile.recall(lane, session)

    async def create(self, order: Order) -> tuple[Session, bool]:
        """A session ahead of its request, durable when this returns; (session, whether it is new).

        The same order again while nothing was sent for it: the same session. Raises `NotAllowed`
        when the order is open, unknown or charged.
        """
        now = self._clock.now_ms()
        opened = ev.Opened(now)
        session = apply(
            Session(
                id=self._dice.session_id(),
                gateway=order.gateway,
                started_at=now,
                expires_at=now + int(self._policy.expires_after * 1000),
                max_attempts=self._default_max_attempts,
                order_ref=order.order_ref,
                order_locks=True,
                user_ref=order.user_ref,
                amount=order.amount,
                currency=order.currency,
            ),
            opened,
        )
        while True:
            try:
                await self._store.claim(session, 0)
                await self._store.commit(session, session.version, None)
            except Conflict as conflict:  # others see it from its claim on, and have moved it
                if conflict.current is None:
                    message = f"session {session.id} is gone"
                    raise StoreUnavailable(message) from None
                self._journal.opened(session, opened)
                return conflict.current, True
            except OrderTaken as taken:
                holder = await self.get(taken.holder.id)
                if not holder.locks_order:
                    continue
                if holder.bound or holder.gateway != order.gateway:
                    why = f"the order has session {holder.id} ({holder.state}, {holder.outcome})"
                    raise NotAllowed(holder, why) from None
                return holder, False
            break
        self._journal.opened(session, opened)
        return session, True

    async def resume(self, session_id: str, check: Check = _as_it_is) -> Resumption:
        """Bring an interrupted session forward: send it again, or ask the gateway about it. The
        same call again, while it goes on or after it completed, does nothing.
        """
        found = await self.get(session_id)
        now = self._clock.now_ms()
        state = found.state  # as it was decided on

        def go_on(current: Session) -> Change:
            nonlocal state
            state = current.state
            if state in _RESUMED_ALREADY:
                return Change()
            obstacle = self._obstacle(current)
            if obstacle is not None:
                raise NotAllowed(current, obstacle)
            stopped = state is State.INTERRUPTED
            return Change([ev.Resumed(now, ev.ResumedBy.REQUEST)] if stopped else [])

        session = await self._change(found, go_on, check)
        if state in _RESUMED_ALREADY:
            return self._resumed_already(session)
        return self._go_on(session)

    def _go_on(self, session: Session) -> Resumption:
        """Send what was resumed, have it looked up, or wait for its request."""
        lane = self._lane(session)
        unknown = session.outcome is Outcome.UNKNOWN
        mode = Mode.RECONCILE if unknown else Mode.SEND
        last = len(session.attempts)
        # Wanted cancelled or past its sends: then the gateway is only asked.
        may_send = session.live and not session.cancel_requested
        if lane is not None and may_send and self._pipeline.resume(lane, session):
            how = "sending the same request again with the same key"
            return Resumption(session, mode, last + 1, how)
        if lane is not None and unknown and self._reconcile.possible(lane, session):
            _ = self._tasks.start(self._look_up(lane, session, then_send=True), "look up")
            return Resumption(session, mode, last, "asking the gateway what became of it")
        return Resumption(session, mode, last + 1, self._not_sent_because(session))

    def _not_sent_because(self, session: Session) -> str:
        """What it takes to bring a resumed session forward that Holdfast cannot."""
        why = self._not_asked(session) if session.outcome is Outcome.UNKNOWN else None
        if why is None:
            return _BRING_IT_AGAIN
        if self._may_return(session):
            return f"{_BRING_IT_AGAIN}; the gateway is not asked: {why}"
        return f"it waits for a person: {why}"

    def _resumed_already(self, session: Session) -> Resumption:
        """What to tell whoever resumes once more."""
        if session.state is State.COMPLETED:
            return Resumption(session, Mode.NONE, session.attempt_count, "already completed")
        last = len(session.attempts)
        if session.in_flight or session.id in self._walks.by_session:
            return Resumption(session, Mode.NONE, last, "already resumed, and in progress")
        if self.lookup_possible(session) and session.outcome is Outcome.UNKNOWN:
            return Resumption(session, Mode.NONE, last, "already resumed; the gateway is asked")
        how = f"already resumed; {self._not_sent_because(session)}"
        return Resumption(session, Mode.NONE, last + 1, how)

    async def _look_up(self, lane: Lane, session: Session, *, then_send: bool = False) -> None:
        with contextlib.suppress(StoreUnavailable):  # then it is asked again at its next turn
            session = await self._reconcile.once(lane, session)
            free = session.state is State.INTERRUPTED and not session.hold
            if then_send and free and session.outcome is Outcome.NOT_CHARGED:
                _ = self._pipeline.resume(lane, session)

    def can_resume(self, session: Session) -> bool:
        """Whether `resume` would bring it forward now."""
        return session.state is not State.COMPLETED and self._obstacle(session) is None

    def _obstacle(self, session: Session) -> str | None:  # noqa: C901, PLR0911 -- one reason each
        """Why it cannot be resumed."""
        unknown = session.outcome is Outcome.UNKNOWN
        if session.id in self._walks.by_session or session.in_flight:
            return _IN_PROGRESS
        if len(session.timeline) >= _MOST_STEPS:
            return _TOO_OFTEN
        may_ask = unknown and self.lookup_possible(session)
        if may_ask and session.state in {State.INTERRUPTED, State.FAILED_MAX_RETRIES}:
            return None
        person = " and the gateway cannot be asked; a person must settle it" if unknown else ""
        if session.state is not State.INTERRUPTED:
            ended = f"it ended as {session.state}{person or '; start a new payment'}"
            return _NOT_INTERRUPTED.get(session.state, ended)
        if session.cancel_requested:
            return f"it is being cancelled and will not be sent again{person}"
        if self._clock.now_ms() >= session.expires_at:
            return f"its time is up{person}"
        if session.sends_left() == 0:
            return f"no attempts are left{person}"
        if not unknown and not session.named:
            # Whoever sent it may just have sent it again, as another payment.
            return _NAME_IT
        if unknown and not self._may_repeat(session):
            return f"a repeat could charge twice{person}"
        return None

    def _may_repeat(self, session: Session) -> bool:
        """Whether its gateway promises that the same key does not charge again."""
        lane = self._lane(session)
        if lane is None or session.in_doubt_at_another(lane.endpoint):
            return False
        first, profile = session.first_send_at, lane.profile
        now = self._clock.now_ms()
        promise = promised(profile, session)
        return repeat_barrier(promise, first, now, profile.resend_horizon) is None

    async def cancel(
        self, session_id: str, reason: str, check: Check = _as_it_is
    ) -> tuple[Session, bool]:
        """(session, whether that is its end). False: a charge cannot be excluded yet; nothing
        more is sent, and it is cancelled as soon as "not charged" is proved.
        """
        session = before = await self.get(session_id)
        now = self._clock.now_ms()

        def cancel(current: Session) -> Change:
            if current.state is State.CANCELLED or _given_up(current):
                return Change()
            if current.outcome is Outcome.CHARGED:
                raise NotAllowed(current, "it is already charged; refund it instead")
            if current.outcome is Outcome.UNKNOWN:
                wanted = [] if current.cancel_requested else [ev.CancelRequested(now, reason)]
                return Change(wanted)
            if not current.live:
                raise NotAllowed(current, f"it has already ended as {current.state}")
            return Change([ev.Cancelled(now, reason)])

        session = await self._change(session, cancel, check)
        unknown = session.outcome is Outcome.UNKNOWN
        if unknown and session.version != before.version:
            self._ask_soon(session)
        return session, not unknown

    def _ask_soon(self, session: Session) -> None:
        """Ask the gateway about it now instead of at its next turn."""
        lane = self._lane(session)
        busy = session.in_flight or session.id in self._walks.by_session
        if lane is not None and not busy and self._reconcile.possible(lane, session):
            _ = self._tasks.start(self._look_up(lane, session), "look up")

    async def interrupt(
        self, session_id: str, reason: str, check: Check = _as_it_is
    ) -> tuple[Session, bool]:
        """Hold a session: no further sends until it is resumed. (session, whether one is out)."""
        session = await self.get(session_id)
        now = self._clock.now_ms()

        def hold(current: Session) -> Change:
            if not current.live:
                raise NotAllowed(current, f"it has already ended as {current.state}")
            if current.hold and current.state is State.INTERRUPTED:
                return Change()  # held already
            if len(current.timeline) >= _MOST_STEPS:
                raise NotAllowed(current, _TOO_OFTEN)
            sent = current.outcome is Outcome.UNKNOWN  # or its answer was lost
            phase = Phase.AWAITING_RESPONSE if sent else Phase.BEFORE_SEND
            held = ev.Interrupted(now, Reason.REQUESTED, phase, sent, reason, hold=True)
            return Change([held])

        session = await self._change(session, hold, check)
        return session, session.in_flight

    async def complete(self, session_id: str, reference: str, check: Check = _as_it_is) -> Session:
        """A person or backend vouches, with the gateway's reference, that it was charged."""
        session = await self.get(session_id)
        lane = self._lane(session)
        now = self._clock.now_ms()

        def settle(current: Session) -> Change:
            known = current.state is State.COMPLETED and current.outcome is Outcome.CHARGED
            if known and not current.review_required:
                return Change()
            # Also between two sends: whoever waits for the walk's answer would be told that the
            # session was cancelled.
            if current.in_flight or current.id in self._walks.by_session:
                raise NotAllowed(current, _IN_PROGRESS)
            # The last: a charge that contradicts what was said before, which a person has seen to.
            open_still = current.live or current.outcome is Outcome.UNKNOWN or known
            if not open_still:
                raise NotAllowed(current, f"it has already ended as {current.state}")
            if lane is not None and may_be_void(lane.profile, current, now):
                longest = f"{voiding_seconds(lane.profile):g} s"
                message = f"it was just asked to be voided; look again once {longest} are over"
                raise NotAllowed(current, message)
            return Change(
                [
                    ev.EvidenceFound(
                        now, ev.EvidenceSource.PERSON, AttemptStatus.SUCCEEDED, reference
                    )
                ]
            )

        return await self._change(session, settle, check)

    async def not_charged(
        self, session_id: str, reference: str, check: Check = _as_it_is
    ) -> Session:
        """A person or backend vouches, with what proves it, that the gateway charged nothing and
        will not: what is sent next, if anything, is a new attempt.
        """
        session = await self.get(session_id)
        lane = self._lane(session)
        now = self._clock.now_ms()

        def settle(current: Session) -> Change:
            said = current.reference == reference
            if current.outcome is not Outcome.UNKNOWN:
                if said and current.outcome is Outcome.NOT_CHARGED:
                    return Change()
                raise NotAllowed(current, f"its outcome is known: {current.outcome}")
            if current.in_flight or current.id in self._walks.by_session:
                raise NotAllowed(current, _IN_PROGRESS)
            if said:  # a call that is repeated late must not speak for what was sent since
                raise NotAllowed(current, "that was said of an earlier send; look this one up")
            if lane is None:
                raise NotAllowed(current, _NO_GATEWAY)
            if not settled(lane.profile, current, now):
                left = lane.profile.max_processing_time - seconds_since_send(current, now)
                message = f"the gateway may still be at it; look again in {math.ceil(left)} s"
                raise NotAllowed(current, message)
            person = ev.EvidenceSource.PERSON
            return self._reconcile.not_charged(lane, current, person, reference, now)

        return await self._change(session, settle, check)

    async def _change(
        self, session: Session, change: Callable[[Session], Change], check: Check = _as_it_is
    ) -> Session:
        def checked(current: Session) -> Change:
            check(current)
            return change(current)

        return await self._journal.update(session, checked, frozenset())

    # --- by the clock -------------------------------------------------------------------------

    async def look_after(self, session: Session) -> None:
        """The next step for a session nobody is walking (see `core.recovery`)."""
        lane = self._lane(session)
        if session.id in self._walks.by_session:
            return
        now = self._clock.now_ms()
        care = self._care(session, lane, now)
        if care is Care.ASK_GATEWAY and lane is not None:
            if lane.admissions.may_look_up():
                await self._reconcile.once(lane, session)
        elif care is Care.SEND_AGAIN and lane is not None:
            _ = self._pipeline.resume(lane, session, ev.ResumedBy.RECONCILER)
        elif care in _BY_CLOCK:
            event = _BY_CLOCK[care](now)
            await self._change(
                session,
                lambda s: Change([event] if self._care(s, lane, now) is care else []),
            )

    def _care(self, session: Session, lane: Lane | None, now: int) -> Care:
        if lane is None:  # its gateway is no longer configured: only a person can know
            expired = session.due_to_expire(now) and not session.in_flight
            return Care.EXPIRE if expired else Care.LEAVE
        return care_for(
            session,
            now,
            gateway_class=promised(lane.profile, session),
            lookup_possible=self._reconcile.possible(lane, session),
            repeat_possible=self._repeat_possible(lane, session, now),
        )

    def _repeat_possible(self, lane: Lane, session: Session, now: int) -> bool:
        """Whether Holdfast may send it again by itself: its gateway promises that the same key does
        not charge twice, the bytes are here, and neither a person nor the policy wants otherwise.
        """
        open_still = not session.cancel_requested and not session.hold and now < session.expires_at
        here = open_still and self._reconcile.holds(session) and self._may_repeat(session)
        route = next((r for _, r in lane.routes.routes if r.name == session.route), None)
        return here and route is not None and wanted_again(route.retry, session)


def _given_up(session: Session) -> bool:
    """Provably not charged, and nothing more will be sent: as good as cancelled."""
    failed = session.state is State.FAILED_MAX_RETRIES
    return failed and session.outcome is Outcome.NOT_CHARGED


# Who holds and resumes in a loop does not let a session grow for ever.
_MOST_STEPS = 1000
_TOO_OFTEN = "it was held and resumed too often; cancel it, or settle it"
_IN_PROGRESS = "it is in progress; wait for its answer"
_NO_GATEWAY = "its gateway is not in the policy, so that nobody knows how long it may be at it"
_NAME_IT = "its request named no payment; send that again with X-Payment-Session-Id and this id"
_BRING_IT_AGAIN = "send the same request again, named as before: key, session or order"

# There is nothing to resume any more: what the call wants has happened.
_RESUMED_ALREADY = frozenset({State.RESUMED, State.COMPLETED})

_NOT_INTERRUPTED = {
    State.RESUMED: "it is already resumed; send its request again",
    State.INITIATED: "it was not interrupted; send its request",
}

_BY_CLOCK: Mapping[Care, Callable[[int], ev.Event]] = {
    Care.EXPIRE: ev.Expired,
    Care.EXHAUST: ev.Exhausted,
    Care.CALL_A_PERSON: ev.ReviewNeeded,
}
