"""Secrets: from a variable, or from the file that `<variable>_FILE` names. One meaning, for the
sidecar and for the commands that talk to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def secret_from(environ: Mapping[str, str], variable: str) -> tuple[str | None, str | None]:
    """The secret of a variable, or why the file that was named for it gives none."""
    path = environ.get(f"{variable}_FILE")
    return read_secret(Path(path)) if path else (environ.get(variable) or None, None)


def read_secret(path: Path) -> tuple[str | None, str | None]:
    """A secret from a file, or why there is none."""
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        return None, f"cannot read the secret file: {reason}"
    return (value, None) if value else (None, "the secret file is empty")
