"""The contract of a baseline, and the guide to writing one.

One file in `benchmark/models/`, whose name is the baseline's name, holds one subclass of `Baseline`. It is an
ordinary single-device `nn.Module`; training, ranks, precision and roll-out are applied from outside. To add one,
start from a copy of another (`symbench new-baseline NAME --from MODEL`), or from nothing:

1. Give it a `Config` (typed, frozen, every field with its default; its width is `hidden`) and the class attributes
   below.
2. Build the layers in `__init__(config, task)`; `task` tells the input frames, channels and grid.
3. Write `forward(x_BTCHW) -> y_BCHW`: the next frame from `task.input_frames` frames, or, without any change to a
   network, how it differs from the last one: which of the two is the suite's choice (`protocol.target`).
4. If the relaxation is penalised, return it from `penalty()`, its coefficient included.
5. If it cannot run on some task, return the reason from `supports(task)`; the reason reaches the leaderboard.

A method that changes how a network is trained has three more places, all of which do nothing if left alone:
`augment` (other windows), `regularization` (a loss on these windows) and `before_step` (a schedule, or a rule that
watches the gradients).

A weight that is expanded from coefficients (a filter from a basis) is registered with
`torch.nn.utils.parametrize`: the training loop then expands it once for each optimiser step and not once for each
rolled-out step.

Shape letters: B windows, T input frames, S rolled-out steps, C components, H and W the grid along x and y.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from benchmark.cell import Frozen, Grid, Target

Family = Literal["relaxed", "strict", "cnn", "approximate", "reference"]
Symmetry = Literal["translation", "rotation", "scale"]


@dataclass(frozen=True)
class Task:
    """What a model must fit: `channels` components on an (H, W) grid from `input_frames` frames.

    `target` says whether `forward` gives the next frame or its change from the last one. In a `periodic` box what
    leaves at one side enters at the other: convolutions pad circularly there. `grid` says where the components of a
    velocity live within a cell, for those who transform it.
    """

    dataset: str
    input_frames: int
    channels: int
    height: int
    width: int
    target: Target = "frame"
    periodic: bool = False
    grid: Grid = "centered"

    @property
    def padding_mode(self) -> Literal["zeros", "circular"]:
        """As torch's convolutions call it."""
        return "circular" if self.periodic else "zeros"

    def lacks_velocity(self) -> str | None:
        """Why a model that acts on the two components of one velocity cannot run; None where it can."""
        return None if self.channels == 2 else f"needs 2 velocity components, {self.dataset} has {self.channels}"


@dataclass(frozen=True)
class Choice:
    """Search one of `values`."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class LogUniform:
    """Search log-uniformly in [low, high]."""

    low: float
    high: float


SearchSpace = Mapping[str, Choice | LogUniform]


class Baseline(nn.Module, ABC):
    """One contender on the board."""

    class Config(Frozen):
        """Hyperparameters of the baseline; a subclass lists its own."""

    family: ClassVar[Family]
    """`relaxed`, `strict`, `cnn`, `approximate`, or `reference`."""
    symmetries: ClassVar[tuple[Symmetry, ...]]
    """The groups that it keeps, exactly or relaxed. A convolution with zero padding counts as `translation`."""
    source: ClassVar[str]
    """Paper and section, as on the board."""
    search_space: ClassVar[SearchSpace] = {}
    """Config field -> what tuning may try."""
    width_field: ClassVar[str] = "hidden"
    """The Config field that says how wide the network is, which a suite's `budget` of parameters decides."""
    trained: ClassVar[bool] = True
    """False for a baseline without parameters: it is evaluated once, whatever the seeds."""

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """None where the baseline can run on `task`, otherwise the reason why not, in a few words."""
        return None

    @classmethod
    def refusal(cls, config: Any, task: Task) -> str | None:
        """What `supports` says; a baseline whose settings decide asks them, too."""
        return cls.supports(task)

    @classmethod
    def widened(cls, config: Any, width: int) -> Any:
        """`config` with that width; None where there is none to set."""
        if cls.width_field not in cls.Config.model_fields:
            return None
        return cls.Config.model_validate({**config.model_dump(), cls.width_field: width})

    @abstractmethod
    def __init__(self, config: Any, task: Task) -> None:
        super().__init__()
        self.task = task

    @abstractmethod
    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """The frame after the last one of `x`, or its change: (B, T, C, H, W) -> (B, C, H, W)."""

    def next_frame(self, x_BTCHW: Tensor) -> Tensor:
        """The frame after the last one of `x`, whatever `forward` gives: (B, T, C, H, W) -> (B, C, H, W)."""
        prediction = self(x_BTCHW)
        return x_BTCHW[:, -1] + prediction if self.task.target == "change" else prediction

    def penalty(self) -> Tensor:
        """A scalar added to the loss, coefficient included; zero for a model without one."""
        return torch.zeros(())

    def augment(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        """The windows and their targets as the loss is to see them.

        `draws` are uniform in [0, 1), one for each window, and the same however many ranks share the batch: chance
        comes from them alone.
        """
        return x_BTCHW, y_BSCHW

    def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
        """A scalar added to the loss that depends on the windows, coefficient included; `draws` as in `augment`."""
        return torch.zeros(())

    def before_step(self, progress: float) -> None:
        """Called before each step of the optimiser, when gradients are there and equal on all ranks.

        `progress` is the part of training that is done, in [0, 1), early stopping left out. What is remembered
        between calls belongs in buffers, which checkpoints keep.
        """
