"""Webhooks over real sockets: a payment that nobody could have settled otherwise, who may bring
what, and each answer of the document.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.settings.load import load_policy
from proxy.web import webhooks
from tests.flow.test_webhooks import PROFILE
from tests.support.raw import RawConnection, RawServer, always, exchange, raw_server
from tests.support.stage import (
    POLICY,
    LeapingClock,
    PuppetGateway,
    Reply,
    Stage,
    running_on,
)
from tests.web.test_openapi import TOKENS, check, operations, resolved
from tests.web.test_sessions_api import is_problem

JsonObject = dict[str, Any]

SECRET = "whsec_of_the_silent_one"
SECRETS = {"LOOKUP_CREDENTIAL": "Bearer rk_test_lookup", "S": SECRET}
AGREED = "webhook: {{secret: {{env: S}}}}"
FORWARDED = "webhook: {{secret: {{env: S}}, forward_to: '{merchant}/hooks'}}"
SILENT = '{{profile: silent, listen: "127.0.0.1:0", upstream: "{upstream}"'
WEAK = "  weak: {{profile: generic,"
CONFIRMED = PROFILE + '  answer: "[accepted]"\n'


@contextlib.asynccontextmanager
async def standing(
    folder: Path,
    agreed: str = AGREED,
    *,
    environ: dict[str, str] | None = None,
    merchant: str = "http://127.0.0.1:1",
) -> AsyncIterator[Stage]:
    """A Holdfast before a gateway that promises nothing but signs what it says."""
    (folder / "gateways").mkdir()
    (folder / "gateways/silent.yaml").write_text(CONFIRMED, encoding="utf-8")
    puppet: list[PuppetGateway] = []

    async def play(connection: RawConnection) -> None:
        await puppet[0].play(connection)

    server: RawServer
    async with raw_server(play) as server, aiohttp.ClientSession() as http:
        text = POLICY.replace(WEAK, f"  silent: {SILENT}, {agreed}}}}}\n{WEAK}")
        text = text.format(upstream=server.origin, merchant=merchant)
        clock = LeapingClock()
        async with running_on(clock, folder, text, {**SECRETS, **(environ or {})}) as running:
            stage = Stage(running, http, clock)
            puppet.append(stage.gateway)
            yield stage
        await stage.finish()


async def lose(stage: Stage, order: str = "o-1") -> str:
    """A payment whose answer is lost; its session."""
    stage.gateway.will(order, None)
    port = stage.running.doors.gateways["silent"].port
    reply = await stage.request(
        "POST", f"http://127.0.0.1:{port}/pay", data={"order_id": order, "amount": "1999"}
    )
    is_problem(reply, 504, "outcome-unknown")
    return reply.header("X-Payment-Session-Id")


def paid(stage: Stage, order: str = "o-1") -> bytes:
    """What the gateway says of it."""
    at = stage.clock.now_ms()
    told = {"type": "paid", "id": "p_1", "order": order, "amount": 1999, "at": at}
    return json.dumps({"events": [told], "card": "4242424242424242"}).encode()


def signature(stage: Stage, body: bytes, secret: str = SECRET) -> dict[str, str]:
    """As the gateway signs."""
    seconds = stage.clock.now_ms() // 1000
    made = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Signature": f"t={seconds},v1={made}", "Content-Type": "application/json"}


async def bring(
    stage: Stage, body: bytes, secret: str = SECRET, gateway: str = "silent", **more: str
) -> Reply:
    """Deliver it."""
    url = stage.running.api.replace("/api/payments", f"/webhooks/{gateway}")
    headers = {**signature(stage, body, secret), **more}
    return await stage.request("POST", url, data=io.BytesIO(body), headers=headers)


async def counted(stage: Stage) -> dict[str, int]:
    """The webhooks of the gateway, by verdict."""
    reply = await stage.request("GET", f"{stage.running.admin}/metrics")
    lines = reply.body.decode().splitlines()
    start = 'holdfast_webhooks_total{gateway="silent",verdict="'
    found = (line.removeprefix(start) for line in lines if line.startswith(start))
    return {line.partition('"')[0]: int(float(line.rpartition(" ")[2])) for line in found}


# --- a payment that only the gateway's own word can settle ----------------------------------------


async def test_a_signed_webhook_settles_what_was_lost(tmp_path: Path) -> None:
    """Unknown at a gateway that cannot be asked; then it says so by itself, twice."""
    async with standing(tmp_path) as stage:
        session_id = await lose(stage)
        assert (await stage.session(session_id))["outcome"] == "unknown"
        for _ in range(2):
            reply = await bring(stage, paid(stage))
            assert (reply.status, reply.body) == (200, b"[accepted]")
        shown = await stage.session(session_id)
        assert (shown["status"], shown["outcome"]) == ("COMPLETED", "charged")
        summary = await stage.summary(session_id)
        notes = [step["note"] for step in summary["timeline"] if step["note"] is not None]
        assert notes == ["webhook: p_1"]
        assert await counted(stage) == {"settled": 1, "known": 1}
        assert stage.gateway.arrivals["o-1"] == 1
        log = stage.running.log.getvalue().decode()
        assert "4242424242424242" not in log
        assert SECRET not in log


@pytest.mark.parametrize("secret", ["another", ""])
async def test_a_forged_one_leaves_it_unknown(tmp_path: Path, secret: str) -> None:
    """The control: without the gateway's signature the same words are nobody's."""
    async with standing(tmp_path) as stage:
        session_id = await lose(stage)
        document = is_problem(await bring(stage, paid(stage), secret), 401, "webhook-refused")
        assert "not the gateway's" in document["detail"]
        unsigned = await bring(stage, paid(stage), **{"X-Signature": "none"})
        is_problem(unsigned, 401, "webhook-refused")
        shown = await stage.session(session_id)
        assert (shown["status"], shown["outcome"]) == ("INTERRUPTED", "unknown")
        assert await counted(stage) == {"refused": 2}


async def test_one_that_is_played_again_later_is_refused(tmp_path: Path) -> None:
    """Its signature has a time."""
    async with standing(tmp_path) as stage:
        body = paid(stage)
        headers = signature(stage, body)
        stage.clock.leap(301)
        session_id = await lose(stage)
        document = is_problem(await bring(stage, body, **headers), 401)
        assert "too long ago" in document["detail"]
        assert (await stage.session(session_id))["outcome"] == "unknown"


# --- who may bring what --------------------------------------------------------------------------


async def test_no_token_is_needed_here_and_only_here(tmp_path: Path) -> None:
    """A gateway has none; beside it every call still asks for one."""
    async with standing(tmp_path, environ=TOKENS) as stage:
        assert (await bring(stage, paid(stage))).status == 200
        is_problem(await stage.call("GET", "/sessions/active"), 401, "token-required")
        is_problem(await stage.call("GET", "/session/ps_1"), 401, "token-required")
        api = stage.running.api.removesuffix("/api/payments")
        for path in ("/webhooks", "/webhooks/", "/webhooks/silent/sessions", "/webhooks/.."):
            reply = await stage.request("POST", f"{api}{path}", data=b"{}")
            assert reply.status == 404, path


async def test_without_a_secret_all_is_refused_and_the_log_says_why(tmp_path: Path) -> None:
    """Once, however many come."""
    async with standing(tmp_path, "webhook: {{}}") as stage:
        for _ in range(3):
            is_problem(await bring(stage, paid(stage)), 401, "webhook-refused")
        log = stage.running.log.getvalue().decode().splitlines()
    (line,) = [line for line in map(json.loads, log) if line["event"] == "webhooks refused"]
    assert (line["level"], line["gateway"]) == ("error", "silent")
    assert line["why"] == "no secret is configured to check its signature with"


async def test_a_secret_is_changed_while_it_runs(tmp_path: Path) -> None:
    """With the next reload, whatever is on its way."""
    secret = tmp_path / "secret"
    secret.write_text("first", encoding="utf-8")
    async with standing(tmp_path, "webhook: {{secret: {{file: secret}}}}") as stage:
        for now, before in (("first", "second"), ("second", "first")):
            secret.write_text(now, encoding="utf-8")
            stage.running.holdfast._use(load_policy(tmp_path / "policy.yaml", SECRETS))
            assert (await bring(stage, paid(stage), now)).status == 200
            assert (await bring(stage, paid(stage), before)).status == 401


# --- on to the merchant --------------------------------------------------------------------------


async def test_the_merchant_gets_what_the_gateway_sent(tmp_path: Path) -> None:
    """Byte for byte, signature included: he may check it himself."""
    async with raw_server(always()) as shop:
        async with standing(tmp_path, FORWARDED, merchant=shop.origin) as stage:
            body = paid(stage)
            reply = await bring(stage, body, **{"X-Event-Id": "evt_1"})
            assert (reply.status, reply.body) == (200, b"[accepted]")
            signed = signature(stage, body)["X-Signature"].partition(",")[2]
        (connection,) = shop.connections
    head, _, forwarded = bytes(connection.received).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hooks HTTP/1.1\r\n")
    assert forwarded == body
    assert b"X-Event-Id: evt_1" in head
    assert signed.encode() in head
    assert f"Host: {shop.origin.removeprefix('http://')}".encode() in head


async def test_a_merchant_who_is_away_has_the_gateway_send_it_again(tmp_path: Path) -> None:
    """It is told that it was not taken; what it proves stands all the same."""
    async with standing(tmp_path, FORWARDED) as stage:
        session_id = await lose(stage)
        leaping = asyncio.ensure_future(bring(stage, paid(stage)))
        await stage.reaches(session_id, "COMPLETED", "charged")
        while not leaping.done():
            stage.clock.leap(1)
            await asyncio.sleep(0.01)
        document = is_problem(await leaping, 502, "webhook-not-forwarded")
        assert document["detail"].endswith("connection_refused")
        assert (await counted(stage))["not_forwarded"] == 1


async def test_who_stops_in_the_middle_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can connect could hold every connection."""
    monkeypatch.setattr(webhooks, "_BODY_SECONDS", 0.01)
    async with standing(tmp_path) as stage:
        head = b"POST /webhooks/silent HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
        answer = await exchange(stage.running.doors.sessions.port, head)
    assert answer.startswith(b"HTTP/1.1 408 ")


# --- each answer of the document -----------------------------------------------------------------

BIG = 1024 * 1024


@pytest.mark.parametrize("status", ["200", "400", "401", "404", "413", "503"])
async def test_every_answer_described_is_really_given(tmp_path: Path, status: str) -> None:
    """But for 408 and 502, which are above: status, media type and fields."""
    async with standing(tmp_path) as stage:
        body = paid(stage) + b" " * (BIG if status == "413" else BIG // 2)
        body = b"{" if status == "400" else body
        gateway = "plain" if status == "404" else "silent"
        if status == "503":
            await lose(stage)
            await stage.fill_store()
        reply = await bring(stage, body, "x" if status == "401" else SECRET, gateway)
    assert reply.status == int(status), reply.body
    (described,) = (d for _, path, d in operations() if path == "/webhooks/{gateway}")
    ((media, content),) = resolved(described["responses"][status])["content"].items()
    assert reply.header("Content-Type").partition(";")[0] == media
    shown = reply.body.decode() if media == "text/plain" else reply.json
    check(shown, resolved(content["schema"]), status)
