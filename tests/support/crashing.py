"""`holdfast`, but it kills itself (-9) at a named point of a payment. Run as a script.

The point stands in `CRASH_AT`; the names are those of the money rules (section 6.2).
Nothing of this is in the product: the rooms' own functions are wrapped from outside.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from proxy.cli import main
from proxy.core import events as ev
from proxy.core.session import Session
from proxy.flow.attempts import Attempts
from proxy.stores.sqlite import SqliteStore, _Write
from proxy.web.responses import RawResponse

POINT = os.environ["CRASH_AT"]


def die() -> None:
    """As if the machine had taken the process away: no cleanup, no goodbye."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str) -> None:
    """Die when a method is called."""

    def wrapped(*_arguments: Any, **_more: Any) -> Any:
        die()

    setattr(owner, name, wrapped)


def after(owner: Any, name: str) -> None:
    """Die when an awaited method has returned."""
    real = getattr(owner, name)

    async def wrapped(*arguments: Any, **more: Any) -> Any:
        result = await real(*arguments, **more)
        die()
        return result

    setattr(owner, name, wrapped)


def is_about(session: Session, kind: type[ev.AttemptStarted | ev.AttemptEnded]) -> bool:
    """Whether a write is the one that records the intent, or the outcome."""
    return session.timeline[-1].event == kind.__name__


def written_but_not_acknowledged(kind: type[ev.AttemptStarted | ev.AttemptEnded]) -> None:
    """Die between the COMMIT of a write and its acknowledgement."""
    real: Callable[..., None] = SqliteStore._written

    def wrapped(self: SqliteStore, batch: Any) -> None:
        if any(is_about(write.session, kind) for write in batch.writes):
            die()
        real(self, batch)

    SqliteStore._written = wrapped  # type: ignore[method-assign]


def not_yet_committed(kind: type[ev.AttemptStarted | ev.AttemptEnded]) -> None:
    """Die inside the transaction of a write, before its COMMIT."""
    real = _Write.carry_out

    def wrapped(self: _Write, cursor: Any) -> None:
        real(self, cursor)
        if is_about(self.session, kind):
            die()

    _Write.carry_out = wrapped  # type: ignore[method-assign]


def mid_answer() -> None:
    """Die when half of the answer is on its way to the client."""
    real = RawResponse.prepare

    async def wrapped(self: RawResponse, request: Any) -> Any:
        request._connection.transport = HalfTransport(request.transport)
        return await real(self, request)

    RawResponse.prepare = wrapped  # type: ignore[method-assign]


class HalfTransport:
    """Writes half of what it is given, and dies."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def is_closing(self) -> bool:
        """As the real one."""
        return bool(self._transport.is_closing())

    def write(self, data: bytes) -> None:
        """The last thing it does."""
        self._transport.write(data[: len(data) // 2])
        die()


ARRANGE: dict[str, Callable[[], None]] = {
    "C0": lambda: before(SqliteStore, "claim"),
    "C1": lambda: after(SqliteStore, "claim"),
    "C2": lambda: before(Attempts, "_intent"),
    "C3-uncommitted": lambda: not_yet_committed(ev.AttemptStarted),
    "C3": lambda: written_but_not_acknowledged(ev.AttemptStarted),
    "C4": lambda: after(Attempts, "_intent"),
    "C9": lambda: before(Attempts, "_conclude"),
    "C10-uncommitted": lambda: not_yet_committed(ev.AttemptEnded),
    "C10": lambda: written_but_not_acknowledged(ev.AttemptEnded),
    "C11": lambda: after(Attempts, "_conclude"),
    "C12": mid_answer,
}

if __name__ == "__main__":
    ARRANGE[POINT]()
    raise SystemExit(main())
