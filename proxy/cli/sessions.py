"""`holdfast sessions …` and `holdfast health`: the session API from a shell."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

_SECONDS = 10.0
_DEFAULT_API = "http://127.0.0.1:8081"


class CallFailed(Exception):  # noqa: N818 -- told to a person
    """The API said no, or could not be reached."""


def health(options: argparse.Namespace) -> int:
    """0 if the URL answers 200."""
    try:
        with urlopen(options.url, timeout=_SECONDS) as answer:  # noqa: S310 -- the user's own URL
            print(answer.read().decode().strip())
            return 0
    except HTTPError as error:
        print(error.read().decode().strip() or error.reason, file=sys.stderr)
    except OSError as error:
        print(f"{options.url}: {error}", file=sys.stderr)
    return 1


def list_sessions(options: argparse.Namespace) -> int:
    """A table, newest first."""
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

    def show_table(page: Mapping[str, Any]) -> None:
        row = "{:<56} {:<20} {:<12} {:<18} {:>8}  {}"
        print(row.format("SESSION", "STATUS", "OUTCOME", "ORDER", "ATTEMPTS", "STARTED"))
        for s in page["sessions"]:
            attempts = f"{s['attempts']}/{s['maxAttempts']}"
            order, started = s["orderId"] or "-", _time(s["startedAt"])
            print(row.format(s["sessionId"], s["status"], s["outcome"], order, attempts, started))
        print(f"{len(page['sessions'])} of {page['total']}")

    return _call(options, "GET", f"{path}?{query}", None, show_table)


def show(options: argparse.Namespace) -> int:
    """One session, with its timeline."""

    def show_summary(summary: Mapping[str, Any]) -> None:
        for name in ("sessionId", "orderId", "status", "outcome", "reference"):
            print(f"{name:<12} {summary[name] if summary[name] is not None else '-'}")
        print(f"{'attempts':<12} {summary['attempts']} of {summary['maxAttempts']}")
        if summary["reviewRequired"]:
            print("review       a person must settle it")
        print()
        for step in summary["timeline"]:
            print(f"{_time(step['at'])}  {step['event']:<18} {step['status']}, {step['outcome']}")

    return _call(options, "GET", f"{_one(options)}/summary", None, show_summary)


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
    def show_line(answer: Mapping[str, Any]) -> None:
        print(line.format(**answer))

    return _call(options, "POST", f"{_one(options)}/{verb}", body, show_line)


def _one(options: argparse.Namespace) -> str:
    return f"/api/payments/session/{quote(options.session, safe='')}"


def _call(options: argparse.Namespace, method: str, path: str, body: object, show: Any) -> int:
    api = options.api or os.environ.get("HOLDFAST_API", _DEFAULT_API)
    try:
        answer = _fetch(method, api.rstrip("/") + path, body)
    except CallFailed as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        show(answer)
    return 0


def _fetch(method: str, url: str, body: object) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    token = os.environ.get("HOLDFAST_OPERATOR_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = Request(url, data=data, method=method, headers=headers)  # noqa: S310 -- the user's own URL
    try:
        with urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310 -- as above
            return json.loads(answer.read())
    except HTTPError as error:
        raise CallFailed(_told(error)) from None
    except (URLError, OSError, ValueError) as error:
        message = f"cannot reach the session API at {url}: {error}"
        raise CallFailed(message) from None


def _told(error: HTTPError) -> str:
    try:
        problem = json.loads(error.read())
        text = problem["title"]
        for more in ("detail", "field"):
            if problem.get(more):
                text += f": {problem[more]}"
    except (ValueError, KeyError, TypeError):
        text = f"{error.code} {error.reason}"
    return str(text)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
