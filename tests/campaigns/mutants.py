"""Teeth: protections taken out one by one, and how soon the model or the simulation finds out.

Each mutant is the product with one thing undone, most of them mistakes that payment systems have
really made. One that survives means that the campaigns could not have seen that mistake either.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from math import inf
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from proxy.background import reconciler
from proxy.core import events as ev
from proxy.core import idempotency, lookup, retrying, states
from proxy.core import session as core
from proxy.core.classify import classify
from proxy.core.keys import KeyPlace
from proxy.core.profile import GatewayClass, GatewayProfile
from proxy.core.reasons import Suppressed
from proxy.core.results import AttemptResult
from proxy.core.retrying import Verdict
from proxy.core.session import Session
from proxy.core.states import AttemptStatus, Move, Outcome, State
from proxy.core.wire import Headers, InboundRequest, Phase, WireFacts
from proxy.flow import attempts, commands, journal, pipeline, reconcile
from proxy.flow.journal import Change
from proxy.flow.walk import Lane, Walk
from proxy.ports import Conflict, Send, StoreUnavailable
from proxy.stores import postgres
from proxy.stores.postgres_server import Doubt
from tests.campaigns.model import ALONE, search
from tests.campaigns.sim.database import Database, SharedStore
from tests.campaigns.sim.plan import plan_of
from tests.campaigns.sim.store import SimSpool
from tests.campaigns.sim.wire import SimUpstream
from tests.campaigns.simulate import play

Patch = pytest.MonkeyPatch
MODEL_STATES = 3_000


class Killed(NamedTuple):
    """How a mutant was found out. `seed` None: by the model."""

    invariant: str
    seed: int | None
    what: str


MUTANTS: dict[str, Callable[[Patch], None]] = {}


def mutant(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Enter a mutant into the list, by the name of its function."""
    MUTANTS[apply.__name__.replace("_", " ")] = apply
    return apply


# Seen only where rare things meet: where the long run found it. To be renewed when plans change.
RARE = {
    "a store that went back is believed": 84_917,
    "an intent that was not used is not taken back": 653,
    "another epoch under the intent is ignored": 9_405,
    "any credential proves that there is nothing": 193,
    "confirmations of the same moment count": 193,
    "in flight after a restart stays in flight": 1,
    "the end of a send is that of its number": 381,
    "the lease is not asked before a send": 567,
    "the store does not fence intents": 2_040,
    "what only memory knows is gone on with": 653,
    "what the store cannot take is in memory only": 3_016,
}


def hunt(name: str, seeds: Iterable[int]) -> Killed | None:
    """Look for the mutant with the model, then with the simulation; None if it survives."""
    with Patch.context() as patch:
        MUTANTS[name](patch)
        for gateway_class in (GatewayClass.A_STRONG, GatewayClass.D_NONE):
            found = search(gateway_class, ALONE, MODEL_STATES).violations
            if found:
                return Killed(found[0].name, None, found[0].what)
        for seed in seeds:
            violations = play(plan_of(seed))
            if violations:
                return Killed(violations[0].name, seed, violations[0].what)
    return None


# --- the intent (T1) ----------------------------------------------------------------------------


async def _nothing() -> None:
    return


@mutant
def intent_after_the_send(patch: Patch) -> None:
    """The bytes leave first, and are written down when they are back."""
    in_time = SimUpstream.send

    async def late(self: SimUpstream, send: Send) -> WireFacts:
        intent, send.before_bytes = send.before_bytes, _nothing
        facts = await in_time(self, send)
        await intent()
        return facts

    patch.setattr(SimUpstream, "send", late)


def _not_awaited(patch: Patch, which: Callable[[Session, Session], bool]) -> None:
    """Commits of that kind are begun, and nobody waits for them."""
    commit = journal.Journal._commit

    async def hasty(self: journal.Journal, before: Session, after: Session, *rest: Any) -> None:
        writing = commit(self, before, after, *rest)
        if not which(before, after):
            await writing
            return

        async def write() -> None:
            with contextlib.suppress(StoreUnavailable, Conflict):
                await writing

        self.__dict__.setdefault("hasty", []).append(asyncio.ensure_future(write()))
        await asyncio.sleep(0)

    patch.setattr(journal.Journal, "_commit", hasty)


@mutant
def intent_not_durable(patch: Patch) -> None:
    """The first byte does not wait until the intent would survive."""
    _not_awaited(patch, lambda before, after: after.in_flight and not before.in_flight)


@mutant
def intent_fails_open(patch: Patch) -> None:
    """A store that is down does not stop a payment."""
    intent = attempts.Attempts._intent

    async def lenient(self: attempts.Attempts, walk: Walk, number: int, endpoint: str) -> None:
        with contextlib.suppress(StoreUnavailable):
            await intent(self, walk, number, endpoint)

    patch.setattr(attempts.Attempts, "_intent", lenient)


@mutant
def intent_without_its_guard(patch: Patch) -> None:
    """What was cancelled, held or closed between two sends is sent all the same."""

    async def intent(self: attempts.Attempts, walk: Walk, number: int, endpoint: str) -> None:
        def begin(session: Session) -> Change:
            now = self._clock.now_ms()
            resumed = [ev.Resumed(now, walk.resumed_by)]
            again = resumed if session.state is State.INTERRUPTED else []
            started = ev.AttemptStarted(now, number, endpoint, self._journal.store.epoch)
            return Change([*again, started])

        walk.session = await self._updated(walk, begin)

    patch.setattr(attempts.Attempts, "_intent", intent)


@mutant
def an_intent_that_was_not_used_is_not_taken_back(patch: Patch) -> None:
    """A store said no and had recorded the intent: in flight for ever."""
    patch.setattr(attempts.Attempts, "_take_back", lambda *_: None)


# --- the outcome (T2) ---------------------------------------------------------------------------


@mutant
def told_before_it_is_durable(patch: Patch) -> None:
    """The client hears the outcome while it is being written."""
    _not_awaited(patch, lambda before, after: before.in_flight and not after.in_flight)


def _misread(patch: Patch, status: AttemptStatus) -> None:
    def wrong(facts: WireFacts, profile: GatewayProfile, *, now_ms: int) -> AttemptResult:
        result = classify(facts, profile, now_ms=now_ms)
        if result.status is not AttemptStatus.UNKNOWN:
            return result
        reason = result.reason if status is AttemptStatus.NOT_SENT else None
        return AttemptResult(status, reason, result.repeat)

    patch.setattr(attempts, "classify", wrong)


@mutant
def unknown_stored_as_not_sent(patch: Patch) -> None:
    """A time-out is taken for a failure to send."""
    _misread(patch, AttemptStatus.NOT_SENT)


@mutant
def unknown_stored_as_failed(patch: Patch) -> None:
    """A time-out is taken for a no."""
    _misread(patch, AttemptStatus.DECLINED)


@mutant
def the_last_word_wins(patch: Patch) -> None:
    """What is learned later replaces what was known."""

    def overwrite(_known: AttemptStatus, learned: AttemptStatus) -> AttemptStatus:
        return learned

    patch.setattr(core, "join", overwrite)


@mutant
def a_rejection_speaks_for_the_key(patch: Patch) -> None:
    """A 401 or 429 to a repeat is taken as the answer to the first send."""
    speaks = states.SPEAKS_FOR_THE_KEY | {AttemptStatus.REJECTED}
    patch.setattr(states, "SPEAKS_FOR_THE_KEY", speaks)


@mutant
def only_the_last_attempt_counts(patch: Patch) -> None:
    """A closed attempt masks an open one."""
    outcome_of = states.outcome_of
    patch.setattr(core, "outcome_of", lambda pairs: outcome_of(list(pairs)[-1:]))


# --- repeats ------------------------------------------------------------------------------------


def _barrier(
    patch: Patch, wrong: Callable[[GatewayClass, int | None, int, float], Suppressed | None]
) -> None:
    for module in (attempts, commands, retrying):
        patch.setattr(module, "repeat_barrier", wrong)


@mutant
def repeated_whatever_the_gateway_promises(patch: Patch) -> None:
    """An unknown outcome is sent again to a gateway that knows no keys."""
    _barrier(patch, lambda *_: None)


@mutant
def a_key_that_an_error_ends_is_trusted(patch: Patch) -> None:
    """A gateway that forgets a key after an error is taken for one that keeps it."""
    real = retrying.repeat_barrier

    def trusting(gateway_class: GatewayClass, *rest: Any) -> Suppressed | None:
        weak = gateway_class is GatewayClass.A_WEAK
        return real(GatewayClass.A_STRONG if weak else gateway_class, *rest)

    _barrier(patch, trusting)


@mutant
def repeated_past_the_horizon(patch: Patch) -> None:
    """The key may have been forgotten at the gateway, and is sent again."""

    def no_horizon(gateway_class: GatewayClass, *_: object) -> Suppressed | None:
        strong = gateway_class is GatewayClass.A_STRONG
        return None if strong else Suppressed.UNSAFE_TO_REPEAT

    _barrier(patch, no_horizon)


@mutant
def a_new_key_for_every_send(patch: Patch) -> None:
    """The key is made for the send, not for the payment."""
    serial = count()

    def fresh(
        self: KeyPlace, _request: InboundRequest, headers: Headers, _key: str
    ) -> tuple[Headers, bytes]:
        others = tuple(h for h in headers if h[0].lower() != self.header)
        return (*others, (self.name, f"send-{next(serial)}")), _request.body

    patch.setattr(KeyPlace, "put", fresh)


# --- locks and duplicates -----------------------------------------------------------------------


@mutant
def order_lock_off(patch: Patch) -> None:
    """Two keys for one order are two payments."""
    patch.setattr(Session, "locks_order", property(lambda _: False))


@mutant
def order_freed_while_unknown(patch: Patch) -> None:
    """The order is only locked while something is under way or charged."""
    locks = Session.locks_order.fget  # type: ignore[attr-defined]

    def too_early(session: Session) -> bool:
        return locks(session) and session.state is not State.FAILED_MAX_RETRIES

    patch.setattr(Session, "locks_order", property(too_early))


@mutant
def bodies_are_not_compared(patch: Patch) -> None:
    """The same key with another amount passes for the same payment."""
    patch.setattr(idempotency, "fingerprint_of", lambda *_: "same")


# --- restarts, time and people ------------------------------------------------------------------


@mutant
def in_flight_after_a_restart_stays_in_flight(patch: Patch) -> None:
    """Nobody looks at what the last process left behind."""

    async def nothing(_self: reconciler.Reconciler) -> int:
        return 0

    patch.setattr(reconciler.Reconciler, "take_over", nothing)


@mutant
def in_flight_after_a_restart_was_not_sent(patch: Patch) -> None:
    """What the last process left behind counts as not sent."""
    restarted = core._process_restarted

    def hopeful(session: Session, event: ev.ProcessRestarted, changes: dict[str, Any]) -> None:
        restarted(session, event, changes)
        unsent = [a.status is AttemptStatus.IN_FLIGHT for a in session.attempts]
        closed = tuple(
            replace(a, status=AttemptStatus.NOT_SENT) if was else a
            for a, was in zip(changes["attempts"], unsent, strict=True)
        )
        core._set_attempts(session, changes, closed)

    patch.setattr(core, "_process_restarted", hopeful)


@mutant
def cancelled_while_unknown(patch: Patch) -> None:
    """A person's cancel closes a payment that may have been charged."""
    patch.delitem(_rows(states.REQUIRED_OUTCOME), Move.CANCEL)

    async def cancel(self: commands.Commands, name: str, reason: str) -> tuple[Session, bool]:
        now = self._clock.now_ms()
        session = await self.get(name)
        wanted = ev.Cancelled(now, reason)
        return await self._change(session, lambda s: Change([wanted] if s.live else [])), True

    patch.setattr(commands.Commands, "cancel", cancel)


@mutant
def expired_while_unknown(patch: Patch) -> None:
    """The deadline closes a payment that may have been charged."""
    patch.delitem(_rows(states.REQUIRED_OUTCOME), Move.EXPIRE)

    def due(session: Session, now_ms: int) -> bool:
        return session.live and now_ms >= session.expires_at

    patch.setattr(Session, "due_to_expire", due)


@mutant
def failed_when_the_retries_are_spent(patch: Patch) -> None:
    """After the last look-up an unknown payment counts as not charged."""
    change = core._change

    def give_up(session: Session, event: ev.Event, changes: dict[str, Any]) -> Move | None:
        if not isinstance(event, ev.Exhausted) or session.outcome is not Outcome.UNKNOWN:
            return change(session, event, changes)
        closed = tuple(replace(a, status=AttemptStatus.VOIDED) for a in session.attempts)
        core._set_attempts(session, changes, closed)
        return Move.EXHAUST

    patch.setattr(core, "_change", give_up)


def _rows(table: Mapping[Move, Outcome]) -> dict[Any, Any]:
    assert isinstance(table, dict)
    return table


@mutant
def a_nameless_payment_may_be_resumed(patch: Patch) -> None:
    """A person sends what its sender was told to send again."""
    obstacle = commands.Commands._obstacle
    patch.setattr(
        commands.Commands,
        "_obstacle",
        lambda self, session: obstacle(self, replace(session, named=True)),
    )
    patch.setattr("proxy.core.problems._must_name", lambda _: False)


# --- two replicas -------------------------------------------------------------------------------


@mutant
def the_lease_is_not_asked_before_a_send(patch: Patch) -> None:
    """Whoever could write its intent sends, however long that took."""
    patch.setattr(SharedStore, "lease_seconds", lambda _: inf)


@mutant
def the_store_does_not_fence_intents(patch: Patch) -> None:
    """An intent is recorded whoever brings it."""
    patch.setattr(Database, "_may_send", lambda *_: True)


@mutant
def another_epoch_under_the_intent_is_ignored(patch: Patch) -> None:
    """The lease was lost and taken anew while the intent was being recorded."""
    check = attempts.Attempts._check_store

    def believing(self: attempts.Attempts, walk: Walk) -> None:
        check(self, walk)
        walk.epoch = self._journal.store.epoch

    patch.setattr(attempts.Attempts, "_check_store", believing)


@mutant
def the_end_of_a_send_is_that_of_its_number(patch: Patch) -> None:
    """Two replicas have begun an attempt of one number; the one's end is taken for the other's."""

    def numbered(session: Session, ended: ev.AttemptEnded) -> core.Attempt | None:
        return next((a for a in session.attempts if a.number == ended.number), None)

    patch.setattr(core, "attempt_of", numbered)


@mutant
def a_take_over_sends_again(patch: Patch) -> None:
    """What is unknown is sent again by whoever takes it over, whatever the gateway promises."""
    _barrier(patch, lambda *_: None)
    for room in (attempts, pipeline):
        patch.setattr(room, "barrier_to_ask_again", lambda *_: None)


@mutant
def what_another_replica_has_begun_is_begun_again(patch: Patch) -> None:
    """Between its connection and its intent nobody looks who else sends."""
    intent = attempts.Attempts._intent

    async def blind(self: attempts.Attempts, walk: Walk, _number: int, endpoint: str) -> None:
        walk.session = await self._journal.store.get(walk.session.id) or walk.session
        lost = tuple(replace(a, status=AttemptStatus.NOT_SENT) for a in walk.session.attempts)
        walk.session = replace(walk.session, attempts=lost, outcome=Outcome.NOT_CHARGED)
        await intent(self, walk, len(lost) + 1, endpoint)

    patch.setattr(attempts.Attempts, "_intent", blind)


@mutant
def a_live_replica_is_taken_for_gone(patch: Patch) -> None:
    """What is in flight is taken over without a look at its sender's lease."""
    patch.setattr(Database, "_is_gone", lambda _self, sender: sender is not None)


@mutant
def a_write_of_which_nobody_knows_counts_as_done(patch: Patch) -> None:
    """The store did not answer, and is believed to have done it."""
    until_sure = postgres.PostgresStore._until_sure

    async def hopeful(self: postgres.PostgresStore, attempt: Any) -> None:
        with contextlib.suppress(Doubt):
            await until_sure(self, attempt)

    patch.setattr(postgres.PostgresStore, "_until_sure", hopeful)


@mutant
def the_last_writer_wins(patch: Patch) -> None:
    """A version is written over whatever there is."""
    update = Database._update

    def over(self: Database, row: dict[str, Any], _version: int) -> Any:
        there = self._rows.get(row["id"])
        return update(self, row, 0 if there is None else there["version"])

    patch.setattr(Database, "_update", over)


# --- evidence -----------------------------------------------------------------------------------


@mutant
def evidence_dropped(patch: Patch) -> None:
    """What a look-up finds is not written down."""

    def forget(_self: reconcile.Reconcile, _lane: Lane, *_: Any) -> Change:
        return Change()

    patch.setattr(reconcile.Reconcile, "_settled", forget)


@mutant
def what_the_store_cannot_take_is_in_memory_only(patch: Patch) -> None:
    """There is no spool: who dies then takes the outcome along."""

    async def keep(_self: SimSpool, _record: bytes) -> int:
        raise StoreUnavailable

    patch.setattr(SimSpool, "keep", keep)


@mutant
def not_found_means_not_charged(patch: Patch) -> None:
    """A look-up that finds nothing is taken for a proof."""

    def proof(*_: Any) -> lookup.Found:
        nothing = WireFacts(True, Phase.ANSWERED, None, 200, "", (), b"{}")
        return lookup.Found(AttemptStatus.VOIDED, "none", nothing)

    patch.setattr(lookup, "_next_page", proof)


@mutant
def not_found_counts_at_once(patch: Patch) -> None:
    """Where it proves something, it does so however short the send is ago."""
    patch.setattr(lookup, "seconds_since_send", lambda *_: inf)


@mutant
def one_confirmation_is_enough(patch: Patch) -> None:
    """A list that misses a payment once is believed."""
    patch.setattr(lookup, "proves", lambda _recipe, session: bool(session.not_found))


@mutant
def confirmations_of_the_same_moment_count(patch: Patch) -> None:
    """Nothing lies between two of them."""
    patch.setattr(lookup, "confirms", lambda *_: True)
    patch.setattr(reconcile, "next_lookup_at", lambda _session, now, _recipe: now)


@mutant
def any_credential_proves_that_there_is_nothing(patch: Patch) -> None:
    """Another account's sees nothing, and is believed."""
    patch.setattr(reconcile.Reconcile, "_sees_all", lambda *_: True)


@mutant
def a_new_attempt_without_a_proof(patch: Patch) -> None:
    """What was looked up in vain is sent again under a new key."""
    looked = reconcile.Reconcile._in_vain

    def hopeful(self: reconcile.Reconcile, *known: Any, absent: bool | None = None) -> Change:
        _, session, now = known
        change = looked(self, *known, absent=absent)
        void, source = AttemptStatus.VOIDED, ev.EvidenceSource.LOOKUP
        key = idempotency.next_gateway_key(self._digest, session)
        return Change([*change.events, ev.EvidenceFound(now, source, void, "hope", key)])

    patch.setattr(reconcile.Reconcile, "_in_vain", hopeful)


@mutant
def a_send_that_never_left_makes_a_new_key(patch: Patch) -> None:
    """The next send has another key, while an earlier one may have been executed."""
    ended = core._attempt_ended

    def renewed(session: Session, event: ev.AttemptEnded, changes: dict[str, Any]) -> Move:
        if event.result.status is AttemptStatus.NOT_SENT:
            changes["generation"] = session.generation + 1
            changes["gateway_key"] = f"{session.gateway_key}-{session.generation + 1}"
        return ended(session, event, changes)

    patch.setattr(core, "_attempt_ended", renewed)


@mutant
def voided_before_it_can_have_arrived(patch: Patch) -> None:
    """The gateway is asked to void what is still on its way to it."""
    patch.setattr(reconcile, "ripe", lambda *_: True)


@mutant
def the_old_key_goes_out_for_a_new_attempt(patch: Patch) -> None:
    """What is sent after a proof bears the client's own key again."""
    put = KeyPlace.put

    def unchanged(
        self: KeyPlace, request: InboundRequest, headers: Headers, key: str
    ) -> tuple[Headers, bytes]:
        named = request.client_key is not None
        return (headers, request.body) if named else put(self, request, headers, key)

    patch.setattr(KeyPlace, "put", unchanged)


@mutant
def a_gateway_needs_no_time_to_settle(patch: Patch) -> None:
    """What is not charged yet when it is looked up counts as not charged."""
    patch.setattr(lookup, "settled", lambda *_: True)


@mutant
def a_person_vouches_too_soon(patch: Patch) -> None:
    """What the gateway's pages do not show yet counts as not charged when a person says so."""
    patch.setattr(commands, "settled", lambda *_: True)


@mutant
def a_store_that_went_back_is_believed(patch: Patch) -> None:
    """A write failed, and what was decided on it goes on from what was before it."""
    patch.setattr(journal.Journal, "update", _believing)


@mutant
def what_only_memory_knows_is_gone_on_with(patch: Patch) -> None:
    """The store could not take the outcome, and the walk sends again all the same."""

    def again(verdict: Verdict) -> Verdict:
        return verdict

    patch.setattr(attempts, "_not_again", again)
    patch.setattr(journal.Journal, "update", _believing)


async def _believing(
    self: journal.Journal,
    session: Session,
    change: Callable[[Session], Change],
    replay_headers: frozenset[str],
) -> Session:
    """The journal as it was before it compared versions."""
    while True:
        wanted = change(session)
        if not wanted.events:
            return session
        after = session
        for event in wanted.events:
            after = core.apply(after, event)
        try:
            await self._commit(session, after, wanted, replay_headers)
        except Conflict as conflict:
            if conflict.current is None:
                raise StoreUnavailable from None
            session = conflict.current
            continue
        return after


def table(killed: Mapping[str, Killed | None]) -> str:
    """For people: what each was killed by."""
    lines = []
    for name, how in killed.items():
        if how is None:
            lines.append(f"{name:<52} SURVIVED")
            continue
        where = "model" if how.seed is None else f"seed {how.seed}"
        lines.append(f"{name:<52} {how.invariant:<4} {where:<10} {how.what}")
    return "\n".join(lines)
