"""Registry of baselines: files of `benchmark/models/`, plug-in files, and entry points of installed packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, get_args

from benchmark.cell import Frozen, ModelChoice
from benchmark.discovery import module_names, subclasses
from benchmark.errors import UserError, error_location, unknown_name

if TYPE_CHECKING:
    from benchmark.models.baseline import Baseline

ENTRY_POINTS = "symbench.models"
MODELS_FOLDER = Path(__file__).resolve().parent
NOT_BASELINES = ("baseline", "model_digest", "model_registry", "task")
"""Files of `benchmark/models/` that define no baseline."""
_plugins: dict[str, Path] = {}


@dataclass(frozen=True)
class Source:
    """Origin of a baseline and its import; `file` is the file of a plug-in."""

    origin: str
    load: Callable[[], ModuleType]
    file: Path | None = None


def add_plugin(path: Path) -> str:
    """Register the baseline in the file `path` under the file's name; returns the name.

    A file of `benchmark/models/` is registered already. UserError: no Python file, or the name is taken.
    """
    try:
        path = path.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # links that go round, the home of an unknown user
        raise UserError(f"plug-in {path}: {error}") from error
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"plug-in {path}: not a Python file")
    known = path.stem in _baseline_modules()
    if known and path.parent == MODELS_FOLDER:
        return path.stem
    if known or _plugins.get(path.stem, path) != path:
        raise UserError(f"plug-in {path}: a baseline named {path.stem!r} exists; rename the file")
    _plugins[path.stem] = path
    return path.stem


def replace_plugins(paths: Iterable[Path]) -> None:
    """Replace the registered plug-ins, in a process that serves several callers."""
    _plugins.clear()
    for path in paths:
        add_plugin(path)


def plugin_paths() -> tuple[Path, ...]:
    """Plug-ins of this process, which workers register, too."""
    return tuple(_plugins.values())


def model_names() -> list[str]:
    """Sorted names of all baselines, without importing one."""
    return sorted(_model_sources())


@cache
def built_in_file(name: str) -> Path | None:
    """The file of a baseline in `benchmark/models/`; None for a plug-in, an installed one, and an unknown name."""
    return MODELS_FOLDER / f"{name}.py" if name in _baseline_modules() else None


def source_file(name: str) -> Path | None:
    """The file of a baseline; None for an unknown name, or a package that is not installed as files."""
    source = _model_sources().get(name)
    if source is None or source.file is not None:
        return source.file if source else None
    try:
        spec = importlib.util.find_spec(source.origin)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def has_others() -> bool:
    """Whether there are baselines besides those in `benchmark/models/`."""
    return _model_sources().keys() != set(_baseline_modules())


def model(name: str) -> type[Baseline]:
    """Baseline class called `name`. UserError: unknown name (with the nearest), or its file is broken."""
    sources = _model_sources()
    if name not in sources:
        raise UserError(unknown_model(name))
    return _model_at(name, sources[name].origin)


def unknown_model(name: str, suite_folder: Path | None = None) -> str:
    """Message for an unknown name: the file of that name, beside the suite or here, or else the nearest names."""
    for folder in (suite_folder or Path(), Path()):
        file = folder / f"{name}.py"
        if file.is_file():
            options = [f"`--plugin {shlex.quote(str(file))}`"]
            if suite_folder is not None:
                options.append(f"`plugins: [{os.path.relpath(file, suite_folder)}]` in the suite")
            return f"unknown model {name!r}; {file} was not given: add {', or '.join(options)}"
    return f"{unknown_name('model', name, model_names())}; a baseline of your own needs its file: `--plugin FILE`"


@cache
def _model_at(name: str, origin: str) -> type[Baseline]:
    """Class, imported and validated once; a broken file is imported again."""
    from benchmark.models.baseline import Baseline  # torch takes seconds to import

    source, where = _model_sources()[name], f"{name} ({origin})"
    try:
        module = source.load()
    except (Exception, SystemExit) as error:  # a plug-in may raise anything; it is refused by name
        raise UserError(f"{where} cannot be imported: {error_location(error, source.file)}") from error
    classes = subclasses(module, Baseline)  # type: ignore[type-abstract]
    if len(classes) != 1:
        raise UserError(f"{where} must define one subclass of Baseline, found {len(classes)}")
    problem = declaration_problem(classes[0])
    if problem is not None:
        raise UserError(f"{where}: {classes[0].__name__} {problem}")
    return classes[0]


def declaration_problem(baseline: type[Baseline]) -> str | None:
    """Missing or invalid declaration of a subclass of Baseline, or None."""
    from benchmark.models.baseline import Family, Symmetry  # torch takes seconds to import

    declared = [key for key in ("family", "symmetries", "source") if not hasattr(baseline, key)]
    missing = sorted(getattr(baseline, "__abstractmethods__", ())) + declared
    if missing:
        return f"lacks {', '.join(missing)}"
    if baseline.family not in get_args(Family):
        return f"declares the {unknown_name('family', baseline.family, get_args(Family))}"
    if not isinstance(baseline.symmetries, tuple):
        return f"declares symmetries = {baseline.symmetries!r}, expected a tuple such as ('rotation',)"
    for symmetry in baseline.symmetries:
        if symmetry not in get_args(Symmetry):
            return f"declares the {unknown_name('symmetry', symmetry, get_args(Symmetry))}"
    if not isinstance(baseline.source, str):
        return f"declares source = {baseline.source!r}, expected a string"
    if not isinstance(baseline.differs, str):
        return f"declares differs = {baseline.differs!r}, expected a sentence, or an empty text"
    if type(baseline.version) is not int or baseline.version < 1:
        return f"declares version = {baseline.version!r}, expected a whole number from 1"
    if not (inspect.isclass(baseline.Config) and issubclass(baseline.Config, Frozen)):
        return "has a Config that is no subclass of benchmark.cell.Frozen"
    required = [key for key, field in baseline.Config.model_fields.items() if field.is_required()]
    return f"has a Config without a default for {', '.join(required)}" if required else None


def configured(choice: ModelChoice) -> tuple[type[Baseline], Any]:
    """Baseline class of `choice` and its Config. ValidationError: invalid settings.

    UserError: as in `model`, or the choice is of another version of the baseline.
    """
    baseline = model(choice.name)
    if choice.version != baseline.version:
        raise UserError(
            f"{choice.name}: these settings are for version {choice.version} of the model, and the code has version"
            f" {baseline.version}; expand the suite again"
        )
    return baseline, baseline.Config.model_validate_json(json.dumps(choice.config))


@cache
def _baseline_modules() -> tuple[str, ...]:
    return tuple(name for name in module_names(MODELS_FOLDER) if name not in NOT_BASELINES)


@cache
def _installed_models() -> dict[str, Source]:
    """Baselines of this package and of installed ones, cached, since listing entry points takes milliseconds."""
    modules = {name: f"{__package__}.{name}" for name in _baseline_modules()}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        modules.setdefault(entry.name, entry.module)
    return {name: Source(origin, partial(importlib.import_module, origin)) for name, origin in modules.items()}


def _model_sources() -> dict[str, Source]:
    sources = dict(_installed_models())
    for name, path in _plugins.items():
        sources[name] = Source(str(path), partial(_import_file, name, path), path)
    return sources


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
