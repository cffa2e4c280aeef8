"""What the campaigns with real processes share: a shop that pays without pause, and the judge.

Every order is paid until the shop is told how it ended, always with its own key, as a careful
backend does; each try goes to one of the doors it knows. At the end the gateway's ledger is held
against what the shop was told and what the store says.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Container, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any
from urllib.parse import urlencode

import aiohttp

from proxy.core.reasons import Reason

CREDENTIAL = "Bearer sk_test_campaign"
_TRIES = 2000
_ASKED = 30  # times, for a page of sessions
_PAUSE_SECONDS = 0.05
_PAGE = 500
# Of the orders that are paid, the share that is asked for once more.
_ASKED_AGAIN = 0.1
# The gateway keeps what it was sent: not all of them.
_LONG_SHARE, _LONG_BYTES = 0.3, 100_000


@dataclass(slots=True)
class Findings:
    """What a campaign came to."""

    orders: int = 0
    paid: int = 0
    told_unknown: int = 0
    # Sessions whose process was gone while a send was out; without any a campaign proves nothing.
    left_in_flight: int = 0
    learned_late: int = 0  # of these: told unknown, and charged by evidence that came later
    # What nobody knows at the end, as the ledger has it.
    unknown_and_charged: int = 0
    unknown_and_not: int = 0
    longest_wait: float = 0.0  # seconds from the first try of an order until it was told
    charged_twice: list[str] = field(default_factory=list)
    paid_but_not_charged: list[str] = field(default_factory=list)
    acknowledged_but_lost: list[str] = field(default_factory=list)
    charged_but_unseen: list[str] = field(default_factory=list)
    unknown_but_unlisted: list[str] = field(default_factory=list)
    against_the_ledger: list[str] = field(default_factory=list)
    told_otherwise: list[str] = field(default_factory=list)
    never_told: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not (
            self.charged_twice
            or self.paid_but_not_charged
            or self.acknowledged_but_lost
            or self.charged_but_unseen
            or self.unknown_but_unlisted
            or self.against_the_ledger
            or self.told_otherwise
            or self.never_told
        )

    def rows(self) -> list[tuple[str, object]]:
        """Names and figures."""
        return [
            ("orders paid through them", self.orders),
            ("told paid", self.paid),
            ("told unknown", self.told_unknown),
            ("payments whose process was gone", self.left_in_flight),
            ("  told unknown, later known as charged", self.learned_late),
            ("unknown at the end, and charged", self.unknown_and_charged),
            ("unknown at the end, and not charged", self.unknown_and_not),
            ("longest until told, seconds", f"{self.longest_wait:.1f}"),
            ("charged twice", len(self.charged_twice)),
            ("told paid, but not charged", len(self.paid_but_not_charged)),
            ("acknowledged sessions lost", len(self.acknowledged_but_lost)),
            ("charged, but neither told nor listed", len(self.charged_but_unseen)),
            ("unknown, but not listed", len(self.unknown_but_unlisted)),
            ("store and ledger contradict", len(self.against_the_ledger)),
            ("told another answer when asked again", len(self.told_otherwise)),
            ("never told anything", len(self.never_told)),
        ]

    def table(self) -> str:
        """For people."""
        return "\n".join(f"{name:<40}{value!s:>8}" for name, value in self.rows())


@dataclass(frozen=True, slots=True)
class Refused:
    """An order that was not told at its first try: from then until the try that was taken began.
    Times are those of the event loop.
    """

    order: str = ""
    since: float = 0.0
    until: float = 0.0
    tries: Sequence[str] = ()  # when, at which door and what it said, try by try

    @property
    def seconds(self) -> float:
        """How long it was refused."""
        return self.until - self.since


@dataclass(slots=True)
class Shop:
    """Pays orders until it is told how each one ended. `doors` are origins of listeners.

    `gateway` is what Holdfast calls what is behind them. `final_unknown`: "unknown" is the last
    word too, as at a gateway that recognises nothing.
    """

    http: aiohttp.ClientSession
    doors: Sequence[str]
    dice: random.Random
    gateway: str
    final_unknown: bool = False
    told: dict[str, str] = field(default_factory=dict)
    answers: dict[str, bytes] = field(default_factory=dict)
    sessions: dict[str, str] = field(default_factory=dict)  # the first that was named
    by_hand: set[str] = field(default_factory=set)  # a person has settled these
    told_otherwise: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    longest_wait: float = 0.0
    longest_refused: Refused = field(default_factory=Refused)
    longest_at_once: float = 0.0  # of an order that was told at its first try
    long: int = 0  # how many wish that some of the orders that begin now have a long body
    _long_orders: set[str] = field(default_factory=set)
    _failed: dict[str, list[str]] = field(default_factory=dict)  # tries of what is not told yet

    @contextlib.asynccontextmanager
    async def open(self, at_once: int) -> AsyncIterator[None]:
        """So many orders are being paid all the time; at the end each of them is told."""
        closed = asyncio.Event()
        async with asyncio.TaskGroup() as payers:
            for number in range(at_once):
                payers.create_task(self._pay_on(f"{self.gateway}-{number}", closed))
            try:
                yield
            finally:
                closed.set()

    async def _pay_on(self, prefix: str, closed: asyncio.Event) -> None:
        serial = 0
        while not closed.is_set():
            serial += 1
            await self.pay(f"{prefix}-{serial}")

    async def pay(self, order: str) -> None:
        """Pay one order, with one key, until it is told."""
        clock = asyncio.get_running_loop().time
        begun, refused_at = clock(), inf
        if self.long and self.dice.random() < _LONG_SHARE:
            self._long_orders.add(order)
        for _ in range(_TRIES):
            tried_at = clock()
            told = await self._try(order)
            if order in self.by_hand:
                return
            if told is not None:
                outcome, _ = told
                self.told[order], self.answers[order] = told
                self.longest_wait = max(self.longest_wait, clock() - begun)
                if refused_at is inf:
                    self.longest_at_once = max(self.longest_at_once, clock() - begun)
                tries = [*self._failed.pop(order, ()), f"{clock():.3f} told"]
                refused = Refused(order, min(refused_at, tried_at), tried_at, tries)
                self.longest_refused = max(self.longest_refused, refused, key=_seconds)
                if outcome == "paid" and self.dice.random() < _ASKED_AGAIN:
                    await self.ask_again(order)
                return
            refused_at = min(refused_at, clock())
            await asyncio.sleep(_PAUSE_SECONDS)
        self.given_up.append(order)

    async def ask_again(self, order: str) -> None:
        """The same key gets the same answer, wherever it is asked."""
        told = await self._try(order)
        if told is not None and told != (self.told[order], self.answers[order]):
            self.told_otherwise.append(order)

    async def _try(self, order: str) -> tuple[str, bytes] | None:
        """Once, at the first door that takes the connection."""
        for door in self.dice.sample(self.doors, len(self.doors)):
            try:
                return await self._ask(door, order)
            except aiohttp.ClientConnectorError:
                continue
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                self._note(order, door, type(error).__name__)
            return None
        self._note(order, "every door", "closed")
        return None

    def _note(self, order: str, door: str, said: str) -> None:
        if order not in self.told:
            at = asyncio.get_running_loop().time()
            self._failed.setdefault(order, []).append(f"{at:.3f} {door} {said}")

    async def _ask(self, door: str, order: str) -> tuple[str, bytes] | None:
        form = {
            "amount": "1999",
            "currency": "eur",
            "confirm": "true",
            "payment_method": "pm_card_visa",
            "metadata[order_id]": order,
        }
        if order in self._long_orders:
            form["description"] = "x" * _LONG_BYTES
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Authorization": CREDENTIAL,
            "Idempotency-Key": f"key-{order}",
            "X-Payment-Order-Id": order,
        }
        url = f"{door}/v1/payment_intents"
        async with self.http.post(url, data=urlencode(form), headers=headers) as answer:
            body = await answer.read()
            said = await answer.json(content_type=None)
            if answer.status == 200 and said.get("status") == "succeeded":
                self.sessions.setdefault(order, answer.headers["X-Payment-Session-Id"])
                return "paid", body
            if self.final_unknown and answer.status == 504 and said.get("outcome") == "unknown":
                self.sessions.setdefault(order, answer.headers["X-Payment-Session-Id"])
                return "unknown", body
            self._note(order, door, f"{answer.status} {said.get('type')} {said.get('reason')}")
        return None


def _seconds(refused: Refused) -> float:
    return refused.seconds


def patient_client(seconds: float = 8.0) -> aiohttp.ClientSession:
    """A client that waits so long for an answer."""
    timeout = aiohttp.ClientTimeout(total=seconds, ceil_threshold=60)
    return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


async def judge(
    findings: Findings, shop: Shop, charges: Counter[str], api: str, http: aiohttp.ClientSession
) -> None:
    """Hold what the shop was told, what the store says and what was charged against each other."""
    which = f"gateway={shop.gateway}&limit={_PAGE}"
    # First what is listed: what was cancelled may be settled meanwhile, and is listed no more.
    listed = await _kept(f"{api}/sessions/active?{which}", http)
    kept = await _kept(f"{api}/sessions?{which}", http)
    told = Counter(shop.told.values())
    findings.orders += len(shop.told) + len(shop.given_up)
    findings.paid += told["paid"]
    findings.told_unknown += told["unknown"]
    findings.longest_wait = max(findings.longest_wait, shop.longest_wait)
    findings.never_told += shop.given_up
    findings.told_otherwise += shop.told_otherwise
    findings.charged_twice += [order for order, count in charges.items() if count > 1]
    for order, outcome in shop.told.items():
        session = kept.get(shop.sessions[order], {})
        if outcome == "paid" and not charges[order]:
            findings.paid_but_not_charged.append(order)
        charged = outcome != "paid" or session.get("outcome") == "charged"
        if session.get("orderId") != order or not charged:
            findings.acknowledged_but_lost.append(order)
    seen = {session["orderId"] for session in kept.values() if session["outcome"] != "not_charged"}
    findings.charged_but_unseen += [
        order for order in charges if order not in {*shop.told, *shop.by_hand, *seen}
    ]
    _hold_store_against_ledger(findings, shop, charges, kept.values(), listed)


def _hold_store_against_ledger(
    findings: Findings,
    shop: Shop,
    charges: Counter[str],
    kept: Iterable[dict[str, Any]],
    listed: Container[str],
) -> None:
    for session in kept:
        order, outcome = session["orderId"], session["outcome"]
        if outcome == "unknown":
            if session["sessionId"] not in listed:
                findings.unknown_but_unlisted.append(order)
            findings.unknown_and_charged += bool(charges[order])
            findings.unknown_and_not += not charges[order]
        elif (outcome == "charged") != bool(charges[order]):
            findings.against_the_ledger.append(order)
        if Reason.PROCESS_RESTART in {s["reason"] for s in session["metadata"]["interruptions"]}:
            findings.left_in_flight += 1
            findings.learned_late += shop.told.get(order) == "unknown" and outcome == "charged"


async def _page(url: str, http: aiohttp.ClientSession) -> Any:
    """One page; asked for again while a busy machine has no time for the store."""
    said = ""
    for _ in range(_ASKED):
        async with http.get(url) as answer:
            if answer.status == 200:
                return await answer.json()
            said = await answer.text()
        await asyncio.sleep(1.0)
    raise AssertionError(said)


async def _kept(url: str, http: aiohttp.ClientSession) -> dict[str, dict[str, Any]]:
    """Every session of a search, by its id."""
    found: dict[str, dict[str, Any]] = {}
    cursor = ""
    while True:
        page = await _page(f"{url}{cursor}", http)
        found |= {session["sessionId"]: session for session in page["sessions"]}
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"
