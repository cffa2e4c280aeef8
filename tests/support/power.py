"""A disk whose power can be cut: an SQLite VFS that knows what was synced and what was not.

Everything is written to real files, and remembered. At a cut an *image* is made: what a machine
could find on its disk when the power is back. The model, in full:

- A file's content is durable from the end of its xSync on (data and size, whichever flags: DATAONLY
  is fdatasync, which keeps the size as well). The kernel is not asked to sync: the disk is here.
- Of each sector of 512 bytes written since then, the image holds what it holds now, what it held at
  any moment since the sync, or a torn one: the beginning of one of these and the end of another,
  sectors independently of each other, so that a page of SQLite's can be torn and writes can arrive
  in any order. Bytes that no write named do not change (SQLite counts on that: "powersafe
  overwrite"). A file as a whole is lucky or unlucky.
- The size of a file that grew or shrank since its sync is any that it had. What was never written
  below that size is zeros, or whatever the blocks held before: noise.
- A file that was made or deleted is so durably only when its folder was synced. SQLite does that at
  the first xSync of each handle of a journal or WAL (`UNIXFILE_DIRSYNC` in os_unix.c), and at
  xDelete if asked to; the sync of the database itself does not count for its name. Until then a new
  file may be missing in the image, and a deleted one there again, each independently.
- The -shm file is memory: missing in the image, or noise.
- The cut comes after any of these operations, so also in the middle of a write (what it wrote is
  not synced), between two syncs, and between a sync and its return; or between operations.

Not covered: bytes damaged that were not being written, folders that vanish, and a disk that says
that it has synced and has not. The last one is `lies`, for showing that the rest depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import apsw

SECTOR = 512
_NAMED_BY_SYNC = (
    apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
)
# How probably an unsynced sector is as it was written last; drawn for each file.
_LUCK = (0.0, 0.1, 0.5, 0.9, 1.0)
_TORN = 0.1


class Content:
    """The bytes of a file, and what each sector held since they were last synced."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)
        self._before: dict[int, list[bytes]] = {}
        self._sizes: list[int] = []

    @property
    def unsynced(self) -> int:
        """How many sectors may be lost."""
        return len(self._before)

    def write(self, data: bytes, offset: int) -> None:
        """Not durable yet."""
        size, end = len(self._data), offset + len(data)
        self._remember(min(offset, size), end)
        self._data.extend(bytes(max(0, end - size)))
        self._data[offset:end] = data

    def truncate(self, size: int) -> None:
        """Not durable yet, either."""
        self._remember(size, len(self._data))
        del self._data[size:]

    def _remember(self, begin: int, end: int) -> None:
        self._sizes.append(len(self._data))
        for sector in range(begin // SECTOR, -(-end // SECTOR)):
            held = bytes(self._data[sector * SECTOR : (sector + 1) * SECTOR])
            self._before.setdefault(sector, []).append(held)

    def sync(self) -> None:
        """Everything is durable."""
        self._before.clear()
        self._sizes.clear()

    def after_power_cut(self, dice: Random) -> bytes:
        """What is found when the power is back."""
        size = dice.choice([*self._sizes, len(self._data)])
        luck = dice.choice(_LUCK)
        noise = dice.choice((bytes, dice.randbytes))
        found = bytearray(self._data)
        for sector in sorted(self._before):
            held = self._held(sector)
            now = held[-1] if dice.random() < luck else dice.choice(held)
            now += noise(SECTOR - len(now))
            if dice.random() < _TORN:
                tear, other = dice.randrange(SECTOR), dice.choice(held)
                now = now[:tear] + other[tear:] + noise(SECTOR - max(tear, len(other)))
            begin = sector * SECTOR
            found.extend(noise(max(0, begin - len(found))))
            found[begin : begin + SECTOR] = now
        found.extend(noise(max(0, size - len(found))))
        return bytes(found[:size])

    def _held(self, sector: int) -> list[bytes]:
        return [
            *self._before[sector],
            bytes(self._data[sector * SECTOR : (sector + 1) * SECTOR]),
        ]


class LosingDisk(apsw.VFS):
    """The files of one folder. Use its `name` as SQLite's vfs; it dies with the power.

    `cut_after`: the operation (see `operations`) after which the power goes; `on_cut` hears of it.
    """

    def __init__(
        self,
        folder: Path,
        dice: Random,
        on_cut: Callable[[str], None] = lambda _: None,
        *,
        lies: bool = False,
    ) -> None:
        self.name = f"losing-{folder}"
        self.operations = 0
        self.cut_after: int | None = None
        self.on = True
        self._dice = dice
        self._on_cut = on_cut
        self._lies = lies
        self._files = {path.name: Content(path.read_bytes()) for path in folder.iterdir()}
        self._named = dict(self._files)
        super().__init__(self.name, "")

    # --- what SQLite asks for -----------------------------------------------------------------

    def xOpen(self, name: Any, flags: Any) -> apsw.VFSFile:  # noqa: N802 -- SQLite's name
        """Open a file, or make it."""
        self.check()
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        opened = LosingFile(self, self._files.get(path.name) or Content(), name, flags)
        if path.name not in self._files:
            self._files[path.name] = opened.content
            self.did("creation")
            self.check()
        return opened

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 -- SQLite's name
        """Delete a file. SQLite passes over an error of this and of a truncation, so after a cut
        there is none: apsw would print it.
        """
        if self.on:
            super().xDelete(filename, syncdir)
            del self._files[Path(filename).name]
            if syncdir:
                self.sync_folder()
            self.did("deletion")

    # --- what its files tell ------------------------------------------------------------------

    def check(self) -> None:
        """Whether there is power."""
        if not self.on:
            message = "the power is gone"
            raise apsw.IOError(message)

    def did(self, what: str) -> None:
        """An operation is done; it may have been the last."""
        self.operations += 1
        if self.operations == self.cut_after:
            self.on = False
            self._on_cut(what)

    def sync(self, content: Content, *, named: bool) -> None:
        """Make a file durable; `named`: its folder as well."""
        if not self._lies:
            content.sync()
            if named:
                self.sync_folder()

    def sync_folder(self) -> None:
        """The files there are now are those there will be."""
        if not self._lies:
            self._named = dict(self._files)

    # --- the end of it ------------------------------------------------------------------------

    def unsynced(self) -> dict[str, int]:
        """How many sectors of each file may be lost."""
        return {name: content.unsynced for name, content in self._files.items()}

    def leave_image(self, folder: Path) -> None:
        """Write down what is found when the power is back."""
        self.on = False
        dice = self._dice
        for name in sorted(self._files.keys() | self._named.keys()):
            content = dice.choice((self._files.get(name), self._named.get(name)))
            if content is not None:
                (folder / name).write_bytes(content.after_power_cut(dice))
                if name.endswith("-wal") and dice.random() < 0.5:
                    noise = folder / f"{name.removesuffix('-wal')}-shm"
                    noise.write_bytes(dice.randbytes(32768))


class LosingFile(apsw.VFSFile):
    """A file of a `LosingDisk`."""

    def __init__(self, disk: LosingDisk, content: Content, name: Any, flags: Any) -> None:
        self.content = content
        self._disk = disk
        # SQLite syncs the folder once for each handle of these.
        self._names = bool(flags[0] & _NAMED_BY_SYNC)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 -- SQLite's name
        """Write; durable with the next sync."""
        self._disk.check()
        super().xWrite(data, offset)
        self.content.write(data, offset)
        self._disk.did("write")
        self._disk.check()

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 -- SQLite's name
        """Truncate; durable with the next sync."""
        if self._disk.on:
            super().xTruncate(newsize)
            self.content.truncate(newsize)
            self._disk.did("truncation")

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802 -- SQLite's name
        """Make durable what was written."""
        self._disk.check()
        self._disk.sync(self.content, named=self._names)
        self._names = False
        self._disk.did("sync")
        self._disk.check()
