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

from proxy.core.states import Outcome, State
from proxy.ports import COUNTED
from proxy.settings.secret_files import secret_from

_SECONDS = 10.0
# An answer of the API → what a person is shown.
_Lines = Callable[[Any], Iterator[str]]
_DEFAULT_API = "http://127.0.0.1:8081"
_TOKEN = "HOLDFAST_OPERATOR_TOKEN"


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
        more = " or more" if page["total"] == COUNTED and not options.active else ""
        yield f"{len(page['sessions'])} of {page['total']}{more}"

    return _call(options, "GET", f"{path}?{query}", None, table)


def show(options: argparse.Namespace) -> int:
    """One session: what it is about, why it stopped, and its timeline."""

    def both(api: str) -> Mapping[str, Any]:
        session = _fetch("GET", api + _one(options), None)
        return {"session": session, "summary": _fetch("GET", f"{api}{_one(options)}/summary", None)}

    def lines(answer: Mapping[str, Any]) -> Iterator[str]:
        session, summary = answer["session"], answer["summary"]
        yield from (f"{name:<16} {value}" for name, value in _facts(session, summary))
        stops = session["metadata"]["interruptions"]
        yield from [""] * bool(stops)
        for stop in stops:
            sent = "sent" if stop["sent"] else "not sent"
            why = f"{stop['reason']} in {stop['phase']}, attempt {stop['attempt']}, {sent}"
            yield f"{_time(stop['at'])}  {why}" + (f": {stop['detail']}" if stop["detail"] else "")
        yield ""
        for step in summary["timeline"]:
            what = f"{step['event']:<18} {step['status']}, {step['outcome']}"
            yield f"{_time(step['at'])}  {what}" + (f": {step['note']}" if step["note"] else "")

    return _tell(options, both, lines)


def _facts(session: Mapping[str, Any], summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a person needs to find the payment at the gateway, and what may be done with it."""
    for name in ("sessionId", "orderId", "userId", "gateway", "route"):
        yield name, _or_dash(session[name])
    amount = [text for text in (session["amount"], session["currency"]) if text is not None]
    yield "amount", " ".join(amount) or "-"
    for name in ("status", "outcome"):
        yield name, session[name]
    yield "reference", _or_dash(summary["reference"])
    yield "attempts", f"{session['attempts']} of {session['maxAttempts']}"
    yield "canResume", "yes" if session["canResume"] else "no"
    for name in ("cancelRequested", "held"):
        if session[name]:
            yield name, "yes"
    if session["reviewRequired"]:
        yield "review", "a person must settle it"
    if session["waitsFor"] is not None:
        yield "waitsFor", session["waitsFor"]


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)


def resume(options: argparse.Namespace) -> int:
    """Bring an interrupted session forward."""

    def lines(answer: Mapping[str, Any]) -> Iterator[str]:
        done = "nothing was done, it is " if answer["mode"] == "none" else ""
        yield "{status}: {done}{message}".format(**answer, done=done)

    return _post(options, "resume", None, lines)


def cancel(options: argparse.Namespace) -> int:
    """Cancel a session."""

    def lines(answer: Mapping[str, Any]) -> Iterator[str]:
        yield "{status}, {outcome}".format(**answer)
        if answer["outcome"] == Outcome.UNKNOWN:
            yield "cancel requested, on record with the reason {reason!r}".format(**answer)
            yield _CANCEL_FOLLOWS

    return _post(options, "cancel", {"reason": options.reason}, lines)


def interrupt(options: argparse.Namespace) -> int:
    """Hold a session."""

    def lines(answer: Mapping[str, Any]) -> Iterator[str]:
        yield _HELD.format(**answer)

    return _post(options, "interrupt", {"reason": options.reason}, lines)


def settle(options: argparse.Namespace) -> int:
    """Vouch for a charge, or for there being none."""
    return _not_charged(options) if options.not_charged else _charged(options)


def _not_charged(options: argparse.Namespace) -> int:
    def lines(answer: Mapping[str, Any]) -> Iterator[str]:
        yield "{status}, {outcome}".format(**answer)
        if answer["status"] == State.INTERRUPTED:
            yield _NOT_OVER

    return _post(options, "not-charged", {"reference": options.reference}, lines)


def _charged(options: argparse.Namespace) -> int:
    body = {"paymentDetails": {"reference": options.reference}}

    def lines(answer: Mapping[str, Any]) -> Iterator[str]:
        yield "{status}".format(**answer)
        if answer["reference"] != options.reference:
            kept = _or_dash(answer["reference"])
            yield f"It was charged already and stays as it is; the reference on record is {kept}"

    return _post(options, "complete", body, lines)


# An order may be paid anew only once nobody can have paid it.
_CANCEL_FOLLOWS = (
    "It may have been charged, so it is not cancelled yet. Nothing more is sent; proof that it was "
    "not charged cancels it and frees the order, a charge makes it COMPLETED: see `sessions show`."
)
_NOT_OVER = (
    "It may be sent again, as a new attempt: resume it or send its request again; or cancel it, "
    "which frees the order"
)
_HELD = (
    "{status}, held: nothing is sent until `sessions resume`; what is with the gateway is not cut "
    "off, and its answer counts"
)


def _post(options: argparse.Namespace, verb: str, body: object, lines: _Lines) -> int:
    return _call(options, "POST", f"{_one(options)}/{verb}", body, lines)


def _one(options: argparse.Namespace) -> str:
    return f"/api/payments/session/{quote(options.session, safe='')}"


def _call(options: argparse.Namespace, method: str, path: str, body: object, lines: _Lines) -> int:
    return _tell(options, lambda api: _fetch(method, api + path, body), lines)


def _tell(options: argparse.Namespace, ask: Callable[[str], Any], lines: _Lines) -> int:
    """Ask the API, and say what it answered."""
    api = options.api or os.environ.get("HOLDFAST_API", _DEFAULT_API)
    try:
        answer = ask(api.rstrip("/"))
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
    token, why = secret_from(os.environ, _TOKEN)
    if why is not None:
        message = f"environment variable {_TOKEN}_FILE: {why}"
        raise CallFailed(message)
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
            if problem.get(more) and not text.startswith(f"{problem[more]}: "):
                text += f": {problem[more]}"
    except (ValueError, KeyError, TypeError):
        text = f"{url} answers with status {status}"
    if status == HTTPStatus.UNAUTHORIZED:
        text += f" (set {_TOKEN} or {_TOKEN}_FILE)"
    return _plain(text)


def _plain(text: object) -> str:
    """Text that only prints: an order's name comes from outside, and this goes to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
