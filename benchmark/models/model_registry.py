"""Registry of baselines: files of `benchmark/models/`, plug-in files, and entry points of installed packages."""

from __future__ import annotations

import importlib.util
import inspect
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmark.cell import Frozen, ModelChoice
from benchmark.discovery import BASELINES, subclasses
from benchmark.errors import UserError, error_location, unknown_name

if TYPE_CHECKING:
    from benchmark.models.baseline import Baseline

MODELS_FOLDER = BASELINES.folder


def model_names() -> list[str]:
    """Sorted names of all baselines, without importing one."""
    return sorted(BASELINES.all())


@cache
def built_in_file(name: str) -> Path | None:
    """The file of a baseline in `benchmark/models/`; None for a plug-in, an installed one, and an unknown name."""
    return MODELS_FOLDER / f"{name}.py" if name in BASELINES.built_in else None


def source_file(name: str) -> Path | None:
    """The file of a baseline; None for an unknown name, or a package that is not installed as files."""
    source = BASELINES.all().get(name)
    if source is None or source.file is not None:
        return source.file if source else None
    try:
        spec = importlib.util.find_spec(source.origin)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def model(name: str) -> type[Baseline]:
    """Baseline class called `name`. UserError: unknown name (with the nearest), or its file is broken."""
    sources = BASELINES.all()
    if name not in sources:
        raise UserError(BASELINES.unknown(name))
    return _model_at(name, sources[name].origin)


@cache
def _model_at(name: str, origin: str) -> type[Baseline]:
    """Class, imported and validated once; a broken file is imported again."""
    from benchmark.models.baseline import Baseline  # torch takes seconds to import

    source, where = BASELINES.all()[name], f"{name} ({origin})"
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
