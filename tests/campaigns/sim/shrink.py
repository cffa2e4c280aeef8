"""Make a plan smaller as long as it still shows what it showed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.campaigns.sim.fates import FINE
from tests.campaigns.sim.plan import Client, Payment, Plan


def shrink(plan: Plan, still: Callable[[Plan], bool]) -> Plan:
    """The smallest plan on the way from `plan` for which `still` holds."""
    while True:
        smaller = next((one for one in _smaller(plan) if still(one)), None)
        if smaller is None:
            return plan
        plan = smaller


def _smaller(plan: Plan) -> Iterator[Plan]:
    yield from (replace(plan, payments=rest) for rest in _without_one(plan.payments))
    yield from (replace(plan, crashes=rest) for rest in _without_one(plan.crashes))
    yield from (replace(plan, store=rest) for rest in _without_one(plan.store))
    yield from (replace(plan, operations=rest) for rest in _without_one(plan.operations))
    yield from (replace(plan, look_ups=rest) for rest in _without_one(plan.look_ups))
    for place, payment in enumerate(plan.payments):
        for less in _less_of(payment):
            payments = (*plan.payments[:place], less, *plan.payments[place + 1 :])
            yield replace(plan, payments=payments)
    if plan.shared is not None:
        for rest in _without_one(plan.shared.incidents):
            yield replace(plan, shared=replace(plan.shared, incidents=rest))
        if plan.shared.slowest_way > 0.0:
            yield replace(plan, shared=replace(plan.shared, slowest_way=0.0))
    if plan.slowest_commit > 0.0:
        yield replace(plan, slowest_commit=0.0)
    if plan.seen_early:
        yield replace(plan, seen_early=False)


def _without_one(things: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for place in range(len(things)):
        yield (*things[:place], *things[place + 1 :])


def _less_of(payment: Payment) -> Iterator[Payment]:
    if len(payment.clients) > 1:
        yield from (replace(payment, clients=rest) for rest in _without_one(payment.clients))
    yield from (replace(payment, fates=rest) for rest in _without_one(payment.fates))
    for place, fate in enumerate(payment.fates):
        if fate != FINE:
            calm = (*payment.fates[:place], FINE, *payment.fates[place + 1 :])
            yield replace(payment, fates=calm)
    for place, client in enumerate(payment.clients):
        for less in _fewer_steps(client):
            clients = (*payment.clients[:place], less, *payment.clients[place + 1 :])
            yield replace(payment, clients=clients)


def _fewer_steps(client: Client) -> Iterator[Client]:
    if len(client.steps) > 1:
        yield from (replace(client, steps=rest) for rest in _without_one(client.steps))
