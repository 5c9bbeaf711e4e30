"""Registry of the datasets in `benchmark/data/datasets/`."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.discovery import module_names, subclasses
from benchmark.errors import UserError, error_location, unknown_name

if TYPE_CHECKING:
    from benchmark.data.dataset import Dataset

DATASETS_FOLDER = Path(__file__).resolve().parent / "datasets"
DECLARED = (
    *("group", "levels", "level_meaning", "presets"),
    *("training_runs", "unseen_runs", "test_runs", "source"),
)
"""Attributes that a dataset has to set."""


def dataset_names() -> list[str]:
    """Names of all datasets, sorted; none is imported."""
    return list(module_names(DATASETS_FOLDER))


def dataset(name: str) -> Dataset:
    """The dataset called `name`. UserError: unknown name, with the nearest one, or its file is broken."""
    if name not in dataset_names():
        raise UserError(unknown_name("dataset", name, dataset_names()))
    return _dataset_class(name)()


@cache
def _dataset_class(name: str) -> type[Dataset]:
    from benchmark.data.dataset import Dataset  # numpy takes a tenth of a second to import

    file = DATASETS_FOLDER / f"{name}.py"
    try:
        module = importlib.import_module(f"{__package__}.datasets.{name}")
    except Exception as error:
        raise UserError(f"{file} cannot be imported: {error_location(error, file)}") from error
    classes = subclasses(module, Dataset)  # type: ignore[type-abstract]
    if len(classes) != 1:
        raise UserError(f"{file} must define one subclass of Dataset, found {len(classes)}")
    if problem := declaration_problem(classes[0]):
        raise UserError(f"{file}: {classes[0].__name__} {problem}")
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
