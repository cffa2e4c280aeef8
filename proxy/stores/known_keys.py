"""Which keys may be on file: says "certainly not" without looking there.

Nearly every payment is new, and to ask the file for its key takes longer than all else of a claim.
It errs in one direction only: a key that was added is never denied. A key that was not is taken for
one that may be there three times in a hundred when it holds a million, and is then looked for.
"""

from __future__ import annotations

_PLACE_BITS = 25
_MASK = (1 << _PLACE_BITS) - 1
_BIT = tuple(1 << place for place in range(8))


class KnownKeys:
    """A set of keys that may hold more than was added: 4 MiB, whatever is in it."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_PLACE_BITS - 3))

    def add(self, key: str) -> None:
        """Take in a key."""
        place = hash(key) & _MASK  # Python's own, which is made for this and kept with the text
        self._bits[place >> 3] |= _BIT[place & 7]

    def may_hold(self, key: str) -> bool:
        """Whether it may have been added. False is certain."""
        place = hash(key) & _MASK
        return self._bits[place >> 3] & _BIT[place & 7] != 0

    def join(self, others: KnownKeys) -> None:
        """Take in all that others hold."""
        both = int.from_bytes(self._bits, "little") | int.from_bytes(others._bits, "little")
        self._bits[:] = both.to_bytes(len(self._bits), "little")
