"""Finding out by reading: which question comes next, and what an answer proves."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.core.documents import BodyKind, document
from proxy.core.jsonpath import parse_json_path
from proxy.core.lookup import (
    Ask,
    Found,
    Inconclusive,
    Nothing,
    Step,
    begin,
    can_read,
    confirms,
    proceed,
    proves,
)
from proxy.core.profile import (
    MAX_PROCESSING_SECONDS,
    Absence,
    BodyTest,
    LookupRecipe,
    Rule,
    Verdict,
    rules_by_status,
)
from proxy.core.reasons import Reason
from proxy.core.session import Attempt, Session
from proxy.core.slots import filled_body, filled_target
from proxy.core.states import AttemptStatus
from proxy.core.wire import Phase, WireFacts
from proxy.settings.values import Gateway
from tests.support.building import AT, a_session

IN_FLIGHT, UNKNOWN, NOT_SENT, REJECTED, DECLINED, ACCEPTED, VOIDED, SUCCEEDED = AttemptStatus
SECOND = 1000
# Sent twice, five seconds apart; AT is 1706000000 s.
LOST = a_session(
    gateway_key="k 1/{id}",
    attempts=(
        Attempt(1, 1, "stripe", UNKNOWN, AT),
        Attempt(2, 1, "stripe", UNKNOWN, AT + 5 * SECOND),
    ),
)
SETTLED = AT + (5 + round(MAX_PROCESSING_SECONDS)) * SECOND
SEARCH = (
    "/v1/events?type=payment_intent.*&limit=100&created[gte]=1705999940&created[lte]=1706000020"
)


def answered(document: object, status: int = 200) -> WireFacts:
    """A complete answer; bytes as they are, anything else as JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return WireFacts(sent=True, phase=Phase.ANSWERED, status=status, body=body)


def event(key: str = "k 1/{id}", kind: str = "payment_intent", **more: Any) -> dict[str, Any]:
    """An event of Stripe's, about the request with a key."""
    thing = {"id": "pi_1", "object": kind}
    return {"id": "evt_1", "request": {"idempotency_key": key}, "data": {"object": thing}, **more}


def page(*events: object, more: bool = False) -> WireFacts:
    """A page of events."""
    return answered({"data": list(events), "has_more": more})


def listing(recipe: LookupRecipe, **changes: Any) -> LookupRecipe:
    """The same with another way of finding a payment."""
    assert recipe.find is not None
    return dataclasses.replace(recipe, find=dataclasses.replace(recipe.find, **changes))


@pytest.fixture
def recipe(stripe: Gateway) -> LookupRecipe:
    """How a payment intent is looked up at Stripe."""
    return stripe.profile.lookups["payment-intent"]


def step(stripe: Gateway, asked: Ask, facts: WireFacts, now_ms: int = SETTLED) -> Step:
    """The next step of looking up `LOST`."""
    recipe = stripe.profile.lookups["payment-intent"]
    return proceed(recipe, stripe.profile, LOST, asked, facts, now_ms=now_ms)


# --- the search ---------------------------------------------------------------------------------


def test_the_first_question(stripe: Gateway, recipe: LookupRecipe) -> None:
    """What happened around the time it was sent, by the gateway's clock with some slack."""
    assert begin(recipe, stripe.profile, LOST, AT) == Ask(SEARCH)


def test_later_questions_reach_further(stripe: Gateway, recipe: LookupRecipe) -> None:
    """Close behind the last send first, where a busy merchant's payment is found soonest."""
    steps = [begin(recipe, stripe.profile, replace(LOST, lookups=n), AT) for n in range(5)]
    reaches = [step.target.split("=")[-1] for step in steps]
    assert reaches == ["1706000020", "1706000065", "1706000185", "1706000185", "1706000185"]


def test_the_question_about_a_session_that_never_sent(
    stripe: Gateway, recipe: LookupRecipe
) -> None:
    """Then around the time it began."""
    until = "created[lte]=1706000015"
    assert begin(recipe, stripe.profile, a_session(), AT).target.endswith(until)


def test_the_key_is_escaped_in_a_target(stripe: Gateway, recipe: LookupRecipe) -> None:
    """A key may hold anything; it must not change what is asked."""
    by_key = listing(recipe, target="/payments?key={gateway_key}&from={since}")
    asked = begin(by_key, stripe.profile, LOST, AT)
    assert asked.target == "/payments?key=k%201%2F%7Bid%7D&from=1705999940"
    nobody = replace(LOST, gateway_key=None)
    assert begin(by_key, stripe.profile, nobody, AT).target == "/payments?key=&from=1705999940"


@pytest.mark.parametrize(
    "facts",
    [
        page(event()),
        page({"id": "evt_0"}, event("another"), event(), event(kind="charge")),
    ],
)
def test_found(stripe: Gateway, facts: WireFacts) -> None:
    """The first event of this very request names the thing; it is read as it stands now."""
    asked = Ask(SEARCH, page=3)
    assert step(stripe, asked, facts) == Ask("/v1/payment_intents/pi_1", 3, reading="pi_1")


def test_the_name_of_a_thing_is_escaped(stripe: Gateway) -> None:
    """What a gateway calls it does not lead to another endpoint."""
    odd = event()
    odd["data"]["object"]["id"] = "pi/../1?x"
    asked = step(stripe, Ask(SEARCH), page(odd))
    assert asked == Ask("/v1/payment_intents/pi%2F..%2F1%3Fx", reading="pi/../1?x")


@pytest.mark.parametrize(
    "facts",
    [page(), page(event("another")), page(event(kind="charge")), answered({"data": None})],
)
def test_nothing_there_proves_nothing(stripe: Gateway, facts: WireFacts) -> None:
    """Not found may mean that the gateway is still at it, however long it has been."""
    found = step(stripe, Ask(SEARCH), facts, SETTLED + 10**9)
    assert found == Inconclusive("the gateway shows nothing for this key")


def test_page_by_page(stripe: Gateway) -> None:
    """The next page begins after the last event of this one."""
    asked = step(stripe, Ask(SEARCH), page(event("x"), event("y", id="evt/9"), more=True))
    assert asked == Ask(f"{SEARCH}&starting_after=evt%2F9", page=2, base=SEARCH)
    assert isinstance(asked, Ask)
    assert step(stripe, asked, page(event())) == Ask("/v1/payment_intents/pi_1", 2, reading="pi_1")


def test_not_more_pages_than_allowed(stripe: Gateway) -> None:
    """Fifty pages of a hundred events; what lies beyond is not looked at."""
    full = page(event("x"), more=True)
    assert isinstance(step(stripe, Ask(SEARCH, page=49), full), Ask)
    given_up = step(stripe, Ask(SEARCH, page=50), full)
    assert given_up == Inconclusive("nothing for this key on the first 50 pages")


def test_an_empty_page_has_no_next(stripe: Gateway) -> None:
    """There is nothing to continue after, whatever the gateway says."""
    empty = step(stripe, Ask(SEARCH), page(more=True))
    assert empty == Inconclusive("the gateway shows nothing for this key")


def test_more_must_be_true_and_not_just_there(stripe: Gateway) -> None:
    """`"has_more": 1` is not what the gateway documents."""
    odd = answered({"data": [event("x")], "has_more": 1})
    assert isinstance(step(stripe, Ask(SEARCH), odd), Inconclusive)


def test_a_recipe_without_pages(stripe: Gateway) -> None:
    """Some gateways answer in one."""
    single = listing(stripe.profile.lookups["payment-intent"], more=None, cursor=None)
    facts = page(event("x"), more=True)
    found = proceed(single, stripe.profile, LOST, Ask(SEARCH), facts, now_ms=SETTLED)
    assert found == Inconclusive("the gateway shows nothing for this key")


def test_a_list_at_the_top(stripe: Gateway) -> None:
    """The path to the items is the profile's to say."""
    bare = listing(stripe.profile.lookups["payment-intent"], items=parse_json_path("[*]"))
    found = proceed(bare, stripe.profile, LOST, Ask(SEARCH), answered([event()]), now_ms=SETTLED)
    assert isinstance(found, Ask)


# --- no answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [Ask(SEARCH), Ask("/v1/payment_intents/pi_1", 1, "pi_1")])
@pytest.mark.parametrize("sent", [True, False])
def test_a_question_without_an_answer(stripe: Gateway, asked: Ask, *, sent: bool) -> None:
    """The network proves nothing about the payment."""
    facts = WireFacts(sent=sent, phase=Phase.CONNECTING, reason=Reason.CONNECTION_LOST)
    found = step(stripe, asked, facts)
    assert found == Inconclusive("the look-up got no answer (connection_lost)")


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429, 500, 503])
def test_a_search_that_is_refused(stripe: Gateway, status: int) -> None:
    """An error of the search is no word about the payment."""
    found = step(stripe, Ask(SEARCH), answered({"data": []}, status))
    assert found == Inconclusive(f"the look-up was answered with status {status}")


@pytest.mark.parametrize("body", [b"<html>", b"", b"\xff", b"[" * 100_000])
def test_a_search_that_cannot_be_read(stripe: Gateway, body: bytes) -> None:
    """Nor is an answer that is no JSON."""
    found = step(stripe, Ask(SEARCH), answered(body))
    assert found == Inconclusive("the look-up's answer cannot be read")


# --- reading the thing --------------------------------------------------------------------------

READING = Ask("/v1/payment_intents/pi_1", 1, reading="pi_1")
PAID = answered({"id": "pi_1", "status": "succeeded"})
FAILED = answered(
    {"id": "pi_1", "status": "requires_payment_method", "last_payment_error": {"code": "x"}}
)
WAITING = answered({"id": "pi_1", "status": "requires_action"})


@pytest.mark.parametrize(
    ("facts", "status"), [(PAID, SUCCEEDED), (FAILED, DECLINED), (WAITING, ACCEPTED)]
)
def test_the_truth(stripe: Gateway, facts: WireFacts, status: AttemptStatus) -> None:
    """What it says now, with the gateway's own words for it."""
    assert step(stripe, READING, facts) == Found(status, "pi_1", facts)


def test_a_charge_counts_at_once(stripe: Gateway) -> None:
    """Nobody has to wait to believe that money moved."""
    assert step(stripe, READING, PAID, AT) == Found(SUCCEEDED, "pi_1", PAID)


@pytest.mark.parametrize("facts", [FAILED, WAITING])
def test_no_charge_yet_is_no_proof(stripe: Gateway, facts: WireFacts) -> None:
    """Until it is settled, the last send may still be worked on."""
    early = step(stripe, READING, facts, SETTLED - 1)
    assert early == Inconclusive("pi_1 is not charged, but the gateway may still be at it", True)
    assert isinstance(step(stripe, READING, facts, SETTLED), Found)


def test_a_gateway_that_takes_longer_says_so(stripe: Gateway) -> None:
    """Its profile knows for how long "not yet" may become "charged"."""
    slow = dataclasses.replace(stripe.profile, max_processing_time=600.0)
    recipe = slow.lookups["payment-intent"]
    for now, kind in ((SETTLED, Inconclusive), (AT + 605 * SECOND, Found)):
        found = proceed(recipe, slow, LOST, READING, FAILED, now_ms=now)
        assert isinstance(found, kind)


def test_without_a_send_the_settling_counts_from_the_start(stripe: Gateway) -> None:
    """A session whose sends are not on record began at least when it began."""
    recipe = stripe.profile.lookups["payment-intent"]
    settles = round(MAX_PROCESSING_SECONDS) * SECOND
    for waited, kind in ((settles - 1, Inconclusive), (10**9, Found)):
        found = proceed(recipe, stripe.profile, a_session(), READING, FAILED, now_ms=AT + waited)
        assert isinstance(found, kind)


@pytest.mark.parametrize(
    "facts",
    [
        answered({"error": {}}, 404),
        answered({}, 500),
        answered({}, 429),
        answered({}, 409),
        answered({"no": "id"}),
        answered(b"not json"),
    ],
)
def test_a_thing_that_says_nothing(stripe: Gateway, facts: WireFacts) -> None:
    """An error, a throttle or a riddle: neither charged nor not."""
    found = step(stripe, READING, facts)
    assert isinstance(found, Inconclusive)
    assert found.why == "pi_1 does not say whether it was charged"
    assert found.there is (facts.status == 200)  # something is there, whatever it is


@pytest.mark.parametrize("status", [401, 402, 404, 503])
def test_a_refused_look_up_proves_nothing(stripe: Gateway, status: int) -> None:
    """Whatever such an answer to a payment means: a credential ran out, and nobody was declined."""
    rules = [Rule(((400, 599),), (), (), Verdict.DECLINED)]
    blunt = dataclasses.replace(stripe.profile, rules=rules_by_status(rules))
    refused = answered({"status": "failed"}, status)
    recipe = stripe.profile.lookups["payment-intent"]
    found = proceed(recipe, blunt, LOST, READING, refused, now_ms=SETTLED)
    assert isinstance(found, Inconclusive)


# --- nothing there, and what it proves -----------------------------------------------------------

ABSENCE = Absence(after=600.0, confirmations=3)
RIPE = AT + (5 + 600) * SECOND


def test_nothing_on_a_whole_list_counts_later(stripe: Gateway, recipe: LookupRecipe) -> None:
    """A list shown to its end, ten minutes after the last send; not a millisecond sooner."""
    proving = dataclasses.replace(recipe, absence=ABSENCE)
    asked = Ask(SEARCH)
    for now_ms, kind in ((RIPE - 1, Inconclusive), (RIPE, Nothing)):
        for facts in (page(), page(event("another"))):
            found = proceed(proving, stripe.profile, LOST, asked, facts, now_ms=now_ms)
            assert isinstance(found, kind)


@pytest.mark.parametrize(
    "facts",
    [
        answered({"data": None, "has_more": False}),
        answered({"has_more": False}),
        answered({"error": "later"}),
        answered({"data": []}),  # without a word on whether there is more
        answered({"data": [event("x")]}),
        page(more=True),
        answered({"data": [], "has_more": False}, 404),
    ],
)
def test_a_list_that_may_not_be_whole_proves_nothing(
    stripe: Gateway, recipe: LookupRecipe, facts: WireFacts
) -> None:
    """No list at all, or one of which nobody says that this is its end."""
    proving = dataclasses.replace(recipe, absence=ABSENCE)
    found = proceed(proving, stripe.profile, LOST, Ask(SEARCH), facts, now_ms=RIPE)
    assert isinstance(found, Inconclusive)


def test_without_pages_only_an_empty_list_is_whole(stripe: Gateway, recipe: LookupRecipe) -> None:
    """What lies beyond a full first page is not known."""
    single = listing(dataclasses.replace(recipe, absence=ABSENCE), more=None, cursor=None)
    for facts, kind in ((page(), Nothing), (page(event("x")), Inconclusive)):
        found = proceed(single, stripe.profile, LOST, Ask(SEARCH), facts, now_ms=RIPE)
        assert isinstance(found, kind)


def test_what_is_to_prove_something_is_asked_up_to_now(
    stripe: Gateway, recipe: LookupRecipe
) -> None:
    """A payment that was made late must be on the list, or its absence would mean nothing."""
    proving = dataclasses.replace(recipe, absence=ABSENCE)
    assert begin(proving, stripe.profile, LOST, RIPE - 1).target == SEARCH
    assert begin(proving, stripe.profile, LOST, RIPE).target.endswith(f"={RIPE // SECOND + 60}")


GONE = rules_by_status(
    [Rule(((404, 404),), (), (BodyTest(parse_json_path("code"), None),), Verdict.NOT_EXECUTED)]
)
BY_ORDER = LookupRecipe(
    "by-order", read_target="/verify/{order}", absence=Absence(600.0, 3, says_so=GONE)
)
ORDERED = replace(LOST, order_ref="o/1", order_in_body=True)


def test_a_payment_is_read_by_its_order_at_once(stripe: Gateway) -> None:
    """No list: the name of the order is the name of the payment."""
    asked = begin(BY_ORDER, stripe.profile, ORDERED, RIPE)
    assert asked == Ask("/verify/o%2F1", reading="o/1")
    paid = proceed(BY_ORDER, stripe.profile, ORDERED, asked, PAID, now_ms=AT)
    assert paid == Found(SUCCEEDED, "o/1", PAID)


def test_only_the_declared_answer_says_that_there_is_none(stripe: Gateway) -> None:
    """Another 404 may come from anybody on the way: a wrong path, say."""
    asked = begin(BY_ORDER, stripe.profile, ORDERED, RIPE)
    for said, status, kind in (
        ({"code": "no_such"}, 404, Nothing),
        ({}, 404, Inconclusive),
        (b"<html>", 404, Inconclusive),
        ({"code": "no_such"}, 500, Inconclusive),
    ):
        facts = answered(said, status)
        found = proceed(BY_ORDER, stripe.profile, ORDERED, asked, facts, now_ms=RIPE)
        assert isinstance(found, kind)


def test_an_order_is_looked_up_only_under_the_name_the_gateway_got() -> None:
    """A name that stands in our header alone would find nothing, and that would be believed."""
    assert can_read(BY_ORDER, ORDERED)
    assert not can_read(BY_ORDER, replace(ORDERED, order_in_body=False))
    assert not can_read(LookupRecipe("void only"), ORDERED)


ITS_ORDER = {"match": ((parse_json_path("order"), "{order}"),)}


def test_among_an_orders_payments_the_charged_one_is_read(
    stripe: Gateway, recipe: LookupRecipe
) -> None:
    """Newest first stands what failed; without a word on their state, none is taken."""
    any_state = listing(recipe, id=parse_json_path("id"), **ITS_ORDER)
    states = ((parse_json_path("state"), ("paid", "pending")),)
    charged = listing(any_state, among=states)
    shown = page(
        {"id": "pi_2", "order": "o/1", "state": "failed"},
        {"id": "pi_0", "order": "another", "state": "paid"},
        {"id": "pi_1", "order": "o/1", "state": "paid"},
    )
    found = proceed(charged, stripe.profile, ORDERED, Ask(SEARCH), shown, now_ms=SETTLED)
    assert isinstance(found, Ask)
    assert found.reading == "pi_1"
    which = proceed(any_state, stripe.profile, ORDERED, Ask(SEARCH), shown, now_ms=SETTLED)
    assert isinstance(which, Inconclusive)


def test_found_by_its_order_only_a_charge_counts(stripe: Gateway, recipe: LookupRecipe) -> None:
    """What is not charged may be an earlier try; found by its key, it is this one."""
    by_order = listing(recipe, **ITS_ORDER)
    asked = Ask("/v1/payment_intents/pi_1", reading="pi_1")
    canceled = answered({"id": "pi_1", "object": "payment_intent", "status": "canceled"})

    def read(wanted: LookupRecipe, facts: WireFacts) -> Step:
        return proceed(wanted, stripe.profile, ORDERED, asked, facts, now_ms=SETTLED)

    assert read(by_order, PAID) == Found(SUCCEEDED, "pi_1", PAID)
    assert read(recipe, canceled) == Found(ACCEPTED, "pi_1", canceled)
    why = "pi_1 is not charged, but may be another try"
    assert read(by_order, canceled) == Inconclusive(why, there=True)


def test_each_confirmation_is_as_late_as_the_first() -> None:
    """Three looks within a second are one."""
    assert confirms(BY_ORDER, ORDERED, RIPE)
    once = replace(ORDERED, not_found=(RIPE,))
    assert not confirms(BY_ORDER, once, RIPE + 600 * SECOND - 1)
    assert confirms(BY_ORDER, once, RIPE + 600 * SECOND)
    assert not confirms(LookupRecipe("x"), ORDERED, RIPE)


def test_a_key_in_quotes_is_not_missed() -> None:
    """Some gateways know it without them: what is not there by one name may be by the other."""
    assert not confirms(BY_ORDER, replace(ORDERED, gateway_key='"k-1"'), RIPE)


def test_so_many_confirmations_prove_it() -> None:
    """And not one fewer; without a word in the profile, none do."""
    times = (RIPE, RIPE + 600 * SECOND, RIPE + 1200 * SECOND)
    assert not proves(BY_ORDER, replace(ORDERED, not_found=times[:2]))
    assert proves(BY_ORDER, replace(ORDERED, not_found=times))
    assert not proves(LookupRecipe("x"), replace(ORDERED, not_found=times))


def test_the_key_is_written_as_json_writes_it() -> None:
    """A key may hold a quote; it must not end the text it stands in."""
    odd = replace(LOST, gateway_key='k"1')
    assert filled_body('{"key": "{gateway_key}"}', odd) == b'{"key": "k\\"1"}'
    assert filled_target("/void/{gateway_key}", odd) == "/void/k%221"


def found_by(recipe: LookupRecipe, stripe: Gateway, session: Session, *items: object) -> Step:
    """What a list with these items leads to, late enough that an absence would count."""
    proving = dataclasses.replace(recipe, absence=ABSENCE)
    return proceed(proving, stripe.profile, session, Ask("/l"), page(*items), now_ms=RIPE)


def by(recipe: LookupRecipe, *match: tuple[str, str]) -> LookupRecipe:
    """Found on a list by these."""
    return listing(
        recipe,
        match=tuple((parse_json_path(path), value) for path, value in match),
        id=parse_json_path("id"),
    )


@pytest.mark.parametrize(
    ("sent", "shown"),
    [("10.50", 10.5), ("10.5", "10.50"), ("10", "10.00"), ("1000", 1000), ("1e3", "1000")],
)
def test_an_amount_is_a_number(
    stripe: Gateway, recipe: LookupRecipe, sent: str, shown: object
) -> None:
    """Written otherwise it is the same payment; taken for absent, it would be charged again."""
    paid = replace(ORDERED, amount=sent)
    recipe = by(recipe, ("order", "{order}"), ("amount", "{amount}"))
    item = {"id": "p-1", "order": "o/1", "amount": shown}
    assert found_by(recipe, stripe, paid, item) == Ask("/v1/payment_intents/p-1", reading="p-1")
    for other in ({**item, "amount": "10.51"}, {**item, "amount": "ten"}, {**item, "order": "1"}):
        assert not isinstance(found_by(recipe, stripe, paid, other), Ask)


def test_what_is_not_there_has_no_name(stripe: Gateway, recipe: LookupRecipe) -> None:
    """Somebody's order is called `None`; every payment without an order would be his."""
    nobody = replace(ORDERED, order_ref="None")
    recipe = by(recipe, ("order", "{order}"))
    for item in ({"id": "p-1"}, {"id": "p-1", "order": None}, {"id": "p-1", "order": {}}):
        assert not isinstance(found_by(recipe, stripe, nobody, item), Ask)
    named = {"id": "p-1", "order": "None"}
    assert isinstance(found_by(recipe, stripe, nobody, named), Ask)
    unnamed = {"order": "None"}
    assert isinstance(found_by(recipe, stripe, nobody, unnamed), Inconclusive)


def test_of_several_payments_none_is_taken_for_it(stripe: Gateway, recipe: LookupRecipe) -> None:
    """One by another key for the same order was declined: this one may be charged all the same."""
    recipe = by(recipe, ("order", "{order}"))
    items = [{"id": "p-2", "order": "o/1"}, {"id": "p-1", "order": "o/1"}]
    found = found_by(recipe, stripe, ORDERED, *items)
    assert isinstance(found, Inconclusive)
    assert found.there
    # What a list tells twice is one.
    assert isinstance(found_by(recipe, stripe, ORDERED, items[0], items[0]), Ask)


def test_what_looks_like_a_slot_in_a_name_is_none(stripe: Gateway, recipe: LookupRecipe) -> None:
    """A template that nobody filled in: looked for under another name, it would not be there."""
    odd = replace(ORDERED, gateway_key="pay-{order}", amount="{order}")
    recipe = by(recipe, ("key", "{gateway_key}"))
    assert isinstance(found_by(recipe, stripe, odd, {"id": "p-1", "key": "pay-{order}"}), Ask)
    assert filled_body('{"key": "{gateway_key}"}', odd) == b'{"key": "pay-{order}"}'


def test_the_order_is_written_as_xml_writes_it() -> None:
    """Also between quotes: it must not say more than its name."""
    odd = replace(ORDERED, order_ref="a'\"<b>")
    body = filled_body("<find order='{order}' or=\"{order}\"/>", odd)
    read = document(body, BodyKind.XML)
    assert read == {"find": {"@order": "a'\"<b>", "@or": "a'\"<b>"}}
