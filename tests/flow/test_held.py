"""Requests kept in memory for as long as they may be needed, and no longer."""

from __future__ import annotations

from proxy.core.wire import InboundRequest
from proxy.flow.held import HeldRequests


def request(size: int) -> InboundRequest:
    """A request whose body has a size."""
    return InboundRequest("stripe", "POST", "/pay", (), b"x" * size)


def test_what_is_kept_is_found_and_dropped() -> None:
    """A request is there until it is dropped; dropping twice is nothing."""
    held = HeldRequests(10_000)
    held.keep("a", request(10))
    assert held.get("a") == request(10)
    held.drop("a")
    held.drop("a")
    assert held.get("a") is None


def test_the_oldest_goes_first() -> None:
    """Beyond the limit the oldest requests are forgotten, not the newest refused."""
    held = HeldRequests(3_500)
    for name in "abc":
        held.keep(name, request(1_000))
    assert [name for name in "abc" if held.get(name) is not None] == ["b", "c"]


def test_keeping_again_replaces() -> None:
    """A session has one request; its size counts once."""
    held = HeldRequests(3_500)
    for _ in range(5):
        held.keep("a", request(1_000))
    held.keep("b", request(1_000))
    assert held.get("a") is not None


def test_a_request_larger_than_everything_is_not_kept() -> None:
    """What does not fit at all is forgotten at once."""
    held = HeldRequests(1_000)
    held.keep("a", request(5_000))
    assert held.get("a") is None
