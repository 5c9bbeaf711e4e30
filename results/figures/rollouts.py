"""Predicted fields beside the truth with the error, as a picture and as an animation.

Each line of panels is one PNG and the animation is one GIF, at the resolution of the field and with a palette: a few
kilobytes, scaled by the page. Equal records give equal bytes.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import h5py
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmark.cell import Components
from benchmark.data.hdf5 import array, group
from benchmark.kinds.panels import PANELS, Frames
from results.board.row import Row
from results.figures.figures import Plot
from results.figures.plot import svg, text
from results.store.record import Record

MOST_MODELS = 6
STEPS_SHOWN = 4
SHADES = 48
GAP = 2
"""Pixels between panels."""
CLEAR = 2 * SHADES
"""Index of the transparent colour in the palette."""
PANEL, LINE, MARGIN, BAR = 118, 20, 6, 100
"""Width of a panel, height of a line of text, space between panels, width of the colour bars."""
MILLISECONDS = 350
MOST_BYTES = 400_000
"""Size of one animation; a larger one loses every other frame."""


@dataclass(frozen=True)
class Window:
    """One rolled-out test window: planes of each step (S, X, Y), and the `caption` of their kind."""

    run: int
    first_frame: int
    truth: Frames
    prediction: Frames
    error: Frames
    caption: str

    @property
    def key(self) -> tuple[int, int, tuple[int, ...]]:
        return self.run, self.first_frame, self.truth.shape


def first_window(record: Record) -> Window | None:
    """First window of the future test in the record; None if there is none, or it cannot be read."""
    try:
        with h5py.File(record.predictions_path, locking=False) as file:
            kept = group(file, "future")
            run, first_frame = (int(value) for value in kept.attrs["windows"][0])
            panels = PANELS[str(kept.attrs.get("kind", "field"))]
            components = cast(Components, tuple(str(kept.attrs.get("components", "vector")).split()))
            truth, prediction = (np.asarray(array(kept, name, 0), np.float32) for name in ("truth", "prediction"))
    except (OSError, KeyError, IndexError, ValueError, TypeError):
        return None
    fits = truth.ndim == panels.axes + 1 and truth.shape == prediction.shape
    if not (fits and truth.size and np.isfinite(truth).all()):
        return None
    return Window(run, first_frame, *panels.planes(truth, prediction, components), panels.caption(components))


def pictures(rows: Sequence[Row], records: Mapping[str, Record], where: str) -> list[Plot]:
    """A picture of a few steps and an animation of all: truth, and prediction and error of the first few of `rows`.

    Speeds share the colour scale of the truth; errors share another. Models with a different first window are omitted.
    """
    shown, broken = _shown(rows, records)
    unread = f". Cannot be read: {', '.join(broken)}" if broken else ""
    reason = f"no finished record has a roll-out that can be read{unread}"
    caption = (
        f"{shown[0][1].caption if shown else 'Roll-outs'}; first kept window of the future test, first finished seed;"
        f" {where}. The first {MOST_MODELS} models of the table at most; x to the right, y up{unread}."
    )
    made = (
        ("rollout", "A roll-out", _still(shown) if shown else None, False),
        ("rollout-animation", "The same roll-out in motion", _moving(shown) if shown else None, True),
    )
    return [Plot(key, title, caption, content, reason, folded=folded) for key, title, content, folded in made]


def _shown(rows: Sequence[Row], records: Mapping[str, Record]) -> tuple[list[tuple[str, Window]], list[str]]:
    """Labels with their windows, and the files that cannot be read."""
    shown: list[tuple[str, Window]] = []
    broken: list[str] = []
    for row in rows:
        done = row.finished(records)
        if not done or len(shown) == MOST_MODELS:
            continue
        window = first_window(done[0])
        if window is None and done[0].predictions_path.exists():
            broken.append(f"cells/{done[0].folder.name}/{done[0].predictions_path.name}")
        if window is not None and (not shown or window.key == shown[0][1].key):
            shown.append((row.label, window))
    return shown, broken


def _limits(shown: Sequence[tuple[str, Window]]) -> tuple[float, float]:
    """Upper ends of the colour scales of speeds and errors."""
    errors = [window.error[np.isfinite(window.error)] for _, window in shown]
    most = max((float(np.percentile(error, 99.5)) for error in errors if error.size), default=0.0)
    return float(shown[0][1].truth.max()) or 1.0, most or 1.0


def _still(shown: Sequence[tuple[str, Window]]) -> str:
    truth = shown[0][1].truth
    most, worst = _limits(shown)
    steps = sorted({round(float(step)) for step in np.linspace(0, len(truth) - 1, STEPS_SHOWN)})
    lines = [("truth", truth, most, 0)]
    for label, window in shown:
        lines += [(label, window.prediction, most, 0), ("error", window.error, worst, SHADES)]
    tall = PANEL * truth.shape[2] / truth.shape[1]
    width = len(steps) * (PANEL + MARGIN)
    parts = [
        text((i + 0.5) * (PANEL + MARGIN), 14, f"step {s + 1}", 'text-anchor="middle"') for i, s in enumerate(steps)
    ]
    top = float(LINE)
    for label, values, limit, first in lines:
        parts.append(text(0, top + 14, label))
        panels = np.stack([_indices(values[step], limit, first) for step in steps])
        parts.append(_image(_png(_picture(_beside(panels)), transparency=CLEAR), 0, top + LINE, width - MARGIN, tall))
        top += LINE + tall + MARGIN / 2
    parts.append(_bars(width + 8, LINE * 2, most, worst))
    return svg(width + BAR, top, "".join(parts))


def _moving(shown: Sequence[tuple[str, Window]]) -> str:
    truth = shown[0][1].truth
    most, worst = _limits(shown)
    upper = [_indices(truth, most, 0), *(_indices(w.prediction, most, 0) for _, w in shown)]
    lower = [np.full_like(upper[0], CLEAR), *(_indices(w.error, worst, SHADES) for _, w in shown)]
    rows = [
        np.stack([_beside(np.stack([line[step] for line in row])) for step in range(len(truth))])
        for row in (upper, lower)
    ]
    gap = np.full((len(truth), GAP, rows[0].shape[2]), CLEAR, np.uint8)
    frames = np.concatenate((rows[0], gap, rows[1]), axis=1)
    picture = _gif(frames)
    while len(picture) > MOST_BYTES and len(frames) > 2:
        frames = frames[::2]
        picture = _gif(frames)
    names = ["truth", *(label for label, _ in shown)]
    side = PANEL + MARGIN
    width = len(names) * side
    tall = (width - MARGIN) * frames.shape[1] / frames.shape[2]
    parts = [text(i * side, 12, _short(name), 'font-size="10"') for i, name in enumerate(names)]
    parts.append(_image(f"data:image/gif;base64,{base64.b64encode(picture).decode()}", 0, LINE, width - MARGIN, tall))
    parts.append(text(0, LINE + tall - 8, "errors below", 'font-size="10"'))
    parts.append(_bars(width + 8, LINE * 2, most, worst))
    return svg(width + BAR, LINE + max(tall, 200), "".join(parts))


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:21]}…"


def _indices(values: Frames, limit: float, first: int) -> NDArray[np.uint8]:
    """Palette indices of numbers (..., X, Y), SHADES from `first` on, x right and y up; not finite: the last shade."""
    scaled = np.nan_to_num(values / limit, nan=1.0, posinf=1.0).clip(0, 1)
    shades = (scaled * (SHADES - 1)).round().astype(np.uint8) + np.uint8(first)
    return np.swapaxes(shades, -1, -2)[..., ::-1, :]


def _beside(panels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, H, W) panels in one line, separated by a transparent gap."""
    gap = np.full((panels.shape[1], GAP), CLEAR, np.uint8)
    parts = [part for panel in panels for part in (panel, gap)]
    return np.concatenate(parts[:-1], axis=1)


def _palette() -> list[int]:
    """RGB values: shades of speeds, shades of errors, and the transparent colour."""
    colors = [matplotlib.colormaps[name](np.linspace(0, 1, SHADES))[:, :3] for name in ("viridis", "inferno")]
    return [int(value) for value in (np.concatenate(colors) * 255).round().flatten()] + [255, 255, 255]


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.putpalette(_palette())
    return image


def _png(image: Image.Image, **options: int) -> str:
    """Data URL of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True, **options)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _gif(frames: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    first, *others = map(_picture, frames)
    options = {"duration": MILLISECONDS, "loop": 0, "transparency": CLEAR, "disposal": 2}
    first.save(buffer, "GIF", save_all=True, append_images=others, **options)
    return buffer.getvalue()


def embedded(rgb: NDArray[np.uint8], x: float, y: float, width: float, height: float) -> str:
    """An <image> element with pixels (rows, columns, 3) at this place and size."""
    return _image(_png(Image.fromarray(np.ascontiguousarray(rgb))), x, y, width, height)


def _image(address: str, x: float, y: float, width: float, height: float) -> str:
    return (
        f'<image href="{address}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        ' preserveAspectRatio="none" style="image-rendering:pixelated"/>'
    )


def _bars(x: float, top: float, most: float, worst: float) -> str:
    """Colour bars of speeds and of errors, one below the other."""
    parts = []
    for number, (name, limit) in enumerate((("speed", most), ("error", worst))):
        start = top + number * 96
        shades = np.arange(SHADES, dtype=np.uint8)[::-1, None] + np.uint8(number * SHADES)
        parts += [
            _image(_png(_picture(shades), transparency=CLEAR), x, start, 10, 64),
            text(x, start - 6, name, 'font-size="10"'),
            text(x + 14, start + 8, f"{limit:.2g}", 'font-size="10"'),
            text(x + 14, start + 64, "0", 'font-size="10"'),
        ]
    return "".join(parts)
