"""What there is to choose from, as rows for a table."""

from __future__ import annotations

from typing import Any

from . import registry, suite
from .errors import UserError


def models() -> list[dict[str, Any]]:
    """One row a baseline; a broken one stands there with its reason."""
    return [_model(name) for name in registry.model_names()]


def _model(name: str) -> dict[str, Any]:
    try:
        baseline = registry.model(name)
    except UserError as error:
        return {"name": name, "family": "refused", "symmetries": "", "settings": "", "source": str(error)}
    return {
        "name": name,
        "family": baseline.family,
        "symmetries": ", ".join(baseline.symmetries),
        "settings": ", ".join(f"{key}={field.default}" for key, field in baseline.Config.model_fields.items()),
        "source": baseline.source,
    }


def datasets() -> list[dict[str, Any]]:
    """One row a dataset."""
    rows = []
    for name in registry.dataset_names():
        dataset = registry.dataset(name)
        rows.append(
            {
                "name": name,
                "group": dataset.group,
                "levels": ", ".join(map(str, dataset.levels)),
                "presets": ", ".join(
                    f"{key} ({p.height}x{p.width}, {p.frames} frames)" for key, p in dataset.presets.items()
                ),
                "level_meaning": dataset.level_meaning,
                "source": dataset.source,
            }
        )
    return rows


def suites() -> list[dict[str, Any]]:
    """One row a suite that comes with symbench."""
    rows = []
    for name in suite.available():
        loaded = suite.load(name)
        chosen = dict.fromkeys(cell.model.name for cell in loaded.cells)
        rows.append({"name": name, "cells": len(loaded.cells), "models": ", ".join(chosen)})
    return rows
