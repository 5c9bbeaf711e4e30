"""A field in motion: four runs side by side as a GIF.

The frames are arrays of palette indices, put together with numpy; a matplotlib figure for each would take a minute.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from math import log, sqrt
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont, truetype

from benchmark.data.layout import StoredField
from benchmark.data.show.planes import COLORS, Planes, spread
from benchmark.files import replacing

MOST_RUNS, MOST_FRAMES = 4, 80
MOST_BYTES = 4_000_000
PANEL_AREA, PANEL_SIDE = 200 * 200, 260
"""In pixels, about and at most; each cell is a square of whole pixels."""
SHADES, GRAYS = 65, 16
"""Of the vorticity, an odd number so that zero is one of them; and of the text, from white to black."""
FRAME_GRAY = SHADES + 7
MARGIN, LINE, FONT_SIZE, TITLE_LINES = 12, 15, 11, 3
MILLISECONDS = 90

Indices = NDArray[np.uint8]


def animation(stored: StoredField, path: Path) -> None:
    """Write a GIF that loops: up to four runs over time, coloured by vorticity in one scale, x right and y up.

    The colours are the same in all frames. A file of more than 4 MB is made again with half the frames.
    MachineError where `path` cannot be written.
    """
    runs, frames = spread(stored.field.shape[0], MOST_RUNS), MOST_FRAMES
    encoded = _encode(Planes.of(stored, runs, spread(stored.field.shape[1], frames)))
    while len(encoded) > MOST_BYTES and frames > 2:
        frames //= 2
        encoded = _encode(Planes.of(stored, runs, spread(stored.field.shape[1], frames)))
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)


@dataclass(frozen=True)
class _Layout:
    """Panels of `width` x `height` pixels in rows and columns, each below `title_lines` lines of text."""

    rows: int
    columns: int
    width: int
    height: int
    zoom: int
    title_lines: int

    @classmethod
    def of(cls, planes: Planes) -> _Layout:
        """In two rows or in one, whichever is nearer to the shape of a page."""
        runs, _, x, y = planes.values.shape
        zoom = max(1, min(round(sqrt(PANEL_AREA / (x * y))), PANEL_SIDE // max(x, y)))
        lines = max(len(_wrap(title, x * zoom)) for title in planes.titles)

        def distance_from_page(shape: tuple[int, int]) -> float:
            return abs(log(shape[1] * (x * zoom + MARGIN) / (shape[0] * (y * zoom + lines * LINE + MARGIN)) / 1.3))

        shape = min({(1, runs), (min(2, runs), (runs + 1) // 2)}, key=distance_from_page)
        return cls(*shape, x * zoom, y * zoom, zoom, lines)

    def empty(self) -> Indices:
        """A white page of the whole size."""
        width = MARGIN + self.columns * (self.width + MARGIN)
        height = MARGIN + self.rows * (self.title_lines * LINE + self.height + MARGIN) + LINE
        return np.full((height, width), SHADES, np.uint8)

    def corner(self, panel: int) -> tuple[int, int]:
        """Left and top of a panel, below its title."""
        row, column = divmod(panel, self.columns)
        title = self.title_lines * LINE
        return MARGIN + column * (self.width + MARGIN), MARGIN // 2 + title + row * (title + self.height + MARGIN)


def _encode(planes: Planes) -> bytes:
    layout = _Layout.of(planes)
    still, palette = _still(planes, layout), _palette()
    pictures: list[Image.Image] = []
    for frame, time in enumerate(planes.times):
        canvas = still.copy()
        for run in range(len(planes.titles)):
            _paste(canvas, planes.values[run, frame] / planes.limit, *layout.corner(run), layout.zoom)
        _write(canvas, f"time {time:g}", MARGIN, canvas.shape[0] - LINE - MARGIN // 2)
        pictures.append(Image.fromarray(canvas))
        pictures[-1].putpalette(palette)
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0)
    return buffer.getvalue()


def _still(planes: Planes, layout: _Layout) -> Indices:
    """What all frames share: titles, the frames of the panels, the colour bar."""
    canvas = layout.empty()
    for run, title in enumerate(planes.titles):
        left, top = layout.corner(run)
        lines = _wrap(title, layout.width)
        for index, line in enumerate(lines):
            _write(canvas, line, left, top - (len(lines) - index) * LINE)
        canvas[top - 1 : top + layout.height + 1, left - 1 : left + layout.width + 1] = FRAME_GRAY
    _color_bar(canvas, f"vorticity, ±{planes.limit:.2g} per time")
    return canvas


def _color_bar(canvas: Indices, text: str) -> None:
    """At the lower right, where there is room beside the time."""
    left, top = canvas.shape[1] - MARGIN - _length(text), canvas.shape[0] - LINE - MARGIN // 2
    if left > 100:
        _write(canvas, text, left, top)
    if left > 100 + SHADES:
        canvas[top + 3 : top + 12, left - 6 - SHADES : left - 6] = np.arange(SHADES, dtype=np.uint8)


def _palette() -> list[int]:
    """Red, green, blue of the colours of the vorticity, then of those of the text."""
    shades = matplotlib.colormaps[COLORS](np.linspace(0, 1, SHADES))[:, :3]
    grays = np.repeat(np.linspace(1, 0.1, GRAYS)[:, None], 3, axis=1)
    return [int(value) for value in (np.concatenate((shades, grays)) * 255).round().flatten()]


def _paste(canvas: Indices, plane: NDArray[np.float32], left: int, top: int, zoom: int) -> None:
    """Draw numbers (X, Y) from -1 to 1, x to the right and y up; what is not finite is black."""
    scaled = (np.nan_to_num(plane).clip(-1, 1) * (SHADES // 2)).round() + SHADES // 2
    shades = np.where(np.isfinite(plane), scaled, SHADES + GRAYS - 1).astype(np.uint8)
    picture = shades.T[::-1].repeat(zoom, axis=0).repeat(zoom, axis=1)
    canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _write(canvas: Indices, text: str, left: int, top: int) -> None:
    """Put a line of text there, as far as the canvas goes."""
    place = canvas[top : top + LINE, left:]
    mask = Image.new("L", place.shape[::-1])
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=_font())
    ink = np.asarray(mask) // (256 // GRAYS)
    place[ink > 0] = SHADES + ink[ink > 0]


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words; what three lines do not hold is cut off."""
    lines = [""]
    for word in text.split(" "):  # not at the spaces within a vector
        longer = f"{lines[-1]} {word}".strip()
        if _length(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    kept = lines[:TITLE_LINES]
    if len(lines) > TITLE_LINES:
        kept[-1] += " …"
    return [_cut(line, width) for line in kept]


def _cut(line: str, width: int) -> str:
    if _length(line) <= width:
        return line
    while line and _length(line + "…") > width:
        line = line[:-1]
    return line + "…"


def _length(text: str) -> int:
    return int(_font().getlength(text)) + 1


@cache
def _font() -> FreeTypeFont:
    """The one of the figures, which matplotlib brings along."""
    return truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)
