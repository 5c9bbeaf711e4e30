"""Labels of cells: the name of the model, with the settings that distinguish it from others of the model."""

import json
from collections import defaultdict
from collections.abc import Container, Hashable, Mapping, Sequence
from typing import Any

from benchmark.cell import Cell
from benchmark.suite.search_space import width_path
from benchmark.terminal import one_line


def plain(value: Any) -> str:
    """A setting or a value of a record as text; equal values give equal texts."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def labels_of(cells: Sequence[Cell]) -> dict[str, str]:
    """Id of each of `cells` -> its label among them."""
    return {cell.id: label for cell, label in zip(cells, labels([(cell, "") for cell in cells]), strict=True)}


def labels(entries: Sequence[tuple[Cell, Hashable]], budgeted: Container[str] = ()) -> list[str]:
    """Label of each (cell, group): told apart from cells of the same model in the same group.

    The width of cells whose ids are in `budgeted` follows from a budget and the data; it is no setting of the model.
    """
    keys = [(cell.model.name, group) for cell, group in entries]
    written: dict[tuple[int, ...], dict[str, str]] = {}  # cells of a suite share their parts
    settings = []
    for cell, _ in entries:
        parts = (*map(id, (cell.protocol, cell.train, cell.model)), cell.id in budgeted)
        if parts not in written:
            common = (cell.protocol, cell.train)
            values_of = {name: getattr(part, name) for part in common for name in type(part).model_fields}
            values_of |= cell.model.settings()
            if cell.id in budgeted:
                values_of.pop(".".join(width_path(cell.model)), None)
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


def varying(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Settings in which not all of `settings` agree, as text, for each of them."""
    names = dict.fromkeys(name for one in settings for name in one)
    varied = [name for name in names if len({plain(one.get(name)) for one in settings}) > 1]
    return [tuple(f"{name} {plain(one.get(name))}" for name in varied) for one in settings]
