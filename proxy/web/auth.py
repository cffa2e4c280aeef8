"""Who may call what on Holdfast's own listeners.

Without tokens (loopback only, the settings see to that) everyone on the machine is an operator, but
not the web pages that someone there is looking at.
With tokens, a bearer token names a role; a browser's client token names one session.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from enum import IntEnum

from aiohttp import web

from proxy.ports import Secrets
from proxy.settings.values import Address, Tokens

# Goes with every 401 (RFC 9110 section 11.6.1).
CHALLENGE: Mapping[str, str] = {"WWW-Authenticate": "Bearer"}


_PORT = re.compile(r":[0-9]+$")


class Role(IntEnum):
    """Each role may do what the ones before it may."""

    NOBODY = 0
    CLIENT = 1  # one session, named by its client token
    VIEWER = 2
    BACKEND = 3
    OPERATOR = 4


class Gatekeeper:
    """Tells the role of a request."""

    def __init__(self, tokens: Tokens, secrets: Secrets) -> None:
        self._tokens = tokens
        self._secrets = secrets

    @property
    def nobody(self) -> str:
        """Why a caller is nobody, for the caller."""
        if self._tokens:
            return "A token is required"
        return "Calls without a token must go to 127.0.0.1, and not come from another site's page"

    def role(self, request: web.BaseRequest, session_id: str | None = None) -> Role:
        """The caller's role, for a call about `session_id` if it is about one."""
        if not self._tokens:
            return Role.OPERATOR if _from_this_machine(request) else Role.NOBODY
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            return Role.NOBODY
        known = (
            (self._tokens.operator, Role.OPERATOR),
            (self._tokens.backend, Role.BACKEND),
            (self._tokens.viewer, Role.VIEWER),
        )
        for token, role in known:
            if token is not None and _same(given, token):
                return role
        if session_id is not None and _same(given, self._secrets.client_token(session_id)):
            return Role.CLIENT
        return Role.NOBODY


def _from_this_machine(request: web.BaseRequest) -> bool:
    """Whether a call on loopback was meant for it, and not made by a web page in someone's browser.

    A page of another site sends its `Origin`; one that points its own name at 127.0.0.1 (DNS
    rebinding) sends that name as `Host`.
    """
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("//")[2] != request.host:
        return False
    host = request.host.rpartition(":")[0] if _PORT.search(request.host) else request.host
    return Address(host.strip("[]"), 0).loopback


def _same(given: str, wanted: str) -> bool:
    # The header's own bytes: what is not UTF-8 in it came as lone surrogates.
    return hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode())
