"""That it is the folder which is synced, and that it is let go of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.folders import sync_folder


def test_the_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Itself, not what is in it; and nothing stays open."""
    synced: list[tuple[int, str]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((descriptor, str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    sync_folder(tmp_path)
    ((descriptor, name),) = synced
    assert name == str(tmp_path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
