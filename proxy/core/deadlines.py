"""How long a caller waits for its answer, where its request says so: by Envoy's header, by gRPC's
`grpc-timeout`, or by `Prefer: wait` (RFC 7240 section 4.3).

It bounds the caller's wait and nothing else: what is under way goes on without it. These are hints,
so what cannot be read is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf

_ENVOY, _GRPC, _PREFER = "x-envoy-expected-rq-timeout-ms", "grpc-timeout", "prefer"
_NAMES = frozenset({_ENVOY, _GRPC, _PREFER})
# For Holdfast, not for who comes behind it: a hop that heeded them would cut off a send whose
# answer Holdfast still listens for. `Prefer` says more than this and goes on as it came.
FOR_THIS_HOP = frozenset({_ENVOY, _GRPC})

# For the answer's way back. In one data centre that takes a millisecond; a busy event loop or a
# packet sent twice takes tens. No gateway charges a card within it.
_WAY_BACK_SECONDS = 0.05

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MILLISECONDS = re.compile(r"[0-9]{1,15}")
_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
# One without an end goes up to that of the header: else each quote in it would be tried in turn.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|\Z)')
_SECONDS = re.compile(r"[0-9]{1,10}")


def caller_wait(values: Mapping[str, str]) -> float:
    """In how many seconds the answer has to be on its way; infinite if the caller does not say.

    Not above zero: there is no time for an answer. The shortest counts where several are named.
    `values` are a request's headers by their names in lower case.
    """
    if values.keys().isdisjoint(_NAMES):
        return inf
    shortest = min(
        _envoy(values.get(_ENVOY, "")),
        _grpc(values.get(_GRPC, "")),
        _prefer(values.get(_PREFER, "")),
    )
    return shortest - _WAY_BACK_SECONDS


def _envoy(value: str) -> float:
    return int(value) / 1000 if _MILLISECONDS.fullmatch(value) else inf


def _grpc(value: str) -> float:
    found = _GRPC_TIMEOUT.fullmatch(value)
    return int(found[1]) * _UNITS[found[2]] if found else inf


def _prefer(value: str) -> float:
    """Of a preference that is named twice, the first counts (RFC 7240 section 2)."""
    for preference in _QUOTED.sub('""', value).split(","):
        name, _, seconds = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            return float(seconds) if _SECONDS.fullmatch(seconds.strip()) else inf
    return inf
