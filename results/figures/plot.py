"""Line charts as SVG text of a few kilobytes; equal numbers give equal bytes.

Ink is `currentColor` and the background is transparent, so that a chart follows the light or dark colours of its page.
matplotlib is not used: it would take minutes and megabytes for a board with hundreds of curves.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from textwrap import wrap

import numpy as np

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 452, 14, 312
"""Area of the data; the names are to the right of it."""
FONT, SMALL, LINE, TITLE = 12, 10, 14, 24
LONGEST_NAME, NAME_LINES = 28, 2
MARKERS: Mapping[str, str] = {
    "o": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "s": "M-3.5,-3.5h7v7h-7z",
    "D": "M0,-4.8L4.8,0L0,4.8L-4.8,0z",
    "^": "M0,-4.6L4.4,3.6H-4.4z",
    "v": "M0,4.6L4.4,-3.6H-4.4z",
    "P": "M-1.5,-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "<": "M-4.6,0L3.6,-4.4V4.4z",
    ">": "M4.6,0L-3.6,-4.4V4.4z",
}
DASH = "6 4"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
STANDALONE = (
    "<style>svg{color:#1b1f24;background:#fff;font-family:system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg{color:#e6e8eb;background:#14171b}}</style>"
)


@dataclass(frozen=True)
class Axis:
    """Label of an axis, and whether it is logarithmic or has integer ticks only.

    Numbers below `least` are drawn at it: the lower end of the axis, whose tick is `≤ least`.
    """

    label: str
    log: bool = False
    integer: bool = False
    least: float | None = None


@dataclass(frozen=True)
class Style:
    """Colour, marker and line of a series. `fill` is the opacity of the marker, `dash` the pattern of the line."""

    color: str
    marker: str = ""
    fill: float = 1.0
    dash: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one line. `low` and `high` are the ends of an interval at each point, drawn as a band.

    `hints` are the tooltips of the points.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: Style
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    hints: Sequence[str] = ()


def chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    from_zero: bool = False,
    span: tuple[float, float] | None = None,
    at: float | None = None,
) -> str | None:
    """The <svg> element; None without any point. `span` shades an interval of x, `at` marks a place on x."""
    shown = [_raised(_kept(one, x.log, y.log), y.least) for one in series]
    shown = [one for one in shown if len(one.x)]
    if not shown:
        return None
    across = _scale([v for one in shown for v in one.x], x, LEFT, RIGHT)
    heights = [v for one in shown for v in (*one.y, *one.low, *one.high) if math.isfinite(v)]
    up = _scale([*heights, *([0.0] if from_zero and not y.log else [])], y, BOTTOM, TOP)
    parts = [_grid(across, up, x, y)]
    if span is not None:
        low, high = (min(max(across(v), LEFT), RIGHT) for v in span)
        parts.append(
            f'<rect x="{_n(low)}" y="{TOP}" width="{_n(max(high - low, 1))}" height="{BOTTOM - TOP}"'
            ' fill="currentColor" fill-opacity=".1"/>'
        )
    if at is not None:
        parts.append(f'<path d="M{_n(across(at))},{TOP}V{BOTTOM}" stroke="currentColor" stroke-dasharray="4 4"/>')
    parts += [group("band", one.name, one.style, _band(one, across, up)) for one in shown if len(one.low)]
    parts += [group("line", one.name, one.style, _points(one, across, up)) for one in shown]
    parts.append(_names([(one, up(one.y[-1]), across(one.x[-1])) for one in shown]))
    return svg(WIDTH, HEIGHT, "".join(parts))


def group(kind: str, name: str, style: Style, content: str) -> str:
    """Part of what has this `name`, a "line", "band" or "name"; the page of a report hides all parts together."""
    return f'<g class="{kind}" data-name="{cleaned(name)}" fill="{style.color}">{content}</g>'


def svg(width: float, height: float, content: str) -> str:
    """An <svg> element with this viewBox; it fills the width of its container."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" font-size="{FONT}"'
        f' fill="currentColor" role="img">{content}</svg>'
    )


def text(x: float, y: float, content: str, attributes: str = "") -> str:
    """A <text> element with `content` escaped."""
    return f'<text x="{_n(x)}" y="{_n(y)}"{attributes and " " + attributes}>{cleaned(content)}</text>'


def cleaned(content: str) -> str:
    """`content` escaped and without control characters, which XML does not allow."""
    return escape("".join(letter if letter.isprintable() else " " for letter in content))


def standalone(element: str, title: str) -> str:
    """SVG document of an <svg> element with size and title, in the light or dark colours that the reader prefers."""
    head, content = element.split(">", 1)
    before, box, after = re.split(r'viewBox="0 0 ([^"]*)"', head, maxsplit=1)
    width, height = (float(part) for part in box.split())
    size = f'width="{_n(width)}" height="{_n(height + TITLE)}" viewBox="0 {-TITLE} {_n(width)} {_n(height + TITLE)}"'
    heading = text(4, 16 - TITLE, title, 'font-weight="600"')
    return f"{before}{size}{after}>{STANDALONE}{heading}{content}\n"


class _Scale:
    """Map of numbers to places between `start` and `end`."""

    def __init__(self, low: float, high: float, log: bool, start: float, end: float, ticks: Sequence[float]) -> None:
        self.low, self.high, self.log, self.start, self.end = low, high, log, start, end
        self.ticks = ticks

    def __call__(self, value: float) -> float:
        a, b, v = (math.log10(n) for n in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (self.end - self.start) * (v - a) / (b - a)


def _scale(values: Sequence[float], axis: Axis, start: float, end: float) -> _Scale:
    low, high = min(values), max(values)
    if axis.log:
        a, b = math.log10(low), math.log10(high)
        room = max(0.04 * (b - a), 0.05)
        a, b = a - room, b + room
        decades = range(math.ceil(a), math.floor(b) + 1)
        if len(decades) > 1:
            every = math.ceil(len(decades) / 6)
            ticks = [10.0**k for k in decades if k % every == 0]
        else:
            ticks = [m * 10.0**k for k in range(math.floor(a), math.ceil(b) + 1) for m in (1, 2, 3, 5)]
        inside = [tick for tick in ticks if a <= math.log10(tick) <= b]
        if len(inside) < 3:
            inside = [tick for tick in _linear_ticks(10**a, 10**b) if tick > 0]
        if axis.least is not None:
            inside = [axis.least, *(tick for tick in inside if tick > 2 * axis.least)]
        return _Scale(10**a, 10**b, True, start, end, inside)
    room = 0.04 * (high - low) or 0.05 * abs(high)
    low, high = (low - room, high + room) if room else (-0.05, 1.0)
    return _Scale(low, high, False, start, end, _linear_ticks(low, high, axis.integer))


def _linear_ticks(low: float, high: float, integer: bool = False) -> list[float]:
    """About five round numbers from `low` to `high`."""
    step = _nice((high - low) / 5)
    if integer:
        step = max(1.0, float(math.ceil(step)))
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _nice(step: float) -> float:
    """The next larger of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= step * (1 - 1e-9))


def _kept(one: Series, log_x: bool, log_y: bool) -> Series:
    """The series without points that are not finite, or not positive on a logarithmic axis; sorted by x."""
    kept = [
        i
        for i, (a, b) in enumerate(zip(one.x, one.y, strict=True))
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]
    kept.sort(key=lambda i: one.x[i])

    def drawn(values: Sequence[float]) -> list[float]:
        return [
            values[i] if math.isfinite(values[i]) and (values[i] > 0 or not log_y) else one.y[i]
            for i in (kept if len(values) else ())
        ]

    x, y, hints = [one.x[i] for i in kept], [one.y[i] for i in kept], [one.hints[i] for i in kept if one.hints]
    return replace(one, x=x, y=y, low=drawn(one.low), high=drawn(one.high), hints=hints)


def _raised(one: Series, least: float | None) -> Series:
    """The series with every number of y that is below `least` at `least`."""
    if least is None:
        return one
    y, low, high = ([max(value, least) for value in values] for values in (one.y, one.low, one.high))
    return replace(one, y=y, low=low, high=high)


def _grid(across: _Scale, up: _Scale, x: Axis, y: Axis) -> str:
    lines = "".join(f"M{_n(across(v))},{TOP}V{BOTTOM}" for v in across.ticks)
    lines += "".join(f"M{LEFT},{_n(up(v))}H{RIGHT}" for v in up.ticks)
    words = [_ticks(scale) for scale in (across, up)]
    if y.least is not None:
        words[1] = [f"≤{word}" if v == y.least else word for v, word in zip(up.ticks, words[1], strict=True)]
    below = "".join(
        text(across(v), BOTTOM + 17, word, 'text-anchor="middle"')
        for v, word in zip(across.ticks, words[0], strict=True)
    )
    beside = "".join(
        text(LEFT - 8, up(v) + 4, word, 'text-anchor="end"') for v, word in zip(up.ticks, words[1], strict=True)
    )
    middle = (TOP + BOTTOM) / 2
    return (
        f'<path d="{lines}" stroke="currentColor" stroke-opacity=".14" fill="none"/>'
        f'<path d="M{LEFT},{TOP}V{BOTTOM}H{RIGHT}" stroke="currentColor" stroke-opacity=".6" fill="none"/>'
        f"{below}{beside}"
        + text((LEFT + RIGHT) / 2, BOTTOM + 38, x.label, 'text-anchor="middle"')
        + text(16, middle, y.label, f'text-anchor="middle" transform="rotate(-90 16 {_n(middle)})"')
    )


def _ticks(scale: _Scale) -> list[str]:
    """Numbers on an axis in one form: `0.25`, or `10⁻⁵` if one is very small or large."""
    if not any(v and not 1e-3 <= abs(v) < 1e5 for v in scale.ticks):
        return [f"{v:.6g}" for v in scale.ticks]
    if not scale.log:
        return ["0" if abs(v) < 1e-9 * scale.high else f"{v:.3g}" for v in scale.ticks]
    powers = [math.floor(math.log10(v) + 1e-9) for v in scale.ticks]
    factors = [round(v / 10.0**power) for v, power in zip(scale.ticks, powers, strict=True)]
    return [
        ("" if factor == 1 else f"{factor}·") + "10" + str(power).translate(SUPERSCRIPTS)
        for factor, power in zip(factors, powers, strict=True)
    ]


def _band(one: Series, across: _Scale, up: _Scale) -> str:
    if len(one.x) == 1:
        bars = "".join(
            f"M{_n(across(a))},{_n(up(b))}V{_n(up(c))}" for a, b, c in zip(one.x, one.low, one.high, strict=True)
        )
        return f'<path d="{bars}" stroke="{one.style.color}" stroke-opacity=".6" stroke-width="2"/>'
    top = [f"{_n(across(a))},{_n(up(b))}" for a, b in zip(one.x, one.high, strict=True)]
    bottom = [f"{_n(across(a))},{_n(up(b))}" for a, b in zip(one.x, one.low, strict=True)]
    return f'<path d="M{"L".join([*top, *reversed(bottom)])}z" fill="{one.style.color}" fill-opacity=".16"/>'


def _points(one: Series, across: _Scale, up: _Scale) -> str:
    places = [(across(a), up(b)) for a, b in zip(one.x, one.y, strict=True)]
    parts = []
    if len(places) > 1:
        dash = f' stroke-dasharray="{one.style.dash}"' if one.style.dash else ""
        line = "L".join(f"{_n(a)},{_n(b)}" for a, b in places)
        parts.append(f'<path d="M{line}" fill="none" stroke="{one.style.color}" stroke-width="1.8"{dash}/>')
    if one.style.marker:
        mark = f'd="{MARKERS[one.style.marker]}" fill-opacity="{one.style.fill:g}" stroke="{one.style.color}"'
        for index, (a, b) in enumerate(places):
            hint = f"<title>{cleaned(one.hints[index])}</title>" if one.hints else ""
            parts.append(f'<path {mark} transform="translate({_n(a)} {_n(b)})">{hint}</path>')
    return "".join(parts)


def _names(ends: Sequence[tuple[Series, float, float]]) -> str:
    """Name of each line, as close to the height of its end as the other names allow, joined to it by a thin line."""
    wanted = sorted((end for end in ends if end[0].name), key=lambda end: (end[1], end[0].name))
    texts = [lines_of(one.name) for one, _, _ in wanted]
    total = sum(map(len, texts))
    line = min(LINE, (HEIGHT - 8) / max(total, 1))
    size = FONT if line == LINE else min(SMALL, line * 0.9)
    remaining = sum(len(each) * line for each in texts)
    bottom, parts = 4.0, []
    for (one, height, end), lines in zip(wanted, texts, strict=True):
        tall = len(lines) * line
        center = min(max(height, bottom + tall / 2), HEIGHT - 4 - remaining + tall / 2)
        bottom, remaining = center + tall / 2, remaining - tall
        start = center - tall / 2 + line * 0.78
        joint = (
            f'<path d="M{_n(end + 6)},{_n(height)}L{RIGHT + 14},{_n(center)}" stroke="{one.style.color}"'
            ' stroke-opacity=".5" fill="none"/>'
        )
        words = [
            text(RIGHT + 18, start + number * line, part, f'font-size="{_n(size)}"')
            for number, part in enumerate(lines)
        ]
        parts.append(group("name", one.name, one.style, joint + "".join(words)))
    return "".join(parts)


def lines_of(name: str) -> list[str]:
    """A name in at most NAME_LINES lines, as it is written beside a figure."""
    return wrap(name, LONGEST_NAME, max_lines=NAME_LINES, placeholder=" …") or [" "]


def _n(value: float) -> str:
    """A coordinate, rounded to a tenth."""
    return np.format_float_positional(round(float(value), 1), trim="-") if value else "0"
