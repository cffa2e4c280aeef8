"""What may be on file, and what certainly is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.stores.known_keys import KnownKeys

KEYS = st.lists(st.text())


@given(KEYS, KEYS)
def test_a_key_that_was_added_is_never_denied(mine: list[str], others: list[str]) -> None:
    """Whether it came in by itself or with others."""
    known, more = KnownKeys(), KnownKeys()
    for key in mine:
        known.add(key)
    for key in others:
        more.add(key)
    known.join(more)
    assert all(known.may_hold(key) for key in (*mine, *others))


def test_most_that_were_not_added_are_denied() -> None:
    """Of a hundred thousand new keys, beside as many known ones, nearly all need no look."""
    known = KnownKeys()
    for number in range(100_000):
        known.add(f"known {number}")
    asked_in_vain = sum(known.may_hold(f"new {number}") for number in range(100_000))
    assert asked_in_vain < 100
