"""The task of a model: the shape and the meaning of its input and its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from benchmark.cell import VELOCITY, Components, DatasetChoice, Grid, Protocol, Target, channels
from benchmark.errors import UserError

Size = Mapping[str, Any]
"""JSON of a preset of a dataset, `Dataset.size`."""


@dataclass(frozen=True)
class Task:
    """Shapes and boundary condition of a forecast: `components` on an (H, W) grid from `input_frames` frames.

    `target` is the quantity that `forward` returns: the next frame, or its change from the last one. In a `periodic`
    box, convolutions pad circularly. `grid` is the position of a velocity's components within a cell.
    """

    kind: ClassVar[str] = "field"
    trivial: ClassVar[tuple[str, ...]] = ("persistence", "linear")
    """Models without weights that every board shows beside the others."""
    plain: ClassVar[tuple[str, str]] = ("cnn", "convnet")
    """Family of the networks without a symmetry under turns, and the usual one of them."""

    dataset: str
    input_frames: int
    height: int
    width: int
    target: Target = "frame"
    periodic: bool = False
    grid: Grid = "centered"
    components: Components = VELOCITY

    @classmethod
    def of(cls, dataset: DatasetChoice, protocol: Protocol, size: Size) -> Task:
        """The task on a preset, whose shape (C, H, W) is that of the physical layout."""
        _, height, width = size["shape"]
        if dataset.layout == "published":
            height, width = width, height
        frames, target = protocol.input_frames, protocol.target
        components = tuple(size["components"].values())
        return cls(dataset.name, frames, height, width, target, size["periodic"], dataset.grid, components)

    @property
    def channels(self) -> int:
        """Numbers in a cell: 2 for each vector, 1 for each scalar."""
        return channels(self.components)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a state, (C, H, W)."""
        return self.channels, self.height, self.width

    @property
    def padding_mode(self) -> Literal["zeros", "circular"]:
        """Padding mode for torch's convolutions."""
        return "circular" if self.periodic else "zeros"


@dataclass(frozen=True)
class ParticleTask:
    """Forecast of `particles` equal particles in three dimensions from `input_frames` frames, `time_step` apart.

    A state is (N, 6): position and velocity of each particle, about the centre of the trap. `target` is as in `Task`.
    """

    kind: ClassVar[str] = "particles"
    trivial: ClassVar[tuple[str, ...]] = ("mean_velocity",)
    plain: ClassVar[tuple[str, str]] = ("free", "gnn")
    components: ClassVar[Components] = ()

    dataset: str
    input_frames: int
    particles: int
    time_step: float
    target: Target = "frame"

    @classmethod
    def of(cls, dataset: DatasetChoice, protocol: Protocol, size: Size) -> ParticleTask:
        """The task on a preset. UserError: `dataset` asks for a grid or a layout of its axes, which particles lack."""
        if dataset.place != "centered":
            raise UserError(f"{dataset.name} has particles, which lie on no grid: leave out `grid` and `layout`")
        particles, _ = size["shape"]
        return cls(dataset.name, protocol.input_frames, particles, size["time_step"], protocol.target)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a state, (N, 6)."""
        return self.particles, 6


AnyTask = Task | ParticleTask
TASKS: Mapping[str, type[Task] | type[ParticleTask]] = {task.kind: task for task in (Task, ParticleTask)}
"""Kind of state -> its task."""


def task_on(dataset: DatasetChoice, protocol: Protocol, size: Size) -> AnyTask:
    """The task of a model on a preset of a dataset. UserError: as in `ParticleTask.of`."""
    return TASKS[size["kind"]].of(dataset, protocol, size)
