"""What a stored field is, as plain data for `--json`, tables and data cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite, sqrt
from typing import Any

from torch import Tensor

from benchmark.cell import Protocol
from benchmark.data.check import PROTOCOLS
from benchmark.data.dataset import Dataset
from benchmark.data.layout import AXES, UNITS, StoredField
from benchmark.errors import UserError


def describe(stored: StoredField, dataset: Dataset) -> dict[str, Any]:
    """All that there is to say about a level, JSON-like, with field names that stay.

    `bytes` is the size of the file. `splits` holds, for each protocol with its default windows, the runs of each split
    and how many windows it has, or the `reason` alone why they do not fit. `rms` and `max` are over the components of
    the velocity, in its units. Numbers that are not finite, and errors that nobody measured, are None. Folders are left
    out.
    """
    runs, frames, _, height, width = stored.field.shape
    rms, largest = _sizes(stored.field)
    return {
        "dataset": stored.dataset,
        "preset": stored.preset,
        "level": stored.level,
        "level_value": _number(dataset.level_value(stored.level)),
        "group": dataset.group,
        "file": stored.path.name,
        "bytes": stored.path.stat().st_size,
        "runs": runs,
        "frames": frames,
        "height": height,
        "width": width,
        "shape": list(stored.field.shape),
        "axes": list(AXES),
        "grid": stored.grid,
        "periodic": dataset.periodic,
        "divergence_free": stored.divergence_free,
        "spacing": _number(stored.spacing),
        "time_step": _number(stored.time_step),
        "units": dict(UNITS),
        "rms": rms,
        "max": largest,
        "equivariance_errors": [_finite(asdict(error)) for error in stored.equivariance_errors],
        "mean_absolute_error": _number(stored.mean_absolute_error),
        "mean_relative_error": _number(stored.mean_relative_error),
        "splits": {protocol.name: _splits(dataset, protocol, stored.preset) for protocol in PROTOCOLS},
        "parameters": _finite(stored.parameters),
        "run_parameters": _finite(list(stored.run_parameters)),
        "libraries": dict(stored.libraries),
        "recipe": stored.recipe,
        "checksum": stored.checksum,
    }


def row(description: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a table that `describe` fills, as text for people."""
    return {
        "dataset": description["dataset"],
        "preset": description["preset"],
        "level": description["level"],
        "runs": description["runs"],
        "frames": description["frames"],
        "cells": f"{description['height']} x {description['width']}",
        "grid": description["grid"],
        "rms": short(description["rms"]),
        "equivariance_error": short(description["mean_absolute_error"]),
        "relative": short(description["mean_relative_error"]),
        "size": f"{description['bytes'] / 1e6:.1f} MB",
    }


def short(value: float | None) -> str:
    """Three digits, or a dash where there is no number."""
    return "-" if value is None else f"{value:.3g}"


def _sizes(field: Tensor) -> tuple[float | None, float | None]:
    """Root mean square and largest absolute value, a run at a time, in float64."""
    squares = [float(run.double().square().sum()) for run in field]
    if not all(map(isfinite, squares)):
        return None, None
    return sqrt(sum(squares) / max(field.numel(), 1)), max((float(run.abs().max()) for run in field), default=0.0)


def _splits(dataset: Dataset, protocol: Protocol, preset: str) -> dict[str, Any]:
    try:
        splits = dataset.splits(protocol, preset)
    except UserError as error:
        return {"reason": str(error)}
    return {
        name: {"runs": list(split.runs), "windows": len(split.runs) * len(split.starts)}
        for name, split in splits.items()
    }


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and isfinite(value) else None


def _finite(document: Any) -> Any:
    """The same with None for numbers that JSON does not know."""
    return json.loads(json.dumps(document), parse_constant=lambda name: None)
