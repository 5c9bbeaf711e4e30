"""A field in motion: up to four runs side by side as a GIF."""

import io
from math import ceil, log, sqrt
from pathlib import Path
from textwrap import wrap

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from PIL import Image

from benchmark.data.layout import StoredField
from benchmark.data.show.pictures import figure_of, show_plane
from benchmark.data.show.planes import COLORS, Planes, spread
from benchmark.files import replacing

MOST_RUNS, MOST_FRAMES = 4, 80
MOST_BYTES = 4_000_000
MILLISECONDS = 90
PANEL_AREA, PANEL_SIDE = 200 * 200, 260
"""Pixels, about and at most; each cell is a square of whole pixels."""
MARGIN, LINE, FOOT = 12, 15, 30
SCALE, BAR, NARROWEST = 165, 65, 330
"""Pixels: the text of the scale and the colour bar beside it; both and the time fit into the narrowest picture."""
PAGE = 1.3
"""Preferred width over height of all panels."""
DOTS_PER_INCH, FONT_SIZE, LETTER_WIDTH = 100, 8, 6.5
SHADES, GRAYS = 65, 16
"""Colours of the palette for the values (odd, so that zero is one of them) and for the text."""


def animation(stored: StoredField, path: Path) -> None:
    """Write a GIF that loops: up to four runs over time, in one scale of colours, x right and y up.

    The values are those of `Planes`, the colours the same in all frames. A file of more than 4 MB is made again with
    half the frames. MachineError: `path` cannot be written.
    """
    runs, frames = spread(stored.field.shape[0], MOST_RUNS), MOST_FRAMES
    encoded = _encode(Planes.of(stored, runs, spread(stored.field.shape[1], frames)))
    while len(encoded) > MOST_BYTES and frames > 2:
        frames //= 2
        encoded = _encode(Planes.of(stored, runs, spread(stored.field.shape[1], frames)))
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)


def _encode(planes: Planes) -> bytes:
    """GIF of all frames: planes and time over one background, because a full draw takes 0.1 s."""
    runs, _, x, y = planes.values.shape
    zoom = max(1, min(round(sqrt(PANEL_AREA / (x * y))), PANEL_SIDE // max(x, y)))
    wide, tall = x * zoom, y * zoom
    titles = [wrap(title, int(wide / LETTER_WIDTH), max_lines=3, placeholder=" …") for title in planes.titles]
    pitch = tall + MARGIN + LINE * max(map(len, titles))

    def distance_from_page(columns: int) -> float:
        return abs(log(columns * (wide + MARGIN) / (ceil(runs / columns) * pitch) / PAGE))

    columns = min({runs, ceil(runs / 2)}, key=distance_from_page)
    width, height = max(NARROWEST, MARGIN + columns * (wide + MARGIN)), FOOT + ceil(runs / columns) * pitch
    colors = matplotlib.colormaps[COLORS].with_extremes(bad="black")
    with figure_of(width / DOTS_PER_INCH, height / DOTS_PER_INCH, DOTS_PER_INCH) as (figure, canvas):

        def add_axes(x: int, y: int, wide: int, tall: int) -> Axes:
            return figure.add_axes((x / width, 1 - (y + tall) / height, wide / width, tall / height))

        moving: list[AxesImage] = []
        for run, lines in enumerate(titles):
            row, column = divmod(run, columns)
            axes = add_axes(MARGIN + column * (wide + MARGIN), (row + 1) * pitch - tall, wide, tall)
            axes.set_title("\n".join(lines), loc="left", fontsize=FONT_SIZE, pad=4)
            moving.append(show_plane(axes, planes.values[run, 0], colors, -planes.limit, planes.limit))
            moving[-1].set_animated(True)
            axes.spines[:].set_position(("outward", 0.7))
        bar = add_axes(width - MARGIN - SCALE - BAR, height - 18, BAR, 9)
        figure.colorbar(moving[0], cax=bar, orientation="horizontal", ticks=[]).outline.set_visible(False)
        scale = f"{planes.quantity}, ±{planes.limit:.2g} {planes.unit.replace('1 / ', 'per ')}"
        figure.text(1 - MARGIN / width, 9 / height, scale, ha="right", fontsize=FONT_SIZE)
        time = figure.text(MARGIN / width, 9 / height, "", fontsize=FONT_SIZE, animated=True)
        canvas.draw()
        background = canvas.copy_from_bbox(figure.bbox)
        palette, pictures = _palette(), []
        for frame, moment in enumerate(planes.times):
            canvas.restore_region(background)
            for image, plane in zip(moving, planes.values[:, frame], strict=True):
                image.set_data(plane.T)
                figure.draw_artist(image)
            time.set_text(f"time {moment:g}")
            figure.draw_artist(time)
            picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
            pictures.append(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0)
    return buffer.getvalue()


def _palette() -> Image.Image:
    """Image that holds the palette of all frames: shades of the values, then grays of the text."""
    shades = matplotlib.colormaps[COLORS](np.linspace(0, 1, SHADES))[:, :3]
    grays = np.repeat(np.linspace(1, 0, GRAYS)[:, None], 3, axis=1)
    image = Image.new("P", (1, 1))
    image.putpalette([int(value) for value in (np.concatenate((shades, grays)) * 255).round().flatten()])
    return image
