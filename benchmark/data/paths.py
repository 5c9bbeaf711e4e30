"""Paths of data files in the store."""

from pathlib import Path

from benchmark.cell import DatasetChoice, Level

Field = tuple[str, str, Level]
"""Dataset, preset and level."""


def data_path(folder: Path, dataset: str, preset: str, level: Level) -> Path:
    """Path of the data file of a level."""
    return folder / dataset / preset / f"level_{level}.h5"


def field_path(data_folder: Path, dataset: DatasetChoice) -> Path:
    """Path of the data file of a cell's dataset."""
    return data_path(data_folder, dataset.name, dataset.preset, dataset.level)
