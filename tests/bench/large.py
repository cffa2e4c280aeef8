"""A store with a million finished sessions beside one with ten thousand: what is asked of them in
the course of a day, in turns, and what a payment waits for while old sessions are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
from msgspec.structs import replace

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult
from proxy.core.session import Session, apply
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import Phase
from proxy.ports import KeyTaken, OrderTaken, Query, SessionStore
from proxy.stores import postgres as postgres_store
from proxy.stores.postgres import PostgresStore
from proxy.stores.sqlite import SqliteStore
from proxy.system import SystemClock
from tests.bench.load import WrongAnswers, percentile
from tests.bench.report import Report, Spread, Table, verdict
from tests.bench.sizes import Sizes
from tests.bench.targets import Targets
from tests.support.postgres import postgres

GOAL_RATIO, GOAL_BLOCKED_MS = 2.0, 20.0
DAY_MS = 86_400_000
SPAN_MS = 35 * DAY_MS  # for so long sessions are kept
WEEK_MS = 7 * DAY_MS
LISTED = 2000  # live or unknown, however many are finished
_ANSWER = bytes(1024)
_AT_ONCE = 1000  # while filling
# About a third of what it can take.
_PAY_EVERY_SECONDS = {"sqlite": 0.002, "postgresql": 0.01}
_LEASE_SECONDS = 3600.0  # nobody renews it here
_SHARES = {"p50": 0.5, "p99": 0.99}
_WAITS = {**_SHARES, "p99.9": 0.999, "most": 1.0}


class _Nobody:
    """A recorder that hears nothing."""

    def moved(self, *_: object) -> None: ...

    def dropped(self, *_: object) -> None: ...

    def note(self, *_: object) -> None: ...


Kept = tuple[Session, bytes | None]  # a session and the answer that is kept with it
Fill = Callable[[Iterator[Kept]], Awaitable[None]]


@contextlib.asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[tuple[SessionStore, Fill]]:
    store = SqliteStore(folder / "sessions.db", SystemClock(), _Nobody())

    async def write(kept: Iterator[Kept]) -> None:
        """As the store does it by itself, only without the versions between."""
        while some := list(itertools.islice(kept, _AT_ONCE)):
            for session, _ in some:
                await store.claim(session, 0)
            await asyncio.gather(*(store.commit(s, s.version, answer) for s, answer in some))

    await store.open()
    yield store, write
    await store.close()


@contextlib.asynccontextmanager
async def _postgresql(_: Path) -> AsyncIterator[tuple[SessionStore, Fill]]:
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the server's; beside this process
    with postgres(shared_buffers="128MB") as server:  # as a server comes
        os.sched_setaffinity(0, mine)

        async def copy(kept: Iterator[Kept]) -> None:
            """The rows that the store writes, in bulk, and then what a server does by and by."""
            columns = (*postgres_store._COLUMNS.split(", "), "confirmed")
            connection = await asyncpg.connect(server.url)
            while some := list(itertools.islice(kept, _AT_ONCE)):
                rows = [
                    (*postgres_store._values(session, locks_order=session.locks_order), 0)
                    for session, _ in some
                ]
                await connection.copy_records_to_table("sessions", records=rows, columns=columns)
                sealed = [(s.id, s.updated_at, answer) for s, answer in some if answer is not None]
                await connection.copy_records_to_table("answers", records=sealed)
            await connection.execute("VACUUM (ANALYZE)")
            await connection.execute("CHECKPOINT")
            await connection.close()

        store = PostgresStore(server.url, _LEASE_SECONDS, SystemClock(), _Nobody())
        await store.open()
        yield store, copy
        await store.close()


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[tuple[SessionStore, Fill]]]] = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
}

Ask = Callable[["Shop", int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Shop:
    """A store and the payments in it, each known by its number; 0 is the oldest."""

    store: SessionStore
    finished: int
    now: int  # epoch milliseconds
    pay_every: float = 0.0  # seconds
    news: Iterator[int] = field(default_factory=lambda: itertools.count(10**9, 10))
    opened: list[Session] = field(default_factory=list)

    def kept(self) -> Iterator[Kept]:
        """All that is in it."""
        for number in range(self.finished):
            session = self.done(number)
            yield session, _ANSWER if session.updated_at > self.now - DAY_MS else None
        for number in range(LISTED):
            yield self.listed(number), None

    def started_at(self, number: int) -> int:
        """They came evenly."""
        return self.now - SPAN_MS + number * SPAN_MS // self.finished

    def order(self, number: int) -> str:
        """One in ten did not work out, and the next one is for the same order."""
        return f"order-{number + 1 if number % 10 == 3 else number}"

    def user(self, number: int) -> str:
        """Ten payments each, and one in twenty is made by somebody without an account."""
        return "guest" if number % 20 == 9 else f"user-{number % max(1, self.finished // 10)}"

    def begun(self, number: int, at: int) -> Session:
        """A payment's session at its beginning."""
        some = sha256(b"%d" % number).hexdigest()
        return apply(
            Session(
                id=f"ps_{at:012x}{some[:40]}",
                gateway="rare" if number % 100 == 7 else ("stripe", "adyen")[number % 3 == 0],
                route="create-payment",
                started_at=at,
                expires_at=at + 900_000,
                max_attempts=3,
                tenant="t" * 64,
                key_hash=sha256(b"key %d" % number).hexdigest(),
                gateway_key=some[:32],
                fingerprint=some,
                order_ref=self.order(number),
                order_locks=True,
                user_ref=self.user(number),
                amount="1999",
                currency="eur",
            ),
            ev.Opened(at),
        )

    def done(self, number: int) -> Session:
        """The session of a finished one: nine in ten are paid."""
        at = self.started_at(number)
        session = self.begun(number, at)
        match number % 100:
            case 3 | 13:
                return apply(session, ev.Cancelled(at + 5000, "changed my mind"))
            case 23:
                return apply(session, ev.Expired(at + 900_000))
            case 33:
                failed = ended(sent(session), AttemptStatus.NOT_SENT, Reason.CONNECT_TIMEOUT)
                return apply(failed, ev.Exhausted(at + 5000))
            case 43 | 53 | 63 | 73 | 83 | 93:
                return ended(sent(session), AttemptStatus.DECLINED)
            case _:
                return ended(sent(session), AttemptStatus.SUCCEEDED)

    def listed(self, number: int) -> Session:
        """The session of one that is not: in flight for an hour at most, or unknown since long."""
        if number % 2:
            return sent(self.begun(-2 * number - 1, self.now - number * 1800))
        at = self.started_at(number * self.finished // LISTED)
        return ended(
            sent(self.begun(-2 * number - 1, at)),
            AttemptStatus.UNKNOWN,
            Reason.ATTEMPT_TIMEOUT,
        )


def sent(session: Session, epoch: int = 0) -> Session:
    """The same with its next intent, of the process with this epoch."""
    number = len(session.attempts) + 1
    return apply(session, ev.AttemptStarted(session.updated_at + 20, number, "stripe", epoch))


def ended(session: Session, status: AttemptStatus, reason: Reason | None = None) -> Session:
    """The same with its attempt ended."""
    begun, number = session.updated_at, len(session.attempts)
    end = ev.AttemptEnded(
        at=begun + 400,
        number=number,
        endpoint="stripe",
        result=AttemptResult(status, reason),
        phase=Phase.ANSWERED if reason is None else Phase.AWAITING_RESPONSE,
        sent=status is not AttemptStatus.NOT_SENT,
        http_status=200 if reason is None else 0,
        started_at=begun,
    )
    return apply(session, end)


# --- what is asked in the course of a day -------------------------------------------------------


async def _open(shop: Shop, _: int) -> None:
    session = shop.begun(next(shop.news), shop.now)
    await shop.store.claim(session, 0)
    intent = sent(session, shop.store.epoch)
    await shop.store.commit(intent, session.version, None)
    shop.opened.append(intent)


async def _end(shop: Shop, _: int) -> None:
    intent = shop.opened.pop()
    await shop.store.commit(ended(intent, AttemptStatus.SUCCEEDED), intent.version, _ANSWER)


async def _repeat(shop: Shop, number: int) -> None:
    again = replace(shop.begun(number, shop.now), id="ps_again")
    with contextlib.suppress(KeyTaken):
        await shop.store.claim(again, 0)
        raise WrongAnswers(f"{shop.finished} sessions: a key was given twice")


async def _second_key(shop: Shop, number: int) -> None:
    again = replace(shop.begun(number, shop.now), id="ps_again", key_hash=f"another {number}")
    with contextlib.suppress(OrderTaken):
        await shop.store.claim(again, 0)
        raise WrongAnswers(f"{shop.finished} sessions: an order was given twice")


async def _get(shop: Shop, number: int) -> None:
    if await shop.store.get(shop.begun(number, shop.started_at(number)).id) is None:
        raise WrongAnswers(f"{shop.finished} sessions: a session is not there")


def _search(query: Callable[[Shop, int], Query]) -> Ask:
    async def ask(shop: Shop, number: int) -> None:
        if not (await shop.store.search(query(shop, number))).sessions:
            raise WrongAnswers(f"{shop.finished} sessions: a search found nothing")

    return ask


def _week(shop: Shop, number: int, **more: Any) -> Query:
    """A week somewhere in between."""
    since = shop.now - SPAN_MS + number * (SPAN_MS - WEEK_MS) // shop.finished
    return Query(since=since, until=since + WEEK_MS, **more)


def _far(query: Query) -> Query:
    """A page in the middle of the week."""
    assert query.since is not None
    return dataclasses.replace(query, after=(query.since + WEEK_MS // 2, "ps_"))


async def _nothing_to_drop(shop: Shop, _: int) -> None:
    before = shop.now - SPAN_MS
    if await shop.store.purge(answers_before=before, sessions_before=before) != (0, 0):
        raise WrongAnswers(f"{shop.finished} sessions: something was dropped too early")


ASKED: dict[str, Ask] = {
    "open: a new key and order, intent durable": _open,
    "end: outcome and answer durable": _end,
    "open: a repeat, its key is taken": _repeat,
    "open: a new key, its order is paid": _second_key,
    "a session by its id": _get,
    "search: an order": _search(lambda shop, n: Query(order_ref=shop.order(n))),
    "search: a user": _search(lambda shop, n: Query(user_ref=shop.user(n))),
    "search: a user of very many": _search(lambda *_: Query(user_ref="guest")),
    "search: the newest": _search(lambda *_: Query()),
    "search: a week": _search(_week),
    "search: a week, a far page": _search(lambda shop, n: _far(_week(shop, n))),
    "search: completed": _search(lambda *_: Query(state=State.COMPLETED)),
    "search: completed, a week": _search(lambda s, n: _week(s, n, state=State.COMPLETED)),
    "search: expired": _search(lambda *_: Query(state=State.EXPIRED)),
    "search: declined, a week": _search(lambda s, n: _week(s, n, state=State.DECLINED)),
    "search: declined, a week, a far page": _search(
        lambda s, n: _far(_week(s, n, state=State.DECLINED))
    ),
    "search: interrupted": _search(lambda *_: Query(state=State.INTERRUPTED)),
    "search: unknown": _search(lambda *_: Query(outcome=Outcome.UNKNOWN)),
    "search: not charged, a week": _search(lambda s, n: _week(s, n, outcome=Outcome.NOT_CHARGED)),
    "search: a gateway of few, a week": _search(lambda s, n: _week(s, n, gateway="rare")),
    "active list": _search(lambda *_: Query(listed_only=True)),
    "active list, all of it": lambda shop, _: shop.store.listed(),
    "clean-up with nothing to drop": _nothing_to_drop,
}


async def _ask_in_turns(shops: Sequence[Shop], sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Of each question, what a round took of either store, in ms: p50 and p99, and the ratios."""
    numbers = random.Random(1)  # noqa: S311 -- the same payments in each run
    found: dict[str, dict[str, Any]] = {}
    for what, ask in ASKED.items():
        rounds: list[list[dict[str, float]]] = []
        for _ in range(sizes.large_rounds):
            rounds.append([])
            for shop in shops:
                taken = []
                for _ in range(sizes.large_asks):
                    # Not one that stays unpaid, nor one of the older half: that is dropped later.
                    number = numbers.randrange(shop.finished // 10) * 10
                    begun = time.perf_counter()
                    await ask(shop, number)
                    taken.append((time.perf_counter() - begun) * 1000)
                rounds[-1].append({p: percentile(taken, share) for p, share in _SHARES.items()})
        found[what] = {
            p: {
                "few": Spread.of([few[p] for few, _ in rounds]),
                "many": Spread.of([many[p] for _, many in rounds]),
                "ratio": Spread.of([many[p] / few[p] for few, many in rounds]),
            }
            for p in _SHARES
        }
    return found


# --- clean-up -----------------------------------------------------------------------------------


async def _pay(shop: Shop, waits: list[float]) -> None:
    """A payment; what each of its commits waits for, in ms."""
    session = shop.begun(next(shop.news), shop.now)
    await shop.store.claim(session, 0)
    intent = sent(session, shop.store.epoch)
    for before, after, answer in (
        (session, intent, None),
        (intent, ended(intent, AttemptStatus.SUCCEEDED), _ANSWER),
    ):
        begun = time.perf_counter()
        await shop.store.commit(after, before.version, answer)
        waits.append((time.perf_counter() - begun) * 1000)


async def _pay_until(shop: Shop, over: asyncio.Future[Any], waits: list[float]) -> None:
    """Payments at a steady rate, whatever they wait for."""
    due, payments = time.perf_counter(), set()
    while not over.done():
        payments.add(asyncio.ensure_future(_pay(shop, waits)))
        due += shop.pay_every
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await asyncio.gather(*payments)


async def _clean_up(shop: Shop, sizes: Sizes) -> dict[str, Any]:
    """Drop the older half while payments go on, bit by bit, and let them go on alone in between."""
    alone: list[float] = []
    beside: list[float] = []
    seconds, dropped, answers = 0.0, 0, 0
    for part in range(1, sizes.large_rounds + 1):
        pause = asyncio.ensure_future(asyncio.sleep(sizes.large_alone_seconds))
        await _pay_until(shop, pause, alone)
        old = shop.started_at(shop.finished * part // sizes.large_rounds // 2)
        begun = time.perf_counter()
        clean_up = shop.store.purge(answers_before=shop.now - DAY_MS // 2, sessions_before=old)
        purge = asyncio.ensure_future(clean_up)
        await _pay_until(shop, purge, beside)
        seconds += time.perf_counter() - begun
        gone = await purge
        answers, dropped = answers + gone[0], dropped + gone[1]
    if not 0.99 < dropped / (shop.finished // 2) <= 1:
        raise WrongAnswers(f"{dropped} sessions were dropped")
    waited = {
        how: {"commits": len(waits), **{p: percentile(waits, s) for p, s in _WAITS.items()}}
        for how, waits in (("alone", alone), ("beside", beside))
    }
    return {"answers": answers, "sessions": dropped, "seconds": seconds, **waited}


# --- the whole ----------------------------------------------------------------------------------


async def large(targets: Targets, sizes: Sizes) -> Report:
    """Each store in turn: once with few, once with many, both open at once."""
    title = f"large: {sizes.few} and {sizes.many} finished sessions, {LISTED} live or unknown"
    report = Report(title, {})
    for name, make in STORES.items():
        async with contextlib.AsyncExitStack() as opened:
            shops = []
            for finished in (sizes.few, sizes.many):
                folder = targets.folder / f"{name}-{finished}"
                folder.mkdir()
                store, fill = await opened.enter_async_context(make(folder))
                shop = Shop(store, finished, SystemClock().now_ms(), _PAY_EVERY_SECONDS[name])
                await fill(shop.kept())
                shops.append(shop)
            asked = await _ask_in_turns(shops, sizes)
            cleaned = [await _clean_up(shop, sizes) for shop in shops]
        report.figures[name] = {"asked": asked, "clean-up": cleaned}
        report.tables += [_asked(name, sizes, asked), _cleaned(name, cleaned)]
        report.notes += _verdicts(name, asked, cleaned)
    return report


def _asked(name: str, sizes: Sizes, asked: dict[str, dict[str, Any]]) -> Table:
    few, many = f"{sizes.few}", f"{sizes.many}"
    heading = (f"{name}, ms", f"p50 {few}", f"p50 {many}", f"p99 {few}", f"p99 {many}")
    table = Table((*heading, "p99 ratio (min-max)"))
    for what, found in asked.items():
        of = [f"{found[p][size].median:.2f}" for p in _SHARES for size in ("few", "many")]
        table.rows.append((what, *of, str(found["p99"]["ratio"])))
    return table


def _cleaned(name: str, cleaned: list[dict[str, Any]]) -> Table:
    table = Table((f"{name}, ms a commit waits", "commits", *_WAITS))
    for found in cleaned:
        what = f"{found['sessions']} sessions, {found['answers']} answers, {found['seconds']:.1f} s"
        for how, title in (("alone", "without a clean-up"), ("beside", what)):
            waits = found[how]
            table.rows.append((title, f"{waits['commits']}", *(f"{waits[p]:.2f}" for p in _WAITS)))
    return table


def _verdicts(
    name: str, asked: dict[str, dict[str, Any]], cleaned: list[dict[str, Any]]
) -> list[str]:
    slower = [what for what, of in asked.items() if of["p99"]["ratio"].median > GOAL_RATIO]
    blocked = cleaned[-1]["beside"]["p99.9"] - cleaned[-1]["alone"]["p99.9"]
    return [
        verdict(met=not slower, goal=f"goal: {name}: p99 at most {GOAL_RATIO:g} times that of few"),
        *(f"  not so: {what}" for what in slower),
        verdict(
            met=blocked <= GOAL_BLOCKED_MS,
            goal=f"goal: {name}: clean-up adds at most {GOAL_BLOCKED_MS:g} ms to p99.9 of a commit",
        ),
    ]
