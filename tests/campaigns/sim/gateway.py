"""The gateways of a simulation, from the wire inwards: keys, execution, ledger, and what a read
shows.

They belong to nobody's process: what has left for the gateway is executed whatever became of its
sender. Kinds: "stripe" keeps the first answer of a key, 500s included, for the life of the key;
"strong" honours a key as well, and asked again after a 500 it tells the truth, or tries again if
nothing was charged; "none" executes whatever comes, and so do "search", whose payments are listed
by key, late and not always, and "void", which voids them by key as well. "weak" lists them too, and
honours a key until it has answered with an error: then the key is a new one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from proxy.core.reasons import Reason
from proxy.core.wire import Headers, Phase, WireFacts
from tests.campaigns.checker import Charge, Sent
from tests.campaigns.sim.fates import Fate
from tests.campaigns.sim.plan import Card

Reply = Callable[[WireFacts], None]
Later = Callable[[float, Callable[[], None]], object]

_ERROR = b'{"error":{"type":"api_error","message":"Something went wrong."}}'
_LIMITED = b'{"error":{"type":"rate_limit_error"}}'
_IN_USE = b'{"error":{"type":"idempotency_error","code":"idempotency_key_in_use"}}'
_OTHER_BODY = b'{"error":{"type":"idempotency_error","code":"idempotency_error"}}'
_DECLINED = b'{"error":{"type":"card_error","code":"card_declined"}}'
_INVALID = b'{"error":{"type":"invalid_request_error","code":"parameter_invalid"}}'
_KEYLESS = frozenset({"none", "search", "void"})
# How far a list may lag behind, and for how long an old copy of it may be shown after that.
_LAG_SECONDS = 130.0
_STALE_SECONDS = 200.0
_EDGE = {503: _ERROR, 429: _LIMITED, 409: _IN_USE, 401: b'{"error":{"type":"auth"}}', 500: _ERROR}


class _Told(NamedTuple):
    """An answer."""

    status: int
    body: bytes
    headers: Headers = ()


@dataclass(slots=True)
class _Intent:
    """What is made of a request: the payment as the gateway knows it."""

    name: str
    key: str
    credential: str
    created: float
    status: str = "requires_confirmation"
    failed: bool = False

    def body(self) -> bytes:
        """As it is shown."""
        error = {"code": "card_declined"} if self.failed else None
        shown = {"id": self.name, "object": "payment_intent", "status": self.status}
        return json.dumps({**shown, "last_payment_error": error}).encode()


@dataclass(slots=True)
class _Kept:
    """What is kept for a key. `told` None: it is being executed."""

    first: float
    body: bytes
    told: _Told | None = None


@dataclass(slots=True)
class SimGateway:
    """One gateway's side of the wire."""

    kind: str
    window: float
    now: Callable[[], float]
    later: Later
    heard: Callable[[str], None]
    cards: dict[str, Card]
    ledger: list[Charge]
    voided: list[Charge]
    seen_early: bool = False
    _keys: dict[tuple[str, str], _Kept] = field(default_factory=dict)
    _intents: dict[str, _Intent] = field(default_factory=dict)
    _named: int = 0
    _asked: dict[str, float] = field(default_factory=dict)

    def receive(self, sent: Sent, fate: Fate, reply: Reply) -> None:
        """A request has left for it. `reply` is heard only while its sender still listens."""
        if fate.resets is not None:
            self.later(fate.resets, lambda: reply(_lost(Reason.CONNECTION_LOST)))
        if fate.arrives is not None:
            self.later(fate.arrives, lambda: self._arrived(sent, fate, reply))

    def _arrived(self, sent: Sent, fate: Fate, reply: Reply) -> None:
        if fate.edge is not None:
            headers: Headers = (("Retry-After", "1"),) if fate.edge in {429, 503} else ()
            self._answer(_Told(fate.edge, _EDGE[fate.edge], headers), fate, reply)
            return
        kept = self._kept(sent)
        if kept is None:
            self._begin(sent, fate, reply)
        elif kept.body != sent.body:
            self._answer(_Told(400, _OTHER_BODY), fate, reply)
        elif kept.told is None:
            self._answer(_Told(409, _IN_USE), fate, reply)
        else:
            marker: Headers = (("Idempotent-Replayed", "true"),) if self.kind == "stripe" else ()
            replayed = kept.told._replace(headers=(*kept.told.headers, *marker))
            self._answer(replayed, fate._replace(hint=None), reply)

    def _kept(self, sent: Sent) -> _Kept | None:
        if self.kind in _KEYLESS:
            return None
        kept = self._keys.get((sent.credential, sent.key))
        if kept is not None and self.now() - kept.first >= self.window:
            return None  # the key is forgotten: from now on it means a new request
        return kept

    def _begin(self, sent: Sent, fate: Fate, reply: Reply) -> None:
        kept = _Kept(self.now(), sent.body)
        if self.kind not in _KEYLESS:
            self._keys[sent.credential, sent.key] = kept
        self._named += 1
        name = f"pi_{self._named}"
        intent = _Intent(name, sent.key, sent.credential, self.now())
        if self.seen_early and fate.breaks != "before":
            self._intents[name] = intent
        self.later(fate.works, lambda: self._end(sent, fate, kept, intent, reply))

    def _end(self, sent: Sent, fate: Fate, kept: _Kept, intent: _Intent, reply: Reply) -> None:
        self.heard(f"{'fails' if fate.breaks == 'before' else 'executes'} {sent.payment}")
        broken = _Told(500, _ERROR)
        if fate.breaks == "before":
            truth, told = None, broken
        else:
            truth = self._execute(sent, intent)
            told = truth if fate.breaks is None else broken
        if self.kind == "stripe" and told.status != 400:
            kept.told = told
        elif self.kind == "weak" and told.status >= 300:
            self._keys.pop((sent.credential, sent.key), None)
        elif truth is not None and truth.status != 400:
            kept.told = truth
        else:  # nothing was executed: the key is free again
            self._keys.pop((sent.credential, sent.key), None)
        self._answer(told, fate, reply)

    def _execute(self, sent: Sent, intent: _Intent) -> _Told:
        card = self.cards[sent.payment]
        if card is Card.REFUSED:
            self._intents.pop(intent.name, None)
            return _Told(400, _INVALID)
        self._intents[intent.name] = intent
        if card is Card.DECLINED:
            intent.status, intent.failed = "requires_payment_method", True
            return _Told(402, _DECLINED)
        if card is Card.NEEDS_ACTION and self.kind == "stripe":
            intent.status = "requires_action"
            return _Told(200, intent.body())
        intent.status = "succeeded"
        self.ledger.append(
            Charge(
                self.now(), sent.payment, sent.key, sent.number, f"{self.kind} {sent.credential}"
            )
        )
        self.heard(f"CHARGES {sent.payment}")
        return _Told(200, intent.body())

    def _answer(self, told: _Told, fate: Fate, reply: Reply) -> None:
        if fate.answers is None:
            return
        hint: Headers = ()
        if fate.hint is not None and self.kind == "stripe":
            hint = (("Stripe-Should-Retry", fate.hint),)
        headers = (("Content-Type", "application/json"), *told.headers, *hint)
        facts = WireFacts(True, Phase.ANSWERED, None, told.status, "", headers, told.body)
        if fate.truncated:
            facts = WireFacts(True, Phase.READING_RESPONSE, Reason.ANSWER_TRUNCATED, told.status)
        self.later(fate.answers, lambda: reply(facts))

    # --- reading ------------------------------------------------------------------------------

    def read(self, target: str, credential: str) -> WireFacts:
        """What a GET shows now."""
        where = urlsplit(target)
        if where.path == "/v1/payments":
            return _shown(self._listed(parse_qs(where.query)["key"][0], credential))
        if where.path == "/v1/events":
            return _shown(self._events(parse_qs(where.query), credential))
        intent = self._intents.get(where.path.rpartition("/")[2])
        if intent is None or intent.credential != credential:
            return WireFacts(True, Phase.ANSWERED, None, 404, "", (), b"{}")
        return _shown(intent.body())

    def _listed(self, key: str, credential: str) -> bytes:
        found = [
            {"id": intent.name, "key": intent.key}
            for intent in reversed(self._intents.values())
            if intent.key == key and intent.credential == credential and self._shows(intent)
        ]
        return json.dumps({"payments": found}).encode()

    def _shows(self, intent: _Intent) -> bool:
        if self.seen_early:
            return True
        if self.now() - intent.created < _LAG_SECONDS:
            return False
        return self.now() - self._asked.setdefault(intent.name, self.now()) > _STALE_SECONDS

    def void(self, key: str, credential: str) -> WireFacts:
        """Undo whatever there is under a key."""
        for intent in self._intents.values():
            if intent.key == key and intent.credential == credential:
                intent.status, intent.failed = "canceled", True
        undone = [c for c in self.ledger if (c.key, c.who) == (key, f"{self.kind} {credential}")]
        for charge in undone:
            self.ledger.remove(charge)
            self.voided.append(charge)
            self.heard(f"VOIDS {charge.payment}")
        return _shown(b'{"voided": true}')

    def key_of(self, target: str) -> str | None:
        """The key of the payment that a read is about."""
        intent = self._intents.get(target.rpartition("/")[2])
        return None if intent is None else intent.key

    def _events(self, asked: dict[str, list[str]], credential: str) -> bytes:
        since, until = float(asked["created[gte]"][0]), float(asked["created[lte]"][0])
        epoch = EPOCH_SECONDS
        found = [
            {
                "id": f"evt_{intent.name}",
                "request": {"idempotency_key": intent.key},
                "data": {"object": {"object": "payment_intent", "id": intent.name}},
            }
            for intent in reversed(self._intents.values())
            if since <= int(epoch + intent.created) <= until and intent.credential == credential
        ]
        return json.dumps({"data": found, "has_more": False}).encode()


# The loop's time 0 on the calendar.
EPOCH_SECONDS = 1_706_000_000


def _shown(body: bytes) -> WireFacts:
    headers = (("Content-Type", "application/json"),)
    return WireFacts(True, Phase.ANSWERED, None, 200, "", headers, body)


def _lost(reason: Reason) -> WireFacts:
    return WireFacts(True, Phase.AWAITING_RESPONSE, reason)
