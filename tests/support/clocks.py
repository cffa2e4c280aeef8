"""Time and chance that tests control."""

from __future__ import annotations

import asyncio

EPOCH_MS = 1_706_000_000_000


class LoopClock:
    """Follows the event loop's own clock, so that with looptime hours pass in milliseconds."""

    def now_ms(self) -> int:
        """Epoch milliseconds; the loop's time 0 is `EPOCH_MS`."""
        return EPOCH_MS + round(asyncio.get_running_loop().time() * 1000)

    def monotonic(self) -> float:
        """Seconds of the loop."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Virtual where the loop is."""
        await asyncio.sleep(seconds)


class LoadedDice:
    """Jitter is always `value`; names count up."""

    def __init__(self, value: float = 0.5) -> None:
        self.value = value
        self._named = 0

    def jitter(self) -> float:
        """Never a surprise."""
        return self.value

    def session_id(self) -> str:
        """ps_0001, ps_0002, … in the order of time, as the real ones are."""
        self._named += 1
        return f"ps_{self._named:04d}"

    def key(self) -> str:
        """A key that nobody else has."""
        self._named += 1
        return f"generated-{self._named:04d}"
