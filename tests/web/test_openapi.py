"""The document of the session API against the running server: nothing more, nothing less."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import json
import re
import shlex
import string
import typing
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import schemathesis
import yaml
from aiohttp import web
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from schemathesis.engine import Status, events, from_schema

from proxy.core.events import Event
from proxy.core.reasons import Reason
from proxy.core.states import Outcome, State
from proxy.core.wire import Phase
from proxy.demo.faults import Fault
from proxy.demo.gateway import SimulatedGateway
from proxy.flow.commands import Mode
from proxy.web import sessions_api
from proxy.web.sessions_api import OPENAPI
from tests.support.running import ROOT, policy, simulated
from tests.support.stage import (
    MATRIX,
    STATES,
    LeapingClock,
    Reply,
    ScriptedFaults,
    Stage,
    running_on,
    staged,
)

JsonObject = dict[str, Any]

TOKENS = {
    "HOLDFAST_VIEWER_TOKEN": "the-viewer-s-token",
    "HOLDFAST_BACKEND_TOKEN": "the-backend-s-token",
    "HOLDFAST_OPERATOR_TOKEN": "the-operator-s-token",
}
OPERATOR = {"Authorization": "Bearer the-operator-s-token"}
DOCUMENT: JsonObject = yaml.safe_load(OPENAPI.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True, scope="module")
def no_stray_loop() -> None:
    """Looptime asks for the current loop before synchronous tests too; asyncio would then make one
    that nobody closes, and some later test would fail for it.
    """
    asyncio.set_event_loop(None)


def operations() -> Iterator[tuple[str, str, JsonObject]]:
    """(method, path, operation) of the document."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                yield method.upper(), path, operation


def closed(node: Any) -> Any:
    """The same, but objects have no fields beside those described: what the server gives must be
    described. In the document they stay open, so that a client survives a new field.
    """
    if isinstance(node, list):
        return [closed(part) for part in node]
    if not isinstance(node, dict):
        return node
    result = {name: closed(part) for name, part in node.items()}
    if result.get("type") == "object" and "properties" in result:
        result.setdefault("additionalProperties", False)
    return result


CLOSED: JsonObject = closed(DOCUMENT)


def resolved(node: JsonObject) -> JsonObject:
    """Follow a reference inside the document."""
    while "$ref" in node:
        target: Any = CLOSED
        for step in node["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        node = target
    return node


def check(value: object, schema: JsonObject, where: str) -> None:
    """A value against a schema of the document."""
    validator = OAS31Validator({**schema, "components": CLOSED["components"]})
    mistakes = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
    assert not mistakes, (where, mistakes)


# --- the document by itself ----------------------------------------------------------------------


def test_the_document_is_valid() -> None:
    """OpenAPI 3.1 by the letter."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    validate(DOCUMENT)


def test_every_operation_has_a_name_of_its_own() -> None:
    """Generated clients name their methods after them."""
    names = Counter(operation["operationId"] for _, _, operation in operations())
    assert set(names.values()) == {1}


def test_every_call_is_shown_by_example() -> None:
    """Each body sent or answered has an example, and each example is what its schema says."""
    for method, path, operation in operations():
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        bodies += [resolved(answer) for answer in operation["responses"].values()]
        for body in bodies:
            for media, content in body["content"].items():
                where = f"{method} {path} {media}"
                if media == "application/yaml":
                    continue
                assert content.get("examples"), where
                for example in content["examples"].values():
                    check(resolved(example)["value"], closed(content["schema"]), where)
        for parameter in operation.get("parameters", []):
            told = resolved(parameter)
            check(told["example"], told["schema"], f"{path} {told['name']}")


def test_the_words_are_those_of_the_code() -> None:
    """The lists of states, outcomes, reasons, phases and events cannot drift from the code."""
    schemas = DOCUMENT["components"]["schemas"]
    interruption = schemas["Interruption"]["properties"]
    step = schemas["Summary"]["properties"]["timeline"]["items"]["properties"]
    assert schemas["Status"]["enum"] == [state.value for state in State]
    assert schemas["Outcome"]["enum"] == [outcome.value for outcome in Outcome]
    assert interruption["reason"]["enum"] == [reason.value for reason in Reason]
    assert interruption["phase"]["enum"] == [phase.value for phase in Phase]
    assert step["event"]["enum"] == [event.__name__ for event in typing.get_args(Event)]
    assert schemas["Resumed"]["properties"]["mode"]["enum"] == [mode.value for mode in Mode]


def test_unknown_fields_are_refused_by_the_document_too() -> None:
    """Every body a client sends is closed, at every depth."""
    sent = [
        resolved(content["schema"])
        for _, _, operation in operations()
        for content in operation.get("requestBody", {}).get("content", {}).values()
    ]
    assert len(sent) == 6
    for schema in sent:
        assert DOCUMENT["components"]["schemas"]["Complete"]["additionalProperties"] is False
        assert schema["additionalProperties"] is False


# --- the document and the server -----------------------------------------------------------------


def routed(app: web.Application) -> set[tuple[str, str]]:
    """(method, path) of everything an application answers."""
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }


async def test_the_routes_are_those_of_the_document(tmp_path: Path) -> None:
    """The router knows exactly the paths and methods described (HEAD goes with GET)."""
    async with staged(tmp_path) as stage:
        runners = stage.running.holdfast._listeners._runners
        apps = [runner.app for runner in runners if isinstance(runner, web.AppRunner)]
        (routes,) = [known for app in apps if ("GET", "/openapi.yaml") in (known := routed(app))]
    described = {(method, path) for method, path, _ in operations()}
    heads = {("HEAD", path) for method, path in described if method == "GET"}
    assert routes == described | heads


async def test_the_document_is_served(tmp_path: Path) -> None:
    """Byte for byte, to everyone, also where tokens are asked for."""
    for environ in ({}, TOKENS):
        async with staged(tmp_path, environ=environ) as stage:
            url = stage.running.api.removesuffix("/api/payments")
            reply = await stage.request("GET", f"{url}/openapi.yaml")
            assert (reply.status, reply.header("Content-Type")) == (200, "application/yaml")
            assert reply.body == OPENAPI.read_bytes()


# Every answer of the document, really given: (operation, status) → how to come by it.
Give = Callable[[Stage], Awaitable[Reply]]
CANCEL = {"reason": "the shopper left"}
BODY: dict[str, JsonObject | None] = {
    "createSession": {"orderId": "o-9"},
    "resumeSession": None,
    "completeSession": {"paymentDetails": {"reference": "pi_77"}},
    "sayNotCharged": {"reference": "not in the dashboard"},
    "cancelSession": CANCEL,
    "interruptSession": CANCEL,
}
# The state a session must be in for the answer.
IN_STATE: dict[tuple[str, str], str] = {
    ("getSession", "200"): "resumed, in flight",
    ("summarizeSession", "200"): "failed",
    ("resumeSession", "202"): "interrupted",
    ("resumeSession", "200"): "completed",
    ("resumeSession", "409"): "created",
    ("completeSession", "200"): "interrupted, unknown",
    ("completeSession", "409"): "declined",
    ("sayNotCharged", "200"): "failed, unknown",
    ("sayNotCharged", "409"): "completed",
    ("cancelSession", "200"): "interrupted",
    ("cancelSession", "202"): "in flight",
    ("cancelSession", "409"): "completed",
    ("interruptSession", "200"): "created",
    ("interruptSession", "202"): "in flight",
    ("interruptSession", "409"): "declined",
    ("resumeSession", "412"): "interrupted",
    ("completeSession", "412"): "interrupted, unknown",
    ("sayNotCharged", "412"): "interrupted, unknown",
    ("cancelSession", "412"): "interrupted",
    ("interruptSession", "412"): "created",
    ("createSession", "200"): "created",
    ("createSession", "409"): "interrupted, unknown",
}
# The active list is answered from memory here; a store that has to ask elsewhere can fail.
NEVER_GIVEN = {("listActiveSessions", "503")}
# It takes a gateway that signs: tests/web/test_webhooks.py.
GIVEN_ELSEWHERE = "receiveWebhook"


def answers() -> list[tuple[str, str]]:
    """(operation, status) of every answer described."""
    return [
        (operation["operationId"], status)
        for _, _, operation in operations()
        for status in operation["responses"]
        if operation["operationId"] != GIVEN_ELSEWHERE
    ]


async def ask(stage: Stage, operation: str, status: str, **more: Any) -> Reply:
    """Make the call that comes to this answer."""
    method, path = next(
        (method, path)
        for method, path, described in operations()
        if described["operationId"] == operation
    )
    body = BODY.get(operation)
    session_id = "ps_none"
    if (state := IN_STATE.get((operation, status))) is not None:
        session_id = await STATES[state](stage, "o-1")
        if operation == "createSession":
            body = {"orderId": "o-1"}
    elif status == "503":
        state = "failed, unknown" if operation == "sayNotCharged" else "interrupted"
        session_id = await failing_store(stage, None if method == "GET" else state)
    if status == "422":
        body, path = ({"x": 1}, path) if method == "POST" else (None, f"{path}?x=1")
    sent = b"{" if status == "400" else b" " * 70_000 if status == "413" else json.dumps(body)
    data = None if method == "GET" or (body is None and status.startswith("2")) else sent
    if operation == "resumeSession" and status in {"401", "403", "404", "409", "412", "503"}:
        data = None
    url = stage.running.api.removesuffix("/api/payments") + path.replace("{id}", session_id)
    return await stage.request(method, url, data=data, **more)


async def failing_store(stage: Stage, state: str | None) -> str:
    """Let the store fail as a full disk makes it, or without a state to read from, as an unreadable
    file does; a session to ask about.
    """
    store = stage.running.holdfast._store
    if state is None:
        session_id = await STATES["completed"](stage, "o-1")
        store._reader.close()  # type: ignore[attr-defined]  # as if the file were gone
        store._path = stage.running.holdfast._store._path / "gone"  # type: ignore[attr-defined]
        return session_id
    session_id = await STATES[state](stage, "o-1")
    await stage.fill_store()
    return session_id


def test_no_answer_is_forgotten() -> None:
    """The table above speaks of answers that there are."""
    assert set(IN_STATE) <= set(answers())
    assert set(answers()) >= NEVER_GIVEN


GIVEN = [pair for pair in answers() if pair not in NEVER_GIVEN]


@pytest.mark.parametrize(("operation", "status"), GIVEN, ids=[" ".join(pair) for pair in GIVEN])
async def test_every_answer_described_is_really_given(
    tmp_path: Path, operation: str, status: str
) -> None:
    """Each documented status can be had, with the headers, media type and fields described."""
    guarded = status in {"401", "403"}
    more: JsonObject = {}
    if status == "403":
        more["headers"] = {"Authorization": "Bearer the-viewer-s-token"}
    if status == "412":
        more["headers"] = {"If-Match": '"99"'}
    async with staged(tmp_path, environ=TOKENS if guarded else {}) as stage:
        reply = await ask(stage, operation, status, **more)
    assert reply.status == int(status), reply.body
    answer = resolved(
        next(d for _, _, d in operations() if d["operationId"] == operation)["responses"][status]
    )
    media = reply.header("Content-Type").partition(";")[0]
    (described,) = answer["content"].items()
    assert media == described[0]
    document = yaml.safe_load(reply.body) if media == "application/yaml" else reply.json
    check(document, resolved(described[1]["schema"]), f"{operation} {status}")
    for name, header in answer.get("headers", {}).items():
        check(reply.header(name), header["schema"], name)


# --- what a generator thinks of ------------------------------------------------------------------

EXAMPLES = 15
# What schemathesis takes for an acceptance, and for a refusal.
ACCEPTED = ["2xx", "3xx", 401, 403, 404, 409, 429, "5xx"]
REJECTED = [400, 401, 403, 404, 405, 406, 409, 415, 422, 428, "5xx"]


def for_the_test(
    stage: Stage, ids: list[str], *, guarded: bool, document: JsonObject = CLOSED
) -> Any:
    """The document as schemathesis gets it: closed, with the gateways there are, and real ids."""
    document = copy.deepcopy(document)
    gateways = sorted(stage.running.doors.gateways)
    document["components"]["schemas"]["Create"]["properties"]["gateway"] = {
        "enum": [*gateways, None]
    }
    if guarded:
        document["security"] = [{"token": []}]
    config: JsonObject = {
        "base-url": stage.running.api.removesuffix("/api/payments"),
        "seed": 1,
        "dictionaries": {"sessions": {"values": ids}},
        "parameters": {"path.id": {"dictionary": "sessions", "probability": 0.8}},
        "generation": {"deterministic": True, "max-examples": EXAMPLES, "database": "none"},
        "phases": {"stateful": {"max-steps": 8}},
        "request-timeout": 20.0,
        # Which version a session has is nothing that a document can say.
        "checks": {
            "positive_data_acceptance": {"expected-statuses": [*ACCEPTED, 412]},
            "negative_data_rejection": {"expected-statuses": [*REJECTED, 412]},
        },
    }
    if guarded:
        config["headers"] = OPERATOR
    return schemathesis.openapi.from_dict(document, config=schemathesis.Config.from_dict(config))


def mistakes_found(schema: Any) -> tuple[list[str], Counter[tuple[str, int]]]:
    """Run every phase (examples, coverage, fuzzing, stateful) with every check; what failed, and
    how often each call got each status.
    """
    mistakes: list[str] = []
    seen: Counter[tuple[str, int]] = Counter()
    for event in from_schema(schema).execute():
        match event:
            case events.NonFatalError():
                mistakes.append(f"{event.label}: {event.value}")
            case events.FatalError():
                raise event.exception
            case events.ScenarioFinished(recorder=recorder):
                for case_id, interaction in recorder.interactions.items():
                    if interaction.response is not None:
                        label = recorder.cases[case_id].value.operation.label
                        seen[label, interaction.response.status_code] += 1
                mistakes += [
                    f"{found.name}: {found.failure_info.failure.message}\n"
                    f"{found.failure_info.code_sample}"
                    for checks in recorder.checks.values()
                    for found in checks
                    if found.status is Status.FAILURE and found.failure_info is not None
                ]
            case _:
                pass
    return mistakes, seen


@contextlib.asynccontextmanager
async def every_state(folder: Path, *, guarded: bool) -> AsyncIterator[tuple[Stage, list[str]]]:
    """A stage with a session in every state, more that only a person can settle, and their ids."""
    environ, token = (TOKENS, "the-operator-s-token") if guarded else ({}, None)
    async with staged(folder, environ=environ, token=token) as stage:
        builds = [*STATES.values(), *[STATES["interrupted, unknown for good"]] * 10]
        ids = [await build(stage, f"o-{n}") for n, build in enumerate(builds)]
        stage.clock.leap(121)  # the gateway is done with all of them
        yield stage, ids


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a generated body
@pytest.mark.parametrize("guarded", [False, True], ids=["open", "with tokens"])
async def test_schemathesis_finds_no_mismatch(tmp_path: Path, guarded: bool) -> None:
    """Hundreds of made-up calls on sessions in every state: all answers as described, no 5xx."""
    async with every_state(tmp_path, guarded=guarded) as (stage, ids):
        schema = for_the_test(stage, ids, guarded=guarded)
        mistakes, seen = await asyncio.to_thread(mistakes_found, schema)
        # Whatever was thrown at it, it still serves.
        assert (await stage.request("GET", f"{stage.running.admin}/readyz")).status == 200
    assert not mistakes, "\n\n".join(mistakes)
    assert not [pair for pair in seen if pair[1] >= 500]
    labels = {f"{method} {path}" for method, path, _ in operations()}
    assert {label for label, _ in seen} == labels
    # It got through to the sessions, and was refused as well.
    for label in labels - {"GET /openapi.yaml", "POST /webhooks/{gateway}"}:
        assert any(seen[label, status] for status in (200, 201, 202)), label
        assert any(seen[label, status] for status in (400, 404, 422)), label
    assert seen.total() >= 500


async def test_schemathesis_would_find_a_mismatch(tmp_path: Path) -> None:
    """The control: a field that the document does not know is found at once."""
    document = copy.deepcopy(CLOSED)
    del document["components"]["schemas"]["Page"]["properties"]["next"]
    document["components"]["schemas"]["Page"]["required"].remove("next")
    async with staged(tmp_path) as stage:
        schema = for_the_test(stage, ["ps_none"], guarded=False, document=document)
        only = schema.include(path="/api/payments/sessions/active")
        mistakes, _ = await asyncio.to_thread(mistakes_found, only)
    assert [mistake for mistake in mistakes if "response_schema_conformance" in mistake]


# --- the page for backends -----------------------------------------------------------------------

PAGE = ROOT / "docs" / "api.md"
# What differs from run to run; everything else is as the page says.
VOLATILE = frozenset(
    {
        "sessionId", "clientToken", "expiresAt", "startedAt", "lastActivity", "at", "next", "id",
        "processingTime", "atGateway",
    }
)  # fmt: skip
_EXAMPLE = re.compile(
    r"```sh\n(?P<script>.*?)```\n"
    r"(?:\nAnswer `(?P<status>\d+)`[^\n]*\n\n```json\n(?P<answer>.*?)```)?",
    re.DOTALL,
)


def examples() -> list[tuple[str, int, Any]]:
    """(script, status, answer) of the page, in its order; status 0: it tells no answer."""
    return [
        (match["script"], int(match["status"] or 0), json.loads(match["answer"] or "null"))
        for match in _EXAMPLE.finditer(PAGE.read_text(encoding="utf-8"))
    ]


async def curl(stage: Stage, words: list[str]) -> Reply:
    """What the curl command would do; an option it does not know fails the test."""
    data: list[str] = []
    headers: dict[str, str] = {}
    method = url = ""
    rest = iter(words[1:])
    for word in rest:
        match word:
            case "-s":
                pass
            case "-X":
                method = next(rest)
            case "-d":
                data.append(next(rest))
            case "-H":
                name, _, value = next(rest).partition(": ")
                headers[name] = value
            case "-u":
                credential = base64.b64encode(next(rest).encode()).decode()
                headers["Authorization"] = f"Basic {credential}"
            case _:
                assert word.startswith("http://"), word
                url = word
    if data:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    body = "&".join(data) if data else None
    method = method or ("POST" if data else "GET")
    return await stage.request(method, url, data=body, headers=headers)


def alike(told: Any, given: Any, where: str) -> None:
    """The same, but for the values that differ from run to run; those must be of the same type."""
    if isinstance(told, dict):
        assert list(told) == list(given), where
        for name, value in told.items():
            if name in VOLATILE:
                assert type(given[name]) is type(value), f"{where}.{name}"
            else:
                alike(value, given[name], f"{where}.{name}")
    elif isinstance(told, list):
        assert len(told) == len(given), where
        for number, (one, other) in enumerate(zip(told, given, strict=True)):
            alike(one, other, f"{where}[{number}]")
    else:
        assert given == told, where


async def test_the_examples_of_the_page_are_real(tmp_path: Path) -> None:
    """Every command of docs/api.md, one after the other, gives the answer that stands below it."""
    gateway = SimulatedGateway(ScriptedFaults({("1002", 1): Fault.RESET_AFTER}))
    clock = LeapingClock()
    one_by_itself = "defaults: {retry: {automatic_attempts: 1}}\n"
    async with (
        simulated(gateway) as origin,
        running_on(
            clock, tmp_path, policy(origin, one_by_itself).replace("  gateway:", "  stripe:")
        ) as running,
        aiohttp.ClientSession() as http,
    ):
        stage = Stage(running, http, clock)
        names = {"HOLDFAST_BACKEND_TOKEN": "any", "SESSION": ""}
        ports = {"8080": running.port, "8081": running.doors.sessions.port}
        ran = 0
        for script, status, answer in examples():
            for line in script.replace("\\\n", " ").splitlines():
                if line.startswith("SESSION="):  # the one answered last, by its name on the page
                    continue
                text = string.Template(line).substitute(names)
                for told, real in ports.items():
                    text = text.replace(f"127.0.0.1:{told}/", f"127.0.0.1:{real}/")
                reply = await curl(stage, shlex.split(text))
                ran += 1
                assert reply.status == (status or 200), (script, reply.body)
                if status:
                    alike(answer, reply.json, script)
                if status in {201, 504}:
                    names["SESSION"] = reply.json["sessionId"]
                await stage.quiet()
    assert ran == 19
    assert gateway.ledger.per_order() == {"1001": 1, "1002": 1}


def test_the_page_names_every_call_and_every_problem() -> None:
    """No path of the document, and no problem the API makes, is missing on the page."""
    page = PAGE.read_text(encoding="utf-8")
    for _, path, _ in operations():
        told = path.replace("{id}", "$SESSION")
        assert told in page, path
    source = Path(sessions_api.__file__).read_text(encoding="utf-8")
    codes = set(re.findall(r'ApiProblem\(\s*\d+, "([a-z-]+)"', source))
    codes |= set(re.findall(r"/problems/([a-z-]+)", source))
    assert len(codes) == 8
    for code in codes:
        assert f"`/problems/{code}`" in page, code


def test_the_page_has_the_matrix_of_the_tests() -> None:
    """Each row of the page's table is what the server was seen to do, state by state."""
    rows = re.findall(
        r"^\| (`[A-Z].*?) \| (\d+.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    told = {state: [int(cell.split()[0]) for cell in cells.split("|")] for state, cells in rows}
    seen = {
        state: [status for known, _, status, *_ in MATRIX if known == state] for state in STATES
    }
    verbs = [verb for known, verb, *_ in MATRIX if known == "created"]
    assert verbs == ["resume", "cancel", "interrupt", "complete", "not-charged"]
    names = {
        "`INITIATED`, open": ["created"],
        "`INITIATED`, in flight": ["in flight"],
        "`RESUMED`, open": ["resumed"],
        "`RESUMED`, in flight": ["resumed, in flight"],
        "`INTERRUPTED`, in flight": ["held, in flight"],
        "`INTERRUPTED`, not charged": ["interrupted"],
        "`INTERRUPTED`, unknown": ["interrupted, unknown"],
        "`INTERRUPTED`, unknown, up for review": ["interrupted, unknown for good"],
        "`COMPLETED`, charged": ["completed"],
        "`COMPLETED`, not charged (waits for the payer)": ["accepted"],
        "`DECLINED`, `EXPIRED`": ["declined", "expired"],
        "`CANCELLED`": ["cancelled"],
        "`FAILED_MAX_RETRIES`, not charged": ["failed"],
        "`FAILED_MAX_RETRIES`, unknown": ["failed, unknown"],
    }
    assert set(told) == set(names)
    assert {state for states in names.values() for state in states} == set(STATES)
    for row, states in names.items():
        for state in states:
            assert told[row] == seen[state], (row, state)
