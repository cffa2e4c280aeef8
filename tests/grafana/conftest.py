"""No event loop but the tests' own."""

from __future__ import annotations

import asyncio

# looptime (0.9) asks for the current event loop before every test, also where there is none. Then
# asyncio makes one that nobody closes, and the warning about it fails some later test.
asyncio.set_event_loop(None)
