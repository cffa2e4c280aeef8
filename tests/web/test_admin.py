"""Health, readiness and metrics over real sockets, and what each of them depends on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.raw import RawConnection, raw_server
from tests.support.running import HoldfastProcess, policy, running
from tests.support.stage import (
    STATES,
    SUCCEEDED,
    Reply,
    Stage,
    eventually,
    fetch,
    staged,
)

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A Holdfast before the puppet gateway."""
    async with staged(tmp_path) as built:
        yield built


async def admin(stage: Stage, path: str, **more: object) -> Reply:
    """A request to the admin listener."""
    return await stage.request("GET", stage.running.admin + path, **more)


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
async def test_a_healthy_holdfast(stage: Stage, path: str) -> None:
    """All is well: 200 and one word."""
    reply = await admin(stage, path)
    assert (reply.status, reply.body) == (200, b"ok\n")


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/health", "GET", 404), ("/healthz", "POST", 405)]
)
async def test_nothing_else(stage: Stage, path: str, method: str, status: int) -> None:
    """Other paths and methods are told so."""
    reply = await stage.request(method, stage.running.admin + path)
    assert reply.status == status


# --- metrics -------------------------------------------------------------------------------------


async def test_metrics_as_text(stage: Stage) -> None:
    """Without a wish Prometheus' text format, and it parses."""
    await STATES["completed"](stage, "o-1")
    reply = await admin(stage, "/metrics")
    assert (reply.status, reply.header("Content-Type").split(";")[0]) == (200, "text/plain")
    families = {family.name: family for family in parse_text(reply.body.decode())}
    samples = {
        (s.labels["gateway"], s.labels["state"], s.labels["outcome"]): s.value
        for s in families["holdfast_sessions"].samples
        if s.name == "holdfast_sessions_total" and s.value
    }
    assert samples == {("plain", "COMPLETED", "charged"): 1.0}


async def test_metrics_as_openmetrics(stage: Stage) -> None:
    """Who asks for OpenMetrics gets it, with the exemplar that leads to the session."""
    session_id = await STATES["failed"](stage, "o-1")
    reply = await admin(stage, "/metrics", headers={"Accept": OPENMETRICS})
    assert reply.header("Content-Type").startswith("application/openmetrics-text")
    text = reply.body.decode()
    assert text.endswith("# EOF\n")
    families = {
        family.name: family
        for family in parse_openmetrics(text)  # type: ignore[no-untyped-call]
    }
    exemplars = {
        sample.exemplar.labels["session_id"]
        for sample in families["holdfast_session_seconds"].samples
        if sample.exemplar is not None
    }
    assert exemplars == {session_id}


@pytest.mark.parametrize("accept", ["*/*", "text/html", "application/json", "x" * 1000, ";;;,"])
async def test_other_wishes_get_text(stage: Stage, accept: str) -> None:
    """Whatever a browser asks for, it gets text."""
    reply = await admin(stage, "/metrics", headers={"Accept": accept})
    assert (reply.status, reply.header("Content-Type").split(";")[0]) == (200, "text/plain")


async def test_active_sessions_are_counted_as_they_are(stage: Stage) -> None:
    """In flight, unknown and created sessions show by gateway and state, and go when they end."""
    stage.gateway.hold("o-1")
    payment = stage.start(stage.pay("o-1"))
    await stage.arrival("o-1")
    await STATES["interrupted, unknown for good"](stage, "o-2")

    async def active() -> dict[tuple[str, str], float]:
        text = (await admin(stage, "/metrics")).body.decode()
        return {
            (sample.labels["gateway"], sample.labels["state"]): sample.value
            for family in parse_text(text)
            for sample in family.samples
            if family.name == "holdfast_sessions_active" and sample.value
        }

    assert await active() == {("plain", "INITIATED"): 1.0, ("weak", "INTERRUPTED"): 1.0}
    stage.gateway.release("o-1", SUCCEEDED)
    await payment
    assert await active() == {("weak", "INTERRUPTED"): 1.0}


# --- readiness and health ------------------------------------------------------------------------


async def test_a_failing_gateway_leaves_it_ready(tmp_path: Path) -> None:
    """Nobody listens at the gateway, the breaker opens: payments fail, readiness does not."""
    breaker = "defaults: {breaker: {min_calls: 2}, retry: {max_attempts: 1}}\n"
    async with raw_server(_hang_up) as gone:
        origin = gone.origin
    async with (
        running(tmp_path, policy(origin, breaker)) as holdfast,
        aiohttp.ClientSession() as http,
    ):
        url = f"{holdfast.url}/v1/payment_intents"
        statuses = [(await fetch(http, "POST", url, data=b"amount=1")).status for _ in range(4)]
        assert statuses == [502, 502, 503, 503]
        metrics = (await fetch(http, "GET", f"{holdfast.admin}/metrics")).body.decode()
        assert '\nholdfast_breaker_state{gateway="gateway"} 2.0\n' in metrics
        for path in ("/healthz", "/livez", "/readyz"):
            assert (await fetch(http, "GET", holdfast.admin + path)).status == 200


async def _hang_up(connection: RawConnection) -> None:
    connection.close()


async def test_not_ready_while_it_drains(tmp_path: Path) -> None:
    """From the first moment of stopping it is not ready but healthy; what is in flight finishes."""
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold(connection: RawConnection) -> None:
        await connection.request()
        arrived.set()
        await release.wait()
        await connection.send(SUCCEEDED)

    async with (
        raw_server(hold) as upstream,
        aiohttp.ClientSession() as http,
        running(tmp_path, policy(upstream.origin)) as holdfast,
    ):
        url = f"{holdfast.url}/v1/payment_intents"
        payment = asyncio.ensure_future(fetch(http, "POST", url, data=b"amount=1"))
        await arrived.wait()
        stopping = asyncio.ensure_future(holdfast.holdfast.stop())

        async def ready() -> Reply:
            return await fetch(http, "GET", f"{holdfast.admin}/readyz")

        reply = await eventually(ready, lambda now: now.status != 200)
        assert (reply.status, reply.body) == (503, b"stopping\n")
        assert (await fetch(http, "GET", f"{holdfast.admin}/healthz")).status == 200
        assert (await fetch(http, "GET", f"{holdfast.admin}/livez")).status == 200
        metrics = (await fetch(http, "GET", f"{holdfast.admin}/metrics")).body
        assert b"\nholdfast_ready 0.0\n" in metrics
        refused = await fetch(http, "POST", url, data=b"amount=2")
        assert refused.json["type"] == "/problems/shutting-down"
        # Those who follow their session still can.
        assert (await fetch(http, "GET", f"{holdfast.api}/sessions/active")).json["total"] == 1
        release.set()
        assert (await payment).status == 200
        await stopping


async def test_a_full_disk_is_not_ready_until_there_is_room(stage: Stage) -> None:
    """The store takes no writes: not ready, nothing sent, but healthy; with room it goes on."""
    before = await STATES["interrupted"](stage, "o-1")
    await stage.fill_store()
    reply = await admin(stage, "/readyz")
    assert (reply.status, reply.body) == (503, b"the session store takes no writes\n")
    for path in ("/healthz", "/livez"):
        assert (await admin(stage, path)).status == 200
    refused = await stage.pay("o-2")
    assert (refused.status, refused.json["type"]) == (503, "/problems/store-unavailable")
    assert stage.gateway.arrivals["o-2"] == 0
    # What is stored can still be read, and metrics scraped.
    assert (await stage.session(before))["status"] == "INTERRUPTED"
    assert (await admin(stage, "/metrics")).status == 200

    await stage.make_room()
    stage.clock.leap(1)

    async def ready() -> int:
        return (await admin(stage, "/readyz")).status

    await eventually(ready, lambda status: status == 200)
    assert (await stage.pay("o-2")).status == 200


# The limit bites in the middle of the store's write-ahead log: a failed write, as of a dying disk.
_LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
runpy.run_module("proxy", run_name="__main__", alter_sys=True)
"""


async def test_a_broken_disk_needs_a_restart(tmp_path: Path) -> None:
    """A write fails: neither ready nor healthy until a restart; what was acknowledged is there."""
    async with raw_server(_pays) as upstream, aiohttp.ClientSession() as http:
        process = HoldfastProcess(tmp_path, upstream.origin)
        await process.start(sys.executable, "-c", _LIMITED)
        created: list[str] = []
        failed: Reply | None = None
        for number in range(2000):
            order = {"orderId": f"o-{number}-{'x' * 180}"}
            reply = await fetch(http, "POST", f"{process.api}/session/create", json=order)
            if reply.status != 201:
                failed = reply
                break
            created.append(reply.json["sessionId"])
        assert failed is not None, "the file may be as large as it likes"
        assert failed.json["type"] == "/problems/store-unavailable"
        for path in ("/healthz", "/livez", "/readyz"):
            reply = await fetch(http, "GET", process.admin + path)
            assert reply.status == 503
            assert b"restart needed" in reply.body
        refused = await fetch(http, "POST", f"{process.url}/v1/payment_intents", data=b"amount=1")
        assert refused.status == 503
        assert upstream.requests == 0
        await process.kill()
        await process.start()
        page = (await fetch(http, "GET", f"{process.api}/sessions?limit=1")).json
        assert page["total"] == len(created)
        assert (await fetch(http, "GET", f"{process.admin}/healthz")).status == 200
        await process.stop()


async def _pays(connection: RawConnection) -> None:
    while True:
        await connection.request()
        await connection.send(SUCCEEDED)


async def test_metrics_need_a_token_where_there_are_tokens(tmp_path: Path) -> None:
    """Any role may scrape; probes need no token; a client token is for one session only."""
    tokens = {"HOLDFAST_VIEWER_TOKEN": "v" * 20, "HOLDFAST_OPERATOR_TOKEN": "o" * 20}
    async with staged(tmp_path, environ=tokens) as stage:
        for path in ("/healthz", "/livez", "/readyz"):
            assert (await admin(stage, path)).status == 200
        naked = await admin(stage, "/metrics")
        assert (naked.status, naked.header("WWW-Authenticate")) == (401, "Bearer")
        assert b"holdfast_" not in naked.body
        operator = {"Authorization": f"Bearer {'o' * 20}"}
        created = await stage.call("POST", "/session/create", {"orderId": "o-1"}, headers=operator)
        for token, status in (
            ("v" * 20, 200),
            ("o" * 20, 200),
            ("x" * 20, 401),
            (created.json["clientToken"], 401),
        ):
            headers = {"Authorization": f"Bearer {token}"}
            assert (await admin(stage, "/metrics", headers=headers)).status == status
