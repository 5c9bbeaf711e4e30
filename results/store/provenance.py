"""Provenance of records that is compared: the data, the code of the model, and the version of the metrics.

A record of an older version that does not say one of them counts as unknown, not as different.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from benchmark.cell import Cell, DatasetChoice
from benchmark.data.paths import field_path
from benchmark.models.model_digest import model_digest
from benchmark.training.recorder import METRICS_VERSION

KINDS = {"data_checksum": "data", "model_digest": "code", "metrics_version": "metrics"}
"""Field of environment.json -> kind of provenance."""
VERSIONS = ("symbench", "git_commit", "git_dirty", "python", "torch", "e2cnn", "numpy", "h5py", "phiflow", "ray")
MACHINE = ("device", "device_type", "processor", "world_size", "threads", "lanes")
"""Host names and kernels are left out: they are private."""
SHOWN_DIGITS, MOST_NAMES = 8, 3
Environments = Mapping[str, Mapping[str, Any]]
"""Content of environment.json by cell id."""


def compared(environment: Mapping[str, Any]) -> dict[str, str]:
    """Kind -> value, as far as the record knows it. Records without a version of the metrics are of version 1."""
    if not environment:
        return {}
    values = {kind: environment.get(key, 1 if kind == "metrics" else None) for key, kind in KINDS.items()}
    return {kind: str(value) for kind, value in values.items() if value is not None}


def metrics_versions(environments: Iterable[Mapping[str, Any]]) -> list[int]:
    """Versions of the metrics of finished cells, sorted."""
    return sorted({int(environment.get("metrics_version", 1)) for environment in environments})


@dataclass(frozen=True)
class Review:
    """Finished cells whose provenance is not that of today, by kind; a line for each setting of mixed provenance."""

    outdated: Mapping[str, Sequence[Cell]]
    mixed_lines: Sequence[str]

    @classmethod
    def of(cls, finished: Sequence[Cell], environments: Environments, data_folder: Path) -> Review:
        return cls(_outdated(finished, environments, data_folder), _mixed_lines(finished, environments))

    @property
    def outdated_lines(self) -> list[str]:
        """A line for each kind, and how to train the cells again."""
        lines = []
        for kind, cells in self.outdated.items():
            names = some(cell.model.name if kind == "code" else _place(cell) for cell in cells)
            count = "1 finished cell was" if len(cells) == 1 else f"{len(cells)} finished cells were"
            lines.append(f"{count} computed with other {kind} ({names}); `symbench run --retrain` trains them again")
        return lines

    @property
    def cells(self) -> list[Cell]:
        """Outdated cells, each once."""
        return list({cell.id: cell for cells in self.outdated.values() for cell in cells}.values())


def stored_checksum(path: Path) -> str | None:
    """Checksum that a data file names, without reading the field; None if there is no such file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return str(file.attrs["checksum"])
    except (OSError, KeyError):
        return None


def mixed(seeds: Iterable[tuple[int, Mapping[str, Any]]]) -> str:
    """Kinds in which seeds differ, from their numbers and environments; empty if they agree."""
    values: dict[str, dict[str, list[int]]] = {kind: defaultdict(list) for kind in KINDS.values()}
    for seed, environment in seeds:
        for kind, value in compared(environment).items():
            values[kind][value].append(seed)
    return ", ".join(
        f"different {kind} ({'; '.join(f'{v[:SHOWN_DIGITS]}: {_numbers(of)}' for v, of in members.items())})"
        for kind, members in values.items()
        if len(members) > 1
    )


def some(names: Iterable[str]) -> str:
    """First few of the different `names`, and the number of the others."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - MOST_NAMES} more" if len(different) > MOST_NAMES else ""
    return ", ".join(different[:MOST_NAMES]) + more


def _outdated(cells: Iterable[Cell], environments: Environments, data_folder: Path) -> dict[str, list[Cell]]:
    """Kind -> finished cells whose record differs in it from the data, the code or the metrics of today.

    A cell whose data file is gone is left out, as it cannot be trained again.
    """
    checksums: dict[DatasetChoice, str | None] = {}
    differing: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.dataset not in checksums:
            checksums[cell.dataset] = stored_checksum(field_path(data_folder, cell.dataset))
        if checksums[cell.dataset] is None:
            continue
        today = {"data": checksums[cell.dataset], "code": model_digest(cell.model), "metrics": str(METRICS_VERSION)}
        for kind, value in compared(environments.get(cell.id, {})).items():
            if today[kind] not in (None, value):
                differing[kind].append(cell)
    return dict(differing)


def _mixed_lines(cells: Iterable[Cell], environments: Environments) -> list[str]:
    """A line for each setting whose finished seeds differ in data, code or metrics."""
    groups: dict[tuple[DatasetChoice, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.id in environments:
            groups[cell.dataset, cell.model.name].append(cell)
    lines = []
    for members in groups.values():
        if not mixed((cell.seed, environments[cell.id]) for cell in members):
            continue
        settings: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
        for cell in members:
            settings[cell.setting].append(cell)
        for setting in settings.values():
            text = mixed((cell.seed, environments[cell.id]) for cell in setting)
            lines += [f"{setting[0].model.name}, {_place(setting[0])}: {text}"] if text else []
    return lines


def _numbers(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _place(cell: Cell) -> str:
    return f"{cell.dataset.name} level {cell.dataset.level} ({cell.dataset.preset})"
