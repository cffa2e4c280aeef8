"""Which keys may be on file: says "certainly not" without looking there (a Bloom filter).

Nearly every payment is new, and to ask the file for its key takes longer than all else of a claim.
It errs in one direction only: a key that was added is never denied. A key that was not is taken for
one that may be there once in a hundred times when it holds a million, and is then looked for.
"""

from __future__ import annotations

_PLACE_BITS = 24
_MASK = (1 << _PLACE_BITS) - 1


class KnownKeys:
    """A set of keys that may hold more than was added: 2 MiB, whatever is in it."""

    def __init__(self) -> None:
        self._bits = bytearray(1 << (_PLACE_BITS - 3))

    def add(self, key: str) -> None:
        """Take in a key."""
        places = hash(key)  # Python's own, which is made for this and kept with the text
        one, two = places & _MASK, places >> _PLACE_BITS & _MASK
        self._bits[one >> 3] |= 1 << (one & 7)
        self._bits[two >> 3] |= 1 << (two & 7)

    def may_hold(self, key: str) -> bool:
        """Whether it may have been added. False is certain."""
        places = hash(key)
        one = places & _MASK
        if not self._bits[one >> 3] >> (one & 7) & 1:
            return False
        two = places >> _PLACE_BITS & _MASK
        return bool(self._bits[two >> 3] >> (two & 7) & 1)

    def join(self, others: KnownKeys) -> None:
        """Take in all that others hold."""
        both = int.from_bytes(self._bits, "little") | int.from_bytes(others._bits, "little")
        self._bits[:] = both.to_bytes(len(self._bits), "little")
