"""Rows of `symbench list`: models, datasets and suites."""

import inspect
from collections.abc import Sequence
from typing import Any

from benchmark.data import dataset_registry
from benchmark.errors import UserError, error_location
from benchmark.models import model_registry
from benchmark.suite import facts
from benchmark.suite.loading import available, load


def models() -> list[dict[str, Any]]:
    """One row per baseline."""
    return [model(name) for name in model_registry.model_names()]


def model(name: str) -> dict[str, Any]:
    """Row of a baseline; a broken one has the family `refused` and the reason as its source.

    `parameters` are counted at the default width; None if the baseline cannot run on the standard task.
    """
    row: dict[str, Any] = {
        "name": name,
        "kinds": [],
        "family": "refused",
        "symmetries": [],
        "parameters": None,
        "settings": {},
        "differs": "",
    }
    try:
        model = facts.model_facts(name)
    except UserError as error:
        return {**row, "source": str(error)}
    try:
        choice = facts.configured(name, {})
        count = facts.parameters(choice, facts.STANDARD[model.kinds[0]])
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plug-in may raise anything
        file = inspect.getsourcefile(model_registry.model(name))
        return {**row, "source": f"{name}: cannot be built: {error_location(error, file)}"}
    settings = {key: value for key, value in choice.settings().items() if key.rpartition(".")[2] != "version"}
    return {
        "name": name,
        "kinds": list(model.kinds),
        "family": model.family,
        "symmetries": list(model.symmetries),
        "parameters": count,
        "settings": settings,
        "source": model.source,
        "differs": model.differs,
    }


def datasets() -> list[dict[str, Any]]:
    """One row per dataset."""
    rows = []
    for name in dataset_registry.dataset_names():
        dataset = facts.dataset_facts(name)
        rows.append(
            {
                "name": name,
                "kind": dataset.kind,
                "group": dataset.group,
                "levels": list(dataset.levels),
                "presets": ", ".join(
                    f"{key} ({size['label']}, {size['frames']} frames)" for key, size in dataset.presets.items()
                ),
                "level_meaning": dataset.level_meaning,
                "source": dataset.source,
            }
        )
    return rows


def suites() -> list[dict[str, Any]]:
    """One row per suite in `suites/`."""
    rows = []
    for name in available():
        loaded = load(name)
        chosen = dict.fromkeys(cell.model.name for cell in loaded.cells)
        rows.append({"name": name, "cells": len(loaded.cells), "models": list(chosen)})
    return rows


def for_people(section: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows for a terminal: lists as text, numbers rounded, no settings of models, differences beside the source."""
    rows = [
        {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()}
        for row in rows
    ]
    if section != "models":
        return rows
    shown = []
    for row in rows:
        kept = {key: value for key, value in row.items() if key not in ("settings", "differs")}
        source = f"{row['source']}. Differs: {row['differs']}" if row["differs"] else row["source"]
        shown.append({**kept, "source": source, "parameters": rounded(row["parameters"])})
    return shown


def rounded(count: int | None) -> str:
    """Number of parameters with three digits: 976 k, 5.60 M."""
    if count is None:
        return ""
    for unit, name in ((10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * unit:
            size = count / unit
            return f"{size:.{max(0, 3 - len(str(round(size))))}f} {name}"
    return str(count)
