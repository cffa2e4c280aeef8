"""Method + path → route: templates, order, defaults, and no way around a route that moves money."""

from __future__ import annotations

import pytest

from proxy.core.policy import (
    Backoff,
    OrderLock,
    RetryPolicy,
    RoutePolicy,
    SessionKind,
    Timeouts,
)
from proxy.core.routing import compile_template, is_safe, route_table
from proxy.settings.values import Gateway


def a_route(
    name: str, template: str, *methods: str, session: SessionKind = SessionKind.DURABLE
) -> RoutePolicy:
    """A route that differs only in what it matches."""
    return RoutePolicy(
        name=name,
        methods=frozenset(methods or {"POST"}),
        template=template,
        session=session,
        operation="charge",
        order_lock=OrderLock.NAMED,
        timeouts=Timeouts(2, 10, 30),
        retry=RetryPolicy(3, 3, Backoff(0.2, 5, full_jitter=True), respect_retry_after=True),
        max_body_bytes=1,
        max_answer_bytes=1,
    )


READ = a_route("read", "/**", session=SessionKind.EPHEMERAL)
OTHER = a_route("other", "/**", session=SessionKind.EPHEMERAL)
TABLE = route_table(
    (
        a_route("status", "/pay/status", "GET", "POST"),
        a_route("pay", "/pay"),
        a_route("confirm", "/pay/{id}/confirm"),
        a_route("version", "/v{number}/x.y"),
        a_route("files", "/files/**", "POST", "PUT"),
        a_route("ends", "/a/**/z"),
    ),
    read=READ,
    other=OTHER,
)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/pay", "pay"),
        ("POST", "/pay/status", "status"),
        ("GET", "/pay/status", "status"),
        ("POST", "/pay/p-1/confirm", "confirm"),
        ("POST", "/v2/x.y", "version"),
        ("POST", "/files/a/b/c", "files"),
        ("PUT", "/files/a", "files"),
        ("POST", "/a/b/c/z", "ends"),
        # One slash at the end, or two where one stands, is the same place at the gateway.
        ("POST", "/pay/", "pay"),
        ("POST", "//pay", "pay"),
        ("POST", "/pay//p-1///confirm/", "confirm"),
        ("POST", "/pay//", "pay"),
        # So is an escaped letter, slash or digit.
        ("POST", "/%70ay", "pay"),
        ("POST", "/p%61%79", "pay"),
        ("POST", "/pay%2Fp-1%2fconfirm", "confirm"),
        ("POST", "/%2Fpay", "pay"),
        ("POST", "/pay/p%0A1/confirm", "confirm"),
        ("POST", "/pay/%FF/confirm", "confirm"),
        ("POST", "/files/a%0Ab", "files"),
        # As lenient servers read it: dots, parameters, blanks, the case, a backslash.
        ("POST", "/./pay", "pay"),
        ("POST", "/x/../pay", "pay"),
        ("POST", "/%2e%2E/pay/.", "pay"),
        ("POST", "/../../pay", "pay"),
        ("POST", "/pay;v=1", "pay"),
        ("POST", "/pay%20", "pay"),
        ("POST", "/pay%00", "pay"),
        ("POST", "/Pay", "pay"),
        ("POST", "\\pay", "pay"),
        ("POST", "/pay/p-1;a=b/./confirm//", "confirm"),
        # Not the same place.
        ("POST", "/pay/p-1", "other"),
        ("POST", "/pay/p-1/x/confirm", "other"),
        ("POST", "/pay//confirm", "other"),
        ("POST", "/payx", "other"),
        ("POST", "/x/pay", "other"),
        ("POST", "/v2/xzy", "other"),
        ("POST", "/files", "other"),
        ("POST", "/%2570ay", "other"),  # decoded once, as the gateway does
        # No route for the method: reads and the rest have their defaults.
        ("GET", "/pay", "read"),
        ("HEAD", "/pay/status", "read"),
        ("OPTIONS", "/", "read"),
        ("TRACE", "/pay", "read"),
        ("PUT", "/pay", "other"),
        ("DELETE", "/pay", "other"),
        ("PATCH", "/nowhere", "other"),
    ],
)
def test_match(method: str, path: str, name: str) -> None:
    """The first route that fits, whatever the spelling; else the default for the method."""
    assert TABLE.match(method, path).name == name


def test_the_first_match_wins() -> None:
    """Two templates that both fit: the order decides, not how exact they are."""
    wide, exact = a_route("wide", "/**"), a_route("exact", "/pay")
    first = route_table((wide, exact), read=READ, other=OTHER)
    assert first.match("POST", "/pay").name == "wide"
    turned = route_table((exact, wide), read=READ, other=OTHER)
    assert turned.match("POST", "/pay").name == "exact"
    assert turned.match("POST", "/").name == "wide"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/payment_intents", "create-payment"),
        ("/v1//payment_intents/", "create-payment"),
        ("/v1/payment%5Fintents", "create-payment"),
        ("/v1/payment_intents/pi_1/confirm", "confirm-payment"),
        ("/v1/payment_intents/pi_1", "other"),
        ("/v1/refunds", "create-refund"),
        ("/v1/customers", "other"),
    ],
)
def test_routes_of_stripe(stripe: Gateway, path: str, name: str) -> None:
    """What moves money at Stripe is journaled, the rest is passed on."""
    route = stripe.routes.match("POST", path)
    assert (route.name, route.durable) == (name, name != "other")


@pytest.mark.parametrize("path", ["/", "/pay", "/a/b?c", "/a%0Ab", "//"])
def test_every_post_to_an_unknown_gateway_moves_money(plain: Gateway, path: str) -> None:
    """Until the policy file says otherwise, and without a hole in it."""
    assert plain.routes.match("POST", path).durable
    assert not plain.routes.match("GET", path).durable
    assert not plain.routes.match("PUT", path).durable


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("pay", "must start with '/'"),
        ("", "must start with '/'"),
        ("/pay/{id", "stands for one segment"),
        ("/pay/id}", "stands for one segment"),
        ("/pay/{a/b}", "stands for one segment"),
        ("/pay/{id}{oops", "stands for one segment"),
        ("/pay/{id}{a/b}", "stands for one segment"),
        ("/pay/*", "for the rest of the path"),
        ("/pay?x", "stands for one segment"),
        ("/pay#x", "stands for one segment"),
    ],
)
def test_what_is_no_template(template: str, why: str) -> None:
    """The message shows the template and says what one looks like."""
    with pytest.raises(ValueError, match="is not a path template") as caught:
        compile_template(template)
    assert repr(template) in str(caught.value)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("method", "safe"),
    [
        ("GET", True),
        ("HEAD", True),
        ("OPTIONS", True),
        ("TRACE", True),
        ("POST", False),
        ("PUT", False),
        ("DELETE", False),
        ("PATCH", False),
        ("get", False),
    ],
)
def test_safe_methods(method: str, *, safe: bool) -> None:
    """Those that only read (RFC 9110 section 9.2.1)."""
    assert is_safe(method) is safe
