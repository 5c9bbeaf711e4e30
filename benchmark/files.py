"""Folders of a store, and atomic writes: a file is complete or absent."""

import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark.errors import MachineError


def data_folder(store: Path) -> Path:
    """Folder of the data files of a store."""
    return store / "data"


def tuned_folder(store: Path) -> Path:
    """Folder of the studies of a store: the file `<study>.yaml` is a result, the folder `<study>` holds its trials."""
    return store / "tuned"


@contextmanager
def write_errors(place: object) -> Iterator[None]:
    """Raise MachineError, which names `place`, instead of an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise MachineError(f"{place}: cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` when the block succeeds. The umask gives its mode.

    MachineError: the folder cannot be written or the disk is full; no temporary file remains.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write JSON atomically. ValueError: NaN or infinity, which JSON does not have."""
    write_text(path, json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n")


def new_private_folder(parent: Path, prefix: str) -> Path:
    """Make a folder in `parent` that only this user can enter, and that other users of a shared `parent` cannot rename.

    Raises OSError if it cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    if parent.stat().st_uid == os.geteuid():
        parent.chmod(stat.S_IMODE(parent.stat().st_mode) | stat.S_ISVTX)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
