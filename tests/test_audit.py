"""The audit trail: a chain in a file, on a real disk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import resource
import secrets
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.audit import AuditFile, AuditFileError, BrokenChain, Link, links
from proxy.demo.gateway import SimulatedGateway
from proxy.ports import AuditUnavailable
from tests.support.clocks import EPOCH_MS, LoopClock
from tests.support.running import HoldfastProcess, simulated
from tests.support.stage import eventually


@contextlib.asynccontextmanager
async def trail(path: Path) -> AsyncIterator[AuditFile]:
    """An audit trail, open."""
    audit = AuditFile(path, LoopClock())
    audit.open()
    try:
        yield audit
    finally:
        await audit.close()


async def filled(path: Path, entries: int = 6) -> None:
    """A trail with some entries."""
    async with trail(path) as audit:
        for number in range(entries):
            await audit.write({"action": "cancel", "reason": f"number {number}: ✗\ud800\n"})


def entries(path: Path) -> list[dict[str, Any]]:
    """What its lines say."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def checked(path: Path) -> list[Link]:
    """Its lines, if the chain holds."""
    return list(links(path))


# --- the chain ------------------------------------------------------------------------------------


async def test_a_trail_is_a_chain(tmp_path: Path) -> None:
    """Lines are numbered, timed, and each holds the hash of the one before, from 64 zeros on."""
    path = tmp_path / "folder/trail"
    await filled(path, 3)
    first, second, third = entries(path)
    assert [entry["seq"] for entry in (first, second, third)] == [1, 2, 3]
    assert first["prev"] == "0" * 64
    assert (second["prev"], third["prev"]) == (first["hash"], second["hash"])
    assert first["at"] >= EPOCH_MS
    assert first["reason"] == "number 0: ✗\ud800\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    said = path.read_bytes().splitlines()[2].partition(b',"hash"')[0]
    assert hashlib.sha256(said).hexdigest() == third["hash"]
    assert [link.hash for link in checked(path)] == [e["hash"] for e in (first, second, third)]


async def test_the_next_process_goes_on_from_the_last_line(tmp_path: Path) -> None:
    """One chain, however often Holdfast was started; its head is known at once."""
    path = tmp_path / "trail"
    for runs in range(1, 4):
        await filled(path, 2)
        assert len(checked(path)) == 2 * runs
        async with trail(path) as audit:
            assert audit.head == checked(path)[-1].hash
    (tmp_path / "new").touch()
    async with trail(tmp_path / "new") as audit:
        assert audit.head == "0" * 64


@pytest.fixture(scope="module")
def written() -> bytes:
    """The bytes of a trail."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trail"
        asyncio.run(filled(path))
        return path.read_bytes()


def holds(data: bytes) -> bool:
    """Whether the chain of these bytes holds."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            checked(Path(file.name))
        except BrokenChain:
            return False
    return True


@given(place=st.integers(min_value=0), byte=st.integers(0, 255))
def test_a_changed_byte_is_found(written: bytes, place: int, byte: int) -> None:
    """Any byte of any line, the last one's and the line ends included."""
    place %= len(written)
    changed = bytearray(written)
    changed[place] = byte
    assert holds(bytes(changed)) is (bytes(changed) == written)


@given(st.permutations(range(6)))
def test_moved_lines_are_found(written: bytes, order: list[int]) -> None:
    """Only the order in which they were written holds."""
    lines = written.splitlines(keepends=True)
    moved = b"".join(lines[number] for number in order)
    assert holds(moved) is (moved == written)


@given(st.sets(st.integers(0, 5)))
def test_missing_lines_are_found(written: bytes, gone: set[int]) -> None:
    """But at the end, where the hash that the log told is missed."""
    lines = written.splitlines(keepends=True)
    rest = b"".join(line for number, line in enumerate(lines) if number not in gone)
    at_the_end = gone == set(range(6 - len(gone), 6))
    assert holds(rest) is at_the_end
    head = json.loads(lines[-1])["hash"].encode()
    assert (head in rest) is (5 not in gone)


@given(st.integers(min_value=0))
def test_a_line_cut_off_is_found(written: bytes, length: int) -> None:
    """A file that ends in the middle of a line is told from one that ends with it."""
    part = written[: length % len(written)]
    assert holds(part) is (not part or part.endswith(b"\n"))


def test_a_chain_made_anew_is_found_by_a_hash_kept_elsewhere(written: bytes) -> None:
    """Whoever changes a line and all after it has a chain that holds, with other hashes."""
    before, lines = "0" * 64, []
    head = json.loads(written.splitlines()[-1])["hash"]
    for line in written.splitlines():
        entry = json.loads(line)
        del entry["hash"]
        entry["prev"] = before
        if entry["seq"] == 3:
            entry["action"] = "complete"
        said = json.dumps(entry, separators=(",", ":"))[:-1]
        before = hashlib.sha256(said.encode()).hexdigest()
        lines.append(f'{said},"hash":"{before}"}}\n'.encode())
    assert holds(b"".join(lines))
    assert head.encode() not in b"".join(lines)


# --- many at once ---------------------------------------------------------------------------------


async def test_entries_stand_in_the_order_of_calls(tmp_path: Path) -> None:
    """Whoever writes at the same time shares a sync, and nobody overtakes."""
    path = tmp_path / "trail"
    async with trail(path) as audit:
        await asyncio.gather(*(audit.write({"action": str(number)}) for number in range(200)))
        checked(path)
        assert [entry["action"] for entry in entries(path)] == [str(n) for n in range(200)]


async def test_an_entry_is_synced_before_its_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the loop goes on meanwhile: the sync is another thread's."""
    synced: list[int] = []

    def fsync(_descriptor: int) -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        synced.append(len(path.read_bytes()))

    path = tmp_path / "trail"
    async with trail(path) as audit:
        monkeypatch.setattr(os, "fsync", fsync)
        await audit.write({"action": "cancel"})
        assert synced == [path.stat().st_size]


# --- what a crash or a disk leaves behind ---------------------------------------------------------


@pytest.mark.parametrize("whole", [0, 1, 3], ids=["alone", "after one", "after three"])
async def test_a_torn_line_is_taken_off_and_told(tmp_path: Path, whole: int) -> None:
    """The next start goes on behind the last whole line, and says what it dropped."""
    path = tmp_path / "trail"
    await filled(path, whole)
    torn = b'{"seq":9,"at":17\0\xff'
    with path.open("ab") as file:
        file.write(torn)
    with pytest.raises(BrokenChain, match=f"line {whole + 1}: it is cut off"):
        checked(path)
    await filled(path, 1)
    assert len(checked(path)) == whole + 2
    recovered = entries(path)[whole]
    assert (recovered["action"], recovered["dropped"]) == ("recovered", len(torn))
    assert recovered["torn"] == '{"seq":9,"at":17\0\\xff'


async def test_a_long_tail_is_read_to_its_beginning(tmp_path: Path) -> None:
    """A torn or a whole line may be longer than what is looked at first."""
    path = tmp_path / "trail"
    async with trail(path) as audit:
        await audit.write({"reason": "x" * 200_000})
    with path.open("ab") as file:
        file.write(b"y" * 300_000)
    await filled(path, 1)
    assert len(checked(path)) == 3
    assert entries(path)[1]["dropped"] == 300_000
    assert entries(path)[1]["torn"] == "y" * 4096


async def test_a_wrong_last_line_stops_the_start(tmp_path: Path) -> None:
    """Nothing is put behind a line that was changed, and the file is left as it is."""
    path = tmp_path / "trail"
    await filled(path, 2)
    right = path.read_bytes()
    for wrong, why in [(right.replace(b"number 1", b"number 7"), "changed"), (b"\n", "no entry")]:
        path.write_bytes(wrong)
        with pytest.raises(AuditFileError, match=f"its last line is wrong: it .*{why}"):
            AuditFile(path, LoopClock()).open()
        assert path.read_bytes() == wrong
    path.write_bytes(right)  # and it is not locked
    await filled(path, 1)


async def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    """The second is told that it is in use; after the first has gone it may have it."""
    path = tmp_path / "trail"
    async with trail(path):
        with pytest.raises(AuditFileError, match="trail is in use by another Holdfast"):
            AuditFile(path, LoopClock()).open()
    await filled(path, 1)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (".", "cannot be opened: Is a directory"),
        ("file/trail", "cannot be opened: "),
        ("/dev/null", "is not a file"),
    ],
)
def test_what_is_no_file_is_told(tmp_path: Path, place: str, why: str) -> None:
    """A folder, a place that cannot be, a device."""
    (tmp_path / "file").touch()
    with pytest.raises(AuditFileError, match=why):
        AuditFile(tmp_path / place, LoopClock()).open()


# Longer than all that the test run itself writes to a file meanwhile.
LONG = "x" * 100_000


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond a size: what fits is written, then nothing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_full_disk_is_told_and_no_entry_is_lost(tmp_path: Path) -> None:
    """Half a line is taken back; what could not be written is written first when there is room."""
    path = tmp_path / "trail"
    async with trail(path) as audit:
        await audit.ready()
        await audit.write({"action": "1", "reason": LONG})
        before = path.read_bytes()
        with full_disk(len(before) + 50):
            for action in ("2", "3"):
                with pytest.raises(AuditUnavailable, match="File too large"):
                    await audit.write({"action": action})
            with pytest.raises(AuditUnavailable, match="File too large"):
                await audit.ready()
            assert path.read_bytes() == before
        await audit.ready()
        await audit.write({"action": "4"})
    assert len(checked(path)) == 4
    assert [entry["action"] for entry in entries(path)] == ["1", "2", "3", "4"]


async def test_what_still_waits_is_tried_once_more_at_the_stop(tmp_path: Path) -> None:
    """There may be room by then."""
    path = tmp_path / "trail"
    async with trail(path) as audit:
        await audit.write({"action": "1", "reason": LONG})
        with full_disk(path.stat().st_size), pytest.raises(AuditUnavailable):
            await audit.write({"action": "2"})
    assert [entry["action"] for entry in entries(path)] == ["1", "2"]


async def test_a_failed_sync_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one would report as safe what the system has dropped: only a restart helps."""
    path = tmp_path / "trail"

    def broken(_descriptor: int) -> None:
        raise OSError(5, os.strerror(5))

    async with trail(path) as audit:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            with pytest.raises(AuditUnavailable, match="Input/output error"):
                await audit.write({"action": "1"})
        with pytest.raises(AuditUnavailable, match="Input/output error"):
            await audit.write({"action": "2"})
        with pytest.raises(AuditUnavailable, match="Input/output error"):
            await audit.ready()
    await filled(path, 1)
    checked(path)


# --- a real process -------------------------------------------------------------------------------


async def load(api: str, told: list[str]) -> None:
    """Create sessions until nobody answers; which ones were."""
    async with aiohttp.ClientSession() as http:
        with contextlib.suppress(aiohttp.ClientError):
            while True:
                order = {"orderId": secrets.token_hex(8)}
                async with http.post(f"{api}/session/create", json=order) as answer:
                    assert answer.status == 201
                    told.append((await answer.json())["sessionId"])


async def counted(told: list[str]) -> int:
    """How many there are."""
    return len(told)


async def test_a_killed_process_leaves_a_chain(tmp_path: Path) -> None:
    """Kill -9 under load, three times: the chain holds, and every answered call stands in it."""
    async with simulated(SimulatedGateway()) as origin:
        holdfast = HoldfastProcess(tmp_path, origin)
        told: list[str] = []
        for more in (70, 140, 90):
            wanted = len(told) + more
            await holdfast.start()
            callers = [asyncio.ensure_future(load(holdfast.api, told)) for _ in range(8)]
            await eventually(lambda: counted(told), wanted.__le__)
            await holdfast.kill()
            await asyncio.gather(*callers)
        await holdfast.start()
        ready = [line for line in holdfast.log_lines() if line["event"] == "ready"]
        assert await holdfast.stop() == 0
    path = tmp_path / "holdfast.db.audit"
    chain = checked(path)
    assert set(told) <= {entry.get("session") for entry in entries(path)}
    # What the log told at each start is in the chain.
    assert {line["audit_head"] for line in ready} <= {link.prev for link in chain} | {
        chain[-1].hash
    }
    command = (sys.executable, "-m", "proxy", "audit", "verify", str(path))
    verify = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await verify.communicate()
    assert (verify.returncode, out.splitlines()[0]) == (0, f"entries  {len(chain)}".encode())
