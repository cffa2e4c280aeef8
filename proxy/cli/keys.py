"""`holdfast keys …`: the keys in the key file. What a key is, is never printed; its id is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import apsw

from proxy.keyring import KeyFileError, Keys, change_keys, key_id, read_keys, rotated, without
from proxy.settings.load import ConfigError, load
from proxy.settings.values import Settings

_BUSY_MS = 5000
_NEEDED = """
SELECT substr(sealed, 1, 4), count(*)
FROM (SELECT sealed FROM answers UNION ALL SELECT sealed FROM requests) GROUP BY 1
"""


class _CannotTell(Exception):  # noqa: N818 -- not known is no error
    """How many answers need a key."""


def list_keys(options: argparse.Namespace) -> int:
    """A table: each key, what it is for, and how many kept answers it opens."""
    return _run(options, _list)


def rotate(options: argparse.Namespace) -> int:
    """A new key that seals from the next start on."""
    return _run(options, _rotate)


def drop(options: argparse.Namespace) -> int:
    """Remove an old sealing key that no kept answer needs."""
    return _run(options, partial(_drop, dropped=options.key, force=options.force))


def _run(options: argparse.Namespace, act: Callable[[Settings], None]) -> int:
    try:
        act(load(options.config))
    except (ConfigError, KeyFileError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _list(settings: Settings) -> None:
    if settings.keys is None:
        path = _file(settings)
        keys, where = read_keys(path), str(path)
    else:
        keys, where = settings.keys, "HOLDFAST_KEY"
    try:
        needed = _needed(settings.store)
        unknown = None
    except _CannotTell as why:
        needed, unknown = {}, str(why)
    ids = [key_id(key) for key in keys]
    uses = {ids[-1]: "seals"} | {ids[0]: "install" if len(ids) > 1 else "install, seals"}
    row = "{:<8}  {:>9}  {}"
    print(row.format("KEY", "ANSWERS", "USE"))
    for name in ids + [name for name in needed if name not in ids]:
        count = needed.get(name, 0) if unknown is None else "-"
        print(row.format(name.hex(), count, uses.get(name, "opens" if name in ids else "missing")))
    print(f"{len(keys)} in {where}")
    if unknown is not None:
        print(f"how many answers need them cannot be told: {unknown}", file=sys.stderr)


def _rotate(settings: Settings) -> None:
    path = _file(settings)
    *_, before, new = map(key_id, change_keys(path, rotated))
    print(
        f"{new.hex()} is the new key, in {path}. It seals from the next start on; until then\n"
        f"{before.hex()} does, and nothing has to be done. It stays, to open what it sealed.\n"
        "Replicas with a key file of their own get this one before any of them is restarted."
    )


def _drop(settings: Settings, *, dropped: bytes, force: bool) -> None:
    path = _file(settings)
    _ = without(read_keys(path), dropped)  # what may never be dropped is told first
    name = dropped.hex()
    try:
        count = _needed(settings.store).get(dropped, 0)
        told = f"kept answers that need {name}: {count}" if count else None
    except _CannotTell as why:
        told = f"how many kept answers need {name} cannot be told: {why}"
    if told and not force:
        message = f"{told}; --force drops it all the same, and they are lost"
        raise KeyFileError(message)
    change: Callable[[Keys], Keys] = partial(without, dropped=dropped)
    _ = change_keys(path, change)
    print(f"dropped {name} from {path}. What it sealed cannot be opened any more.")
    if told:
        print(told)


def _file(settings: Settings) -> Path:
    if settings.keys is not None:
        message = (
            "the keys come from HOLDFAST_KEY: another one (openssl rand -hex 32) is written\n"
            "behind those that are there, after a comma or in a line of its own"
        )
        raise KeyFileError(message)
    if settings.key_file is None:
        message = "there is no key file: a store that forgets everything has another key each time"
        raise KeyFileError(message)
    return settings.key_file


def _needed(store: str) -> dict[bytes, int]:
    """How many kept answers each key opens; beside a Holdfast that runs, which is not disturbed."""
    if "://" in store:
        message = "only an SQLite store can be asked"
        raise _CannotTell(message)
    if not Path(store).exists():
        return {}
    try:
        connection = apsw.Connection(store, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(_BUSY_MS)
            return {bytes(name): int(count) for name, count in connection.execute(_NEEDED)}
        finally:
            connection.close()
    except apsw.Error as error:
        message = f"{store}: {error}"
        raise _CannotTell(message) from None
