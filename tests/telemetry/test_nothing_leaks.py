"""Card numbers, security codes and credentials go through Holdfast and stay nowhere.

A real process takes payments that succeed, are declined, lost, cut, malformed and too large, at a
gateway that says everything it hears again in its answers. Then every place Holdfast writes or says
something to is searched: its log, its metrics, the session API, its own answers, and its files
while it runs, after a kill, and after it has started and stopped once more.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import apsw
import pytest
import pytest_asyncio

from proxy.keyring import Keyring
from tests.support.raw import RawConnection, exchange, raw_server
from tests.support.running import HoldfastProcess

PANS = ("4242424242424242", "4000000000000002", "378282246310005", "5555 5555 5555 4444")
CREDENTIALS = ("sk_test_4eC39HqLyjWDarjtT1zdp7dc", "dXNlcjpzZWNyZXQtd29yZA==")
# Three digits are found anywhere; the code with the name of its field, as forms and JSON write it.
CODES = ('cvc]=917"', "cvc]=917&", "cvc%5D=917", '"cvc": "917"', '"cvc":"917"', "cvc=917")
SECRETS = (*PANS, *CREDENTIALS, *CODES)

MORE = """
defaults:
  timeouts: {connect: 1s, attempt: 500ms, total: 3s}
  retry: {max_attempts: 2, backoff: {initial: 10ms, max: 20ms}}
  max_body: 64KiB
"""


def encodings(secret: str) -> set[bytes]:
    """A secret as bytes: plain, quoted, as hexadecimal, and as base64 wherever it may begin."""
    raw = secret.encode()
    # Only whole groups of three bytes are spelled the same whatever stands around them.
    groups = {raw[n : n + (len(raw) - n) // 3 * 3] for n in range(3)}
    shifted = {base64.b64encode(group) for group in groups}
    quoted = secret.replace(" ", "+").encode(), secret.replace(" ", "%20").encode()
    return {raw, *quoted, raw.hex().encode(), *(part for part in shifted if len(part) >= 8)}


def leaks(data: bytes) -> list[str]:
    """The secrets that stand in some bytes."""
    return [secret for secret in SECRETS if any(form in data for form in encodings(secret))]


# --- a gateway that repeats everything ------------------------------------------------------------


def _answer(status: str, told: bytes, kind: str) -> bytes:
    """An answer that holds the whole request, in its body and in headers."""
    body = json.dumps(
        {"id": "pi_1", "object": "payment_intent", "status": kind, "echo": told.decode("latin-1")}
    ).encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Echo: {PANS[0]}\r\n"
        f"Set-Cookie: card={PANS[1]}\r\nRequest-Id: req_{CREDENTIALS[0]}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def _echoing(connection: RawConnection) -> None:
    """Do what the request's X-Do header asks for, and say everything again."""
    while True:
        told = await connection.request()
        _, _, after = told.partition(b"X-Do: ")
        what = after.split(b"\r\n")[0].decode()
        if what == "lose":
            connection.reset()
            return
        if what == "cut":
            await connection.send(_answer("200 OK", told, "succeeded")[:-20])
            connection.reset()
            return
        if what == "hang":
            await connection.reader.read()  # until the other side gives up
            return
        if what == "babble":
            await connection.send(f"HTTP/1.1 {PANS[0]} {told!r}\r\n\r\n".encode())
            return
        status, kind = {
            "decline": ("402 Payment Required", "requires_payment_method"),
            "fail": ("503 Service Unavailable", "failed"),
            "flood": ("200 OK", "succeeded"),
        }.get(what, ("200 OK", "succeeded"))
        if what == "flood":
            told *= 20_000  # more than is kept
        await connection.send(_answer(status, told, kind))


# --- the traffic ----------------------------------------------------------------------------------

FORM = {
    "amount": "1999",
    "currency": "eur",
    "confirm": "true",
    "payment_method_data[card][number]": PANS[0],
    "payment_method_data[card][cvc]": "917",
    "statement": f"{PANS[1]} {PANS[2]} {PANS[3]}",
}
CARD = {"number": PANS[0], "cvc": "917", "others": PANS[1:]}
JSON_BODY = {"amount": 1999, "currency": "eur", "card": CARD}
HEADERS = {
    "Authorization": f"Bearer {CREDENTIALS[0]}",
    "X-Basic": f"Basic {CREDENTIALS[1]}",
    "X-Card": " ".join(PANS),
}

# What passes the parser of some listener is answered, and the connection is closed as it asks.
_HEAD = "HTTP/1.1\r\nHost: a\r\nConnection: close"
MALFORMED = [
    f"POST /v1/payment_intents {_HEAD}\r\nX-Card: {PANS[0]}\x01\r\n\r\n",
    f"POST /v1/payment_intents {_HEAD}\r\nX-Card: {PANS[0] * 2000}\r\n\r\n",
    f"GET /v1/balance?card={PANS[0]}&{'a' * 9000} {_HEAD}\r\n\r\n",
    f"POST /v1/payment_intents {_HEAD}\r\n: {PANS[0]}\r\n\r\n",
    f"POST /v1/x {_HEAD}\r\nContent-Length: {PANS[0]}\r\nContent-Length: 1\r\n\r\n",
    f"POST /v1/x {_HEAD}\r\nTransfer-Encoding: {PANS[0]}\r\n\r\n",
    f"{PANS[0]} {CREDENTIALS[0]} HTTP/1.1\r\n\r\n",
    f"GET /?card={PANS[0]}#{PANS[1]} {_HEAD}\r\nX-Card: {PANS[0]}\r\n\r\n",
    f"GET / {_HEAD}\r\nIdempotency-Key: {PANS[0]} \u00e9{PANS[1]}\r\n\r\n",
    f"{PANS[0]}\r\n\r\n",
]


@dataclass(slots=True)
class Ran:
    """What was seen of a whole run."""

    process: HoldfastProcess
    folder: Path
    statuses: dict[str, int] = field(default_factory=dict)
    passed_on: dict[str, bytes] = field(default_factory=dict)  # the gateway's own answers
    sinks: dict[str, bytes] = field(default_factory=dict)  # everything Holdfast says or writes

    async def pay(self, http: aiohttp.ClientSession, name: str, do: str, **how: object) -> None:
        """One payment; its answer is the gateway's, or one of Holdfast's own."""
        headers = HEADERS | {"X-Do": do, "X-Payment-Order-Id": name, "Idempotency-Key": name}
        body: dict[str, object] = how or {"data": FORM}
        url = f"{self.process.url}/v1/payment_intents"
        async with http.post(url, headers=headers, **body) as answer:  # type: ignore[arg-type]
            said = await answer.read() + repr(answer.raw_headers).encode()
            self.statuses[name] = answer.status
            if b"problems/" in said:
                self.sinks[f"Holdfast's answer to {name}"] = said
            else:
                self.passed_on[name] = said

    async def read(self, http: aiohttp.ClientSession, name: str, url: str) -> str:
        """Something Holdfast says by itself."""
        async with http.get(url) as answer:
            said = await answer.read()
        self.sinks[name] = said + repr(answer.raw_headers).encode()
        return said.decode()

    def files(self, when: str) -> None:
        """Everything in Holdfast's folder but its policy."""
        for path in sorted(self.folder.iterdir()):
            if path != self.process.config:
                self.sinks[f"{path.name} {when}"] = path.read_bytes()


async def _payments(ran: Ran, http: aiohttp.ClientSession) -> None:
    await ran.pay(http, "paid", "")
    await ran.pay(http, "paid-json", "", json=JSON_BODY)
    await ran.pay(http, "declined", "decline")
    await ran.pay(http, "failed", "fail")
    for name in ("lose", "cut", "hang", "babble", "flood"):
        await ran.pay(http, f"lost-{name}", name)
    await ran.pay(http, "too-large", "", data=PANS[0].encode() * 8192)
    # Once more: the same, and the same key for something else.
    first = ran.passed_on.pop("paid")
    await ran.pay(http, "paid", "")
    ran.passed_on["paid again"], ran.passed_on["paid"] = ran.passed_on["paid"], first
    await ran.pay(http, "declined", "decline", data=FORM | {"amount": "1"})


async def _everything_else(ran: Ran, http: aiohttp.ClientSession) -> None:
    process = ran.process
    reads = f"{process.url}/v1/payment_intents/pi_1?card={PANS[0]}&key={CREDENTIALS[0]}"
    async with http.get(reads, headers=HEADERS) as answer:
        ran.passed_on["read"] = await answer.read()
    async with http.post(f"{process.url}/v1/files", data=FORM, headers=HEADERS) as answer:
        ran.passed_on["stream"] = await answer.read()
    for port in (process.port, process.api_port, process.admin_port):
        for number, text in enumerate(MALFORMED):
            with contextlib.suppress(ConnectionError):
                said = await exchange(port, text.encode("latin-1"), until_closed=True)
                ran.sinks[f"answer to malformed {number} at {port}"] = said
    create = f"{process.api}/session/create"
    for body in (b'{"orderId": "' + PANS[0].encode(), json.dumps({"card": CARD}).encode()):
        async with http.post(create, data=body, headers=HEADERS) as answer:
            assert answer.status in {400, 422}
            ran.sinks[f"session API's answer to {len(body)} bytes"] = await answer.read()


async def _what_it_says(ran: Ran, http: aiohttp.ClientSession) -> None:
    api, admin = ran.process.api, ran.process.admin
    listed = json.loads(await ran.read(http, "sessions", f"{api}/sessions?limit=500"))
    await ran.read(http, "active sessions", f"{api}/sessions/active?limit=500")
    for session in listed["sessions"]:
        name = session["sessionId"]
        await ran.read(http, f"session {name}", f"{api}/session/{name}")
        await ran.read(http, f"summary {name}", f"{api}/session/{name}/summary")
    await ran.read(http, "metrics", f"{admin}/metrics")
    async with http.get(
        f"{admin}/metrics", headers={"Accept": "application/openmetrics-text"}
    ) as answer:
        ran.sinks["metrics with exemplars"] = await answer.read()


@pytest_asyncio.fixture
async def ran(tmp_path: Path) -> AsyncIterator[Ran]:
    """The whole run, with everything that was said and written."""
    folder = tmp_path / "holdfast"
    folder.mkdir()
    async with raw_server(_echoing) as gateway:
        process = HoldfastProcess(folder, gateway.origin, MORE)
        run = Ran(process, folder)
        try:
            await process.start()
            async with aiohttp.ClientSession() as http:
                await _payments(run, http)
                await _everything_else(run, http)
                await _what_it_says(run, http)
                run.files("while it runs")
                await process.kill()
                run.files("after a kill")
                await process.start()
                await _what_it_says(run, http)
            assert await process.stop() == 0
            run.files("after it stopped")
        finally:
            await process.kill()
        yield run


# --- what is found --------------------------------------------------------------------------------


async def test_nothing_leaks(ran: Ran) -> None:
    """No card number, security code or credential in anything Holdfast says or keeps."""
    assert {name: found for name, sink in ran.sinks.items() if (found := leaks(sink))} == {}


async def test_the_search_would_find_it(ran: Ran) -> None:
    """The negative control: what was passed on holds the secrets, and the search names them."""
    assert set(leaks(ran.passed_on["paid"])) >= {*PANS[:3], CREDENTIALS[0], "cvc%5D=917"}
    assert set(leaks(ran.passed_on["paid-json"])) >= {*PANS, CREDENTIALS[0]}
    for form in encodings(PANS[0]):
        assert leaks(ran.sinks["holdfast.db after it stopped"] + form) == [PANS[0]]


async def test_the_answers_are_kept_and_sealed(ran: Ran) -> None:
    """The gateway's answers are in the file: with the key they can be read, card number and all."""
    key = bytes.fromhex((ran.folder / "holdfast.db.key").read_text())
    keyring = Keyring(key)
    connection = apsw.Connection(str(ran.folder / "holdfast.db"), flags=apsw.SQLITE_OPEN_READONLY)
    asked = "SELECT id, sealed FROM answers JOIN sessions ON session = number"
    rows = connection.execute(asked).fetchall()
    connection.close()
    opened = [keyring.unseal(str(name), bytes(sealed)) for name, sealed in rows]  # type: ignore[arg-type]
    assert [PANS[0] in leaks(answer) for answer in opened].count(True) >= 3
    assert all(leaks(bytes(sealed)) == [] for _, sealed in rows)  # type: ignore[arg-type]


async def test_the_run_was_the_one_that_was_meant(ran: Ran) -> None:
    """Every kind of payment happened, and every place was looked at."""
    assert ran.statuses == {
        "paid": 200,
        "paid-json": 200,
        "declined": 400,  # the last time with another body
        "failed": 503,
        "lost-lose": 504,
        "lost-cut": 504,
        "lost-hang": 504,
        "lost-babble": 504,
        "lost-flood": 504,
        "too-large": 413,
    }
    assert b"Idempotent-Replayed" in ran.passed_on["paid again"]
    assert PANS[0] in leaks(ran.passed_on["declined"])
    for when in ("while it runs", "after a kill", "after it stopped"):
        for name in ("holdfast.db", "holdfast.db.key", "holdfast.log"):
            assert ran.sinks[f"{name} {when}"] != b""
    assert ran.sinks["holdfast.db-wal after a kill"] != b""
    written = [line["event"] for line in ran.process.log_lines()]
    assert {"ready", "session", "interruption", "stopped"} <= set(written)


@pytest.mark.parametrize("secret", SECRETS)
def test_each_secret_can_be_found(secret: str) -> None:
    """In plain, in hexadecimal, and in base64 at any offset (which seven bytes are too few for)."""
    for before in (b"", b"x", b"xy") if len(secret) > 7 else ():
        assert secret in leaks(base64.b64encode(before + secret.encode() + b"and more"))
    assert secret in leaks(b"before" + secret.encode() + b"after")
    assert secret in leaks(secret.encode().hex().encode())
