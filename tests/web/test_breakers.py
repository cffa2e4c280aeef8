"""A gateway's circuit breakers, opened and closed by hand, over real sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.stage import Reply, Stage, staged

SWITCH = "/-/gateways/plain/breaker"


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A Holdfast before the puppet gateway."""
    async with staged(tmp_path) as built:
        yield built


async def switched(stage: Stage, state: str, path: str = SWITCH, **more: object) -> Reply:
    """What the switch answers."""
    body = {"state": state, "reason": "their maintenance"}
    return await stage.request("POST", stage.running.admin + path, **{"json": body, **more})


def entries(stage: Stage, tmp_path: Path) -> list[dict[str, object]]:
    """What the audit trail has of breakers."""
    lines = next(tmp_path.rglob("*.audit")).read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["action"] == "breaker"]


async def test_what_is_opened_by_hand_refuses_until_it_is_closed_by_hand(stage: Stage) -> None:
    """At once and without a restart; payments are refused unsent, and then go through again."""
    reply = await switched(stage, "open")
    assert reply.json == {
        "gateway": "plain",
        "breakers": [{"operation": None, "state": "open", "byHand": True}],
    }
    refused = await stage.pay("o-1")
    assert (refused.status, refused.json["anythingSent"]) == (503, False)
    assert int(refused.header("Retry-After")) > 0
    metrics = (await stage.request("GET", f"{stage.running.admin}/metrics")).body.decode()
    assert 'holdfast_breaker_state{gateway="plain"} 2.0' in metrics
    assert stage.gateway.arrivals["o-1"] == 0
    await switched(stage, "closed")
    assert (await stage.pay("o-1")).status == 200


async def test_it_is_a_line_of_the_log(stage: Stage) -> None:
    """Who looks for why payments are refused finds it there."""
    await switched(stage, "open")
    lines = [json.loads(line) for line in stage.running.log.getvalue().splitlines()]
    (told,) = [line for line in lines if line["event"] == "circuit breaker"]
    assert (told["gateway"], told["state"]) == ("plain", "open")
    assert (told["by_hand"], told["why"]) == (True, "their maintenance")


async def test_every_call_is_an_entry_of_the_audit_trail(stage: Stage, tmp_path: Path) -> None:
    """What it changed, what it did not, and what was refused."""
    for path, state in ((SWITCH, "open"), (SWITCH, "open"), ("/-/gateways/none/breaker", "open")):
        await switched(stage, state, path)
    found = entries(stage, tmp_path)
    assert [entry["result"] for entry in found] == ["changed", "unchanged", "refused"]
    assert found[0]["who"] == {"role": "operator", "peer": "127.0.0.1"}
    assert (found[0]["gateway"], found[0]["state"]) == ("plain", "open")
    assert found[0]["reason"] == "their maintenance"
    assert found[2]["why"] == "there is no such gateway"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"state": "ajar", "reason": "x"}, b"state: "),
        ({"state": "open"}, b"reason: "),
        ({"state": "open", "reason": ""}, b"reason: "),
        ({"state": "open", "reason": "x", "for": "1h"}, b"for: "),
        ([], b"body: "),
    ],
)
async def test_a_body_that_is_wrong_is_told(stage: Stage, body: object, told: bytes) -> None:
    """Field by field, and nothing is done."""
    reply = await switched(stage, "", json=body)
    assert reply.status == 422
    assert reply.body.startswith(told)
    assert (await stage.pay("o-1")).status == 200


async def test_only_an_operator_may(tmp_path: Path) -> None:
    """Where there are tokens, no other will do, and who tried is on record."""
    tokens = {"HOLDFAST_VIEWER_TOKEN": "v" * 20, "HOLDFAST_OPERATOR_TOKEN": "o" * 20}
    async with staged(tmp_path, environ=tokens) as stage:
        for token, status in (("v" * 20, 401), ("x" * 20, 401), ("o" * 20, 200)):
            headers = {"Authorization": f"Bearer {token}"}
            assert (await switched(stage, "open", headers=headers)).status == status
        roles = [entry["who"] for entry in entries(stage, tmp_path)]
        assert [who["role"] for who in roles] == ["viewer", "nobody", "operator"]  # type: ignore[index]


async def test_pages_of_other_sites_may_not(stage: Stage) -> None:
    """A form of a web page in someone's browser is not a person's word."""
    reply = await switched(stage, "open", headers={"Origin": "https://evil.example"})
    assert reply.status == 401
