"""An event loop on virtual time, with processes in it that can die between any two of their steps.

Nothing here waits: when nobody can go on, the clock moves to the next timer. A handle runs in the
context in which it was made, and the context says whose it is; the handles of a dead process are
skipped, as if the machine under it had been switched off.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

_OWNER: ContextVar[Process | None] = ContextVar("owner", default=None)

# One step of a loop costs microseconds; this many mean that somebody turns in circles.
_MAX_STEPS = 400_000


class Stuck(Exception):  # noqa: N818 -- the condition
    """Nobody can go on, or somebody goes on for ever."""


class Process:
    """What dies together: everything that was started in its context."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._tasks: list[asyncio.Task[Any]] = []
        self.context = copy_context()
        self.context.run(_OWNER.set, self)
        self.alive = True
        self.steps = 0
        self.died_at: float | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start something that belongs to it."""
        return self._loop.create_task(work, context=self.context)

    def owns(self, task: asyncio.Task[Any]) -> None:
        """A task was started in its context."""
        self._tasks.append(task)

    def kill(self) -> None:
        """It never does another step."""
        self.alive = False
        self.died_at = self._loop.time()
        # In its own context: what its last words start belongs to it, and never runs.
        self.context.run(_bury, self._tasks)


class _Task(asyncio.Task[Any]):
    """A task whose place in a set depends on nothing but the run."""

    def __init__(self, serial: int, coro: Any, **options: Any) -> None:
        self._serial = serial
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._serial


class VirtualLoop(asyncio.BaseEventLoop):
    """`run` brings a coroutine to its end; `after_step` is called after every handle."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual = 0.0
        self._serial = 0
        self._everyone: list[asyncio.Task[Any]] = []
        self.after_step: Callable[[], None] = lambda: None
        self.errors: list[BaseException] = []
        self.set_task_factory(self._make_task)
        self.set_exception_handler(self._heard)

    def time(self) -> float:
        return self._virtual

    def _make_task(
        self, _loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:
        self._serial += 1
        task = _Task(self._serial, coro, loop=self, **options)
        context: Context | None = options.get("context")
        owner = _OWNER.get() if context is None else context.get(_OWNER)
        if owner is not None:
            owner.owns(task)
        self._everyone.append(task)
        return task

    def _heard(self, _loop: asyncio.AbstractEventLoop, told: dict[str, Any]) -> None:
        error = told.get("exception")
        # Not the ones nobody asked for: whoever would have is dead.
        if error is not None and "never retrieved" not in told.get("message", ""):
            self.errors.append(error)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Bring `work` to its end. Raises what it raises, or `Stuck`."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(work)
            for _ in range(_MAX_STEPS):
                if task.done():
                    return task.result()
                self._one_step()
        finally:
            asyncio._set_running_loop(None)
        message = f"{_MAX_STEPS} steps and no end"
        raise Stuck(message)

    def _one_step(self) -> None:
        # The two queues of the loop are private names of asyncio, the same since 3.4.
        if not self._ready:  # type: ignore[attr-defined]
            self._move_on()
            return
        handle: asyncio.Handle = self._ready.popleft()  # type: ignore[attr-defined]
        if handle._cancelled:
            return
        owner = handle._context.get(_OWNER)  # type: ignore[attr-defined]
        if owner is None:
            handle._run()
        elif owner.alive:
            owner.steps += 1
            handle._run()
        else:
            return
        self.after_step()

    def _move_on(self) -> None:
        """To the next timer, and everything that is due with it."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not timers:
            message = "nobody can go on"
            raise Stuck(message)
        self._virtual = max(self._virtual, timers[0].when())
        while timers and timers[0].when() <= self._virtual:
            handle = heapq.heappop(timers)
            handle._scheduled = False  # type: ignore[attr-defined]
            self._ready.append(handle)  # type: ignore[attr-defined]

    def end(self) -> None:
        """Let go of everything that still waits."""
        _bury(self._everyone)
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        self.close()


def _bury(tasks: list[asyncio.Task[Any]]) -> None:
    """Close what will never run again, so that nobody complains about it."""
    for task in tasks:
        if not task.done():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            task.get_coro().close()
    tasks.clear()
