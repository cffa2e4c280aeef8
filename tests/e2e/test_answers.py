"""What a merchant's SDK gets through Holdfast is what it gets directly: objects, exceptions, bytes.

Each test does the same twice, directly and through Holdfast, and compares.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.answers import (
    ADDED,
    HOP_BY_HOP,
    LOCALSTRIPE_DAY,
    MOCK_DAY,
    Asked,
    Day,
    added_headers,
    bodies,
    day_at_localstripe,
    day_at_the_mock,
    in_short,
    lost_headers,
    named_by_node,
    requests_at,
    told,
)
from tests.e2e.policies import NO_IDEMPOTENCY, holdfast
from tests.e2e.sdks import CHARGE, PAID, Heard, Opener, class_name, stripe_node
from tests.support import parts
from tests.support.parts import Part
from tests.support.raw import RawConnection, always, raw_server
from tests.support.running import free_port
from tests.support.tcp_faults import REFUSED, tcp_faults


def expected(sdk: Opener, table: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """A table with the SDK's own names for its exceptions."""
    return named_by_node(table) if sdk is stripe_node else table


# --- real parts -----------------------------------------------------------------------------------


async def test_a_day_at_localstripe(sdk: Opener, localstripe: Part, tmp_path: Path) -> None:
    """Payment intents, refunds, lists and errors: every object and exception is the same."""
    async with sdk(localstripe.url, 0, tmp_path) as shop:
        direct = await day_at_localstripe(shop)
    localstripe.forget_everything()
    async with (
        holdfast(tmp_path, localstripe.url, gateway=NO_IDEMPOTENCY) as proxy,
        sdk(proxy.url, 0, tmp_path) as shop,
    ):
        through = await day_at_localstripe(shop)

    assert in_short(direct) == expected(sdk, LOCALSTRIPE_DAY)
    assert told(through) == told(direct)
    for (step, before), (_, after) in zip(direct, through, strict=True):
        if step != "every page":  # a walk over several answers
            assert (step, added_headers(before, after)) == (step, ADDED)
            assert (step, lost_headers(before, after) - HOP_BY_HOP) == (step, set())


async def test_a_day_at_the_stateful_mock(sdk: Opener, tmp_path: Path) -> None:
    """Charges, replays and an error of every class: the same but for what Holdfast says itself."""
    async with _mock(tmp_path) as mock, sdk(mock.url, 0, tmp_path) as shop:
        direct = await day_at_the_mock(shop)
    async with (
        _mock(tmp_path) as mock,
        holdfast(tmp_path, mock.url) as proxy,
        sdk(proxy.url, 0, tmp_path) as shop,
    ):
        through = await day_at_the_mock(shop)

    assert in_short(direct) == expected(sdk, MOCK_DAY)
    assert in_short(through) == expected(sdk, MOCK_DAY)
    # A key that Holdfast knows is refused by Holdfast itself: same class, status and type.
    assert _without(through, "other parameters") == _without(direct, "other parameters")
    ours = dict(through)["other parameters"]
    assert ours.body["error"]["type"] == "idempotency_error"
    assert ours.error_code == "idempotency_key_reused"
    _headers_of_the_mocks_day(dict(direct), dict(through))


def _headers_of_the_mocks_day(direct: dict[str, Heard], through: dict[str, Heard]) -> None:
    more = {
        # Holdfast has repeated them as far as is right, and says so.
        "tok_429": {"stripe-should-retry"},
        # The second send was a replay at the gateway: a stored 500 never changes.
        "tok_500": {"stripe-should-retry", "idempotent-replayed", "original-request"},
    }
    # What Holdfast replays keeps the headers that mean the same later.
    fewer = {"again": {"date", "etag", "original-request", "x-powered-by"}}
    for step in direct.keys() - {"other parameters"}:
        added = ADDED | more.get(step, set())
        lost = fewer.get(step, set())
        assert (step, added_headers(direct[step], through[step])) == (step, added)
        assert (step, lost_headers(direct[step], through[step]) - HOP_BY_HOP) == (step, lost)
    assert direct["again"].headers["idempotent-replayed"] == "true"
    assert through["again"].headers["idempotent-replayed"] == "true"


async def test_the_gateways_own_word_on_a_reused_key(
    sdk: Opener, stripe_mock: Part, tmp_path: Path
) -> None:
    """A key that only the gateway knows: its refusal goes back as it is."""
    other = {**CHARGE, "amount": 2999}
    async with sdk(stripe_mock.url, 0, tmp_path) as shop:
        await shop.call("charges.create", params=CHARGE, idempotency_key="k-1")
        direct = await shop.call("charges.create", params=other, idempotency_key="k-1")
    async with (
        holdfast(tmp_path, stripe_mock.url) as proxy,
        sdk(proxy.url, 0, tmp_path) as shop,
    ):
        through = await shop.call("charges.create", params=other, idempotency_key="k-1")

    assert direct.raised == class_name(sdk, "IdempotencyError")
    assert told([("", through)]) == told([("", direct)])


def _mock(folder: Path) -> contextlib.AbstractAsyncContextManager[Part]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Part]:
        with parts.stripe_stateful_mock(folder) as part:
            yield part

    return opened()


def _without(day: Day, step: str) -> list[object]:
    return [entry for entry in told(day) if entry.step != step]


# --- every status, byte for byte ------------------------------------------------------------------


def _answer(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _error(status: str, kind: str, code: str) -> bytes:
    error = {"type": kind, "code": code, "message": f"¡{code}!", "param": "amount"}
    body = json.dumps({"error": error}, indent=2, ensure_ascii=False).encode() + b"\n"
    return _answer(status, body, "Content-Type: application/json", "Request-Id: req_1")


_SUCCEEDED = b'{ "id":"pi_1",  "object" : "payment_intent","status":"succeeded" }\n'
_JSON = "Content-Type: application/json"
# Label → the gateway's answer, and what stripe-python makes of it.
CANNED: dict[str, tuple[bytes, str]] = {
    "ok": (_answer("200 OK", _SUCCEEDED, _JSON), "succeeded"),
    "zipped": (
        _answer("200 OK", gzip.compress(_SUCCEEDED, mtime=0), _JSON, "Content-Encoding: gzip"),
        "succeeded",
    ),
    "chunked": (
        f"HTTP/1.1 200 OK\r\n{_JSON}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b"%x\r\n%s\r\n0\r\n\r\n" % (len(_SUCCEEDED), _SUCCEEDED),
        "succeeded",
    ),
    "400": (_error("400 Bad Request", "invalid_request_error", "x"), "InvalidRequestError"),
    "400-key": (_error("400 Bad Request", "idempotency_error", "x"), "IdempotencyError"),
    "401": (_error("401 Unauthorized", "invalid_request_error", "x"), "AuthenticationError"),
    "402": (_error("402 Payment Required", "card_error", "card_declined"), "CardError"),
    "403": (_error("403 Forbidden", "invalid_request_error", "x"), "PermissionError"),
    "404": (_error("404 Not Found", "invalid_request_error", "x"), "InvalidRequestError"),
    "409": (_error("409 Conflict", "idempotency_error", "key_in_use"), "APIError"),
    "429": (_error("429 Too Many Requests", "rate_limit_error", "rate_limit"), "RateLimitError"),
    "500": (_error("500 Internal Server Error", "api_error", "x"), "APIError"),
    "503": (_error("503 Service Unavailable", "api_error", "x"), "APIError"),
    "502-html": (_answer("502 Bad Gateway", b"<h1>Bad gateway</h1>"), "APIError"),
}


async def _by_label(connection: RawConnection) -> None:
    """A recording gateway: the label stands in the path of a read or the metadata of a payment."""
    while True:
        request = await connection.request()
        found = re.search(rb"(?:payment_intents/|metadata\[label\]=)([a-z0-9-]+)", request)
        assert found is not None, request
        label = found[1].decode()
        if label == "zipped" and b"gzip" not in request:
            label = "ok"
        await connection.send(CANNED[label][0])


async def _every_label(sdk: Opener, url: str, folder: Path) -> list[tuple[str, Heard]]:
    told_by_sdk = []
    async with sdk(url, 0, folder) as shop:
        for label in CANNED:
            paid = {**PAID, "metadata": {"label": label}}
            key = f"k-{label}"
            told_by_sdk += [
                (
                    f"pay {label}",
                    await shop.call("payment_intents.create", params=paid, idempotency_key=key),
                ),
                (f"read {label}", await shop.call("payment_intents.retrieve", label)),
            ]
    return told_by_sdk


async def test_every_status_byte_for_byte(sdk: Opener, tmp_path: Path) -> None:
    """Whatever a gateway answers, the SDK gets those bytes and raises the same exception."""
    async with (
        raw_server(_by_label) as gateway,
        tcp_faults(gateway.port) as directly,
        holdfast(tmp_path, gateway.origin, more=_NO_BREAKER) as proxy,
        tcp_faults(proxy.port) as before_holdfast,
    ):
        direct = await _every_label(sdk, directly.url, tmp_path)
        through = await _every_label(sdk, before_holdfast.url, tmp_path)

    table = [
        (f"{verb} {label}", short, int(answer[9:12]))
        for label, (answer, short) in CANNED.items()
        for verb in ("pay", "read")
    ]
    if sdk is stripe_node:  # no status on an answer that is not JSON
        table = [(s, c, None if "html" in s else n) for s, c, n in table]  # type: ignore[misc]
    assert in_short(direct) == expected(sdk, table)
    assert told(through) == told(direct)
    assert [b for c in before_holdfast.connections for b in bodies(bytes(c.given))] == [
        b for c in directly.connections for b in bodies(bytes(c.given))
    ]


_NO_BREAKER = "defaults: {breaker: {min_calls: 1000}}"


async def test_requests_arrive_as_they_were_made(sdk: Opener, tmp_path: Path) -> None:
    """The gateway sees the same request line, headers and body; only hop headers and Via differ."""
    paid = {**PAID, "metadata": {"label": "ok", "note": "10 % ~ ½ + é"}}

    async def ask(url: str) -> None:
        async with sdk(url, 0, tmp_path) as shop:
            await shop.call("payment_intents.create", params=paid, idempotency_key="k-1")
            await shop.call("payment_intents.retrieve", "ok", {"expand": ["latest_charge"]})
            await shop.call("customers.create", params={"name": "Ä"}, idempotency_key="k-2")

    async with (
        raw_server(always(CANNED["ok"][0])) as gateway,
        holdfast(tmp_path, gateway.origin) as proxy,
    ):
        await ask(gateway.origin)
        asked_directly = requests_at(gateway)
        await ask(proxy.url)
        asked_through = requests_at(gateway)[len(asked_directly) :]

    assert len(asked_directly) == 3
    assert [_plain(request) for request in asked_through] == [
        _plain(request) for request in asked_directly
    ]


def _plain(asked: Asked) -> Asked:
    of_this_hop = ("host:", "connection:", "via:", "x-stripe-client-telemetry:")
    kept = sorted(h for h in asked.headers if not h.lower().startswith(of_this_hop))
    return Asked(asked.line, tuple(kept), asked.body)


# --- file upload ----------------------------------------------------------------------------------


async def test_a_file_goes_up_whole(sdk: Opener, tmp_path: Path) -> None:
    """A file larger than any payment passes through in one piece, with its Content-Length."""
    data = bytes(range(256)) * 8192  # 2 MiB: the limit of routes that are read whole is 1 MiB
    file = {"name": "evidence.bin", "type": "application/octet-stream", "data": data}
    params = {"purpose": "dispute_evidence", "file": file}

    created = b'{"id":"file_1","object":"file","purpose":"dispute_evidence"}'
    answer = _answer("200 OK", created, _JSON)

    async with raw_server(always(answer)) as gateway, holdfast(tmp_path, gateway.origin) as proxy:
        async with sdk(gateway.origin, 0, tmp_path) as shop:
            direct = await shop.call("files.create", params=params)
        async with sdk(proxy.url, 0, tmp_path) as shop:
            through = await shop.call("files.create", params=params)
        uploads = requests_at(gateway)

    assert direct.body == {"id": "file_1", "object": "file", "purpose": "dispute_evidence"}
    assert through.body == direct.body
    assert len(uploads) == 2
    for upload in uploads:
        assert f"Content-Length: {len(upload.body)}" in upload.headers
    first, second = (_without_boundary(upload.body) for upload in uploads)
    assert data in first
    assert second == first


def _without_boundary(body: bytes) -> bytes:
    boundary = body.split(b"\r\n")[0]
    return body.replace(boundary, b"--boundary")


# --- no answer at all -----------------------------------------------------------------------------


async def test_nobody_listens(sdk: Opener, tmp_path: Path) -> None:
    """Directly that is a connection error; through Holdfast an API error that says nothing left."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with sdk(nowhere, 0, tmp_path) as shop:
        direct = await shop.call("payment_intents.create", params=PAID)
    async with holdfast(tmp_path, nowhere) as proxy, sdk(proxy.url, 0, tmp_path) as shop:
        through = await shop.call("payment_intents.create", params=PAID)

    assert (direct.raised, direct.status) == (class_name(sdk, "APIConnectionError"), None)
    assert (through.raised, through.status) == (class_name(sdk, "APIError"), 502)
    assert through.error_code == "retries_exhausted"


@pytest.mark.parametrize(
    ("call", "status", "code"),
    [
        (("payment_intents.create", None, PAID), 504, "outcome_unknown"),
        (("payment_intents.retrieve", "pi_1", None), 502, "gateway_failed"),
    ],
    ids=["payment", "read"],
)
async def test_the_gateway_hangs_up(
    sdk: Opener,
    tmp_path: Path,
    call: tuple[str, str | None, dict[str, object] | None],
    status: int,
    code: str,
) -> None:
    """Directly that is a connection error; through Holdfast an API error that says more."""
    async with (
        raw_server(_by_label) as gateway,
        tcp_faults(gateway.port, *[REFUSED] * 9) as broken,
        holdfast(tmp_path, broken.url) as proxy,
    ):
        async with sdk(broken.url, 0, tmp_path) as shop:
            direct = await shop.call(*call)
        async with sdk(proxy.url, 0, tmp_path) as shop:
            through = await shop.call(*call)

    assert (direct.raised, direct.status) == (class_name(sdk, "APIConnectionError"), None)
    assert (through.raised, through.status) == (class_name(sdk, "APIError"), status)
    assert through.error_code == code
