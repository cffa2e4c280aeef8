"""What a store need not do that has one process to serve: its lease is the life of that process."""

from __future__ import annotations

from math import inf


class SoleOwner:
    """The part of a `SessionStore` that is about others, where there are none."""

    shared = False
    leads = True
    regressed: str | None = None

    def lease_seconds(self) -> float:
        """For ever."""
        return inf

    async def heartbeat(self) -> None:
        """Nobody listens."""

    async def bind(self, mark: str) -> None:
        """Its key lies beside it."""
