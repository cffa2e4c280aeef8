"""Who may call what, over real sockets: with and without tokens, on the session API and on gateway
listeners that other machines can reach.
"""

from __future__ import annotations

import contextlib
import hmac
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from proxy.web import auth, forward
from tests.support.raw import RawServer, always, exchange, raw_server
from tests.support.running import Running, running
from tests.support.stage import SUCCEEDED, Reply, Stage, fetch, staged

VIEWER, BACKEND, OPERATOR = "viewer-s-token-1", "backend-s-token-2", "operator-token-3"
TOKENS = {
    "HOLDFAST_VIEWER_TOKEN": VIEWER,
    "HOLDFAST_BACKEND_TOKEN": BACKEND,
    "HOLDFAST_OPERATOR_TOKEN": OPERATOR,
}
REASON = {"reason": "because"}
EVIDENCE = {"paymentDetails": {"reference": "pi_1"}}
# Every call: (name, method, path, body).
CALLS: list[tuple[str, str, str, dict[str, Any] | None]] = [
    ("create", "POST", "/session/create", {"orderId": "o-9"}),
    ("get", "GET", "/session/{id}", None),
    ("summary", "GET", "/session/{id}/summary", None),
    ("interrupt", "POST", "/session/{id}/interrupt", REASON),
    ("resume", "POST", "/session/{id}/resume", None),
    ("cancel", "POST", "/session/{id}/cancel", REASON),
    ("complete", "POST", "/session/{id}/complete", EVIDENCE),
    ("not-charged", "POST", "/session/{id}/not-charged", {"reference": "not there"}),
    ("active", "GET", "/sessions/active", None),
    ("search", "GET", "/sessions", None),
]
ALL = {name for name, *_ in CALLS}
READS = {"get", "summary", "active", "search"}
OWN = {"get", "summary", "interrupt", "resume", "cancel"}


NOT_FROM_HERE: dict[str, dict[str, str]] = {
    "another site's page": {"Origin": "https://evil.example"},
    "a page of another port": {"Origin": "http://127.0.0.1:9"},
    "a page without an origin": {"Origin": "null"},
    "a name that leads here": {"Host": "evil.example"},
    "a name with a port": {"Host": "evil.example:8081"},
}


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A Holdfast that asks for tokens."""
    async with staged(tmp_path, environ=TOKENS) as built:
        yield built


def bearer(token: str) -> dict[str, str]:
    """The header with a token."""
    return {"Authorization": f"Bearer {token}"}


async def created(stage: Stage, order: str) -> dict[str, Any]:
    """A session made by the backend."""
    body = {"orderId": order}
    reply = await stage.call("POST", "/session/create", body, headers=bearer(BACKEND))
    assert reply.status == 201, reply.body
    document: dict[str, Any] = reply.json
    return document


async def every_call(stage: Stage, session_id: str, headers: dict[str, str]) -> dict[str, Reply]:
    """The answers to every call about one session."""
    replies = {}
    for name, method, path, body in CALLS:
        asked = path.replace("{id}", session_id)
        replies[name] = await stage.call(method, asked, body, headers=headers)
    return replies


def statuses(replies: dict[str, Reply], *of: int) -> set[str]:
    """The calls that were answered with one of these."""
    return {name for name, reply in replies.items() if reply.status in of}


def done(replies: dict[str, Reply]) -> set[str]:
    """The calls that were let in, whatever the session's state had to say about them."""
    return statuses(replies, 200, 201, 202, 409)


@pytest.mark.parametrize("headers", NOT_FROM_HERE.values(), ids=NOT_FROM_HERE)
async def test_without_tokens_web_pages_may_do_nothing(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    """A browser on this machine sends what any page tells it to: that is not the backend."""
    async with staged(tmp_path) as stage:
        body = {"orderId": "o-1"}
        said = await stage.call("POST", "/session/create", body, headers=headers)
        assert said.status == 401
        assert (await stage.call("GET", "/sessions")).json["total"] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8081", "[::1]:8081", "LOCALHOST"])
async def test_without_tokens_this_machine_has_several_names(tmp_path: Path, host: str) -> None:
    """However loopback is called; and a page of Holdfast's own listener is not another site's."""
    async with staged(tmp_path) as stage:
        headers = {"Host": host, "Origin": f"http://{host}"}
        assert (await stage.call("GET", "/sessions", headers=headers)).status == 200


async def test_without_tokens_everyone_on_the_machine_may_do_everything(tmp_path: Path) -> None:
    """On loopback and without tokens nobody is asked, whatever they claim to be."""
    async with staged(tmp_path) as stage:
        session_id = (await stage.create("o-1"))["sessionId"]
        for headers in ({}, bearer("anything"), {"Authorization": "Basic eDp5"}):
            assert done(await every_call(stage, session_id, headers)) == ALL


@pytest.mark.parametrize(
    ("token", "allowed"),
    [
        pytest.param(OPERATOR, ALL, id="operator"),
        pytest.param(BACKEND, ALL, id="backend"),
        pytest.param(VIEWER, READS, id="viewer"),
    ],
)
async def test_roles(stage: Stage, token: str, allowed: set[str]) -> None:
    """What a role may not do is 403 with its name, and changes nothing."""
    session = await created(stage, "o-1")
    replies = await every_call(stage, session["sessionId"], bearer(token))
    assert done(replies) == allowed
    assert statuses(replies, 403) == ALL - allowed
    for name in ALL - allowed:
        problem = replies[name].json
        assert (problem["type"], problem["status"]) == ("/problems/not-allowed", 403)
        assert problem["title"] == "A viewer may not do this"
    if token == VIEWER:
        assert replies["search"].json["total"] == 1
        assert replies["search"].json["sessions"][0]["status"] == "INITIATED"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"Authorization": ""}, id="empty"),
        pytest.param({"Authorization": "Bearer"}, id="no token"),
        pytest.param({"Authorization": "Bearer "}, id="an empty token"),
        pytest.param(bearer("wrong"), id="wrong"),
        pytest.param(bearer(BACKEND[:-1]), id="cut off"),
        pytest.param(bearer(BACKEND + "x"), id="more than it"),
        pytest.param(bearer(BACKEND.upper()), id="another case"),
        pytest.param({"Authorization": f"Basic {BACKEND}"}, id="another scheme"),
        pytest.param({"Authorization": BACKEND}, id="no scheme"),
        pytest.param({"X-Holdfast-Token": BACKEND}, id="the gateway's header"),
        pytest.param(bearer("x" * 8000), id="huge"),
        pytest.param(bearer("tökén-of-a-viewer"), id="not ASCII"),
    ],
)
async def test_without_a_good_token_there_is_nothing(stage: Stage, headers: dict[str, str]) -> None:
    """401 with a challenge for every call, and not a word about what exists."""
    session = await created(stage, "o-1")
    known = await every_call(stage, session["sessionId"], headers)
    unknown = await every_call(stage, "ps_none", headers)
    for replies in (known, unknown):
        assert statuses(replies, 401) == ALL
        for reply in replies.values():
            assert reply.header("Content-Type") == "application/problem+json"
            assert reply.header("WWW-Authenticate") == "Bearer"
            assert reply.json == {
                "type": "/problems/token-required",
                "title": "A token is required",
                "status": 401,
            }
    shown = await stage.call("GET", f"/session/{session['sessionId']}", headers=bearer(VIEWER))
    assert shown.json["status"] == "INITIATED"


async def test_the_scheme_is_written_as_one_likes(stage: Stage) -> None:
    """Schemes compare without case (RFC 9110 section 11.1)."""
    for scheme in ("bearer", "BEARER", "Bearer"):
        headers = {"Authorization": f"{scheme} {VIEWER}"}
        assert (await stage.call("GET", "/sessions", headers=headers)).status == 200


async def test_a_client_token_is_for_its_own_session(stage: Stage) -> None:
    """It reads, holds, resumes and cancels its session, and is nobody anywhere else."""
    mine, other = await created(stage, "o-1"), await created(stage, "o-2")
    assert mine["clientToken"] != other["clientToken"]
    headers = bearer(mine["clientToken"])

    elsewhere = await every_call(stage, other["sessionId"], headers)
    assert statuses(elsewhere, 401) == ALL
    nowhere = await every_call(stage, "ps_none", headers)
    assert statuses(nowhere, 401) == ALL

    here = await every_call(stage, mine["sessionId"], headers)
    assert done(here) == OWN
    assert statuses(here, 403) == {"complete", "not-charged"}
    assert here["complete"].json["title"] == "A client may not do this"
    assert statuses(here, 401) == {"create", "active", "search"}
    assert here["get"].json["sessionId"] == mine["sessionId"]
    assert here["cancel"].json["status"] == "CANCELLED"
    untouched = await stage.call("GET", f"/session/{other['sessionId']}", headers=bearer(VIEWER))
    assert untouched.json["status"] == "INITIATED"


async def test_a_client_token_of_another_installation_is_worth_nothing(tmp_path: Path) -> None:
    """Tokens are made with the installation's key."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with (
        staged(tmp_path / "one", environ=TOKENS) as one,
        staged(tmp_path / "two", environ=TOKENS) as two,
    ):
        session = await created(two, "o-1")
        # The same id in the other installation, were it to exist, has another token.
        secrets = one.running.holdfast._pipeline._secrets
        foreign = secrets.client_token(session["sessionId"])
        path = f"/session/{session['sessionId']}"
        assert (await two.call("GET", path, headers=bearer(foreign))).status == 401
        assert (await two.call("GET", path, headers=bearer(session["clientToken"]))).status == 200


async def test_an_operator_reads_with_head_too(stage: Stage) -> None:
    """HEAD is a read: a viewer may."""
    session = await created(stage, "o-1")
    url = f"{stage.running.api}/session/{session['sessionId']}"
    for token in (VIEWER, session["clientToken"]):
        assert (await stage.request("HEAD", url, headers=bearer(token))).status == 200
    assert (await stage.request("HEAD", url)).status == 401


@pytest.mark.parametrize(
    "token",
    [
        b"\xff\xfe",
        "tökén-of-a-viewer".encode(),
        "tökén-of-a-viewer".encode("latin-1"),
        b"\xed\xa0\x80",
        b"a\tb",
        b"x" * 8000,
    ],
)
@pytest.mark.parametrize("door", ["sessions", "admin", "gateway"])
async def test_no_bytes_crash_it(tmp_path: Path, door: str, token: bytes) -> None:
    """Whatever bytes come as a token, the answer is 401 and the server lives."""
    async with guarded(tmp_path) as (holdfast, upstream):
        if door == "gateway":
            port, path, name = holdfast.port, b"/v1/charges", b"X-Holdfast-Token: "
        elif door == "admin":
            port, path, name = holdfast.doors.admin.port, b"/metrics", b"Authorization: Bearer "
        else:
            port, path = holdfast.doors.sessions.port, b"/api/payments/sessions"
            name = b"Authorization: Bearer "
        head = b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n" + name + token + b"\r\n\r\n"
        answer = await exchange(port, head)
        status = int(answer.split(b" ", 2)[1])
        # A header of a gateway request must be forwardable too: bytes that are not are refused so.
        assert status == 401 or (door == "gateway" and status == 400), answer
        assert upstream.requests == 0


async def test_a_token_that_is_not_ascii_works(tmp_path: Path) -> None:
    """Tokens are compared as the bytes they are."""
    environ = {**TOKENS, "HOLDFAST_VIEWER_TOKEN": "tökén-of-a-viewer"}
    async with staged(tmp_path, environ=environ) as stage:
        port = stage.running.doors.sessions.port
        head = b"GET /api/payments/sessions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer "
        assert (await exchange(port, head + "tökén-of-a-viewer".encode() + b"\r\n\r\n")).startswith(
            b"HTTP/1.1 200 "
        )
        assert (await exchange(port, head + "tökéñ-of-a-viewer".encode() + b"\r\n\r\n")).startswith(
            b"HTTP/1.1 401 "
        )


# --- in constant time ----------------------------------------------------------------------------


@pytest.mark.parametrize("room", [auth, forward], ids=["session API", "gateway listeners"])
async def test_every_token_goes_through_compare_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: Any
) -> None:
    """No token is compared in a way whose time tells how much of it was right."""
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(given: bytes, wanted: bytes) -> bool:
        compared.append(wanted)
        return real(given, wanted)

    monkeypatch.setattr(room.hmac, "compare_digest", compare)
    async with guarded(tmp_path) as (holdfast, _), aiohttp.ClientSession() as http:
        if room is auth:
            for token in ("wrong", OPERATOR):
                url = f"{holdfast.api}/session/ps_none"
                await fetch(http, "GET", url, headers=bearer(token))
            wanted = [OPERATOR, BACKEND, VIEWER]
            client = holdfast.holdfast._pipeline._secrets.client_token("ps_none")
            assert compared == [t.encode() for t in (*wanted, client, OPERATOR)]
        else:
            await fetch(http, "GET", f"{holdfast.url}/v1/x", headers={"X-Holdfast-Token": "wrong"})
            assert compared == [BACKEND.encode()]
    assert not re.search(r"(given|token)\s*==|==\s*(given|token|wanted)", inspect.getsource(room))


# --- gateway listeners that other machines can reach ----------------------------------------------


@contextlib.asynccontextmanager
async def guarded(folder: Path) -> AsyncIterator[tuple[Running, RawServer]]:
    """A Holdfast whose first gateway listener is bound to every address, and the gateway."""
    async with raw_server(always(SUCCEEDED)) as upstream:
        text = (
            'listen: {sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}\n'
            "store: sqlite:///holdfast.db\n"
            "gateways:\n"
            f'  open: {{profile: generic, listen: "0.0.0.0:0", upstream: "{upstream.origin}"}}\n'
            f'  local: {{profile: generic, listen: "127.0.0.1:0", upstream: "{upstream.origin}"}}\n'
        )
        async with running(folder, text, TOKENS) as holdfast:
            yield holdfast, upstream


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"X-Holdfast-Token": ""}, id="empty"),
        pytest.param({"X-Holdfast-Token": "wrong"}, id="wrong"),
        pytest.param({"X-Holdfast-Token": VIEWER}, id="a viewer's"),
        pytest.param({"X-Holdfast-Token": OPERATOR}, id="an operator's"),
        pytest.param({"Authorization": f"Bearer {BACKEND}"}, id="in the gateway's own header"),
        pytest.param({"Connection": "X-Holdfast-Token", "X-Holdfast-Token": "x"}, id="hop by hop"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_exposed_gateway_listener_asks_for_the_token(
    tmp_path: Path, headers: dict[str, str], method: str
) -> None:
    """Without the backend's token nothing is sent and no session is opened."""
    async with guarded(tmp_path) as (holdfast, upstream), aiohttp.ClientSession() as http:
        reply = await fetch(http, method, f"{holdfast.url}/v1/charges", headers=headers)
        assert (reply.status, reply.json["type"]) == (401, "/problems/token-required")
        assert reply.header("WWW-Authenticate") == "X-Holdfast-Token"
        assert (reply.json["anythingSent"], upstream.requests) == (False, 0)
        page = await fetch(http, "GET", f"{holdfast.api}/sessions", headers=bearer(VIEWER))
        assert page.json["total"] == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_token_is_not_passed_on(tmp_path: Path, method: str) -> None:
    """With the token the request goes through, and the gateway never sees the token."""
    async with guarded(tmp_path) as (holdfast, upstream), aiohttp.ClientSession() as http:
        headers = {"X-Holdfast-Token": BACKEND, "Authorization": "Bearer sk_live", "X-Mine": "1"}
        for gateway in ("open", "local"):
            port = holdfast.doors.gateways[gateway].port
            url = f"http://127.0.0.1:{port}/v1/charges"
            assert (await fetch(http, method, url, headers=headers)).status == 200
        received = b"".join(bytes(connection.received) for connection in upstream.connections)
        assert received.count(b"X-Mine: 1") == 2
        assert received.count(b"Bearer sk_live") == 2
        assert BACKEND.encode() not in received
        assert b"x-holdfast-token" not in received.lower()


async def test_a_listener_on_loopback_asks_nobody(tmp_path: Path) -> None:
    """Beside an exposed listener, one on loopback stays as it is."""
    async with guarded(tmp_path) as (holdfast, upstream), aiohttp.ClientSession() as http:
        port = holdfast.doors.gateways["local"].port
        assert (await fetch(http, "POST", f"http://127.0.0.1:{port}/v1/x")).status == 200
        assert upstream.requests == 1


async def test_the_backends_token_is_in_no_answer_and_no_log(tmp_path: Path) -> None:
    """Neither problems nor log lines repeat a token."""
    async with guarded(tmp_path) as (holdfast, _), aiohttp.ClientSession() as http:
        texts = []
        for token in (BACKEND, "guess-4711"):
            headers = {"X-Holdfast-Token": token}
            reply = await fetch(http, "POST", f"{holdfast.url}/v1/charges", headers=headers)
            texts.append(reply.body + str(reply.headers).encode())
            reply = await fetch(http, "GET", f"{holdfast.api}/sessions", headers=bearer(token))
            texts.append(reply.body + str(reply.headers).encode())
    texts.append(holdfast.log.getvalue())
    for text in texts:
        assert BACKEND.encode() not in text
        assert b"guess-4711" not in text
