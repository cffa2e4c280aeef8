"""What is known about a gateway, as values. Facts come from `gateways/<name>.yaml`, never from
code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from proxy.core.documents import BodyKind
from proxy.core.jsonpath import JsonPath
from proxy.core.keys import KeyPlace
from proxy.core.webhooks import WebhookRecipe

# Longer than any SDK's own time-out (80 s), for gateways that do not tell theirs.
MAX_PROCESSING_SECONDS = 120.0


class GatewayClass(StrEnum):
    """What a gateway promises for a repeated key (the money rules, section 3).

    Only A_STRONG lets a request whose outcome is unknown be sent again by itself; the others first
    need a proof that nothing was charged.
    """

    A_STRONG = "A_strong"  # honours the key whatever the first answer was
    A_WEAK = "A_weak"  # forgets the key after an error: a repeat may execute again
    B_LOOKUP = "B_lookup"  # no useful key, but a payment can be looked up
    C_CANCEL_BY_KEY = "C_cancel_by_key"  # can void by key
    D_NONE = "D_none"  # nothing: never send again after the first byte


class Verdict(StrEnum):
    """How a profile's rule reads a complete answer."""

    SUCCEEDED = "succeeded"  # money moved, or is moving and a second payment would double it
    ACCEPTED = "accepted"  # done, and nothing is charged (yet)
    DECLINED = "declined"  # executed; the answer is no
    REJECTED = "rejected"  # not executed and never will be with these bytes
    NOT_EXECUTED = "not_executed"  # not executed, may be tried again (throttled)
    IN_PROGRESS = "in_progress"  # the same key is being executed right now
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class BodyTest:
    """A condition on the answer's body: the value at `path` is one of `values`, or just is there.
    Where the body is not JSON, in the document that it is read as.
    """

    path: JsonPath
    values: frozenset[str | int | float | bool] | None
    present: bool = True
    kind: BodyKind = BodyKind.JSON


@dataclass(frozen=True, slots=True)
class Rule:
    """All conditions hold → the verdict. An empty condition holds."""

    statuses: tuple[tuple[int, int], ...]  # inclusive ranges
    headers: tuple[tuple[str, str], ...]  # names in lower case, once sorted by status
    json: tuple[BodyTest, ...]
    verdict: Verdict
    others: tuple[BodyTest, ...] = ()  # of bodies that are not JSON
    place: tuple[str | int, ...] = ()  # where it stands in the profile's file


class StatusRules(NamedTuple):
    """The rules a status can meet, in the profile's order; fewer once the answer has been read.

    `by_value` has those left for an answer with this value under `key`, `others` those for one
    with any other value there, or none.
    """

    rules: tuple[Rule, ...]
    read_json: bool = False  # whether any of them looks into the body
    key: str | None = None  # that most of them ask for
    by_value: Mapping[str | int | float | bool, tuple[Rule, ...]] = MappingProxyType({})
    others: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class RulesByStatus:
    """Rules by the status they can apply to, so that an answer meets only the few that matter."""

    by_status: Mapping[int, StatusRules]


def rules_by_status(rules: Sequence[Rule]) -> RulesByStatus:
    """Sort rules by the statuses they name."""
    by_status: dict[int, tuple[Rule, ...]] = {}
    for written in rules:
        headers = tuple((name.lower(), value) for name, value in written.headers)
        rule = replace(written, headers=headers)
        for low, high in rule.statuses:
            for status in range(low, high + 1):
                by_status[status] = (*by_status.get(status, ()), rule)
    # Most statuses share their rules with a hundred others.
    shared = {tuple(map(id, few)): few for few in by_status.values()}
    made = {ids: _status_rules(few) for ids, few in shared.items()}
    return RulesByStatus({s: made[tuple(map(id, few))] for s, few in by_status.items()})


def _status_rules(rules: tuple[Rule, ...]) -> StatusRules:
    tests = [test for rule in rules for test in rule.json]
    keys = Counter(t.path.key for t in tests if t.values is not None and t.path.key is not None)
    if not keys:
        return StatusRules(rules, bool(tests))
    key = keys.most_common(1)[0][0]
    wanted = [
        [test.values for test in rule.json if test.path.key == key and test.values is not None]
        for rule in rules
    ]
    known = {value for sets in wanted for values in sets for value in values}

    def left(value: object) -> tuple[Rule, ...]:
        pairs = zip(rules, wanted, strict=True)
        return tuple(rule for rule, sets in pairs if all(value in values for values in sets))

    return StatusRules(rules, True, key, {value: left(value) for value in known}, left(None))


@dataclass(frozen=True, slots=True)
class RetryHint:
    """A header by which the gateway says whether to retry; outranks status codes."""

    header: str  # lower case
    retry_values: frozenset[str]
    stop_values: frozenset[str]


@dataclass(frozen=True, slots=True)
class ListRecipe:
    """How a payment is found among others.

    `target` is asked page by page; the first item under `items` for which every `match` holds, and
    which has one of the values of each `among`, names the thing (`id`). `{gateway_key}`, `{order}`,
    `{amount}`, `{since}` and `{until}` (epoch seconds) are filled in. With a `body` it is asked by
    POST.
    """

    target: str
    items: JsonPath
    match: tuple[tuple[JsonPath, str], ...]
    id: JsonPath
    cursor: JsonPath | None = None  # of the last item; appended as `cursor_parameter`
    cursor_parameter: str | None = None
    more: JsonPath | None = None
    max_pages: int = 10
    body: str | None = None
    among: tuple[tuple[JsonPath, tuple[str, ...]], ...] = ()

    @property
    def by_key(self) -> bool:
        """Whether what is found was made by this very request. An order may have others."""
        texts = (self.target, self.body or "", *(value for _, value in self.match))
        return any("{gateway_key}" in text for text in texts)


@dataclass(frozen=True, slots=True)
class Absence:
    """When finding nothing proves that nothing was charged: so many seconds after the last send,
    and so often.

    `says_so`: the answers by which a payment that is read without a list is said not to exist.
    """

    after: float
    confirmations: int
    says_so: RulesByStatus | None = None


@dataclass(frozen=True, slots=True)
class VoidRecipe:
    """How whatever there is under a key is voided: a POST, with `{gateway_key}` filled in.

    It proves that nothing is charged if its answer is one of `proves`, and it is asked for no
    sooner than `after` seconds after the last send, which might arrive after it.
    """

    target: str
    body: str
    proves: RulesByStatus
    after: float


@dataclass(frozen=True, slots=True)
class LookupRecipe:
    """How to find out what became of a request.

    `read_target` shows the payment as it is now, classified by the same rules as an answer to it:
    `{id}` is the name that `find` found; without `find`, `{gateway_key}` or `{order}` name it.
    """

    name: str
    find: ListRecipe | None = None
    read_target: str | None = None
    absence: Absence | None = None
    void: VoidRecipe | None = None


@dataclass(frozen=True, slots=True)
class Links:
    """Where the gateway's answers name its own address, which the caller must not follow past us.

    `origins`: those it names itself by, beside the one that it is reached at.
    """

    origins: tuple[str, ...]
    keys: tuple[str, ...]
    headers: frozenset[str]  # lower case


@dataclass(frozen=True, slots=True)
class RefusalForm:
    """How one refusal looks to this gateway's SDK, where it differs from the general table."""

    status: int | None = None
    error_type: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """What the gateway's SDK reads of an answer that Holdfast makes itself.

    `body` is merged into it, with `{type}`, `{code}`, `{message}` and `{status}` filled in; `types`
    are those of what the caller did wrong, and of everything else.
    """

    body: Mapping[str, Any]
    types: tuple[str, str]


@dataclass(frozen=True, slots=True)
class GatewayProfile:
    """Everything the flow asks about a gateway."""

    name: str
    gateway_class: GatewayClass
    key: KeyPlace
    resend_horizon: float  # seconds from the first send; a later repeat could be a new charge
    credential_headers: tuple[str, ...]  # lower case
    rules: RulesByStatus
    replayed: RulesByStatus | None  # which answers say that they were given before
    retry_hint: RetryHint | None
    lookups: Mapping[str, LookupRecipe]
    error_form: ErrorForm
    refusal_forms: Mapping[str, RefusalForm]
    final_answer_headers: tuple[tuple[str, str], ...]  # tells the SDK not to retry on its own
    replay_headers: frozenset[str]  # answer headers kept for a replay, lower case
    # Of an A_weak gateway: whether a lost answer may be asked for again, after a look-up in vain.
    resend_lost_answers: bool = False
    # For how many seconds it may be at a request whose answer was lost. Until then only a charge
    # is evidence, "nothing happened yet" is not, and the connection is kept for a late answer.
    max_processing_time: float = MAX_PROCESSING_SECONDS
    links: Links | None = None  # none: its answers go back byte for byte
    webhooks: WebhookRecipe | None = None
