"""What the pictures of a field show: the vorticity of a few runs at a few times, its colours and its labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.layout import StoredField

COLORS = "RdBu_r"
"""matplotlib's name of the colour map: blue turns clockwise, red counter-clockwise."""
UNIT = "1 / time"
ROBUST_PERCENTILE = 99.5
"""Of |vorticity|: where the colours end, so that one sharp corner does not bleach the rest."""
LONGEST_LABEL, LONGEST_WORD = 60, 24
UNBROKEN = ",\u00a0"
"""Between the numbers of a vector, so that no line ends there."""


@dataclass(frozen=True)
class Planes:
    """Vorticity (run, time, X, Y), colours from -limit to limit, a title for each run, the time of each frame.

    Time is counted from the first frame of the file.
    """

    values: NDArray[np.float32]
    limit: float
    titles: tuple[str, ...]
    times: tuple[float, ...]

    @classmethod
    def of(cls, stored: StoredField, runs: Sequence[int], frames: Sequence[int]) -> Planes:
        """The runs and frames of these numbers."""
        values = vorticity(stored.field.numpy()[np.ix_(runs, frames)], stored.grid, stored.spacing)
        sizes = np.abs(values[np.isfinite(values)])
        limit = float(np.percentile(sizes, ROBUST_PERCENTILE)) if sizes.size else 0.0
        labels = run_labels(stored.run_parameters)
        return cls(
            values,
            limit or float(sizes.max(initial=0.0)) or 1.0,
            tuple(_title(run, labels) for run in runs),
            tuple(frame * stored.time_step for frame in frames),
        )


def spread(length: int, most: int) -> list[int]:
    """At most `most` of the indices below `length`, evenly, the first and the last among them.

    >>> spread(10, 4)
    [0, 3, 6, 9]
    """
    return [round(float(index)) for index in np.linspace(0, length - 1, min(most, length))]


def quickening(length: int, most: int) -> list[int]:
    """At most `most` of the indices below `length`, denser at the beginning, where a flow that starts changes most.

    The last is among them.

    >>> quickening(101, 4)
    [6, 25, 56, 100]
    """
    return list(dict.fromkeys(round((length - 1) * (k / most) ** 2) for k in range(1, most + 1)))


def vorticity(field: NDArray[np.float32], grid: str, spacing: float) -> NDArray[np.float32]:
    """dv/dx - du/dy of a velocity (..., 2, H, W), in 1 / time.

    On a staggered grid at the inner corners of the cells, where the differences of neighbouring faces meet:
    (..., H - 1, W - 1). Otherwise at the cell centres by central differences: (..., H, W).
    """
    u, v = field[..., 0, :, :], field[..., 1, :, :]
    if grid == "staggered":
        return (np.diff(v, axis=-2)[..., 1:] - np.diff(u, axis=-1)[..., 1:, :]) / np.float32(spacing)
    return np.gradient(v, spacing, axis=-2) - np.gradient(u, spacing, axis=-1)


def run_labels(run_parameters: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each run its parameters in short, those alone in which the runs differ: `inflow (32, 5), side 2`."""
    keys = dict.fromkeys(key for parameters in run_parameters for key in parameters)
    written = [{key: _short(parameters.get(key)) for key in keys} for parameters in run_parameters]
    telling = [key for key in keys if len({parameters[key] for parameters in written}) > 1]
    labels = []
    for parameters in written:
        text = ", ".join(f"{key.replace('_', ' ')} {parameters[key]}" for key in telling if parameters[key])
        labels.append(text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 2] + " …")
    return labels


def _title(run: int, labels: Sequence[str]) -> str:
    label = labels[run] if run < len(labels) else ""
    return f"run {run}: {label}" if label else f"run {run}"


def _short(value: Any) -> str:
    if value is None or isinstance(value, Mapping):  # nested ones are too long
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return f"({UNBROKEN.join(map(_short, value))})"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_WORD else text[:8] + "…"  # a checksum
