"""One gateway, and routes of it that are not as the rest: their keys, promises and answers."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from proxy.core import retrying
from proxy.core.profile import GatewayClass, GatewayProfile
from proxy.core.session import Session
from proxy.core.states import Outcome, State
from proxy.flow import attempts
from tests.support.lab import Lab, RequestHead, pay, settings_from

pytestmark = pytest.mark.looptime

POLICY = """
store: memory://
gateways:
  mine: {profile: mine, listen: "127.0.0.1:0", upstream: "http://127.0.0.1:1"}
"""
PROFILE = """
title: Mine
idempotency: {class: A_strong, window: 24h, key: {json: idempotency_key, max_length: 45}}
results:
  - {when: {status: [200]}, result: succeeded}
routes:
  - {name: pay, match: {methods: [POST], path: /pay}, session: durable}
  - name: refund
    match: {methods: [POST], path: /refund}
    session: durable
    idempotency: {key: {header: X-Refund-Idempotency}}
  - name: capture
    match: {methods: [POST], path: /capture}
    session: durable
    idempotency: {class: D_none, key: {nowhere: true}}
    results: [{when: {status: [200], json: [{path: state, in: [failed]}]}, result: declined}]
  - name: transfer
    match: {methods: [POST], path: /transfer}
    session: durable
    idempotency: {key: {header: X-Signed-Key, put_in: false}}
"""
PAID = b'{"state":"paid"}'


@pytest_asyncio.fixture
async def mine(tmp_path: Path) -> AsyncIterator[Lab]:
    """A lab with that gateway."""
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways/mine.yaml").write_text(PROFILE)
    lab = Lab(settings_from(POLICY, tmp_path))
    yield lab
    await lab.close()


def keys(lab: Lab, header: str) -> list[str | None]:
    """What stood in a header, send by send."""
    return [dict(send.headers).get(header) for send in lab.gateway.seen]


async def test_a_key_in_the_body_is_the_same_on_every_send(mine: Lab) -> None:
    """The caller sent none: Holdfast's own goes in, and again with the repeat."""
    mine.gateway.will(mine.gateway.loses_answer(), mine.gateway.answers(200, PAID))
    (method, target, headers), body = pay(target="/pay", body=b'{"amount": 1999}', order="o-1")
    named = (*(h for h in headers if h[0] != "Content-Type"), ("Content-Type", "application/json"))
    assert (
        await mine.merchant_sends((RequestHead(method, target, named), body), "mine")
    ).body == PAID
    first, second = (send.body for send in mine.gateway.seen)
    assert first == second
    key = (await mine.only_session()).gateway_key
    assert first == b'{"idempotency_key":"%s","amount": 1999}' % (key or "").encode()


async def test_a_body_of_another_kind_is_sent_once(mine: Lab) -> None:
    """A key in it would be where the gateway need not look, and protect no repeat."""
    mine.gateway.will(mine.gateway.loses_answer())
    form = pay(target="/pay", body=b"{}", order="o-1")  # says that it is a form
    await mine.merchant_sends(form, "mine")
    assert [send.body for send in mine.gateway.seen] == [b"{}"]
    assert (await mine.only_session()).outcome is Outcome.UNKNOWN


async def test_the_callers_key_in_the_body_is_its_payment(mine: Lab) -> None:
    """Sent as it came; the same again is a replay, another body under it is refused."""
    mine.gateway.will(mine.gateway.answers(200, PAID))
    body = b'{"amount": 1999, "idempotency_key": "k-1"}'
    await mine.merchant_sends(pay(target="/pay", body=body), "mine")
    await mine.merchant_sends(pay(target="/pay", body=body), "mine")
    other = body.replace(b"1999", b"2999")
    await mine.merchant_sends(pay(target="/pay", body=other), "mine")
    assert [send.body for send in mine.gateway.seen] == [body]
    assert mine.transcript[-1] == "answer 422 idempotency-key-reused"


async def test_a_key_the_gateway_would_not_take_is_refused(mine: Lab) -> None:
    """Before anything is sent."""
    body = b'{"idempotency_key": "%s"}' % (b"k" * 46)
    await mine.merchant_sends(pay(target="/pay", body=body), "mine")
    assert mine.transcript == ["answer 400 idempotency-key-invalid"]


async def test_each_route_has_its_own_key_header(mine: Lab) -> None:
    """The refund's is not the payment's."""
    mine.gateway.will(mine.gateway.loses_answer(), mine.gateway.answers(200, PAID))
    await mine.merchant_sends(pay(target="/refund", body=b'{"a": 1}', order="o-1"), "mine")
    assert {send.body for send in mine.gateway.seen} == {b'{"a": 1}'}
    (key,) = set(keys(mine, "X-Refund-Idempotency"))
    assert key == (await mine.only_session()).gateway_key


async def test_a_route_without_a_key_is_sent_once(mine: Lab) -> None:
    """Of it the gateway promises nothing, whatever it promises elsewhere."""
    mine.gateway.will(mine.gateway.loses_answer())
    answer = await mine.merchant_sends(pay(target="/capture", body=b"{}", order="o-1"), "mine")
    assert answer.status == 504
    assert len(mine.gateway.seen) == 1
    assert (await mine.only_session()).outcome is Outcome.UNKNOWN


async def test_what_a_caller_calls_the_same_is_one_payment(mine: Lab) -> None:
    """An `Idempotency-Key` that the gateway does not read: its repeat is not sent a second time."""
    mine.gateway.will(mine.gateway.loses_answer())
    for _ in range(2):
        await mine.merchant_sends(pay(key="k-1", target="/capture", body=b"{}"), "mine")
    assert len(mine.gateway.seen) == 1
    assert (await mine.only_session()).outcome is Outcome.UNKNOWN


async def test_a_key_that_the_caller_says_elsewhere_leads_to_one(mine: Lab) -> None:
    """Where the gateway reads it stands Holdfast's own, the same for the same."""
    mine.gateway.will(mine.gateway.answers(200, PAID))
    answers = [
        await mine.merchant_sends(pay(key="k-1", target="/refund", body=b"{}"), "mine")
        for _ in range(2)
    ]
    assert [answer.body for answer in answers] == [PAID, PAID]
    assert keys(mine, "X-Refund-Idempotency") == [(await mine.only_session()).gateway_key]


async def test_a_routes_answers_are_read_by_its_own_rules_first(mine: Lab) -> None:
    """What is a refusal there is paid elsewhere."""
    mine.gateway.will(mine.gateway.answers(200, b'{"state":"failed"}'))
    await mine.merchant_sends(pay(target="/capture", body=b"{}"), "mine")
    assert (await mine.only_session()).outcome is Outcome.NOT_CHARGED
    mine.gateway.will(mine.gateway.answers(200, b'{"state":"failed"}'))
    answer = await mine.merchant_sends(pay(target="/pay", body=b"{}"), "mine")
    assert (await mine.session(answer)).outcome is Outcome.CHARGED


async def test_a_signed_request_is_sent_as_it_came(mine: Lab) -> None:
    """With its caller's key it is repeated, byte for byte."""
    mine.gateway.will(mine.gateway.loses_answer(), mine.gateway.answers(200, PAID))
    signed = (("X-Signed-Key", "k-1"), ("Signature", "over all of it"))
    request = pay(target="/transfer", body=b"{}", headers=signed)
    assert (await mine.merchant_sends(request, "mine")).body == PAID
    first, second = mine.gateway.seen
    assert (first.headers, first.body) == (second.headers, second.body)


async def test_what_bears_no_key_is_sent_once(mine: Lab) -> None:
    """Signed, and without a key: none is put in, and nothing protects a repeat."""
    mine.gateway.will(mine.gateway.loses_answer())
    request = pay(target="/transfer", body=b"{}", order="o-1")
    await mine.merchant_sends(request, "mine")
    await mine.merchant_sends(request, "mine")
    assert keys(mine, "X-Signed-Key") == [None]
    session = await mine.only_session()
    assert (session.outcome, session.gateway_key) == (Outcome.UNKNOWN, None)


async def test_believed_without_a_key_the_promise_charges_twice(
    mine: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the gateway's word taken for a request without a key, and it goes out again."""

    def trusting(profile: GatewayProfile, _session: Session) -> GatewayClass:
        return profile.gateway_class

    for module in (retrying, attempts):
        monkeypatch.setattr(module, "promised", trusting)
    mine.gateway.will(mine.gateway.loses_answer(), mine.gateway.answers(200, PAID))
    await mine.merchant_sends(pay(target="/transfer", body=b"{}", order="o-1"), "mine")
    assert keys(mine, "X-Signed-Key") == [None, None]


async def test_a_body_that_takes_no_key_is_sent_once(mine: Lab) -> None:
    """Not an object: there is no place for one."""
    mine.gateway.will(mine.gateway.loses_answer())
    await mine.merchant_sends(pay(target="/pay", body=b"[]", order="o-1"), "mine")
    assert [send.body for send in mine.gateway.seen] == [b"[]"]
    assert (await mine.only_session()).outcome is Outcome.UNKNOWN


async def test_a_compressed_answer_is_read_and_goes_back_as_it_came(mine: Lab) -> None:
    """What became of the payment stands in it; what cannot be read is not asked for."""
    body = gzip.compress(b'{"state":"failed"}')
    mine.gateway.will(mine.gateway.answers(200, body, (("Content-Encoding", "gzip"),)))
    wants = (("Accept-Encoding", "gzip, br"),)
    answer = await mine.merchant_sends(pay(target="/capture", body=b"{}", headers=wants), "mine")
    assert answer.body == body
    assert (await mine.only_session()).state is State.DECLINED
    assert keys(mine, "Accept-Encoding") == ["identity"]


async def test_a_signed_request_asks_for_what_it_wants(mine: Lab) -> None:
    """It stays as it came; an answer that cannot be read leaves the payment unknown."""
    mine.gateway.will(mine.gateway.answers(200, b"\x0b", (("Content-Encoding", "br"),)))
    wants = (("Accept-Encoding", "br"),)
    await mine.merchant_sends(pay(target="/transfer", body=b"{}", headers=wants), "mine")
    assert keys(mine, "Accept-Encoding") == ["br"]


async def test_a_key_that_moved_protects_no_payment_of_before(tmp_path: Path) -> None:
    """Put into the body by a profile that was mended: to the gateway it is a key it never saw."""
    (method, target, headers), body = pay(target="/refund", body=b'{"a": 1}', order="o-1")
    named = (*(h for h in headers if h[0] != "Content-Type"), ("Content-Type", "application/json"))
    request = (RequestHead(method, target, named), body)
    (tmp_path / "gateways").mkdir()
    path = tmp_path / "gateways/mine.yaml"
    path.write_text(PROFILE)
    few = "retry: {max_attempts: 4, automatic_attempts: 1}, upstream"
    policy = POLICY.replace("upstream", few)
    before = Lab(settings_from(policy, tmp_path))
    before.gateway.will(before.gateway.loses_answer())
    await before.merchant_sends(request, "mine")
    assert len(before.gateway.seen) == 1
    path.write_text(PROFILE.replace("header: X-Refund-Idempotency", "json: idempotency_key"))
    after = Lab(settings_from(policy, tmp_path), before.store)
    after.gateway.will(after.gateway.answers(200, PAID))
    await after.merchant_sends(request, "mine")
    assert after.gateway.seen == []
    assert (await after.only_session()).outcome is Outcome.UNKNOWN
    await after.close()
