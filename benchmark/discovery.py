"""Discovery of baselines and datasets, here, in other packages and in plug-ins, and of the files that they import."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from benchmark.errors import UserError, unknown_name

Contract = TypeVar("Contract")
ROOT = Path(__file__).resolve().parents[1]
_FROM = re.compile(r"^\s*from (benchmark[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)
_BESIDE = re.compile(r"^\s*(?:from|import) \.?(\w+)", re.MULTILINE)


@cache
def module_names(folder: Path) -> tuple[str, ...]:
    """Names of the Python files directly in `folder`, sorted, without importing one."""
    return tuple(info.name for info in pkgutil.iter_modules([str(folder)]) if not info.ispkg)


@dataclass(frozen=True)
class Source:
    """Origin of a baseline or a dataset and its import; `file` is the file of a plug-in."""

    origin: str
    load: Callable[[], ModuleType]
    file: Path | None = None


@dataclass
class Sources:
    """Baselines, or datasets, by name: files of `folder`, entry points of installed packages, and plug-in files.

    `kind` and `word` are the names of one of them in messages, `package` is the package of the folder.
    """

    kind: str
    word: str
    folder: Path
    package: str
    entry_points: str
    excluded: tuple[str, ...] = ()
    plugins: dict[str, Path] = field(default_factory=dict)
    _installed: dict[str, Source] | None = None

    @property
    def built_in(self) -> tuple[str, ...]:
        """Names of the files in the folder."""
        return _names(self.folder, self.excluded)

    @property
    def has_others(self) -> bool:
        """Whether there are others besides the built-in ones."""
        return bool(self.plugins) or len(self._of_packages()) > len(self.built_in)

    def all(self) -> dict[str, Source]:
        """Source of every name."""
        plugins = {
            name: Source(str(path), partial(_import_file, name, path), path) for name, path in self.plugins.items()
        }
        return {**self._of_packages(), **plugins}

    def _of_packages(self) -> dict[str, Source]:
        """Built-in ones and those of entry points, listed once, since that takes milliseconds."""
        if self._installed is None:
            modules = {name: f"{self.package}.{name}" for name in self.built_in}
            for entry in importlib.metadata.entry_points(group=self.entry_points):
                modules.setdefault(entry.name, entry.module)
            loads = {name: partial(importlib.import_module, origin) for name, origin in modules.items()}
            self._installed = {name: Source(modules[name], load) for name, load in loads.items()}
        return self._installed

    def unknown(self, name: str, suite_folder: Path | None = None) -> str:
        """Message for an unknown name: the file of that name, beside the suite or here, or else the nearest names."""
        for folder in (suite_folder or Path(), Path()):
            file = folder / f"{name}.py"
            if file.is_file():
                options = [f"`--plugin {shlex.quote(str(file))}`"]
                if suite_folder is not None:
                    options.append(f"`plugins: [{os.path.relpath(file, suite_folder)}]` in the suite")
                return f"unknown {self.word} {name!r}; {file} was not given: add {', or '.join(options)}"
        nearest = unknown_name(self.word, name, sorted(self.all()))
        return f"{nearest}; a {self.kind} of your own needs its file: `--plugin FILE`"

    def add(self, path: Path) -> str:
        """Register the file `path` under its name; returns the name. A file of the folder is registered already.

        UserError: no Python file, or the name is taken.
        """
        path = python_file(path)
        known = path.stem in self.built_in
        if known and path.parent == self.folder:
            return path.stem
        if known or self.plugins.get(path.stem, path) != path:
            raise UserError(f"plug-in {path}: a {self.kind} named {path.stem!r} exists; rename the file")
        self.plugins[path.stem] = path
        return path.stem


@cache
def _names(folder: Path, excluded: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in module_names(folder) if name not in excluded)


def python_file(path: Path) -> Path:
    """The whole path of a plug-in. UserError: it is no Python file."""
    try:
        path = path.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # links that go round, the home of an unknown user
        raise UserError(f"plug-in {path}: {error}") from error
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"plug-in {path}: not a Python file")
    return path


def _import_file(name: str, path: Path) -> ModuleType:
    qualified = f"symbench_plugin_{name}"
    loaded = sys.modules.get(qualified)
    if loaded is not None and loaded.__file__ == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(qualified, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module  # before it runs, since annotations are resolved through it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit):
        del sys.modules[qualified]
        raise
    return module


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


BASELINES = Sources(
    "baseline",
    "model",
    ROOT / "benchmark" / "models",
    "benchmark.models",
    "symbench.models",
    ("baseline", "model_digest", "model_registry", "task"),
)
DATASETS = Sources(
    "dataset",
    "dataset",
    ROOT / "benchmark" / "data" / "datasets",
    "benchmark.data.datasets",
    "symbench.datasets",
)


def add_plugin(path: Path) -> str:
    """Register the baseline or the dataset in the file `path`; returns its name. The file is read, not imported.

    UserError: no Python file, or the name is taken.
    """
    path = python_file(path)
    ours, others = (DATASETS, BASELINES) if _defines_dataset(path) else (BASELINES, DATASETS)
    if path.stem in others.plugins:
        raise UserError(f"plug-in {path}: a {others.kind} named {path.stem!r} exists; rename the file")
    return ours.add(path)


def replace_plugins(files: Iterable[Path]) -> None:
    """Replace the registered plug-ins, in a process that serves several callers."""
    for sources in (BASELINES, DATASETS):
        sources.plugins.clear()
    for path in files:
        add_plugin(path)


def plugin_paths() -> tuple[Path, ...]:
    """Plug-ins of this process, which workers register, too."""
    return (*BASELINES.plugins.values(), *DATASETS.plugins.values())


def _defines_dataset(path: Path) -> bool:
    """Whether a class of the file has a base whose name ends with Dataset; a broken file is taken for a baseline."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
    return any(ast.unparse(base).endswith("Dataset") for base in bases)
