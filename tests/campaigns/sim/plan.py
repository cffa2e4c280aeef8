"""What happens in one run, drawn from its seed before it begins: a value, so that it can be shrunk.

What the plan does not say (jitter, how long a commit takes) comes from a second stream of the same
seed, in the order in which it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from tests.campaigns.sim.fates import Fate, draw_fate, draw_look_up

MINUTE, HOUR = 60.0, 3600.0


class Naming(StrEnum):
    """How a backend names its payment."""

    KEY = "key"
    KEY_ORDER = "key and order"
    ORDER = "order"
    SESSION = "session"
    KEY_SESSION = "key and session"
    NOTHING = "nothing"


class Act(StrEnum):
    """What a client does at a step. Each but `PAY` may happen once the first request is out."""

    PAY = "pay"
    DOUBLE_CLICK = "double click"
    OTHER_BODY = "the same name with another body"
    NEW_KEY = "a new key for the order"
    OTHER_GATEWAY = "another gateway for the order"
    HANG_UP = "pay and hang up"


class Card(StrEnum):
    """How the payment ends if it is executed."""

    GOOD = "good"
    DECLINED = "declined"
    NEEDS_ACTION = "needs action"
    REFUSED = "refused"  # the gateway finds the request invalid, whenever it looks at it


class Verb(StrEnum):
    """What an operator does to a session."""

    CANCEL = "cancel"
    INTERRUPT = "interrupt"
    RESUME = "resume"
    COMPLETE = "complete"
    GET = "get"


class Moment(StrEnum):
    """What a crash waits for."""

    STEP = "step of the process"
    HANDED = "batch handed to the disk"
    WRITTEN = "batch durable"
    SENT = "request on the wire"
    EXECUTED = "request executed"
    ANSWERED = "answer delivered"
    TOLD = "client told"


class Trouble(StrEnum):
    """What a commit can meet."""

    FAILS = "fails, and the store takes nothing for a while"
    AMBIGUOUS = "raises and is durable; only a restart helps"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing a client does, `after` seconds after the step before."""

    after: float
    act: Act
    patience: float = 0.0  # of a HANG_UP


@dataclass(frozen=True, slots=True)
class Client:
    """One tab, process or person that wants the payment made."""

    naming: Naming
    gateway: str
    steps: tuple[Step, ...]
    credential: str = "Bearer sk_one"


@dataclass(frozen=True, slots=True)
class Payment:
    """What is to be charged once at most, and what its sends meet, in their order."""

    name: str
    card: Card
    clients: tuple[Client, ...]
    fates: tuple[Fate, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator's verb, `at` a time, for the n-th session there is then."""

    at: float
    verb: Verb
    which: int


@dataclass(frozen=True, slots=True)
class Crash:
    """The process dies when the moment has come that often; `stops`: it was asked to, before."""

    moment: Moment
    count: int
    down: float
    stops: bool = False


@dataclass(frozen=True, slots=True)
class StoreTrouble:
    """The n-th batch meets trouble."""

    batch: int
    trouble: Trouble
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    policy: str
    payments: tuple[Payment, ...]
    look_ups: tuple[Fate, ...]
    operations: tuple[Operation, ...]
    crashes: tuple[Crash, ...]
    store: tuple[StoreTrouble, ...]
    slowest_commit: float
    seen_early: bool  # whether a payment can be read at the gateway before it is executed

    @property
    def healed_at(self) -> float:
        """When nothing goes wrong any more."""
        ends = [sum(s.after for s in c.steps) for p in self.payments for c in p.clients]
        return max([0.0, *ends, *(o.at for o in self.operations)]) + 15.0


# Policies by name; `world.py` holds their text. Weights: the ones that send more say more.
_POLICIES = (("usual", 4), ("patient", 4), ("no credential", 2), ("short window", 2), ("long", 2))
_GATEWAYS = (("stripe", 5), ("strong", 3), ("none", 4))
_NAMINGS = (
    (Naming.KEY, 4), (Naming.KEY_ORDER, 6), (Naming.ORDER, 4), (Naming.SESSION, 2),
    (Naming.KEY_SESSION, 1), (Naming.NOTHING, 2),
)  # fmt: skip
_CARDS = ((Card.GOOD, 14), (Card.DECLINED, 3), (Card.NEEDS_ACTION, 1), (Card.REFUSED, 1))
_ACTS = (
    (Act.PAY, 12), (Act.DOUBLE_CLICK, 3), (Act.OTHER_BODY, 1), (Act.NEW_KEY, 2),
    (Act.OTHER_GATEWAY, 1), (Act.HANG_UP, 2),
)  # fmt: skip
_VERBS = (
    (Verb.CANCEL, 4), (Verb.INTERRUPT, 3), (Verb.RESUME, 5), (Verb.COMPLETE, 2), (Verb.GET, 1),
)  # fmt: skip
_MOMENTS = (
    (Moment.STEP, 6), (Moment.HANDED, 2), (Moment.WRITTEN, 2), (Moment.SENT, 2),
    (Moment.EXECUTED, 2), (Moment.ANSWERED, 2), (Moment.TOLD, 1),
)  # fmt: skip


def draw(dice: Random, table: tuple[tuple[object, int], ...]) -> object:
    """One of a table of (thing, weight)."""
    rest = dice.randrange(sum(weight for _, weight in table))
    for thing, weight in table:
        rest -= weight
        if rest < 0:
            return thing
    raise AssertionError


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    dice = Random(seed)
    policy = str(draw(dice, _POLICIES))
    payments = tuple(
        _payment(dice, f"p{number}", policy) for number in range(1, _few(dice, 1, 0.3, 3) + 1)
    )
    busy = dice.random() < 0.5
    return Plan(
        seed=seed,
        policy=policy,
        payments=payments,
        look_ups=tuple(draw_look_up(dice) for _ in range(dice.randrange(8))),
        operations=tuple(_operation(dice, policy) for _ in range(_few(dice, busy, 0.5, 5))),
        crashes=tuple(_crash(dice) for _ in range(_few(dice, 0, 0.4, 3))),
        store=tuple(_store_trouble(dice) for _ in range(_few(dice, 0, 0.25, 2))),
        slowest_commit=dice.choice((0.0, 0.002, 0.05, 0.05, 1.0, 12.0)),
        seen_early=dice.random() < 0.5,
    )


def _few(dice: Random, least: int, chance: float, most: int) -> int:
    """`least`, and one more with a chance, again and again."""
    number = int(least)
    while number < most and dice.random() < chance:
        number += 1
    return number


def _payment(dice: Random, name: str, policy: str) -> Payment:
    gateway = str(draw(dice, _GATEWAYS))
    clients = [_client(dice, gateway, policy)]
    orders = {Naming.KEY_ORDER, Naming.ORDER, Naming.SESSION}
    if clients[0].naming in orders and dice.random() < 0.4:
        clients.append(_client(dice, gateway, policy, named=(*orders,)))
    fates = tuple(draw_fate(dice) for _ in range(_few(dice, 0, 0.75, 9)))
    card = draw(dice, _CARDS)
    assert isinstance(card, Card)
    return Payment(name, card, tuple(clients), fates)


def _client(
    dice: Random, gateway: str, policy: str, named: tuple[Naming, ...] | None = None
) -> Client:
    naming = draw(dice, _NAMINGS) if named is None else sorted(named)[dice.randrange(len(named))]
    assert isinstance(naming, Naming)
    steps = [Step(dice.choice((0.0, 0.0, 0.05, 1.0)), Act.PAY)]
    steps += [_step(dice, naming, policy) for _ in range(_few(dice, 0, 0.55, 4))]
    credential = "Bearer sk_two" if dice.random() < 0.05 else "Bearer sk_one"
    return Client(naming, gateway, tuple(steps), credential)


def _step(dice: Random, naming: Naming, policy: str) -> Step:
    act = draw(dice, _ACTS)
    assert isinstance(act, Act)
    # A second key, or a second gateway, for a payment that only its key names is a second payment.
    orders = naming in {Naming.KEY_ORDER, Naming.ORDER}
    if act in {Act.NEW_KEY, Act.OTHER_GATEWAY} and not orders:
        act = Act.PAY
    if act is Act.DOUBLE_CLICK and naming is Naming.NOTHING:
        act = Act.PAY  # two requests that name nothing are two payments
    return Step(_pause(dice, policy), act, dice.choice((0.0, 0.05, 5.0)))


# Around what matters: a second click, an attempt's and a walk's end, the settle time and the turns
# of the look-ups, the deadline of a session, the horizon and the end of a key's life.
_SOON = (0.0, 0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 9.0, 12.0, 31.0)
_LATER = (40.0, 100.0, 119.0, 125.0, 155.0, 157.0, 300.0, 600.0, 755.0, 760.0)
_AROUND = {
    "short window": (400.0, 425.0, 438.0, 444.0, 447.0, 449.0, 451.0),
    "long": (18 * HOUR - 40, 18 * HOUR - 3, 18 * HOUR + 5, 24 * HOUR - 20, 24 * HOUR + 30),
}
_DEADLINE = (15 * MINUTE - 40, 15 * MINUTE - 12, 15 * MINUTE - 3, 15 * MINUTE + 2)


def _pause(dice: Random, policy: str) -> float:
    luck = dice.random()
    if luck < 0.6:
        return dice.choice(_SOON)
    if luck < 0.8:
        return dice.choice(_LATER)
    return dice.choice(_AROUND.get(policy, _DEADLINE)) + dice.random()


def _operation(dice: Random, policy: str) -> Operation:
    at = sum(_pause(dice, policy) for _ in range(dice.randrange(1, 4))) + dice.random() * 0.2
    verb = draw(dice, _VERBS)
    assert isinstance(verb, Verb)
    return Operation(at, verb, dice.randrange(4))


_UP_TO = {
    Moment.STEP: 300, Moment.HANDED: 12, Moment.WRITTEN: 12, Moment.SENT: 5, Moment.EXECUTED: 4,
    Moment.ANSWERED: 4, Moment.TOLD: 4,
}  # fmt: skip


def _crash(dice: Random) -> Crash:
    moment = draw(dice, _MOMENTS)
    assert isinstance(moment, Moment)
    down = dice.choice((0.0, 0.3, 2.0, 2.0, 40.0, 200.0))
    return Crash(moment, dice.randrange(1, _UP_TO[moment] + 1), down, dice.random() < 0.15)


def _store_trouble(dice: Random) -> StoreTrouble:
    trouble = dice.choice((Trouble.FAILS, Trouble.FAILS, Trouble.AMBIGUOUS))
    return StoreTrouble(dice.randrange(1, 14), trouble, dice.choice((0.5, 2.0, 20.0)))
