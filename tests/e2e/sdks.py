"""The two official Stripe SDKs, unmodified, behind one face: only where they send is set.

Each calls from outside the event loop (a thread of its own, a process of its own), so a Holdfast or
a relay of the test can run inside it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import stripe

from tests.support.parts import KEY, NODE_FOLDER, node, plain_environment

Params = Mapping[str, Any]
# One payment, in the two forms that the parts understand.
INTENT: Params = {"amount": 1999, "currency": "eur", "payment_method": "pm_card_visa"}
PAID: Params = {**INTENT, "confirm": True}
CHARGE: Params = {"amount": 1999, "currency": "eur", "source": "tok_visa"}


@dataclass(frozen=True, slots=True)
class Heard:
    """What an SDK gave its caller: an object, or an exception of a class."""

    raised: str | None
    status: int | None
    headers: Mapping[str, str]  # names in lower case
    body: Any  # as JSON
    message: str | None = None
    code: str | None = None  # the exception's own attribute
    text: str | None = None  # the body as it came, where the SDK keeps it

    @property
    def error_code(self) -> str | None:
        """The code in the error object: every exception has it, whatever its attribute says."""
        code: str | None = self.body["error"].get("code")
        return code


class Sdk(Protocol):
    """What the tests ask of an SDK."""

    async def call(
        self,
        what: str,
        name: str | None = None,
        params: Params | None = None,
        **options: Any,
    ) -> Heard:
        """One call, like `payment_intents.create`. Options: `idempotency_key`, `headers`,
        `api_key`; `every_page` follows a list to its end.
        """
        ...


Opened = contextlib.AbstractAsyncContextManager[Sdk]
# Opens an SDK for (origin, own retries, a folder for what it may leave behind).
Opener = Callable[[str, int, Path], Opened]


# --- stripe-python --------------------------------------------------------------------------------


class StripePython:
    """stripe-python, in one thread (its HTTP session belongs to the thread)."""

    def __init__(self, url: str, retries: int | None, *, files: str | None = None) -> None:
        self.client = stripe.StripeClient(
            KEY, base_addresses={"api": url, "files": files or url}, max_network_retries=retries
        )
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def call(
        self, what: str, name: str | None = None, params: Params | None = None, **options: Any
    ) -> Heard:
        work = partial(self._call, what, name, dict(params or {}), options)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _call(
        self, what: str, name: str | None, params: dict[str, Any], options: dict[str, Any]
    ) -> Heard:
        resource, method = what.split(".")
        function: Any = getattr(getattr(self.client.v1, resource), method)
        named = [] if name is None else [name]
        every_page = options.pop("every_page", False)
        if "file" in params:
            params["file"] = _named_file(params["file"])
        try:
            found = function(*named, params=params, options=options)
            if every_page:
                items = [json.loads(str(item)) for item in found.auto_paging_iter()]
                return Heard(None, 200, {}, items)
        except stripe.StripeError as error:
            return _raised(error)
        last = found.last_response
        return Heard(
            None, last.code, _lower(last.headers), json.loads(str(found)), text=_text(last.body)
        )

    async def close(self) -> None:
        """Close the session in its own thread."""
        loop = asyncio.get_running_loop()
        http = self.client._requestor._get_http_client()
        await loop.run_in_executor(self._thread, http.close)
        self._thread.shutdown(wait=False)


def _raised(error: stripe.StripeError) -> Heard:
    said = error.json_body if isinstance(error.json_body, dict) else {}  # else it is not JSON
    return Heard(
        raised=type(error).__name__,
        status=error.http_status,
        headers=_lower(error.headers or {}),
        body=said,
        message=error.user_message,
        code=error.code,
        text=error.http_body,
    )


def _named_file(file: Mapping[str, Any]) -> io.BytesIO:
    stream = io.BytesIO(file["data"])
    stream.name = file["name"]
    return stream


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _text(body: str | bytes) -> str:
    return body if isinstance(body, str) else body.decode()


@contextlib.asynccontextmanager
async def stripe_python(url: str, retries: int, _folder: Path) -> AsyncIterator[Sdk]:
    """A client of stripe-python."""
    sdk = StripePython(url, retries)
    try:
        yield sdk
    finally:
        await sdk.close()


# --- stripe-node ----------------------------------------------------------------------------------

_CAMEL = {"idempotency_key": "idempotencyKey", "api_key": "apiKey", "headers": "headers"}


class StripeNode:
    """stripe-node, in a process of its own that takes calls as lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: dict[int, asyncio.Future[Heard]] = {}
        self._calls = 0
        self._ended: AssertionError | None = None

    async def call(
        self, what: str, name: str | None = None, params: Params | None = None, **options: Any
    ) -> Heard:
        if self._ended is not None:
            raise self._ended
        assert self._process.stdin is not None
        resource, method = what.split(".")
        self._calls += 1
        line = {
            "number": self._calls,
            "what": f"{_camel(resource)}.{_camel(method)}",
            "id": name,
            "params": _with_text_files(params or {}),
            "all": options.pop("every_page", False),
            "options": {_CAMEL[option]: value for option, value in options.items()},
        }
        answer: asyncio.Future[Heard] = asyncio.get_running_loop().create_future()
        self._waiting[self._calls] = answer
        self._process.stdin.write(json.dumps(line).encode() + b"\n")
        await self._process.stdin.drain()
        return await answer

    async def listen(self) -> None:
        """Hand out the outcomes; if the process ends, everyone who waits hears why."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            self._waiting.pop(told.pop("number")).set_result(Heard(**told))
        assert self._process.stderr is not None
        self._ended = AssertionError((await self._process.stderr.read()).decode())
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(self._ended)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.title() for other in others)


def _with_text_files(params: Params) -> Params:
    if "file" not in params:
        return params
    file = params["file"]
    return {**params, "file": {**file, "data": base64.b64encode(file["data"]).decode()}}


@contextlib.asynccontextmanager
async def stripe_node(url: str, retries: int, folder: Path) -> AsyncIterator[Sdk]:
    """A client of stripe-node."""
    where = urlsplit(url)
    process = await asyncio.create_subprocess_exec(
        node(),
        str(NODE_FOLDER / "sdk.mjs"),
        str(where.hostname),
        str(where.port),
        KEY,
        str(retries),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=plain_environment(folder),
        limit=16 * 1024 * 1024,
    )
    sdk = StripeNode(process)
    listening = asyncio.ensure_future(sdk.listen())
    try:
        yield sdk
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await listening
        await process.wait()


SDKS: dict[str, Opener] = {"stripe-python": stripe_python, "stripe-node": stripe_node}


def class_name(sdk: Opener, name: str) -> str:
    """An exception's name in this SDK; they agree but for the connection's."""
    if sdk is not stripe_node:
        return name
    return f"Stripe{name.replace('APIConnection', 'Connection')}"
