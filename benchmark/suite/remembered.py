"""Answers about the code of a baseline or a dataset, remembered on disk: commands that build no network need no torch.

An answer is JSON. It belongs to the digest of the code that it is about: one file, all files of symbench which that
file imports, the code that counts, and the versions of torch and e2cnn. Changed code has another digest, so that no
answer can be out of date. Answers about the suites of symbench are in `remembered.json`, which `make remembered`
writes; all others are in the user's cache folder.
"""

import atexit
import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from benchmark.discovery import ROOT, files_digest, imported_files, reachable
from benchmark.errors import MachineError
from benchmark.files import write_text
from benchmark.models.model_registry import MODELS_FOLDER

SHIPPED = Path(__file__).with_name("remembered.json")
REGISTRY = MODELS_FOLDER / "model_registry.py"
COUNTED_BY = tuple(ROOT / "benchmark" / file for file in ("evaluation/costs.py", "suite/budget.py", "suite/facts.py"))
LIBRARIES = ("torch", "e2cnn")
known: dict[str, dict[str, Any]] = {}
"""Answers that this process has read or computed, by the digest of the code that they are about."""
_unsaved: set[str] = set()


def answer(file: Path, question: str, compute: Callable[[], Any]) -> Any:
    """The remembered answer to `question` about the code in `file`; otherwise that of `compute`, from now on.

    The answer must depend on nothing but that code and the question. What `compute` raises is not remembered.
    """
    digest = code_digest(file)
    if digest not in known:
        known[digest] = {**_shipped().get(digest, {}), **_read(_cached(digest))}
    answers = known[digest]
    if question not in answers:
        answers[question] = json.loads(json.dumps(compute()))
        _unsaved.add(digest)
    return answers[question]


@cache
def code_digest(file: Path) -> str:
    """16 hex digits of sha256 over `file`, the files of symbench that it imports, and what else decides an answer."""
    return files_digest({*code_files(file), *COUNTED_BY}, str(file.relative_to(ROOT)), json.dumps(versions()))


def code_files(file: Path) -> frozenset[Path]:
    """`file` and all files of symbench that it imports, also through others; a wrapper can take any model."""
    return reachable(file, lambda path: MODELS_FOLDER.glob("*.py") if path == REGISTRY else imported_files(path))


@cache
def versions() -> dict[str, str]:
    """Versions of the libraries that networks are made of; builds for a CPU and for CUDA are the same version."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    """Answers that come with symbench, by the digest of the code."""
    return {entry["digest"]: entry["answers"] for entry in _read(SHIPPED).values()}


def _cached(digest: str) -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - no home is no error
    return Path(folder, "symbench", f"{digest}.json")


def _read(path: Path) -> Mapping[str, Any]:
    """An unreadable file holds no answers: they are computed again."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


@atexit.register
def save() -> None:
    """Write new answers to the cache folder. A folder that cannot be written is no error."""
    for digest in _unsaved:
        path = _cached(digest)
        with suppress(MachineError):
            write_text(path, json.dumps({**_read(path), **known[digest]}, indent=1))
    _unsaved.clear()
