"""What a campaign arranges in one of its Holdfasts before that begins to serve.

Nothing of this is in the product: its rooms' own functions are wrapped from outside.
"""

from __future__ import annotations


def arrange(words: list[str]) -> None:
    """Carry out what the words say."""
    if words:
        raise ValueError(words)
