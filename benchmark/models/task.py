"""The task of a model: the shape and the meaning of its input and its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from benchmark.cell import DatasetChoice, Grid, Protocol, Target

Kind = Literal["field", "particles"]
"""Kind of a state."""


@dataclass(frozen=True)
class Task:
    """Shapes and boundary condition of a forecast: `channels` components on an (H, W) grid from `input_frames` frames.

    `target` is the quantity that `forward` returns: the next frame, or its change from the last one. In a `periodic`
    box, convolutions pad circularly. `grid` is the position of the velocity components within a cell.
    """

    kind: ClassVar[Kind] = "field"

    dataset: str
    input_frames: int
    channels: int
    height: int
    width: int
    target: Target = "frame"
    periodic: bool = False
    grid: Grid = "centered"

    @classmethod
    def of(cls, dataset: DatasetChoice, protocol: Protocol, shape_CHW: Sequence[int], periodic: bool) -> Task:
        """The task on fields of shape (C, H, W) in the physical layout."""
        channels, height, width = shape_CHW
        if dataset.layout == "published":
            height, width = width, height
        frames, target = protocol.input_frames, protocol.target
        return cls(dataset.name, frames, channels, height, width, target, periodic, dataset.grid)

    @property
    def padding_mode(self) -> Literal["zeros", "circular"]:
        """Padding mode for torch's convolutions."""
        return "circular" if self.periodic else "zeros"


@dataclass(frozen=True)
class ParticleTask:
    """Forecast of `particles` equal particles in three dimensions from `input_frames` frames, `time_step` apart.

    A state is (N, 6): position and velocity of each particle, about the centre of the trap. `target` is as in `Task`.
    """

    kind: ClassVar[Kind] = "particles"

    dataset: str
    input_frames: int
    particles: int
    time_step: float
    target: Target = "frame"
