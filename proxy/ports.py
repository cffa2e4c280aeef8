"""What the flow needs from the outside, as protocols. Adapters implement them; `app.py` chooses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from proxy.core.events import Event, Fact
from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.core.wire import Headers, WireFacts


class Clock(Protocol):
    """Time. `now_ms` is what is stored and shown; `monotonic` (seconds) measures."""

    def now_ms(self) -> int: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class Dice(Protocol):
    """Chance."""

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def session_id(self) -> str: ...

    def key(self) -> str: ...


class SealBroken(Exception):  # noqa: N818 -- the word for it
    """A sealed value was changed, belongs to something else, or was sealed with another key."""


class Secrets(Protocol):
    """What the install's key can do."""

    def digest(self, *texts: str, body: bytes = b"") -> str: ...

    def client_token(self, session_id: str) -> str: ...

    def seal(self, belongs_to: str, data: bytes) -> bytes: ...

    def unseal(self, belongs_to: str, sealed: bytes) -> bytes:
        """Raises `SealBroken`."""
        ...


class Spool(Protocol):
    """Where evidence waits that the store could not take. What is kept survives a power cut."""

    async def keep(self, record: bytes) -> int:
        """Write a record down; its number. Raises `StoreUnavailable`."""
        ...

    def records(self) -> Mapping[int, bytes]:
        """What waits, by its number, in the order it was kept; at first what was left behind."""
        ...

    async def done(self, number: int) -> None:
        """The store has it now."""
        ...


class Recorder(Protocol):
    """Where facts go: metrics, logs, the operator's view. Never raises, never waits."""

    def moved(self, before: Session | None, event: Event, after: Session) -> None:
        """A session moved. `before` None: it has just begun."""
        ...

    def dropped(self, session: Session) -> None:
        """An ephemeral session's request is over; if it had no end, it gets none."""
        ...

    def note(self, fact: Fact) -> None:
        """Something happened that is not part of a session's life."""
        ...


class AuditUnavailable(Exception):  # noqa: N818 -- the condition, as StoreUnavailable
    """The audit trail takes no entries now; why, for the operator."""


class Audit(Protocol):
    """Where every call that changes a session by hand leaves an entry, and keeps it for good."""

    async def ready(self) -> None:
        """Raises `AuditUnavailable` where an entry is known not to be written."""
        ...

    async def write(self, said: Mapping[str, object]) -> None:
        """Returns when the entry would survive a power cut; entries stand in the order of calls.

        Raises `AuditUnavailable`. The entry is not forgotten then: it is written when it can be.
        """
        ...


# --- upstream -----------------------------------------------------------------------------------


class Send(Struct):
    """One request to a gateway. Seconds and bytes.

    `stream` is a body that is passed on as it comes; `answer_whole` False lets the answer stream
    back. `fresh_connection` never reuses one: after a reused connection dies nobody can say whether
    the request arrived. `sent` is set by the client the moment the intent stood and bytes may
    leave. `late` is set by the client when the attempt's time was up before the answer came: what
    still comes within `late_seconds`, an answer or the end of the connection.
    """

    method: str
    target: str
    headers: Headers
    body: bytes
    stream: AsyncIterator[bytes] | None
    answer_whole: bool
    max_answer_bytes: int
    connect_timeout: float
    attempt_timeout: float
    fresh_connection: bool
    # Awaited after the connection stands and before the first byte leaves; raising stops the send.
    before_bytes: Callable[[], Awaitable[None]]
    late_seconds: float = 0.0
    sent: bool = False
    late: Awaitable[WireFacts] | None = None


class SendForbidden(Exception):  # noqa: N818 -- not an error: the journal's answer to "may I?"
    """Raised by `before_bytes`: the intent could not be recorded, so not a byte may leave."""


class Upstream(Protocol):
    """A gateway, as far as bytes go."""

    async def send(self, send: Send) -> WireFacts:
        """Send once, and only once, whatever happens. Never raises but for cancellation."""
        ...

    async def close(self) -> None: ...


# --- store --------------------------------------------------------------------------------------


class StoreUnavailable(Exception):  # noqa: N818 -- the condition, as the refusal names it
    """The store cannot record or read now. Nothing that was asked for is durable."""


class KeyTaken(Exception):  # noqa: N818 -- an answer, not an error
    """Another session has the key."""

    def __init__(self, holder: Session) -> None:
        super().__init__(holder.id)
        self.holder = holder


class OrderTaken(Exception):  # noqa: N818 -- an answer, not an error
    """Another session of the order is open, unknown or charged."""

    def __init__(self, holder: Session) -> None:
        super().__init__(holder.id)
        self.holder = holder


class Conflict(Exception):  # noqa: N818 -- an answer, not an error
    """The session was changed meanwhile; `current` is what is true now (None: it is gone)."""

    def __init__(self, current: Session | None) -> None:
        super().__init__(current.id if current else "gone")
        self.current = current


@dataclass(frozen=True, slots=True)
class Query:
    """A search. Times are epoch milliseconds, `until` exclusive; None matches everything.

    `listed_only`: only sessions that are `Session.listed`. Newest first; `after` is
    the (started_at, id) of the last session of the page before.
    """

    order_ref: str | None = None
    user_ref: str | None = None
    state: State | None = None
    outcome: Outcome | None = None
    gateway: str | None = None
    since: int | None = None
    until: int | None = None
    listed_only: bool = False
    limit: int = 50
    after: tuple[int, str] | None = None


COUNTED = 1000
"""So far a search counts. To count all that match would mean to look at all of them."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a search; `more` says whether another page follows. `total` counts all that match,
    up to `COUNTED`; the listed ones without an end.
    """

    sessions: Sequence[Session]
    total: int
    more: bool


class SessionStore(Protocol):
    """Sessions, keys, kept answers and requests. The memory store is the reference for what each
    call means.

    Every method but `close` may raise `StoreUnavailable`. A version is written only over the
    version before it, so a lost update is impossible, whoever shares the store.

    A store that several processes share gives each of them a lease. What the lease decides is when
    a send whose sender is gone counts as unknown (`abandoned`), and that a process which may have
    been taken for gone begins no send. It never decides whether something is true: what a gateway
    answered is written down, whoever brings it.
    """

    shared: bool
    """Whether other processes may write to it as well."""

    @property
    def epoch(self) -> int:
        """This process's own number, written into each of its intents; never given twice. Another
        one after the lease was lost.
        """
        ...

    @property
    def leads(self) -> bool:
        """Whether this process, of those that share the store, does what need be done once."""
        ...

    @property
    def regressed(self) -> str | None:
        """Why the store cannot be trusted to hold all it acknowledged (a failover or a restore lost
        the latest), or None. Until a person has settled that, only gateways that recognise the key
        by themselves may be sent anything.
        """
        ...

    @property
    def promise(self) -> str | None:
        """What an operator must know of what it cannot promise, once it is open; or None."""
        ...

    def lease_seconds(self) -> float:
        """How much longer this process may begin sends; infinite for one that owns its store."""
        ...

    async def heartbeat(self) -> None:
        """Renew the lease; a lost one is taken anew under another epoch."""
        ...

    async def abandoned(self) -> list[Session]:
        """Sessions in flight whose sender is gone: its lease ran out, or it is an earlier process
        of a store with one owner. Each is handed to one of the processes that ask.
        """
        ...

    async def open(self) -> None:
        """Get ready. Raises `StoreUnavailable` with a sentence for the operator."""
        ...

    async def close(self) -> None:
        """Write what was accepted, then let go."""
        ...

    async def bind(self, mark: str) -> None:
        """Hold a store that is shared to the key of whoever opened it first. Raises
        `StoreUnavailable` for another mark: with another key every repeat is a new payment.
        """
        ...

    @property
    def trouble(self) -> str | None:
        """Why no write would be accepted now, in its own words; or None."""
        ...

    @property
    def broken(self) -> str | None:
        """Why only a restart can help, or None."""
        ...

    async def claim(self, session: Session, expected_version: int) -> None:
        """Reserve the session's key and order, atomically and visibly to every other claim.

        Visible, not yet durable: the next `commit` makes it so, and nothing is sent before. A
        session that is already stored is claimed anew when its request arrives; `expected_version`
        is its version before that, 0 for a new one.
        Raises `KeyTaken`, `OrderTaken` or `Conflict`.
        """
        ...

    def commit(
        self,
        session: Session,
        expected_version: int,
        answer: bytes | None,
        request: bytes | None = None,
    ) -> Awaitable[None]:
        """Make a version durable; returns when it would survive a power cut.

        `answer` is the sealed answer to keep with it, `request` the sealed request, which goes
        again with the first version that is not `listed`. Raises `Conflict` if the stored (or
        claimed) version is not `expected_version`, and `StoreUnavailable` for the intent of a send
        (`Session.begins_send`) whose epoch has no lease, or whose order another session was charged
        for after all.
        """
        ...

    async def get(self, session_id: str) -> Session | None:
        """The session as it is durable: waits for a version that is on its way."""
        ...

    async def answer(self, session_id: str) -> bytes | None:
        """The sealed answer, while it is kept. Waits for one that is on its way."""
        ...

    async def request(self, session_id: str) -> bytes | None:
        """The sealed request, if one was kept and the session is still listed."""
        ...

    async def search(self, query: Query) -> Page: ...

    async def listed(self) -> list[Session]:
        """Every session that is `Session.listed`."""
        ...

    async def purge(self, *, answers_before: int, sessions_before: int) -> tuple[int, int]:
        """Drop answers and sessions that finished before a time; how many of each.

        Never a session that is `Session.listed`.
        """
        ...
