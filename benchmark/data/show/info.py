"""Description of a data file as plain data, for `--json`, tables and data cards."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite, sqrt
from typing import Any

from torch import Tensor

from benchmark.cell import SIZES, Grid, Protocol
from benchmark.data.check import PROTOCOLS
from benchmark.data.dataset import IMPORTED, STORAGE, Dataset
from benchmark.data.layout import StoredField
from benchmark.data.strict_floor import StrictFloor
from benchmark.errors import UserError

FLOOR_FRAMES = (6, 20)
"""Lengths of the roll-outs whose strict floor is shown."""
ROUND_OFF = 1e-6
"""A strict floor below this is shown as 0."""


def describe(stored: StoredField, dataset: Dataset) -> dict[str, Any]:
    """Description of a level (JSON) with stable field names.

    `bytes` is the size of the file. `splits` has, for each protocol with its default windows, the runs and the number
    of windows of each split, or only the `reason` why they do not fit. `rms` and `max` are taken over the components of
    a state, in their units; `contents` says what these are. `no_strict_floor` is the reason why there is none, or "".
    Numbers that are not finite and errors that were not measured are None.
    """
    runs, frames = stored.field.shape[:2]
    storage = STORAGE[stored.kind]
    rms, largest = _sizes(stored.field)
    description = {
        "dataset": stored.dataset,
        "preset": stored.preset,
        "level": stored.level,
        "level_value": dataset.level_value(stored.level),
        "group": dataset.group,
        "file": stored.path.name,
        "bytes": stored.path.stat().st_size,
        "runs": runs,
        "frames": frames,
        "kind": stored.kind,
        "label": dataset.presets[stored.preset].label,
        "shape": stored.field.shape,
        "axes": storage.axes,
        "components": stored.components,
        "contents": _contents(stored),
        "grid": stored.grid,
        "periodic": dataset.periodic,
        "test_runs": dataset.test_runs,
        "divergence_free": stored.divergence_free,
        "spacing": stored.spacing,
        "time_step": stored.time_step,
        "units": storage.units,
        "rms": rms,
        "max": largest,
        "equivariance_errors": [asdict(error) for error in stored.equivariance_errors],
        "mean_absolute_error": stored.mean_absolute_error,
        "mean_relative_error": stored.mean_relative_error,
        "strict_floor": None if stored.strict_floor is None else asdict(stored.strict_floor),
        "no_strict_floor": _no_floor(stored, dataset),
        "splits": {protocol.name: _splits(dataset, protocol, stored.preset) for protocol in PROTOCOLS},
        "parameters": stored.parameters,
        "run_parameters": stored.run_parameters,
        "libraries": stored.libraries,
        "recipe": stored.recipe,
        "checksum": stored.checksum,
    }
    finite: dict[str, Any] = json.loads(json.dumps(description), parse_constant=lambda nan_or_infinity: None)
    return finite


def _contents(stored: StoredField) -> str:
    """Meaning and units of the numbers of a state."""
    unit = STORAGE[stored.kind].units["field"]
    if stored.components == STORAGE[stored.kind].usual_components:
        return f"a velocity in {unit}" if stored.components else unit
    texts, first = [], 0
    for name, component in stored.components.items():
        end = first + SIZES[component]
        numbers = f"components {first} and {end - 1}" if component == "vector" else f"component {first}"
        texts.append(f"{name} ({numbers}: a {component}{f' in {unit}' if component == 'vector' else ''})")
        first = end
    return " and ".join(texts)


def row(description: Mapping[str, Any]) -> dict[str, Any]:
    """Row of a table, from the result of `describe`."""
    return {
        **{key: description[key] for key in ("dataset", "preset", "level", "runs", "frames")},
        "state": description["label"],
        "grid": description["grid"] if STORAGE[description["kind"]].on_grid else "",
        "test_runs": description["test_runs"],
        "rms": short(description["rms"]),
        "equivariance_error": short(description["mean_absolute_error"]),
        "relative": short(description["mean_relative_error"]),
        f"strict_floor_{'_/_'.join(map(str, FLOOR_FRAMES))}": " / ".join(floors(description)) or "n/a",
        "size": f"{description['bytes'] / 1e6:.1f} MB",
    }


def floors(description: Mapping[str, Any], grid: Grid | None = None) -> list[str]:
    """Strict floor over the first 6 and 20 frames on `grid`, by default that of the file; none if it is not known."""
    if description["strict_floor"] is None:
        return []
    floor = StrictFloor.of(description["strict_floor"])
    over = [floor.over(frames, grid or description["grid"]) for frames in FLOOR_FRAMES]
    return [short(value if value is None or value > ROUND_OFF else 0.0) for value in over]


def _no_floor(stored: StoredField, dataset: Dataset) -> str:
    if stored.strict_floor is not None:
        return ""
    if stored.preset == IMPORTED:
        return "the files are imported, not simulated"
    return dataset.no_floor or "the file is outdated; `symbench data prepare SUITE` makes it again"


def short(value: float | None) -> str:
    """Number with three digits; a dash for None."""
    return "-" if value is None else f"{value:.3g}"


def _sizes(field: Tensor) -> tuple[float | None, float | None]:
    """Root mean square and largest absolute value in float64; None if a value is not finite."""
    squares = [float(run.double().square().sum()) for run in field]
    if not all(map(isfinite, squares)):
        return None, None
    return sqrt(sum(squares) / max(field.numel(), 1)), max((float(run.abs().max()) for run in field), default=0.0)


def _splits(dataset: Dataset, protocol: Protocol, preset: str) -> dict[str, Any]:
    try:
        splits = dataset.splits(protocol, preset)
    except UserError as error:
        return {"reason": str(error)}
    return {name: {"runs": list(split.runs), "windows": len(split)} for name, split in splits.items()}
