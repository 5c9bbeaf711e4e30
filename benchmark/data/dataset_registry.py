"""Registry of the datasets in `benchmark/data/datasets/`."""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.discovery import module_names, subclasses
from benchmark.errors import UserError, unknown_name

if TYPE_CHECKING:
    from benchmark.data.dataset import Dataset

DATASETS_FOLDER = Path(__file__).resolve().parent / "datasets"


def dataset_names() -> list[str]:
    """Names of all datasets, sorted."""
    return sorted(_dataset_classes())


def dataset(name: str) -> Dataset:
    """The dataset called `name`. UserError: unknown name, with the nearest one."""
    classes = _dataset_classes()
    if name not in classes:
        raise UserError(unknown_name("dataset", name, sorted(classes)))
    return classes[name]()


@cache
def _dataset_classes() -> dict[str, type[Dataset]]:
    """Class of each module in data/datasets/, by the name of the module."""
    from benchmark.data.dataset import Dataset  # torch takes seconds to import

    modules = {
        name: importlib.import_module(f"{__package__}.datasets.{name}") for name in module_names(DATASETS_FOLDER)
    }
    defined = {name: subclasses(module, Dataset) for name, module in modules.items()}  # type: ignore[type-abstract]
    return {name: classes[0] for name, classes in defined.items() if classes and not inspect.isabstract(classes[0])}
