"""What a `Query` matches, for sessions that are in memory."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.core.session import Session
from proxy.ports import COUNTED, Page, Query


def matches(session: Session, query: Query) -> bool:
    """Whether a session is part of a search's result."""
    wanted = (
        (query.order_ref, session.order_ref),
        (query.user_ref, session.user_ref),
        (query.state, session.state),
        (query.outcome, session.outcome),
        (query.gateway, session.gateway),
    )
    if any(want is not None and want != have for want, have in wanted):
        return False
    if query.listed_only and not session.listed:
        return False
    started = session.started_at
    return (query.since is None or started >= query.since) and (
        query.until is None or started < query.until
    )


def page_of(sessions: Iterable[Session], query: Query) -> Page:
    """The page a query asks for, newest first."""
    found = [session for session in sessions if matches(session, query)]
    found.sort(key=_place, reverse=True)
    after = query.after
    rest = found if after is None else [s for s in found if _place(s) < after]
    total = len(found) if query.listed_only else min(len(found), COUNTED)
    return Page(rest[: query.limit], total, len(rest) > query.limit)


def _place(session: Session) -> tuple[int, str]:
    return session.started_at, session.id
