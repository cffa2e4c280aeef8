"""`holdfast check --profile … --against …`: what recorded answers mean to a profile."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support.running import ROOT
from tests.support.shell import Finished, environment, holdfast

RECORDED = ROOT / "tests/recorded"
ACME = """\
title: Acme
idempotency: {class: C_cancel_by_key, window: 24h}
results:
  - {when: {status: [200], json: [{path: state, in: [paid]}]}, result: succeeded}
  - {when: {status: [200], json: [{path: state, in: [refused]}]}, result: declined}
  - {when: {status: [408]}, result: unknown}
retry_hint: {header: Retry, retry: ["yes"], stop: ["no"]}
routes:
  - name: pay
    match: {methods: [POST], path: /pay}
    session: durable
    lookup: by-key
    order: {json: order}
    amount: {json: amount}
  - {name: void, match: {methods: [POST], path: /void}, session: durable}
lookups:
  by-key:
    cancel:
      target: /void
      body: '{"key": "{gateway_key}"}'
      proves: {status: [200]}
links: {origins: [https://api.acme.example]}
"""
PAY = 'POST /pay\nContent-Type: application/json\n\n{"order": "o-1", "amount": 1999}\n###\n'


def rows(done: Finished) -> list[dict[str, str]]:
    """What was printed, by column."""
    names, *lines = (line.split("\t") for line in done.out.splitlines())
    return [dict(zip(names, line, strict=True)) for line in lines]


async def checked(folder: Path, *recorded: str, profile: str = ACME) -> Finished:
    """How these answers are read."""
    (folder / "acme.yaml").write_text(profile)
    for number, text in enumerate(recorded):
        (folder / f"{number}.http").write_text(text)
    files = [f"{number}.http" for number in range(len(recorded))]
    return await holdfast("check", "--profile", "acme.yaml", "--against", *files, folder=folder)


@pytest.mark.parametrize("profile", sorted(path.name for path in RECORDED.iterdir()))
async def test_every_recorded_answer_is_read_as_expected(profile: str) -> None:
    """Each file in tests/recorded/<profile> says what is expected of it, and that is how it is."""
    files = sorted((RECORDED / profile).glob("*.http"))
    assert files == sorted((RECORDED / profile).iterdir())
    assert [path.name for path in files if b"# expect: " not in path.read_bytes()] == []
    done = await holdfast("check", "--profile", profile, "--against", *files)
    assert (done.code, done.err) == (0, "")
    assert len(rows(done)) == len(files)


async def test_the_answers_of_the_profiles_tests_are_such_files_too() -> None:
    """tests/gateways holds answers without requests, as a gateway's documentation shows them."""
    files = sorted((ROOT / "tests/gateways/stripe").glob("*.http"))
    done = await holdfast("check", "--profile", "stripe", "--against", *files)
    assert (done.code, done.err) == (0, "")
    assert {row["ROUTE"] for row in rows(done)} == {"-"}


async def test_everything_that_is_told(tmp_path: Path) -> None:
    """Route, verdict, the deciding rule's line, what was read of the request, and what follows."""
    done = await checked(
        tmp_path,
        PAY + 'HTTP/1.1 200 OK\n\n{"state": "paid"}',
        PAY + 'HTTP/1.1 200 OK\n\n{"state": "refused"}',
        PAY + 'HTTP/1.1 200 OK\nRetry: no\nRetry-After: 7\n\n{"state": "later"}',
        "POST /void\n\n###\nHTTP/1.1 408 Request Timeout\n\n",
        "GET /pay\n\n###\nHTTP/1.1 200 OK\nContent-Type: application/json\n\n"
        '{"state": "paid", "href": "https://api.acme.example/pay/1"}',
        'HTTP/1.1 200 OK\n\n{"state": "later"}',
    )
    assert (done.code, done.err) == (0, "")
    told = [
        [row[name] for name in ("ROUTE", "VERDICT", "RULE", "REPEAT", "NEXT", "REQUEST", "LINKS")]
        for row in rows(done)
    ]
    request = "order=o-1 amount=1999"
    assert told == [
        ["pay", "succeeded", "acme.yaml:4", "-", "settled", request, "none"],
        ["pay", "declined", "acme.yaml:5", "-", "settled", request, "none"],
        ["pay", "unknown", "-", "no, after 7s", "voided by its key", request, "none"],
        ["void", "unknown", "acme.yaml:6", "by class", "a person", "-", "none"],
        ["read", "succeeded", "acme.yaml:4", "-", "passed on", "-", "rewritten"],
        ["-", "unknown", "-", "by class", "voided by its key", "-", "none"],
    ]


BY_ROUTE = """\
title: Acme
idempotency: {class: A_strong, window: 24h}
results:
  - {when: {status: [200]}, result: succeeded}
parameters: [merchant]
routes:
  - name: pay
    match: {methods: [POST], path: /pay}
    session: durable
    lookup: list
    idempotency: {key: {header: X-Key, put_in: false, max_length: 40}}
    results:
      - {when: {status: [200], form: [{path: state, in: [no]}]}, result: declined}
  - name: read-by-post
    match: {methods: [POST], path: /read}
  - {name: move, match: {methods: [POST], path: /move}, session: durable}
lookups:
  list:
    find: /{merchant}/list?since={since}
    items: items[*]
    match: [{path: key, value: "{gateway_key}"}]
    id: id
    read: /payments/{id}
"""


async def test_what_is_known_of_a_route_counts(tmp_path: Path) -> None:
    """Its own rules before those of the gateway, and whether a payment there bears a key."""
    done = await checked(
        tmp_path,
        "POST /pay\nX-Key: k-1\n\n###\nHTTP/1.1 200 OK\n\nstate=no",
        "POST /pay\nX-Key: k-1\n\n###\nHTTP/1.1 200 OK\n\nstate=yes",
        "POST /pay\nX-Key: k-1\n\n###\nHTTP/1.1 500 No\n\n",
        # Without a key, and none may be put in: what is promised for keys does not hold.
        "POST /pay\n\n###\nHTTP/1.1 500 No\n\n",
        f"POST /pay\nX-Key: {'k' * 41}\n\n###\nHTTP/1.1 500 No\n\n",
        "POST /move\n\n###\nHTTP/1.1 500 No\n\n",
        "POST /read\n\n###\nHTTP/1.1 500 No\n\n",
        profile=BY_ROUTE,
    )
    assert (done.code, done.err) == (0, "")
    told = [[row[name] for name in ("ROUTE", "VERDICT", "RULE", "NEXT")] for row in rows(done)]
    assert told == [
        ["pay", "declined", "acme.yaml:13", "settled"],
        ["pay", "succeeded", "acme.yaml:4", "settled"],
        ["pay", "unknown", "-", "sent again"],
        ["pay", "unknown", "-", "looked up"],
        ["pay", "unknown", "-", "refused"],
        ["move", "unknown", "-", "sent again"],
        ["read-by-post", "unknown", "-", "passed on"],
    ]


async def test_what_is_not_as_expected_is_told(tmp_path: Path) -> None:
    """The rest is shown all the same; 1."""
    paid = 'HTTP/1.1 200 OK\n\n{"state": "paid"}'
    done = await checked(
        tmp_path,
        f"# expect: succeeded, settled, pay\n{PAY}{paid}",
        f"# expect: declined\n# expect: pay\n{paid}",
        f"# expect: succeded, replayed\n{PAY}{paid}",
        "nothing of the kind",
    )
    assert done.code == 1
    assert [row["VERDICT"] for row in rows(done)] == ["succeeded"] * 3
    assert done.err.splitlines() == [
        "3.http:1:1: write a request (POST /pay HTTP/1.1) or an answer (HTTP/1.1 200 OK)",
        "1.http: expected 'declined', and it is succeeded, settled",
        "1.http: expected 'pay', and it is succeeded, settled",
        "2.http: expected 'succeded', and it is succeeded, settled, pay",
        "2.http: expected 'replayed', and it is succeeded, settled, pay",
    ]


async def test_a_profile_alone(tmp_path: Path) -> None:
    """A file anywhere, or one that ships: `ok`; its mistakes otherwise, and the files' as well."""
    done = await holdfast("check", "--profile", "stripe")
    assert (done.code, done.out, done.err) == (0, "stripe: ok\n", "")
    (tmp_path / "acme.yaml").write_text(ACME)
    done = await holdfast("check", "--profile", tmp_path / "acme.yaml")
    assert (done.code, done.out) == (0, f"{tmp_path}/acme.yaml: ok\n")
    wrong = ACME.replace("lookup: by-key", "lookup: by-kee").replace("[408]", "[4o8]")
    done = await checked(tmp_path, "{}", profile=wrong)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        "acme.yaml:6:22: results[2].when.status[0]: write a status as 402, 4xx or 500-599",
        "acme.yaml:12:5: routes[0].lookup: there is no look-up 'by-kee'; did you mean 'by-key'?",
        "acme.yaml: 2 mistakes",
        "0.http:1:1: write a request (POST /pay HTTP/1.1) or an answer (HTTP/1.1 200 OK)",
    ]


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ("stirpe", "stirpe: no profile of that name ships; did you mean 'stripe'?\n"),
        # Beside the folder is one that ships, which is not meant.
        ("stripe.yaml", "stripe.yaml: No such file or directory\n"),
        ("folder.yaml", "folder.yaml: Is a directory\n"),
    ],
)
async def test_a_profile_that_is_not_there(tmp_path: Path, profile: str, told: str) -> None:
    """The nearest name, or why the file cannot be read."""
    (tmp_path / "folder.yaml").mkdir()
    done = await holdfast("check", "--profile", profile, folder=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"{told}{profile}: 1 mistake\n"


async def test_a_person_sees_a_table(tmp_path: Path) -> None:
    """On a terminal the columns are aligned."""
    near, far = os.openpty()
    files = [f"tests/recorded/generic/{name}.http" for name in ("paid", "server-error")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "check", "--profile", "generic", "--against", *files,
        stdout=far, cwd=ROOT, env=environment(),
    )  # fmt: skip
    os.close(far)
    assert await process.wait() == 0
    head, paid, error = os.read(near, 65536).decode().splitlines()
    os.close(near)
    for name, cell in (("STATUS", "200"), ("VERDICT", "succeeded"), ("NEXT", "settled")):
        assert head.index(name) == paid.index(cell, head.index(name))
    assert error[head.index("NEXT") :].startswith("a person ")
