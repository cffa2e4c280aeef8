"""The way from a simulated Holdfast to a simulated gateway: the `Upstream` port.

It keeps the port's promises as the real client does (`proxy/upstream/client.py`): one time-out over
everything, `before_bytes` awaited when the connection stands, nothing sent before it has returned.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Protocol

from proxy.core.reasons import Reason
from proxy.core.wire import Phase, WireFacts, header
from proxy.ports import Send, SendForbidden, StoreUnavailable
from tests.campaigns.checker import Sent
from tests.campaigns.sim.fates import Fate
from tests.campaigns.sim.gateway import SimGateway
from tests.campaigns.sim.loop import Process, current


class Weather(Protocol):
    """What a send meets, and who watches it."""

    def fate(self, payment: str) -> Fate:
        """Of the payment's next send."""
        ...

    def look_up(self, gateway: str, target: str) -> Fate:
        """Of the next read."""
        ...

    def on_the_wire(self, gateway: str, send: Send) -> Sent:
        """The intent stands and the first byte leaves."""
        ...

    def connecting(self) -> None:
        """A connection is being made."""
        ...

    def delivered(self, process: Process, sent: Sent, facts: WireFacts) -> None:
        """An answer arrived, and somebody was there to take it."""
        ...

    def read(self, gateway: str, target: str, facts: WireFacts) -> None:
        """A look-up was answered."""
        ...

    def bug(self, error: BaseException) -> None:
        """An exception nobody expected."""
        ...


class SimUpstream:
    """One gateway, as far as bytes go."""

    def __init__(self, name: str, gateway: SimGateway, weather: Weather) -> None:
        self._name = name
        self._gateway = gateway
        self._weather = weather

    async def close(self) -> None:
        """Nothing to close."""

    async def send(self, send: Send) -> WireFacts:  # noqa: PLR0911 -- one end each
        """Send once."""
        answered: asyncio.Future[WireFacts] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(send.attempt_timeout):
                if send.method == "GET" or send.target == "/v1/payments/cancel":
                    return await self._read(send)
                return await self._pay(send, answered)
        except SendForbidden:
            return WireFacts(False, Phase.CONNECTING, Reason.NOT_ALLOWED)
        except StoreUnavailable:
            return WireFacts(False, Phase.CONNECTING, Reason.STORE_UNAVAILABLE)
        except TimeoutError:
            if send.sent:
                send.late = answered if send.late_seconds else None
                return WireFacts(True, Phase.AWAITING_RESPONSE, Reason.ATTEMPT_TIMEOUT)
            return WireFacts(False, Phase.CONNECTING, Reason.CONNECT_TIMEOUT)
        except Exception as error:  # noqa: BLE001 -- as the real client
            self._weather.bug(error)
            phase = Phase.AWAITING_RESPONSE if send.sent else Phase.CONNECTING
            return WireFacts(send.sent, phase, Reason.INTERNAL_ERROR)

    async def _pay(self, send: Send, answered: asyncio.Future[WireFacts]) -> WireFacts:
        fate = self._weather.fate(payment_of(send.body))
        self._weather.connecting()
        if fate.connects:
            await asyncio.sleep(min(fate.connects, send.connect_timeout))
        if fate.connects >= send.connect_timeout:
            return WireFacts(False, Phase.CONNECTING, Reason.CONNECT_TIMEOUT)
        if fate.refused is not None:
            return WireFacts(False, Phase.CONNECTING, fate.refused)
        await send.before_bytes()
        send.sent = True
        sent = self._weather.on_the_wire(self._name, send)
        kept = asyncio.get_running_loop().time() + send.attempt_timeout + send.late_seconds
        self._gateway.receive(sent, fate, self._listening(sent, answered, kept))
        return await asyncio.shield(answered)

    def _listening(
        self, sent: Sent, answered: asyncio.Future[WireFacts], until: float
    ) -> Callable[[WireFacts], None]:
        process = current()
        assert process is not None

        def take(facts: WireFacts) -> None:
            if not answered.done():
                self._weather.delivered(process, sent, facts)
                answered.set_result(facts)

        def reply(facts: WireFacts) -> None:
            # A late answer has as long as the connection is kept for it.
            if process.alive and asyncio.get_running_loop().time() <= until:
                process.hear(partial(take, facts))

        return reply

    async def _read(self, send: Send) -> WireFacts:
        """A look-up: what is shown is what was true half-way."""
        fate = self._weather.look_up(self._name, send.target)
        await asyncio.sleep(fate.works / 2)
        if fate.edge is not None:
            return WireFacts(True, Phase.ANSWERED, None, fate.edge, "", (), b"{}")
        if fate.answers is None:
            await asyncio.sleep(send.attempt_timeout if fate.resets is None else fate.resets)
            return WireFacts(True, Phase.AWAITING_RESPONSE, Reason.CONNECTION_LOST)
        credential = header(send.headers, "Authorization") or ""
        if send.method == "POST":
            facts = self._gateway.void(json.loads(send.body)["key"], credential)
        else:
            facts = self._gateway.read(send.target, credential)
        await asyncio.sleep(fate.works / 2)
        self._weather.read(self._name, send.target, facts)
        return facts


def payment_of(body: bytes) -> str:
    """The payment a body is about."""
    return body.rpartition(b"payment=")[2].decode()
