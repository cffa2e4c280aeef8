"""`holdfast sessions …` and `holdfast health` against a Holdfast that really runs."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from proxy.demo.faults import Fault, FaultPlan
from proxy.demo.gateway import SimulatedGateway
from tests.support.raw import RawConnection, raw_server
from tests.support.running import HoldfastProcess, free_port, simulated
from tests.support.shell import Finished, holdfast
from tests.support.waiting import eventually

OPERATOR = "operator-of-these-tests"
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z"


class FaultsByName(FaultPlan):
    """What happens to an order's first request is in its name."""

    def fault(self, order: str, arrival: int) -> Fault:
        """Resets after charging the order if it is called so, once."""
        return Fault.RESET_AFTER if arrival == 1 and "lost" in order else Fault.NONE


# A gateway that promises nothing, cannot be asked, and is done at once with what it was sent.
PROMISES_NOTHING = """
title: A gateway that promises nothing
idempotency: {class: D_none, window: 24h}
results:
  - {when: {status: [2xx]}, result: succeeded}
  - {when: {status: [4xx]}, result: rejected}
routes:
  - {name: pay, match: {methods: [POST], path: /v1/payment_intents}, session: durable}
max_processing_time: 1ms
"""


@dataclass(slots=True)
class Shop:
    """A running Holdfast with two doors: to a gateway that is known, and to one that is not."""

    process: HoldfastProcess
    gateway: SimulatedGateway
    plain_url: str

    async def pay(self, order: str, *, plain: bool = False) -> str:
        """Pay an order; its session."""
        url = self.plain_url if plain else self.process.url
        data = {
            "amount": "1999",
            "currency": "eur",
            "confirm": "true",
            "payment_method": "pm_card_visa",
            "metadata[order_id]": order,
        }
        headers = {
            "Authorization": "Bearer sk_test_shop",
            "X-Payment-Order-Id": order,
            "X-Payment-User-Id": "user-7",
        }
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{url}/v1/payment_intents", data=data, headers=headers) as answer,
        ):
            return answer.headers["X-Payment-Session-Id"]

    async def open(self, order: str) -> str:
        """A session that the backend creates before it pays."""
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                f"{self.process.api}/session/create",
                json={"orderId": order},
                headers={"Authorization": f"Bearer {OPERATOR}"},
            ) as answer,
        ):
            created: str = (await answer.json())["sessionId"]
            return created

    async def run(self, *arguments: str, token: str | None = None) -> Finished:
        """`holdfast sessions …` with the address and token an operator would have set."""
        token = OPERATOR if token is None else token
        api = f"http://127.0.0.1:{self.process.api_port}"
        # A shell behind a company's proxy: it is not for what runs on this machine.
        environ = {"HOLDFAST_API": api, "http_proxy": "http://127.0.0.1:1"}
        if token:
            environ["HOLDFAST_OPERATOR_TOKEN"] = token
        return await holdfast("sessions", *arguments, environ=environ)


@pytest_asyncio.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """Tokens are set, and one automatic attempt leaves two for people."""
    gateway = SimulatedGateway(FaultsByName())
    plain = free_port()
    (tmp_path / "gateways").mkdir()
    (tmp_path / "gateways/mine.yaml").write_text(PROMISES_NOTHING)
    async with simulated(gateway) as origin:
        more = (
            f'  plain: {{profile: mine, listen: "127.0.0.1:{plain}", upstream: "{origin}"}}\n'
            "defaults: {retry: {max_attempts: 3, automatic_attempts: 1}}\n"
        )
        process = HoldfastProcess(tmp_path, origin, more)
        tokens = {"HOLDFAST_OPERATOR_TOKEN": OPERATOR, "HOLDFAST_VIEWER_TOKEN": "v" * 16}
        await process.start(environ=tokens)
        yield Shop(process, gateway, f"http://127.0.0.1:{plain}")
        assert await process.stop() == 0


async def test_sessions_are_listed_and_shown(shop: Shop) -> None:
    """A table, newest first, and one session's timeline; plain when piped, JSON when asked for."""
    first, second = await shop.pay("list-1"), await shop.pay("list-2")
    done = await shop.run("list", "--user", "user-7")
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    head, *lines, count = done.out.splitlines()
    assert head.split() == ["SESSION", "STATUS", "OUTCOME", "ORDER", "ATTEMPTS", "STARTED"]
    assert [line.split()[:5] for line in lines] == [
        [second, "COMPLETED", "charged", "list-2", "1/3"],
        [first, "COMPLETED", "charged", "list-1", "1/3"],
    ]
    assert all(re.search(f" {TIME}$", line) for line in lines)
    assert count == "2 of 2"
    assert (await shop.run("list", "--order", "list-1")).out.splitlines()[-1] == "1 of 1"
    assert (await shop.run("list", "--limit", "1")).out.splitlines()[-1] == "1 of 2"
    nobody = await shop.run("list", "--order", "nobody")
    assert (nobody.code, nobody.out.splitlines()[-1]) == (0, "0 of 0")

    page = json.loads((await shop.run("list", "--order", "list-1", "--json")).out)
    assert (page["total"], page["next"]) == (1, None)
    assert (page["sessions"][0]["sessionId"], page["sessions"][0]["userId"]) == (first, "user-7")

    done = await shop.run("show", first)
    assert (done.code, done.err) == (0, "")
    facts, _, timeline = done.out.partition("\n\n")
    assert dict(line.split(maxsplit=1) for line in facts.splitlines()) == {
        "sessionId": first,
        "orderId": "list-1",
        "userId": "user-7",
        "gateway": "gateway",
        "route": "create-payment",
        "amount": "1999 eur",
        "status": "COMPLETED",
        "outcome": "charged",
        "reference": "-",
        "attempts": "1 of 3",
        "canResume": "no",
    }
    steps = timeline.splitlines()
    assert all(re.match(f"{TIME}  ", step) for step in steps)
    assert steps[-1].split()[2:] == ["AttemptEnded", "COMPLETED,", "charged"]
    both = json.loads((await shop.run("show", first, "--json")).out)
    assert list(both) == ["session", "summary"]
    assert (both["session"]["gateway"], both["summary"]["outcome"]) == ("gateway", "charged")


async def test_an_unknown_outcome_is_shown_with_why(shop: Shop) -> None:
    """When it stopped, why, in which phase and whether it was sent; what a person asked for."""
    lost = await shop.pay("lost-why", plain=True)
    shown = (await shop.run("show", lost)).out
    facts, stops, timeline = shown.split("\n\n")
    told = dict(line.split(maxsplit=1) for line in facts.splitlines())
    assert (told["gateway"], told["status"]) == ("plain", "INTERRUPTED")
    assert re.fullmatch(rf"{TIME}  \w+ in \w+, attempt 1, sent(: .*)?", stops), stops
    assert timeline.splitlines()
    assert told["waitsFor"] == "a person: the profile has no look-up for route pay"
    assert "cancelRequested" not in told
    done = await shop.run("resume", lost)
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith("the gateway cannot be asked; a person must settle it\n")
    for reason in ("the customer left", "again"):
        done = await shop.run("cancel", lost, "--reason", reason)
        assert (done.code, done.err) == (0, "")
        status, wish, follows = done.out.splitlines()
        assert status == "INTERRUPTED, unknown"
        assert wish == "cancel requested, on record with the reason 'the customer left'"
        assert "is not cancelled yet. Nothing more is sent" in follows
    facts, _, timeline = (await shop.run("show", lost)).out.partition("\n\n")
    assert "cancelRequested  yes" in facts.splitlines()
    assert "CancelRequested    INTERRUPTED, unknown: the customer left\n" in timeline


async def test_a_payment_that_is_not_there_is_settled_as_such(shop: Shop) -> None:
    """Looked up at the gateway, by a person: the order is free, and `show` says who said what."""
    lost = await shop.pay("lost-absent", plain=True)
    word = ("settle", lost, "--not-charged", "--reference", "not in the dashboard")
    for _ in range(2):
        done = await shop.run(*word)
        assert (done.code, done.err) == (0, "")
        status, follows = done.out.splitlines()
        assert status == "INTERRUPTED, not_charged"
        assert follows.endswith("or cancel it, which frees the order")
    done = await shop.run("cancel", lost, "--reason", "the customer left")
    assert (done.code, done.out) == (0, "CANCELLED, not_charged\n")
    told = (await shop.run("show", lost)).out
    assert "reference        not in the dashboard\n" in told
    assert "waitsFor" not in told
    notes = [line.partition(": ")[2] for line in told.splitlines()[-2:]]
    assert notes == ["person: not in the dashboard", "the customer left"]
    done = await shop.run("settle", await shop.pay("paid-1"), *word[2:])
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith("its outcome is known: charged\n")


async def test_sessions_are_acted_on(shop: Shop) -> None:
    """Resume what was interrupted, settle what nobody can ask about, cancel what is not charged."""
    lost = await shop.pay("lost-resume")
    assert lost in (await shop.run("list", "--active", "--outcome", "unknown")).out
    done = await shop.run("resume", lost)
    sending = "RESUMED: sending the same request again with the same key\n"
    assert (done.code, done.out, done.err) == (0, sending, "")

    async def summary() -> dict[str, str]:
        shown: dict[str, dict[str, str]] = json.loads((await shop.run("show", lost, "--json")).out)
        return shown["summary"]

    settled = await eventually(summary, lambda shown: shown["status"] == "COMPLETED")
    assert settled["outcome"] == "charged"
    assert shop.gateway.ledger.per_order()["lost-resume"] == 1
    again = (await shop.run("resume", lost)).out
    assert again == "COMPLETED: nothing was done, it is already completed\n"

    unknown = await shop.pay("lost-settle", plain=True)
    assert unknown in (await shop.run("list", "--active", "--outcome", "unknown")).out
    done = await shop.run("settle", unknown, "--reference", "pi_from_the_dashboard")
    assert (done.code, done.out, done.err) == (0, "COMPLETED\n", "")
    done = await shop.run("settle", unknown, "--reference", "pi_another")
    assert done.out.endswith("; the reference on record is pi_from_the_dashboard\n")
    assert "reference        pi_from_the_dashboard\n" in (await shop.run("show", unknown)).out

    opened = await shop.open("cancel-1")
    for reason in ("address check", "again"):
        done = await shop.run("interrupt", opened, "--reason", reason)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("INTERRUPTED, held: nothing is sent until `sessions resume`")
    assert "held             yes\n" in (await shop.run("show", opened)).out
    done = await shop.run("cancel", opened, "--reason", "the customer left")
    assert (done.code, done.out, done.err) == (0, "CANCELLED, not_charged\n", "")
    done = await shop.run("cancel", lost, "--reason", "too late")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("The session's state does not allow this: ")


REFUSED = [
    (("show", "ps_missing"), "There is no such session"),
    (("resume", "ps_missing"), "There is no such session"),
    (("cancel", "ps_missing", "--reason", "r"), "There is no such session"),
    (("interrupt", "ps_missing", "--reason", "r"), "There is no such session"),
    (("settle", "ps_missing", "--reference", "r"), "There is no such session"),
    (("settle", "ps_missing", "--reference", "r", "--not-charged"), "There is no such session"),
    (("interrupt", "ps_missing", "--reason", ""), "reason: 1 to 500 characters"),
    (("show", "../../healthz?x=1"), "There is no such session"),
    (("list", "--status", "PAID"), "'INITIATED'"),
    (("list", "--outcome", "maybe"), "'not_charged'"),
]


async def test_what_the_api_refuses_is_a_sentence(shop: Shop) -> None:
    """The API's own words on standard error, and 1; without a token, which variable to set."""
    for arguments, told in REFUSED:
        done = await shop.run(*arguments)
        assert (arguments, done.code, done.out) == (arguments, 1, "")
        assert told in done.err
        assert done.err.count("\n") == 1
    for token in ("", "wrong"):
        done = await shop.run("list", token=token)
        assert (done.code, done.out) == (1, "")
        assert done.err == (
            "A token is required (set HOLDFAST_OPERATOR_TOKEN or HOLDFAST_OPERATOR_TOKEN_FILE)\n"
        )

    # Or which file holds it, as in `serve`: the file counts, and one that is none is told.
    api = f"http://127.0.0.1:{shop.process.api_port}"
    file = shop.process.folder / "token"
    environ = {"HOLDFAST_OPERATOR_TOKEN": "wrong", "HOLDFAST_OPERATOR_TOKEN_FILE": str(file)}
    done = await holdfast("sessions", "list", "--api", api, environ=environ)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "environment variable HOLDFAST_OPERATOR_TOKEN_FILE: cannot read the secret file: "
        "No such file or directory\n"
    )
    file.write_text(f"{OPERATOR}\n")
    done = await holdfast("sessions", "list", "--api", api, environ=environ)
    assert (done.code, done.err) == (0, "")

    # Health needs no token, and no proxy of the shell's.
    url, environ = f"{shop.process.admin}/readyz", {"http_proxy": "http://127.0.0.1:1"}
    done = await holdfast("health", "--url", url, environ=environ)
    assert (done.code, done.out, done.err) == (0, "ok\n", "")
    wrong = await holdfast("health", "--url", f"{shop.process.admin}/nothing-here")
    assert (wrong.code, wrong.out) == (1, "")


async def test_an_api_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    """Nothing listens, no address at all, or something else answers: one line, and 1."""
    nowhere = f"http://127.0.0.1:{free_port()}"

    async def told(api: str) -> str:
        done = await holdfast("sessions", "list", "--api", api, folder=tmp_path)
        assert (done.code, done.out) == (1, "")
        assert done.err.count("\n") == 1
        return done.err

    assert await told(nowhere) == (
        f"cannot reach {nowhere}/api/payments/sessions?limit=50: Connection refused\n"
    )
    assert await told("127.0.0.1:8081") == (
        "'127.0.0.1:8081/api/payments/sessions?limit=50' is not an address: write it as "
        "http://127.0.0.1:8081\n"
    )
    assert "cannot reach" in await told("http://127.0.0.1:nine")
    assert "is not an address" in await told("http://")

    health = await holdfast("health", "--url", f"{nowhere}/readyz")
    assert (health.code, health.err) == (1, f"cannot reach {nowhere}/readyz: Connection refused\n")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "does not answer as the session API"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "does not answer as the session API"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "does not answer as the session API"),
        (b"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nno", "answers with status 502"),
        (b"220 mail.example ESMTP\r\n", "cannot reach"),
        (b"", "cannot reach"),
    ],
)
async def test_something_else_at_the_address_is_a_sentence(answer: bytes, told: str) -> None:
    """Whatever answers there, it ends in one line, and 1."""

    async def script(connection: RawConnection) -> None:
        await connection.request()
        if answer:
            await connection.send(answer)

    async with raw_server(script) as server:
        done = await holdfast("sessions", "list", "--api", server.origin)
    assert (done.code, done.out) == (1, "")
    assert told in done.err
    assert done.err.count("\n") == 1


async def test_what_comes_from_outside_cannot_write_to_the_terminal() -> None:
    """An order's name with control characters is shown without them."""
    session = {
        "sessionId": "ps_1",
        "status": "COMPLETED",
        "outcome": "charged",
        "orderId": "\x1b[2Jorder\r\nps_2",
        "attempts": 1,
        "maxAttempts": 3,
        "startedAt": 1706000000000,
    }
    body = json.dumps({"sessions": [session], "total": 1, "next": None}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def script(connection: RawConnection) -> None:
        await connection.request()
        await connection.send(head + body)

    async with raw_server(script) as server:
        done = await holdfast("sessions", "list", "--api", server.origin)
    assert done.code == 0
    assert "?[2Jorder??ps_2" in done.out
    assert "\x1b" not in done.out
    assert len(done.out.splitlines()) == 3
