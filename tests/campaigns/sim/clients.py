"""The backends of a simulation. Each wants one payment made, and asks again as it was told it may.

A client changes its key only when it was told that this payment is over and nothing was charged, or
when its order is named, which must be enough to keep it from paying twice.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Protocol

from proxy.core.http_rules import Checked, check_request
from proxy.core.states import Outcome
from proxy.core.wire import InboundRequest
from tests.campaigns.checker import Told
from tests.campaigns.sim.plan import Act, Client, Naming, Payment, Step

_OTHER = {
    "stripe": "none", "strong": "stripe", "none": "strong", "search": "none", "void": "strong",
    "weak": "stripe",
}  # fmt: skip
# Once nothing goes wrong any more: a careful backend asks until it knows.
_AGAIN = (0.5, 2.0, 10.0, 45.0, 130.0, 600.0, 1000.0, 7200.0)


class Front(Protocol):
    """What a client sees of a Holdfast."""

    async def ask(self, who: str, payment: str, request: InboundRequest) -> Told | None:
        """Send a request; None if the connection broke."""
        ...

    async def create(self, who: str, order: str, gateway: str) -> str | None:
        """Create a session ahead of the request; None if that failed."""
        ...

    def say(self, text: str) -> None:
        """For the transcript."""
        ...

    def wake(self) -> None:
        """Something happens."""
        ...


class SimClient:
    """One client of a plan."""

    def __init__(self, number: int, payment: Payment, client: Client, front: Front) -> None:
        self.name = f"{payment.name}/{number}"
        self._payment = payment
        self._client = client
        self._front = front
        self._gateway = client.gateway
        self._keys = 1
        self._session: str | None = None
        self._stuck = False  # it may not ask again: that would be another payment
        self.done = False

    async def live_through(self) -> None:
        """The steps of the plan."""
        for step in self._client.steps:
            await asyncio.sleep(step.after)
            if not self.done and not self._stuck:
                self._front.wake()
                await self._step(step)

    async def ask_until_it_knows(self) -> None:
        """After the faults."""
        for pause in _AGAIN:
            if self.done or self._stuck:
                return
            await asyncio.sleep(pause)
            self._front.wake()
            await self._pay()

    async def ask_once_more(self) -> None:
        """The last word."""
        if not self._stuck and self._client.naming is not Naming.NOTHING:
            await self._pay()

    async def _step(self, step: Step) -> None:
        if step.act is Act.DOUBLE_CLICK:
            await asyncio.gather(self._pay(), self._pay())
        elif step.act is Act.OTHER_BODY:
            if self._may_name_it():
                request = self._request(amount="2999")
                await self._front.ask(self.name, self._payment.name, request)
        elif step.act is Act.HANG_UP:
            await self._hang_up(step.patience)
        else:
            if step.act is Act.NEW_KEY:
                self._keys += 1
            elif step.act is Act.OTHER_GATEWAY:
                self._gateway = _OTHER[self._gateway]
            await self._pay()

    async def _hang_up(self, patience: float) -> None:
        """Whoever hangs up has not heard anything. Some front servers then cancel the handler."""
        try:
            async with asyncio.timeout(patience):
                await self._pay()
        except TimeoutError:
            self._front.say(f"{self.name} hangs up")
            if self._client.naming is Naming.NOTHING:
                self._stuck = True

    def _may_name_it(self) -> bool:
        """Whether another body is recognised as such: the request names something."""
        sessions = {Naming.SESSION, Naming.KEY_SESSION, Naming.NOTHING}
        return self._client.naming not in sessions or self._session is not None

    async def _pay(self) -> None:
        if self._client.naming in {Naming.SESSION, Naming.KEY_SESSION} and self._session is None:
            order = self._payment.name
            self._session = await self._front.create(self.name, order, self._gateway)
            if self._session is None:
                return
        told = await self._front.ask(self.name, self._payment.name, self._request())
        self._learn(told)

    def _request(self, amount: str = "1999") -> InboundRequest:
        naming = self._client.naming
        keyed = naming in {Naming.KEY, Naming.KEY_ORDER, Naming.KEY_SESSION}
        ordered = naming in {Naming.KEY_ORDER, Naming.ORDER}
        return request(
            self._gateway,
            self._client.credential,
            f"amount={amount}&currency=eur&confirm=true&payment={self._payment.name}",
            f"{self.name}-{self._keys}" if keyed else None,
            self._payment.name if ordered else None,
            self._session,
        )

    def _learn(self, told: Told | None) -> None:
        """What follows from an answer."""
        nameless = self._client.naming is Naming.NOTHING
        if told is None:  # it may have been sent, and nobody knows under which name
            self._stuck = nameless
            return
        if told.pending:  # true, and not written down: a careful backend asks once more
            self._stuck = nameless
            return
        if told.settled or told.outcome is Outcome.CHARGED:
            self.done = True
        elif told.over:
            self._start_anew()
        elif nameless and (told.outcome is Outcome.UNKNOWN or not told.safe):
            self._session = told.session  # as the answer says

    def _start_anew(self) -> None:
        """It is over and nothing was charged: the next request is a new payment."""
        match self._client.naming:
            case Naming.KEY | Naming.KEY_ORDER:
                self._keys += 1
            case Naming.SESSION | Naming.NOTHING:
                self._session = None
            case Naming.KEY_SESSION:
                self._keys += 1
                self._session = None
            case Naming.ORDER:
                pass  # the next request is a new try by itself


@lru_cache(maxsize=4096)
def request(
    gateway: str,
    credential: str,
    body: str,
    key: str | None,
    order: str | None,
    session: str | None,
) -> InboundRequest:
    """A request as a gateway's listener hands it on."""
    named = (
        ("Host", "127.0.0.1"),
        ("Authorization", credential),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Length", str(len(body))),
        ("Idempotency-Key", key),
        ("X-Payment-Order-Id", order),
        ("X-Payment-Session-Id", session),
    )
    raw = tuple((name.encode(), value.encode()) for name, value in named if value is not None)
    method, target = "POST", "/v1/payment_intents"
    checked = check_request(method, target, raw, "holdfast-sim", frozenset({"idempotency-key"}))
    assert isinstance(checked, Checked), checked
    return InboundRequest(
        gateway=gateway,
        method=method,
        target=target,
        headers=checked.forward,
        body=body.encode(),
        has_body=True,
        session_id=session,
        order_ref=order,
        values=checked.values,
    )
