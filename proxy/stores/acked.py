"""What a server acknowledged to this process lately: how a store notices that it was put back.

After a failover or a restore a server may not know the latest of what it had acknowledged. Whoever
was told so remembers it, and asks for it again as soon as it speaks to another server. What nobody
remembers any more cannot be missed: after a restore a person has to say so.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.core.session import Session
from proxy.ports import Clock

OTHER_KEY = (
    "the store belongs to replicas with another install key, with which this one would take their "
    "payments for new ones: give it their key_file or HOLDFAST_KEY"
)
_REMEMBERED = 4096  # sessions
_REMEMBERED_SECONDS = 3600.0


class Acked:
    """The versions of sessions that were acknowledged, the latest of each; bounded."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._acked: dict[str, tuple[float, Session]] = {}  # oldest first

    def note(self, session: Session) -> None:
        """A commit was acknowledged."""
        before = self._acked.pop(session.id, None)
        if before is not None and before[1].version > session.version:
            session = before[1]
        elif len(self._acked) >= _REMEMBERED:
            del self._acked[next(iter(self._acked))]
        self._acked[session.id] = (self._clock.monotonic(), session)

    def purged(self, before: int) -> None:
        """Sessions that finished before a time need not be there any more."""
        for session_id, (_, session) in list(self._acked.items()):
            if not session.listed and (session.finished_at or 0) < before:
                del self._acked[session_id]

    def forget(self) -> None:
        """Start anew: a person has looked at what is missing."""
        self._acked.clear()

    def recent(self) -> list[Session]:
        """What the store must hold, at least in these versions."""
        since = self._clock.monotonic() - _REMEMBERED_SECONDS
        return [session for at, session in self._acked.values() if at >= since]


def lost(acked: Iterable[Session], stored: dict[str, int]) -> str | None:
    """What the store does not hold of what it acknowledged, as a sentence; `stored` are the
    versions it has. None: it holds everything.
    """
    missing = [session for session in acked if stored.get(session.id, 0) < session.version]
    if not missing:
        return None
    first = min(missing, key=lambda session: session.updated_at)
    return (
        f"the store has lost {len(missing)} of the payments it had acknowledged, the first is "
        f"{first.id} in version {first.version}: look up at the gateway what was paid since then, "
        "then say `holdfast migrate --accept-loss`"
    )
