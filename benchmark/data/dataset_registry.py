"""Registry of the datasets in `benchmark/data/datasets/`."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.discovery import module_names, subclasses
from benchmark.errors import UserError, unknown_name

if TYPE_CHECKING:
    from benchmark.data.dataset import Dataset

DATASETS_FOLDER = Path(__file__).resolve().parent / "datasets"


def dataset_names() -> list[str]:
    """Names of all datasets, sorted; none is imported."""
    return list(module_names(DATASETS_FOLDER))


def dataset(name: str) -> Dataset:
    """The dataset called `name`. UserError: unknown name, with the nearest one."""
    if name not in dataset_names():
        raise UserError(unknown_name("dataset", name, dataset_names()))
    return _dataset_class(name)()


@cache
def _dataset_class(name: str) -> type[Dataset]:
    from benchmark.data.dataset import Dataset  # numpy takes a tenth of a second to import

    module = importlib.import_module(f"{__package__}.datasets.{name}")
    (only,) = subclasses(module, Dataset)  # type: ignore[type-abstract]
    return only
