"""Vorticity, or a scalar, of a few runs at a few times, with colours and labels, for the pictures of a field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import main_channels
from benchmark.data.layout import StoredField

COLORS = "RdBu_r"
"""Colour map of matplotlib: blue turns clockwise, red counter-clockwise."""
ROBUST_PERCENTILE = 99.5
"""Percentile of the sizes where the colours end, so that a sharp corner does not bleach the rest."""
LONGEST_LABEL, LONGEST_WORD = 60, 24
UNBROKEN = ",\u00a0"
"""Separator of the numbers of a vector, at which no line breaks."""


@dataclass(frozen=True)
class Planes:
    """Values (run, time, X, Y), coloured from -limit to limit; titles of the runs; times from the first frame on.

    They are the vorticity of the velocity, or the first scalar of a field without one: `quantity`, in `unit`.
    """

    values: NDArray[np.float32]
    quantity: str
    unit: str
    limit: float
    titles: tuple[str, ...]
    times: tuple[float, ...]

    @classmethod
    def of(cls, stored: StoredField, runs: Sequence[int], frames: Sequence[int]) -> Planes:
        """Planes of the runs and frames with these numbers."""
        components = tuple(stored.components.values())
        field = stored.field.numpy()[np.ix_(runs, frames)][:, :, main_channels(components)]
        if "vector" in components:
            values, quantity, unit = vorticity(field, stored.grid, stored.spacing), "vorticity", "1 / time"
        else:
            values, quantity, unit = field[:, :, 0], next(iter(stored.components)), "field units"
        sizes = np.abs(values[np.isfinite(values)])
        limit = float(np.percentile(sizes, ROBUST_PERCENTILE)) if sizes.size else 0.0
        labels = run_labels(stored.run_parameters)
        return cls(
            values,
            quantity,
            unit,
            limit or float(sizes.max(initial=0.0)) or 1.0,
            tuple(_title(run, labels) for run in runs),
            tuple(frame * stored.time_step for frame in frames),
        )


def spread(length: int, most: int) -> list[int]:
    """At most `most` evenly spread indices below `length`, with the first and the last one.

    >>> spread(10, 4)
    [0, 3, 6, 9]
    """
    return [round(float(index)) for index in np.linspace(0, length - 1, min(most, length))]


def quickening(length: int, most: int) -> list[int]:
    """At most `most` indices below `length`, denser at the beginning, where the flow changes most, and the last one.

    >>> quickening(101, 4)
    [6, 25, 56, 100]
    """
    return list(dict.fromkeys(round((length - 1) * (k / most) ** 2) for k in range(1, most + 1)))


def vorticity(field: NDArray[np.float32], grid: str, spacing: float) -> NDArray[np.float32]:
    """dv/dx - du/dy of a velocity (..., 2, H, W), in 1 / time.

    A staggered grid gives the values at the inner corners of the cells, from neighbouring faces: (..., H - 1, W - 1).
    Cell centres give central differences: (..., H, W).
    """
    u, v = field[..., 0, :, :], field[..., 1, :, :]
    if grid == "staggered":
        return (np.diff(v, axis=-2)[..., 1:] - np.diff(u, axis=-1)[..., 1:, :]) / np.float32(spacing)
    return np.gradient(v, spacing, axis=-2) - np.gradient(u, spacing, axis=-1)


def run_labels(run_parameters: Sequence[Mapping[str, Any]]) -> list[str]:
    """Label of each run, from the parameters in which the runs differ: `inflow (32, 5), side 2`."""
    keys = dict.fromkeys(key for parameters in run_parameters for key in parameters)
    texts = [{key: _short(parameters.get(key)) for key in keys} for parameters in run_parameters]
    different = [key for key in keys if len({parameters[key] for parameters in texts}) > 1]
    labels = []
    for parameters in texts:
        text = ", ".join(f"{key.replace('_', ' ')} {parameters[key]}" for key in different if parameters[key])
        labels.append(text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 2] + " …")
    return labels


def _title(run: int, labels: Sequence[str]) -> str:
    label = labels[run] if run < len(labels) else ""
    return f"run {run}: {label}" if label else f"run {run}"


def _short(value: Any) -> str:
    if value is None or isinstance(value, Mapping):  # too long
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"({UNBROKEN.join(map(_short, value))})"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_WORD else text[:8] + "…"  # a checksum
