"""Find out by reading what became of a request: which question to ask next, and what an answer
proves.

Pure: the reconciler asks. Silence right after a lost answer proves nothing, the gateway may still
be at it. It counts only where the profile says so, later than that, and confirmed (`Nothing`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from http import HTTPStatus
from urllib.parse import quote

from proxy.core.classify import classify, fits
from proxy.core.coding import plain
from proxy.core.documents import NO_DOCUMENT, document, kind_of
from proxy.core.events import VoidAsked
from proxy.core.profile import GatewayProfile, ListRecipe, LookupRecipe
from proxy.core.session import Session
from proxy.core.slots import expand, filled_body, filled_target
from proxy.core.states import SPEAKS_FOR_THE_KEY, AttemptStatus
from proxy.core.wire import WireFacts, by_name

# What a look-up or a void is given, connecting and all. A void may arrive as late as that.
ASKING_SECONDS = 10.0
# Gateways date things by their own clock, to the second.
_CLOCK_SLACK_SECONDS = 60
# How long after the last send it is looked for, by how often it was; then as far as the gateway may
# have been at it. Gateways list the newest first: from close behind it, it is found sooner.
_REACH_SECONDS = (15, 60)


@dataclass(frozen=True, slots=True)
class Ask:
    """A GET to make, or a POST of a `body`. `reading` names the thing once it is known; `base` is
    the list's first page, where this is another one.
    """

    target: str
    page: int = 1
    reading: str | None = None
    base: str | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The truth, with the gateway's own words for it."""

    status: AttemptStatus
    reference: str
    facts: WireFacts


@dataclass(frozen=True, slots=True)
class Nothing:
    """All there is was shown, late enough, and the payment is not among it."""


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """Nothing was proved, and why. `there`: the gateway has something of the payment."""

    why: str
    there: bool = False


Step = Ask | Found | Nothing | Inconclusive


def charged(step: Step) -> bool:
    """Whether it is the proof of a charge."""
    return isinstance(step, Found) and step.status is AttemptStatus.SUCCEEDED


def can_read(recipe: LookupRecipe, session: Session) -> bool:
    """Whether a session can be looked up with this recipe.

    By its order only if the gateway was told that very name: under another one it would have
    nothing, and nothing would be taken for a proof.
    """
    if recipe.read_target is None:
        return False
    texts, find = [recipe.read_target], recipe.find
    if find is not None:
        texts += [find.target, find.body or "", *(value for _, value in find.match)]
    named = "".join(texts)
    return (
        ("{order}" not in named or session.order_in_body)
        and ("{amount}" not in named or session.amount is not None)
        and ("{gateway_key}" not in named or session.gateway_key is not None)
    )


def begin(recipe: LookupRecipe, profile: GatewayProfile, session: Session, now_ms: int) -> Ask:
    """The first question about a session whose outcome is unknown."""
    if recipe.find is not None:
        body = recipe.find.body
        target = _fill(recipe.find.target, recipe, profile, session, now_ms)
        return Ask(target, body=None if body is None else filled_body(body, session))
    read = recipe.read_target or ""
    name = session.order_ref if "{order}" in read else session.gateway_key
    return Ask(_fill(read, recipe, profile, session, now_ms), reading=name or "")


def proceed(
    recipe: LookupRecipe,
    profile: GatewayProfile,
    session: Session,
    asked: Ask,
    facts: WireFacts,
    *,
    now_ms: int,
) -> Step:
    """What to do with an answer: ask on, take it as proof, or leave the outcome unknown. `now_ms`:
    when the look-up began.
    """
    if facts.reason is not None:
        return Inconclusive(f"the look-up got no answer ({facts.reason})")
    if asked.reading is not None:
        if _says_there_is_none(recipe, facts):
            return _nothing(recipe, session, now_ms)
        step = _read(profile, session, asked.reading, facts, now_ms)
        return step if recipe.find is None else _its_own(recipe.find, step)
    if facts.status != HTTPStatus.OK or recipe.find is None:
        return Inconclusive(f"the look-up was answered with status {facts.status}")
    body = plain(facts.body, by_name(facts.headers))
    shown = document(body, kind_of(body))
    if shown is NO_DOCUMENT:
        return Inconclusive("the look-up's answer cannot be read")
    found = _search(recipe, recipe.find, session, asked, shown)
    return found or _next_page(recipe, recipe.find, session, asked, shown, now_ms)


def _says_there_is_none(recipe: LookupRecipe, facts: WireFacts) -> bool:
    """Whether a payment that was read without a list is said not to exist."""
    says_so = recipe.absence.says_so if recipe.absence is not None else None
    return recipe.find is None and says_so is not None and fits(facts, says_so)


def _search(
    recipe: LookupRecipe, find: ListRecipe, session: Session, asked: Ask, shown: object
) -> Ask | Inconclusive | None:
    """The payment on a page of the list, if it is there."""
    wanted = [
        (path, expand(value, session), _number if value == "{amount}" else str)
        for path, value in find.match
    ]
    names = {
        _text(find.id.first(item)) or ""
        for item in find.items.values(shown)
        if all(_same(path.first(item), value, read) for path, value, read in wanted)
        and all(_text(path.first(item)) in values for path, values in find.among)
    }
    if len(names) > 1:  # one may be of another session
        return Inconclusive("the look-up shows several, and not which of them it is", there=True)
    for name in names:
        if not (name and name.isprintable()):  # lone surrogates among them: no name of anything
            return Inconclusive("the look-up names what cannot be asked for", there=True)
        target = (recipe.read_target or "").replace("{id}", quote(name, safe=""))
        return Ask(target, asked.page, reading=name)
    return None


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def _same(value: object, wanted: str, read: Callable[[str], object]) -> bool:
    """Whether it is there, and what was wanted. `read`: as what the two are compared."""
    text = _text(value)
    return text is not None and read(text) == read(wanted)


def _number(text: str) -> object:
    """An amount: with the zeros that one writes and another does not it is still the same."""
    try:
        return Decimal(text).normalize()
    except InvalidOperation:
        return text


def _next_page(
    recipe: LookupRecipe,
    find: ListRecipe,
    session: Session,
    asked: Ask,
    shown: object,
    now_ms: int,
) -> Step:
    items = find.items.values(shown)
    more = None if find.more is None else find.more.first(shown)
    if find.cursor is None or not items or more is not True:
        # All of it was shown: the last page of many, or a list of nothing.
        whole = more is False if find.more is not None else not items
        if whole and find.items.reaches_a_list(shown):
            return _nothing(recipe, session, now_ms)
        return Inconclusive("the gateway shows nothing for this key")
    if asked.page >= find.max_pages:
        return Inconclusive(f"nothing for this key on the first {find.max_pages} pages")
    last = str(find.cursor.first(items[-1]))
    if not last.isprintable():  # lone surrogates among them
        return Inconclusive("the look-up goes on at something that cannot be asked for")
    base = asked.base or asked.target
    target = f"{base}&{find.cursor_parameter}={quote(last, safe='')}"
    return Ask(target, asked.page + 1, base=base, body=asked.body)


def _nothing(recipe: LookupRecipe, session: Session, now_ms: int) -> Nothing | Inconclusive:
    """Nothing is there. Whether that counts."""
    if recipe.absence is None or seconds_since_send(session, now_ms) < recipe.absence.after:
        return Inconclusive("the gateway shows nothing for this key")
    return Nothing()


def confirms(recipe: LookupRecipe, session: Session, begun_ms: int) -> bool:
    """Whether finding nothing says more than the last time: asked as long after that as the first
    time was after the send.
    """
    times, absence = session.not_found, recipe.absence
    if absence is None or (session.gateway_key or "").startswith('"'):  # known without the quotes?
        return False
    return not times or begun_ms - times[-1] >= absence.after * 1000


def proves(recipe: LookupRecipe, session: Session) -> bool:
    """Whether nothing was found often enough to prove that nothing was charged."""
    return recipe.absence is not None and len(session.not_found) >= recipe.absence.confirmations


def _read(
    profile: GatewayProfile, session: Session, name: str, facts: WireFacts, now_ms: int
) -> Found | Inconclusive:
    result = classify(facts, profile, now_ms=now_ms)
    shown = facts.status == HTTPStatus.OK  # of a refusal the rules say what it means to a payment
    if not shown or result.status not in SPEAKS_FOR_THE_KEY:
        there = shown and result.status is AttemptStatus.UNKNOWN
        return Inconclusive(f"{name} does not say whether it was charged", there)
    if result.status is not AttemptStatus.SUCCEEDED and not settled(profile, session, now_ms):
        return Inconclusive(f"{name} is not charged, but the gateway may still be at it", True)
    return Found(result.status, name, facts)


def _its_own(find: ListRecipe, step: Found | Inconclusive) -> Found | Inconclusive:
    """What is not charged under the order's name may be an earlier try of it, while this one is
    charged and not yet listed.
    """
    if isinstance(step, Inconclusive) or charged(step) or find.by_key:
        return step
    return Inconclusive(f"{step.reference} is not charged, but may be another try", there=True)


def may_be_void(profile: GatewayProfile, session: Session, now_ms: int) -> bool:
    """Whether it was just voided, perhaps: a charge that a look-up sees may be gone by now."""
    asked = [step.at for step in session.timeline if step.event == VoidAsked.__name__]
    return bool(asked) and now_ms - asked[-1] < voiding_seconds(profile) * 1000


def voiding_seconds(profile: GatewayProfile) -> float:
    """How long after it was asked for a void may be carried out."""
    return ASKING_SECONDS + profile.max_processing_time


def settled(profile: GatewayProfile, session: Session, now_ms: int) -> bool:
    """Whether the gateway is done with whatever it was sent."""
    return seconds_since_send(session, now_ms) >= profile.max_processing_time


def seconds_since_send(session: Session, now_ms: int) -> float:
    """How long ago the gateway may last have been sent something."""
    return (now_ms - (session.last_send_at or session.started_at)) / 1000


def _fill(
    template: str,
    recipe: LookupRecipe,
    profile: GatewayProfile,
    session: Session,
    now_ms: int,
) -> str:
    first = session.first_send_at or session.started_at
    last = session.last_send_at or session.started_at
    farthest = round(profile.max_processing_time) + _CLOCK_SLACK_SECONDS
    steps = (*_REACH_SECONDS, farthest)
    reach = last // 1000 + min(steps[min(session.lookups, len(steps) - 1)], farthest)
    absence = recipe.absence
    if absence is not None and seconds_since_send(session, now_ms) >= absence.after:
        reach = now_ms // 1000 + _CLOCK_SLACK_SECONDS  # all there is, or it would prove nothing
    dated = template.replace("{since}", str(first // 1000 - _CLOCK_SLACK_SECONDS))
    return filled_target(dated.replace("{until}", str(reach)), session)
