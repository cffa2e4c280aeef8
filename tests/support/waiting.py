"""Waiting for something that another thread or process brings about. Bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_STEP_SECONDS = 0.02
_STEPS = 1500  # half a minute: far longer than anything waited for takes


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; fail if it never does."""
    for _ in range(_STEPS):
        if condition():
            return
        await asyncio.sleep(_STEP_SECONDS)
    message = f"waited in vain for {condition}"
    raise AssertionError(message)


async def eventually(ask: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    """Ask until the answer is as wanted, and return it; fail with the last answer."""
    answer = await ask()
    for _ in range(_STEPS):
        if wanted(answer):
            return answer
        await asyncio.sleep(_STEP_SECONDS)
        answer = await ask()
    message = f"waited in vain; the last answer was {answer!r}"
    raise AssertionError(message)
