"""What each step of a payment costs by itself, in microseconds of one core, in this process.

Steps under ten microseconds cannot be seen in a throughput figure on a noisy machine, so they are
priced alone: the median of many short runs. What waits for the disk is timed by the clock, too.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from proxy.core import events as ev
from proxy.core.bodyfields import body_values
from proxy.core.classify import classify
from proxy.core.http_rules import Checked, check_request
from proxy.core.idempotency import identify
from proxy.core.results import AttemptResult
from proxy.core.session import Session, apply
from proxy.core.states import AttemptStatus
from proxy.core.wire import InboundRequest, Phase, WireFacts
from proxy.flow.answer import forwarded, pack
from proxy.keyring import Keyring
from proxy.settings.load import load
from proxy.stores.codec import encode
from proxy.stores.sqlite import SqliteStore
from proxy.system import SystemClock, SystemDice
from proxy.telemetry.logs import LineSink
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.recorder import MetricsRecorder
from tests.bench.report import Report, Table
from tests.bench.sizes import Sizes
from tests.bench.targets import Targets

AT_ONCE = (1, 32, 256)
POLICY = """
listen: {sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}
gateways: {stripe: {profile: stripe, listen: "127.0.0.1:0", upstream: "http://127.0.0.1:1"}}
"""
KEY_HEADERS = frozenset({"idempotency-key"})
METHOD, TARGET = "POST", "/v1/payment_intents"
HEAD = (
    (b"Host", b"127.0.0.1:8080"),
    (b"Authorization", b"Bearer sk_test_bench"),
    (b"Idempotency-Key", b"bench-1234-5678"),
    (b"Content-Type", b"application/x-www-form-urlencoded"),
    (b"Accept", b"*/*"),
    (b"User-Agent", b"bench"),
    (b"Content-Length", b"300"),
)
BODY = (
    b"amount=1999&currency=eur&confirm=true&payment_method=pm_card_visa&description=" + b"x" * 220
)
ANSWER = (
    b'{"id":"pi_3bench","object":"payment_intent","amount":1999,"status":"succeeded",'
    b'"metadata":{"order_id":"bench"},"description":"' + b"x" * 240 + b'"}'
)
HEADERS = (
    ("Content-Type", "application/json"),
    ("Request-Id", "req_bench"),
    ("Content-Length", str(len(ANSWER))),
)


class _Nobody:
    """A recorder that hears nothing."""

    def moved(self, *_: object) -> None: ...

    def dropped(self, *_: object) -> None: ...

    def note(self, *_: object) -> None: ...


async def steps(targets: Targets, sizes: Sizes) -> Report:
    """Every step, priced."""
    prices = {name: _price(step, sizes) for name, step in _steps(targets.folder).items()}
    one = Table(("CPU us of", "each"), [(name, f"{cost:.1f}") for name, cost in prices.items()])
    writes = {
        f"{what}, {at_once} at once": await _price_writes(
            payment, targets.folder, at_once, max(1, sizes.writes // at_once)
        )
        for what, payment in (("one fsynced commit", _claim), ("all of a payment's", _pay))
        for at_once in AT_ONCE
    }
    two = Table(("us of durable writes", "CPU each", "until acknowledged"))
    for name, price in writes.items():
        two.rows.append((name, f"{price['cpu_us']:.1f}", f"{price['wait_us']:.0f}"))
    return Report(
        "steps: of one payment, alone in one process",
        {"steps": prices, "writes": writes},
        [one, two],
    )


def _price(step: Callable[[], object], sizes: Sizes) -> float:
    """Median microseconds of one call."""
    samples = []
    for _ in range(sizes.step_rounds):
        begun = time.process_time()
        for _ in range(sizes.step_calls):
            step()
        samples.append((time.process_time() - begun) / sizes.step_calls * 1e6)
    return statistics.median(samples)


def _steps(folder: Path) -> dict[str, Callable[[], object]]:
    policy = folder / "steps.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    settings = load(policy, {})
    gateway = settings.gateways["stripe"]
    route = gateway.routes.match("POST", "/v1/payment_intents")
    keyring, dice, clock = Keyring(b"k" * 32), SystemDice(), SystemClock()
    checked = check_request(METHOD, TARGET, HEAD, "holdfast-b", KEY_HEADERS)
    assert isinstance(checked, Checked)
    request = InboundRequest(
        gateway="stripe",
        method=METHOD,
        target=TARGET,
        headers=checked.forward,
        body=BODY,
        has_body=True,
        client_key=checked.values.get("idempotency-key"),
        values=checked.values,
    )
    begun = _session(dice.session_id())
    started = ev.AttemptStarted(2, 1, "stripe")
    result = AttemptResult(AttemptStatus.SUCCEEDED)
    ended = ev.AttemptEnded(3, 1, "stripe", result, Phase.ANSWERED, True, 200, 2)
    opened = apply(begun, ev.Opened(1))
    sent = apply(opened, started)
    done = apply(sent, ended)
    facts = WireFacts(
        sent=True, phase=Phase.ANSWERED, status=200, status_text="OK", headers=HEADERS, body=ANSWER
    )
    answer = forwarded(facts, done, gateway.profile, gave_up=False)
    sink = LineSink(open("/dev/null", "wb"))  # noqa: SIM115, PTH123 -- for the life of the bench
    recorder = MetricsRecorder(Metrics(), sink, clock, lambda _: None)

    def record() -> None:
        recorder.moved(sent, ended, done)
        recorder.note(ev.AttemptTimed("stripe", "create-payment", 0.02))
        recorder.note(ev.WalkEnded("stripe", "create-payment", None, 0.02, 0.001))
        sink._lines.clear()

    return {
        "check the request's head": lambda: check_request(
            METHOD, TARGET, HEAD, "holdfast-b", KEY_HEADERS
        ),
        "find the route": lambda: gateway.routes.match("POST", "/v1/payment_intents"),
        "read order and amount from the body": lambda: body_values(request, route.places),
        "who is it (three keyed hashes)": lambda: identify(
            request,
            route,
            keyring.digest,
            credential_headers=gateway.profile.credential_headers,
            body_order=None,
            random_key=dice.key,
        ),
        "name the session": dice.session_id,
        "move the session, three events": lambda: apply(
            apply(apply(begun, ev.Opened(1)), started), ended
        ),
        "classify the answer": lambda: classify(facts, gateway.profile, now_ms=1),
        "make the answer": lambda: forwarded(facts, done, gateway.profile, gave_up=False),
        "seal the answer for a replay": lambda: keyring.seal(
            done.id, pack(answer, gateway.profile.replay_headers)
        ),
        "metrics and the log line": record,
        "write the session down as JSON": lambda: encode(done),
    }


def _session(name: str) -> Session:
    return Session(
        id=name,
        gateway="stripe",
        route="create-payment",
        started_at=1,
        expires_at=10**13,
        max_attempts=3,
        tenant="t" * 32,
        key_hash=name,
        gateway_key="bench",
        fingerprint="f" * 64,
        amount="1999",
        currency="eur",
    )


async def _claim(store: SqliteStore, name: str) -> Session:
    """A payment is claimed (no I/O), and its first intent made durable."""
    opened = apply(_session(name), ev.Opened(1))
    await store.claim(opened, 0)
    sent = apply(opened, ev.AttemptStarted(2, 1, "stripe"))
    await store.commit(sent, opened.version, None)
    return sent


async def _pay(store: SqliteStore, name: str) -> Session:
    """Its outcome is made durable, too, with the answer: two commits, one after the other."""
    sent = await _claim(store, name)
    result = AttemptResult(AttemptStatus.SUCCEEDED)
    end = ev.AttemptEnded(3, 1, "stripe", result, Phase.ANSWERED, True, 200, 2)
    done = apply(sent, end)
    await store.commit(done, sent.version, b"a" * 600)
    return done


async def _price_writes(
    payment: Callable[[SqliteStore, str], Awaitable[Session]],
    folder: Path,
    at_once: int,
    rounds: int,
) -> dict[str, float]:
    """CPU of all threads per payment, and what one waits for until all of its round are written."""
    dice = SystemDice()
    store = SqliteStore(folder / f"{dice.session_id()}.db", SystemClock(), _Nobody())
    await store.open()
    cpu, clock = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        await asyncio.gather(*(payment(store, dice.session_id()) for _ in range(at_once)))
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    await store.close()
    return {"cpu_us": cpu / (at_once * rounds) * 1e6, "wait_us": clock / rounds * 1e6}
