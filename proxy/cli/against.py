"""`holdfast check --profile`: a gateway profile, and how it has recorded answers read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from proxy.cli.recorded import Recorded, Unreadable, read_recorded
from proxy.core.bodyfields import body_values
from proxy.core.classify import classify, deciding_rule
from proxy.core.keys import Unfit
from proxy.core.links import Relinker
from proxy.core.policy import RoutePolicy
from proxy.core.profile import GatewayClass, GatewayProfile, Verdict
from proxy.core.reasons import Reason
from proxy.core.results import AttemptResult
from proxy.core.retrying import (
    RetryAfter,
    Situation,
    decide,
    promised,
    repeat_barrier,
)
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Outcome
from proxy.core.wire import Answer, InboundRequest, header
from proxy.settings.load import ConfigError, load_profile
from proxy.settings.values import Gateway
from proxy.settings.yaml_lines import Document
from proxy.system import SystemClock
from proxy.web.links import relinked

_NOTHING = "-"


class Row(NamedTuple):
    """How one recorded answer is read."""

    file: str
    status: str
    route: str
    verdict: str
    rule: str
    replayed: str
    repeat: str
    next: str
    request: str
    links: str


def against(options: argparse.Namespace) -> int:
    """Say how each recorded answer is read; 1 if one cannot be, or not as it is expected."""
    recorded, wrong = [], []
    for path in options.against or ():
        try:
            recorded.append(read_recorded(path))
        except Unreadable as error:
            wrong.append(str(error))
    try:
        gateway, document = load_profile(options.profile)
    except ConfigError as error:
        count = len(error.mistakes)
        told = f"{options.profile}: {count} mistake{'s' if count != 1 else ''}"
        print(error, told, *wrong, sep="\n", file=sys.stderr)
        return 1
    rows = [_row(one, gateway, document) for one in recorded]
    for one, row in zip(recorded, rows, strict=True):
        true = _true_of(row)
        missing = [word for word in one.expected if word not in true]
        wrong += [f"{row.file}: expected {word!r}, and it is {', '.join(true)}" for word in missing]
    for line in _lines(rows):
        print(line)
    for line in wrong:
        print(line, file=sys.stderr)
    if not options.against:
        print(f"{options.profile}: ok")
    return 1 if wrong else 0


def _true_of(row: Row) -> list[str]:
    """The words that may be expected of an answer."""
    words = (row.verdict, row.next, row.route, "replayed" if row.replayed == "yes" else _NOTHING)
    return [word for word in words if word != _NOTHING]


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    """A table for a person; with tabs for whatever reads it further."""
    if not rows:
        return
    table = [tuple(name.upper() for name in Row._fields), *rows]
    if not sys.stdout.isatty():
        yield from map("\t".join, table)
        return
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _row(recorded: Recorded, gateway: Gateway, document: Document) -> Row:
    facts, request = recorded.facts, recorded.request
    route, told = gateway.routes.other, {}
    if request is not None:
        route = gateway.routes.match(request.method, request.path)
        told = body_values(request, route.places)
    profile = gateway.of_routes.get(route.name, gateway.profile)
    result = classify(facts, profile, now_ms=SystemClock().now_ms())
    rule = deciding_rule(facts, profile.rules)
    return Row(
        file=recorded.file,
        status=str(facts.status),
        route=_NOTHING if request is None else route.name,
        verdict=_verdict(result),
        rule=_NOTHING if rule is None else document.origin(rule.place),
        replayed="yes" if result.replayed else "no",
        repeat=_repeat(result),
        next=_next(result, profile, route, request),
        request=" ".join(f"{name}={value}" for name, value in told.items() if value) or _NOTHING,
        links=_links(recorded, gateway),
    )


def _verdict(result: AttemptResult) -> Verdict:
    match result.status:
        case AttemptStatus.UNKNOWN:
            in_progress = result.reason is Reason.IN_PROGRESS
            return Verdict.IN_PROGRESS if in_progress else Verdict.UNKNOWN
        case AttemptStatus.REJECTED:
            return Verdict.REJECTED if result.reason is None else Verdict.NOT_EXECUTED
        case settled:  # these have the same names
            return Verdict(settled.value)


def _repeat(result: AttemptResult) -> str:
    """What the answer itself says about a repeat."""
    if result.reason is None:
        return _NOTHING
    word, after = result.repeat.value.replace("_", " "), result.retry_after_seconds
    return word if after is None else f"{word}, after {after:g}s"


def _next(
    result: AttemptResult,
    profile: GatewayProfile,
    route: RoutePolicy,
    request: InboundRequest | None,
) -> str:
    """What Holdfast does after such an answer to the first send of a payment."""
    if request is not None and not route.durable:
        return "passed on"
    try:
        promise = promised(profile, _payment(profile, request))
    except Unfit:
        return "refused"
    unknown = result.status is AttemptStatus.UNKNOWN
    situation = Situation(
        outcome=Outcome.UNKNOWN if unknown else Outcome.NOT_CHARGED,
        attempts=1,
        limit=route.retry.automatic_attempts,
        cancel_requested=False,
        hold=False,
        barrier=repeat_barrier(promise, 0, 0, profile.resend_horizon),
        remaining_seconds=route.timeouts.total,
    )
    if isinstance(decide(route.retry, result, situation, 0.0), RetryAfter):
        return "sent again"
    if not unknown:
        return "settled" if result.reason is None else "handed on"
    # Where the request is not known: whether any can be looked up.
    lookups = profile.lookups
    some = next(iter(lookups.values()), None)
    recipe = some if request is None else lookups.get(route.lookup or "")
    if recipe is not None and recipe.read_target is not None:
        return "looked up"
    voids = promise is GatewayClass.C_CANCEL_BY_KEY and recipe is not None
    return "voided by its key" if voids else "a person"


def _payment(profile: GatewayProfile, request: InboundRequest | None) -> Session:
    """The payment that it would be, with a key or without. Raises `Unfit`."""
    key = profile.key
    bears = request is None or key.of(request) is not None or key.carries(request)
    return Session(
        id="",
        gateway=None,
        started_at=0,
        expires_at=0,
        max_attempts=1,
        gateway_key="a key" if bears else None,
    )


def _links(recorded: Recorded, gateway: Gateway) -> str:
    """Whether its links would be turned to Holdfast."""
    facts, links = recorded.facts, gateway.profile.links
    if links is None:
        return _NOTHING
    answer = Answer(facts.status, facts.status_text, facts.headers, facts.body)
    host = None if recorded.request is None else header(recorded.request.headers, "Host")
    turned = relinked(answer, Relinker(links, gateway.upstream), host or "127.0.0.1")
    return "rewritten" if (turned.body, turned.headers) != (facts.body, facts.headers) else "none"
