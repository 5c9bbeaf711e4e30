"""Makes the data files that a suite needs and that are not there yet."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from .. import registry
from ..cell import Level
from ..errors import MachineError, UserError
from .dataset import Dataset, Progress
from .layout import data_path, read, write


def prepare(dataset_name: str, preset: str, levels: Iterable[Level], folder: Path, progress: Progress) -> list[Path]:
    """Simulate and write the levels whose file is missing or broken; returns the paths of those that were made.

    Each file appears when it is whole, so an interruption costs only the levels that are not yet written.
    UserError: unknown dataset, preset or level. MachineError: the folder cannot be written to, or the disk is full.
    """
    dataset = registry.dataset(dataset_name)
    if preset not in dataset.presets:
        raise UserError(registry.unknown("preset", preset, dataset.presets))
    wanted = dict.fromkeys(_declared(dataset, level) for level in levels)
    paths = {level: data_path(folder, dataset_name, preset, level) for level in wanted}
    missing = [level for level in wanted if not _is_whole(paths[level], (dataset_name, preset, level))]
    if not missing:
        return []
    _require_writable(paths[missing[0]].parent)
    for level, simulation in dataset.simulate(missing, preset, progress):
        write(paths[level], dataset_name, preset, level, simulation)
    return [paths[level] for level in missing]


def _declared(dataset: Dataset, level: Level) -> Level:
    """The level as the dataset writes it, so that 3.0 and 3 are one file."""
    if level not in dataset.levels:
        raise UserError(registry.unknown("level", level, dataset.levels))
    return dataset.levels[dataset.levels.index(level)]


def _is_whole(path: Path, identity: tuple[str, str, Level]) -> bool:
    if not path.exists():
        return False
    try:
        stored = read(path)
    except MachineError:
        return False
    return (stored.dataset, stored.preset, stored.level) == identity


def _require_writable(folder: Path) -> None:
    """Found out before hours of simulation and not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(f"{folder}: cannot write there ({error.strerror or error})") from error
