"""Takes up a policy file that was changed, all of it or nothing.

Whatever is under way keeps what it began with; what begins afterwards has the new policy. A file in
which there is a mistake, or that would change what only a restart can, changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from proxy.core import events as ev
from proxy.ports import Clock, Recorder
from proxy.settings.changes import changes, refuse_lasting
from proxy.settings.load import ConfigError, Policy, content_hash, load_policy

_EVERY_SECONDS = 2.0


class Reloader:
    """`use` takes up a policy at once, and cannot fail."""

    def __init__(
        self, policy: Policy, use: Callable[[Policy], None], recorder: Recorder, clock: Clock
    ) -> None:
        self._policy = policy
        self._use = use
        self._recorder = recorder
        self._clock = clock
        self._tried = self._seen = policy.hash
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Look for a changed file for ever. One that is still being written is waited for."""
        while True:
            await self._clock.sleep(_EVERY_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take up a file that has changed, and not since the last look."""
        now = await self._hash()
        rests, self._seen = now == self._seen, now
        if rests and now != self._tried:
            await self.soon()

    async def _hash(self) -> str:
        return await asyncio.to_thread(content_hash, self._policy.file)

    async def soon(self) -> None:
        """As `reload`, for nobody who waits for its verdict."""
        with contextlib.suppress(Exception):  # the log has it
            await self.reload()

    async def reload(self) -> list[str]:
        """Take up the file as it is now; what has changed. Raises `ConfigError`."""
        async with self._one_at_a_time:
            self._tried = await self._hash()
            try:
                policy = await asyncio.to_thread(load_policy, self._policy.file)
                refuse_lasting(self._policy, policy)
            except ConfigError as error:
                self._recorder.note(ev.PolicyRefused(str(error)))
                raise
            except Exception as error:
                self._recorder.note(ev.PolicyRefused(repr(error)))
                raise
            changed = changes(self._policy, policy)
            self._use(policy)
            self._policy = policy
            self._recorder.note(ev.PolicyReloaded(tuple(changed)))
            return changed
