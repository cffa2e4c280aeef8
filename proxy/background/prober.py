"""Asks a gateway that is given a rest whether it is back: reads of Holdfast's own, so that no
customer's charge is the one that tries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from proxy.core.breaker import proves_alive
from proxy.flow.admission import Admission
from proxy.flow.walk import Lane
from proxy.ports import Clock, Send

# How often the breakers are looked at: short beside a rest, and beside a shopper's patience.
_EVERY_SECONDS = 0.25
# A read takes well under a second. What hangs is given up soon, for the gateway may be back by
# then, and another rest has to pass before it is asked again.
_PROBE_SECONDS = 2.0
_MAX_ANSWER_BYTES = 1024 * 1024


class Prober:
    """`run` calls `run_once` for ever."""

    def __init__(
        self, lanes: Mapping[str, Lane], clock: Clock, on_bug: Callable[[Exception], None]
    ) -> None:
        self._lanes = lanes
        self._clock = clock
        self._on_bug = on_bug

    async def run_once(self) -> None:
        """One probe for every breaker that wants one."""
        wanted = [
            (lane, admission)
            for lane in self._lanes.values()
            for admission in lane.admissions
            if admission.wants_probe()
        ]
        await asyncio.gather(*(self._probe(lane, admission) for lane, admission in wanted))

    async def _probe(self, lane: Lane, admission: Admission) -> None:
        generation = admission.breaker.generation
        try:
            facts = await lane.upstream.send(_read(lane, admission.breaker.policy.probe))
            admission.probed(generation, alive=proves_alive(facts))
        except Exception as error:  # noqa: BLE001 -- without probes no breaker closes again
            self._on_bug(error)

    async def run(self) -> None:
        """Four times a second, for ever."""
        while True:
            await self._clock.sleep(_EVERY_SECONDS)
            await self.run_once()


def _read(lane: Lane, target: str) -> Send:
    async def nothing_to_record() -> None:
        return

    return Send(
        method="GET",
        target=target,
        headers=(*lane.lookup_credential, ("Accept", "*/*")),
        body=b"",
        stream=None,
        answer_whole=True,
        max_answer_bytes=_MAX_ANSWER_BYTES,
        connect_timeout=_PROBE_SECONDS,
        attempt_timeout=_PROBE_SECONDS,
        fresh_connection=True,  # to connect is a part of what it has to be able to do
        before_bytes=nothing_to_record,
    )
