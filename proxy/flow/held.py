"""Requests of sessions that are not settled, in memory only.

Their bytes serve a resume, their credential a look-up. Nothing of this is ever written: after a
restart the client must bring the request again. Bounded; the oldest goes first.
"""

from __future__ import annotations

from collections import OrderedDict

from proxy.core.wire import InboundRequest


class HeldRequests:
    """Requests by session, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._requests: OrderedDict[str, InboundRequest] = OrderedDict()

    def keep(self, session_id: str, request: InboundRequest) -> None:
        """Hold a request; forget the oldest ones if there are too many."""
        self.drop(session_id)
        self._requests[session_id] = request
        self._bytes += _size(request)
        while self._bytes > self._max_bytes:
            _, oldest = self._requests.popitem(last=False)
            self._bytes -= _size(oldest)

    def get(self, session_id: str) -> InboundRequest | None:
        """The request, if it is still held."""
        return self._requests.get(session_id)

    def drop(self, session_id: str) -> None:
        """Forget a request."""
        request = self._requests.pop(session_id, None)
        if request is not None:
            self._bytes -= _size(request)


def _size(request: InboundRequest) -> int:
    heads = sum(len(name) + len(value) for name, value in request.headers)
    return len(request.body) + len(request.target) + heads + 500  # and Python's own objects
