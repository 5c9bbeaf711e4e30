"""Strict floor of the smoke datasets with quarter turns: plumes that go on as on each of the four sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.data.dataset import Part
from benchmark.data.physics.smoke import Box, Plume, at_rest, states_of
from benchmark.data.strict_floor import FLOOR_STEPS, deviation, floor_frames


@dataclass(frozen=True)
class SmokeFloor(Part):
    """Strict floor of the states of some plumes after `first` steps, over `steps` frames and the quarter turns.

    `sides` has, for each state, its own plume, and the plumes that it becomes when the state, smoke included, and the
    inflow are turned to the other sides. All are seen from one side, since the simulation commutes with quarter turns:
    only the buoyancies differ.
    """

    box: Box
    sides: tuple[tuple[Plume, ...], ...]
    first: int
    steps: int = FLOOR_STEPS

    @property
    def work(self) -> int:
        """Cells times steps."""
        return sum(self.first + self.steps * len(plumes) for plumes in self.sides) * self.box.cells**2

    def simulate(self) -> NDArray[np.float32]:
        """F(x) - (P F)(x) after each frame: (state, time, 2, X, Y) float32."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        own = [plumes[0] for plumes in self.sides]
        *_, state = states_of(self.box, own, self.first, at_rest(self.box, len(own), device))
        others = list(zip(*self.sides, strict=True))
        smoke, velocity = (torch.cat([tensor] * len(others)) for tensor in state)
        kept = [
            deviation(turned.unflatten(0, (len(others), len(own)))).float().cpu().numpy()
            for _, turned in states_of(self.box, list(chain(*others)), self.steps, (smoke, velocity))
        ]
        return np.stack(kept, axis=1)


def floor_parts(box: Box, sides: Sequence[Sequence[tuple[Plume, ...]]], frames: int, dropped: int) -> list[SmokeFloor]:
    """Floor of two states for each of four sides, at four times; `sides` has their plumes as in `SmokeFloor`."""
    parts = []
    for time, frame in enumerate(floor_frames(frames)):
        states = [states[half] for side, states in enumerate(sides) for half in (0, 1) if (side + 2 * half) % 4 == time]
        parts.append(SmokeFloor(box, tuple(states), dropped + 1 + frame))
    return parts
