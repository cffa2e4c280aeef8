"""Sessions in memory, findable by id, key and locked order: all of the memory store, and the part
of the SQLite store that is live or not yet written.
"""

from __future__ import annotations

from proxy.core.session import Session

OrderKey = tuple[str, str]
CHARGED_AFTER_ALL = "another session of the order was charged after all"


def order_key(session: Session) -> OrderKey | None:
    """What the order lock is on: the operation and the order; None if the session has no order.

    An order is locked across gateways and credentials: a shopper who tries another way to pay is
    still paying the same order.
    """
    return None if session.order_ref is None else (session.operation, session.order_ref)


class Index:
    """A dictionary of sessions with two more ways to find them."""

    def __init__(self) -> None:
        self.by_id: dict[str, Session] = {}
        self._by_key: dict[str, str] = {}
        # More than one only if a charge came to light of a session that had freed its order.
        self._by_order: dict[OrderKey, list[str]] = {}

    def put(self, session: Session) -> None:
        """Take in a session, or its next version."""
        session_id = session.id
        before = self.by_id.get(session_id)
        self.by_id[session_id] = session
        key, order_ref = session.key_hash, session.order_ref
        if key is not None and (before is None or before.key_hash != key):
            self._by_key[key] = session_id
        if order_ref is None and (before is None or before.order_ref is None):
            return
        order = order_key(session) if session.order_ref is not None else None
        if before is not None and before.order_ref is not None and order_key(before) != order:
            self._unlock(before)
        if order is None:
            return
        if not session.locks_order:
            self._unlock(session)
        elif session_id not in (lockers := self._by_order.setdefault(order, [])):
            lockers.append(session_id)

    def _unlock(self, session: Session) -> None:
        order = order_key(session)
        lockers = self._by_order.get(order, []) if order is not None else []
        if session.id in lockers:
            lockers.remove(session.id)
            if not lockers and order is not None:
                del self._by_order[order]

    def remove(self, session_id: str) -> None:
        """Forget a session."""
        session = self.by_id.pop(session_id, None)
        if session is None:
            return
        if session.key_hash is not None:
            self._by_key.pop(session.key_hash, None)
        if session.order_ref is not None:
            self._unlock(session)

    def with_key(self, key_hash: str | None) -> Session | None:
        """The session that has the key."""
        found = self._by_key.get(key_hash) if key_hash is not None else None
        return self.by_id[found] if found is not None else None

    def locking(self, session: Session) -> Session | None:
        """Another session that locks the order of `session`."""
        order = order_key(session)
        lockers = self._by_order.get(order, ()) if order is not None else ()
        return next((self.by_id[name] for name in lockers if name != session.id), None)
