"""Order of the axes in the arrays of others, and its change to (time, component, x, y)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UserError

EXAMPLE = "--axes ntxyc: run, time, x, y, component; a minus, as in -y, where the coordinate falls along the axis"
POSSIBLE = "symbench forecasts a velocity of two components, scalars that --scalar names, or both"
SMALLEST_SIDE, LARGEST_SIDE, MOST_RUNS = 4, 8192, 100_000
NAMES_SHOWN = 10


def listed(names: Iterable[str]) -> str:
    """First names of those in a file, printable and short; `nothing` if there are none."""
    some = sorted(names)
    more = f" and {len(some) - NAMES_SHOWN} more" if len(some) > NAMES_SHOWN else ""
    return ", ".join(ascii(name[:60])[1:-1] for name in some[:NAMES_SHOWN]) + more or "nothing"


@dataclass(frozen=True)
class Axes:
    """Letters of the axes in the order of the array, n (run), t (time), x, y, c (component): `ntxyc`.

    `n` is missing where a file is one run, `c` where each component has an array of its own. A letter in `reversed` is
    stored backwards: x or y falls along its axis, or the y component stands first.
    """

    letters: str
    reversed: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Axes:
        """Axes from `--axes`, as `ntxyc` or `t-yx`. UserError: no such order."""
        letters = text.replace("-", "")
        valid = re.fullmatch(r"(-?[xyc]|[nt])+", text) and max(Counter(letters).values()) == 1
        if not valid or not set("txy") <= set(letters):
            raise UserError(f"--axes {text}: must have t, x and y once, n and c at most once; {EXAMPLE}")
        return cls(letters, frozenset(re.findall("-(.)", text)))

    def __str__(self) -> str:
        return "".join(f"-{letter}" if letter in self.reversed else letter for letter in self.letters)

    @property
    def of_scalars(self) -> Axes:
        """Axes of the scalars beside a velocity that has these."""
        return Axes(self.letters.replace("c", ""), self.reversed - {"c"})

    def sizes(self, shapes: Sequence[tuple[int, ...]], where: str) -> dict[str, int]:
        """Size of each axis of a velocity. UserError: the arrays have other axes, or are none; `where` names them."""
        shape = shapes[0]
        if any(other != shape for other in shapes):
            raise UserError(f"{where}: its components have the shapes {' and '.join(map(str, shapes))}")
        if len(shapes) > 2 or (len(shapes) == 1) != ("c" in self.letters):
            raise UserError(f"{where}: {len(shapes)} arrays with the axes {self} are no velocity: {POSSIBLE}")
        if len(shape) == len(self.letters) and "c" in self.letters and shape[self.letters.index("c")] != 2:
            raise UserError(f"{where}: has {shape[self.letters.index('c')]} components; {POSSIBLE}")
        return self.sizes_of_array(shape, where)

    def sizes_of_array(self, shape: tuple[int, ...], where: str) -> dict[str, int]:
        """Size of each axis; a last axis of one number more is left out. UserError: the array has other axes."""
        if len(shape) == len(self.letters) + 1 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != len(self.letters):
            raise UserError(f"{where}: has the shape {shape}, and not the {len(self.letters)} axes {self}; {EXAMPLE}")
        sizes = dict(zip(self.letters, map(int, shape), strict=True))
        if min(sizes.values()) < 1 or not all(SMALLEST_SIDE <= sizes[axis] <= LARGEST_SIDE for axis in "xy"):
            raise UserError(f"{where}: has the shape {shape}; x and y have {SMALLEST_SIDE} to {LARGEST_SIDE} points")
        if sizes.get("n", 1) > MOST_RUNS:
            raise UserError(f"{where}: has {sizes['n']:,} runs; at most {MOST_RUNS:,} of a file can be imported")
        return sizes

    def read(self, arrays: Sequence[Any], run: int, frames: slice, thin: int) -> NDArray[Any]:
        """Frames of a run from the arrays of its components, every `thin`-th point: (time, component, x, y)."""
        chosen = {"n": run, "t": frames}
        index: tuple[Any, ...] = tuple(chosen.get(letter, slice(None)) for letter in self.letters)
        letters = self.letters.replace("n", "")
        order = [letters.index(letter) for letter in "tcxy" if letter in letters]
        parts = [np.transpose(array[index + (0,) * (array.ndim - len(index))], order) for array in arrays]
        field = parts[0] if "c" in letters else np.stack(parts, axis=1)
        field = field[..., ::thin, ::thin]
        for letter in self.reversed:
            field = np.flip(field, "tcxy".index(letter))
        return field
