"""`holdfast keys …` beside a Holdfast that really runs: what was sealed before a rotation is
replayed after it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import apsw
import pytest

from proxy.demo.faults import FaultPlan
from proxy.demo.gateway import SimulatedGateway
from proxy.keyring import key_id, read_keys
from tests.support.running import HoldfastProcess, simulated
from tests.support.shell import Finished, holdfast


@dataclass(slots=True)
class Shop:
    """A Holdfast, its gateway, and a shell beside it."""

    process: HoldfastProcess
    gateway: SimulatedGateway

    @property
    def file(self) -> Path:
        """The key file."""
        return self.process.folder / "holdfast.db.key"

    async def keys(self, *arguments: str) -> Finished:
        """Run `holdfast keys`; it never prints a key."""
        before = read_keys(self.file)
        done = await holdfast("keys", *arguments, "--config", self.process.config)
        for key in {*before, *read_keys(self.file)}:
            assert key.hex() not in (done.out + done.err).lower()
        return done

    async def pay(self, order: str) -> tuple[int, bytes, bool]:
        """Pay an order, always with the same request: status, body, and whether it is a replay."""
        data = {
            "amount": "1999",
            "currency": "eur",
            "confirm": "true",
            "payment_method": "pm_card_visa",
            "metadata[order_id]": order,
        }
        headers = {"Authorization": "Bearer sk_test_shop", "Idempotency-Key": f"key-of-{order}"}
        url = f"{self.process.url}/v1/payment_intents"
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, data=data, headers=headers) as answer,
        ):
            replayed = answer.headers.get("Idempotent-Replayed") == "true"
            return answer.status, await answer.read(), replayed

    async def restart(self) -> None:
        """Stop it as it should be stopped, and start it again."""
        assert await self.process.stop() == 0
        await self.process.start()

    def sealed_with(self) -> list[str]:
        """The ids of the keys of all kept answers, oldest first."""
        store = str(self.process.folder / "holdfast.db")
        connection = apsw.Connection(store, flags=apsw.SQLITE_OPEN_READONLY)
        rows = connection.execute("SELECT substr(sealed, 1, 4) FROM answers ORDER BY session")
        names = [bytes(name).hex() for (name,) in rows]
        connection.close()
        return names

    def ids(self) -> list[str]:
        """Of the keys in the file."""
        return [key_id(key).hex() for key in read_keys(self.file)]


@asynccontextmanager
async def open_shop(folder: Path) -> AsyncIterator[Shop]:
    """A shop whose Holdfast runs."""
    gateway = SimulatedGateway(FaultPlan(interruptions=0, slow=0))
    async with simulated(gateway) as origin:
        process = HoldfastProcess(folder, origin)
        await process.start()
        try:
            yield Shop(process, gateway)
        finally:
            await process.kill()


async def test_what_was_sealed_before_a_rotation_is_replayed_after_it(tmp_path: Path) -> None:
    """Byte for byte, and the order is charged once; what is paid later has the new key's seal."""
    async with open_shop(tmp_path) as shop:
        status, body, _ = await shop.pay("before")
        assert status == 200
        mode = shop.file.stat().st_mode
        done = await shop.keys("rotate")
        first, second = shop.ids()
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith(f"{second} is the new key, in {shop.file}. It seals from the")
        assert shop.file.stat().st_mode == mode

        # Nothing changes before a restart.
        await shop.pay("between")
        await shop.restart()
        assert await shop.pay("before") == (200, body, True)
        await shop.pay("after")
        assert shop.sealed_with() == [first, first, second]
        assert sorted(charge.order for charge in shop.gateway.ledger.charges) == [
            "after",
            "before",
            "between",
        ]


async def test_a_key_is_dropped_when_no_answer_needs_it(tmp_path: Path) -> None:
    """Beside a running store; never the install key, nor the one that seals."""
    async with open_shop(tmp_path) as shop:
        await shop.keys("rotate")
        await shop.restart()
        await shop.pay("with-the-second")
        await shop.keys("rotate")
        await shop.keys("rotate")
        await shop.restart()
        await shop.pay("with-the-fourth")
        first, second, third, fourth = shop.ids()

        listed = await shop.keys("list")
        assert listed.out.splitlines() == [
            "KEY         ANSWERS  USE",
            f"{first}          0  install",
            f"{second}          1  opens",
            f"{third}          0  opens",
            f"{fourth}          1  seals",
            f"4 in {shop.file}",
        ]
        for key, told in (
            (first, f"{first} is the install key: without it every repeat would be a new payment"),
            (second, f"kept answers that need {second}: 1; --force drops it all the same"),
            (fourth, f"{fourth} is the key that seals: rotate first"),
            ("00000000", "there is no key 00000000"),
        ):
            done = await shop.keys("drop", key)
            assert (done.code, done.out) == (1, "")
            assert done.err.startswith(told)
        assert shop.ids() == [first, second, third, fourth]
        assert (await shop.keys("drop", third)).code == 0
        assert shop.ids() == [first, second, fourth]


async def test_an_answer_whose_key_was_dropped_by_force_is_lost_and_no_charge_made(
    tmp_path: Path,
) -> None:
    """The control: without its key it is not replayed. Nor is the order charged again."""
    async with open_shop(tmp_path) as shop:
        await shop.keys("rotate")
        await shop.restart()
        _, body, _ = await shop.pay("order")
        await shop.keys("rotate")
        second = shop.ids()[1]
        done = await shop.keys("drop", second, "--force")
        assert (done.code, done.err) == (0, "")
        assert done.out == (
            f"dropped {second} from {shop.file}. What it sealed cannot be opened any more.\n"
            f"kept answers that need {second}: 1\n"
        )
        await shop.restart()
        again = await shop.pay("order")
        assert again[0] == 409
        assert again[1] != body
        assert len(shop.gateway.ledger.charges) == 1
        assert f"{second}          1  missing\n" in (await shop.keys("list")).out


@pytest.mark.parametrize("store", ["memory://", "sqlite:///notes.db"])
async def test_a_store_that_cannot_be_asked_needs_force(store: str, tmp_path: Path) -> None:
    """How many answers need a key is not known, so the key stays unless one insists."""
    (tmp_path / "notes.db").write_text("something else entirely, and long enough to be a header")
    config, file = tmp_path / "policy.yaml", tmp_path / "key"
    config.write_text(
        f"store: {store}\nkey_file: key\n"
        "gateways:\n  g: {profile: stripe, listen: 127.0.0.1:8080, upstream: 'http://127.0.0.1:1'}\n"
    )
    file.write_text("".join(f"{digit * 64}\n" for digit in "abc"))
    second = key_id(b"\xbb" * 32).hex()
    listed = await holdfast("keys", "list", "--config", config)
    assert listed.code == 0
    assert f"\n{second}          -  opens\n" in listed.out
    assert listed.err.startswith("how many answers need them cannot be told: ")
    refused = await holdfast("keys", "drop", second, "--config", config)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"how many kept answers need {second} cannot be told: ")
    assert len(read_keys(file)) == 3
    forced = await holdfast("keys", "drop", second, "--force", "--config", config)
    assert (forced.code, forced.err) == (0, "")
    assert read_keys(file) == (b"\xaa" * 32, b"\xcc" * 32)


async def test_keys_from_the_environment_are_changed_there(tmp_path: Path) -> None:
    """They are listed; to rotate is to write another one behind them."""
    config = tmp_path / "policy.yaml"
    config.write_text(
        "gateways:\n  g: {profile: stripe, listen: 127.0.0.1:8080, upstream: 'http://127.0.0.1:1'}\n"
    )
    environ = {"HOLDFAST_KEY": f"{'a' * 64},{'b' * 64}"}
    listed = await holdfast("keys", "list", "--config", config, environ=environ)
    assert (listed.code, listed.err) == (0, "")
    assert listed.out.endswith("  seals\n2 in HOLDFAST_KEY\n")
    refused = await holdfast("keys", "rotate", "--config", config, environ=environ)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("the keys come from HOLDFAST_KEY: another one (openssl rand ")
    for said in (listed.out, refused.err):
        assert not re.search("[ab]{64}", said)
    assert not (tmp_path / "holdfast.db.key").exists()


async def test_a_file_that_is_wrong_or_not_there_is_told(tmp_path: Path) -> None:
    """In one sentence, with the line; the policy's own mistakes as `check` tells them."""
    config, file = tmp_path / "policy.yaml", tmp_path / "holdfast.db.key"
    config.write_text("gatways: {}\n")
    done = await holdfast("keys", "list", "--config", config)
    assert (done.code, done.out) == (1, "")
    assert "gatways: unknown key" in done.err
    config.write_text(
        "gateways:\n  g: {profile: stripe, listen: 127.0.0.1:8080, upstream: 'http://127.0.0.1:1'}\n"
    )
    done = await holdfast("keys", "rotate", "--config", config)
    assert (done.code, done.out) == (1, "")
    assert done.err == "cannot change the key file holdfast.db.key: No such file or directory\n"
    file.write_text("ab" * 32 + "\n" + "cd" * 31 + "\n")
    done = await holdfast("keys", "rotate", "--config", config)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "the key file holdfast.db.key, line 2: not a key of 64 hexadecimal digits\n"
    )
