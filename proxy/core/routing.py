"""Method + path → route. First match wins; a path no route names falls to the gateway's default."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from proxy.core.policy import RoutePolicy

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
# Paths that every server reads alike: no escapes, empty segments, dots alone, or parameters.
_PLAIN = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9_.~:@!$&'()*+,=-]+)+/?|/")
_BLANK = " \t\r\n\0"


@dataclass(frozen=True, slots=True)
class RouteTable:
    """A gateway's routes in order, with the defaults for what no route names."""

    routes: tuple[tuple[re.Pattern[str], RoutePolicy], ...]
    read: RoutePolicy
    other: RoutePolicy

    def match(self, method: str, path: str) -> RoutePolicy:
        """The policy for a request. The path is compared as a gateway would read it: decoded, with
        single slashes, without `.` and `..`, parameters or an odd case. What reaches the endpoint
        of a payment there must meet its route here; it is forwarded as it came.
        """
        plain = path if _PLAIN.fullmatch(path) else _as_read(path)
        for pattern, route in self.routes:
            if method in route.methods and pattern.fullmatch(plain):
                return route
        return self.read if method in _SAFE else self.other


def _as_read(path: str) -> str:
    """A path as the most lenient of servers reads it."""
    plain = unquote(path).replace("\\", "/")
    segments: list[str] = []
    for segment in plain.split("/"):
        name = segment.partition(";")[0].strip(_BLANK)
        if name == "..":
            segments = segments[:-1]
        elif name not in {"", "."}:
            segments.append(name)
    return "/" + "/".join(segments)


def route_table(
    routes: tuple[RoutePolicy, ...], *, read: RoutePolicy, other: RoutePolicy
) -> RouteTable:
    """Compile the templates. `{name}` stands for one segment, `**` for the rest of the path."""
    return RouteTable(tuple((compile_template(r.template), r) for r in routes), read, other)


def compile_template(template: str) -> re.Pattern[str]:
    """A template as a pattern over a decoded path; one trailing slash is allowed.

    Raises ValueError that says what a template looks like.
    """
    if not template.startswith("/"):
        message = f"{template!r} is not a path template: it must start with '/'"
        raise ValueError(message)
    parts = []
    for number, piece in enumerate(re.split(r"(\{[^{}/]*\}|\*\*)", template)):
        if piece == "**":
            parts.append(".*")
        elif number % 2:  # what it was split at
            parts.append("[^/]+")
        elif set(piece) & set("{}*?#"):
            message = (
                f"{template!r} is not a path template: '{{name}}' stands for one segment and '**' "
                f"for the rest of the path"
            )
            raise ValueError(message)
        else:
            parts.append(re.escape(piece))
    # DOTALL: an escaped line break in the path must not lead around a route that moves money.
    return re.compile("".join(parts) + "/?", re.DOTALL | re.IGNORECASE)


def is_safe(method: str) -> bool:
    """Whether a method only reads (RFC 9110 section 9.2.1)."""
    return method in _SAFE
