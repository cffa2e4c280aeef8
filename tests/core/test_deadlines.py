"""How long a caller waits, as its headers say, and what they may not do."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.deadlines import FOR_THIS_HOP, caller_wait

ENVOY, GRPC = "x-envoy-expected-rq-timeout-ms", "grpc-timeout"
WAY_BACK = 0.05


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        (ENVOY, "1500", 1.5),
        (ENVOY, "0", 0),
        (ENVOY, "000000000000015", 0.015),
        (GRPC, "1500m", 1.5),
        (GRPC, "2H", 7200),
        (GRPC, "2M", 120),
        (GRPC, "2S", 2),
        (GRPC, "2000000u", 2),
        (GRPC, "99999999n", 0.099999999),
        ("prefer", "wait=5", 5),
        ("prefer", "return=representation, wait=5", 5),
        ("prefer", 'respond-async;a="b, wait=9", WAIT = 5 ; x=1, wait=3', 5),
        ("prefer", "return=representation, wait=1, wait=7", 1),
    ],
)
def test_a_caller_says_how_long_it_waits(name: str, value: str, seconds: float) -> None:
    """In the words of Envoy, gRPC and RFC 7240; the answer leaves a little before."""
    assert caller_wait({"host": "a", name: value}) == pytest.approx(seconds - WAY_BACK)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ENVOY, ""),
        (ENVOY, "soon"),
        (ENVOY, "-1"),
        (ENVOY, "1.5"),
        (ENVOY, "1500, 1500"),
        (ENVOY, "\u00b2"),  # a digit to `str.isdigit`, not to `int`
        (ENVOY, "9" * 5000),
        (GRPC, "1500"),
        (GRPC, "m"),
        (GRPC, "1 m"),
        (GRPC, "1500h"),
        (GRPC, "100000000m"),  # nine digits
        ("prefer", "return=representation"),
        ("prefer", "wait"),
        ("prefer", "wait=soon"),
        ("prefer", "wait=soon, wait=5"),
        ("prefer", 'wait="5"'),
        ("prefer", 'a="wait=5'),
        ("prefer", "await=5"),
    ],
)
def test_what_cannot_be_read_is_no_deadline(name: str, value: str) -> None:
    """A hint that is garbage is passed over, not refused."""
    assert caller_wait({name: value}) == inf


def test_most_callers_say_nothing() -> None:
    """Then they wait as long as it takes."""
    assert caller_wait({"host": "a", "idempotency-key": "k"}) == inf


def test_the_shortest_counts() -> None:
    """Each of them bounds the wait."""
    said = {ENVOY: "3000", GRPC: "2S", "prefer": "wait=10"}
    assert caller_wait(said) == pytest.approx(2 - WAY_BACK)


def test_what_is_for_this_hop_only() -> None:
    """A proxy behind Holdfast that heeded them would cut off what Holdfast listens for."""
    assert {ENVOY, GRPC} == FOR_THIS_HOP


TEXT = st.text(alphabet=st.characters(max_codepoint=255), max_size=60)
LIKELY = st.text(alphabet='wait=5;, "\\HMSmun0189.-\xa0\xb2\n', max_size=40)


@given(st.dictionaries(st.sampled_from([ENVOY, GRPC, "prefer"]), TEXT | LIKELY))
def test_nothing_a_caller_writes_breaks_it(values: dict[str, str]) -> None:
    """Whatever bytes are there, the wait is a number, and never less than none."""
    assert caller_wait(values) >= -WAY_BACK


@pytest.mark.parametrize("value", ['"' + '\\"' * 8000, '"' * 16_000 + "\\", "wait=," * 3000])
def test_a_long_header_is_read_once(value: str) -> None:
    """A hundred times as long as a header may be: tried from each quote on, it would take hours."""
    assert caller_wait({"prefer": value * 100}) == inf
