"""What a `Query` matches: of sessions that are in memory, and as SQL for those in a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from proxy.core.session import Session
from proxy.core.states import LIVE, Outcome, State
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


# --- as SQL -------------------------------------------------------------------------------------

# Each goes by an index of its own, newest first, however many there are of all others. The text is
# our own and the values are bound, as $1 or ?1.
_NEWEST = "ORDER BY started_at DESC, id DESC"


def counting(query: Query, mark: str) -> tuple[str, list[object]]:
    """A statement that counts what matches, and its values. Of more than `COUNTED` it counts some
    more than that.
    """
    parts, values = _parts(dataclasses.replace(query, after=None), mark)
    # The ids would have to be read for their order, and it makes no difference here.
    most = "" if query.listed_only else f"ORDER BY started_at DESC LIMIT {COUNTED}"
    each = [f"SELECT * FROM (SELECT 1 FROM sessions WHERE {p} {most}) AS p" for p in parts]  # noqa: S608
    return f"SELECT count(*) AS total FROM ({' UNION ALL '.join(each)}) AS found", values  # noqa: S608


def finding(query: Query, mark: str) -> tuple[str, list[object]]:
    """A statement that brings a page of documents and the next one, and its values."""
    # Of two limits SQLite takes one to find its place; this one is the nearer.
    if query.after is not None and query.until is not None and query.after[0] < query.until:
        query = dataclasses.replace(query, until=None)
    parts, values = _parts(query, mark)
    page = f"{_NEWEST} LIMIT {query.limit + 1:d}"
    of_each = "SELECT doc, started_at, id FROM sessions"
    each = [f"SELECT * FROM ({of_each} WHERE {part} {page}) AS p" for part in parts]  # noqa: S608
    return f"SELECT doc FROM ({' UNION ALL '.join(each)}) AS found {page}", values  # noqa: S608


def _parts(query: Query, mark: str) -> tuple[list[str], list[object]]:
    """The conditions of each part of what matches, and the values that all parts share."""
    by_owner = query.order_ref is not None or query.user_ref is not None
    columns = {
        "order_ref =": query.order_ref,
        "user_ref =": query.user_ref,
        "state =": query.state,
        "outcome =": query.outcome,
        # An order or a user is found faster by its own index, so there not by the gateway's.
        "(gateway || '') =" if by_owner else "gateway =": query.gateway,
        # Always, or SQLite looks at all there are and sorts them, instead of at the newest first.
        "started_at >=": query.since or 0,
        "started_at <": query.until,
    }
    given = {condition: value for condition, value in columns.items() if value is not None}
    conditions = [f"{condition} {mark}{n}" for n, condition in enumerate(given, start=1)]
    values: list[object] = list(given.values())
    if query.after is not None:
        conditions.append(f"(started_at, id) < ({mark}{len(values) + 1}, {mark}{len(values) + 2})")
        values += query.after
    shared = " AND ".join(conditions)
    if query.listed_only or query.state in LIVE or query.outcome is Outcome.UNKNOWN:
        return [f"{shared} AND listed"], values
    if not by_owner and query.state not in {None, State.COMPLETED}:
        return [f"{shared} AND listed", f"{shared} AND NOT listed AND state <> 'COMPLETED'"], values
    if not by_owner and query.outcome is Outcome.NOT_CHARGED:
        # What its index says need not be read in a thousand rows to count them.
        rest = " AND ".join(each for each in conditions if not each.startswith("outcome ="))
        return [f"{shared} AND listed", f"{rest} AND unpaid"], values
    return [shared], values


def _place(session: Session) -> tuple[int, str]:
    return session.started_at, session.id
