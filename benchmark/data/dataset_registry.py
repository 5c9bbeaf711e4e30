"""Registry of datasets: files of `benchmark/data/datasets/`, plug-in files, and entry points of installed packages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.discovery import DATASETS, subclasses
from benchmark.errors import UserError, error_location

if TYPE_CHECKING:
    from benchmark.data.dataset import Dataset

DECLARED = (
    *("group", "levels", "level_meaning", "presets"),
    *("training_runs", "unseen_runs", "test_runs", "source"),
)
"""Attributes that a dataset has to set."""


def dataset_names() -> list[str]:
    """Names of all datasets, sorted; none is imported."""
    return sorted(DATASETS.all())


def dataset(name: str) -> Dataset:
    """The dataset called `name`. UserError: unknown name, with the nearest one, or its file is broken."""
    sources = DATASETS.all()
    if name not in sources:
        raise UserError(DATASETS.unknown(name))
    return _dataset_class(name, sources[name].origin)()


def import_plugins(files: Mapping[str, Path]) -> None:
    """Register and import plug-ins in a process that gets their simulations from another one."""
    DATASETS.plugins.update(files)
    for name in files:
        dataset(name)


@cache
def _dataset_class(name: str, origin: str) -> type[Dataset]:
    from benchmark.data.dataset import Dataset  # numpy takes a tenth of a second to import

    source, where = DATASETS.all()[name], f"{name} ({origin})"
    try:
        module = source.load()
    except (Exception, SystemExit) as error:  # a plug-in may raise anything; it is refused by name
        raise UserError(f"{where} cannot be imported: {error_location(error, source.file)}") from error
    classes = subclasses(module, Dataset)  # type: ignore[type-abstract]
    if len(classes) != 1:
        raise UserError(f"{where} must define one subclass of Dataset, found {len(classes)}")
    if problem := declaration_problem(classes[0]):
        raise UserError(f"{where}: {classes[0].__name__} {problem}")
    return classes[0]


def declaration_problem(dataset: type[Dataset]) -> str | None:
    """Missing or impossible declaration of a subclass of Dataset, or None."""
    missing = sorted(getattr(dataset, "__abstractmethods__", ()))
    missing += [key for key in DECLARED if not hasattr(dataset, key)]
    if missing:
        return f"lacks {', '.join(missing)}"
    kinds = {size.kind for size in dataset.presets.values()}
    if len(kinds) != 1:
        return f"has presets of {len(kinds)} kinds of states, and needs those of one"
    return None
