"""JSON lines on standard output: one per finished session, one per interruption, and what is rare.

Nothing a request or an answer says gets here: lines are built from an allow-list of session fields.
Whatever else is logged (a library's message, an exception's text) is masked where it looks like a
card number or a credential.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import orjson
import structlog
from typing_extensions import override

# Not inside a longer word or number (ids are hexadecimal), and not the digits of a fraction.
_CARD = re.compile(r"(?<![^\W_])(?<!\d\.)(?:\d[ -]?){12,18}\d(?![^\W_])(?!\.\d)")
_CREDENTIAL = re.compile(
    r"(?i)(?<![a-z0-9])"
    r"((?:sk|rk|pk|ct|whsec)_[a-z0-9_+/=-]+|(?:bearer|basic)\s+[a-z0-9+/=._~-]{6,})"
)


class Sink(Protocol):
    """Where lines go: an `Outlet`, a file, a buffer."""

    def write(self, data: bytes, /) -> int: ...

    def flush(self) -> None: ...


def configure(stream: Sink | None = None) -> None:
    """Send structlog and the standard library's loggers to one stream of JSON lines."""
    out: Any = stream if stream is not None else sys.stdout.buffer
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            mask,
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.BytesLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_ToStructlog()]
    root.setLevel(logging.WARNING)
    # Prints the offending header's bytes on a malformed request; the 400 has been answered.
    logging.getLogger("aiohttp.server").addFilter(_without_bytes)


class _ToStructlog(logging.Handler):
    """What libraries log, as one of our lines."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 -- a library's slip must not become ours
            message = str(record.msg)
        log = structlog.get_logger()
        log.log(
            record.levelno,
            "library",
            logger=record.name,
            message=message,
            exc_info=record.exc_info,
        )


def _without_bytes(record: logging.LogRecord) -> bool:
    if record.exc_info and record.exc_info[0] is not None:
        record.msg = f"{record.getMessage()} ({record.exc_info[0].__name__})"
        record.args = ()
        record.exc_info = None
    return True


def mask(_logger: object, _method: str, entry: Any) -> Any:
    """Card numbers (13 to 19 digits that pass the Luhn check) and credentials become `[masked]`."""
    return {key: _masked(value) for key, value in entry.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return masked_text(value)
    if isinstance(value, Mapping):
        return {_masked(name): _masked(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(inner) for inner in value]
    return value


def masked_text(text: str) -> str:
    """Text without what looks like a card number or a credential."""
    text = _CREDENTIAL.sub("[masked]", text)
    return _CARD.sub(lambda m: "[masked]" if _luhn(m.group()) else m.group(), text)


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()]
    doubled = [d * 2 - 9 if d > 4 else d * 2 for d in digits[-2::-2]]  # noqa: PLR2004 -- two digits
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


class LineSink:
    """The hot path's lines: built by the recorder, written once per turn of the event loop.

    structlog costs some 12 µs a line, orjson and a buffer 1.4; a payment is one line.
    """

    def __init__(self, stream: Sink | None = None) -> None:
        self._out: Sink = stream if stream is not None else sys.stdout.buffer
        self._lines: list[bytes] = []

    def add(self, entry: dict[str, object]) -> bool:
        """Buffer a line; True if it is the first since `flush`, so a flush is due."""
        lines = self._lines
        lines.append(orjson.dumps(entry))
        return len(lines) == 1

    def flush(self) -> None:
        """Write what is buffered."""
        lines, self._lines = self._lines, []
        if lines:
            self._out.write(b"\n".join(lines) + b"\n")
            self._out.flush()
