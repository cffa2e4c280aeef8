"""The real clock and dice: the only file that reads time or randomness."""

from __future__ import annotations

import asyncio
import io
import os
import random
import secrets
import time

_SECRET_BYTES = 20


class SystemClock:
    """Wall clock for what is stored and shown, monotonic clock for durations."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemDice:
    """Jitter, and names nobody can guess."""

    def __init__(self) -> None:
        # From the system's source, for many names at a time: to ask it is a call of the system.
        self._pool = io.BytesIO()

    def jitter(self) -> float:
        return random.random()  # noqa: S311 -- spreads retries; nothing secret

    def session_id(self) -> str:
        """When it began and 160 random bits: ids sort by time, and none can be guessed.

        Sorting by time keeps a store's newest rows together; random ids would touch as many pages
        of its file as there are payments in a batch.
        """
        secret = self._pool.read(_SECRET_BYTES)
        if not secret:
            self._pool = io.BytesIO(os.urandom(_SECRET_BYTES * 256))
            secret = self._pool.read(_SECRET_BYTES)
        return f"ps_{time.time_ns() // 1_000_000:012x}{secret.hex()}"

    def key(self) -> str:
        """A gateway key when nothing names the payment; 32 hex digits fit every known gateway."""
        return secrets.token_hex(16)
