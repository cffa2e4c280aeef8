"""Log lines: JSON, one per line, and nothing in them that nobody should read."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from proxy.demo.faults import FaultPlan
from proxy.demo.gateway import SimulatedGateway
from proxy.demo.traffic import Shop, Takings, pay_all
from proxy.telemetry import logs
from proxy.telemetry.logs import LineSink, masked_text
from tests.support.raw import exchange
from tests.support.running import HoldfastProcess, simulated

# --- masking --------------------------------------------------------------------------------------

VISA, DECLINED_VISA, AMEX, MAESTRO = (
    "4242424242424242",
    "4000000000000002",
    "378282246310005",
    "6304000000000000",
)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (VISA, "[masked]"),
        (f"card {DECLINED_VISA} was declined", "card [masked] was declined"),
        (f"ends with {VISA}.", "ends with [masked]."),
        (f"{VISA}, {AMEX}", "[masked], [masked]"),
        ("4242 4242 4242 4242", "[masked]"),
        ("4242-4242-4242-4242", "[masked]"),
        (f"card[number]={VISA}&cvc=1", "card[number]=[masked]&cvc=1"),
        (f'{{"number":"{AMEX}"}}', '{"number":"[masked]"}'),
        (f"pan_{VISA}", "pan_[masked]"),
        (f"..{VISA}..", "..[masked].."),
        (MAESTRO, "[masked]"),
        ("٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢", "[masked]"),
    ],
)
def test_card_numbers_are_masked(text: str, masked: str) -> None:
    """13 to 19 digits that pass the Luhn check, spaced or not, whatever stands around them."""
    assert masked_text(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "4242424242424241",  # one digit off: no card
        "1706000000000",  # a time in milliseconds
        "ps_01a200f33649fade6ddd5cf99415d1783d9b0df29520b4d2505f",
        "0.4242424242424242",  # the digits of a fraction
        "x4242424242424242",  # inside a longer word
        "424242424242",  # 12 digits
        "42424242424242424242",  # 20 digits
        "127.0.0.1:8080",
    ],
)
def test_other_numbers_are_not(text: str) -> None:
    """Ids, times and fractions stay readable."""
    assert masked_text(text) == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("sk_test_4eC39HqLyjWDarjtT1zdp7dc", "[masked]"),
        ("key sk_live_abc.", "key [masked]."),
        ("rk_live_abc pk_test_abc", "[masked] [masked]"),
        ("whsec_abc+/def==", "[masked]"),
        ("ct_AbCdEf-_123", "[masked]"),
        ("Authorization: Bearer abc.def.ghi-123", "Authorization: [masked]"),
        ("authorization: basic dXNlcjpwYXNz", "authorization: [masked]"),
        ("my_sk_test_abc", "my_[masked]"),
    ],
)
def test_credentials_are_masked(text: str, masked: str) -> None:
    """Keys of gateways, our own client tokens, and what follows Bearer or Basic."""
    assert masked_text(text) == masked


@pytest.mark.parametrize(
    "text", ["task_force", "bearer of news", "basic", "direct_debit", "risk_x"]
)
def test_words_are_not(text: str) -> None:
    """What only looks a little like a credential stays."""
    assert masked_text(text) == text


# --- library messages -----------------------------------------------------------------------------


@pytest.fixture
def log() -> Iterator[io.BytesIO]:
    """Logging as `holdfast serve` sets it up, into a buffer; afterwards as it was."""
    root, server = logging.getLogger(), logging.getLogger("aiohttp.server")
    handlers, level, filters = root.handlers[:], root.level, server.filters[:]
    out = io.BytesIO()
    logs.configure(out)
    yield out
    structlog.reset_defaults()
    root.handlers[:], server.filters[:] = handlers, filters
    root.setLevel(level)


def lines(out: io.BytesIO) -> list[dict[str, Any]]:
    """What was written, each line on its own a JSON object."""
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_our_own_lines_are_json(log: io.BytesIO) -> None:
    """An event, a level, a time in UTC, and the rest as fields."""
    structlog.get_logger().info("ready", version="0.1.0")
    (line,) = lines(log)
    assert (line["event"], line["level"], line["version"]) == ("ready", "info", "0.1.0")
    assert line["timestamp"].endswith("Z")


def test_debug_is_silent(log: io.BytesIO) -> None:
    """Below info nothing is written, neither ours nor a library's."""
    structlog.get_logger().debug("detail")
    logging.getLogger("anybody").info("detail")
    assert lines(log) == []


def test_library_messages_arrive_as_json(log: io.BytesIO) -> None:
    """A warning of any library is one of our lines, with its logger's name."""
    logging.getLogger("asyncio").warning("Executing %s took %d seconds", "it", 3)
    (line,) = lines(log)
    assert line["event"] == "library"
    assert (line["logger"], line["level"]) == ("asyncio", "warning")
    assert line["message"] == "Executing it took 3 seconds"


def test_a_library_that_formats_wrongly_breaks_nothing(log: io.BytesIO) -> None:
    """Its message is written as it is; the caller gets no exception."""
    logs.configure(log)  # once more: pytest's own handler, which would complain, is out
    logging.getLogger("anybody").warning("%d of them", "many")
    (line,) = lines(log)
    assert line["message"] == "%d of them"


def test_tracebacks_are_one_line_and_masked(log: io.BytesIO) -> None:
    """An exception's text is as dangerous as a message."""
    try:
        int(f"cannot charge {VISA} with sk_test_abc")
    except ValueError:
        logging.getLogger("anybody").exception("it went wrong")
    (line,) = lines(log)
    assert "ValueError: invalid literal for int() with base 10: 'cannot" in line["exception"]
    assert "cannot charge [masked] with [masked]" in line["exception"]
    assert VISA not in log.getvalue().decode()


def test_what_is_nested_is_masked_too(log: io.BytesIO) -> None:
    """Lists and mappings are looked through, names as well as values."""
    seen = {"card": VISA, VISA: "name", "list": [AMEX, {"key": "sk_test_abc"}]}
    structlog.get_logger().info("seen", seen=seen)
    (line,) = lines(log)
    assert line["seen"] == {
        "card": "[masked]",
        "[masked]": "name",
        "list": ["[masked]", {"key": "[masked]"}],
    }


def test_configured_twice_writes_once(log: io.BytesIO) -> None:
    """Setting up again replaces what was there."""
    again = io.BytesIO()
    logs.configure(again)
    logging.getLogger("anybody").warning("once")
    assert (len(lines(log)), len(lines(again))) == (0, 1)


def test_the_servers_errors_lose_their_bytes(log: io.BytesIO) -> None:
    """The kind of a malformed request's error stays, the bytes that caused it do not."""
    try:
        int(f"X-Card: {VISA}")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling request")
    (line,) = lines(log)
    assert line["message"] == "Error handling request (ValueError)"
    assert "exception" not in line


# --- the buffer of the hot path -------------------------------------------------------------------


def test_the_first_line_asks_for_a_flush() -> None:
    """Buffered until then, and written at once."""
    out = io.BytesIO()
    sink = LineSink(out)
    assert [sink.add({"n": 1}), sink.add({"n": 2})] == [True, False]
    assert out.getvalue() == b""
    sink.flush()
    assert out.getvalue() == b'{"n":1}\n{"n":2}\n'
    assert sink.add({"n": 3}) is True


def test_a_flush_without_lines_writes_nothing() -> None:
    """No empty line."""
    out = io.BytesIO()
    LineSink(out).flush()
    assert out.getvalue() == b""


# --- a whole process ------------------------------------------------------------------------------

MALFORMED = {
    "a control character in a header": f"X-Card: {VISA}\x01\r\n",
    "a header that is too long": f"X-Card: {VISA}{'y' * 20_000}\r\n",
    "a header without a name": f": {VISA}\r\n",
    "a folded header": f"X-Card: a\r\n {VISA}\r\n",
    "two lengths": f"Content-Length: 1\r\nContent-Length: 2\r\nX-Card: {VISA}\r\n",
    "length and chunks": f"Content-Length: 5\r\nTransfer-Encoding: chunked\r\nX-Card: {VISA}\r\n",
    "no colon": f"X-Card {VISA}\r\n",
}


async def test_a_process_writes_json_and_nothing_else(tmp_path: Path) -> None:
    """From its first line to its last, also when requests are malformed; their bytes stay out."""
    async with simulated(SimulatedGateway(FaultPlan(interruptions=0.3))) as gateway:
        process = HoldfastProcess(
            tmp_path, gateway, "defaults: {timeouts: {attempt: 500ms, total: 8s}}\n"
        )
        await process.start()
        try:
            takings = Takings()
            await pay_all(Shop(process.url, 30.0, send_order=True), 20, 10, takings)
            for header in MALFORMED.values():
                request = f"GET /v1/balance HTTP/1.1\r\nHost: a\r\n{header}\r\n"
                with contextlib.suppress(ConnectionError):
                    answer = await exchange(process.port, request.encode(), until_closed=True)
                    assert answer.split()[1] == b"400"
            async with aiohttp.ClientSession() as http:
                sessions = await _sessions(http, process)
        finally:
            code = await process.stop()
    written = process.log_lines()  # fails on a line that is not JSON
    assert code == 0
    assert [line["event"] for line in (written[0], *written[-2:])] == [
        "ready",
        "stopping",
        "stopped",
    ]
    assert all({"timestamp", "level", "event"} <= line.keys() for line in written)
    assert VISA not in process.log_path.read_text()
    assert "X-Card" not in process.log_path.read_text()

    ended = sorted(line["session_id"] for line in written if line["event"] == "session")
    assert ended == sorted(s["sessionId"] for s in sessions if s["processingTime"] is not None)
    stops = sorted(line["session_id"] for line in written if line["event"] == "interruption")
    assert stops == sorted(s["sessionId"] for s in sessions for _ in s["metadata"]["interruptions"])
    assert stops != []


async def _sessions(http: aiohttp.ClientSession, process: HoldfastProcess) -> list[dict[str, Any]]:
    async with http.get(f"{process.api}/sessions?limit=500") as answer:
        document = await answer.json()
    sessions: list[dict[str, Any]] = document["sessions"]
    assert document["total"] == len(sessions) == 20
    return sessions
