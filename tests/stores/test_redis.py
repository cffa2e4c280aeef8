"""What only the Redis store promises, against a real server: killed, cut off and put back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from msgspec.structs import replace

from proxy.core import events as ev
from proxy.core.session import Session, apply
from proxy.core.states import AttemptStatus, Outcome, State
from proxy.ports import Conflict, OrderTaken, Query, StoreUnavailable
from proxy.stores import redis as module
from proxy.stores.redis import RedisStore
from proxy.stores.searching import page_of
from proxy.system import SystemClock
from tests.stores.test_conformance import ended, finished, keep, opened, sent
from tests.support.lab import Notes
from tests.support.tcp_faults import Fault, tcp_faults
from tests.support.valkey import DURABLE, Valkey, another, replicated, valkey
from tests.support.waiting import until

LEASES = "{holdfast}:leases"
META = "{holdfast}:meta"
_WHO_IS_MASTER = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
_CONFIRMS = b"WAITAOF\r\n$1\r\n1\r\n$1\r\n1\r\n"


@pytest.fixture
def server() -> Iterator[Valkey]:
    """A server of this test's own."""
    with valkey() as running:
        yield running


@pytest_asyncio.fixture
async def store(server: Valkey) -> AsyncIterator[RedisStore]:
    """A store on it."""
    built = store_at(server.url)
    await built.open()
    yield built
    await built.close()


def store_at(url: str) -> RedisStore:
    """Another process's store at the same place."""
    return RedisStore(url, 10.0, SystemClock(), Notes())


def version_of(server: Valkey, session: Session) -> str:
    """The version on the server, asked past the store."""
    return server.field("{holdfast}:session:" + session.id, "version")


def run_out(server: Valkey, epoch: int) -> None:
    """Let the lease of a process end now."""
    server.tell("ZADD", LEASES, "0", str(epoch))


# --- a reply that is lost -------------------------------------------------------------------------


async def test_a_commit_whose_reply_was_lost_is_sent_again(server: Valkey) -> None:
    """It was carried out: the second delivery finds its own mark, which acknowledges it."""
    may_answer, drop = asyncio.Event(), asyncio.Event()
    may_answer.set()
    async with tcp_faults(server.port, Fault(hold_answer_until=may_answer, drop_at=drop)) as relay:
        store = store_at(server.url_at(relay.port))
        await store.open()
        first = await keep(store, opened(1))
        may_answer.clear()
        second = sent(first, store.epoch)
        commit = asyncio.ensure_future(store.commit(second, first.version, None))
        await until(lambda: version_of(server, second) == str(second.version))
        assert not commit.done()
        drop.set()
        await commit
        assert await store.get(second.id) == second
        assert len(relay.connections) == 3  # one is for the lease
        await store.close()


async def test_a_commit_that_never_arrived_is_sent_again(server: Valkey) -> None:
    """The connection was dead before it: the second delivery is the first that arrives."""
    drop = asyncio.Event()
    async with tcp_faults(server.port, Fault(drop_at=drop)) as relay:
        store = store_at(server.url_at(relay.port))
        await store.open()
        first = await keep(store, opened(1))
        drop.set()
        second = sent(first, store.epoch)
        await store.commit(second, first.version, None)
        assert await store.get(second.id) == second
        assert len(relay.connections) == 3  # one is for the lease
        await store.close()


async def test_what_is_sent_twice_happens_once(store: RedisStore) -> None:
    """The same op gets the same reply; under another op the same version is a conflict."""
    first = await keep(store, opened(1))
    second = sent(first, store.epoch)
    columns = module._columns(second)
    command = module._COMMIT(second.id, first.version, *columns, b"", 0, b"", store.epoch)
    for _ in range(3):
        assert await store._payments.ask(*command, durable=True) == [b"done"]
    with pytest.raises(Conflict):
        await store.commit(second, first.version, None)


async def test_a_claim_that_is_sent_twice_is_one_claim(store: RedisStore) -> None:
    """A lost reply does not turn a claim against itself."""
    session = opened(1, order_ref="o-1", order_locks=True)
    command = module._CLAIM(session.id, 0, *module._columns(session))
    assert await store._payments.ask(*command) == [b"done"]
    assert await store._payments.ask(*command) == [b"done"]


async def test_a_server_that_lost_its_scripts_is_taught_them_again(
    server: Valkey, store: RedisStore
) -> None:
    """After SCRIPT FLUSH everything goes on."""
    server.tell("SCRIPT", "FLUSH")
    session = await keep(store, opened(1))
    assert await store.get(session.id) == session


async def test_a_found_mark_is_no_confirmation() -> None:
    """Sent again over a new connection, a commit still waits for the disk of the replica."""
    with replicated() as (primary, replica):
        drop = asyncio.Event()
        async with tcp_faults(primary.port, Fault(drop_at=drop)) as relay:
            store = store_at(primary.url_at(relay.port))
            await store.open()
            first = await keep(store, opened(1))
            replica.pause()
            second = sent(first, store.epoch)
            commit = asyncio.ensure_future(store.commit(second, first.version, None))
            await until(lambda: version_of(primary, second) == str(second.version))
            drop.set()
            await relay.connection(3)
            # Asked for behind the commit, and again after it had said "not yet".
            await until(lambda: relay.connections[2].sent.count(_CONFIRMS) > 1)
            assert not commit.done()
            replica.go_on()
            await commit
            await store.close()


async def test_the_master_is_found_through_a_sentinel() -> None:
    """After a failover the store goes on at the new master, and misses nothing."""
    with replicated() as (primary, replica), another() as sentinel:
        sentinel.watch(primary, "mymaster")
        store = store_at(f"redis://127.0.0.1:{sentinel.port},127.0.0.1:1/mymaster?sentinel")
        await store.open()
        session = await keep(store, opened(1))
        replica.tell("CONFIG", "SET", "min-replicas-to-write", "0")
        await until(lambda: sentinel.tell("SENTINEL", "FAILOVER", "mymaster") == "+OK")
        await until(lambda: "master" in replica.said("ROLE"))
        await until(lambda: "master" not in primary.said("ROLE"))
        with contextlib.suppress(StoreUnavailable):  # the failover may take longer than patience
            await store.heartbeat()
        await until(lambda: str(replica.port) in sentinel.said(*_WHO_IS_MASTER))
        intent = sent(session, store.epoch)
        await store.commit(intent, session.version, None)
        assert version_of(replica, intent) == str(intent.version)
        assert store.regressed is None
        await store.close()


async def test_without_waitaof_the_answer_counts() -> None:
    """A server before 7.2 has none; the start says so."""
    with valkey(rename_command="WAITAOF ") as server:
        store = store_at(server.url)
        await store.open()
        assert "it has no WAITAOF" in store.promise
        session = await keep(store, opened(1))
        assert await store.get(session.id) == session
        await store.close()


# --- leases ---------------------------------------------------------------------------------------


async def test_without_a_lease_no_send_begins(server: Valkey, store: RedisStore) -> None:
    """By the server's clock, whatever this process believes; but evidence is always taken."""
    first = await keep(store, opened(1))
    second = await keep(store, opened(2))
    under_way = sent(second, store.epoch)
    await store.commit(under_way, second.version, None)
    run_out(server, store.epoch)
    intent = sent(first, store.epoch)
    with pytest.raises(StoreUnavailable, match="lease"):
        await store.commit(intent, first.version, None)
    assert await store.get(first.id) == first
    charged = ended(under_way, AttemptStatus.SUCCEEDED)
    await store.commit(charged, under_way.version, b"sealed")
    assert await store.get(second.id) == charged


async def test_a_lost_lease_is_taken_anew(server: Valkey, store: RedisStore) -> None:
    """Under another epoch; what was meant to be sent under the old one is not sent any more."""
    first = await keep(store, opened(1))
    old, intent = store.epoch, sent(first, store.epoch)
    run_out(server, old)
    assert await store.abandoned() == []
    await store.heartbeat()
    assert store.epoch > old
    with pytest.raises(StoreUnavailable, match="lease"):
        await store.commit(intent, first.version, None)
    await store.commit(sent(first, store.epoch), first.version, None)


async def test_a_lease_is_renewed_by_its_heartbeat(server: Valkey, store: RedisStore) -> None:
    """The same epoch, for the whole lease from now on."""
    epoch = store.epoch
    server.tell("ZADD", LEASES, "1", str(epoch))
    await store.heartbeat()
    assert store.epoch == epoch
    await store.commit(sent(await keep(store, opened(1)), epoch), 1, None)


async def test_one_of_them_leads(server: Valkey, store: RedisStore) -> None:
    """The oldest; when it is gone, the next."""
    other = store_at(server.url)
    await other.open()
    assert (store.leads, other.leads) == (True, False)
    run_out(server, store.epoch)
    assert await other.abandoned() == []
    await other.heartbeat()
    assert other.leads
    await other.close()


async def test_what_a_dead_process_had_in_flight_is_shared_out(
    server: Valkey, store: RedisStore
) -> None:
    """Each to one of those who ask, and to another when that one is gone as well."""
    other, dead = store_at(server.url), store_at(server.url)
    await other.open()
    await dead.open()
    in_flight = []
    for number in range(1, 11):
        first = await keep(dead, opened(number))
        in_flight.append(sent(first, dead.epoch))
        await dead.commit(in_flight[-1], first.version, None)
    assert await store.abandoned() == []
    run_out(server, dead.epoch)
    mine, theirs = await asyncio.gather(store.abandoned(), other.abandoned())
    assert sorted(s.id for s in [*mine, *theirs]) == [s.id for s in in_flight]
    assert len({s.id for s in [*mine, *theirs]}) == 10
    # Told again to who has it: its reply may have been lost.
    assert await store.abandoned() == mine
    assert await other.abandoned() == theirs
    evidence = ended(in_flight[0], AttemptStatus.SUCCEEDED)
    await dead.commit(evidence, in_flight[0].version, b"sealed")
    run_out(server, other.epoch)
    assert [s.id for s in await store.abandoned()] == [s.id for s in in_flight[1:]]
    await other.close()
    await dead.close()


async def test_who_leaves_in_order_leaves_at_once(server: Valkey, store: RedisStore) -> None:
    """Its lease ends with it, so nobody waits for it to run out."""
    other = store_at(server.url)
    await other.open()
    first = await keep(other, opened(1))
    intent = sent(first, other.epoch)
    await other.commit(intent, first.version, None)
    await other.close()
    assert await store.abandoned() == [intent]


# --- a server that goes away ----------------------------------------------------------------------


async def test_kill_9_loses_nothing_that_was_acknowledged(
    server: Valkey, store: RedisStore
) -> None:
    """Payments go on until the server is killed; what was acknowledged is there when it is back."""
    acked: dict[str, int] = {}

    async def pay(number: int) -> None:
        session = opened(number)
        await store.claim(session, 0)
        for after in (sent(session, store.epoch), None):
            version = after or ended(session, AttemptStatus.SUCCEEDED)
            await store.commit(version, session.version, b"sealed")
            acked[version.id] = version.version
            session = version

    async def keep_paying(start: int) -> None:
        for number in range(start, start + 100_000):
            await pay(number)

    payers = [asyncio.ensure_future(keep_paying(n * 100_000)) for n in range(20)]
    await until(lambda: len(acked) > 300)
    server.kill()
    told = await asyncio.gather(*payers, return_exceptions=True)
    assert {type(each) for each in told} == {StoreUnavailable}
    server.start(**DURABLE)
    again = store_at(server.url)
    await again.open()
    for session_id, version in acked.items():
        found = await again.get(session_id)
        assert found is not None
        assert found.version >= version
    await again.close()


async def test_it_comes_back_by_itself(server: Valkey, store: RedisStore) -> None:
    """Gone, every call says so and nothing is ready; back, the next heartbeat finds it."""
    session = await keep(store, opened(1))
    server.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await store.claim(opened(2), 0)
    with pytest.raises(StoreUnavailable):
        await store.search(Query())
    assert store.trouble is not None
    server.start(**DURABLE)
    await store.heartbeat()
    assert store.trouble is None
    assert await store.get(session.id) == session
    assert store.regressed is None


async def test_a_server_that_was_put_back_is_noticed(server: Valkey, store: RedisStore) -> None:
    """All who share the store hear of it, until a person has looked at what is missing."""
    first = await keep(store, opened(1))
    copy = server.copy_data("before")
    await store.commit(sent(first, store.epoch), first.version, None)
    server.kill()
    server.put_back(copy)
    server.start(**DURABLE)
    await store.heartbeat()
    assert store.regressed is not None
    assert "ps_0001 in version 2" in store.regressed
    other = store_at(server.url)
    await other.open()
    assert other.regressed == store.regressed
    assert await module.accept_loss(server.url) == 1
    for each in (store, other):
        await each.heartbeat()
        assert each.regressed is None
    await other.close()


async def test_an_accepted_loss_is_not_taken_for_one_that_nobody_has_seen(
    server: Valkey, store: RedisStore
) -> None:
    """What this process misses is told, though a person has accepted what others missed before."""
    first = await keep(store, opened(1))
    copy = server.copy_data("before")
    await store.commit(sent(first, store.epoch), first.version, None)
    server.kill()
    server.put_back(copy)
    server.start(**DURABLE)
    assert await module.accept_loss(server.url) == 1
    await store.heartbeat()
    assert store.regressed is not None
    assert "ps_0001 in version 2" in store.regressed
    assert await module.accept_loss(server.url) == 2
    await store.heartbeat()
    assert store.regressed is None


async def test_a_server_from_before_an_accepted_loss_is_noticed(
    server: Valkey, store: RedisStore
) -> None:
    """What was accepted is not in it, nor what came after."""
    copy = server.copy_data("before")
    assert await module.accept_loss(server.url) == 1
    await store.heartbeat()
    server.kill()
    server.put_back(copy)
    server.start(**DURABLE)
    await store.heartbeat()
    assert store.regressed == "the store was put back to before the last accepted loss"


async def test_a_server_that_was_emptied_is_noticed(server: Valkey, store: RedisStore) -> None:
    """Though the connection stands: whose lease is gone asks for what it was promised."""
    await keep(store, opened(1))
    server.tell("FLUSHALL")
    await store.heartbeat()
    assert store.regressed is not None


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (["CONFIG SET appendonly no"], "has appendonly no, so a restart loses"),
        (["CONFIG SET appendfsync everysec"], "has appendfsync everysec, so a power cut loses"),
        (["CONFIG SET appendfsync no"], "has appendfsync no, so a power cut loses"),
        (
            ["CONFIG SET maxmemory-policy allkeys-lru", "CONFIG SET maxmemory 100mb"],
            "has maxmemory-policy allkeys-lru, so it throws payments away",
        ),
        (["REPLICAOF 127.0.0.1 1"], "is a replica"),
        (
            ["ACL SETUSER default -config"],
            r"does not say what appendonly is \(.*\); allow it CONFIG",
        ),
        (["ACL SETUSER default -script -eval"], "does not take scripts"),
        (["HSET {holdfast}:meta schema 99"], "was written by a newer Holdfast"),
    ],
)
async def test_a_server_that_forgets_is_refused(
    server: Valkey, told: list[str], sentence: str
) -> None:
    """The start ends with a sentence that names the setting."""
    for command in told:
        assert server.tell(*command.split())[0] in "+:", command
    with pytest.raises(StoreUnavailable, match=sentence):
        await store_at(server.url).open()


async def test_there_is_nothing_to_migrate_yet(server: Valkey, store: RedisStore) -> None:
    """The first start wrote the schema; one that is newer is left alone."""
    assert await module.migrate(server.url) == []
    server.tell("HSET", META, "schema", "99")
    with pytest.raises(StoreUnavailable, match="newer Holdfast"):
        await module.migrate(server.url)


async def test_a_policy_without_a_limit_evicts_nothing(server: Valkey) -> None:
    """Without maxmemory there is nothing to throw away for."""
    server.tell("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    store = store_at(server.url)
    await store.open()
    assert "failover can still lose it" in store.promise
    await store.close()


async def test_a_server_that_is_not_there_is_named() -> None:
    """A start without a server ends with where it was looked for, without the password."""
    with pytest.raises(StoreUnavailable, match=r"redis://127.0.0.1:1/0 does not answer") as error:
        await store_at("redis://u:secret@127.0.0.1:1/0").open()
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("told", "before", "after", "said"),
    [
        ("CONFIG SET requirepass secret", "//", "//", "(?i)authentication required"),
        ("PING", "//", "//mallory:wrong@", "(?i)username"),
        ("PING", "/0", "/99", "DB index is out of range"),
    ],
)
async def test_what_a_server_said_is_told(
    server: Valkey, told: str, before: str, after: str, said: str
) -> None:
    """A server that says no is there: nobody need look at the network."""
    server.tell(*told.split())
    with pytest.raises(StoreUnavailable, match=said) as error:
        await store_at(server.url.replace(before, after)).open()
    assert "says no" in str(error.value)
    assert "does not answer" not in str(error.value)


def test_an_address_that_means_nothing_is_told() -> None:
    """A database is a number; several hosts are sentinels."""
    for url in ("redis://localhost/payments", "redis://a:1,b:2/0"):
        with pytest.raises(StoreUnavailable, match="write redis://HOST:PORT/NUMBER"):
            store_at(url)


async def test_what_cannot_be_read_is_said(server: Valkey, store: RedisStore) -> None:
    """A document that is none is no session, and no reason to go on as if it were not there."""
    session = await keep(store, opened(1))
    server.tell("HSET", "{holdfast}:session:" + session.id, "doc", "{")
    with pytest.raises(StoreUnavailable, match="a session it cannot read"):
        await store.get(session.id)
    with pytest.raises(StoreUnavailable, match="a session it cannot read"):
        await store.listed()


async def test_a_full_server_takes_nothing(server: Valkey, store: RedisStore) -> None:
    """With noeviction it says no, and nothing counts as written."""
    server.tell("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="says no"):
        await store.claim(opened(1), 0)
    server.tell("CONFIG", "SET", "maxmemory", "0")
    assert await store.get("ps_0001") is None
    await keep(store, opened(1))


# --- orders ---------------------------------------------------------------------------------------


async def test_two_charges_of_one_order_both_hold_it(store: RedisStore) -> None:
    """Late evidence is taken although another has the order by now, which then begins no send."""
    first = await keep(store, opened(1, order_ref="o-1", order_locks=True))
    intent = sent(first, store.epoch)
    await store.commit(intent, first.version, None)
    declined = ended(intent, AttemptStatus.DECLINED)
    await store.commit(declined, intent.version, b"sealed")
    second = await keep(store, opened(2, order_ref="o-1", order_locks=True))
    late = apply(
        declined, ev.EvidenceFound(9, ev.EvidenceSource.PERSON, AttemptStatus.SUCCEEDED, "pi")
    )
    await store.commit(late, declined.version, None)
    with pytest.raises(StoreUnavailable, match="charged after all"):
        await store.commit(sent(second, store.epoch), second.version, None)
    expired = apply(second, ev.Expired(2_000_000_000_000))
    await store.commit(expired, second.version, None)
    with pytest.raises(OrderTaken) as taken:
        await store.claim(opened(3, order_ref="o-1", order_locks=True), 0)
    assert taken.value.holder.id == first.id


# --- searching ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        Query(limit=3),
        Query(limit=3, since=1002, until=1005),
        Query(limit=2, state=State.COMPLETED),
        Query(limit=2, outcome=Outcome.CHARGED, user_ref="u-1"),
        Query(limit=2, user_ref="u-1", since=1002),
        Query(limit=2, listed_only=True, gateway="stripe"),
    ],
)
async def test_a_search_in_steps_finds_the_same(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, query: Query
) -> None:
    """However few rows a step looks at, and though many began in one millisecond."""
    monkeypatch.setattr(module, "_SEARCH_ROWS", 2)
    kept: list[Session] = []
    for number in range(1, 17):
        session = await keep(
            store,
            replace(
                opened(number, user_ref=f"u-{number % 2}"),
                started_at=1000 + number // 3,
            ),
        )
        if number % 4 == 0:
            begun = sent(session, store.epoch)
            await store.commit(begun, session.version, None)
            session = ended(begun, AttemptStatus.SUCCEEDED)
            await store.commit(session, begun.version, b"sealed")
        kept.append(session)
    for _ in range(8):
        page = await store.search(query)
        assert page == page_of(kept, query)
        if not page.more:
            break
        last = page.sessions[-1]
        query = replace_after(query, (last.started_at, last.id))


def replace_after(query: Query, after: tuple[int, str]) -> Query:
    """The query for the next page."""
    fields = {name: getattr(query, name) for name in query.__slots__}
    return Query(**{**fields, "after": after})


async def test_a_purge_leaves_nothing_behind(
    server: Valkey, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was dropped is in no index any more, however many go in one step."""
    monkeypatch.setattr(module, "_PURGE_ROWS", 2)
    empty = server.tell("DBSIZE")
    for number in range(1, 6):
        await finished(store, number, AttemptStatus.SUCCEEDED)
    later = SystemClock().now_ms()
    assert await store.purge(answers_before=later, sessions_before=later) == (5, 5)
    assert server.tell("DBSIZE") == empty
