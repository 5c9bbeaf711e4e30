"""Vectors from the centre of a sphere, seen from a fixed side, as SVG text: a sphere for each level and one legend."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.figures.plot import LINE, MARKERS, WIDTH, Style, cleaned, group, lines_of, svg, text

ACROSS, HEADING, HALF = 420, 18, 96
"""Width of all spheres, height of a heading, and radius of a sphere that no arrow leaves."""
GAP, LEGEND = 14, 22
"""Space between spheres and legend, and width of a line in the legend."""
LONGEST = 1.5
"""Length, over the radius, at which a longer arrow is cut."""
VIEW, ELEVATION = math.radians(50), math.radians(20)
TIP, SHORTEST = 9.0, 4.0
"""Length of an arrow's head, and that of the shortest arrow; a shorter one is a point."""
THICK, THIN = 2.4, 1.4
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Arrow:
    """A vector (3,) over the radius of its sphere, and the tooltip at its end."""

    name: str
    vector: Vector
    style: Style
    hint: str

    @property
    def is_long(self) -> bool:
        """Whether it is cut at LONGEST."""
        return float(np.linalg.norm(self.vector)) > LONGEST


@dataclass(frozen=True)
class Sphere:
    """A sphere with its heading, the true vector, which has length 1 and is drawn above the others, and the others."""

    heading: str
    truth: Arrow
    arrows: Sequence[Arrow]


class Camera:
    """Orthographic view with z upward, from ELEVATION above the equator.

    It is turned about z until the angle between `subject` (3,) and the line of sight is VIEW, or as near as it gets.
    """

    def __init__(self, subject: Vector) -> None:
        x, y, z = subject / np.linalg.norm(subject)
        azimuth = math.atan2(y, x)
        cosine = (math.cos(VIEW) - z * math.sin(ELEVATION)) / max(math.hypot(x, y) * math.cos(ELEVATION), 1e-9)
        around = azimuth - math.acos(min(max(cosine, -1.0), 1.0))
        level = np.array([math.cos(around), math.sin(around), 0.0])
        self.toward = level * math.cos(ELEVATION) + np.array([0.0, 0.0, math.sin(ELEVATION)])
        self.right = np.array([-math.sin(around), math.cos(around), 0.0])
        self.up = np.cross(self.toward, self.right)
        self.meridian = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
        """Normal of the great circle through the poles and `subject`."""
        self.degrees = math.degrees(math.acos(float(subject @ self.toward / np.linalg.norm(subject))))

    def place(self, vector: Vector) -> tuple[float, float]:
        """Place of a vector in the picture, to the right and down as in SVG."""
        return float(vector @ self.right), -float(vector @ self.up)

    def halves(self, normal: Vector) -> tuple[tuple[float, float], float, bool]:
        """Great circle with this unit normal, drawn as an ellipse: an end of its long axis (length 1), the length of
        the short one, and whether a turn from that end to its opposite, clockwise in the picture, is the front half.
        """
        depth = float(normal @ self.toward)
        x, y = self.place(normal)
        size = math.hypot(x, y)
        end, front = (-y / size, x / size), (-depth * x, -depth * y)
        return end, abs(depth), end[0] * front[1] - end[1] * front[0] > 0


def spheres(panels: Sequence[Sphere], camera: Camera) -> str:
    """The <svg> element: the spheres in one or two columns, beside them the legend."""
    columns = min(2, len(panels))
    wide, tall = ACROSS / columns, 2 * HALF + HEADING + GAP
    radius = HALF / max(1.0, *(math.hypot(*camera.place(_cut(arrow))) for panel in panels for arrow in panel.arrows))
    parts = []
    for index, panel in enumerate(panels):
        x, y = wide * (index % columns + 0.5), tall * (index // columns) + HEADING + HALF
        drawn = [_arrow(arrow, camera, radius, THICK) for arrow in panel.arrows]
        drawn += [_arrow(panel.truth, camera, radius, THIN)]
        parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{_sphere(camera, radius)}{"".join(drawn)}</g>')
        parts.append(text(x, y - HALF - 5, panel.heading, 'text-anchor="middle"'))
    styles = {arrow.name: arrow.style for panel in panels for arrow in (panel.truth, *panel.arrows)}
    legend, bottom = _legend(styles)
    return svg(WIDTH, max(tall * math.ceil(len(panels) / columns), bottom), "".join(parts) + legend)


def _sphere(camera: Camera, radius: float) -> str:
    """Outline, and the near and far halves of the equator and of the meridian of the subject."""
    near, far = "", ""
    for normal in (np.array([0.0, 0.0, 1.0]), camera.meridian):
        (x, y), short, clockwise = camera.halves(normal)
        turn = math.degrees(math.atan2(y, x))
        start, stop = (_point(sign * radius * x, sign * radius * y) for sign in (1, -1))
        arc = f"M{start}A{radius:.1f},{radius * short:.1f} {turn:.1f} 0"
        near += f"{arc} {int(clockwise)} {stop}"
        far += f"{arc} {int(not clockwise)} {stop}"
    line = 'fill="none" stroke="currentColor"'
    return (
        f'<circle r="{radius:.1f}" fill="currentColor" fill-opacity=".04" stroke="currentColor" stroke-opacity=".45"/>'
        f'<path d="{near}" {line} stroke-opacity=".45"/>'
        f'<path d="{far}" {line} stroke-opacity=".45" stroke-dasharray="1 4"/>'
    )


def _point(x: float, y: float) -> str:
    """Coordinates rounded to a tenth, of which none is -0."""
    return f"{round(x, 1) + 0.0:g},{round(y, 1) + 0.0:g}"


def _cut(arrow: Arrow) -> Vector:
    return arrow.vector * (LONGEST / np.linalg.norm(arrow.vector)) if arrow.is_long else arrow.vector


def _arrow(arrow: Arrow, camera: Camera, radius: float, width: float) -> str:
    """An arrow from the centre; a bar ends one that is cut at LONGEST, and one short in the picture is a marker."""
    x, y = (radius * part for part in camera.place(_cut(arrow)))
    drawn, turn = math.hypot(x, y), math.degrees(math.atan2(y, x))
    style, line = arrow.style, ""
    if drawn < SHORTEST:
        mark, turn = MARKERS[style.marker or "o"], 0.0
    else:
        size = 0.0 if arrow.is_long else min(TIP, 0.7 * drawn)
        mark = f"M0,0L{-size:.1f},{-0.4 * size:.1f}V{0.4 * size:.1f}z" if size else f"M0,{-TIP / 2}V{TIP / 2}"
        dash = f' stroke-dasharray="{style.dash}"' if style.dash else ""
        end = _point(x * (1 - size / drawn), y * (1 - size / drawn))
        line = f'<path d="M0,0L{end}" fill="none" stroke="{style.color}" stroke-width="{width}"{dash}/>'
    return group(
        "line",
        arrow.name,
        style,
        f'{line}<path d="{mark}" transform="translate({_point(x, y)}) rotate({turn:.1f})" stroke="{style.color}"'
        f' fill-opacity="{style.fill:g}"><title>{cleaned(arrow.hint)}</title></path>',
    )


def _legend(styles: Mapping[str, Style]) -> tuple[str, float]:
    """Names beside a piece of their lines, and the lower end of the last one."""
    parts, x, y = [], ACROSS + GAP, float(HEADING)
    for name, style in styles.items():
        dash = f' stroke-dasharray="{style.dash}"' if style.dash else ""
        line = f'<path d="M{x},{y:.1f}h{LEGEND}" stroke="{style.color}" stroke-width="2"{dash}/>'
        if style.marker:
            line += (
                f'<path d="{MARKERS[style.marker]}" transform="translate({x + LEGEND / 2} {y:.1f})"'
                f' fill-opacity="{style.fill:g}" stroke="{style.color}"/>'
            )
        lines = lines_of(name)
        words = [text(x + LEGEND + 6, y + 4 + LINE * number, part) for number, part in enumerate(lines)]
        parts.append(group("name", name, style, line + "".join(words)))
        y += LINE * len(lines) + 6
    return "".join(parts), y
