"""Writes output files atomically: a file is complete or absent."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from .errors import OutputError


def output_folder(path: str | Path) -> Path:
    """Make the folder and its parents unless they exist. Raises OutputError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    return folder


def atomic_write(path: str | Path, content: bytes | str) -> Path:
    """Write `content` (strings as UTF-8) to a temporary file in the same folder, flush it to disk, rename it to `path`.

    A reader sees the old file or the new one, never a part of it. Raises OutputError and leaves no temporary file.
    """
    target = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = target.with_name(f".yolopose-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # renamed, or never made
            temporary.unlink()
    return target
