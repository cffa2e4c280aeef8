"""Find out by reading what became of a request: which question to ask next, and what an answer
proves.

Pure: the reconciler asks. Silence proves nothing here: "not found" right after a lost answer may
only mean that the gateway is still at it, so it stays inconclusive.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

from proxy.core.classify import classify
from proxy.core.profile import GatewayProfile, LookupRecipe
from proxy.core.session import Session
from proxy.core.states import SPEAKS_FOR_THE_KEY, AttemptStatus
from proxy.core.wire import WireFacts

# Gateways date things by their own clock, to the second.
_CLOCK_SLACK_SECONDS = 60
# A gateway may still be working on a request whose answer we lost. Until it had this long, only a
# charge counts as evidence; "nothing happened yet" does not. Longer than any SDK's own time-out
# (80 s).
SETTLE_SECONDS = 120
# How long after the last send it is looked for, by how often it was. Gateways list the newest
# first, so a busy merchant's payment is found sooner from close behind it.
_REACH_SECONDS = (15, 60, SETTLE_SECONDS + _CLOCK_SLACK_SECONDS)


@dataclass(frozen=True, slots=True)
class Ask:
    """A GET to make. `reading` names the thing once it is found."""

    target: str
    page: int = 1
    reading: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The truth, with the gateway's own words for it."""

    status: AttemptStatus
    reference: str
    facts: WireFacts


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """Nothing was proved, and why."""

    why: str


def begin(recipe: LookupRecipe, session: Session) -> Ask:
    """The first question about a session whose outcome is unknown."""
    return Ask(_fill(recipe.find_target, session))


def proceed(
    recipe: LookupRecipe,
    profile: GatewayProfile,
    session: Session,
    asked: Ask,
    facts: WireFacts,
    *,
    now_ms: int,
) -> Ask | Found | Inconclusive:
    """What to do with an answer: ask on, take it as proof, or leave the outcome unknown."""
    if facts.reason is not None:
        return Inconclusive(f"the look-up got no answer ({facts.reason})")
    if asked.reading is not None:
        return _read(profile, session, asked.reading, facts, now_ms)
    if facts.status != HTTPStatus.OK:
        return Inconclusive(f"the look-up was answered with status {facts.status}")
    return _search(recipe, session, asked, facts.body)


def _search(recipe: LookupRecipe, session: Session, asked: Ask, body: bytes) -> Ask | Inconclusive:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return Inconclusive("the look-up's answer is not JSON")
    items = recipe.items.values(document)
    wanted = [(path, _expand(value, session)) for path, value in recipe.match]
    for item in items:
        if all(str(path.first(item)) == value for path, value in wanted):
            name = str(recipe.id.first(item))
            if not name.isprintable():  # lone surrogates among them: no name of anything
                return Inconclusive("the look-up names something that cannot be asked for")
            target = recipe.read_target.replace("{id}", quote(name, safe=""))
            return Ask(target, asked.page, reading=name)
    return _next_page(recipe, session, asked, items, document)


def _next_page(
    recipe: LookupRecipe, session: Session, asked: Ask, items: list[object], document: object
) -> Ask | Inconclusive:
    paged = recipe.more is not None and recipe.cursor is not None
    if not paged or not items or recipe.more.first(document) is not True:  # type: ignore[union-attr]  # paged says so
        return Inconclusive("the gateway shows nothing for this key")
    if asked.page >= recipe.max_pages:
        return Inconclusive(f"nothing for this key on the first {recipe.max_pages} pages")
    # likewise
    last = quote(str(recipe.cursor.first(items[-1])), safe="")  # type: ignore[union-attr]
    target = f"{_fill(recipe.find_target, session)}&{recipe.cursor_parameter}={last}"
    return Ask(target, asked.page + 1)


def _read(
    profile: GatewayProfile, session: Session, name: str, facts: WireFacts, now_ms: int
) -> Found | Inconclusive:
    result = classify(facts, profile, now_ms=now_ms)
    if result.status not in SPEAKS_FOR_THE_KEY:
        return Inconclusive(f"{name} does not say whether it was charged")
    waited = (now_ms - (session.last_send_at or session.started_at)) / 1000
    if result.status is not AttemptStatus.SUCCEEDED and waited < SETTLE_SECONDS:
        return Inconclusive(f"{name} is not charged, but the gateway may still be at it")
    return Found(result.status, name, facts)


def _fill(template: str, session: Session) -> str:
    first = session.first_send_at or session.started_at
    last = session.last_send_at or session.started_at
    reach = _REACH_SECONDS[min(session.lookups, len(_REACH_SECONDS) - 1)]
    return (
        template.replace("{gateway_key}", quote(session.gateway_key or "", safe=""))
        .replace("{since}", str(first // 1000 - _CLOCK_SLACK_SECONDS))
        .replace("{until}", str(last // 1000 + reach))
    )


def _expand(value: str, session: Session) -> str:
    return value.replace("{gateway_key}", session.gateway_key or "")
