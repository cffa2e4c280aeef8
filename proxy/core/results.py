"""What one attempt came to, once classified: the only thing retry, breaker, session and metrics
read.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from proxy.core.reasons import Reason
from proxy.core.states import AttemptStatus


class Repeat(StrEnum):
    """What the attempt's own evidence says about sending the same bytes again."""

    NO = "no"  # settled, or the gateway says never, or it would only replay the same error
    BY_CLASS = "by_class"  # allowed if the gateway's class makes it safe
    YES = "yes"  # nothing was executed (or the gateway asks for the repeat)


class AttemptResult(Struct, frozen=True, gc=False):
    """The classified outcome of a send.

    `reason` is None when the attempt settled the payment. `retry_after_seconds` is what the gateway
    asked for, already parsed and not yet capped. `asked_for`: its retry hint says to repeat.
    """

    status: AttemptStatus
    reason: Reason | None = None
    repeat: Repeat = Repeat.NO
    retry_after_seconds: float | None = None
    replayed: bool = False
    asked_for: bool = False
