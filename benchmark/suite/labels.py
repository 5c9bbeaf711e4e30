"""Labels of cells: the name of the model, with the settings that distinguish it from others of the model."""

import json
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

from benchmark.cell import Cell
from benchmark.terminal import one_line


def plain(value: Any) -> str:
    """A setting or a value of a record as text; equal values give equal texts."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def labels_of(cells: Sequence[Cell]) -> dict[str, str]:
    """Id of each of `cells` -> its label among them."""
    return {cell.id: label for cell, label in zip(cells, labels([(cell, "") for cell in cells]), strict=True)}


def labels(entries: Sequence[tuple[Cell, Hashable]]) -> list[str]:
    """Label of each (cell, group): told apart from cells of the same model in the same group."""
    keys = [(cell.model.name, group) for cell, group in entries]
    written: dict[tuple[int, ...], dict[str, str]] = {}  # cells of a suite share their parts
    settings = []
    for cell, _ in entries:
        parts = tuple(map(id, (cell.protocol, cell.train, cell.model)))
        if parts not in written:
            values_of = {**cell.protocol.model_dump(), **cell.train.model_dump(), **cell.model.settings()}
            written[parts] = {key: one_line(plain(value)) for key, value in values_of.items()}
        settings.append(written[parts])
    values: dict[tuple[Hashable, str], set[str]] = defaultdict(set)
    for key, setting in zip(keys, settings, strict=True):
        for name, value in setting.items():
            values[key, name].add(value)
    return [
        " ".join([key[0], *(f"{name}={value}" for name, value in setting.items() if len(values[key, name]) > 1)])
        for key, setting in zip(keys, settings, strict=True)
    ]
