"""Digest of a model's code, which a record and a checkpoint carry."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from benchmark.cell import ModelChoice, is_network
from benchmark.discovery import BASELINES, ROOT, files_digest, imported_files, reachable
from benchmark.models.model_registry import MODELS_FOLDER, source_file

GROUPS, FACE = ROOT / "benchmark" / "groups.py", ROOT / "symbench.py"


def model_digest(choice: ModelChoice) -> str | None:
    """16 hex digits over the file of the model, the layers that it imports, and the same of networks in its settings.

    A plug-in counts with the modules beside it that it imports. The contract and the training loop, which all models
    share, are not in the digest: the commit of a record stands for them. None if a file is unknown or cannot be read.
    """
    return _digest(tuple(sorted(set(_names(choice)))))


def _names(choice: ModelChoice) -> Iterator[str]:
    """Name of the model, and of the networks within its settings."""
    yield choice.name
    for value in choice.config.values():
        if is_network(value):
            yield from _names(ModelChoice(**value))


@cache
def _digest(names: tuple[str, ...]) -> str | None:
    files: set[Path] = set()
    for name in names:
        file = source_file(name)
        if file is None:
            return None
        try:
            files |= reachable(file, _imported_code)
        except OSError:
            return None
    return files_digest(files, *names)


def _imported_code(file: Path) -> list[Path]:
    return [path for path in imported_files(file) if _is_code_of_models(path)]


def _is_code_of_models(path: Path) -> bool:
    if path.parent == MODELS_FOLDER and path.stem in (*BASELINES.excluded, "__init__"):
        return False
    if path == FACE:
        return False
    return path == GROUPS or path.is_relative_to(MODELS_FOLDER) or not path.is_relative_to(ROOT / "benchmark")
