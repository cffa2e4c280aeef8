"""The session API over real sockets: every call in every state of a session, and what the session
is afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from proxy.audit import AuditFile, links
from proxy.core.session import Session
from proxy.demo.faults import Fault
from proxy.demo.gateway import SimulatedGateway
from proxy.flow.commands import Commands
from proxy.web.auth import Gatekeeper, Role
from proxy.web.sessions_api import SessionsApi
from tests.support.raw import RawConnection, raw_server
from tests.support.running import HoldfastProcess, policy, running, simulated
from tests.support.stage import (
    ACCEPTED,
    DECLINED,
    ENVIRON,
    MATRIX,
    STATES,
    SUCCEEDED,
    THROTTLED,
    LeapingClock,
    Reply,
    ScriptedFaults,
    Stage,
    eventually,
    fetch,
    running_on,
    staged,
)

JsonObject = dict[str, Any]

TOKENS = {
    "HOLDFAST_VIEWER_TOKEN": "the-viewer-s-token",
    "HOLDFAST_OPERATOR_TOKEN": "the-operator-s-token",
}
CANCEL = {"reason": "the shopper left"}
HOLD = {"reason": "let me look"}
EVIDENCE = {"paymentDetails": {"reference": "pi_77"}}
ABSENCE = {"reference": "not in the dashboard"}


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A Holdfast before the puppet gateway."""
    async with staged(tmp_path) as built:
        yield built


def is_problem(reply: Reply, status: int, code: str | None = None) -> JsonObject:
    """Check that an answer is problem+json of this kind; the document."""
    assert reply.status == status, reply.body
    assert reply.header("Content-Type") == "application/problem+json"
    document: JsonObject = reply.json
    assert document["status"] == status
    assert document["title"]
    if code is not None:
        assert document["type"] == f"/problems/{code}"
    return document


# --- the form of each call ---------------------------------------------------------------------


async def test_create(stage: Stage) -> None:
    """A created session answers 201 with exactly the fields of the contract."""
    before = stage.clock.now_ms()
    order = {"orderId": "o-1", "userId": "u-1", "gateway": "plain", "amount": 1999}
    reply = await stage.call("POST", "/session/create", {**order, "currency": "eur"})
    after = stage.clock.now_ms()

    assert reply.status == 201
    assert reply.header("Content-Type").startswith("application/json")
    assert reply.header("Cache-Control") == "no-store"
    created = reply.json
    assert set(created) == {"sessionId", "maxAttempts", "status", "expiresAt", "clientToken"}
    assert created["sessionId"].startswith("ps_")
    assert (created["maxAttempts"], created["status"]) == (3, "INITIATED")
    assert before + 15 * 60_000 <= created["expiresAt"] <= after + 15 * 60_000
    assert created["clientToken"].startswith("ct_")


# The example of the contract, with the type of every field that must be there.
CONTRACT: dict[str, type | tuple[type, ...]] = {
    "sessionId": str,
    "orderId": str,
    "userId": str,
    "gateway": str,
    "route": str,
    "status": str,
    "outcome": str,
    "attempts": int,
    "maxAttempts": int,
    "canResume": bool,
    "startedAt": int,
    "expiresAt": int,
    "processingTime": (int, type(None)),
    "metadata": dict,
}


async def test_a_session_is_shown_as_the_contract_shows_it(tmp_path: Path) -> None:
    """Every field of the contract's example object is there, with its type and unit."""
    more = "session: {expires_after: 10m}\n"
    text = (
        "  retry: {max_attempts: 3, automatic_attempts: 2, backoff: {initial: 5ms, jitter: none}}"
    )
    async with raw_server(_always_reset) as upstream:
        policy_text = policy(upstream.origin, f"defaults:\n{text}\n{more}")
        clock = LeapingClock()
        async with (
            running_on(clock, tmp_path, policy_text) as running,
            aiohttp.ClientSession() as http,
        ):
            stage = Stage(running, http, clock)
            before = clock.now_ms()
            reply = await stage.pay("123", gateway="gateway", user="user456")
            shown = await stage.session(reply.header("X-Payment-Session-Id"))
            after = clock.now_ms()  # reading it has had it looked up

    for name, kind in CONTRACT.items():
        assert isinstance(shown[name], kind), name
    assert (shown["orderId"], shown["userId"]) == ("123", "user456")
    assert (shown["gateway"], shown["route"]) == ("gateway", "create-payment")
    assert (shown["status"], shown["outcome"]) == ("INTERRUPTED", "unknown")
    assert (shown["attempts"], shown["maxAttempts"], shown["canResume"]) == (2, 3, True)
    assert shown["processingTime"] is None
    assert before <= shown["startedAt"] <= after
    assert shown["expiresAt"] == shown["startedAt"] + 10 * 60_000
    metadata = shown["metadata"]
    first, second = metadata["interruptions"]
    assert {"at", "reason", "phase", "attempt", "sent"} <= set(first)
    assert (first["reason"], first["phase"]) == ("connection_lost", "awaiting_response")
    assert (first["attempt"], first["sent"], second["attempt"]) == (1, True, 2)
    assert before <= first["at"] <= second["at"] <= after
    (retry,) = metadata["retries"]
    assert {**retry, "at": 0} == {
        "at": 0,
        "attempt": 2,
        "delayMs": 5,
        "because": "connection_lost",
    }
    assert before <= metadata["lastActivity"] <= after


async def _always_reset(connection: RawConnection) -> None:
    await connection.request()
    connection.reset()


async def test_summary(stage: Stage) -> None:
    """The summary counts interruptions by reason, adds up durations and tells every step."""
    session_id = await STATES["interrupted"](stage, "o-1")
    await stage.post(session_id, "interrupt", HOLD)
    await stage.post(session_id, "resume")
    await stage.reaches(session_id, "COMPLETED", "charged")
    summary = (await stage.call("GET", f"/session/{session_id}/summary")).json

    known = {"sessionId", "orderId", "status", "outcome", "attempts", "maxAttempts"}
    assert known <= set(summary)
    assert (summary["sessionId"], summary["orderId"]) == (session_id, "o-1")
    assert (summary["status"], summary["outcome"], summary["attempts"]) == (
        "COMPLETED",
        "charged",
        2,
    )
    assert summary["interruptions"] == {"rate_limited": 1, "requested": 1}
    durations = summary["durations"]
    assert set(durations) == {"processingTime", "atGateway", "backoff"}
    timeline = summary["timeline"]
    assert [(step["event"], step["status"], step["outcome"]) for step in timeline] == [
        ("Opened", "INITIATED", "not_charged"),
        ("AttemptStarted", "INITIATED", "unknown"),
        ("AttemptEnded", "INTERRUPTED", "not_charged"),
        ("Interrupted", "INTERRUPTED", "not_charged"),
        ("Resumed", "RESUMED", "not_charged"),
        ("AttemptStarted", "RESUMED", "unknown"),
        ("AttemptEnded", "COMPLETED", "charged"),
    ]
    times = [step["at"] for step in timeline]
    assert times == sorted(times)
    assert durations["processingTime"] == times[-1] - times[0]
    assert 0 <= durations["atGateway"] <= durations["processingTime"]


# --- what is refused ---------------------------------------------------------------------------

BAD_BODIES = [
    pytest.param("create", b"", 400, None, id="nothing"),
    pytest.param("create", b"orderId=1", 400, None, id="a form"),
    pytest.param("create", b'{"orderId": "1"', 400, None, id="cut off"),
    pytest.param("create", b"\xff\xfe\xff", 400, None, id="not text"),
    pytest.param("create", b"[" * 60_000, 400, None, id="nested without end"),
    pytest.param("create", b"[]", 422, None, id="a list"),
    pytest.param("create", b"null", 422, None, id="null"),
    pytest.param("create", b'"1"', 422, None, id="a text"),
    pytest.param("create", b"{}", 422, "orderId", id="nothing in it"),
    pytest.param("create", b'{"orderId": 1}', 422, "orderId", id="a number for a text"),
    pytest.param("create", b'{"orderId": null}', 422, "orderId", id="null for a text"),
    pytest.param("create", b'{"orderId": ""}', 422, "orderId", id="an empty text"),
    pytest.param("create", b'{"orderId": "a b"}', 422, "orderId", id="a space"),
    pytest.param("create", b'{"orderId": "a\\n"}', 422, "orderId", id="a line break"),
    pytest.param("create", b'{"orderId": "\\u00e9"}', 422, "orderId", id="not ASCII"),
    pytest.param("create", b'{"orderId": "\\ud800"}', 422, "orderId", id="half a character"),
    pytest.param("create", b'{"orderId": "%s"}' % (b"x" * 201), 422, "orderId", id="too long"),
    pytest.param("create", b'{"orderid": "1"}', 422, "orderid", id="another spelling"),
    pytest.param("create", b'{"orderId": "1", "order_id": "1"}', 422, "order_id", id="snake case"),
    pytest.param("create", b'{"orderId": "1", "x": {}}', 422, "x", id="unknown field"),
    pytest.param("create", b'{"orderId": "1", "userId": 5}', 422, "userId", id="user a number"),
    pytest.param("create", b'{"orderId": "1", "gateway": "x"}', 422, "gateway", id="no such one"),
    pytest.param("create", b'{"orderId": "1", "amount": -1}', 422, "amount", id="negative"),
    pytest.param("create", b'{"orderId": "1", "amount": 1.5}', 422, "amount", id="fraction"),
    pytest.param("create", b'{"orderId": "1", "amount": true}', 422, "amount", id="boolean"),
    pytest.param("create", b'{"orderId": "1", "amount": 1e400}', 422, "amount", id="infinite"),
    pytest.param("create", b'{"orderId": "1", "amount": NaN}', 422, "amount", id="no number"),
    pytest.param(
        "create", b'{"orderId": "1", "amount": %d}' % 2**53, 422, "amount", id="too large a number"
    ),
    pytest.param("create", b'{"orderId": "1", "currency": "EURO"}', 422, "currency", id="currency"),
    pytest.param("cancel", b"{}", 422, "reason", id="no reason"),
    pytest.param("cancel", b'{"reason": ""}', 422, "reason", id="empty reason"),
    pytest.param("cancel", b'{"reason": 1}', 422, "reason", id="reason a number"),
    pytest.param("cancel", b'{"reason": "x", "force": true}', 422, "force", id="cancel, unknown"),
    pytest.param("interrupt", b"{}", 422, "reason", id="interrupt without reason"),
    pytest.param("interrupt", b'{"reason": "x", "hold": 1}', 422, "hold", id="interrupt, unknown"),
    pytest.param("complete", b"{}", 422, "paymentDetails", id="no evidence"),
    pytest.param(
        "complete", b'{"paymentDetails": "pi_1"}', 422, "paymentDetails", id="evidence a text"
    ),
    pytest.param(
        "complete",
        b'{"paymentDetails": {"reference": "pi_1", "card": "1"}}',
        422,
        "paymentDetails.card",
        id="unknown inside",
    ),
    pytest.param(
        "complete",
        b'{"paymentDetails": {"reference": ""}}',
        422,
        "paymentDetails.reference",
        id="no reference",
    ),
    pytest.param("not-charged", b"{}", 422, "reference", id="no proof"),
    pytest.param("not-charged", b'{"reference": ""}', 422, "reference", id="an empty proof"),
    pytest.param("not-charged", b'{"reference": "x", "x": 1}', 422, "x", id="proof, unknown"),
    pytest.param("resume", b'{"force": true}', 422, "force", id="resume, unknown"),
    pytest.param("resume", b"yes", 400, None, id="resume, not JSON"),
]


@pytest.mark.parametrize(
    ("verb", "body", "title"),
    [
        ("create", {"orderid": "1", "userId": ""}, "Unknown field"),
        ("create", {}, "orderId: is missing"),
        ("create", {"orderId": "a b"}, "orderId: 1 to 200 visible ASCII characters"),
        ("create", {"orderId": 1}, "orderId: 1 to 200 visible ASCII characters"),
        (
            "create",
            {"orderId": "1", "amount": -1},
            "amount: a whole number from 0, or 1 to 200 visible ASCII characters",
        ),
        ("create", {"orderId": "1", "currency": "EURO"}, "currency: three letters"),
        ("cancel", {"reason": ""}, "reason: 1 to 500 characters"),
        ("complete", {"paymentDetails": "pi_1"}, "paymentDetails: an object"),
        (
            "complete",
            {"paymentDetails": {"reference": ""}},
            "paymentDetails.reference: 1 to 200 visible ASCII characters",
        ),
    ],
)
async def test_what_is_wrong_is_said_in_words(
    stage: Stage, verb: str, body: JsonObject, title: str
) -> None:
    """No pattern and no class of ours; the unknown field first, which may be a misspelled one."""
    session_id = await STATES["interrupted"](stage, "o-1")
    path = "/session/create" if verb == "create" else f"/session/{session_id}/{verb}"
    reply = await stage.call("POST", path, body)
    assert is_problem(reply, 422, "invalid-request")["title"] == title


@pytest.mark.parametrize(("verb", "body", "status", "field"), BAD_BODIES)
async def test_a_bad_body_is_refused(
    stage: Stage, verb: str, body: bytes, status: int, field: str | None
) -> None:
    """What is not JSON is 400, what is not the contract 422 with the field; nothing is done."""
    session_id = await STATES["interrupted"](stage, "o-1")
    known = await stage.session(session_id)
    path = "/session/create" if verb == "create" else f"/session/{session_id}/{verb}"
    reply = await stage.request("POST", stage.running.api + path, data=body)
    document = is_problem(reply, status, "invalid-request")
    assert document.get("field") == field
    assert await stage.session(session_id) == known
    assert (await stage.call("GET", "/sessions")).json["total"] == 1


@pytest.mark.parametrize(
    "verb", ["create", "resume", "complete", "not-charged", "cancel", "interrupt"]
)
@pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "chunked"])
async def test_a_huge_body_is_refused(stage: Stage, verb: str, chunked: bool) -> None:
    """A body of more than 64 KiB is 413, told by its length or found out on the way."""
    created = await stage.create("o-1")
    data = b'{"reason": "' + b"x" * 100_000 + b'"}'

    async def parts() -> AsyncIterator[bytes]:
        yield data

    path = "/session/create" if verb == "create" else f"/session/{created['sessionId']}/{verb}"
    body: Any = parts() if chunked else data
    is_problem(await stage.request("POST", stage.running.api + path, data=body), 413)
    assert (await stage.session(created["sessionId"]))["status"] == "INITIATED"


BAD_QUERIES = [
    ("/sessions", {"order": "1"}, "order"),
    ("/sessions", {"orderid": "1"}, "orderid"),
    ("/sessions", {"since": "1"}, "since"),
    ("/sessions", {"status": "initiated"}, "status"),
    ("/sessions", {"status": ""}, "status"),
    ("/sessions", {"outcome": "maybe"}, "outcome"),
    ("/sessions", {"from": "yesterday"}, "from"),
    ("/sessions", {"from": "-1"}, "from"),
    ("/sessions", {"from": "9" * 30}, "from"),
    ("/sessions", {"to": "9" * 30}, "to"),
    ("/sessions", {"limit": "0"}, "limit"),
    ("/sessions", {"limit": "501"}, "limit"),
    ("/sessions", {"limit": "ten"}, "limit"),
    ("/sessions", {"cursor": "first"}, "cursor"),
    ("/sessions", {"cursor": f"{'9' * 30}-ps_1"}, "cursor"),
    ("/sessions", {"older_than": "1"}, "older_than"),
    ("/sessions/active", {"orderId": "1"}, "orderId"),
    ("/sessions/active", {"olderThanSeconds": "-1"}, "olderThanSeconds"),
    ("/sessions/active", {"olderThanSeconds": "9" * 30}, "olderThanSeconds"),
    ("/sessions/active", {"cursor": "first"}, "cursor"),
    ("/sessions/active", {"from": "1"}, "from"),
]


@pytest.mark.parametrize(("path", "query", "field"), BAD_QUERIES)
async def test_a_bad_query_is_refused(
    stage: Stage, path: str, query: dict[str, str], field: str
) -> None:
    """An unknown or wrong parameter is 422 and named."""
    reply = await stage.call("GET", path, params=query)
    assert is_problem(reply, 422, "invalid-request")["field"] == field


async def test_a_parameter_that_stands_twice_is_refused(stage: Stage) -> None:
    """Two values would leave it to the reader which one counts."""
    reply = await stage.call("GET", "/sessions?orderId=1&orderId=2")
    assert is_problem(reply, 422, "invalid-request")["field"] == "orderId"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/session/create", "POST"),
        ("DELETE", "/session/create", "POST"),
        ("POST", "/session/ps_1", "GET,HEAD"),
        ("DELETE", "/session/ps_1", "GET,HEAD"),
        ("GET", "/session/ps_1/resume", "POST"),
        ("PUT", "/session/ps_1/cancel", "POST"),
        ("POST", "/session/ps_1/summary", "GET,HEAD"),
        ("POST", "/sessions/active", "GET,HEAD"),
        ("PATCH", "/sessions", "GET,HEAD"),
    ],
)
async def test_a_wrong_method(stage: Stage, method: str, path: str, allow: str) -> None:
    """405 with the methods that there are."""
    reply = await stage.request(method, stage.running.api + path)
    is_problem(reply, 405)
    assert reply.header("Allow") == allow


@pytest.mark.parametrize(
    "path",
    ["", "/session", "/session/", "/sessions/", "/session/ps_1/refund", "/session/a/b/resume"],
)
async def test_an_unknown_path(stage: Stage, path: str) -> None:
    """404, as a problem."""
    is_problem(await stage.call("GET", path), 404)


@pytest.mark.parametrize("name", ["ps_1", "%00", "%ff", "a%2Fb", "x" * 4000, "%ED%A0%80", "{id}"])
@pytest.mark.parametrize(
    "verb", ["", "/summary", "/resume", "/cancel", "/interrupt", "/complete", "/not-charged"]
)
async def test_an_unknown_session(stage: Stage, name: str, verb: str) -> None:
    """404, whatever its name looks like."""
    bodies = {
        "/cancel": CANCEL,
        "/interrupt": HOLD,
        "/complete": EVIDENCE,
        "/not-charged": ABSENCE,
    }
    method = "GET" if verb in {"", "/summary"} else "POST"
    more = {"json": bodies[verb]} if verb in bodies else {}
    url = f"{stage.running.api}/session/{name}{verb}"
    document = is_problem(await stage.request(method, url, **more), 404)
    assert "sessionId" not in document


async def test_head_is_get_without_a_body(stage: Stage) -> None:
    """HEAD gives the head of the answer to GET."""
    session_id = await STATES["created"](stage, "o-1")
    url = f"{stage.running.api}/session/{session_id}"
    head, get = await stage.request("HEAD", url), await stage.request("GET", url)
    assert (head.status, head.body) == (200, b"")
    assert head.header("Content-Length") == str(len(get.body))


# --- create -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("created", 200),
        ("in flight", 409),
        ("interrupted", 409),
        ("interrupted, unknown", 409),
        ("interrupted, unknown for good", 409),
        ("resumed", 200),
        ("resumed, in flight", 409),
        ("completed", 409),
        ("accepted", 201),
        ("declined", 201),
        ("cancelled", 201),
        ("expired", 201),
        ("failed", 201),
        ("failed, unknown", 409),
    ],
)
async def test_creating_a_session_for_an_order_that_has_one(
    stage: Stage, state: str, status: int
) -> None:
    """Unbound: the same one; open, unknown or charged: 409 that names it; else a new one."""
    session_id = await STATES[state](stage, "o-1")
    known = await stage.session(session_id)
    reply = await stage.call("POST", "/session/create", {"orderId": "o-1"})
    assert reply.status == status
    if status == 201:
        assert reply.json["sessionId"] != session_id
    elif status == 200:
        assert reply.json["sessionId"] == session_id
    else:
        problem = is_problem(reply, 409, "not-in-this-state")
        shown = [problem[name] for name in ("sessionId", "state", "outcome", "attempts")]
        assert shown == [session_id, known["status"], known["outcome"], known["attempts"]]
        assert session_id in problem["detail"]
    assert await stage.session(session_id) == known


async def test_creating_at_once_is_creating_once(stage: Stage) -> None:
    """Ten creates of one order at the same moment: one session."""
    order = {"orderId": "o-1"}
    replies = await asyncio.gather(
        *[stage.call("POST", "/session/create", order) for _ in range(10)]
    )
    assert sorted(reply.status for reply in replies) == [200] * 9 + [201]
    assert len({reply.json["sessionId"] for reply in replies}) == 1
    assert len({reply.json["clientToken"] for reply in replies}) == 1


async def test_creating_for_another_gateway_is_another_payment(stage: Stage) -> None:
    """An order that waits for one gateway is not silently moved to another."""
    await stage.create("o-1", gateway="plain")
    reply = await stage.call("POST", "/session/create", {"orderId": "o-1", "gateway": "stripe"})
    is_problem(reply, 409, "not-in-this-state")


# --- every call in every state -------------------------------------------------------------------

FIELDS = {
    "resume": {"status", "attempt", "maxAttempts", "mode", "message"},
    "complete": {"status", "processingTime", "reference"},
    "not-charged": {"status", "outcome", "reference"},
    "cancel": {"status", "reason", "outcome"},
    "interrupt": {"status", "canResume"},
}
BODIES: dict[str, JsonObject | None] = {
    "resume": None,
    "complete": EVIDENCE,
    "not-charged": ABSENCE,
    "cancel": CANCEL,
    "interrupt": HOLD,
}


@pytest.mark.parametrize(
    ("state", "verb", "status", "part", "after"),
    MATRIX,
    ids=[f"{state} - {verb}" for state, verb, *_ in MATRIX],
)
async def test_a_change(
    stage: Stage, state: str, verb: str, status: int, part: JsonObject, after: tuple[str, str]
) -> None:
    """What each changing call answers in each state, and what the session is afterwards."""
    session_id = await STATES[state](stage, "o-1")
    before = await stage.session(session_id)
    reply = await stage.post(session_id, verb, BODIES[verb])
    if status == 409:
        problem = is_problem(reply, 409, "not-in-this-state")
        shown = [problem[name] for name in ("sessionId", "state", "outcome", "attempts")]
        assert shown == [session_id, before["status"], before["outcome"], before["attempts"]]
        assert problem["detail"]
        # A refusal changes nothing.
        assert await stage.session(session_id) == before
    else:
        assert reply.status == status, reply.body
        assert set(reply.json) == FIELDS[verb]
        assert {name: reply.json[name] for name in part} == part
    shown_after = await stage.reaches(session_id, *after)
    # Resumable is what resume takes (or takes as done already), and nothing else.
    if verb == "resume":
        assert before["canResume"] is (status == 202)
    if verb == "interrupt" and status != 409:
        assert shown_after["held"] is True
        assert shown_after["canResume"] is reply.json["canResume"]
    if verb == "cancel" and status == 202:
        assert shown_after["cancelRequested"] is True
        assert reply.json["reason"] == CANCEL["reason"]
    if verb == "complete" and status == 200:
        assert reply.json["processingTime"] == shown_after["processingTime"]


@pytest.mark.parametrize("state", [name for name in STATES if name != "accepted"])
async def test_only_a_sure_end_is_not_listed(stage: Stage, state: str) -> None:
    """`active` lists what is live or unknown, search finds everything, get and summary agree."""
    session_id = await STATES[state](stage, "o-1")
    shown = await stage.session(session_id)
    summary = (await stage.call("GET", f"/session/{session_id}/summary")).json
    for name in ("sessionId", "orderId", "status", "outcome", "attempts", "maxAttempts"):
        assert summary[name] == shown[name], name
    last = summary["timeline"][-1]
    assert (last["status"], last["outcome"]) == (shown["status"], shown["outcome"])

    live = {"INITIATED", "INTERRUPTED", "RESUMED"}
    listed = shown["status"] in live or shown["outcome"] == "unknown"
    page = (await stage.call("GET", "/sessions/active")).json
    assert page["total"] == len(page["sessions"]) == int(listed)
    assert [s["sessionId"] for s in page["sessions"]] == [session_id] * listed
    found = (await stage.call("GET", "/sessions?orderId=o-1")).json
    assert [s["sessionId"] for s in found["sessions"]] == [session_id]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("created", 200),
        ("resumed", 200),
        ("cancelled", 409),
        ("expired", 410),
    ],
)
async def test_a_request_that_names_its_session(stage: Stage, state: str, status: int) -> None:
    """A session that waits for its request takes it; one that has ended says how, unsent."""
    session_id = await STATES[state](stage, "o-1")
    reply = await stage.pay("o-1", session=session_id)
    assert reply.status == status
    assert reply.header("X-Payment-Session-Id") == session_id
    assert stage.gateway.arrivals["o-1"] == int(status == 200)


@pytest.mark.parametrize(
    ("state", "status", "replayed", "sends"),
    [
        ("interrupted", 200, False, 2),
        ("interrupted, unknown", 200, False, 2),
        ("interrupted, unknown for good", 504, False, 1),
        ("completed", 200, True, 1),
        ("declined", 402, True, 1),
    ],
)
async def test_the_same_request_again(
    stage: Stage, state: str, status: int, replayed: bool, sends: int
) -> None:
    """A repeat of the same order and body resumes, replays, or says that nobody knows."""
    session_id = await STATES[state](stage, "o-1")
    gateway = "weak" if state.endswith("for good") else "plain"
    reply = await stage.pay("o-1", gateway=gateway)
    assert (reply.status, reply.header("X-Payment-Session-Id")) == (status, session_id)
    assert ("idempotent-replayed" in reply.headers) is replayed
    assert stage.gateway.arrivals["o-1"] == sends


async def test_two_of_the_same_at_once_get_one_answer(stage: Stage) -> None:
    """A second click while the first is in flight gets the first one's answer."""
    stage.gateway.hold("o-1")
    first = stage.start(stage.pay("o-1"))
    await stage.arrival("o-1")
    second = stage.start(stage.pay("o-1"))
    stage.gateway.release("o-1", SUCCEEDED)
    one, two = await first, await second
    assert (one.status, two.status, two.body) == (200, 200, one.body)
    assert two.header("Idempotent-Replayed") == "true"
    assert stage.gateway.arrivals["o-1"] == 1


# --- cancelling and holding what is on its way ---------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "outcome", "told"),
    [
        pytest.param(SUCCEEDED, "COMPLETED", "charged", 200, id="success"),
        pytest.param(DECLINED, "CANCELLED", "not_charged", 402, id="decline"),
        pytest.param(THROTTLED, "CANCELLED", "not_charged", 429, id="not executed"),
        pytest.param(None, "INTERRUPTED", "unknown", 504, id="lost"),
    ],
)
async def test_a_cancel_in_flight_waits_for_the_answer(
    stage: Stage, answer: bytes | None, status: str, outcome: str, told: int
) -> None:
    """The socket is kept: success completes, "not charged" cancels, lost stays unknown."""
    stage.gateway.hold("o-1")
    payment = stage.start(stage.pay("o-1"))
    await stage.arrival("o-1")
    session_id = (await stage.of_order("o-1"))["sessionId"]
    assert (await stage.post(session_id, "cancel", CANCEL)).status == 202
    assert (await stage.post(session_id, "cancel", {"reason": "again"})).status == 202
    stage.gateway.release("o-1", answer)

    assert (await payment).status == told
    shown = await stage.session(session_id)
    assert (shown["status"], shown["outcome"]) == (status, outcome)
    assert stage.gateway.arrivals["o-1"] == 1
    again = await stage.post(session_id, "cancel", {"reason": "again"})
    if status == "CANCELLED":
        assert (again.status, again.json["reason"]) == (200, CANCEL["reason"])
    elif status == "COMPLETED":
        assert is_problem(again, 409)["detail"] == "it is already charged; refund it instead"
    else:
        assert again.status == 202


async def test_a_wanted_cancel_is_never_sent_again(stage: Stage) -> None:
    """After a cancel of an unknown neither resume nor a repeat sends."""
    session_id = await STATES["interrupted, unknown"](stage, "o-1")
    await stage.post(session_id, "cancel", CANCEL)
    assert (await stage.session(session_id))["canResume"] is False
    is_problem(await stage.post(session_id, "resume"), 409)
    assert (await stage.pay("o-1")).status == 504
    assert stage.gateway.arrivals["o-1"] == 1


async def test_a_resume_of_a_wanted_cancel_only_asks(stage: Stage) -> None:
    """Where the gateway can be asked, a resume after a cancel asks, and sends nothing."""
    stage.gateway.will("o-1", None)
    reply = await stage.pay("o-1", gateway="stripe")
    session_id = reply.header("X-Payment-Session-Id")
    await stage.post(session_id, "cancel", CANCEL)
    asked = len(stage.gateway.asked)
    resumed = await stage.post(session_id, "resume")
    assert (resumed.status, resumed.json["mode"]) == (202, "reconcile")
    assert resumed.json["message"] == "asking the gateway what became of it"
    await eventually(lambda: _count(stage.gateway.asked), lambda n: n > asked)
    await stage.reaches(session_id, "INTERRUPTED", "unknown")
    assert stage.gateway.arrivals["o-1"] == 1


async def test_a_cancel_asks_the_gateway_at_once(stage: Stage) -> None:
    """A look-up that is due in hours is made now: someone wants to know."""
    session_id = await STATES["failed, unknown"](stage, "o-1")
    asked = len(stage.gateway.asked)
    assert (await stage.post(session_id, "cancel", CANCEL)).status == 202
    await eventually(lambda: _count(stage.gateway.asked), lambda n: n > asked)


async def _count(things: list[str]) -> int:
    return len(things)


@pytest.mark.parametrize(
    ("answer", "status", "outcome"),
    [
        pytest.param(SUCCEEDED, "COMPLETED", "charged", id="success"),
        pytest.param(DECLINED, "DECLINED", "not_charged", id="decline"),
        pytest.param(None, "INTERRUPTED", "unknown", id="lost"),
    ],
)
async def test_a_hold_in_flight_keeps_the_socket(
    stage: Stage, answer: bytes | None, status: str, outcome: str
) -> None:
    """The answer of what is already out still counts; what follows waits for a resume."""
    stage.gateway.hold("o-1")
    payment = stage.start(stage.pay("o-1"))
    await stage.arrival("o-1")
    session_id = (await stage.of_order("o-1"))["sessionId"]
    held = await stage.post(session_id, "interrupt", HOLD)
    assert (held.status, held.json) == (202, {"status": "INTERRUPTED", "canResume": False})
    shown = await stage.session(session_id)
    assert shown["metadata"]["interruptions"][-1] == {
        "at": shown["metadata"]["lastActivity"],
        "reason": "requested",
        "phase": "awaiting_response",
        "attempt": 1,
        "sent": True,
        "detail": HOLD["reason"],
    }
    stage.gateway.release("o-1", answer)
    await payment
    shown = await stage.session(session_id)
    assert (shown["status"], shown["outcome"]) == (status, outcome)
    assert shown["held"] is (status == "INTERRUPTED")
    if status == "INTERRUPTED":
        assert (await stage.pay("o-1")).status == 409
        assert stage.gateway.arrivals["o-1"] == 1


async def test_a_hold_blocks_sends_until_it_is_resumed(stage: Stage) -> None:
    """Held before its request came: the request is refused unsent; resume sends it."""
    session_id = await STATES["created"](stage, "o-1")
    await stage.post(session_id, "interrupt", HOLD)
    for _ in range(2):
        reply = await stage.pay("o-1", session=session_id)
        problem = is_problem(reply, 409, "session-held")
        assert (problem["anythingSent"], problem["safeToRepeat"]) == (False, True)
    assert stage.gateway.arrivals["o-1"] == 0
    resumed = await stage.post(session_id, "resume")
    assert (resumed.status, resumed.json["attempt"]) == (202, 1)
    await stage.reaches(session_id, "COMPLETED", "charged")
    assert (await stage.pay("o-1", session=session_id)).status == 200
    assert stage.gateway.arrivals["o-1"] == 1


async def test_an_unknown_without_promise_or_look_up_is_a_persons(stage: Stage) -> None:
    """A gateway that promises nothing: not resumable, up for review, settled by a person."""
    session_id = await STATES["interrupted, unknown for good"](stage, "o-1")
    shown = await eventually(
        lambda: stage.session(session_id), lambda session: session["reviewRequired"]
    )
    assert (shown["status"], shown["outcome"]) == ("INTERRUPTED", "unknown")
    await stage.post(session_id, "complete", EVIDENCE)
    shown = await stage.session(session_id)
    assert (shown["status"], shown["reviewRequired"]) == ("COMPLETED", False)
    summary = (await stage.call("GET", f"/session/{session_id}/summary")).json
    assert summary["reference"] == "pi_77"


async def test_a_person_says_that_it_was_not_charged(stage: Stage) -> None:
    """Not before the gateway is done with it; then the order is free, and the trail has it."""
    session_id, proof = await STATES["interrupted, unknown for good"](stage, "o-1"), "not there"
    await stage.post(session_id, "cancel", CANCEL)
    refused = is_problem(await stage.post(session_id, "not-charged", {"reference": proof}), 409)
    assert refused["detail"].startswith("the gateway may still be at it; look again in 1")
    stage.clock.leap(120)
    is_problem(await stage.pay("o-1", gateway="weak", key="another"), 409)
    reply = await stage.post(session_id, "not-charged", {"reference": proof})
    said = {"status": "CANCELLED", "outcome": "not_charged", "reference": proof}
    assert (reply.status, reply.json) == (200, said)
    assert (await stage.pay("o-1", gateway="weak", key="another")).status == 200
    last = trail(stage)[-1]
    assert (last["action"], last["reference"]) == ("not-charged", proof)
    notes = [step["note"] for step in (await stage.summary(session_id))["timeline"]]
    assert [note for note in notes if note] == [CANCEL["reason"], f"person: {proof}"]


@pytest.mark.parametrize(
    ("state", "waits_for"),
    [
        (
            "interrupted, unknown",
            "the same request again, or a person: the profile has no look-up for route payment",
        ),
        (
            "interrupted, unknown for good",
            "a person: the profile has no look-up for route payment",
        ),
        ("failed, unknown", None),  # Stripe is asked
        ("interrupted", None),
        ("in flight", None),
    ],
)
async def test_what_cannot_be_looked_up_says_what_it_waits_for(
    stage: Stage, state: str, waits_for: str | None
) -> None:
    """Who must do something, and why Holdfast cannot find out by itself."""
    session_id = await STATES[state](stage, "o-1")
    assert (await stage.session(session_id))["waitsFor"] == waits_for


async def test_an_unknown_past_its_time_is_not_sent_again(stage: Stage) -> None:
    """After the deadline nobody expects the charge: resume is refused, the outcome stays."""
    session_id = await STATES["interrupted, unknown"](stage, "o-1")
    assert (await stage.session(session_id))["canResume"] is True
    stage.clock.leap(16 * 60)
    shown = await stage.session(session_id)
    known = (shown["status"], shown["outcome"], shown["canResume"])
    assert known == ("INTERRUPTED", "unknown", False)
    is_problem(await stage.post(session_id, "resume"), 409)
    assert stage.gateway.arrivals["o-1"] == 1


# --- races ---------------------------------------------------------------------------------------


async def test_many_resumes_at_once_send_once(stage: Stage) -> None:
    """Ten people press resume: all are told that it goes on, the gateway sees one request."""
    session_id = await STATES["interrupted"](stage, "o-1")
    stage.gateway.hold("o-1")
    replies = await asyncio.gather(*[stage.post(session_id, "resume") for _ in range(10)])
    assert sorted(reply.status for reply in replies) == [200] * 9 + [202]
    await stage.arrival("o-1", 2)
    stage.gateway.release("o-1", SUCCEEDED)
    await stage.reaches(session_id, "COMPLETED", "charged")
    assert stage.gateway.arrivals["o-1"] == 2


async def test_a_resume_and_a_repeat_at_once_send_once(stage: Stage) -> None:
    """A person resumes while the client comes back: one send, and the client gets its answer."""
    session_id = await STATES["interrupted, unknown"](stage, "o-1")
    stage.gateway.hold("o-1")
    resuming = stage.start(stage.post(session_id, "resume"))
    repeating = stage.start(stage.pay("o-1"))
    await stage.arrival("o-1", 2)
    stage.gateway.release("o-1", SUCCEEDED)
    assert (await repeating).status == 200
    assert (await resuming).status in {200, 202, 409}
    await stage.reaches(session_id, "COMPLETED", "charged")
    assert stage.gateway.arrivals["o-1"] == 2


@pytest.mark.parametrize("first", ["resume", "cancel"])
@pytest.mark.parametrize("state", ["interrupted", "interrupted, unknown"])
async def test_a_cancel_and_a_resume_at_once_agree(stage: Stage, state: str, first: str) -> None:
    """Whoever is first wins and both are told the truth: never cancelled and charged."""
    for number in range(5):
        order = f"o-{number}"
        session_id = await STATES[state](stage, order)
        verbs = ["resume", "cancel"] if first == "resume" else ["cancel", "resume"]
        calls = [stage.post(session_id, verb, BODIES[verb]) for verb in verbs]
        replies = dict(zip(verbs, await asyncio.gather(*calls), strict=True))
        await stage.quiet()
        shown = await stage.session(session_id)
        assert stage.gateway.arrivals[order] == shown["attempts"]
        if shown["outcome"] == "charged":  # it was on its way before the cancel came
            assert (shown["status"], replies["resume"].status) == ("COMPLETED", 202)
            assert replies["cancel"].status in {202, 409}
        else:
            assert (shown["attempts"], shown["cancelRequested"]) == (1, True)
            known = shown["outcome"] == "not_charged"
            assert replies["cancel"].status == (200 if known else 202)
            assert (shown["status"] == "CANCELLED") is known


async def test_between_two_sends_holdfast_is_at_it(tmp_path: Path) -> None:
    """During backoff resume and complete are refused, canResume is false, and cancel works."""
    slow = "defaults: {retry: {backoff: {initial: 10s, max: 10s, jitter: none}}}\n"
    clock = LeapingClock()

    async def throttle(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(THROTTLED)

    async with raw_server(throttle) as upstream, aiohttp.ClientSession() as http:
        text = policy(upstream.origin, slow)
        async with running_on(clock, tmp_path, text) as running:
            stage = Stage(running, http, clock)
            payment = stage.start(stage.pay("o-1", gateway="gateway"))

            async def listed() -> list[JsonObject]:
                page = await stage.call("GET", "/sessions/active?status=INTERRUPTED")
                sessions: list[JsonObject] = page.json["sessions"]
                return sessions

            (shown,) = await eventually(listed, lambda sessions: len(sessions) == 1)
            assert (shown["canResume"], len(shown["metadata"]["retries"])) == (False, 1)
            session_id = shown["sessionId"]
            is_problem(await stage.post(session_id, "resume"), 409)
            is_problem(await stage.post(session_id, "complete", EVIDENCE), 409)
            assert (await stage.post(session_id, "cancel", CANCEL)).status == 200
            clock.leap(11)
            assert is_problem(await payment, 409, "session-cancelled")["state"] == "CANCELLED"
            assert upstream.requests == 1


# --- tying a request to its session --------------------------------------------------------------


async def test_a_request_is_tied_to_the_session_it_names(stage: Stage) -> None:
    """Order, user and amount of the session appear with the payment; the gateway sees no name."""
    created = await stage.create("o-1", userId="u-1", amount=1999, currency="eur")
    reply = await stage.pay("o-1", session=created["sessionId"], named=False)
    assert reply.status == 200
    assert reply.header("X-Payment-Session-Id") == created["sessionId"]
    shown = await stage.session(created["sessionId"])
    assert (shown["orderId"], shown["userId"]) == ("o-1", "u-1")
    assert (shown["amount"], shown["currency"]) == ("1999", "eur")
    assert (shown["gateway"], shown["route"]) == ("plain", "payment")
    assert (shown["status"], shown["outcome"], shown["attempts"]) == ("COMPLETED", "charged", 1)


async def test_a_created_session_keeps_its_order_locked(stage: Stage) -> None:
    """A request that names only the session locks the order all the same."""
    created = await stage.create("o-1")
    assert (await stage.pay("o-1", session=created["sessionId"], named=False)).status == 200
    second = await stage.pay("o-1", key="another-key")
    is_problem(second, 409, "order-already-paid")
    assert stage.gateway.arrivals["o-1"] == 1


async def test_a_request_of_an_order_finds_its_created_session(stage: Stage) -> None:
    """A backend that names only the order gets the session it created for it."""
    created = await stage.create("o-1")
    reply = await stage.pay("o-1")
    assert (reply.status, reply.header("X-Payment-Session-Id")) == (200, created["sessionId"])


async def test_a_session_that_does_not_exist_is_refused(stage: Stage) -> None:
    """A wrong name sends nothing."""
    problem = is_problem(await stage.pay("o-1", session="ps_none"), 404, "session-unknown")
    assert problem["anythingSent"] is False
    assert stage.gateway.arrivals["o-1"] == 0


async def test_a_session_of_another_order_or_gateway_is_refused(stage: Stage) -> None:
    """A session is for one order and, if it was created so, one gateway."""
    created = await stage.create("o-1", gateway="plain")
    is_problem(await stage.pay("o-2", session=created["sessionId"]), 409, "session-taken")
    elsewhere = await stage.pay("o-1", session=created["sessionId"], gateway="weak")
    is_problem(elsewhere, 409, "session-taken")
    assert stage.gateway.arrivals.total() == 0
    assert (await stage.session(created["sessionId"]))["status"] == "INITIATED"


async def test_a_session_of_another_credential_is_refused(stage: Stage) -> None:
    """Who pays with another credential does not get the answer of the session it names."""
    created = await stage.create("o-1")
    paid = await stage.pay("o-1", session=created["sessionId"])
    assert paid.status == 200
    other = await stage.pay("o-1", session=created["sessionId"], credential="Bearer sk_other")
    problem = is_problem(other, 409, "session-taken")
    assert b"pi_1" not in other.body
    assert problem["safeToRepeat"] is False
    assert stage.gateway.arrivals["o-1"] == 1


# --- the ledger is the judge ---------------------------------------------------------------------


async def test_a_resume_charges_once(tmp_path: Path) -> None:
    """The answer of a charge is lost; the resume sends the same key again: one charge."""
    gateway = SimulatedGateway(ScriptedFaults({("o-1", 1): Fault.RESET_AFTER}))
    async with _ledger(tmp_path, gateway) as stage:
        lost = is_problem(await _stripe_pay(stage, "o-1"), 504, "outcome-unknown")
        assert gateway.ledger.per_order() == {"o-1": 1}
        resumed = await stage.post(lost["sessionId"], "resume")
        assert (resumed.status, resumed.json["mode"]) == (202, "reconcile")
        assert resumed.json["message"] == "sending the same request again with the same key"
        await stage.reaches(lost["sessionId"], "COMPLETED", "charged")
        assert gateway.arrivals["o-1"] == 2
        assert gateway.ledger.per_order() == {"o-1": 1}
        again = await _stripe_pay(stage, "o-1")
        assert (again.status, again.json["status"]) == (200, "succeeded")
        assert again.header("Idempotent-Replayed") == "true"


async def test_a_resume_of_what_was_never_charged_charges_once(tmp_path: Path) -> None:
    """The request was lost before the charge: the resume makes it, once."""
    gateway = SimulatedGateway(ScriptedFaults({("o-1", 1): Fault.RESET_BEFORE}))
    async with _ledger(tmp_path, gateway) as stage:
        lost = is_problem(await _stripe_pay(stage, "o-1"), 504, "outcome-unknown")
        assert gateway.ledger.per_order() == {}
        await stage.post(lost["sessionId"], "resume")
        await stage.reaches(lost["sessionId"], "COMPLETED", "charged")
        assert gateway.ledger.per_order() == {"o-1": 1}


async def test_a_lost_charge_is_found_by_asking(tmp_path: Path) -> None:
    """After a restart nothing is in memory: the configured credential finds the charge."""
    gateway = SimulatedGateway(ScriptedFaults({("o-1", 1): Fault.RESET_AFTER}))
    async with simulated(gateway) as origin:
        process = HoldfastProcess(tmp_path, origin, _ONE_BY_ITSELF)
        text = process.config.read_text(encoding="utf-8")
        asked = 'lookup_credential: {env: LOOKUP_CREDENTIAL}, upstream: "'
        process.config.write_text(text.replace('upstream: "', asked), encoding="utf-8")
        await process.start(environ=ENVIRON)
        pay = process.url + "/v1/payment_intents"
        async with aiohttp.ClientSession() as http:
            lost = await fetch(http, "POST", pay, **_order("o-1"))
            assert lost.status == 504
            await process.kill()
            await process.start(environ=ENVIRON)
            url = f"{process.api}/session/{lost.json['sessionId']}"
            resumed = await fetch(http, "POST", f"{url}/resume")
            # Unless the reconciler was quicker by itself.
            assert (resumed.status, resumed.json["mode"]) in {(202, "reconcile"), (200, "none")}

            async def session() -> JsonObject:
                document: JsonObject = (await fetch(http, "GET", url)).json
                return document

            shown = await eventually(session, lambda now: now["outcome"] == "charged")
            assert (shown["status"], shown["attempts"]) == ("COMPLETED", 1)
            summary = (await fetch(http, "GET", f"{url}/summary")).json
            assert summary["timeline"][-1]["event"] == "EvidenceFound"
            assert summary["reference"] == gateway.ledger.charges[0].payment
            # The client comes back and hears the gateway's own word about it.
            again = await fetch(http, "POST", pay, **_order("o-1"))
            assert (again.status, again.json["status"]) == (200, "succeeded")
        await process.stop()
    assert gateway.ledger.per_order() == {"o-1": 1}
    assert gateway.arrivals["o-1"] == 1


_ONE_BY_ITSELF = "defaults: {retry: {automatic_attempts: 1}}\n"


@contextlib.asynccontextmanager
async def _ledger(folder: Path, gateway: SimulatedGateway) -> AsyncIterator[Stage]:
    """A stage with the simulated gateway behind instead of the puppet."""
    clock = LeapingClock()
    async with (
        simulated(gateway) as origin,
        running_on(clock, folder, policy(origin, _ONE_BY_ITSELF)) as running,
        aiohttp.ClientSession() as http,
    ):
        yield Stage(running, http, clock)


async def _stripe_pay(stage: Stage, order: str) -> Reply:
    url = f"{stage.running.url}/v1/payment_intents"
    return await stage.request("POST", url, **_order(order))


def _order(order: str) -> JsonObject:
    """A payment as a Stripe client sends it."""
    return {
        "data": {"amount": "1999", "confirm": "true", "metadata[order_id]": order},
        "headers": {"X-Payment-Order-Id": order, "Authorization": "Bearer sk_test_1"},
    }


# --- lists ---------------------------------------------------------------------------------------


async def _all_pages(stage: Stage, path: str, query: dict[str, str]) -> list[JsonObject]:
    """Every page of a list; the totals must agree all the way."""
    found: list[JsonObject] = []
    totals = set()
    cursor: str | None = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        reply = await stage.call("GET", path, params={**query, **more})
        assert reply.status == 200, reply.body
        page = reply.json
        assert set(page) == {"sessions", "total", "next"}
        found += page["sessions"]
        totals.add(page["total"])
        cursor = page["next"]
        if cursor is None:
            assert totals == {len(found)}
            return found


@pytest.mark.parametrize("path", ["/sessions", "/sessions/active"])
@pytest.mark.parametrize("limit", ["", "7", "60", "120", "500"])
async def test_paging(stage: Stage, path: str, limit: str) -> None:
    """120 sessions, page by page: each one once, newest first, and the total on every page."""
    orders = [f"o-{number}" for number in range(120)]
    created = await asyncio.gather(*[stage.create(order) for order in orders])
    query = {"limit": limit} if limit else {}
    found = await _all_pages(stage, path, query)
    assert {s["sessionId"] for s in found} == {c["sessionId"] for c in created}
    assert len(found) == 120
    places = [(s["startedAt"], s["sessionId"]) for s in found]
    assert places == sorted(places, reverse=True)


async def test_a_page_stays_where_it_was(stage: Stage) -> None:
    """Sessions that begin while someone turns pages neither repeat nor hide an older one."""
    old = [(await stage.create(f"o-{number}"))["sessionId"] for number in range(6)]
    first = (await stage.call("GET", "/sessions?limit=3")).json
    await stage.create("o-new")
    second = (await stage.call("GET", f"/sessions?limit=3&cursor={first['next']}")).json
    shown = [s["sessionId"] for page in (first, second) for s in page["sessions"]]
    assert shown == old[::-1]
    assert (first["total"], second["total"], second["next"]) == (6, 7, None)


FILTERS: list[tuple[str, dict[str, str], str]] = [
    ("/sessions", {}, "1 2 3 4 5 6"),
    ("/sessions", {"orderId": "3"}, "3"),
    ("/sessions", {"orderId": "33"}, ""),
    ("/sessions", {"userId": "ann"}, "1 2"),
    ("/sessions", {"status": "DECLINED"}, "4"),
    ("/sessions", {"status": "INITIATED"}, "1 2 6"),
    ("/sessions", {"outcome": "unknown"}, "5"),
    ("/sessions", {"outcome": "charged"}, "3"),
    ("/sessions", {"gateway": "plain"}, "1 3 4 5"),
    ("/sessions", {"from": "MIDDLE"}, "6"),
    ("/sessions", {"to": "MIDDLE"}, "1 2 3 4 5"),
    ("/sessions", {"userId": "ann", "gateway": "stripe"}, "2"),
    ("/sessions", {"userId": "bob", "to": "MIDDLE"}, ""),
    ("/sessions/active", {}, "1 2 5 6"),
    ("/sessions/active", {"status": "INTERRUPTED"}, "5"),
    ("/sessions/active", {"outcome": "unknown"}, "5"),
    ("/sessions/active", {"gateway": "plain"}, "1 5"),
    ("/sessions/active", {"olderThanSeconds": "50"}, "1 2 5"),
    ("/sessions/active", {"olderThanSeconds": "3600"}, ""),
    ("/sessions/active", {"status": "COMPLETED"}, ""),
]


async def test_filters(stage: Stage) -> None:
    """Each filter alone and several together; what does not match is not counted either."""
    await stage.create("1", userId="ann", gateway="plain")
    await stage.create("2", userId="ann", gateway="stripe")
    await STATES["completed"](stage, "3")
    await STATES["declined"](stage, "4")
    await STATES["interrupted, unknown"](stage, "5")
    stage.gateway.will("5", None)  # it is sent again by itself, and lost again
    stage.clock.leap(60)
    middle = str(stage.clock.now_ms())
    await stage.create("6", userId="bob")
    for path, query, orders in FILTERS:
        asked = {name: value.replace("MIDDLE", middle) for name, value in query.items()}
        found = await _all_pages(stage, path, asked)
        assert sorted(shown["orderId"] for shown in found) == orders.split(), (path, query)


async def test_the_ends_of_a_time_span(stage: Stage) -> None:
    """`from` includes its millisecond, `to` does not."""
    started = (await stage.session(await STATES["created"](stage, "o-1")))["startedAt"]
    for query, total in (
        ({"from": str(started)}, 1),
        ({"from": str(started + 1)}, 0),
        ({"to": str(started)}, 0),
        ({"to": str(started + 1)}, 1),
        ({"from": str(started), "to": str(started + 1)}, 1),
    ):
        reply = await stage.call("GET", "/sessions", params=query)
        assert reply.json["total"] == total, query


# --- after a restart ------------------------------------------------------------------------------


class Restarted:
    """A Holdfast of its own with a session in several states, killed and started again.

    `held` is with the gateway when the process dies.
    """

    def __init__(self, process: HoldfastProcess, http: aiohttp.ClientSession) -> None:
        self.process = process
        self.http = http
        self.before: dict[str, JsonObject] = {}
        self.after: dict[str, JsonObject] = {}

    async def pay(self, order: str) -> Reply:
        """A payment."""
        return await fetch(
            self.http, "POST", f"{self.process.url}/v1/payment_intents", **_order(order)
        )

    async def call(self, method: str, path: str, body: object = None) -> JsonObject:
        """A call of the session API."""
        more = {} if body is None else {"json": body}
        document: JsonObject = (
            await fetch(self.http, method, self.process.api + path, **more)
        ).json
        return document

    async def sessions(self) -> dict[str, JsonObject]:
        """All of them, by order."""
        page = await self.call("GET", "/sessions")
        return {session["orderId"]: session for session in page["sessions"]}


@pytest_asyncio.fixture
async def restarted(tmp_path: Path) -> AsyncIterator[Restarted]:
    """See `Restarted`."""
    alive = True

    async def gateway(connection: RawConnection) -> None:
        request = await connection.request()
        if b"held" in request and alive:
            await asyncio.Event().wait()
        await connection.send(DECLINED if b"declined" in request else SUCCEEDED)

    async with raw_server(gateway) as upstream, aiohttp.ClientSession() as http:
        process = HoldfastProcess(tmp_path, upstream.origin, _ONE_BY_ITSELF)
        await process.start()
        lives = Restarted(process, http)
        assert (await lives.pay("paid")).status == 200
        assert (await lives.pay("declined")).status == 402
        await lives.call("POST", "/session/create", {"orderId": "created", "userId": "u-1"})
        held = asyncio.ensure_future(lives.pay("held"))
        await eventually(lambda: _value(upstream.requests), lambda seen: seen == 3)
        lives.before = await lives.sessions()
        await process.kill()
        with pytest.raises(aiohttp.ClientError):
            await held
        alive = False
        await process.start()
        lives.after = await lives.sessions()
        try:
            yield lives
        finally:
            await process.stop()


async def test_a_restart_keeps_every_session(restarted: Restarted) -> None:
    """After kill -9 on the same file the API shows the same sessions, field by field."""
    assert set(restarted.after) == {"paid", "declined", "created", "held"}
    for order in ("paid", "declined", "created"):
        assert restarted.after[order] == restarted.before[order]
    assert restarted.after["held"]["sessionId"] == restarted.before["held"]["sessionId"]
    active = await restarted.call("GET", "/sessions/active")
    assert {session["orderId"] for session in active["sessions"]} == {"created", "held"}


async def test_what_was_in_flight_is_unknown_after_a_restart(restarted: Restarted) -> None:
    """Nobody knows what became of it: interrupted by the restart, and it may have been charged."""
    before, after = restarted.before["held"], restarted.after["held"]
    assert (before["status"], before["outcome"]) == ("INITIATED", "unknown")
    assert (after["status"], after["outcome"]) == ("INTERRUPTED", "unknown")
    (stop,) = after["metadata"]["interruptions"]
    assert (stop["reason"], stop["phase"]) == ("process_restart", "awaiting_response")
    assert (stop["attempt"], stop["sent"]) == (1, True)


async def test_after_a_restart_the_client_must_come_back(restarted: Restarted) -> None:
    """Requests are in memory only: resume waits for the client, who gets the answer then."""
    session_id = restarted.after["held"]["sessionId"]
    resumed = await restarted.call("POST", f"/session/{session_id}/resume")
    assert "send the same request again" in resumed.pop("message")
    assert resumed == {
        "status": "RESUMED",
        "attempt": 2,
        "maxAttempts": 3,
        "mode": "reconcile",
    }
    again = await restarted.pay("held")
    assert (again.status, again.header("X-Payment-Attempts")) == (200, "2")
    assert again.header("X-Payment-Session-Id") == session_id
    assert (await restarted.sessions())["held"]["outcome"] == "charged"


async def test_a_client_token_outlives_a_restart(restarted: Restarted) -> None:
    """The browser that follows a session keeps its token."""
    order = {"orderId": "created"}
    once = await restarted.call("POST", "/session/create", order)
    await restarted.process.kill()
    await restarted.process.start()
    assert await restarted.call("POST", "/session/create", order) == once


async def _value(number: int) -> int:
    return number


async def test_no_body_of_a_payment_is_ever_shown(stage: Stage) -> None:
    """Neither what was sent nor what the gateway said stands in any answer of the API."""
    secret = "4242424242424242"
    port = stage.running.doors.gateways["plain"].port
    body = json.dumps({"order_id": "o-1", "amount": 5, "card": secret, "note": "very secret"})
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk_very_secret"}
    url = f"http://127.0.0.1:{port}/pay"
    reply = await stage.request("POST", url, data=body, headers=headers)
    session_id = reply.header("X-Payment-Session-Id")
    for path in (f"/session/{session_id}", f"/session/{session_id}/summary", "/sessions"):
        text = (await stage.call("GET", path)).body
        for hidden in (secret, "very secret", "sk_very_secret", "pi_1", "payment_intent"):
            assert hidden.encode() not in text, (path, hidden)


async def test_the_puppet_is_a_fair_judge(stage: Stage) -> None:
    """The stage itself: an accepted payment is answered as the gateway answered it."""
    stage.gateway.will("o-1", ACCEPTED)
    reply = await stage.pay("o-1", gateway="stripe")
    assert (reply.status, reply.json["status"]) == (200, "requires_action")


# --- the audit trail ------------------------------------------------------------------------------


def trail(stage: Stage) -> list[JsonObject]:
    """What was entered since the stage stands; its chain holds."""
    path = stage.running.holdfast._settings.audit
    assert path is not None
    assert list(links(path))
    return [json.loads(line) for line in path.read_bytes().splitlines()]


# (state, call, body, what its repeat is answered). Create is asked for the order, not the session.
TWICE = [
    ("created", "create", {"orderId": "o-1"}, 200),
    ("created", "cancel", CANCEL, 200),
    ("interrupted, unknown for good", "cancel", CANCEL, 202),
    ("created", "interrupt", HOLD, 200),
    ("in flight", "interrupt", HOLD, 202),
    ("created", "complete", EVIDENCE, 200),
    ("interrupted, unknown", "complete", EVIDENCE, 200),
    ("failed, unknown", "not-charged", ABSENCE, 200),
    ("completed", "resume", None, 200),
    ("resumed", "resume", None, 200),
    ("resumed, in flight", "resume", None, 200),
    ("held, in flight", "interrupt", HOLD, 202),
    ("held, in flight", "cancel", CANCEL, 202),
    ("in flight", "cancel", CANCEL, 202),
    ("resumed, in flight", "cancel", CANCEL, 202),
    ("resumed, in flight", "interrupt", HOLD, 202),
    ("interrupted, unknown", "interrupt", HOLD, 200),
    ("cancelled", "cancel", CANCEL, 200),
    ("failed", "cancel", CANCEL, 200),
]


@pytest.mark.parametrize(("state", "verb", "body", "status"), TWICE)
async def test_a_repeated_call_changes_nothing(
    stage: Stage, state: str, verb: str, body: JsonObject | None, status: int
) -> None:
    """The second answer is as the first, and the trail says that nothing changed."""
    session_id = await STATES[state](stage, "o-1")
    path = "/session/create" if verb == "create" else f"/session/{session_id}/{verb}"
    replies, versions = [], []
    for _ in range(2):
        replies.append(await stage.call("POST", path, body))
        shown = await stage.call("GET", f"/session/{session_id}")
        versions.append(shown.header("ETag"))
    assert [reply.status for reply in replies] == [status, status]
    assert replies[0].body == replies[1].body
    assert versions[0] == versions[1]
    entry = trail(stage)[-1]
    assert (entry["action"], entry["session"]) == (verb, session_id)
    assert (entry["result"], entry["why"]) == ("unchanged", None)
    assert entry["before"] == entry["after"]
    assert f'"{entry["after"]["version"]}"' == versions[0]
    if "in flight" in state:
        stage.gateway.release("o-1", SUCCEEDED)


@pytest.mark.parametrize("state", ["interrupted", "interrupted, unknown"])
async def test_a_resume_whose_answer_was_lost_is_repeated(stage: Stage, state: str) -> None:
    """Once while it is on its way, once when it has been charged: 200, and one send for all."""
    session_id = await STATES[state](stage, "o-1")
    stage.gateway.hold("o-1")
    first = await stage.post(session_id, "resume")
    await stage.arrival("o-1", 2)
    again = await stage.post(session_id, "resume")
    assert (first.status, first.json["attempt"]) == (202, 2)
    assert (again.status, again.json["attempt"], again.json["mode"]) == (200, 2, "none")
    stage.gateway.release("o-1", SUCCEEDED)
    await stage.reaches(session_id, "COMPLETED", "charged")
    again = await stage.post(session_id, "resume")
    assert (again.status, again.json["status"]) == (200, "COMPLETED")
    assert stage.gateway.arrivals["o-1"] == 2
    assert [entry["result"] for entry in trail(stage)] == ["changed", "unchanged", "unchanged"]


async def test_an_entry_says_who_did_what_to_which_session(tmp_path: Path) -> None:
    """Role, address, call, session, reason, before and after; never a token or a card number."""
    token = TOKENS["HOLDFAST_OPERATOR_TOKEN"]
    async with staged(tmp_path, environ=TOKENS, token=token) as stage:
        session_id = (await stage.create("o-1"))["sessionId"]
        why = "4242 4242 4242 4242 was declined, says sk_live_12345678"
        await stage.post(session_id, "cancel", {"reason": why})
        created, cancelled = trail(stage)
        text = (tmp_path / "holdfast.db.audit").read_text()
    assert (created["action"], created["order"], created["before"]) == ("create", "o-1", None)
    assert created["after"] == {"status": "INITIATED", "outcome": "not_charged", "version": 1}
    del cancelled["hash"], cancelled["prev"], cancelled["at"]
    assert cancelled == {
        "seq": 2,
        "source": "session API",
        "who": {"role": "operator", "peer": "127.0.0.1"},
        "action": "cancel",
        "session": session_id,
        "reason": "[masked] was declined, says [masked]",
        "before": created["after"],
        "after": {"status": "CANCELLED", "outcome": "not_charged", "version": 2},
        "result": "changed",
        "why": None,
    }
    assert not [token for token in TOKENS.values() if token in text]


async def test_what_is_refused_is_entered_too(tmp_path: Path) -> None:
    """Without a token, with too little of one, for no session, misspelled, not in this state."""
    async with staged(tmp_path, environ=TOKENS) as stage:
        operator, viewer = (
            {"Authorization": f"Bearer the-{role}-s-token"} for role in ("operator", "viewer")
        )
        order = {"orderId": "o-1"}
        reply = await stage.call("POST", "/session/create", order, headers=operator)
        session_id = reply.json["sessionId"]
        await stage.post(session_id, "complete", EVIDENCE, headers=operator)
        await stage.post(session_id, "cancel", CANCEL)
        await stage.post("x" * 5000, "cancel", CANCEL)
        await stage.post(session_id, "cancel", CANCEL, headers=viewer)
        await stage.post("ps_none", "cancel", CANCEL, headers=operator)
        await stage.post(session_id, "cancel", {"raeson": ""}, headers=operator)
        await stage.post(session_id, "cancel", CANCEL, headers=operator)
        await stage.post(session_id, "cancel", CANCEL, headers={**operator, "If-Match": '"1"'})
        await stage.call("GET", f"/session/{session_id}")  # changes nothing, whoever asks
        told = trail(stage)[2:]
    assert {(entry["action"], entry["result"], entry["after"]) for entry in told} == {
        ("cancel", "refused", None)
    }
    assert [(e["who"]["role"], e["session"], e["why"]) for e in told] == [
        ("nobody", session_id, "A token is required"),
        ("nobody", "x" * 100, "A token is required"),
        ("viewer", session_id, "A viewer may not do this"),
        ("operator", "ps_none", "There is no such session"),
        ("operator", session_id, "Unknown field"),
        ("operator", session_id, "it is already charged; refund it instead"),
        ("operator", session_id, "The session has another version"),
    ]


async def test_a_fault_of_ours_is_entered_as_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows then what was done: the entry says so and points to the session."""
    session_id = (await stage.create("o-1"))["sessionId"]

    async def broken(_commands: Commands, *_about: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Commands, "cancel", broken)
    assert (await stage.post(session_id, "cancel", CANCEL)).status == 500
    entry = trail(stage)[-1]
    assert (entry["result"], entry["why"]) == ("failed", "ZeroDivisionError")


async def test_calls_about_one_session_follow_each_other(stage: Stage) -> None:
    """Many at once: each entry begins where the one before it ended, and each step has one."""
    session_id = (await stage.create("o-1"))["sessionId"]
    calls = [("interrupt", HOLD), ("resume", None), ("interrupt", {"reason": "once more"})] * 20
    await asyncio.gather(*(stage.post(session_id, verb, body) for verb, body in calls))
    told = trail(stage)
    assert len(told) == 1 + len(calls)
    now = told[0]["after"]
    for entry in told[1:]:
        assert entry["before"] == now
        now = entry["after"] or now
    steps = (await stage.summary(session_id))["timeline"]
    assert len([entry for entry in told if entry["result"] == "changed"]) == len(steps)


# --- If-Match -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "body"),
    [("resume", None), ("complete", EVIDENCE), ("cancel", CANCEL), ("interrupt", HOLD)],
)
async def test_a_version_that_moved_stops_a_call(
    stage: Stage, verb: str, body: JsonObject | None
) -> None:
    """With the version before, nothing is done; with the one that is, it is."""
    session_id = await STATES["interrupted"](stage, "o-1")
    before = (await stage.call("GET", f"/session/{session_id}")).header("ETag")
    await stage.post(session_id, "interrupt", HOLD)
    shown = await stage.call("GET", f"/session/{session_id}")
    for stale in (before, f"W/{shown.header('ETag')}", "nonsense", ""):
        reply = await stage.post(session_id, verb, body, headers={"If-Match": stale})
        assert is_problem(reply, 412, "version-moved")["sessionId"] == session_id
    assert (await stage.session(session_id)) == shown.json
    either = f"{before}, {shown.header('ETag')}"
    assert (await stage.post(session_id, verb, body, headers={"If-Match": either})).status < 300


@pytest.mark.parametrize("turns", [True, False], ids=["one process", "two replicas"])
@pytest.mark.parametrize("headers", [{"If-Match": '"1"'}, {}], ids=["", "the control: without"])
async def test_of_two_with_the_same_version_one_acts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], turns: bool
) -> None:
    """Both have read the session before either of them changes it, as two replicas can."""
    session_id = (await stage.create("o-1"))["sessionId"]
    asked, get, role = 0, Commands.get, Gatekeeper.role

    def arrives(gatekeeper: Gatekeeper, *about: Any) -> Role:
        nonlocal asked
        asked += 1
        return role(gatekeeper, *about)

    async def slow(commands: Commands, session_id: str) -> Session:
        session = await get(commands, session_id)
        await eventually(counted, (2).__le__)
        await asyncio.gather(*(asyncio.sleep(0) for _ in range(100)))
        return session

    async def counted() -> int:
        return asked

    monkeypatch.setattr(Gatekeeper, "role", arrives)
    monkeypatch.setattr(Commands, "get", slow)
    if not turns:  # nothing but the store stands between them
        monkeypatch.setattr(SessionsApi, "_turn_of", lambda _api, _id: asyncio.Lock())
    replies = await asyncio.gather(
        stage.post(session_id, "interrupt", HOLD, headers=headers),
        stage.post(session_id, "cancel", CANCEL, headers=headers),
    )
    late = [reply for reply in replies if reply.status == 412]
    assert len(late) == len(headers)
    # Whoever is late is told what the session is now, and the trail what was decided on.
    assert [reply.header("ETag") for reply in late] == ['"2"'] * len(late)
    changed = [entry for entry in trail(stage)[1:] if entry["result"] == "changed"]
    steps = [(entry["before"]["version"], entry["after"]["version"]) for entry in changed]
    assert steps == [(1, 2), (2, 3)][: len(changed)]


# --- a trail that takes no entries ----------------------------------------------------------------


async def test_without_the_trail_nothing_is_done(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call that finds the disk full says that it was carried out; the next are not."""
    first = (await stage.create("o-1"))["sessionId"]
    second = (await stage.create("o-2"))["sessionId"]

    def full(_audit: AuditFile, _lines: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(AuditFile, "_append", full)
        told = is_problem(await stage.post(first, "cancel", CANCEL), 503, "audit-unavailable")
        assert told["carriedOut"] is True
        assert (await stage.session(first))["status"] == "CANCELLED"
        for verb, body in (("cancel", CANCEL), ("interrupt", HOLD), ("complete", EVIDENCE)):
            told = is_problem(await stage.post(second, verb, body), 503, "audit-unavailable")
            assert told["carriedOut"] is False
        assert (await stage.session(second))["status"] == "INITIATED"
        assert (await stage.pay("o-3")).status == 200  # payments need no entry
        assert len(trail(stage)) == 2
    assert (await stage.post(second, "cancel", CANCEL)).status == 200
    assert [(entry["action"], entry["session"]) for entry in trail(stage)[2:]] == [
        ("cancel", first),
        ("cancel", second),
    ]


async def test_a_refusal_without_its_entry_was_not_carried_out(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the disk makes of its entry does not turn a no into a yes."""
    session_id = await STATES["completed"](stage, "o-1")

    def full(_audit: AuditFile, _lines: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AuditFile, "_append", full)
    told = is_problem(await stage.post(session_id, "cancel", CANCEL), 503, "audit-unavailable")
    assert told["carriedOut"] is False


async def test_a_store_that_forgets_keeps_no_trail(tmp_path: Path) -> None:
    """In memory all calls work, none is entered, and the start says that."""
    with capture_logs() as log:
        await _without_a_trail(tmp_path)
    assert [line["log_level"] for line in log if line["event"] == "no audit trail"] == ["warning"]


async def _without_a_trail(tmp_path: Path) -> None:
    async with (
        running(tmp_path, policy("http://127.0.0.1:9", store="memory://")) as holdfast,
        aiohttp.ClientSession() as http,
    ):
        order = {"orderId": "o-1"}
        reply = await fetch(http, "POST", f"{holdfast.api}/session/create", json=order)
        one = f"{holdfast.api}/session/{reply.json['sessionId']}"
        assert (await fetch(http, "POST", f"{one}/cancel", json=CANCEL)).status == 200
        assert (await fetch(http, "POST", f"{one}/complete", json=EVIDENCE)).status == 409
        assert holdfast.holdfast._settings.audit is None
