"""What the loader hands on: frozen, complete, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from typing_extensions import override

from proxy.core.policy import (
    BreakerPolicy,
    BudgetPolicy,
    ConcurrencyPolicy,
    Limits,
    SessionPolicy,
    WebhookPolicy,
)
from proxy.core.profile import GatewayProfile
from proxy.core.routing import RouteTable


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @override
    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential for look-ups; never printed."""

    header: str
    value: str = field(repr=False)
    sees_all: bool = False  # every payment of the gateway, so that one it does not see is none


@dataclass(frozen=True, slots=True)
class Gateway:
    """One gateway, resolved."""

    name: str
    listen: Address
    upstream: str
    profile: GatewayProfile
    routes: RouteTable
    of_routes: Mapping[str, GatewayProfile]  # what is known of those that differ, by their names
    budget: BudgetPolicy
    breaker: BreakerPolicy
    concurrency: ConcurrencyPolicy
    operations: Mapping[str, Limits]  # those that have limits of their own
    lookup_credential: Credential | None
    ca_file: Path | None
    webhook: WebhookPolicy = field(default_factory=WebhookPolicy)

    @property
    def limits(self) -> Mapping[str | None, Limits]:
        """By operation; None: of all that have none of their own."""
        limits: dict[str | None, Limits] = {None: Limits(self.concurrency, self.breaker)}
        limits.update(self.operations)
        return limits


@dataclass(frozen=True, slots=True)
class Tokens:
    """Who may call; from the environment or files. None: that role does not exist here."""

    backend: str | None = field(default=None, repr=False)
    viewer: str | None = field(default=None, repr=False)
    operator: str | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return any((self.backend, self.viewer, self.operator))


@dataclass(frozen=True, slots=True)
class Shutdown:
    """How to stop. Seconds."""

    ready_delay: float
    drain: float


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `app.py` needs. `store` is `memory://`, the URL of a server with its password, or
    an absolute path to the SQLite file.
    """

    sessions: Address
    admin: Address
    store: str = field(repr=False)
    keys: tuple[bytes, ...] | None = field(repr=False)
    key_file: Path | None
    audit: Path | None
    spool: Path | None
    gateways: Mapping[str, Gateway]
    session: SessionPolicy
    shutdown: Shutdown
    tokens: Tokens
    held_request_bytes: int
