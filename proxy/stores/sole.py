"""What a store need not do that has one process to serve: its lease is the life of that process."""

from __future__ import annotations

from abc import abstractmethod
from math import inf

from proxy.core.session import Session


class SoleOwner:
    """The part of a `SessionStore` that is about others, where there are none."""

    shared = False
    leads = True
    regressed: str | None = None
    promise: str | None = None
    epoch: int

    def lease_seconds(self) -> float:
        """For ever."""
        return inf

    async def heartbeat(self) -> None:
        """Nobody listens."""

    async def bind(self, mark: str) -> None:
        """Its key lies beside it."""

    @abstractmethod
    async def listed(self) -> list[Session]: ...

    async def abandoned(self) -> list[Session]:
        """What an earlier process had in flight: the store was its alone."""
        senders = {None, self.epoch}
        return [session for session in await self.listed() if session.sender not in senders]
