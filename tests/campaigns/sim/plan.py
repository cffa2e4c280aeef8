"""What happens in one run, drawn from its seed before it begins: a value, so that it can be shrunk.

What the plan does not say (jitter, how long a commit takes) comes from a second stream of the same
seed, in the order in which it is asked for. Every third plan is of two replicas that share a store;
what is about them comes from a third stream. In every eleventh a gateway forgets its keys after an
error, and people vouch for what was not charged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from random import Random
from typing import Any

from tests.campaigns.sim import fates
from tests.campaigns.sim.fates import Fate

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
    NOT_CHARGED = "settle as not charged"
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
    CONNECTING = "connecting to the gateway"


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


class Mishap(StrEnum):
    """What befalls one of two replicas."""

    PAUSED = "stopped, and goes on later"
    CUT = "cut off from the store"
    LOST = "its write never arrives at the store"
    UNHEARD = "its write is carried out, and it does not hear of it"


@dataclass(frozen=True, slots=True)
class Incident:
    """A mishap of the replica with which the moment has come that often."""

    mishap: Mishap
    moment: Moment
    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Shared:
    """Two replicas. `turns`: to which of them people turn, again and again."""

    lease: float
    turns: tuple[int, ...]
    incidents: tuple[Incident, ...]
    slowest_way: float  # of a statement to the store, and of its answer


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
    shared: Shared | None = None

    @property
    def healed_at(self) -> float:
        """When nothing goes wrong any more."""
        ends = [sum(s.after for s in c.steps) for p in self.payments for c in p.clients]
        return max([0.0, *ends, *(o.at for o in self.operations)]) + 15.0


Table = tuple[tuple[Any, int], ...]

# Things and their weights. The policies' text is in `sidecar.py`.
_POLICIES: Table = (
    ("usual", 4), ("patient", 4), ("no credential", 2), ("short window", 2), ("long", 2),
)  # fmt: skip
_GATEWAYS: Table = (("stripe", 5), ("strong", 3), ("none", 4), ("search", 3), ("void", 2))
_NAMINGS: Table = (
    (Naming.KEY, 4), (Naming.KEY_ORDER, 6), (Naming.ORDER, 4), (Naming.SESSION, 2),
    (Naming.KEY_SESSION, 1), (Naming.NOTHING, 2),
)  # fmt: skip
_CARDS: Table = (
    (Card.GOOD, 14), (Card.DECLINED, 3), (Card.NEEDS_ACTION, 1), (Card.REFUSED, 1),
)  # fmt: skip
_ACTS: Table = (
    (Act.PAY, 12), (Act.DOUBLE_CLICK, 3), (Act.OTHER_BODY, 1), (Act.NEW_KEY, 2),
    (Act.OTHER_GATEWAY, 1), (Act.HANG_UP, 2),
)  # fmt: skip
_VERBS: Table = (
    (Verb.CANCEL, 4), (Verb.INTERRUPT, 3), (Verb.RESUME, 5), (Verb.COMPLETE, 2), (Verb.GET, 1),
)  # fmt: skip
_MOMENTS: Table = (
    (Moment.STEP, 6), (Moment.HANDED, 2), (Moment.WRITTEN, 2), (Moment.SENT, 2),
    (Moment.EXECUTED, 2), (Moment.ANSWERED, 2), (Moment.TOLD, 1),
)  # fmt: skip
# Around what matters: a second click, an attempt's and a walk's end; the settle time and the turns
# of the look-ups; the deadline of a session; the horizon and the end of a key's life.
_SOON = (0.0, 0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 9.0, 12.0, 31.0)
_LATER = (40.0, 100.0, 119.0, 125.0, 155.0, 157.0, 300.0, 600.0, 755.0, 760.0)
_DEADLINE = (15 * MINUTE - 40, 15 * MINUTE - 12, 15 * MINUTE - 3, 15 * MINUTE + 2)
_AROUND = {
    "short window": (400.0, 425.0, 438.0, 444.0, 447.0, 449.0, 451.0),
    "long": (18 * HOUR - 40, 18 * HOUR - 3, 18 * HOUR + 5, 24 * HOUR - 20, 24 * HOUR + 30),
}
_COMMITS = (0.0, 0.002, 0.05, 0.05, 1.0, 12.0)


@dataclass(frozen=True, slots=True)
class Theme:
    """What a plan is mostly about. Chances are those of one more."""

    policies: Table = _POLICIES
    gateways: Table = _GATEWAYS
    namings: Table = _NAMINGS
    verbs: Table = _VERBS
    first: tuple[Callable[[Random], Fate], ...] = ()  # what the first sends meet
    pauses: tuple[float, float] = (0.6, 0.8)  # up to where they are short, and later ones long
    soon: float = 0.0  # how often an operator does not wait
    operations: float = 0.4
    crashes: float = 0.35
    store: float = 0.2
    commits: tuple[float, ...] = _COMMITS


_FAILS = (fates.refused, fates.throttled, fates.unavailable, fates.connect_timeout)
_LOST = (fates.timeout_lost, fates.timeout_charged, fates.reset_before, fates.executed_late)

THEMES: Table = (
    (Theme(), 8),
    # The store says no, in the middle of everything.
    (
        Theme(
            gateways=(("stripe", 5), ("strong", 3), ("none", 4)),
            namings=((Naming.KEY, 2), (Naming.KEY_ORDER, 3), (Naming.SESSION, 4)),
            verbs=((Verb.CANCEL, 3), (Verb.INTERRUPT, 2), (Verb.RESUME, 2), (Verb.COMPLETE, 1)),
            store=0.8, soon=0.8, operations=0.7, crashes=0.1, commits=(0.05, 0.3, 12.0),
        ),
        2,
    ),
    # A person acts on what its sender may send again.
    (
        Theme(
            policies=(("patient", 1),), namings=((Naming.NOTHING, 3), (Naming.KEY, 1)),
            verbs=((Verb.RESUME, 3), (Verb.CANCEL, 1)), first=_FAILS, operations=0.7, crashes=0.1,
        ),
        1,
    ),
    # Cancelled or held between two sends.
    (
        Theme(
            verbs=((Verb.CANCEL, 2), (Verb.INTERRUPT, 2), (Verb.RESUME, 2)), first=_FAILS,
            soon=0.9, operations=0.7, crashes=0.1,
        ),
        1,
    ),
    # Deadlines, horizons and the ends of keys.
    (
        Theme(
            policies=(("patient", 2), ("short window", 2), ("long", 2)),
            gateways=(("stripe", 1), ("strong", 2)), first=_LOST, pauses=(0.2, 0.3), crashes=0.15,
        ),
        2,
    ),
    # Look-ups while the payment is sent again.
    (
        Theme(
            policies=(("patient", 1),), gateways=(("stripe", 1),), first=_LOST,
            pauses=(0.3, 0.9), crashes=0.15,
        ),
        1,
    ),
    # Proofs that nothing was charged, and the attempts after them.
    (
        Theme(
            policies=(("usual", 1), ("patient", 1), ("long", 1)),
            gateways=(("search", 3), ("void", 2)),
            namings=((Naming.KEY, 3), (Naming.KEY_ORDER, 3), (Naming.ORDER, 2)),
            first=_LOST, pauses=(0.3, 0.95), crashes=0.15,
        ),
        2,
    ),
    # Look-ups with another credential than that of the request, which a crash has taken away.
    (
        Theme(
            policies=(("patient", 1),), gateways=(("search", 1),), namings=((Naming.KEY, 1),),
            first=_LOST, pauses=(0.1, 0.6), crashes=0.7,
        ),
        1,
    ),
)  # fmt: skip


def draw(dice: Random, table: Table) -> Any:
    """One of a table of (thing, weight)."""
    rest = dice.randrange(sum(weight for _, weight in table))
    for thing, weight in table:
        rest -= weight
        if rest < 0:
            return thing
    raise AssertionError


def plan_alone(seed: int) -> Plan:
    """The plan of a seed with one Holdfast."""
    return _Drawing(Random(seed)).plan(seed)


def plan_of(seed: int) -> Plan:
    """The plan of a seed."""
    plan = plan_alone(seed)
    if seed % 11 == 9:
        plan = _forgetful(plan, Random(seed + 0.25))
    return _sharing(plan, Random(seed + 0.125)) if seed % 3 == 0 else plan


def _forgetful(plan: Plan, dice: Random) -> Plan:
    """The plan with a gateway that forgets a key after an error, where it knew none or all."""
    weak = {"strong": "weak", "none": "weak", "stripe": "weak"}
    payments = tuple(
        replace(
            p, clients=tuple(replace(c, gateway=weak.get(c.gateway, c.gateway)) for c in p.clients)
        )
        for p in plan.payments
    )
    operations = tuple(
        replace(o, verb=Verb.NOT_CHARGED) if dice.random() < 0.5 else o for o in plan.operations
    )
    late = (130.0, 200.0, 400.0, 800.0)
    while len(operations) < 4 and dice.random() < 0.5:
        at, which = dice.choice(late) + dice.random(), dice.randrange(4)
        operations = (*operations, Operation(at, Verb.NOT_CHARGED, which))
    return replace(plan, payments=payments, operations=operations)


# Which mishap, and the moment it comes with: around what the lease is there for.
_MISHAPS: Table = (
    ((Mishap.PAUSED, Moment.CONNECTING), 4), ((Mishap.PAUSED, Moment.HANDED), 3),
    ((Mishap.PAUSED, Moment.WRITTEN), 3), ((Mishap.PAUSED, Moment.SENT), 3),
    ((Mishap.PAUSED, Moment.ANSWERED), 1), ((Mishap.PAUSED, Moment.STEP), 4),
    ((Mishap.CUT, Moment.CONNECTING), 2), ((Mishap.CUT, Moment.HANDED), 2),
    ((Mishap.CUT, Moment.WRITTEN), 2), ((Mishap.CUT, Moment.SENT), 2),
    ((Mishap.CUT, Moment.STEP), 1),
    ((Mishap.LOST, Moment.HANDED), 3), ((Mishap.UNHEARD, Moment.HANDED), 5),
)  # fmt: skip


def _sharing(plan: Plan, dice: Random) -> Plan:
    """The plan with two replicas, of which fewer die and more are stopped or cut off."""
    lease = dice.choice((1.0, 1.0, 1.5, 3.0, 10.0))
    incidents: list[Incident] = []
    while len(incidents) < 4 and dice.random() < 0.7:
        mishap, moment = draw(dice, _MISHAPS)
        seconds = lease * dice.choice((0.5, 1.05, 1.5)) + dice.choice((0.0, 0.0, 2.7, 4.0, 11.0))
        incidents.append(Incident(mishap, moment, dice.randrange(1, _UP_TO[moment] + 1), seconds))
    shared = Shared(
        lease=lease,
        turns=tuple(dice.randrange(2) for _ in range(dice.randrange(3, 12))),
        incidents=tuple(incidents),
        slowest_way=dice.choice((0.0, 0.002, 0.05, 0.05, 0.1 * lease, 0.3 * lease)),
    )
    payments = tuple(_two_handed(payment, dice) for payment in plan.payments)
    return replace(plan, payments=payments, store=(), slowest_commit=0.0, shared=shared)


def _two_handed(payment: Payment, dice: Random) -> Payment:
    """Its clients turn to both replicas at a time; some connections take longer than a lease and
    stand in the end, or do not stand while the other replica's does.
    """
    met = list(payment.fates)
    if dice.random() < 0.3:
        fails = fates.refused(dice)._replace(connects=dice.choice((0.2, 1.5)))
        met[:0] = [fails, dice.choice(_LOST)(dice)]
    for place, fate in enumerate(met):
        if not fate.connects and dice.random() < 0.3:
            met[place] = fate._replace(connects=dice.choice((0.6, 1.2, 1.9)))
    clients = tuple(
        replace(client, steps=tuple(_impatient(step, client.naming, dice) for step in client.steps))
        for client in payment.clients
    )
    return replace(payment, clients=clients, fates=tuple(met))


def _impatient(step: Step, naming: Naming, dice: Random) -> Step:
    luck = dice.random()
    if step.act is not Act.PAY or luck < 0.4:
        return step
    if luck < 0.7 and naming is not Naming.NOTHING:
        return replace(step, act=Act.DOUBLE_CLICK)
    return replace(step, act=Act.HANG_UP, patience=dice.choice((0.3, 2.0, 6.0)))


class _Drawing:
    """A plan being drawn."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._theme: Theme = draw(dice, THEMES)
        self._policy: str = draw(dice, self._theme.policies)

    def plan(self, seed: int) -> Plan:
        """All of it."""
        dice, theme = self._dice, self._theme
        payments = self._few(0.25, 3, least=1)
        return Plan(
            seed=seed,
            policy=self._policy,
            payments=tuple(self._payment(f"p{number + 1}") for number in range(payments)),
            look_ups=tuple(fates.draw_look_up(dice) for _ in range(dice.randrange(8))),
            operations=tuple(self._operation() for _ in range(self._few(theme.operations, 5))),
            crashes=tuple(self._crash() for _ in range(self._few(theme.crashes, 3))),
            store=tuple(self._trouble() for _ in range(self._few(theme.store, 2))),
            slowest_commit=dice.choice(theme.commits),
            seen_early=dice.random() < 0.5,
        )

    def _few(self, chance: float, most: int, least: int = 0) -> int:
        """`least`, and with a chance one more, and so on."""
        number = least
        while number < most and self._dice.random() < chance:
            number += 1
        return number

    def _payment(self, name: str) -> Payment:
        dice = self._dice
        gateway = draw(dice, self._theme.gateways)
        clients = [self._client(gateway, draw(dice, self._theme.namings))]
        orders = (Naming.KEY_ORDER, Naming.ORDER, Naming.SESSION)
        if clients[0].naming in orders and dice.random() < 0.4:
            clients.append(self._client(gateway, dice.choice(orders)))
        first = self._theme.first
        met = [dice.choice(first)(dice) for _ in range(self._few(0.8, 3) if first else 0)]
        met += [fates.draw_fate(dice) for _ in range(self._few(0.7, 8))]
        return Payment(name, draw(dice, _CARDS), tuple(clients), tuple(met))

    def _client(self, gateway: str, naming: Naming) -> Client:
        dice = self._dice
        steps = [Step(dice.choice((0.0, 0.0, 0.05, 1.0)), Act.PAY)]
        steps += [self._step(naming) for _ in range(self._few(0.55, 4))]
        # Where another account's credential looks up for all, there must be no other account.
        alone = gateway in {"search", "void"} and self._policy != "patient"
        other = dice.random() < (0.3 if gateway == "search" else 0.05) and not alone
        credential = "Bearer sk_two" if other else "Bearer sk_one"
        return Client(naming, gateway, tuple(steps), credential)

    def _step(self, naming: Naming) -> Step:
        act = draw(self._dice, _ACTS)
        # Another key, or another gateway, for a payment that only its key names is another payment,
        # and so are two requests that name nothing.
        ordered = naming in {Naming.KEY_ORDER, Naming.ORDER}
        if act in {Act.NEW_KEY, Act.OTHER_GATEWAY} and not ordered:
            act = Act.PAY
        if act is Act.DOUBLE_CLICK and naming is Naming.NOTHING:
            act = Act.PAY
        return Step(self._pause(), act, self._dice.choice((0.0, 0.05, 5.0)))

    def _pause(self) -> float:
        dice, (short, long) = self._dice, self._theme.pauses
        luck = dice.random()
        if luck < short:
            return dice.choice(_SOON)
        if luck < long:
            return dice.choice(_LATER)
        return dice.choice(_AROUND.get(self._policy, _DEADLINE)) + dice.random()

    def _operation(self) -> Operation:
        dice = self._dice
        at = dice.random() * 3.0
        if dice.random() >= self._theme.soon:
            at += sum(self._pause() for _ in range(dice.randrange(1, 3)))
        return Operation(at, draw(dice, self._theme.verbs), dice.randrange(4))

    def _crash(self) -> Crash:
        dice = self._dice
        moment = draw(dice, _MOMENTS)
        down = dice.choice((0.0, 0.3, 2.0, 2.0, 40.0, 200.0))
        return Crash(moment, dice.randrange(1, _UP_TO[moment] + 1), down, dice.random() < 0.15)

    def _trouble(self) -> StoreTrouble:
        dice = self._dice
        trouble = dice.choice((Trouble.FAILS, Trouble.FAILS, Trouble.AMBIGUOUS))
        return StoreTrouble(dice.randrange(1, 12), trouble, dice.choice((0.5, 2.0, 20.0)))


_UP_TO = {
    Moment.STEP: 300, Moment.HANDED: 12, Moment.WRITTEN: 12, Moment.SENT: 5, Moment.EXECUTED: 4,
    Moment.ANSWERED: 4, Moment.TOLD: 4, Moment.CONNECTING: 4,
}  # fmt: skip
