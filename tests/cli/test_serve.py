"""`holdfast serve` as a process: it starts, says so, stops when told to, or says why it cannot."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.running import HoldfastProcess, free_port
from tests.support.shell import Finished, finish, holdfast, start


def policy(folder: Path, *, port: int = 0, store: str = "sqlite:///holdfast.db") -> Path:
    """A policy on free ports but for the gateway's; nothing is ever sent."""
    path = folder / "policy.yaml"
    path.write_text(
        'listen: {sessions: "127.0.0.1:0", admin: "127.0.0.1:0"}\n'
        f"store: {store}\n"
        "gateways:\n"
        f'  g: {{profile: stripe, listen: "127.0.0.1:{port}", upstream: "http://127.0.0.1:1"}}\n'
    )
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_and_stops_when_told(
    number: signal.Signals, tmp_path: Path
) -> None:
    """One JSON line once every door is open; SIGTERM or Ctrl-C, a last line, and 0."""
    process = await start("serve", "--config", policy(tmp_path))
    assert process.stdout is not None
    ready: dict[str, Any] = json.loads(await process.stdout.readline())
    process.send_signal(number)
    done = await finish(process)

    assert ready["event"] == "ready"
    for door in ("sessions", "admin", "gateway_g"):
        host, _, port = ready[door].partition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
    assert (done.code, done.err) == (0, "")
    assert [json.loads(line)["event"] for line in done.out.splitlines()] == ["stopping", "stopped"]


@pytest_asyncio.fixture
async def other(tmp_path: Path) -> AsyncIterator[HoldfastProcess]:
    """A Holdfast that is there already."""
    (tmp_path / "other").mkdir()
    process = HoldfastProcess(tmp_path / "other", "http://127.0.0.1:1")
    await process.start()
    yield process
    assert await process.stop() == 0


async def test_it_does_not_share_a_store_or_an_address(
    other: HoldfastProcess, tmp_path: Path
) -> None:
    """A second Holdfast on the same file, or the same port, is told so and changes nothing."""
    store = tmp_path / "other" / "holdfast.db"
    same_store = await holdfast("serve", "--config", policy(tmp_path, store=f"sqlite:///{store}"))
    assert (same_store.code, same_store.out) == (1, "")
    assert same_store.err == (
        f"holdfast cannot start: the store {store} is in use by another Holdfast\n"
    )

    same_port = await holdfast("serve", "--config", policy(tmp_path, port=other.port))
    assert (same_port.code, same_port.out) == (1, "")
    assert same_port.err == (
        f"holdfast cannot start: gateways.g.listen 127.0.0.1:{other.port}: address already in use\n"
    )

    # A name that nobody knows is another reason, told in the same way.
    environ = {
        "HOLDFAST__LISTEN__ADMIN": "nobody.invalid:8082",
        "HOLDFAST_VIEWER_TOKEN": "v" * 16,
    }
    no_name = await holdfast("serve", "--config", policy(tmp_path), environ=environ)
    assert no_name.code == 1
    assert no_name.err.startswith("holdfast cannot start: listen.admin nobody.invalid:8082: ")

    # What was opened on the way was closed again: on a free port it starts.
    process = await start("serve", "--config", policy(tmp_path, port=free_port()))
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["event"] == "ready"
    process.terminate()
    assert (await finish(process)).code == 0


async def refused(
    folder: Path, *, store: str = "sqlite:///holdfast.db", environ: dict[str, str] | None = None
) -> Finished:
    """A start that fails, on standard error only, in one sentence."""
    done = await holdfast("serve", "--config", policy(folder, store=store), environ=environ)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("holdfast cannot start: ")
    assert done.err.count("\n") == 1
    return done


async def test_a_wrong_key_file_stops_the_start(tmp_path: Path) -> None:
    """A key that is none is never replaced: what was sealed with the right one would be lost."""
    key = tmp_path / "holdfast.db.key"
    key.write_text("not a key\n")
    done = await refused(tmp_path)
    assert "the key file holdfast.db.key, line 1: not a key of 64 hexadecimal digits" in done.err
    assert key.read_text() == "not a key\n"
    assert not (tmp_path / "holdfast.db").exists()


async def test_an_unsafe_parser_stops_the_start(tmp_path: Path) -> None:
    """Without aiohttp's C parser requests could be smuggled past it: nothing is opened or made."""
    done = await refused(tmp_path, environ={"AIOHTTP_NO_EXTENSIONS": "1"})
    assert done.err == (
        "holdfast cannot start: aiohttp's C parser is not in use (is AIOHTTP_NO_EXTENSIONS set?)\n"
    )
    assert not (tmp_path / "holdfast.db.key").exists()
    assert not (tmp_path / "holdfast.db").exists()


async def test_a_store_that_is_none_stops_the_start(tmp_path: Path) -> None:
    """A file that is no database, or a folder in its place: told, not overwritten."""
    (tmp_path / "notes.db").write_text("something else entirely, and long enough to be a header")
    done = await refused(tmp_path, store="sqlite:///notes.db")
    assert f"cannot open the store {tmp_path / 'notes.db'}" in done.err
    assert (tmp_path / "notes.db").read_text().startswith("something else")

    (tmp_path / "folder.db").mkdir()
    done = await refused(tmp_path, store="sqlite:///folder.db")
    assert f"cannot open the store {tmp_path / 'folder.db'}: Is a directory" in done.err

    (tmp_path / "file").write_text("")
    done = await refused(tmp_path, store="sqlite:///file/holdfast.db")
    assert "Not a directory" in done.err or "File exists" in done.err


async def test_a_wrong_policy_stops_the_start(tmp_path: Path) -> None:
    """The same mistakes as `holdfast check`, and 1; a missing file likewise."""
    (tmp_path / "bad.yaml").write_text("gatways: {}\n")
    done = await holdfast("serve", "--config", "bad.yaml", folder=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "bad.yaml:1:1: gateways: is missing\n"
        "bad.yaml:1:1: gatways: unknown key; did you mean 'gateways'?\n"
    )
    done = await holdfast("serve", "--config", "missing.yaml", folder=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == "missing.yaml: No such file or directory\n"


async def test_an_override_applies_to_the_running_process(tmp_path: Path) -> None:
    """What the environment says is where it listens."""
    port = free_port()
    environ = {"HOLDFAST__GATEWAYS__G__LISTEN": f"127.0.0.1:{port}"}
    process = await start("serve", "--config", policy(tmp_path), environ=environ)
    assert process.stdout is not None
    ready = json.loads(await process.stdout.readline())
    assert ready["gateway_g"] == f"127.0.0.1:{port}"
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass
    process.terminate()
    assert (await asyncio.wait_for(finish(process), 60)).code == 0
