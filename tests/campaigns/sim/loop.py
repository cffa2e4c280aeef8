"""An event loop on virtual time, with processes in it that can die between any two of their steps,
or stand still there for a while.

Nothing here waits: when nobody can go on, the clock moves to the next timer. A handle runs in the
context in which it was made, and the context says whose it is; the handles of a dead process are
skipped, as if the machine under it had been switched off, and those of one that stands still wait.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVarTuple

_Given = TypeVarTuple("_Given")
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
        self.waiting: list[asyncio.Handle] | None = None  # while it stands still
        self.died_at: float | None = None

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start something that belongs to it."""
        return self._loop.create_task(work, context=self.context)

    def owns(self, task: asyncio.Task[Any]) -> None:
        """A task was started in its context."""
        self._tasks.append(task)

    def hear(self, work: Callable[[], None]) -> None:
        """Something arrives for it; while it stands still that waits in its socket."""
        if self.waiting is None:
            work()
        else:
            _ = self._loop.call_soon(work, context=self.context)

    def pause(self) -> None:
        """SIGSTOP."""
        if self.waiting is None:
            self.waiting = []

    def go_on(self) -> None:
        """SIGCONT: a loop looks at its sockets first, then at the time."""
        waiting, self.waiting = self.waiting or [], None
        self._loop.ready(sorted(waiting, key=lambda one: isinstance(one, asyncio.TimerHandle)))

    def kill(self) -> None:
        """It never does another step."""
        self.alive, self.waiting = False, None
        self.died_at = self._loop.time()
        # In its own context: what its last words start belongs to it, and never runs.
        self.context.run(_bury, self._tasks)


def current() -> Process | None:
    """Whose step this is."""
    return _OWNER.get()


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
        self._queue: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timed = 0
        self._serial = 0
        self._everyone: list[asyncio.Task[Any]] = []
        self.after_step: Callable[[Process | None], None] = lambda _: None
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

    # A run is a hundred thousand handles; these are shorter than asyncio's, and what is due at the
    # same time is due in the order in which it was asked for.

    def call_soon(
        self, callback: Callable[[*_Given], object], *args: *_Given, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._queue.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Given], object],
        *args: *_Given,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._virtual + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Given], object],
        *args: *_Given,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timed += 1
        heapq.heappush(self._timers, (when, self._timed, handle))
        return handle

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Bring `work` to its end. Raises what it raises, or `Stuck`."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(work)
            queue, owner_of = self._queue, _OWNER
            for _ in range(_MAX_STEPS):
                if not queue:
                    if task.done():
                        return task.result()
                    self._move_on()
                handle: Any = queue.popleft()
                if handle._cancelled:
                    continue
                owner = handle._context.get(owner_of)
                if owner is None or (owner.alive and owner.waiting is None):
                    handle._run()
                    self.after_step(owner)
                elif owner.waiting is not None:
                    owner.waiting.append(handle)
        finally:
            asyncio._set_running_loop(None)
        message = f"{_MAX_STEPS} steps and no end"
        raise Stuck(message)

    def ready(self, handles: Iterable[asyncio.Handle]) -> None:
        """What waited may go on."""
        self._queue.extend(handles)

    def _move_on(self) -> None:
        """To the next timer, and everything that is due with it."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            message = "nobody can go on"
            raise Stuck(message)
        now = self._virtual = max(self._virtual, timers[0][0])
        while timers and timers[0][0] <= now:
            self._queue.append(heapq.heappop(timers)[2])

    def end(self) -> None:
        """Let go of everything that still waits."""
        _bury(self._everyone)
        self._queue.clear()
        self._timers.clear()
        self.close()


def _bury(tasks: list[asyncio.Task[Any]]) -> None:
    """Close what will never run again, so that nobody complains about it."""
    for task in tasks:
        if not task.done():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            task.get_coro().close()
    tasks.clear()
