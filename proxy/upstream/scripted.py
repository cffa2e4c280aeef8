"""A gateway from a script: the in-memory implementation of the `Upstream` port.

Each step says what one send comes to. It keeps the port's promises: `before_bytes` is awaited once,
and nothing counts as sent before it has returned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from proxy.core.reasons import Reason
from proxy.core.wire import Headers, Phase, WireFacts
from proxy.ports import Send, SendForbidden, StoreUnavailable

Step = Callable[[Send], Awaitable[WireFacts]]


class ScriptedUpstream:
    """Plays steps in order; `sends` holds what was asked, `seen` only what really left."""

    def __init__(self, heard: Callable[[str], None] = lambda _: None) -> None:
        self._steps: deque[Step] = deque()
        self._heard = heard
        self.sends: list[Send] = []
        self.seen: list[Send] = []

    def will(self, *steps: Step) -> None:
        """Add steps to the script."""
        self._steps.extend(steps)

    async def send(self, send: Send) -> WireFacts:
        """Play the next step."""
        self.sends.append(send)
        step = self._steps.popleft()
        return await step(send)

    async def close(self) -> None:
        """Nothing to close."""

    def connected(self, after: Callable[[Send], Awaitable[WireFacts]]) -> Step:
        """A step whose connection stands: the intent is asked for, then the bytes leave."""

        async def play(send: Send) -> WireFacts:
            try:
                await send.before_bytes()
            except SendForbidden:
                return WireFacts(sent=False, phase=Phase.CONNECTING, reason=Reason.NOT_ALLOWED)
            except StoreUnavailable:
                return WireFacts(
                    sent=False, phase=Phase.CONNECTING, reason=Reason.STORE_UNAVAILABLE
                )
            send.sent = True
            self.seen.append(send)
            self._heard(f"wire   {send.method} {send.target}")
            return await after(send)

        return play

    # --- steps --------------------------------------------------------------------------------

    def answers(self, status: int, body: bytes = b"{}", headers: Headers = ()) -> Step:
        """A complete answer."""

        async def after(_send: Send) -> WireFacts:
            return WireFacts(
                sent=True, phase=Phase.ANSWERED, status=status, headers=headers, body=body
            )

        return self.connected(after)

    def loses_answer(self, reason: Reason = Reason.CONNECTION_LOST) -> Step:
        """The request leaves, and nothing comes back."""

        async def after(_send: Send) -> WireFacts:
            self._heard(f"wire   {reason}")
            return WireFacts(sent=True, phase=Phase.AWAITING_RESPONSE, reason=reason)

        return self.connected(after)

    def hangs(self) -> Step:
        """The request leaves, and nothing comes back until the attempt's time is up."""

        async def after(send: Send) -> WireFacts:
            await asyncio.sleep(send.attempt_timeout)
            self._heard("wire   attempt_timeout")
            return WireFacts(
                sent=True, phase=Phase.AWAITING_RESPONSE, reason=Reason.ATTEMPT_TIMEOUT
            )

        return self.connected(after)

    def answers_too_late(self, seconds: float, status: int, body: bytes = b"{}") -> Step:
        """A complete answer, so long after the attempt's time was up."""

        async def after(send: Send) -> WireFacts:
            await asyncio.sleep(send.attempt_timeout)
            self._heard("wire   attempt_timeout")

            async def late() -> WireFacts:
                await asyncio.sleep(seconds)
                self._heard(f"wire   late answer {status}")
                return WireFacts(sent=True, phase=Phase.ANSWERED, status=status, body=body)

            send.late = late()
            return WireFacts(
                sent=True, phase=Phase.AWAITING_RESPONSE, reason=Reason.ATTEMPT_TIMEOUT
            )

        return self.connected(after)

    def answers_late(self, seconds: float, status: int, body: bytes = b"{}") -> Step:
        """A complete answer, after a while."""

        async def after(_send: Send) -> WireFacts:
            await asyncio.sleep(seconds)
            return WireFacts(sent=True, phase=Phase.ANSWERED, status=status, body=body)

        return self.connected(after)

    def refuses_connection(self, reason: Reason = Reason.CONNECTION_REFUSED) -> Step:
        """The connection never stands."""

        async def play(_send: Send) -> WireFacts:
            self._heard(f"wire   {reason}")
            return WireFacts(sent=False, phase=Phase.CONNECTING, reason=reason)

        return play
