"""The policy is changed while payments go through a real process."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest_asyncio

from tests.support.raw import raw_server
from tests.support.running import HoldfastProcess
from tests.support.stage import SUCCEEDED, PuppetGateway
from tests.support.waiting import until


class Scene(NamedTuple):
    """Two gateways, the Holdfast before the first of them, and who pays and operates."""

    one: PuppetGateway
    other: PuppetGateway
    origins: tuple[str, str]
    holdfast: HoldfastProcess
    http: aiohttp.ClientSession

    async def pay(self, order: str) -> int:
        """An order; the status of the answer."""
        form = {"amount": "1999", "metadata[order_id]": order, "description": "x" * 2000}
        headers = {"Idempotency-Key": order, "Authorization": "Bearer sk_test_reload"}
        url = f"{self.holdfast.url}/v1/payment_intents"
        async with self.http.post(url, data=form, headers=headers) as answer:
            await answer.read()
            return answer.status

    def rewrite(self, old: str, new: str) -> None:
        """Change the policy file."""
        text = self.holdfast.config.read_text()
        assert old in text
        self.holdfast.config.write_text(text.replace(old, new))

    async def reload(self) -> tuple[int, str]:
        """Ask for it; what is answered."""
        async with self.http.post(f"{self.holdfast.admin}/-/reload") as answer:
            return answer.status, await answer.text()

    async def holds(self) -> bool:
        """Whether the metric says that the file holds."""
        async with self.http.get(f"{self.holdfast.admin}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return "holdfast_config_last_reload_successful 1.0" in lines

    def told(self, event: str) -> list[object]:
        """What the log says of it."""
        lines = self.holdfast.log_lines()
        return [line.get("changes", line.get("why")) for line in lines if line["event"] == event]


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """All of it."""
    one, other = PuppetGateway(), PuppetGateway()
    async with (
        raw_server(one.play) as first,
        raw_server(other.play) as second,
        aiohttp.ClientSession() as http,
    ):
        holdfast = HoldfastProcess(tmp_path, first.origin)
        await holdfast.start()
        yield Scene(one, other, (first.origin, second.origin), holdfast, http)
        assert await holdfast.stop() == 0


async def test_what_is_under_way_keeps_what_it_began_with(scene: Scene) -> None:
    """One is with the first gateway while the policy moves to the other; the next goes there."""
    scene.one.hold("o-1")
    paying = asyncio.ensure_future(scene.pay("o-1"))
    await until(lambda: scene.one.arrivals["o-1"] > 0)
    scene.rewrite(*scene.origins)
    told = f"gateways.gateway.upstream: {scene.origins[0]} -> {scene.origins[1]}"
    assert await scene.reload() == (200, f"{told}\n")
    assert await scene.pay("o-2") == 200
    scene.one.release("o-1", SUCCEEDED)
    assert await paying == 200
    assert (dict(scene.one.arrivals), dict(scene.other.arrivals)) == ({"o-1": 1}, {"o-2": 1})
    assert scene.told("policy reloaded") == [[told]]


async def test_a_wrong_file_changes_nothing_and_a_good_one_is_found(scene: Scene) -> None:
    """SIGHUP with a mistake: said, and payments go on. Corrected: taken up without being told."""
    assert scene.holdfast.process is not None
    scene.rewrite("profile: stripe", "profile: strpe")
    scene.holdfast.process.send_signal(signal.SIGHUP)
    await until(lambda: bool(scene.told("policy not reloaded")))
    (why,) = scene.told("policy not reloaded")
    assert "there is no profile 'strpe'; did you mean 'stripe'?" in str(why)
    assert not await scene.holds()
    status, text = await scene.reload()
    assert (status, text) == (422, f"{why}\n")
    assert await scene.pay("o-1") == 200
    scene.rewrite("profile: strpe", "timeouts: {total: 20s}, profile: stripe")
    await until(lambda: bool(scene.told("policy reloaded")))
    assert scene.told("policy reloaded") == [
        ["gateways.gateway.timeouts.total: not written -> 20s"]
    ]
    assert await scene.holds()


async def test_only_a_restart_moves_a_door(scene: Scene) -> None:
    """Refused with the line; nothing else of the file is taken up either."""
    scene.rewrite(str(scene.holdfast.port), "9")
    scene.rewrite("store:", "defaults: {max_body: 1KiB}\nstore:")
    status, text = await scene.reload()
    assert status == 422
    assert text.endswith("gateways.gateway.listen: only a restart changes this\n")
    assert await scene.pay("o-1") == 200
