"""Relaxation weights as pictures: where a relaxed layer departs from the strict one, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import MachineError
from benchmark.training import checkpoint
from results.board.row import Row
from results.figures.figures import Plot
from results.figures.plot import svg, text
from results.figures.rollouts import embedded, first_window
from results.store.record import Record

MOST_MODELS, MOST_LAYERS = 3, 8
MOST_READ = 12
"""Checkpoints that are looked into: on a large board few models have such weights, and each costs a file."""
SIDE, GAP, LINE = 84, 10, 18
LARGEST_CHECKPOINT = 200_000_000
"""Bytes, beyond which a checkpoint is not read for a picture."""
COLORS = "magma"


@dataclass(frozen=True)
class Relaxation:
    """One layer: at each place, the mean |w - mean of w over places|, over the mean |w|. (X, Y), or (1, N)."""

    layer: str
    map: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.map.mean())


def relaxations(state: Mapping[str, Tensor], grid: tuple[int, int]) -> Iterator[Relaxation]:
    """Those of a network's weights that may differ from place to place, by the names that the layers give them.

    `w` (banks, places ...): relaxed group convolutions; places are pixels (H, W), group elements (N,), or both.
    `a` (rank, H, W): the displacement of a group-matrix convolution. Five axes (K, K, O, I, L) of coefficients: a
    relaxed steerable convolution, whose places are those of the kernel. (H, W, O, I): a locally connected one.
    """
    for name, weight in state.items():
        layer, _, last = name.rpartition(".")
        layer = layer.removesuffix(".parametrizations.weight")
        if last in ("w", "a") and weight.ndim >= 2 and weight.numel() > len(weight):
            yield Relaxation(layer, _deviation(weight.flatten(1).T.reshape(*weight.shape[1:], -1)))
            continue
        steerable = last == "original" and weight.ndim == 5 and weight.shape[0] == weight.shape[1] > 1
        local = last == "weight" and weight.ndim == 4 and tuple(weight.shape[:2]) == grid
        if steerable or (local and weight.shape[2] != weight.shape[3]):  # a plain filter is K x K there
            yield Relaxation(layer, _deviation(weight.flatten(2)))


def _deviation(weight: Tensor) -> NDArray[np.float64]:
    """(places ..., numbers) -> (X, Y)."""
    w = weight.double()
    places = tuple(range(w.ndim - 1))
    size = float(w.abs().mean()) or 1.0
    away = (w - w.mean(places, keepdim=True)).abs().mean(-1) / size
    if away.ndim == 1:
        away = away[None]
    while away.ndim > 2:
        away = away.mean(0)
    return away.numpy()


def pictures(rows: Sequence[Row], records: Mapping[str, Record], where: str) -> Plot:
    """The first few of `rows` that have such weights, the first finished seed of each, its best epoch."""
    found: list[tuple[str, list[Relaxation]]] = []
    broken: list[str] = []
    read = 0
    for row in rows:
        if len(found) < MOST_MODELS and read < MOST_READ and row.family in ("relaxed", "approximate", "unknown"):
            done = row.finished(records)
            read += bool(done)
            layers = _read(done[0]) if done else []
            if layers is None:
                broken.append(f"cells/{done[0].folder.name}/checkpoint.pt")
            elif layers:
                found.append((row.label, layers[:MOST_LAYERS]))
    unread = f". Cannot be read: {', '.join(broken)}" if broken else ""
    return Plot(
        "relaxation-weights",
        "Relaxation weights",
        "For each layer, from the input to the output, how far its weights at each place are from their mean over all"
        " places, relative to their size: 0 is the strict layer. Places are pixels of the box, positions in the kernel,"
        f" or group elements in a row; x to the right, y up. First finished seed, best epoch; {where}."
        f" The first {MOST_MODELS} of the table that have such weights, of at most {MOST_READ} looked into;"
        f" {MOST_LAYERS} layers each at most{unread}.",
        _draw(found) if found else None,
        reason=f"no finished model here keeps a checkpoint with relaxed weights{unread}",
    )


def _read(record: Record) -> list[Relaxation] | None:
    """None where there is a file that is no checkpoint."""
    path = record.folder / "checkpoint.pt"
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_CHECKPOINT:
            return []
        state = checkpoint.read(path).get("best_model", {})
        with_tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    except (MachineError, OSError, AttributeError):
        return None  # the picture alone is missing: the record's numbers stand
    found = list(relaxations(with_tensors, _grid(record)))
    return [one for one in found if np.isfinite(one.map).all()]


def _grid(record: Record) -> tuple[int, int]:
    window = first_window(record)
    return (0, 0) if window is None else (window.truth.shape[2], window.truth.shape[3])


def _draw(found: Sequence[tuple[str, Sequence[Relaxation]]]) -> str:
    parts, top = [], 0.0
    widest = max(len(layers) for _, layers in found)
    for label, layers in found:
        most = max(float(layer.map.max()) for layer in layers)
        told = f"{label}: colours from 0 to {100 * most:.2g} %" if most else f"{label}: strict everywhere"
        parts.append(text(0, top + 14, told))
        tallest = 0.0
        for number, layer in enumerate(layers):
            left = number * (SIDE + GAP)
            shape = layer.map.shape
            tall = SIDE / 4 if shape[0] == 1 else min(SIDE * shape[1] / shape[0], 2 * SIDE)
            parts.append(_cells(layer.map, most, left, top + LINE, SIDE, tall))
            parts.append(text(left, top + LINE + tall + 12, f"{100 * layer.mean:.2g} %", 'font-size="10"'))
            tallest = max(tallest, tall)
        top += LINE + tallest + 26
    return svg(max(widest * (SIDE + GAP), 420), top, "".join(parts))


def _cells(values: NDArray[np.float64], most: float, left: float, top: float, width: float, height: float) -> str:
    colors = matplotlib.colormaps[COLORS](values / (most or 1.0))[..., :3]
    pixels = (colors * 255).round().astype(np.uint8)
    drawn = pixels if values.shape[0] == 1 else np.swapaxes(pixels, 0, 1)[::-1]
    frame = (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" fill="none"'
        ' stroke="currentColor" stroke-opacity=".4"/>'
    )
    return embedded(drawn, left, top, width, height) + frame
