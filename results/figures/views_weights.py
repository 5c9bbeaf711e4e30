"""Pictures of relaxation weights: the deviation of a relaxed layer from the strict one, place by place."""

from collections.abc import Mapping, Sequence

import h5py
import matplotlib
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import MachineError
from benchmark.evaluation.relaxation import Relaxation, read_relaxations, relaxations
from benchmark.training import checkpoint
from results.board.row import Row
from results.figures.figures import Plot
from results.figures.plot import svg, text
from results.figures.rollouts import embedded, first_window
from results.store.record import Record

MOST_MODELS, MOST_LAYERS = 3, 8
MOST_READ = 12
"""Checkpoints that are read, since on a large board few models have such weights."""
SIDE, GAP, LINE = 84, 10, 18
LARGEST_CHECKPOINT = 200_000_000
"""Largest checkpoint in bytes that is read for a picture."""
COLORS = "magma"


def pictures(rows: Sequence[Row], records: Mapping[str, Record], where: str) -> Plot:
    """Picture of the first few of `rows` that have such weights: first finished seed, best epoch."""
    shown: list[tuple[str, list[Relaxation]]] = []
    broken: list[str] = []
    read = 0
    for row in rows:
        if len(shown) < MOST_MODELS and read < MOST_READ and row.family in ("relaxed", "approximate", "unknown"):
            done = row.finished(records)
            read += bool(done)
            layers = _read(done[0]) if done else []
            if layers is None:
                broken.append(f"cells/{done[0].folder.name}")
            elif layers:
                shown.append((row.label, layers[:MOST_LAYERS]))
    unread = f". Cannot be read: {', '.join(broken)}" if broken else ""
    return Plot(
        "relaxation-weights",
        "Relaxation weights",
        "Distance of each layer's weights at each place from their mean over all places, relative to their size; 0 is"
        " the strict layer. Layers go from input to output. Places are pixels of the box, positions in the kernel, or"
        f" group elements in a row; x to the right, y up. First finished seed, best epoch; {where}."
        f" The first {MOST_MODELS} models of the table that have such weights, among at most {MOST_READ};"
        f" at most {MOST_LAYERS} layers each{unread}.",
        _draw(shown) if shown else None,
        reason=f"no finished model here has relaxed weights in its record{unread}",
    )


def _read(record: Record) -> list[Relaxation] | None:
    """Relaxed layers of a record, in one of an earlier version those in its checkpoint; None if it cannot be read."""
    path = record.folder / "checkpoint.pt"
    try:
        with h5py.File(record.predictions_path, locking=False) as file:
            if (layers := read_relaxations(file)) is not None:
                return [one for one in layers if np.isfinite(one.map).all()]
        if not path.is_file() or path.stat().st_size > LARGEST_CHECKPOINT:
            return []
        state = checkpoint.read(path).get("best_model", {})
        with_tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    except FileNotFoundError:
        return []
    except (MachineError, OSError, AttributeError, KeyError, ValueError):
        return None  # only the picture is missing: the record's numbers count
    window = first_window(record)
    grid = (0, 0) if window is None else (window.truth.shape[2], window.truth.shape[3])
    return [one for one in relaxations(with_tensors, grid) if np.isfinite(one.map).all()]


def _draw(models: Sequence[tuple[str, Sequence[Relaxation]]]) -> str:
    parts, top = [], 0.0
    widest = max(len(layers) for _, layers in models)
    for label, layers in models:
        most = max(float(layer.map.max()) for layer in layers)
        parts.append(text(0, top + 14, label if most else f"{label}: strict everywhere"))
        tallest = 0.0
        for number, layer in enumerate(layers):
            x = number * (SIDE + GAP)
            shape = layer.map.shape
            tall = SIDE / 4 if shape[0] == 1 else min(SIDE * shape[1] / shape[0], 2 * SIDE)
            parts.append(_cells(layer.map, most, x, top + LINE, tall))
            parts.append(text(x, top + LINE + tall + 12, f"{100 * layer.mean:.2g} %", 'font-size="10"'))
            tallest = max(tallest, tall)
        if most:
            x, middle = len(layers) * (SIDE + GAP), top + LINE
            parts.append(_cells(np.linspace(0, 1, SIDE)[None], 1.0, x, middle, 10))
            parts.append(text(x, middle + 22, f"0 to {100 * most:.2g} % of the weights", 'font-size="10"'))
        top += LINE + tallest + 26
    return svg(max((widest + 1) * (SIDE + GAP) + 40, 420), top, "".join(parts))


def _cells(values: NDArray[np.float64], most: float, x: float, top: float, height: float) -> str:
    """A map of weights as an image with a frame, SIDE wide."""
    colors = matplotlib.colormaps[COLORS](values / (most or 1.0))[..., :3]
    pixels = (colors * 255).round().astype(np.uint8)
    drawn = pixels if values.shape[0] == 1 else np.swapaxes(pixels, 0, 1)[::-1]
    frame = (
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{SIDE:.1f}" height="{height:.1f}" fill="none"'
        ' stroke="currentColor" stroke-opacity=".4"/>'
    )
    return embedded(drawn, x, top, SIDE, height) + frame
