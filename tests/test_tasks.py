"""Tasks that are held, whose exceptions are heard, and that end when they are told to."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from proxy.tasks import Tasks
from tests.support.wire import soon

pytestmark = pytest.mark.looptime


class Broken(Exception):  # noqa: N818 -- what the tests break with
    """What goes wrong in here."""


@pytest.fixture
def heard() -> list[BaseException]:
    """What reaches `on_error`."""
    return []


@pytest.fixture
def tasks(heard: list[BaseException]) -> Tasks:
    """Tasks that report to `heard`."""
    return Tasks(heard.append)


@pytest.fixture
def own_garbage() -> Iterator[None]:
    """The garbage collector sees only what the test itself makes, not what others left behind."""
    gc.freeze()
    yield
    gc.unfreeze()


async def breaks() -> NoReturn:
    """Work with a bug in it."""
    raise Broken


async def for_ever() -> None:
    """Work that only a cancel ends."""
    await asyncio.Event().wait()


class Waiting:
    """Work that waits for something nobody else holds, so that only its task keeps it alive."""

    def __init__(self) -> None:
        self.awaited: weakref.ref[asyncio.Future[None]]
        self.done = False

    async def work(self) -> None:
        """Wait, and say that it came to its end."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.awaited = weakref.ref(future)
        await future
        self.done = True


async def forgotten(waiting: Waiting, task: asyncio.Task[None]) -> asyncio.Future[None] | None:
    """What the task waits for, if it outlives that the caller lets go of it."""
    await asyncio.sleep(0)
    assert waiting.awaited() is not None
    del task
    gc.collect()
    return waiting.awaited()


async def test_a_task_that_nobody_holds_comes_to_its_end(tasks: Tasks, own_garbage: None) -> None:
    """The caller forgets the task, the garbage collector comes by, and the work is done."""
    waiting = Waiting()
    awaited = await forgotten(waiting, tasks.start(waiting.work(), "forgotten"))
    assert awaited is not None
    awaited.set_result(None)
    await asyncio.sleep(0)
    assert waiting.done


async def test_negative_control_the_loop_alone_loses_it(own_garbage: None) -> None:
    """The same work as a plain task of the loop: collected in the middle, and never done."""
    lost: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: lost.append(context["message"]))
    waiting = Waiting()
    assert await forgotten(waiting, loop.create_task(waiting.work())) is None
    assert lost == ["Task was destroyed but it is pending!"]
    assert not waiting.done


async def test_what_has_ended_is_let_go(tasks: Tasks, own_garbage: None) -> None:
    """Whatever way a task ends, nothing of it is kept: a sidecar runs for months."""

    async def at_once() -> None:
        return

    for work in (at_once(), breaks()):
        ended = weakref.ref(tasks.start(work, "short"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
        assert ended() is None


async def test_a_task_has_its_name(tasks: Tasks) -> None:
    """A debugger shows what a task is for."""
    assert tasks.start(for_ever(), "janitor").get_name() == "janitor"
    await soon(tasks.stop())


# --- exceptions ---------------------------------------------------------------------------------


async def test_an_exception_is_heard_once(tasks: Tasks, heard: list[BaseException]) -> None:
    """Nobody awaits the task, and its exception is heard; stopping does not bring it up again."""
    _ = tasks.start(breaks(), "broken")
    await asyncio.sleep(1)
    assert [type(error) for error in heard] == [Broken]
    await soon(tasks.stop())
    assert len(heard) == 1


async def test_an_exception_ends_nobody_else(tasks: Tasks, heard: list[BaseException]) -> None:
    """Two break and one runs on: each exception is heard, and the third does its work."""
    results: list[str] = []

    async def works() -> None:
        await asyncio.sleep(1)
        results.append("done")

    for work in (breaks(), works(), breaks()):
        _ = tasks.start(work, "one of three")
    await asyncio.sleep(2)
    assert [type(error) for error in heard] == [Broken, Broken]
    assert results == ["done"]


async def test_who_awaits_a_task_gets_its_exception_too(
    tasks: Tasks, heard: list[BaseException]
) -> None:
    """The exception is the caller's as well, who may know what to do; it is one and the same."""
    with pytest.raises(Broken) as caught:
        await tasks.start(breaks(), "broken")
    assert heard == [caught.value]


async def test_a_cancel_is_no_error(tasks: Tasks, heard: list[BaseException]) -> None:
    """One task is cancelled by its caller, one by the stop: neither is news, nor to the loop."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    cancelled = tasks.start(for_ever(), "cancelled")
    stopped = tasks.start(for_ever(), "stopped")
    await asyncio.sleep(0)
    cancelled.cancel()
    await soon(tasks.stop())
    assert cancelled.cancelled()
    assert stopped.cancelled()
    assert heard == []
    assert complaints == []


# --- stopping -----------------------------------------------------------------------------------


async def test_stop_waits_until_everyone_has_ended(tasks: Tasks) -> None:
    """Last words are spoken before `stop` returns, also when they take a while."""
    spoken: list[str] = []

    async def with_last_words(words: str, seconds: float) -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(seconds)
            spoken.append(words)

    _ = tasks.start(with_last_words("slow", 3), "slow")
    _ = tasks.start(with_last_words("quick", 1), "quick")
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await soon(tasks.stop())
    assert spoken == ["quick", "slow"]
    assert loop.time() == begun + 3


async def test_who_does_not_give_in_at_once_is_waited_for(
    tasks: Tasks, heard: list[BaseException]
) -> None:
    """A task may finish what it is at (a payment whose outcome must be written down)."""
    written: list[str] = []

    async def writes_first() -> None:
        try:
            await for_ever()
        except asyncio.CancelledError:
            await asyncio.sleep(2)
            written.append("the outcome")

    _ = tasks.start(writes_first(), "walk")
    await asyncio.sleep(0)
    await soon(tasks.stop())
    assert written == ["the outcome"]
    assert heard == []


async def test_a_bug_in_last_words_is_heard_and_stops_nobody(
    tasks: Tasks, heard: list[BaseException]
) -> None:
    """`stop` ends everything whatever breaks on the way, and what broke is heard once."""

    async def breaks_at_the_end() -> None:
        try:
            await for_ever()
        finally:
            await breaks()

    broken = tasks.start(breaks_at_the_end(), "broken")
    other = tasks.start(for_ever(), "other")
    await asyncio.sleep(0)
    await soon(tasks.stop())
    assert broken.done()
    assert other.cancelled()
    assert [type(error) for error in heard] == [Broken]


async def test_work_that_had_not_begun_never_does(tasks: Tasks) -> None:
    """What is stopped in the turn it was started in runs not even its first line."""
    begun: list[str] = []

    async def work() -> None:
        begun.append("begun")

    task = tasks.start(work(), "too late")
    await soon(tasks.stop())
    assert task.cancelled()
    assert begun == []


async def test_stopping_nothing(tasks: Tasks) -> None:
    """Without a task there is nothing to do, before the first and after the last."""
    await soon(tasks.stop())
    _ = tasks.start(for_ever(), "only")
    await soon(tasks.stop())
    await soon(tasks.stop())


async def test_it_goes_on_after_a_stop(tasks: Tasks, heard: list[BaseException]) -> None:
    """What is started later is held and heard like everything else."""
    await soon(tasks.stop())
    _ = tasks.start(breaks(), "later")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [type(error) for error in heard] == [Broken]
