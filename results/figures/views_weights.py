"""Pictures of relaxation weights: the deviation of a relaxed layer from the strict one, place by place."""

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
"""Checkpoints that are read, since on a large board few models have such weights."""
SIDE, GAP, LINE = 84, 10, 18
LARGEST_CHECKPOINT = 200_000_000
"""Largest checkpoint in bytes that is read for a picture."""
COLORS = "magma"


@dataclass(frozen=True)
class Relaxation:
    """Deviation of one layer at each place: mean |w - mean of w over places| over the mean |w|; (X, Y), or (1, N)."""

    layer: str
    map: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.map.mean())


def relaxations(state: Mapping[str, Tensor], grid: tuple[int, int]) -> Iterator[Relaxation]:
    """Weights of a network that differ from place to place, recognised by the names of their deviations.

    `deviation` (banks, places ...): relaxed group convolution; places are pixels (H, W), group elements (N,), or both.
    With `weight` (O, I) beside it, (H, W, O, I): locally connected layer. With `places` beside it, (O, I, P): relaxed
    steerable convolution, whose places are those of the kernel. `a` (rank, H, W): displacement of a group-matrix
    convolution.
    """
    for name, weight in state.items():
        path, _, last = name.rpartition(".")
        layer = path.split(".parametrizations.weight")[0].removesuffix(".banks")
        if last == "a" and weight.ndim == 3:
            yield Relaxation(layer, _deviation(weight.movedim(0, -1)))
        if last != "deviation":
            continue
        if f"{path}.places" in state:
            above = path.rpartition(".")[0]
            kernels = next(state[f"{above}.{basis}"] for basis in ("kernels", "basis") if f"{above}.{basis}" in state)
            coefficients = state[f"{layer}.parametrizations.weight.original"].flatten(0, 1)  # (O I, L)
            w = coefficients[:, None].repeat(1, kernels.shape[0] * kernels.shape[1], 1).flatten(1)
            w[:, state[f"{path}.places"]] += weight.flatten(0, 1)
            yield Relaxation(layer, _deviation(w.T.reshape(*kernels.shape[:2], -1)))
        elif f"{path}.weight" in state and tuple(weight.shape[:2]) == grid:
            yield Relaxation(layer, _deviation((weight + state[f"{path}.weight"]).flatten(2)))
        elif weight.ndim >= 2 and weight.numel() > len(weight):
            yield Relaxation(layer, _deviation((weight + 1 / len(weight)).movedim(0, -1)))


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
                broken.append(f"cells/{done[0].folder.name}/checkpoint.pt")
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
        reason=f"no finished model here has a checkpoint with relaxed weights{unread}",
    )


def _read(record: Record) -> list[Relaxation] | None:
    """Relaxed layers in the checkpoint of a record; None if the file cannot be read."""
    path = record.folder / "checkpoint.pt"
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_CHECKPOINT:
            return []
        state = checkpoint.read(path).get("best_model", {})
        with_tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    except (MachineError, OSError, AttributeError):
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
