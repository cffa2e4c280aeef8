"""What the backend hears: unchanged from the gateway, honest from us, the same when replayed."""

from __future__ import annotations

import pytest

from proxy.core.wire import Answer, AnswerSource
from proxy.flow.answer import pack, replayed, unpack


def answer(source: AnswerSource = AnswerSource.GATEWAY) -> Answer:
    """An answer with headers of every kind."""
    headers = (
        ("Content-Type", "application/json"),
        ("Set-Cookie", "a=b"),
        ("X-Odd", "caf\xe9"),
        ("X-Payment-Session-Id", "ps_1"),
        ("Proxy-Status", "holdfast; received-status=200"),
    )
    return Answer(200, "All Good", headers, b"\x00\n\nbody\xff", source)


def test_a_kept_answer_is_the_same_bytes() -> None:
    """Status, reason, body and the headers that still mean something come back exactly."""
    back = unpack(pack(answer(), frozenset({"content-type", "x-odd"})))
    assert (back.status, back.status_text, back.body) == (200, "All Good", b"\x00\n\nbody\xff")
    assert [name for name, _ in back.headers] == [
        "Content-Type",
        "X-Odd",
        "X-Payment-Session-Id",
        "Proxy-Status",
    ]
    assert dict(back.headers)["X-Odd"] == "caf\xe9"


def test_an_answer_of_our_own_is_kept_whole() -> None:
    """Our refusals have only headers that we put there."""
    ours = answer(AnswerSource.HOLDFAST)
    assert unpack(pack(ours, frozenset())) == ours


@pytest.mark.parametrize("headers", [(), (("idempotent-replayed", "true"),)])
def test_a_replay_is_marked_once(headers: tuple[tuple[str, str], ...]) -> None:
    """Whether the gateway had marked it or not, the marker stands once."""
    marked = replayed(Answer(200, "OK", headers, b""))
    assert [name.lower() for name, _ in marked.headers] == ["idempotent-replayed"]
