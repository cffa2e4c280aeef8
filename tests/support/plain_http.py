"""A client for the gateways that have no SDK: JSON there, JSON back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer. No body is None."""

    status: int
    body: Any
    headers: Mapping[str, str]


class Say(Protocol):
    """Asks; call it with method, path, document and headers."""

    async def __call__(
        self,
        method: str,
        path: str,
        document: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Heard: ...


@contextlib.asynccontextmanager
async def plain_http(url: str) -> AsyncIterator[Say]:
    """A client of that origin."""
    async with aiohttp.ClientSession() as http:

        async def say(
            method: str,
            path: str,
            document: object = None,
            headers: Mapping[str, str] | None = None,
        ) -> Heard:
            request = http.request(method, url + path, json=document, headers=headers)
            async with request as answer:
                text = await answer.text()
                return Heard(answer.status, json.loads(text) if text else None, answer.headers)

        yield say
