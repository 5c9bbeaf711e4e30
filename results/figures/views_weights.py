"""Atlas of the relaxation: where the weights of a relaxed layer deviate from those of the strict one."""

from collections.abc import Iterable, Mapping, Sequence

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
A_ROW, SIDE, GAP, LINE = 5, 84, 10, 18
LARGEST_CHECKPOINT = 200_000_000
"""Largest checkpoint in bytes that is read for a picture."""
COLORS = "RdBu_r"


def pictures(rows: Sequence[Row], symmetric: Sequence[Row], records: Mapping[str, Record], where: str) -> Plot:
    """Pictures of the first few of `rows` that have such weights, each below that of its model among `symmetric`.

    First finished seed, best epoch.
    """
    shown: dict[str, list[tuple[str, list[Relaxation]]]] = {}
    broken: list[str] = []
    read = 0
    for row in rows:
        if len(shown) == MOST_MODELS or read >= MOST_READ or row.family not in ("relaxed", "approximate", "unknown"):
            continue
        maps = []
        for one in (*(each for each in symmetric if each.label == row.label), row):
            done = one.finished(records)
            read += bool(done)
            layers = _read(done[0]) if done else []
            if layers is None:
                broken.append(f"cells/{done[0].folder.name}")
            elif layers:
                maps.append((f"{row.label}, level {one.level}", layers[:MOST_LAYERS]))
        if maps:
            shown[row.label] = maps
    unread = f". Cannot be read: {', '.join(broken)}" if broken else ""
    return Plot(
        "relaxation-weights",
        "Where the relaxed layers break the symmetry",
        "Pattern over the places that holds most of the deviation of a layer's weights from their mean: red and blue"
        " places deviate in opposite ways, white ones do not; which is red means nothing. Below: deviation over the"
        " weights (root mean squares; 0 is the strict layer), and the share of its square that this pattern holds."
        " A network deviates wherever that helps it, at walls and by chance, too: compare with the most symmetric"
        " level, shown first on the same scale, before you read physics in it. Layers go from input to output. Places"
        " are pixels of the box, positions in the kernel, or group elements in a row; x to the right, y up. First"
        f" finished seed, best epoch; {where}."
        f" The first {MOST_MODELS} models of the table that have such weights, among at most {MOST_READ};"
        f" at most {MOST_LAYERS} layers each{unread}.",
        _draw(shown.values()) if shown else None,
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


def _draw(models: Iterable[Sequence[tuple[str, Sequence[Relaxation]]]]) -> str:
    """The maps of each model, with one scale for its levels."""
    parts, top = [], 0.0
    for levels in models:
        most = max(float(abs(layer.map).max()) for _, layers in levels for layer in layers)
        for heading, layers in levels:
            parts.append(text(0, top + 14, heading if most else f"{heading}: strict everywhere"))
            top += LINE
            for one_row in (layers[start : start + A_ROW] for start in range(0, len(layers), A_ROW)):
                tallest = 0.0
                for number, layer in enumerate(one_row):
                    x, shape = number * (SIDE + GAP), layer.map.shape
                    tall = SIDE / 4 if shape[0] == 1 else min(SIDE * shape[1] / shape[0], 2 * SIDE)
                    parts.append(_cells(layer.map, most, x, top, tall))
                    parts.append(text(x, top + tall + 12, _caption(layer), 'font-size="10"'))
                    tallest = max(tallest, tall)
                top += tallest + 20
        if most:
            parts.append(_cells(np.linspace(-1, 1, SIDE)[None], 1.0, 0, top, 10))
            parts.append(text(SIDE + GAP, top + 9, f"± {100 * most:.2g} % of the weights", 'font-size="10"'))
        top += 30
    return svg(A_ROW * (SIDE + GAP), top, "".join(parts))


def _caption(layer: Relaxation) -> str:
    return f"{100 * layer.size:.2g} %, {100 * layer.explained:.0f} % of it" if layer.size else "strict"


def _cells(values: NDArray[np.float64], most: float, x: float, top: float, height: float) -> str:
    """A map of weights as an image with a frame, SIDE wide."""
    colors = matplotlib.colormaps[COLORS]((values / (most or 1.0) + 1) / 2)[..., :3]
    pixels = (colors * 255).round().astype(np.uint8)
    drawn = pixels if values.shape[0] == 1 else np.swapaxes(pixels, 0, 1)[::-1]
    frame = (
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{SIDE:.1f}" height="{height:.1f}" fill="none"'
        ' stroke="currentColor" stroke-opacity=".4"/>'
    )
    return embedded(drawn, x, top, SIDE, height) + frame
