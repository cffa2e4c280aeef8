"""`holdfast demo` and `holdfast gateway`."""

from __future__ import annotations

import signal
import socket

import aiohttp

from tests.support.shell import finish, holdfast, start

# A shell in which a real Holdfast is administered; none of it is meant for the demonstration.
BUSY_SHELL = {
    "HOLDFAST_OPERATOR_TOKEN": "op",
    "HOLDFAST_KEY": "not a key",
    "HOLDFAST__GATEWAYS__ACME__UPSTREAM": "https://gw.example",
    "http_proxy": "http://127.0.0.1:1",
}


async def test_the_demonstration_shows_nothing_charged_twice() -> None:
    """Thirty orders three ways: a plain table when piped, 0 twice and 0 lost through Holdfast."""
    done = await holdfast("demo", "--orders", "30", "--seed", "1", environ=BUSY_SHELL)
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    rows = {
        line[:21].strip(): line[21:].replace(",", "").split()
        for line in done.out.splitlines()
        if line.startswith(("directly", "through"))
    }
    assert list(rows) == [
        "directly, one try",
        "directly, retrying 3x",
        "through Holdfast",
    ]
    for orders, *_ in rows.values():
        assert orders == "30"
    # orders, paid, told failed but charged, charged twice, unknown, settled, p50, p99
    lost, twice = rows["through Holdfast"][2:4]
    assert (lost, twice) == ("0", "0")
    # The same orders and faults without it: the negative control.
    assert int(rows["directly, one try"][2]) > 0
    assert int(rows["directly, retrying 3x"][3]) > 0


async def test_with_stay_it_can_be_paid_and_looked_at() -> None:
    """It prints where to pay and where the ledger is; both answer until Ctrl-C, which is 130."""
    process = await start("demo", "--stay", "--orders", "2", "--interruptions", "0")
    assert process.stdout is not None
    links: dict[str, str] = {}
    async for line in process.stdout:
        name, _, url = line.decode().strip().rpartition(" ")
        if url.startswith("http://"):
            links[name.strip()] = url
        if b"until Ctrl-C" in line:
            break
    assert list(links) == ["sessions", "still open", "metrics", "pay at", "ledger"]
    async with aiohttp.ClientSession() as http:
        data = {"amount": "1", "confirm": "true", "payment_method": "pm_card_visa", "order": "o"}
        async with http.post(f"{links['pay at']}/v1/payment_intents", data=data) as answer:
            assert answer.status == 200
        async with http.get(links["ledger"]) as answer:
            assert len((await answer.json())["charges"]) == 3
    process.send_signal(signal.SIGINT)
    assert (await finish(process)).code == 130


async def test_the_gateway_says_where_it_is_and_stops_when_told() -> None:
    """It prints its address once it answers, charges a card, and ends with 0 on SIGTERM."""
    process = await start("gateway", "--listen", "127.0.0.1:0", "--interruptions", "0")
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("simulated gateway on 127.0.0.1:")
    assert line.endswith(f"(pid {process.pid})\n")
    origin = f"http://{line.split()[3]}"
    async with aiohttp.ClientSession() as http:
        data = {"amount": "1999", "confirm": "true", "payment_method": "pm_card_visa"}
        async with http.post(f"{origin}/v1/payment_intents", data=data) as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "succeeded")
        async with http.get(f"{origin}/_ledger") as answer:
            assert len((await answer.json())["charges"]) == 1
    process.terminate()
    done = await finish(process)
    assert (done.code, done.out, done.err) == (0, "", "")


async def test_the_gateway_speaks_another_dialect() -> None:
    """Square's; one that it does not speak is wrong usage, and all of them are named."""
    process = await start(
        "gateway", "--listen", "127.0.0.1:0", "--interruptions", "0", "--dialect", "square"
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{line.split()[3]}/v2/payments/nothing") as answer,
    ):
        assert (await answer.json())["errors"][0]["code"] == "NOT_FOUND"
    process.terminate()
    await finish(process)
    done = await holdfast("gateway", "--dialect", "latin")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("--dialect latin: it speaks adyen, amazon-pay, braintree, ")


async def test_a_gateway_that_cannot_listen_says_so() -> None:
    """An address that is in use: a sentence, and 1."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        done = await holdfast("gateway", "--listen", f"127.0.0.1:{holder.getsockname()[1]}")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("the simulated gateway cannot start: ")
    assert "address already in use" in done.err
