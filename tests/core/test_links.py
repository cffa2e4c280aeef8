"""Links in bodies and headers: what is exchanged, and that every other byte stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.links import Relinker
from proxy.core.profile import Links

HOST = "127.0.0.1:8080"
HERE = f"http://{HOST}"
LINKS = Relinker(
    Links(("https://api.gw.example",), ("href",), frozenset({"location", "link"})),
    "https://gw.internal:8443",
)

BODIES = [
    ('{"href": "https://api.gw.example/v2/a?b=c"}', '{"href": "%s/v2/a?b=c"}'),
    ('{"href":"https://api.gw.example"}', '{"href":"%s"}'),
    ('{"href"\n :\t"https://gw.internal:8443/a" }', '{"href"\n :\t"%s/a" }'),
    ('[{"href": "https://api.gw.example?x"}, {"href": "https://gw.internal:8443#y"}]',
     '[{"href": "%s?x"}, {"href": "%s#y"}]'),
    # PHP escapes slashes; what is written there stays escaped.
    (r'{"href": "https:\/\/api.gw.example\/v2\/a"}', r'{"href": "http:\/\/127.0.0.1:8080\/v2\/a"}'),
]  # fmt: skip

UNTOUCHED = [
    '{"href": "https://www.gw.example/checkout"}',
    '{"href": "https://api.gw.example.evil.example/a"}',
    '{"href": "https://api.gw.example:8443/a"}',
    '{"href": "https://apiXgw.example/a"}',
    '{"href": "http://api.gw.example/a"}',
    '{"href": "/v2/a"}',
    '{"redirectUrl": "https://api.gw.example/a"}',
    '{"xhref": "https://api.gw.example/a"}',
    '{"href": ["https://api.gw.example/a"]}',
    '{"href": "see https://api.gw.example/a"}',
    # A text in which someone wrote what looks like a link.
    r'{"description": "\"href\": \"https://api.gw.example/a\""}',
    r'{"a \"href": "https://api.gw.example/a"}',
    '["href", "https://api.gw.example/a"]',
]


@pytest.mark.parametrize(("body", "expected"), BODIES)
def test_a_link_leads_to_us(body: str, expected: str) -> None:
    """The gateway's origin is exchanged, whichever of its own it names; the rest stays."""
    assert LINKS.in_body(body.encode(), HOST) == expected.replace("%s", HERE).encode()


@pytest.mark.parametrize("body", UNTOUCHED)
def test_what_is_no_link_to_the_gateway_stays(body: str) -> None:
    """Another host, another port, another key, or a text about a link."""
    json.loads(body)
    assert LINKS.in_body(body.encode(), HOST) == body.encode()


@pytest.mark.parametrize("host", ["", "a b", 'x"}', "a/b", "a\\", "a:b", "user@a", "a:123456"])
def test_what_is_no_host_is_written_nowhere(host: str) -> None:
    """A made-up `Host` cannot end the text that it would stand in."""
    body = b'{"href": "https://api.gw.example/a"}'
    headers = (("Location", "https://api.gw.example/a"),)
    assert LINKS.in_body(body, host) == body
    assert LINKS.in_headers(headers, host) == headers


@pytest.mark.parametrize("host", ["shop.internal", "shop_1:80", "[::1]:8080"])
def test_the_host_is_the_callers(host: str) -> None:
    """By whatever name and port it calls us."""
    body = LINKS.in_body(b'{"href": "https://api.gw.example/a"}', host)
    assert body == b'{"href": "http://%s/a"}' % host.encode()


def test_links_in_headers() -> None:
    """Those that are listed: a location, and a link between angle brackets."""
    given = (
        ("Location", "https://api.gw.example/v2/a"),
        ("LINK", '<https://gw.internal:8443/p?2>; rel="next", <https://else.example/>; rel="x"'),
        ("X-Other", "https://api.gw.example/v2/a"),
    )
    assert LINKS.in_headers(given, HOST) == (
        ("Location", f"{HERE}/v2/a"),
        ("LINK", f'<{HERE}/p?2>; rel="next", <https://else.example/>; rel="x"'),
        ("X-Other", "https://api.gw.example/v2/a"),
    )


_TEXTS = st.text(max_size=8) | st.sampled_from(
    ["href", '"href": "https://api.gw.example/a"', "https://api.gw.example/a", "\\", '"']
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)


def turned(value: object) -> object:
    """What the document should be, by the long way: parsed, and walked."""
    if isinstance(value, list):
        return [turned(item) for item in value]
    if isinstance(value, dict):
        return {
            key: item.replace("https://api.gw.example", HERE)
            if key == "href" and isinstance(item, str) and item == "https://api.gw.example/a"
            else turned(item)
            for key, item in value.items()
        }
    return value


@given(_VALUES, st.sampled_from([None, 2]))
def test_it_is_what_parsing_would_have_found(document: object, indent: int | None) -> None:
    """Whatever the document: the values of the key, and nothing but those."""
    body = LINKS.in_body(json.dumps(document, indent=indent).encode(), HOST)
    assert json.loads(body) == turned(document)
