"""Pictures of particles: a contact sheet of trajectories, and an animation that turns about the trap.

Equal data give equal bytes.
"""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmark.data.layout import StoredField
from benchmark.data.show.pictures import INK, SERIES, drawing
from benchmark.data.show.planes import spread
from benchmark.files import replacing

Points = NDArray[np.float64]
MOST_RUNS, SHEET_FRAMES = 4, 60
"""Runs in a picture, and first frames on the sheet."""
VIEWS = (("x", "y"), ("x", "z"), ("y", "z"))
MOST_FRAMES, MOST_BYTES, MILLISECONDS = 120, 4_000_000, 70
PANEL, ENLARGED = 260, 2
"""Pixels of a panel of the animation, and the factor at which it is drawn before it is made smaller."""
TRAIL = 14
"""Frames that the trail of a particle lasts."""
TILT, TURNS = np.radians(22.0), 1.0
"""Height of the camera above the x-y plane, and its turns about z during the animation."""
DISTANCE = 3.6
"""Camera to centre, in units of the radius of what is shown."""
PAPER, SHADE = (255, 255, 255), (196, 202, 210)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def contact_sheet(stored: StoredField, path: Path) -> None:
    """Write a PNG of trajectories: a run in each row, seen along z, y and x, and the centre of mass, seen along z.

    Lines fade towards the start. The centre of mass does not feel the repulsion: without a magnetic field and in an
    isotropic trap it moves on an ellipse. MachineError: `path` cannot be written.
    """
    runs = spread(stored.field.shape[0], MOST_RUNS)
    states = stored.field[runs, :SHEET_FRAMES].double().numpy()
    reach, inner = _reach(states), _reach(states.mean(2, keepdims=True))
    side, size = 2.3, (4 * 2.45 + 0.5, len(runs) * 2.55 + 0.7)
    with drawing(path, *size) as figure:
        for row, run in enumerate(runs):
            bottom = (len(runs) - 1 - row) * 2.55 + 0.15
            for column in range(4):
                panel = (0.1 + column * 2.45) / size[0], bottom / size[1], side / size[0], side / size[1]
                axes = figure.add_axes(panel)
                first, second = ("xyz".index(axis) for axis in VIEWS[column % 3])
                paths = states[row] if column < 3 else states[row].mean(1, keepdims=True)
                limit = reach if column < 3 else inner
                colors = SERIES if column < 3 else (INK,)
                for particle in range(paths.shape[1]):
                    points = paths[:, particle][:, (first, second)]
                    lines = LineCollection(
                        [*np.stack((points[:-1], points[1:]), 1)], colors=colors[particle % len(colors)]
                    )
                    lines.set_alpha(np.linspace(0.1, 0.9, len(points) - 1).tolist())
                    axes.add_collection(lines)
                    axes.plot(*points[-1], "o", color=colors[particle % len(colors)], markersize=5)
                axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
                axes.spines[:].set(visible=True, linewidth=0.6)
                if column == 0:
                    axes.set_title(f"run {run}", loc="left", fontsize=9, pad=4)
                if row == 0:
                    name = " and ".join(VIEWS[column]) if column < 3 else "centre of mass, x and y"
                    axes.set_title(f"{name}, ±{limit:.2g}", loc="right", fontsize=9, pad=4)
        time = (states.shape[1] - 1) * stored.time_step
        name = f"{stored.dataset}, level {stored.level}, preset {stored.preset}, to time {time:.3g}"
        figure.text(0.1 / size[0], 1 - 0.22 / size[1], name, fontsize=11, weight="bold")


def _reach(states: Points) -> float:
    return 1.08 * float(np.nan_to_num(np.abs(states[..., :3])).max()) or 1.0


@dataclass(frozen=True)
class _Camera:
    """Perspective view of points within `reach` of the centre, from `angle` about z."""

    angle: float
    reach: float

    def see(self, points: Points) -> tuple[Points, Points]:
        """Pixels (..., 2) of an enlarged panel, and the depth (...), 1 at the centre and larger when nearer."""
        x, y, z = np.moveaxis(points[..., :3] / self.reach, -1, 0)
        right = np.cos(self.angle) * x + np.sin(self.angle) * y
        away = -np.sin(self.angle) * x + np.cos(self.angle) * y
        up, away = np.cos(TILT) * z - np.sin(TILT) * away, np.sin(TILT) * z + np.cos(TILT) * away
        depth = DISTANCE / (DISTANCE + away)
        half = PANEL * ENLARGED / 2
        return np.stack((half + 0.8 * half * right * depth, half - 0.8 * half * up * depth), -1), depth


def animation(stored: StoredField, path: Path) -> None:
    """Write a GIF that loops: up to four runs in perspective, with trails, while the camera turns once about z.

    Nearer particles are larger; rings mark the coordinate planes. A file of more than 4 MB is made again with half the
    frames. MachineError: `path` cannot be written.
    """
    count = min(stored.field.shape[1], MOST_FRAMES)
    encoded = _encode(stored, range(count))
    step = 1
    while len(encoded) > MOST_BYTES and count // step > 2:
        step *= 2
        encoded = _encode(stored, range(0, count, step))
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)


def _encode(stored: StoredField, frames: Sequence[int]) -> bytes:
    runs = spread(stored.field.shape[0], MOST_RUNS)
    states = np.nan_to_num(stored.field[runs].double().numpy())
    reach = float(np.percentile(np.linalg.norm(states[:, frames, :, :3], axis=-1), 99)) or 1.0
    columns = min(len(runs), 2)
    size = columns * PANEL, -(-len(runs) // columns) * PANEL + 24
    pictures = []
    for number, frame in enumerate(frames):
        camera = _Camera(2 * np.pi * TURNS * number / len(frames), reach)
        page = Image.new("RGB", size, PAPER)
        for place, run in enumerate(runs):
            row, column = divmod(place, columns)
            page.paste(_panel(states[place], frame, camera), (column * PANEL, row * PANEL))
            ImageDraw.Draw(page).text((column * PANEL + 8, row * PANEL + 6), f"run {run}", fill=_rgb(INK))
        text = f"{stored.dataset}, level {stored.level}, time {frame * stored.time_step:.2f}"
        ImageDraw.Draw(page).text((8, size[1] - 18), text, fill=_rgb(INK))
        pictures.append(page)
    palette = pictures[len(pictures) // 2].quantize(colors=128, dither=Image.Dither.NONE)
    quantized = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    buffer = io.BytesIO()
    quantized[0].save(buffer, "GIF", save_all=True, append_images=quantized[1:], duration=MILLISECONDS, loop=0)
    return buffer.getvalue()


def _panel(run: Points, frame: int, camera: _Camera) -> Image.Image:
    """One run at one frame, with trails; the farthest is drawn first."""
    side = PANEL * ENLARGED
    image = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(image)
    angles = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack((np.cos(angles), np.sin(angles), 0 * angles), -1) * camera.reach
    for axes in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        draw.line([(x, y) for x, y in camera.see(circle[:, axes])[0]], fill=SHADE, width=2)
    for axis, letter in zip(np.eye(3) * camera.reach, "xyz", strict=True):
        end, _ = camera.see(axis)
        draw.text((float(end[0]), float(end[1])), letter, fill=SHADE, font_size=22)
    trail = run[max(0, frame - TRAIL) : frame + 1]
    pixels, depth = camera.see(trail)
    colors = [_rgb(SERIES[particle % len(SERIES)]) for particle in range(run.shape[1])]
    for particle in np.argsort(depth[-1]):
        color, points = np.array(colors[particle]), pixels[:, particle]
        for age, (start, end) in enumerate(itertools.pairwise(points)):
            strength = (age + 1) / len(points)
            shade = (strength * color + (1 - strength) * np.array(PAPER)).astype(int)
            draw.line(
                [(*start,), (*end,)], fill=(*shade.tolist(),), width=round(1 + 5 * strength * depth[-1, particle])
            )
        radius = 13 * depth[-1, particle] ** 2
        x, y = points[-1]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colors[particle], outline=PAPER, width=2)
        light, spot = (color + 2 * np.array(PAPER)) // 3, radius / 3
        x, y = x - spot, y - spot
        draw.ellipse((x - spot, y - spot, x + spot, y + spot), fill=(*light.tolist(),))
    return image.resize((PANEL, PANEL), Image.Resampling.LANCZOS)
