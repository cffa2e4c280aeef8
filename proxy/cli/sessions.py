"""`holdfast sessions …` and `holdfast health`: the session API from a shell."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

_SECONDS = 10.0
# An answer of the API → what a person is shown.
_Lines = Callable[[Any], Iterator[str]]
_DEFAULT_API = "http://127.0.0.1:8081"


class CallFailed(Exception):  # noqa: N818 -- told to a person
    """The API said no, or could not be reached."""


def health(options: argparse.Namespace) -> int:
    """0 if the URL answers 200."""
    try:
        status, body = _exchange(options.url)
    except CallFailed as error:
        print(error, file=sys.stderr)
        return 1
    ready = status == HTTPStatus.OK
    text = _plain(body.decode(errors="replace").strip()) or f"status {status}"
    print(text, file=sys.stdout if ready else sys.stderr)
    return 0 if ready else 1


def list_sessions(options: argparse.Namespace) -> int:
    """A table, newest first."""
    if options.active and (options.order or options.user):
        print("--active goes with --status, --outcome and --gateway only", file=sys.stderr)
        return 2
    path = "/api/payments/sessions" + ("/active" if options.active else "")
    wanted = {
        "orderId": options.order,
        "userId": options.user,
        "status": options.status,
        "outcome": options.outcome,
        "gateway": options.gateway,
        "limit": options.limit,
    }
    query = urlencode({name: value for name, value in wanted.items() if value is not None})

    def table(page: Mapping[str, Any]) -> Iterator[str]:
        row = "{:<56} {:<20} {:<12} {:<18} {:>8}  {}"
        yield row.format("SESSION", "STATUS", "OUTCOME", "ORDER", "ATTEMPTS", "STARTED")
        for s in page["sessions"]:
            attempts = f"{s['attempts']}/{s['maxAttempts']}"
            order, started = s["orderId"] or "-", _time(s["startedAt"])
            yield row.format(s["sessionId"], s["status"], s["outcome"], order, attempts, started)
        yield f"{len(page['sessions'])} of {page['total']}"

    return _call(options, "GET", f"{path}?{query}", None, table)


def show(options: argparse.Namespace) -> int:
    """One session, with its timeline."""

    def lines(summary: Mapping[str, Any]) -> Iterator[str]:
        for name in ("sessionId", "orderId", "status", "outcome", "reference"):
            yield f"{name:<12} {summary[name] if summary[name] is not None else '-'}"
        yield f"{'attempts':<12} {summary['attempts']} of {summary['maxAttempts']}"
        if summary["reviewRequired"]:
            yield "review       a person must settle it"
        yield ""
        for step in summary["timeline"]:
            yield f"{_time(step['at'])}  {step['event']:<18} {step['status']}, {step['outcome']}"

    return _call(options, "GET", f"{_one(options)}/summary", None, lines)


def resume(options: argparse.Namespace) -> int:
    """Bring an interrupted session forward."""
    return _act(options, "resume", None, "{status} ({mode}): {message}")


def cancel(options: argparse.Namespace) -> int:
    """Cancel a session."""
    return _act(options, "cancel", {"reason": options.reason}, "{status}, {outcome}")


def settle(options: argparse.Namespace) -> int:
    """Vouch for a charge."""
    body = {"paymentDetails": {"reference": options.reference}}
    return _act(options, "complete", body, "{status}")


def _act(options: argparse.Namespace, verb: str, body: object, line: str) -> int:
    def lines(answer: Mapping[str, Any]) -> Iterator[str]:
        yield line.format(**answer)

    return _call(options, "POST", f"{_one(options)}/{verb}", body, lines)


def _one(options: argparse.Namespace) -> str:
    return f"/api/payments/session/{quote(options.session, safe='')}"


def _call(options: argparse.Namespace, method: str, path: str, body: object, lines: _Lines) -> int:
    api = options.api or os.environ.get("HOLDFAST_API", _DEFAULT_API)
    try:
        answer = _fetch(method, api.rstrip("/") + path, body)
    except CallFailed as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(answer, indent=2))
        return 0
    try:
        told = [_plain(line) for line in lines(answer)]
    except (KeyError, TypeError, AttributeError):
        print(_not_the_api(api), file=sys.stderr)
        return 1
    print("\n".join(told))
    return 0


def _not_the_api(url: str) -> str:
    return f"{url} does not answer as the session API does; is the address right?"


def _fetch(method: str, url: str, body: object) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    token = os.environ.get("HOLDFAST_OPERATOR_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    status, answer = _exchange(url, method, data, headers)
    if status >= HTTPStatus.BAD_REQUEST:
        raise CallFailed(_told(url, status, answer))
    try:
        return json.loads(answer)
    except ValueError:
        raise CallFailed(_not_the_api(url)) from None


def _exchange(
    url: str,
    method: str = "GET",
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Status and body of an answer. Raises `CallFailed` where there is none."""
    if not url.startswith(("http://", "https://")):
        message = f"{url!r} is not an address: write it as http://127.0.0.1:8081"
        raise CallFailed(message)
    # Holdfast is on this machine or next to it: the environment's proxy is for other things.
    opener = build_opener(ProxyHandler({}))
    try:
        request = Request(url, data=data, method=method, headers=dict(headers or {}))  # noqa: S310 -- checked above
        with opener.open(request, timeout=_SECONDS) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()
    except (OSError, HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)
        why = getattr(why, "strerror", None) or str(why) or type(error).__name__
        message = f"cannot reach {_plain(url)}: {_plain(why.strip())}"
        raise CallFailed(message) from None


def _told(url: str, status: int, body: bytes) -> str:
    try:
        problem = json.loads(body)
        text = problem["title"]
        for more in ("detail", "field"):
            if problem.get(more):
                text += f": {problem[more]}"
    except (ValueError, KeyError, TypeError):
        text = f"{url} answers with status {status}"
    if status == HTTPStatus.UNAUTHORIZED:
        text += " (set HOLDFAST_OPERATOR_TOKEN)"
    return _plain(text)


def _plain(text: object) -> str:
    """Text that only prints: an order's name comes from outside, and this goes to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
