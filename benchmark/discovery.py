"""Discovery of baselines and datasets by the folder of their files, and of the files that their code consists of."""

import hashlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

Contract = TypeVar("Contract")
ROOT = Path(__file__).resolve().parents[1]
_FROM = re.compile(r"^\s*from (benchmark[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)
_BESIDE = re.compile(r"^\s*(?:from|import) \.?(\w+)", re.MULTILINE)


@cache
def module_names(folder: Path) -> tuple[str, ...]:
    """Names of the Python files directly in `folder`, sorted, without importing one."""
    return tuple(info.name for info in pkgutil.iter_modules([str(folder)]) if not info.ispkg)


def subclasses(module: ModuleType, contract: type[Contract]) -> list[type[Contract]]:
    """Subclasses of `contract` that `module` itself defines."""
    return [
        member
        for member in vars(module).values()
        if inspect.isclass(member) and member.__module__ == module.__name__ and issubclass(member, contract)
    ]


def reachable(file: Path, imports_of: Callable[[Path], Iterable[Path]]) -> frozenset[Path]:
    """`file` and all files that it imports, also through others; `imports_of` gives the direct imports of a file."""
    files: set[Path] = set()
    waiting = [file]
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            waiting += imports_of(path)
    return frozenset(files)


def files_digest(files: Iterable[Path], *more: str) -> str:
    """16 hex digits of sha256 over `more`, and the names and contents of `files`, wherever the checkout lies."""
    digest = hashlib.sha256("\n".join([*more, ""]).encode())
    for name, path in sorted((_name(path), path) for path in files):
        digest.update(f"{name} {_source(path)[0]}\n".encode())
    return digest.hexdigest()[:16]


def imported_files(file: Path) -> tuple[Path, ...]:
    """Files of symbench, and modules beside a plug-in, that `file` imports itself."""
    return _source(file)[1]


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name


@cache
def _source(file: Path) -> tuple[str, tuple[Path, ...]]:
    """sha256 of a file, and the files that it imports; read once, as a process also imports the code once."""
    content = file.read_bytes()
    text = content.decode(errors="replace")
    imported: list[Path] = []
    for module, names in _FROM.findall(text):
        place = ROOT.joinpath(*module.split("."))
        imported += [place.with_suffix(".py"), *(place / f"{name}.py" for name in re.findall(r"\w+", names))]
    if not file.is_relative_to(ROOT / "benchmark"):
        imported += [file.with_name(f"{name}.py") for name in _BESIDE.findall(text)]
    return hashlib.sha256(content).hexdigest(), tuple(path for path in imported if path.is_file())
