"""Atlas of the relaxation: where the weights of a relaxed layer deviate from those of the strict one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import h5py
import matplotlib
import numpy as np
import scipy
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.dataset_registry import dataset
from benchmark.errors import MachineError, UserError
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
A_ROW, SIDE, GAP, LINE = 6, 84, 10, 18
LARGEST_CHECKPOINT = 200_000_000
"""Largest checkpoint in bytes that is read for a picture."""
COLORS = "RdBu_r"


def pictures(rows: Sequence[Row], symmetric: Sequence[Row], records: Mapping[str, Record], where: str) -> Plot:
    """Pictures of the first few of `rows` that have such weights, each below that of its model among `symmetric`.

    First finished seed, best epoch.
    """
    shown: dict[str, list[Maps]] = {}
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
                maps.append(Maps(f"{row.label}, level {one.level}", layers[:MOST_LAYERS], _known(one)))
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
        " level, shown first on the same scale, before you read physics in it. Known: what breaks the symmetry of the"
        " data, where a data set has a map of it; r is its rank correlation with a pattern, without the sign. Layers go"
        " from input to output. Places are pixels of the box, positions in the kernel, or group elements in a row; x to"
        f" the right, y up. First finished seed, best epoch; {where}."
        f" The first {MOST_MODELS} models of the table that have such weights, among at most {MOST_READ};"
        f" at most {MOST_LAYERS} layers each{unread}.",
        _draw(shown.values()) if shown else None,
        reason=f"no finished model here has relaxed weights in its record{unread}",
    )


@dataclass(frozen=True)
class Maps:
    """Relaxed layers of one model at one level, and the map (X, Y) of what breaks the symmetry of its data, if any."""

    heading: str
    layers: Sequence[Relaxation]
    known: NDArray[np.float64] | None

    def correlation(self, layer: Relaxation) -> float | None:
        """Rank correlation of a layer's map with the known one, without its sign; None if they cannot be compared."""
        if self.known is None or layer.map.shape != self.known.shape or not np.ptp(layer.map):
            return None
        return abs(float(scipy.stats.spearmanr(layer.map.ravel(), self.known.ravel()).statistic))


def _known(row: Row) -> NDArray[np.float64] | None:
    """Map of what breaks the symmetry; None if the dataset has none, or is gone, or its arrays have other axes."""
    try:
        return dataset(row.dataset).breaking_map(row.level, row.preset) if "layout" not in row.grid else None
    except (UserError, KeyError):
        return None


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


def _draw(models: Iterable[Sequence[Maps]]) -> str:
    """The maps of each model, with one scale for its levels."""
    parts, top = [], 0.0
    for levels in models:
        most = max(float(abs(layer.map).max()) for maps in levels for layer in maps.layers)
        for maps in levels:
            parts.append(text(0, top + 14, maps.heading if most else f"{maps.heading}: strict everywhere"))
            panels = [(layer.map, most, _captions(maps, layer)) for layer in maps.layers]
            if maps.known is not None and any(maps.correlation(layer) is not None for layer in maps.layers):
                centred = maps.known - (maps.known.min() + maps.known.max()) / 2
                panels.append((centred, float(abs(centred).max()), ["known"]))
            top += LINE
            for one_row in (panels[start : start + A_ROW] for start in range(0, len(panels), A_ROW)):
                tallest = 0.0
                for number, (values, limit, captions) in enumerate(one_row):
                    x, shape = number * (SIDE + GAP), values.shape
                    tall = SIDE / 4 if shape[0] == 1 else min(SIDE * shape[1] / shape[0], 2 * SIDE)
                    parts.append(_cells(values, limit, x, top, tall))
                    parts += [
                        text(x, top + tall + 12 * line, caption, 'font-size="10"')
                        for line, caption in enumerate(captions, start=1)
                    ]
                    tallest = max(tallest, tall + 12 * len(captions))
                top += tallest + 8
        if most:
            parts.append(_cells(np.linspace(-1, 1, SIDE)[None], 1.0, 0, top, 10))
            parts.append(text(SIDE + GAP, top + 9, f"± {100 * most:.2g} % of the weights", 'font-size="10"'))
        top += 30
    return svg(A_ROW * (SIDE + GAP), top, "".join(parts))


def _captions(maps: Maps, layer: Relaxation) -> list[str]:
    size = f"{100 * layer.size:.2g} %, {100 * layer.explained:.0f} % of it" if layer.size else "strict"
    correlation = maps.correlation(layer)
    return [size] if correlation is None else [size, f"r {correlation:.2f}"]


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
