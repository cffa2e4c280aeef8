"""How a session moves: decide on what is true now, make it durable, then tell.

A change is a function of the session, so that when someone else moved it meanwhile (a cancel from
the session API, a look-up that found the charge) it is decided anew on the truth instead of being
lost or overwriting it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct, msgpack

from proxy.core.events import Event
from proxy.core.session import Session, apply
from proxy.core.wire import Answer, InboundRequest
from proxy.flow.answer import pack
from proxy.ports import Conflict, Recorder, SealBroken, Secrets, SessionStore, StoreUnavailable

_written = msgpack.Encoder().encode
_read = msgpack.Decoder(InboundRequest).decode


class Change(Struct, frozen=True):
    """Events to apply, and the answer or the request to keep with them.

    `after`: the session with the first event, if it was decided on that one; it is not made again.
    """

    events: Sequence[Event] = ()
    keep: Answer | None = None
    after: Session | None = None
    request: InboundRequest | None = None


class Journal:
    """Makes sessions move."""

    def __init__(self, store: SessionStore, secrets: Secrets, recorder: Recorder) -> None:
        self.store = store
        self._secrets = secrets
        self.recorder = recorder

    async def update(
        self, session: Session, change: Callable[[Session], Change], replay_headers: frozenset[str]
    ) -> Session:
        """Apply `change` to the session as it is, durably. Returns the session as it then is.

        Raises `StoreUnavailable` (nothing is recorded), whatever `change` raises, and
        `IllegalTransition` if the table forbids what it wants.
        """
        while True:
            wanted = change(session)
            events = wanted.events
            if not events:
                return session
            last = wanted.after or apply(session, events[0])
            versions = [last]
            for event in events[1:]:
                last = apply(last, event)
                versions.append(last)
            try:
                if last.durable:
                    await self._commit(session, last, wanted, replay_headers)
            except Conflict as conflict:
                session = _moved_on(session, conflict.current)
                continue
            for event, version in zip(events, versions, strict=True):
                self.recorder.moved(session, event, version)
                session = version
            return last

    def _commit(
        self, before: Session, after: Session, wanted: Change, replay_headers: frozenset[str]
    ) -> Awaitable[None]:
        sealed, request = None, wanted.request
        if wanted.keep is not None:
            sealed = self._secrets.seal(after.id, pack(wanted.keep, replay_headers))
        if request is None:
            return self.store.commit(after, before.version, sealed)
        kept = self._secrets.seal(_kept_with(after.id), _written(request))
        return self.store.commit(after, before.version, sealed, kept)

    async def request_of(self, session_id: str) -> InboundRequest | None:
        """The request that was kept for a session, if one was. Raises `StoreUnavailable`."""
        sealed = await self.store.request(session_id)
        if sealed is None:
            return None
        try:
            return _read(self._secrets.unseal(_kept_with(session_id), sealed))
        except SealBroken:  # its key was dropped: as if it had not been kept
            return None

    def opened(self, session: Session, event: Event) -> None:
        """Tell of a session that has just begun (it becomes durable with its first change)."""
        self.recorder.moved(None, event, session)


def _kept_with(session_id: str) -> str:
    """What a sealed request belongs to: never to be taken for a sealed answer, nor that for it."""
    return f"{session_id} request"


def _moved_on(session: Session, current: Session | None) -> Session:
    """What somebody else made of the session meanwhile. Raises `StoreUnavailable` if that is no
    later than what was decided on: then it never was recorded.
    """
    if current is None:
        message = f"session {session.id} is gone"
        raise StoreUnavailable(message) from None
    if current.version < session.version:
        message = f"what was decided on of session {session.id} was never recorded"
        raise StoreUnavailable(message) from None
    return current
