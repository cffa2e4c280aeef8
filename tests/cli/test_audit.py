"""`holdfast audit verify`: a chain that holds, or where it does not."""

from __future__ import annotations

from pathlib import Path

from proxy.audit import AuditFile
from tests.support.shell import holdfast


class _Hours:
    """A clock that goes on an hour whenever it is read."""

    def __init__(self) -> None:
        self._now = 1_706_000_000_000

    def now_ms(self) -> int:
        self._now += 3_600_000
        return self._now

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        pass


async def made(path: Path) -> str:
    """A trail of three entries; its head."""
    audit = AuditFile(path, _Hours())
    audit.open()
    for reason in ("one", "two", "three"):
        await audit.write({"action": "cancel", "reason": reason})
    await audit.close()
    return audit.head


async def test_a_chain_that_holds(tmp_path: Path) -> None:
    """How many entries, from when to when, the last one's hash, and 0."""
    head = await made(tmp_path / "trail")
    done = await holdfast("audit", "verify", "trail", folder=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "entries  3",
        "first    2024-01-23 09:53:20.000Z",
        "last     2024-01-23 11:53:20.000Z",
        f"head     {head}",
    ]


async def test_a_chain_that_does_not(tmp_path: Path) -> None:
    """Which line, what is wrong with it, and 1."""
    path = tmp_path / "trail"
    await made(path)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    for wrong, why in [
        ([first, second.replace(b"two", b"ten"), third], "line 2: it was changed"),
        ([first, third], "line 2: the line before it is another than when it was written"),
        ([first, second, third[:-1]], "line 3: it is cut off"),
        ([first, b"{}\n"], "line 2: it is no entry"),
    ]:
        path.write_bytes(b"".join(wrong))
        done = await holdfast("audit", "verify", "trail", folder=tmp_path)
        assert (done.code, done.out, done.err) == (1, "", f"trail: {why}\n")


async def test_a_trail_without_entries(tmp_path: Path) -> None:
    """A new one holds."""
    (tmp_path / "trail").touch()
    done = await holdfast("audit", "verify", "trail", folder=tmp_path)
    assert (done.code, done.out, done.err) == (0, "entries  0\n", "")


async def test_a_trail_that_is_not_there(tmp_path: Path) -> None:
    """Told, and 1."""
    done = await holdfast("audit", "verify", "trail", folder=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == "cannot read trail: No such file or directory\n"
