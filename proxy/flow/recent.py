"""What was asked for lately, under which keys: to notice another key for the very same request.

A backend that makes a new key for every try, or a page that makes one for every click, asks for a
second payment as far as any gateway can tell. Where the order is named its lock stands in the way;
elsewhere this is what notices. It is in memory and of this process: it finds mistakes, and promises
nothing.
"""

from __future__ import annotations

from collections import OrderedDict

from proxy.core.idempotency import Identity
from proxy.ports import Clock

# 10 MB. One more, and what was not asked for the longest is forgotten.
_MOST = 50_000
# Keys remembered for one request; who uses more has been noticed.
_KEYS = 8

_Asked = tuple[str, str]


class Recent:
    """Keys by what was asked for with them, for as long as a payment may last."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._keys: OrderedDict[_Asked, tuple[float, dict[str, str]]] = OrderedDict()

    def others(self, identity: Identity) -> dict[str, str]:
        """Sessions by their keys, other than this one's, which asked for the same; none if this key
        did so, too. The latest first.
        """
        at, keys = self._keys.get(_asked(identity), (0.0, {}))
        if identity.key_hash in keys or self._clock.monotonic() - at > self._seconds:
            return {}
        return dict(reversed(keys.items()))

    def add(self, identity: Identity, session_id: str) -> None:
        """A session is being opened for it, unless its key has one: then that stands."""
        asked, now = _asked(identity), self._clock.monotonic()
        at, keys = self._keys.pop(asked, (now, {}))
        if now - at > self._seconds:
            keys = {}
        keys.setdefault(identity.key_hash, session_id)
        if len(keys) > _KEYS:
            del keys[next(iter(keys))]
        self._keys[asked] = now, keys
        if len(self._keys) > _MOST:
            self._keys.popitem(last=False)

    def drop(self, identity: Identity, session_id: str) -> None:
        """It was not opened. What its key had before stands."""
        _, keys = self._keys.get(_asked(identity), (0.0, {}))
        if keys.get(identity.key_hash) == session_id:
            del keys[identity.key_hash]


def _asked(identity: Identity) -> _Asked:
    return identity.tenant, identity.fingerprint
