"""Hear what a gateway says by itself, and hand it on to the merchant.

Evidence first, the merchant next, and only then the gateway is told that all is well: until it is,
the gateway sends again, and nothing has to be kept here for that. Of one payment there is one
webhook at a time on its way to the merchant, in the order they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from http import HTTPStatus
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from proxy.core import events as ev
from proxy.core.classify import classify
from proxy.core.http_rules import answer_headers
from proxy.core.idempotency import Digest, had_key
from proxy.core.profile import GatewayProfile
from proxy.core.session import Session
from proxy.core.signatures import Forged
from proxy.core.states import AttemptStatus, Outcome
from proxy.core.webhooks import Says, Told, Webhook, WebhookRecipe, opened, settled_by, told
from proxy.core.wire import Headers, Phase, WireFacts
from proxy.flow.commands import Commands
from proxy.flow.walk import Lane
from proxy.ports import Clock, Query, Recorder, Send, SessionStore, Upstream

# The gateway's own answer to the request is mostly on its way as well. It is let through first: the
# backend is to hear that, not that somebody else has settled its payment. So long for all events of
# a delivery together.
_ANSWER_COMES_SECONDS = 2.0
_LOOK_AGAIN_SECONDS = 0.02
# Of an event that names no payment, so many of those it may be about are looked up.
_MOST_LOOKED_UP = 10
_MOST_OF_AN_ORDER = 100
# How long the merchant's endpoint is tried, its turn included. Gateways wait 5 s (Razorpay) and
# more; what is still not taken then they send again.
_FORWARD_SECONDS = 4.0
_TURN_SECONDS = 2.0  # of these
_CONNECT_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.1
_MAX_ANSWER_BYTES = 64 * 1024
_NOT_PASSED_ON = frozenset({"host", "content-length", "expect"})
# The merchant's no for now; any other 4xx is one for good.
_FOR_NOW = frozenset({408, 425, 429})


class WebhookVerdict(StrEnum):
    """What came of one event; the label `verdict` of `holdfast_webhooks_total`."""

    SETTLED = "settled"
    KNOWN = "known"  # it says nothing new
    LOOKED_UP = "looked_up"  # no evidence by itself; the gateway was asked
    UNPROVED = "unproved"  # no evidence by itself, and the gateway cannot be asked, or not now
    NO_SESSION = "no_session"
    IGNORED = "ignored"  # about something else
    REFUSED = "refused"
    NOT_FORWARDED = "not_forwarded"


class NotForwarded(Exception):  # noqa: N818 -- the condition
    """The merchant's endpoint did not take it; why, for the gateway's own log."""


class Webhooks:
    """What gateways say by themselves."""

    def __init__(
        self,
        commands: Commands,
        store: SessionStore,
        recorder: Recorder,
        clock: Clock,
        digest: Digest,
    ) -> None:
        self._commands = commands
        self._store = store
        self._recorder = recorder
        self._clock = clock
        self._digest = digest
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._unheard: set[str] = set()

    async def take(
        self, lane: Lane, recipe: WebhookRecipe, webhook: Webhook, headers: Headers
    ) -> None:
        """Returns once all of it is heard, and the merchant has it too. Raises `Forged`,
        `Unreadable`, `StoreUnavailable` or `NotForwarded`; whatever it is, the gateway may send it
        again. `headers`: as they came.
        """
        agreed = lane.webhook
        try:
            events = opened(recipe, webhook, agreed.secret, agreed.url, self._clock.now_ms())
        except Forged as forged:
            self._refused(lane, recipe, str(forged))
            raise
        found = [await self._find(lane, told(recipe, event)) for event in events]
        until = self._clock.monotonic() + _FORWARD_SECONDS
        async with contextlib.AsyncExitStack() as turns:
            await self._take_turns(turns, lane, found)
            answers_by = self._clock.monotonic() + _ANSWER_COMES_SECONDS
            for event, sessions in found:
                verdict = await self._heard(lane, recipe, event, sessions, answers_by)
                self._recorder.note(ev.WebhookHeard(lane.name, verdict))
            if lane.merchant is not None:
                try:
                    await self._pass_on(lane, lane.merchant, webhook, headers, until)
                except NotForwarded:
                    self._note(lane, WebhookVerdict.NOT_FORWARDED)
                    raise

    def _refused(self, lane: Lane, recipe: WebhookRecipe, why: str) -> None:
        self._note(lane, WebhookVerdict.REFUSED)
        # Only of this: whoever can connect could fill the log with the others.
        if recipe.signature and lane.webhook.secret is None and lane.name not in self._unheard:
            self._unheard.add(lane.name)
            self._recorder.note(ev.WebhooksUnheard(lane.name, why))

    def _note(self, lane: Lane, verdict: WebhookVerdict) -> None:
        self._recorder.note(ev.WebhookHeard(lane.name, verdict))

    # --- which payment ------------------------------------------------------------------------

    async def _find(self, lane: Lane, event: Told | None) -> tuple[Told | None, list[Session]]:
        """The sessions that an event may be about."""
        if event is None:
            return None, []
        found: Sequence[Session] = ()
        if event.order is not None:
            query = Query(order_ref=event.order, gateway=lane.name, limit=_MOST_OF_AN_ORDER)
            page = await self._store.search(query)
            found = page.sessions
            if page.more and event.key is None:  # it may be about one that was not looked at
                event = replace(event, says=Says.LOOK_UP, object=None)
        if event.key is not None:  # the key decides; the order only leads to it quickly
            keyed = self._keyed(found, event.key)
            if not keyed:
                listed = await self._store.listed()
                keyed = self._keyed([s for s in listed if s.gateway == lane.name], event.key)
            return event, keyed
        if event.order is None:
            query = Query(gateway=lane.name, outcome=Outcome.UNKNOWN, limit=_MOST_LOOKED_UP)
            return event, list((await self._store.search(query)).sessions)
        return event, [session for session in found if session.operation == event.operation]

    def _keyed(self, sessions: Sequence[Session], key: str) -> list[Session]:
        """Those with this gateway key. A charge under one that was thought to have charged nothing
        is one, too.
        """
        return [session for session in sessions if had_key(self._digest, session, key)]

    async def _take_turns(
        self,
        turns: contextlib.AsyncExitStack,
        lane: Lane,
        found: Sequence[tuple[Told | None, list[Session]]],
    ) -> None:
        """One at a time for each payment, in the order they came; in one order of names, so that
        two that speak of the same payments never wait for each other.
        """
        named = [sessions for event, sessions in found if event and event.names_it]
        names = {session.id for sessions in named for session in sessions}
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                for name in sorted(names):
                    turn = self._turns.setdefault(name, asyncio.Lock())
                    await turns.enter_async_context(turn)
        except TimeoutError:
            self._note(lane, WebhookVerdict.NOT_FORWARDED)
            message = "an earlier webhook of the same payment is still on its way"
            raise NotForwarded(message) from None

    # --- what it proves -----------------------------------------------------------------------

    async def _heard(
        self,
        lane: Lane,
        recipe: WebhookRecipe,
        event: Told | None,
        sessions: Sequence[Session],
        answers_by: float,
    ) -> WebhookVerdict:
        if event is None:
            return WebhookVerdict.IGNORED
        if not sessions:
            return WebhookVerdict.NO_SESSION
        status = None if recipe.signature is None else self._status(lane.profile, event)
        if status is not None and event.names_it:
            sessions = [await self._answered(session, answers_by) for session in sessions]
            session = settled_by(event, sessions)
            if session is not None:
                after = await self._commands.hear(
                    session.id, status, event.reference, key=event.key or ""
                )
                if after.version != session.version:
                    return WebhookVerdict.SETTLED
                sessions = [after]
        unknown = [session for session in sessions if session.outcome is Outcome.UNKNOWN]
        if not unknown:
            return WebhookVerdict.KNOWN
        # Whoever can connect may bring what is not signed: it does not break into a gateway's rest.
        rests = recipe.signature is None and not lane.admissions.may_look_up()
        wanted = [] if rests else unknown[:_MOST_LOOKED_UP]
        asked = list(map(self._commands.look_up_now, wanted))
        return WebhookVerdict.LOOKED_UP if any(asked) else WebhookVerdict.UNPROVED

    def _status(self, profile: GatewayProfile, event: Told) -> AttemptStatus | None:
        """What it proves, if that is the payment it speaks of. An object in an event shows how that
        stood then: "charged" stays true, anything else may have changed since.
        """
        if event.says is Says.SUCCEEDED:
            return AttemptStatus.SUCCEEDED
        if event.says is Says.DECLINED:
            return AttemptStatus.DECLINED  # of its key, if it names one
        if not isinstance(event.object, dict):
            return None
        shown = WireFacts(
            True, Phase.ANSWERED, None, 200, "OK", (), json.dumps(event.object).encode()
        )
        result = classify(shown, profile, now_ms=self._clock.now_ms())
        charged = result.status is AttemptStatus.SUCCEEDED
        return result.status if charged else None

    async def _answered(self, session: Session, until: float) -> Session:
        """The session as it is by now: once its answer is there, or did not come either."""
        session = await self._store.get(session.id) or session
        while session.in_flight and self._clock.monotonic() < until:
            await self._clock.sleep(_LOOK_AGAIN_SECONDS)
            session = await self._store.get(session.id) or session
        return session

    # --- on to the merchant -------------------------------------------------------------------

    async def _pass_on(
        self, lane: Lane, merchant: Upstream, webhook: Webhook, headers: Headers, until: float
    ) -> None:
        """The same bytes and headers, again after a pause while that may help. Raises
        `NotForwarded`.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            left = until - self._clock.monotonic()
            send = _forwarded(lane.webhook.forward_to or "", webhook, headers, max(left, 0.1))
            facts = await merchant.send(send)
            if facts.reason is None and facts.status < HTTPStatus.MULTIPLE_CHOICES:
                return
            said = facts.reason or f"status {facts.status}"
            final = facts.reason is None and facts.status < HTTPStatus.INTERNAL_SERVER_ERROR
            left = until - self._clock.monotonic()
            if left <= pause or (final and facts.status not in _FOR_NOW):
                message = f"the merchant's endpoint did not take it: {said}"
                raise NotForwarded(message)
            await self._clock.sleep(pause)
            pause *= 2


def _forwarded(forward_to: str, webhook: Webhook, headers: Headers, seconds: float) -> Send:
    async def nothing_to_record() -> None:
        return

    where = urlsplit(forward_to)
    query = "&".join(part for part in (where.query, webhook.query) if part)
    return Send(
        method="POST",
        target=f"{where.path or '/'}?{query}" if query else where.path or "/",
        headers=tuple(p for p in answer_headers(headers) if p[0].lower() not in _NOT_PASSED_ON),
        body=webhook.body,
        stream=None,
        answer_whole=True,
        max_answer_bytes=_MAX_ANSWER_BYTES,
        connect_timeout=min(_CONNECT_SECONDS, seconds),
        attempt_timeout=seconds,
        fresh_connection=False,
        before_bytes=nothing_to_record,
    )
