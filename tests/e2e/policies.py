"""The Holdfasts of the end-to-end tests."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tests.support.running import Running, running

# Added to a gateway's settings: it takes no notice of keys, as localstripe.
NO_IDEMPOTENCY = "idempotency: {class: D_none}"


def holdfast(
    folder: Path, upstream: str, *, gateway: str = "", more: str = ""
) -> AbstractAsyncContextManager[Running]:
    """A Holdfast with the stripe profile and short waits. `gateway` is added to the gateway's own
    settings, `more` to the file.
    """
    return running(folder, policy_text(upstream, gateway=gateway, more=more))


def policy_text(upstream: str, *, gateway: str = "", more: str = "") -> str:
    """The policy of `holdfast`."""
    return f"""
listen: {{sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}}
store: sqlite:///holdfast.db
gateways:
  stripe:
    profile: stripe
    listen: "127.0.0.1:0"
    upstream: "{upstream}"
    timeouts: {{connect: 2s, attempt: 10s, total: 20s}}
    {gateway or "retry: {backoff: {initial: 1ms, max: 5ms}}"}
shutdown: {{drain: 1s}}
{more}
"""
