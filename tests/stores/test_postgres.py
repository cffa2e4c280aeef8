"""What only the PostgreSQL store promises, against real servers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from proxy.core import events as ev
from proxy.core.session import Session, apply
from proxy.core.states import AttemptStatus, Outcome
from proxy.ports import KeyTaken, OrderTaken, StoreUnavailable
from proxy.stores import postgres as postgres_store
from proxy.stores import postgres_server as server_module
from proxy.stores.postgres import PostgresStore
from proxy.system import SystemClock
from tests.stores.test_conformance import ended, finished, keep, opened, sent
from tests.support.lab import Notes
from tests.support.postgres import Postgres, empty_place, folder_for_postgres, postgres
from tests.support.running import free_port
from tests.support.tcp_faults import Fault, TcpFaults, tcp_faults
from tests.support.waiting import eventually, until

LEASE = 10.0
VERSION = "SELECT version FROM sessions WHERE id = 'ps_0001'"
CONFIRMED = "SELECT confirmed FROM sessions WHERE id = 'ps_0001'"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One server for the tests that leave it alone."""
    with postgres() as running:
        yield running


@pytest_asyncio.fixture
async def url(server: Postgres) -> str:
    """A schema of this test's own."""
    return await empty_place(server)


@pytest_asyncio.fixture
async def side(url: str) -> AsyncIterator[Any]:
    """A connection that is not the store's."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    """A store of that place."""
    async with replica(url) as built:
        yield built


@contextlib.asynccontextmanager
async def replica(url: str) -> AsyncIterator[PostgresStore]:
    """One of those that share a place."""
    built = PostgresStore(url, LEASE, SystemClock(), Notes())
    await built.open()
    try:
        yield built
    finally:
        await built.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a server that does not answer."""
    monkeypatch.setattr(server_module, "_ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(server_module, "_CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(server_module, "_WAIT_SECONDS", 1.0)
    monkeypatch.setattr(postgres_store, "_DOUBT_SECONDS", 0.4)


async def claimed(store: PostgresStore, number: int = 1) -> tuple[Session, Session]:
    """A session that was claimed, and the intent that comes next."""
    session = opened(number)
    await store.claim(session, 0)
    return session, sent(session, store.epoch)


async def in_flight(store: PostgresStore, number: int = 1) -> Session:
    """A session that is being sent."""
    session, intent = await claimed(store, number)
    await store.commit(intent, session.version, None)
    return intent


async def refused(url: str) -> str:
    """Why a store does not open."""
    store = PostgresStore(url, LEASE, SystemClock(), Notes())
    with pytest.raises(StoreUnavailable) as told:
        await store.open()
    return str(told.value)


# --- a commit whose fate is unknown ---------------------------------------------------------------


class Faulty:
    """A store whose connections can be held and cut, all at once."""

    def __init__(self) -> None:
        self.passes, self.cut = asyncio.Event(), asyncio.Event()
        self.passes.set()
        self.fault = Fault(hold_answer_until=self.passes, drop_at=self.cut)

    @contextlib.asynccontextmanager
    async def store(self, server: Postgres, url: str) -> AsyncIterator[PostgresStore]:
        """Opened over a relay; connections that are made later pass."""
        async with tcp_faults(server.port, *[self.fault] * 9) as self.relay:
            through = url.replace(f":{server.port}/", f":{self.relay.port}/")
            async with replica(through) as store:
                await in_flight(store, 9)  # so that its statements are known to the server
                self.relay.plan.clear()
                yield store

    relay: TcpFaults


async def test_a_commit_whose_answer_is_lost_is_made_sure_of(
    server: Postgres, url: str, side: Any
) -> None:
    """It was carried out: it is not taken for another's, and its row is written once more."""
    faulty = Faulty()
    async with faulty.store(server, url) as store:
        session, intent = await claimed(store)
        faulty.passes.clear()
        committing = asyncio.ensure_future(store.commit(intent, session.version, None))
        await eventually(lambda: side.fetchval(VERSION), lambda version: version == 2)
        assert not committing.done()
        faulty.cut.set()
        await committing
        assert await store.get(session.id) == intent
    assert await side.fetchval(CONFIRMED) == 1


async def test_a_commit_that_never_came_to_be_is_carried_out_again(
    server: Postgres, url: str, side: Any
) -> None:
    """The connection broke before the statement was carried out: it is written, and once."""
    faulty = Faulty()
    async with faulty.store(server, url) as store:
        session, intent = await claimed(store)
        async with side.transaction():
            await side.fetch("SELECT 1 FROM sessions FOR UPDATE")
            committing = asyncio.ensure_future(store.commit(intent, session.version, None))
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            (stuck,) = await eventually(lambda: side.fetch(waiting), bool)
            await side.execute("SELECT pg_terminate_backend($1)", stuck["pid"])
            faulty.cut.set()
        await committing
        assert await store.get(session.id) == intent
    assert await side.fetchval(CONFIRMED) == 0


async def test_without_certainty_it_is_unavailable(
    server: Postgres, url: str, side: Any, impatient: None
) -> None:
    """It was carried out, and the server is not heard of any more: no acknowledgement."""
    faulty = Faulty()
    async with faulty.store(server, url) as store:
        session, intent = await claimed(store)
        faulty.relay.plan.extend([Fault(refuse=True)] * 100)
        faulty.passes.clear()
        with pytest.raises(StoreUnavailable):
            await store.commit(intent, session.version, None)
        faulty.relay.plan.clear()
        faulty.cut.set()
    assert await side.fetchval(VERSION) == 2


async def test_a_claim_whose_answer_is_lost_is_not_somebody_elses(
    server: Postgres, url: str, side: Any
) -> None:
    """Carried out again, it finds its own key taken by itself."""
    faulty = Faulty()
    async with faulty.store(server, url) as store:
        faulty.passes.clear()
        claiming = asyncio.ensure_future(store.claim(opened(1), 0))
        await eventually(lambda: side.fetchval(VERSION), bool)
        faulty.cut.set()
        await claiming
        with pytest.raises(KeyTaken):
            await store.claim(opened(2, key_hash="key-1"), 0)


@pytest.mark.parametrize("heard", [True, False])
async def test_a_wait_for_the_standby_that_was_cancelled_is_no_acknowledgement(
    impatient: None, monkeypatch: pytest.MonkeyPatch, heard: bool
) -> None:
    """The server then says yes, with a warning. Whoever does not hear it believes it."""
    if not heard:
        monkeypatch.setattr(server_module, "_WARNING", "nobody says this")
    monkeypatch.setattr(server_module, "_ANSWER_SECONDS", 5.0)
    with postgres() as server:
        async with replica(server.url) as store:
            session, intent = await claimed(store)
            side = await asyncpg.connect(server.url)
            await side.execute("ALTER SYSTEM SET synchronous_standby_names = 'somebody'")
            await side.execute("SELECT pg_reload_conf()")
            committing = asyncio.ensure_future(store.commit(intent, session.version, None))
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            (stuck,) = await eventually(lambda: side.fetch(waiting), bool)
            monkeypatch.setattr(server_module, "_ANSWER_SECONDS", 0.3)
            await side.execute("SELECT pg_cancel_backend($1)", stuck["pid"])
            if heard:
                with pytest.raises(StoreUnavailable):
                    await committing
            else:
                await committing
            assert (await store.get(session.id)) == intent  # seen, and nobody relies on it
            await side.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await side.execute("SELECT pg_reload_conf()")
            await side.close()


# --- leases ---------------------------------------------------------------------------------------

LOST = [
    "UPDATE epochs SET closed = true",
    "UPDATE epochs SET lease_until = now() - interval '1 ms'",
]


@pytest.mark.parametrize("lost", LOST)
async def test_an_intent_without_a_lease_is_not_written(
    store: PostgresStore, side: Any, lost: str
) -> None:
    """The server has taken the process for gone, or will at any moment: nothing may be sent."""
    session, intent = await claimed(store)
    await side.execute(lost)
    with pytest.raises(StoreUnavailable, match="lease"):
        await store.commit(intent, session.version, None)
    assert await store.get(session.id) == session
    await side.execute("UPDATE epochs SET closed = false, lease_until = now() + interval '9 s'")
    await store.commit(intent, session.version, None)  # with one, the same is written


async def test_an_intent_of_a_lost_epoch_is_not_written(store: PostgresStore, side: Any) -> None:
    """The process has a new lease, but this send was begun under the one that ran out."""
    session, intent = await claimed(store)
    await side.execute("UPDATE epochs SET closed = true")
    await store.heartbeat()
    assert store.epoch == 2
    assert store.lease_seconds() > 0
    with pytest.raises(StoreUnavailable, match="lease"):
        await store.commit(intent, session.version, None)
    await store.commit(sent(session, store.epoch), session.version, None)


async def test_what_a_gateway_answered_is_written_without_a_lease(
    store: PostgresStore, side: Any
) -> None:
    """Evidence is true, whoever brings it and however late."""
    intent = await in_flight(store)
    await side.execute("UPDATE epochs SET closed = true")
    charged = ended(intent, AttemptStatus.SUCCEEDED)
    await store.commit(charged, intent.version, b"sealed")
    assert await store.get(intent.id) == charged
    assert await store.answer(intent.id) == b"sealed"


async def test_a_lease_is_renewed_while_every_payment_waits(
    store: PostgresStore, side: Any
) -> None:
    """It has a connection of its own."""
    begun = [await claimed(store, number) for number in range(1, 21)]
    async with side.transaction():
        await side.fetch("SELECT 1 FROM sessions FOR UPDATE")
        commits = [
            asyncio.ensure_future(store.commit(intent, session.version, None))
            for session, intent in begun
        ]
        # Not pg_stat_activity: a transaction sees that as it was when it first looked.
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await eventually(lambda: side.fetchval(waiting), lambda count: count > 5)
        await store.heartbeat()
        assert not any(commit.done() for commit in commits)
    await asyncio.gather(*commits)


async def test_a_lease_is_given_back_at_the_stop(store: PostgresStore, url: str) -> None:
    """What was in flight is abandoned at once, and somebody else leads."""
    async with replica(url) as other:
        intent = await in_flight(store)
        assert (store.leads, other.leads) == (True, False)
        assert await other.abandoned() == []
        await store.close()
        assert await other.abandoned() == [intent]
        await other.heartbeat()
        assert other.leads


async def test_who_is_not_heard_of_is_gone(store: PostgresStore, url: str, side: Any) -> None:
    """By the server's clock. The intent still names the process that sent it."""
    async with replica(url) as other:
        intent = await in_flight(store)
        await side.execute(
            "UPDATE epochs SET lease_until = now() - interval '1 ms' WHERE epoch = $1", store.epoch
        )
        assert [session.sender for session in await other.abandoned()] == [intent.sender]


async def test_sweepers_share_what_is_abandoned(url: str, side: Any) -> None:
    """No session goes to two; one that a sweeper did not get done comes again, first to itself."""
    async with replica(url) as gone, replica(url) as one, replica(url) as two:
        await asyncio.gather(*(in_flight(gone, number) for number in range(1, 131)))
        await side.execute("UPDATE epochs SET closed = true WHERE epoch = $1", gone.epoch)
        ones, twos = (
            {session.id for session in found}
            for found in await asyncio.gather(one.abandoned(), two.abandoned())
        )
        assert len(ones | twos) == len(ones) + len(twos) == 130
        assert {session.id for session in await one.abandoned()} == ones
        await side.execute("UPDATE epochs SET closed = true WHERE epoch = $1", one.epoch)
        rest = {session.id for _ in range(2) for session in await two.abandoned()}
        assert rest <= ones | twos
        for session_id in ones | twos:
            session = await two.get(session_id)
            assert session is not None
            gone_now = apply(session, ev.ProcessRestarted(5000))
            await two.commit(gone_now, session.version, None)
        assert await two.abandoned() == []


# --- the server goes and comes --------------------------------------------------------------------


@pytest.mark.parametrize("version", [16, 18])
async def test_what_was_acknowledged_outlives_a_kill(version: int) -> None:
    """Also where the default is not to wait for the disk. What was only claimed is gone."""
    lazy = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
    with postgres(version, **lazy) as server:
        async with replica(server.url) as store:
            intent = await in_flight(store, 1)
            await store.claim(opened(2), 0)
            server.kill()
            with pytest.raises(StoreUnavailable):
                await store.get(intent.id)
            with pytest.raises(StoreUnavailable):
                await store.heartbeat()
            assert store.trouble is not None
            server.start(**lazy)
            await eventually(lambda: _beats(store), bool)
            assert await store.get(intent.id) == intent
            assert await store.get("ps_0002") is None
            assert store.regressed is None
            await store.commit(ended(intent, AttemptStatus.SUCCEEDED), intent.version, None)


async def test_a_server_that_does_not_answer_is_unavailable(impatient: None) -> None:
    """Stopped in the middle: reads and writes say so, and work again when it goes on."""
    with postgres() as server:
        async with replica(server.url) as store:
            session, intent = await claimed(store)
            server.pause()
            with pytest.raises(StoreUnavailable):
                await store.commit(intent, session.version, None)
            with pytest.raises(StoreUnavailable):
                await store.get(session.id)
            server.go_on()
            found = await eventually(lambda: store.get(session.id), bool)
            assert found in (session, intent)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_may_lose_what_it_acknowledged_is_refused(setting: str) -> None:
    """Neither can be had back by anything that is said over a connection."""
    with postgres(18, **{setting: "off"}) as server:
        assert f"has {setting} = off: it must be on" in await refused(server.url)


async def test_a_host_that_says_nothing_does_not_hide_the_next(
    server: Postgres, url: str, impatient: None
) -> None:
    """It takes the connection and is silent; the other one is asked all the same."""
    async with tcp_faults(server.port, *[Fault(wait_for=asyncio.Event())] * 99) as silent:
        both = url.replace("@", f"@127.0.0.1:{silent.port},")
        async with replica(both) as store:
            await finished(store, 1, AttemptStatus.SUCCEEDED)


async def test_no_server_is_told_without_the_password() -> None:
    """The sentence names the server, and not how to get in."""
    port = free_port()
    told = await refused(f"postgresql://me:secret@127.0.0.1:{port}/holdfast?sslmode=disable")
    assert told.startswith(f"cannot open the store postgresql://127.0.0.1:{port}/holdfast: ")
    assert "secret" not in told


# --- what was acknowledged is gone ----------------------------------------------------------------


@pytest.mark.parametrize("restored", [True, False])
async def test_a_restored_backup_is_noticed(restored: bool) -> None:
    """Everybody hears of it, also after a restart, until a person has accepted it."""
    with postgres() as server:
        async with replica(server.url) as store:
            await finished(store, 1, AttemptStatus.SUCCEEDED)
            server.stop()
            backup = server.copy_data("backup")
            server.start()
            await finished(store, 2, AttemptStatus.SUCCEEDED)
            server.stop()
            if restored:
                server.put_back(backup)
            server.start()
            await eventually(lambda: _beats(store), bool)
            async with replica(server.url) as other:
                told = (store.regressed, other.regressed)
                if not restored:
                    assert told == (None, None)
                    return
                assert told == (other.regressed, store.regressed)
                assert "lost 1 of the payments" in str(store.regressed)
                assert "ps_0002" in str(store.regressed)
                await server_module.accept_loss(server.url)
                await store.heartbeat()
                await other.heartbeat()
                assert (store.regressed, other.regressed) == (None, None)
        async with replica(server.url) as after:
            assert after.regressed is None


async def test_a_loss_stays_until_a_restart_or_a_persons_word() -> None:
    """The newest server is back: who runs on still says so, who starts finds nothing lost."""
    with postgres() as server:
        async with replica(server.url) as store:
            await finished(store, 1, AttemptStatus.SUCCEEDED)
            server.stop()
            backup = server.copy_data("backup")
            server.start()
            await finished(store, 2, AttemptStatus.SUCCEEDED)
            server.stop()
            newest = server.copy_data("newest")
            for data in (backup, newest):
                server.put_back(data)
                server.start()
                await eventually(lambda: _beats(store), bool)
                assert "lost 1 of the payments" in str(store.regressed)
                server.stop()
            server.start()
            async with replica(server.url) as started:
                assert started.regressed is None


async def test_a_backup_from_before_an_accepted_loss_is_noticed(
    store: PostgresStore, url: str, side: Any
) -> None:
    """Even by who remembers no payment."""
    await server_module.accept_loss(url)
    await store.heartbeat()
    assert store.regressed is None
    await side.execute("UPDATE meta SET generation = 1")
    await store.heartbeat()
    assert "put back" in str(store.regressed)


@contextlib.asynccontextmanager
async def a_pair(*, synchronous: bool) -> AsyncIterator[tuple[Postgres, Postgres]]:
    """A primary and its standby, for which it waits or does not."""
    with folder_for_postgres() as folder, postgres() as primary:
        standby = primary.standby(folder, "second")
        standby.start()
        side = await asyncpg.connect(primary.url)
        if synchronous:
            await side.execute("ALTER SYSTEM SET synchronous_standby_names = 'second'")
            await side.execute("SELECT pg_reload_conf()")
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        await eventually(lambda: side.fetchval(streaming), bool)
        await side.close()
        try:
            yield primary, standby
        finally:
            standby.stop()


def url_of(*servers: Postgres) -> str:
    """All of them, as one store."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"postgresql://postgres@{hosts}/postgres"


async def test_a_synchronous_standby_has_all_that_was_acknowledged() -> None:
    """The primary is lost; the store goes on with the other host, and nothing is missing."""
    async with a_pair(synchronous=True) as pair, replica(url_of(*pair)) as store:
        primary, standby = pair
        intent = await in_flight(store)
        primary.kill()
        standby.promote()
        await eventually(lambda: _beats(store), bool)
        assert store.regressed is None
        assert await store.get(intent.id) == intent


async def test_what_a_standby_lacks_is_noticed() -> None:
    """It was behind when the primary was lost, and nobody had waited for it."""
    async with a_pair(synchronous=False) as pair, replica(url_of(*pair)) as store:
        primary, standby = pair
        standby.stop()
        intent = await in_flight(store)
        primary.kill()
        standby.start()
        standby.promote()
        await eventually(lambda: _beats(store), bool)
        assert "has lost 1 of the payments" in str(store.regressed)
        assert await store.get(intent.id) is None


async def _beats(store: PostgresStore) -> bool:
    with contextlib.suppress(StoreUnavailable):
        await store.heartbeat()
    return store.trouble is None


async def test_a_write_that_fails_when_nobody_waits_for_it_is_no_mystery(
    store: PostgresStore, side: Any
) -> None:
    """The loop has nothing to complain of: the request has gone, and nothing was written."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    first = await keep(store, opened(1))
    await side.execute("UPDATE sessions SET version = 7")
    waiting = asyncio.ensure_future(store.commit(sent(first, store.epoch), first.version, None))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await until(lambda: not store._writing)
    del waiting  # it complains as it goes
    gc.collect()
    assert complaints == []


# --- the schema -----------------------------------------------------------------------------------


@pytest.fixture
def next_version(tmp_path: Path) -> list[Path]:
    """The scripts of a Holdfast that has one more."""
    script = tmp_path / "postgres-0002.sql"
    script.write_text("ALTER TABLE sessions ADD COLUMN colour text NOT NULL DEFAULT 'none'")
    return [*server_module.MIGRATIONS, script]


async def test_replicas_of_two_versions_share_a_store(
    store: PostgresStore, url: str, next_version: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer one waits for the migration; the older one goes on, and may be started again."""
    intent = await in_flight(store)
    with monkeypatch.context() as newer:
        newer.setattr(server_module, "MIGRATIONS", next_version)
        assert "run `holdfast migrate --config FILE` first" in await refused(url)
        assert await server_module.migrate(url) == ["postgres-0002"]
        async with replica(url) as other:
            await finished(other, 2, AttemptStatus.SUCCEEDED)
    await store.commit(ended(intent, AttemptStatus.SUCCEEDED), intent.version, None)
    async with replica(url) as again:
        await finished(again, 3, AttemptStatus.SUCCEEDED)


async def test_an_older_one_stops_where_a_script_says_so(
    store: PostgresStore, url: str, side: Any
) -> None:
    """What it would write is not what the newer ones expect any more."""
    del store
    await side.execute("UPDATE meta SET schema = 9, compatible_from = 9")
    assert "was written by a newer Holdfast (schema 9, this one knows 1)" in await refused(url)


async def test_two_first_starts_at_once(url: str) -> None:
    """One makes the tables, the other waits for it."""
    async with contextlib.AsyncExitStack() as opened_ones:
        await asyncio.gather(
            *(opened_ones.enter_async_context(replica(url)) for _ in range(3)),
        )


async def test_a_script_that_fails_leaves_nothing_behind(
    url: str, next_version: list[Path], monkeypatch: pytest.MonkeyPatch, side: Any
) -> None:
    """All that is missing is run, or none of it."""
    next_version[1].write_text("ALTER TABLE nobody ADD COLUMN x int")
    monkeypatch.setattr(server_module, "MIGRATIONS", next_version)
    assert 'relation "nobody" does not exist' in await refused(url)
    assert await side.fetchval("SELECT to_regclass('meta')") is None


# --- rows -----------------------------------------------------------------------------------------


async def test_a_charge_that_comes_to_light_is_recorded_beside_the_order_s_holder(
    store: PostgresStore,
) -> None:
    """Two sessions of one order may turn out charged. Both are on record, both lock the order."""
    first = await keep(store, opened(1, order_ref="o", order_locks=True))
    intent = sent(first, store.epoch)
    await store.commit(intent, first.version, None)
    declined = ended(intent, AttemptStatus.DECLINED)
    await store.commit(declined, intent.version, None)
    second = await keep(store, opened(2, order_ref="o", order_locks=True))
    found = ev.EvidenceFound(9000, ev.EvidenceSource.PERSON, AttemptStatus.SUCCEEDED, "pi_late")
    charged = apply(declined, found)
    await store.commit(charged, declined.version, None)
    assert charged.outcome is Outcome.CHARGED
    assert await store.get(first.id) == charged
    cancelled = apply(second, ev.Cancelled(9500, "paid already"))
    await store.commit(cancelled, second.version, None)
    with pytest.raises(OrderTaken) as taken:
        await store.claim(opened(3, order_ref="o", order_locks=True), 0)
    assert taken.value.holder == charged


async def test_a_purge_goes_on_bit_by_bit(
    store: PostgresStore, side: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few rows to a transaction, each from where the last one ended; what is gone is not missed."""
    monkeypatch.setattr(postgres_store, "_PURGE_ROWS", 2)
    monkeypatch.setattr(postgres_store, "_PURGE_SECONDS", 3600.0)
    for number in range(1, 6):
        await finished(store, number, AttemptStatus.SUCCEEDED)
    asked: list[tuple[object, ...]] = []
    quickly = store._server.quickly

    async def noted(statement: str, *values: object) -> list[Any]:
        if statement is postgres_store._PURGE_SESSIONS:
            asked.append(values[1:])
        return await quickly(statement, *values)

    monkeypatch.setattr(store._server, "quickly", noted)
    future = SystemClock().now_ms() + 1000
    assert await store.purge(answers_before=0, sessions_before=future) == (0, 5)
    assert asked == [(2, 0), (2, 1002), (2, 1004)]
    assert await side.fetchval("SELECT count(*) FROM answers") == 0
    assert store._acked.recent() == []
