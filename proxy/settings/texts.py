"""The texts of a settings file: durations, sizes, names, paths, addresses. How each is read, what
is said where it cannot be, and how an editor checks it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.fields import FieldInfo

from proxy.core.jsonpath import parse_json_path
from proxy.core.policy import Condition, Statuses
from proxy.core.routing import compile_template

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]{1,9})(KiB|MiB)")
_SIZE_UNITS = {"KiB": 1024, "MiB": 1024 * 1024}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_METHOD = re.compile(r"[A-Z]{1,20}")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_LISTEN = re.compile(rf"{_HOST}:([0-9]{{1,5}})")
_ORIGIN = re.compile(rf"https?://{_HOST}(?::([0-9]{{1,5}}))?")
_URL = re.compile(rf"(https?://{_HOST}(?::([0-9]{{1,5}}))?)(/[!-~]*)?")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PARAMETER = re.compile("[A-Za-z0-9._-]{1,100}")
_PROBE = re.compile("/[!-~]*")
_LINK_KEY = re.compile(r"[A-Za-z0-9_$@:-]{1,64}")
# No set within a set, whatever that will once mean.
_CLASS = re.compile(r"(?:(?!--|&&|~~|\|\|)[^\[\]])+")
_LAST_PORT = 65535
# What others call a store that is known here.
_OTHER_SCHEMES = {
    "postgres": "write the scheme out: postgresql://…",
    "rediss": "write redis://…, and put a tunnel between: TLS is not spoken to this store",
    "valkey": "a Valkey server is named like a Redis server: redis://…",
}
# Ten years. More is a slip of the pen, and would not fit the store's milliseconds for ever.
_LONGEST = 3650 * 86400.0


def parse_duration(value: object) -> object:
    """`200ms`, `2s`, `15m`, `24h`, `35d` → seconds."""
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match:
            seconds = float(match.group(1)) * _UNITS[match.group(2)]
            if seconds > _LONGEST:
                message = "is longer than ten years (3650d)"
                raise ValueError(message)
            return seconds
    message = "write a duration with its unit: 200ms, 2s, 15m, 24h or 35d"
    raise ValueError(message)


def written_duration(seconds: float) -> str:
    """Seconds as they are written in the file, in the largest unit that is whole."""
    for unit, size in reversed(_UNITS.items()):
        if seconds >= size and round(seconds / size, 6) % 1 == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def parse_size(value: object) -> object:
    """`64KiB`, `1MiB` → bytes."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match:
            return int(match.group(1)) * _SIZE_UNITS[match.group(2)]
    message = "write a size with its unit: 64KiB or 1MiB"
    raise ValueError(message)


def written_default(field: FieldInfo) -> Any:
    """A field's default as it would be written in the file."""
    value = field.default
    readers = [m.func for m in field.metadata if isinstance(m, BeforeValidator)]
    if parse_duration in readers and value is not None:
        return written_duration(value)
    if parse_size in readers and value is not None:
        unit = "MiB" if not value % _SIZE_UNITS["MiB"] else "KiB"
        return f"{value // _SIZE_UNITS[unit]}{unit}"
    return value.value if isinstance(value, Enum) else value


def _shaped(pattern: re.Pattern[str], otherwise: str) -> AfterValidator:
    """What has to have that shape; else it is told `otherwise`, with the text for `{}`."""

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(otherwise.format(repr(value)))
        return value

    return AfterValidator(check)


def _template(value: str) -> str:
    compile_template(value)
    return value


def _json_path(value: str) -> str:
    if value.startswith("$") or value.count("/") > 1:  # how XPath, JSON Pointer and JSONPath look
        message = f"{value!r} is not a path: names with dots between them, like transaction.status"
        raise ValueError(message)
    parse_json_path(value)
    return value


def _status(value: object) -> tuple[int, int]:
    """`402`, `4xx` or `500-599` → an inclusive range."""
    text = str(value)
    if re.fullmatch(r"[1-5]xx", text):
        low = int(text[0]) * 100
        return low, low + 99
    match = re.fullmatch(r"([1-5][0-9][0-9])(?:-([1-5][0-9][0-9]))?", text)
    if match is None or isinstance(value, bool):
        message = "write a status as 402, 4xx or 500-599"
        raise ValueError(message)
    return int(match.group(1)), int(match.group(2) or match.group(1))


def _condition(value: object) -> object:
    """`attempt_timeout`, or `{status: [502, 500-599]}` → its ranges."""
    if isinstance(value, dict) and list(value) == ["status"]:
        statuses = value["status"]
        if isinstance(statuses, list) and statuses:
            return tuple(map(_status, statuses))
    elif isinstance(value, str) and value in list(Condition):
        return Condition(value)
    message = f"write one of {', '.join(Condition)}, or statuses as {{status: [502, 5xx]}}"
    raise ValueError(message)


def _header_value(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        message = "a header's value is printable ASCII text"
        raise ValueError(message)
    return value


def _plain(value: object) -> object:
    if isinstance(value, str | int | float):
        return value
    message = "write text, a number, true or false"
    raise ValueError(message)


def _characters(value: str) -> str:
    message = "write the characters as between the brackets of a pattern, like A-Za-z0-9_-"
    if not _CLASS.fullmatch(value):
        raise ValueError(message)
    try:
        re.compile(f"[{value}]+")
    except re.error as error:
        raise ValueError(message) from error
    return value


def parse_listen(value: str) -> str:
    """`127.0.0.1:8080` or `[::1]:8080`, checked."""
    match = _LISTEN.fullmatch(value)
    if match is None or int(match.group(1)) > _LAST_PORT:
        message = "write an address to listen on as host:port, like 127.0.0.1:8080 or '[::1]:8080'"
        raise ValueError(message)
    return value


def _origin(value: str) -> str:
    match = _ORIGIN.fullmatch(value)
    if match is None or int(match.group(1) or 0) > _LAST_PORT:
        message = "write the gateway's origin, like https://api.example.com (no path, no user)"
        raise ValueError(message)
    return value


def _url(value: str) -> str:
    match = _URL.fullmatch(value)
    if match is None or int(match.group(2) or 0) > _LAST_PORT or "#" in value:
        message = "write a whole address, like https://shop.example.com/webhooks (no user)"
        raise ValueError(message)
    return value


def _store(value: str) -> str:
    scheme = value.partition("://")[0]
    if scheme in _OTHER_SCHEMES:
        raise ValueError(_OTHER_SCHEMES[scheme])
    if value != "memory://" and not re.match(r"(sqlite|postgresql|redis)://.", value):
        message = "write a store as sqlite:///FILE, postgresql://…, redis://… or memory://"
        raise ValueError(message)
    if re.match(r"(postgresql|redis)://[^/@]*:[^/@]*@", value):
        message = "a password does not stand in the policy; give it as HOLDFAST_STORE_PASSWORD"
        raise ValueError(message)
    if value.startswith("sqlite://") and value.rpartition("/")[2] in {"", ".", ".."}:
        message = "name the store's file, like sqlite:///var/holdfast.db"
        raise ValueError(message)
    return value


def _text(kind: str, pattern: str, otherwise: str) -> WithJsonSchema:
    """What kind of text it is, how an editor checks it, and what it says where it does not fit. It
    refuses nothing that is read here.
    """
    checked = {"pattern": f"^(?:{pattern})$", "patternErrorMessage": otherwise}
    return WithJsonSchema({"type": "string", "title": kind, **checked})


_A_DURATION = "a duration has a unit: 200ms, 2s, 15m, 24h or 35d"
_A_SIZE = "a size has a unit: 64KiB or 1MiB"
_PORT = "(?:6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[0-5]?[0-9]{1,4})"
_KEY, _ITEM = r"[^.\[\]]+", r"\[(?:[0-9]+|\*)\]"
_STORES = (
    r"memory://|sqlite://(?:.*/)?(?!\.{1,2}$)[^/]+|(?:postgresql|redis)://(?![^/@]*:[^/@]*@).+"
)

Duration = Annotated[
    float, BeforeValidator(parse_duration), _text("duration", _DURATION.pattern, _A_DURATION)
]
Positive = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0),
    _text("duration", rf"(?=.*[1-9]){_DURATION.pattern}", f"{_A_DURATION}; it cannot be 0 here"),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(gt=0),
    _text("size", rf"(?=.*[1-9]){_SIZE.pattern}", _A_SIZE),
]
Name = Annotated[
    str,
    _shaped(_NAME, "{} is not a name: up to 63 lower-case letters, digits and '-'"),
    _text("name", _NAME.pattern, "a name is up to 63 lower-case letters, digits and '-'"),
]
Method = Annotated[
    str,
    _shaped(_METHOD, "{} is not a method: write it in capitals, like POST"),
    _text("method", _METHOD.pattern, "write it in capitals, like POST"),
]
Template = Annotated[
    str,
    AfterValidator(_template),
    _text(
        "path template",
        r"(?=/)(?:[^{}*?#]|\{[^{}/]*\}|\*\*)*",
        "a path, where {name} stands for one segment and ** for the rest",
    ),
]
JsonPathText = Annotated[
    str,
    AfterValidator(_json_path),
    _text(
        "path in JSON",
        rf"(?!\$|.*/.*/)(?![.]|$)(?:{_KEY})?(?:\.?{_ITEM}(?:{_KEY})?|\.{_KEY})*",
        "a place in JSON, like metadata.order_id or items[0].id",
    ),
]
_STATUS: Any = [
    {"type": "integer", "minimum": 100, "maximum": 599},
    {"type": "string", "pattern": "^(?:[1-5]xx|[1-5][0-9]{2}(?:-[1-5][0-9]{2})?)$"},
]
StatusRange = Annotated[
    tuple[int, int],
    BeforeValidator(_status),
    WithJsonSchema({"title": "status", "anyOf": _STATUS}),
]
Listen = Annotated[
    str,
    AfterValidator(parse_listen),
    _text("host:port", rf"{_HOST}:{_PORT}", "host:port, like 127.0.0.1:8080 or '[::1]:8080'"),
]
Origin = Annotated[
    str,
    AfterValidator(_origin),
    _text(
        "origin",
        rf"https?://{_HOST}(?::{_PORT})?",
        "an origin, like https://api.example.com, no path",
    ),
]
Url = Annotated[
    str,
    AfterValidator(_url),
    _text(
        "address",
        rf"https?://{_HOST}(?::{_PORT})?(?:/[!\"$-~]*)?",
        "a whole address, like https://shop.example.com/webhooks",
    ),
]
StoreUrl = Annotated[
    str,
    AfterValidator(_store),
    _text(
        "URL of a store",
        _STORES,
        "sqlite:///FILE, postgresql://…, redis://… (no password) or memory://",
    ),
]
LinkKey = Annotated[
    str,
    _shaped(_LINK_KEY, "{} is not the name of a key, like href (a path is not needed)"),
    _text("key", _LINK_KEY.pattern, "the name of a key, like href"),
]
HeaderName = Annotated[
    str,
    _shaped(_HEADER, "{} is not the name of a header"),
    _text("header", _HEADER.pattern, "the name of a header"),
]
HeaderValue = Annotated[
    str, AfterValidator(_header_value), _text("header value", "[ -~]*", "printable ASCII text")
]
Plain = Annotated[
    str | int | float | bool,
    BeforeValidator(_plain),
    WithJsonSchema({"title": "value", "type": ["string", "number", "boolean"]}),
]
RetryCondition = Annotated[
    Condition | Statuses,
    BeforeValidator(_condition),
    WithJsonSchema(
        {
            "title": "retry condition",
            "anyOf": [
                {"type": "string", "enum": [condition.value for condition in Condition]},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["status"],
                    "properties": {
                        "status": {
                            "description": "What a whole answer says that settles nothing.",
                            "type": "array",
                            "minItems": 1,
                            "items": {"anyOf": _STATUS},
                        }
                    },
                },
            ],
        }
    ),
]
# Goes into paths and bodies of look-ups as it is.
Parameter = Annotated[
    str,
    _shaped(_PARAMETER, "{} is not a parameter: up to 100 letters, digits, '.', '_' and '-'"),
    _text("parameter", _PARAMETER.pattern, "up to 100 letters, digits, '.', '_' and '-'"),
]
ProbePath = Annotated[
    str,
    _shaped(_PROBE, "write the path to ask for, starting with '/' and without blanks"),
    _text("path", _PROBE.pattern, "a path, starting with '/', no blanks"),
]
# What stands between the brackets of a pattern.
Characters = Annotated[
    str,
    AfterValidator(_characters),
    _text("characters", _CLASS.pattern, "as between the brackets of a pattern, like A-Za-z0-9_-"),
]
Ratio = Annotated[float, Field(ge=0, le=1)]
