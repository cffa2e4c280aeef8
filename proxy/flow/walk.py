"""One request on its way, and everything the rooms share about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from proxy.core.events import ResumedBy
from proxy.core.policy import RoutePolicy, WebhookPolicy
from proxy.core.profile import GatewayProfile
from proxy.core.results import AttemptResult
from proxy.core.routing import RouteTable
from proxy.core.session import Session
from proxy.core.wire import Answer, Headers, InboundRequest, WireFacts
from proxy.flow.admission import Admission, Admissions
from proxy.ports import Upstream


class Body(Protocol):
    """The body of a request that has not been read yet."""

    async def read(self, limit: int) -> bytes:
        """All of it. Raises `BodyTooLarge` (before asking the client for it, where it can)."""
        ...

    def stream(self) -> AsyncIterator[bytes]:
        """As it comes."""
        ...


class BodyTooLarge(Exception):  # noqa: N818 -- the condition, as the refusal names it
    """The body is larger than the route allows."""


class BodyIncomplete(Exception):  # noqa: N818 -- the condition, as the refusal names it
    """The client went away in the middle of its request."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One gateway with everything a walk through it needs."""

    name: str
    endpoint: str  # its origin, like https://api.example.com
    profile: GatewayProfile
    routes: RouteTable
    upstream: Upstream
    admissions: Admissions
    lookup_credential: Headers
    lookup_sees_all: bool = False
    webhook: WebhookPolicy = field(default_factory=WebhookPolicy)
    merchant: Upstream | None = None  # the way to where webhooks are forwarded
    # Where something else is known of a route than of its gateway: the lane as that route has it.
    of_routes: Mapping[str, Lane] = field(default_factory=dict)

    def of(self, route: str | None) -> Lane:
        """The lane as a route has it, by the route's name."""
        return self.of_routes.get(route or "", self)

    @property
    def key_headers(self) -> frozenset[str]:
        """Every header that bears a payment's key on some route, in lower case."""
        lanes = (self, *self.of_routes.values())
        return frozenset(h for lane in lanes if (h := lane.profile.key.header) is not None)


class Walk(Struct, eq=False):
    """One request on its way. Times are monotonic seconds."""

    lane: Lane
    route: RoutePolicy
    request: InboundRequest
    started: float
    session: Session
    fingerprint: str | None = None
    stream: AsyncIterator[bytes] | None = None
    limit: int = 0  # how many attempts this walk may bring the session to
    resumed_by: ResumedBy = ResumedBy.TIMER
    first: bool = False  # its session began with it: nothing was sent before
    stream_touched: bool = False
    # Evidence from elsewhere settled the session before the walk's own answer did.
    settled_elsewhere: bool = False
    elsewhere: bool = False  # another process brings the session forward
    facts: WireFacts | None = None
    result: AttemptResult | None = None
    answer: Answer | None = None
    # The last complete answer, while nothing sent later could have changed what it says.
    last_answer: WireFacts | None = None
    gateway_seconds: float = 0.0
    waited_seconds: float = 0.0
    intent_seconds: float = 0.0  # what recording the last intent took
    intended_at: int = 0  # when the last intent was to be recorded (epoch milliseconds)
    epoch: int = 0  # under which it was
    resting: bool = False  # in backoff: nothing is out, so it can be stopped at once
    task: asyncio.Task[Any] | None = None
    saving: asyncio.Task[Any] | None = None  # offers the store what it could not take
    ended: Answer | None = None
    waiting: list[asyncio.Future[Answer]] = []

    def answered(self) -> asyncio.Future[Answer]:
        """The answer, once the walk has ended. Who waits may go; the walk does not notice."""
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self.ended is not None:
            waiting.set_result(self.ended)
        else:
            self.waiting.append(waiting)
        return waiting

    def end(self, answer: Answer) -> None:
        """Answer everyone who still waits, and whoever asks from now on."""
        self.ended = answer
        for waiting in self.waiting:
            if not waiting.done():
                waiting.set_result(answer)

    @property
    def admission(self) -> Admission:
        """The doors it goes through."""
        return self.lane.admissions.of(self.route.operation)

    @property
    def deadline(self) -> float:
        """When the total runs out."""
        return self.started + self.route.timeouts.total


@dataclass(slots=True)
class Walks:
    """The walks under way in this process, by payment key and by session."""

    by_key: dict[str, Walk] = field(default_factory=dict)
    by_session: dict[str, Walk] = field(default_factory=dict)

    def enter(self, walk: Walk) -> None:
        """Let duplicates find the walk by its session."""
        self.by_session[walk.session.id] = walk

    def leave(self, walk: Walk, key: str | None) -> None:
        """The walk is over."""
        if key is not None:
            self.by_key.pop(key, None)
        if self.by_session.get(walk.session.id) is walk:
            del self.by_session[walk.session.id]
