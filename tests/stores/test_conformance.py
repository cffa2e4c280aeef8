"""What every store promises, run against every store. The memory store is the reference."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.core import events as ev
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult
from proxy.core.session import Session, apply
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.core.wire import Phase
from proxy.ports import (
    COUNTED,
    Conflict,
    KeyTaken,
    OrderTaken,
    Query,
    SessionStore,
    StoreUnavailable,
)
from proxy.stores.memory import MemoryStore
from proxy.stores.postgres import PostgresStore
from proxy.stores.redis import RedisStore
from proxy.stores.sqlite import SqliteStore
from proxy.system import SystemClock
from tests.support.lab import Notes
from tests.support.postgres import Postgres, empty_place, postgres
from tests.support.valkey import Valkey, valkey

# What makes each store of a place of its own.
STORES: dict[str, Callable[[str], SessionStore]] = {
    "memory": lambda _: MemoryStore(SystemClock()),
    "sqlite": lambda folder: SqliteStore(Path(folder, "sessions.db"), SystemClock(), Notes()),
    "postgres": lambda url: PostgresStore(url, 10.0, SystemClock(), Notes()),
    "redis": lambda url: RedisStore(url, 10.0, SystemClock(), Notes()),
}


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[Postgres]:
    """One server for all that ask; skipped where there is none."""
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def valkey_server() -> Iterator[Valkey]:
    """The same."""
    with valkey() as server:
        yield server


@pytest_asyncio.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SessionStore]:
    """Each store in turn, open and empty."""
    place = str(tmp_path)
    if request.param == "postgres":
        place = await empty_place(request.getfixturevalue("postgres_server"))
    elif request.param == "redis":
        server = request.getfixturevalue("valkey_server")
        server.tell("FLUSHALL")
        place = server.url
    built = STORES[request.param](place)
    await built.open()
    yield built
    await built.close()


def opened(number: int = 1, **more: object) -> Session:
    """A session that has just begun."""
    fields: dict[str, object] = {
        "id": f"ps_{number:04d}",
        "gateway": "stripe",
        "route": "create-payment",
        "started_at": 1000 + number,
        "expires_at": 2_000_000_000_000,
        "max_attempts": 3,
        "key_hash": f"key-{number}",
        "fingerprint": "f",
    }
    return apply(Session(**{**fields, **more}), ev.Opened(1000 + number))  # type: ignore[arg-type]


def sent(session: Session, epoch: int = 0) -> Session:
    """The same with its next intent, of the process with this epoch."""
    return apply(session, ev.AttemptStarted(2000, len(session.attempts) + 1, "stripe", epoch))


def ended(session: Session, status: AttemptStatus, reason: Reason | None = None) -> Session:
    """The same with its last attempt ended."""
    number = len(session.attempts)
    result = AttemptResult(status, reason)
    event = ev.AttemptEnded(3000, number, "stripe", result, Phase.ANSWERED, True, 200, 2000)
    return apply(session, event)


async def keep(store: SessionStore, session: Session, answer: bytes | None = None) -> Session:
    """Claim and commit in one go."""
    await store.claim(session, 0)
    await store.commit(session, session.version, answer)
    return session


async def finished(
    store: SessionStore, number: int, status: AttemptStatus, reason: Reason | None = None
) -> Session:
    """A session that has gone all the way."""
    first = opened(number)
    await store.claim(first, 0)
    second = sent(first, store.epoch)
    await store.commit(second, first.version, None)
    third = ended(second, status, reason)
    await store.commit(third, second.version, b"sealed")
    return third


async def test_what_was_committed_is_what_is_read(store: SessionStore) -> None:
    """Every field of a session comes back as it went in."""
    session = sent(
        opened(order_ref="o-1", user_ref="u-1", amount="1999", currency="eur"), store.epoch
    )
    await keep(store, session)
    assert await store.get(session.id) == session


async def test_an_unknown_id_is_nothing(store: SessionStore) -> None:
    """No session, no answer, no error."""
    assert await store.get("ps_nobody") is None
    assert await store.answer("ps_nobody") is None


async def test_a_key_is_claimed_once(store: SessionStore) -> None:
    """The second session with a key is told who has it, also before anything is durable."""
    await store.claim(opened(1, key_hash="same"), 0)
    with pytest.raises(KeyTaken) as taken:
        await store.claim(opened(2, key_hash="same"), 0)
    assert taken.value.holder.id == "ps_0001"


async def test_of_many_claims_at_once_one_wins(store: SessionStore) -> None:
    """Fifty requests with one key: one session, forty-nine times told whose it is."""

    async def claim(number: int) -> str:
        try:
            await store.claim(opened(number, key_hash="same"), 0)
        except KeyTaken as taken:
            return taken.holder.id
        return "mine"

    results = await asyncio.gather(*(claim(number) for number in range(50)))
    assert results.count("mine") == 1
    assert len(set(results)) == 2


async def test_a_settled_session_keeps_its_key(store: SessionStore) -> None:
    """A finished payment is still found by its key, so that its answer can be given again."""
    await finished(store, 1, AttemptStatus.SUCCEEDED)
    with pytest.raises(KeyTaken) as taken:
        await store.claim(opened(2, key_hash="key-1"), 0)
    assert taken.value.holder.state is State.COMPLETED


@pytest.mark.parametrize(
    ("status", "locked"),
    [
        (AttemptStatus.SUCCEEDED, True),
        (AttemptStatus.UNKNOWN, True),
        (AttemptStatus.DECLINED, False),
        (AttemptStatus.ACCEPTED, False),
    ],
)
async def test_an_order_is_locked_while_it_may_be_charged(
    store: SessionStore, status: AttemptStatus, locked: bool
) -> None:
    """Open, unknown or charged locks the order; a decline frees it."""
    first = opened(1, order_ref="o-1", order_locks=True)
    await store.claim(first, 0)
    second = opened(2, order_ref="o-1", order_locks=True)
    with pytest.raises(OrderTaken):
        await store.claim(second, 0)
    intent = sent(first, store.epoch)
    await store.commit(intent, first.version, None)
    await store.commit(ended(intent, status), intent.version, None)
    if locked:
        with pytest.raises(OrderTaken) as taken:
            await store.claim(second, 0)
        assert taken.value.holder.id == "ps_0001"
    else:
        await store.claim(second, 0)


async def test_the_order_lock_is_per_operation(store: SessionStore) -> None:
    """A refund of a charged order is not a second charge."""
    await keep(store, opened(1, order_ref="o-1", order_locks=True, operation="charge"))
    await store.claim(opened(2, order_ref="o-1", order_locks=True, operation="refund"), 0)


async def test_a_session_that_does_not_lock_is_not_stopped_by_a_lock(store: SessionStore) -> None:
    """An order that was only read from the body shows, and stops nobody."""
    await keep(store, opened(1, order_ref="o-1", order_locks=True))
    await store.claim(opened(2, order_ref="o-1", order_locks=False), 0)


async def test_a_charge_of_an_order_that_was_freed_is_written(store: SessionStore) -> None:
    """Closed as declined, then paid by another session, then charged after all: both are told."""
    locking = {"order_ref": "o-1", "order_locks": True}
    first = sent(await keep(store, opened(1, **locking)), store.epoch)
    await store.commit(first, first.version - 1, None)
    declined = ended(first, AttemptStatus.DECLINED)
    await store.commit(declined, first.version, None)
    second = sent(await keep(store, opened(2, **locking)), store.epoch)
    await store.commit(second, second.version - 1, None)
    late = ended(declined, AttemptStatus.SUCCEEDED)
    assert (late.state, late.locks_order) == (State.COMPLETED, True)
    await store.commit(late, declined.version, b"sealed")
    assert await store.get(late.id) == late
    freed = ended(second, AttemptStatus.DECLINED)
    await store.commit(freed, second.version, None)
    with pytest.raises(OrderTaken) as taken:
        await store.claim(opened(3, **locking), 0)
    assert taken.value.holder == late


@pytest.mark.parametrize("charged", [True, False])
async def test_an_order_that_was_charged_after_all_is_sent_no_more(
    store: SessionStore, charged: bool
) -> None:
    """Freed, taken by another session, then charged: that one begins no send. And a control."""
    locking = {"order_ref": "o-1", "order_locks": True}
    first = sent(await keep(store, opened(1, **locking)), store.epoch)
    await store.commit(first, first.version - 1, None)
    declined = ended(first, AttemptStatus.DECLINED)
    await store.commit(declined, first.version, None)
    second = await keep(store, opened(2, **locking))
    if charged:
        await store.commit(ended(declined, AttemptStatus.SUCCEEDED), declined.version, b"sealed")
    begun = sent(second, store.epoch)
    refused = pytest.raises(StoreUnavailable, match="charged after all")
    with refused if charged else contextlib.nullcontext():
        await store.commit(begun, second.version, None)
    assert await store.get(second.id) == (second if charged else begun)


async def test_a_late_charge_beside_a_clean_up_is_written_or_told_that_it_is_gone(
    store: SessionStore,
) -> None:
    """Never lost in between, and never in the way of the one that has the order by now."""
    locking = {"order_ref": "o-1", "order_locks": True}
    first = sent(await keep(store, opened(1, **locking)), store.epoch)
    await store.commit(first, first.version - 1, None)
    declined = ended(first, AttemptStatus.DECLINED)
    await store.commit(declined, first.version, None)
    second = await keep(store, opened(2, **locking))
    late = ended(declined, AttemptStatus.SUCCEEDED)

    async def write() -> bool:
        with contextlib.suppress(Conflict):
            await store.commit(late, declined.version, b"sealed")
            return True
        return False

    purge = store.purge(answers_before=0, sessions_before=10**13)
    _, written = await asyncio.gather(purge, write())
    assert await store.get(first.id) == (late if written else None)
    assert await store.get(second.id) == second
    with pytest.raises(OrderTaken):
        await store.claim(opened(3, **locking), 0)


async def test_a_kept_request_goes_with_the_end_of_its_session(store: SessionStore) -> None:
    """It is there while it may be sent again, and not a moment longer."""
    first = opened(1)
    await store.claim(first, 0)
    second = sent(first, store.epoch)
    await store.commit(second, first.version, None, b"sealed request")
    assert await store.request(second.id) == b"sealed request"
    unknown = ended(second, AttemptStatus.UNKNOWN)
    await store.commit(unknown, second.version, None)
    assert await store.request(second.id) == b"sealed request"
    settled = apply(
        unknown, ev.EvidenceFound(4000, ev.EvidenceSource.LOOKUP, AttemptStatus.SUCCEEDED, "pi_1")
    )
    await store.commit(settled, unknown.version, b"sealed")
    assert await store.request(second.id) is None
    assert await store.answer(second.id) == b"sealed"


async def test_replicas_of_a_store_have_one_key(store: SessionStore) -> None:
    """Who comes with another would take every repeat for a new payment, and is sent away."""
    await store.bind("mark of a key")
    await store.bind("mark of a key")
    if store.shared:
        with pytest.raises(StoreUnavailable, match="another install key"):
            await store.bind("mark of another")


async def test_what_this_process_sends_is_not_abandoned(store: SessionStore) -> None:
    """In flight under the store's own epoch: somebody waits for its answer."""
    first = opened(1)
    await store.claim(first, 0)
    await store.commit(sent(first, store.epoch), first.version, None)
    assert await store.abandoned() == []
    assert store.lease_seconds() > 0
    assert store.regressed is None


async def test_nobody_overwrites_a_newer_version(store: SessionStore) -> None:
    """A commit over a version that has moved on is a conflict, and says what is true now."""
    first = await keep(store, opened(1))
    second = sent(first, store.epoch)
    await store.commit(second, first.version, None)
    late = apply(first, ev.CancelRequested(2500, "changed my mind"))
    with pytest.raises(Conflict) as conflict:
        await store.commit(late, first.version, None)
    assert conflict.value.current == second
    assert await store.get(first.id) == second


async def test_a_settled_session_can_still_learn(store: SessionStore) -> None:
    """Late evidence is written over a session that went to rest long ago."""
    declined = await finished(store, 1, AttemptStatus.DECLINED)
    evidence = ev.EvidenceFound(9000, ev.EvidenceSource.PERSON, AttemptStatus.SUCCEEDED, "pi_late")
    charged = apply(declined, evidence)
    await store.commit(charged, declined.version, None)
    assert await store.get(declined.id) == charged
    with pytest.raises(Conflict):
        await store.commit(charged, declined.version, None)


async def test_a_bound_session_is_found_by_its_new_key(store: SessionStore) -> None:
    """A session created ahead of its request has no key; once bound it is found by it."""
    ahead = await keep(store, opened(1, key_hash=None, fingerprint=None, order_ref="o-1"))
    bound = apply(
        ahead,
        ev.Bound(1500, "stripe", "create-payment", "charge", "t", "k-new", "g", "f", True, True, 3),
    )
    await store.claim(bound, ahead.version)
    await store.commit(sent(bound, store.epoch), bound.version, None)
    with pytest.raises(KeyTaken) as taken:
        await store.claim(opened(2, key_hash="k-new"), 0)
    assert taken.value.holder.id == ahead.id


async def test_answers_are_kept_with_their_session(store: SessionStore) -> None:
    """The sealed answer comes back byte for byte."""
    await keep(store, opened(1), b"\x00sealed\xff")
    assert await store.answer("ps_0001") == b"\x00sealed\xff"


async def test_listed_is_what_is_live_or_unknown(store: SessionStore) -> None:
    """Settled sessions rest; open ones and unknown outcomes stay visible."""
    await finished(store, 1, AttemptStatus.SUCCEEDED)
    await finished(store, 2, AttemptStatus.UNKNOWN)
    await keep(store, opened(3))
    assert sorted(s.id for s in await store.listed()) == ["ps_0002", "ps_0003"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Query(), ["ps_0004", "ps_0003", "ps_0002", "ps_0001"]),
        (Query(order_ref="o-2"), ["ps_0002"]),
        (Query(user_ref="u-1"), ["ps_0003", "ps_0001"]),
        (Query(state=State.COMPLETED), ["ps_0004"]),
        (Query(state=State.INITIATED), ["ps_0003", "ps_0002", "ps_0001"]),
        (Query(state=State.DECLINED), []),
        (Query(outcome=Outcome.CHARGED), ["ps_0004"]),
        (Query(outcome=Outcome.UNKNOWN), []),
        (Query(order_ref="o-2", gateway="stripe"), ["ps_0002"]),
        (Query(order_ref="o-2", gateway="adyen"), []),
        (Query(gateway="adyen"), ["ps_0003"]),
        (Query(since=1002, until=1004), ["ps_0003", "ps_0002"]),
        (Query(until=1004, after=(1003, "ps_0003")), ["ps_0002", "ps_0001"]),
        (Query(until=1003, after=(1009, "ps_0009")), ["ps_0002", "ps_0001"]),
        (Query(listed_only=True), ["ps_0003", "ps_0002", "ps_0001"]),
        (Query(listed_only=True, user_ref="u-1"), ["ps_0003", "ps_0001"]),
        (Query(order_ref="nobody"), []),
    ],
)
async def test_search(store: SessionStore, query: Query, found: list[str]) -> None:
    """Every filter, newest first."""
    await keep(store, opened(1, user_ref="u-1"))
    await keep(store, opened(2, order_ref="o-2"))
    await keep(store, opened(3, user_ref="u-1", gateway="adyen"))
    await finished(store, 4, AttemptStatus.SUCCEEDED)
    page = await store.search(query)
    assert [session.id for session in page.sessions] == found
    everything = await store.search(replace(query, after=None))
    assert (page.total, page.more) == (len(everything.sessions), False)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Query(outcome=Outcome.NOT_CHARGED), [f"ps_000{n}" for n in (5, 4, 3, 2, 1)]),
        (Query(outcome=Outcome.NOT_CHARGED, until=1003), ["ps_0002", "ps_0001"]),
        (Query(outcome=Outcome.NOT_CHARGED, after=(1003, "ps_0003")), ["ps_0002", "ps_0001"]),
        (Query(outcome=Outcome.NOT_CHARGED, state=State.COMPLETED), ["ps_0005"]),
        (Query(state=State.FAILED_MAX_RETRIES), ["ps_0006", "ps_0004"]),
        (Query(state=State.FAILED_MAX_RETRIES, outcome=Outcome.UNKNOWN), ["ps_0006"]),
    ],
)
async def test_a_search_finds_what_rests_and_what_is_listed(
    store: SessionStore, query: Query, found: list[str]
) -> None:
    """In one list, newest first: open ones, declined and merely accepted ones, and unknown ones."""
    await keep(store, opened(1))
    await finished(store, 2, AttemptStatus.DECLINED)
    await keep(store, opened(3))
    for number, became in ((4, AttemptStatus.NOT_SENT), (6, AttemptStatus.UNKNOWN)):
        stopped = await finished(store, number, became, Reason.CONNECT_TIMEOUT)
        await store.commit(apply(stopped, ev.Exhausted(9000)), stopped.version, None)
    await finished(store, 5, AttemptStatus.ACCEPTED)
    await finished(store, 7, AttemptStatus.SUCCEEDED)
    page = await store.search(query)
    assert [session.id for session in page.sessions] == found
    assert page.total == len((await store.search(replace(query, after=None))).sessions)
    one = await store.search(replace(query, limit=1))
    assert ([session.id for session in one.sessions], one.more) == (found[:1], len(found) > 1)


async def test_search_in_pages(store: SessionStore) -> None:
    """Pages follow one another without a gap or a repeat, and count everything."""
    for number in range(1, 8):
        await keep(store, opened(number))
    seen: list[str] = []
    after = None
    for _ in range(3):
        page = await store.search(Query(limit=3, after=after))
        seen += [session.id for session in page.sessions]
        assert page.total == 7
        assert page.more is (len(seen) < 7)
        after = (page.sessions[-1].started_at, page.sessions[-1].id)
    assert seen == [f"ps_{number:04d}" for number in range(7, 0, -1)]


async def test_a_search_counts_only_so_far(store: SessionStore) -> None:
    """Whoever counts a million looks at a million. The listed are all counted."""
    await asyncio.gather(*(keep(store, opened(number)) for number in range(COUNTED + 5)))
    assert (await store.search(Query())).total == COUNTED
    assert (await store.search(Query(state=State.INITIATED))).total == COUNTED
    assert (await store.search(Query(listed_only=True))).total == COUNTED + 5


async def test_purge_drops_what_is_old_and_settled(store: SessionStore) -> None:
    """Answers go first, sessions later; what is live or unknown never goes."""
    await finished(store, 1, AttemptStatus.SUCCEEDED)
    await finished(store, 2, AttemptStatus.UNKNOWN)
    await keep(store, opened(3))
    future = SystemClock().now_ms() + 1000
    assert await store.purge(answers_before=0, sessions_before=0) == (0, 0)
    assert await store.purge(answers_before=future, sessions_before=0) == (2, 0)
    assert await store.answer("ps_0001") is None
    assert await store.purge(answers_before=future, sessions_before=future) == (0, 1)
    assert await store.get("ps_0001") is None
    assert sorted(s.id for s in await store.listed()) == ["ps_0002", "ps_0003"]


async def test_a_purged_key_is_free(store: SessionStore) -> None:
    """After its keeping time a key names a new payment."""
    await finished(store, 1, AttemptStatus.SUCCEEDED)
    future = SystemClock().now_ms() + 1000
    await store.purge(answers_before=future, sessions_before=future)
    await store.claim(opened(2, key_hash="key-1"), 0)


async def test_many_at_once(store: SessionStore) -> None:
    """Two hundred payments side by side, each through all its versions."""

    async def one(number: int) -> None:
        session = await finished(store, number, AttemptStatus.SUCCEEDED)
        assert await store.get(session.id) == session

    await asyncio.gather(*(one(number) for number in range(1, 201)))
    page = await store.search(Query(state=State.COMPLETED, limit=500))
    assert page.total == 200


async def test_a_healthy_store_is_ready(store: SessionStore) -> None:
    """Nothing is wrong until something is."""
    assert store.trouble is None
    assert store.broken is None


async def test_a_session_bound_to_another_operation_lets_go_of_the_order(
    store: SessionStore,
) -> None:
    """Created for a charge, used for a refund: the order can be charged by another session."""
    ahead = await keep(
        store, opened(1, key_hash=None, fingerprint=None, order_ref="o-1", order_locks=True)
    )
    bound = apply(
        ahead,
        ev.Bound(1500, "stripe", "refund", "refund", "t", "k-new", "g", "f", False, True, 3),
    )
    await store.claim(bound, ahead.version)
    await store.commit(ended(sent(bound), AttemptStatus.SUCCEEDED), bound.version, None)
    await keep(store, opened(2, order_ref="o-1", order_locks=True))
