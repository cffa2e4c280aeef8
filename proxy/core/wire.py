"""What travels: the request as it came in, what was seen on the wire, the answer that goes back.

What is made for every request is a Struct of msgspec: a frozen dataclass takes ten times as long to
make, a NamedTuple four times.

Header values are kept as latin-1 text, one character per byte, so that what came in as bytes goes
out as the same bytes whatever their encoding.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from proxy.core.reasons import Reason

Headers = tuple[tuple[str, str], ...]


class Phase(StrEnum):
    """How far a send had come when it ended; the label `phase` of metrics and interruptions."""

    BEFORE_SEND = "before_send"
    CONNECTING = "connecting"
    SENDING = "sending"
    AWAITING_RESPONSE = "awaiting_response"
    READING_RESPONSE = "reading_response"
    ANSWERED = "answered"


class InboundRequest(Struct, frozen=True, gc=False):
    """A backend's request, ready to be forwarded: hop-by-hop and our own control
    headers are gone.
    """

    gateway: str
    method: str
    target: str  # path and query exactly as received
    headers: Headers
    body: bytes = b""
    has_body: bool = False
    # The caller's key as it stands where the gateway wants it (and stays there, unchanged).
    client_key: str | None = None
    session_id: str | None = None
    order_ref: str | None = None
    user_ref: str | None = None
    # Each header as it arrived, by lower-case name; repeated ones joined with ", ".
    values: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # the standard library's is of 3.12
        """Only what may stand in a log: no header, no body."""
        return f"InboundRequest({self.gateway}, {self.method})"

    def with_body(self, body: bytes) -> InboundRequest:
        """The same with the body that was read."""
        return replace(self, body=body)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


def header(headers: Headers, name: str) -> str | None:
    """The first value of a header, or None; names compare without case."""
    wanted = name.lower()
    for key, value in headers:
        if key.lower() == wanted:
            return value
    return None


def by_name(headers: Headers) -> dict[str, str]:
    """The first value of each header, by its name in lower case."""
    return {name.lower(): value for name, value in reversed(headers)}


class WireFacts(Struct, frozen=True):
    """What one send came to, as seen on the wire and nothing else.

    `sent` False is a proof: no byte of the request left this process. `reason` is None exactly when
    a complete answer arrived. `answer_body` streams an answer that is not read whole.
    """

    sent: bool
    phase: Phase
    reason: Reason | None = None
    status: int = 0
    status_text: str = ""
    headers: Headers = ()
    body: bytes = b""
    stream: AsyncIterator[bytes] | None = None


class AnswerSource(StrEnum):
    """Who made an answer."""

    GATEWAY = "gateway"
    HOLDFAST = "holdfast"


class Answer(Struct, frozen=True):
    """What the backend hears."""

    status: int
    status_text: str
    headers: Headers
    body: bytes = b""
    source: AnswerSource = AnswerSource.GATEWAY
    stream: AsyncIterator[bytes] | None = None


async def close_stream(stream: AsyncIterator[bytes] | None) -> None:
    """Let go of a stream that nobody will read to its end."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()
