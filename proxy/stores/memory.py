"""The reference store: what every call means, without a disk. Everything is gone when it ends."""

from __future__ import annotations

from typing_extensions import override

from proxy.core.session import Session
from proxy.ports import Clock, Conflict, KeyTaken, OrderTaken, Page, Query, StoreUnavailable
from proxy.stores.index import CHARGED_AFTER_ALL, Index
from proxy.stores.searching import page_of
from proxy.stores.sole import SoleOwner


class MemoryStore(SoleOwner):
    """Sessions in a dictionary. For tests, demos and routes nobody minds losing."""

    trouble = None
    broken = None
    epoch = 1

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._index = Index()
        self._answers: dict[str, tuple[int, bytes]] = {}
        self._requests: dict[str, bytes] = {}

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def claim(self, session: Session, expected_version: int) -> None:
        self._check(session.id, expected_version)
        holder = self._index.with_key(session.key_hash)
        if holder is not None and holder.id != session.id:
            raise KeyTaken(holder)
        holder = self._index.locking(session)
        if holder is not None and holder.id != session.id and session.locks_order:
            raise OrderTaken(holder)
        self._index.put(session)

    async def commit(
        self,
        session: Session,
        expected_version: int,
        answer: bytes | None,
        request: bytes | None = None,
    ) -> None:
        self._check(session.id, expected_version)
        if session.begins_send and session.locks_order and self._index.locking(session):
            raise StoreUnavailable(CHARGED_AFTER_ALL)
        self._index.put(session)
        if answer is not None:
            self._answers[session.id] = (self._clock.now_ms(), answer)
        if request is not None:
            self._requests[session.id] = request
        if not session.listed:
            self._requests.pop(session.id, None)

    def _check(self, session_id: str, expected_version: int) -> None:
        current = self._index.by_id.get(session_id)
        if (current.version if current else 0) != expected_version:
            raise Conflict(current)

    async def get(self, session_id: str) -> Session | None:
        return self._index.by_id.get(session_id)

    async def answer(self, session_id: str) -> bytes | None:
        kept = self._answers.get(session_id)
        return kept[1] if kept is not None else None

    async def request(self, session_id: str) -> bytes | None:
        return self._requests.get(session_id)

    async def search(self, query: Query) -> Page:
        return page_of(self._index.by_id.values(), query)

    @override
    async def listed(self) -> list[Session]:
        return [session for session in self._index.by_id.values() if session.listed]

    async def purge(self, *, answers_before: int, sessions_before: int) -> tuple[int, int]:
        old = [key for key, (at, _) in self._answers.items() if at < answers_before]
        for key in old:
            del self._answers[key]
        finished = [
            session.id
            for session in self._index.by_id.values()
            if not session.listed and (session.finished_at or 0) < sessions_before
        ]
        for session_id in finished:
            self._index.remove(session_id)
        return len(old), len(finished)
