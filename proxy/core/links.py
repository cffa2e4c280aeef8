"""Absolute links in a gateway's answers, turned to the address at which its caller reached us.

Only the origin of such a link is exchanged, where it begins the value of a listed key or header;
every other byte stays. The body is not parsed for that: in JSON a quote inside a text has a
backslash before it, so what looks like a key with its value is one.
"""

from __future__ import annotations

import re

from proxy.core.profile import Links
from proxy.core.wire import Headers

# Nothing else is written into an answer: what is no host could end the text that it stands in.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class Relinker:
    """What to look for at one gateway, reached at `upstream`."""

    def __init__(self, links: Links, upstream: str) -> None:
        origins = "|".join(map(re.escape, dict.fromkeys((upstream, *links.origins))))
        # That no backslash is before it is looked at last: text is searched for a quote at once.
        keys = "|".join(rf'"{key}"(?<!\\"{key}")' for key in map(re.escape, links.keys))
        self._headers = links.headers
        self._in_header = re.compile(rf"(?:^|(?<=<))(?:{origins})(?=[/?#>]|$)")
        # Some write the slashes of a text as `\/`.
        escaped = origins.replace("/", r"\\?/")
        self._in_body = re.compile(
            rf'((?:{keys})[ \t\r\n]*:[ \t\r\n]*")(?:{escaped})(?=\\?/|[?#"])'.encode()
        )

    def in_body(self, body: bytes, host: str) -> bytes:
        """A JSON body whose links lead to this host."""
        if not _HOST.fullmatch(host):
            return body

        def turned(link: re.Match[bytes]) -> bytes:
            slash = rb"\/" if rb"\/" in link[0] else b"/"
            return b"%shttp:%s%s%s" % (link[1], slash, slash, host.encode())

        return self._in_body.sub(turned, body)

    def in_headers(self, headers: Headers, host: str) -> Headers:
        """The headers of an answer, those that are listed with links that lead to this host."""
        if not _HOST.fullmatch(host):
            return headers
        return tuple(
            (name, self._in_header.sub(f"http://{host}", value))
            if name.lower() in self._headers
            else (name, value)
            for name, value in headers
        )
