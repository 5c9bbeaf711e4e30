"""The contract of a baseline, and the guide to writing one.

A baseline is one Python file with one subclass of `Baseline`, and the file's name is the baseline's name. It is an
ordinary single-device `nn.Module`: training, data parallelism, precision and roll-out are applied from outside.
`symbench new-baseline NAME` writes a file that trains, `--from MODEL` copies an existing baseline. To make it yours:

1. In `Config`, list the hyperparameters, each with a type and a default. Call the width `hidden`.
2. Set `family`, `symmetries` and `source`, which the leaderboard shows, and a `search_space` for tuning.
3. In `__init__(config, task)`, build the layers for the shapes in `task`. Pad with `task.padding_mode`.
4. In `forward(x_BTCHW)`, return the next frame, or its change from the last one. The suite decides which of the two
   (`protocol.target`); a network is written in the same way for both. `FramesAsChannels` has a forward for networks
   that read the frames as channels.
5. If some tasks are impossible, return the reason from `supports(task)`; the leaderboard shows it.

A method that changes how a network is trained overrides one of these, which do nothing by default:

- `penalty()`: a loss on the weights, such as a price of the relaxation.
- `regularization(x, draws)`: a loss on the training windows.
- `augment(x, y, draws)`: transformed training windows.
- `before_step(progress)`: a schedule, or a rule that reads the gradients.

A model that can leave its symmetry names the parameters that do so in `deviations()`: zero must be the symmetric
network, so write a weight as mean and deviation, w = w_0 + d. Training moves them by `train.relaxation_rate` times the
learning rate. Adam moves every weight by about the learning rate in each step, however small its gradient; without a
smaller rate, deviations walk away from a symmetry that the data keep (docs/relaxation.md).

If a change to your code gives the same settings another meaning, raise `version`: older results then do not count.

`symbench check-baseline NAME|FILE` runs the contract. Its most common demands:

- The forecast for a window depends on this window alone. Batch normalisation breaks that in train mode. The one of
  `layers/norm.py`, a setting `norm` that is off by default, is exact over ranks, and checked in eval mode.
- Random numbers in training come from `draws` alone, so that any number of ranks gives the same weights.
- State that is not trained is in buffers, so that checkpoints contain it.

A filter that is expanded from coefficients is registered with `torch.nn.utils.parametrize`: training then expands it
once for each optimiser step, and not once for each rolled-out step.

A model of particles is a subclass of `ParticleBaseline`, and its states are (N, 6) in place of (C, H, W).

Shape suffixes: B windows, T input frames, S rolled-out steps, C components, H and W the grid along x and y; N
particles, each with the 6 numbers position and velocity.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from benchmark.cell import VELOCITY, Frozen
from benchmark.models.task import AnyTask, ParticleTask, Task

Family = Literal["relaxed", "strict", "cnn", "free", "approximate", "reference"]
"""`cnn` are the unconstrained networks on fields, `free` those on particles."""
Symmetry = Literal["translation", "rotation", "reflection", "scale", "permutation"]


@dataclass(frozen=True)
class Choice:
    """Search one of `values`."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class LogUniform:
    """Search log-uniformly in [low, high]."""

    low: float
    high: float


STATES = {"field": "fields", "particles": "particles"}
"""Kind of state -> its states in a sentence."""
SearchSpace = Mapping[str, Choice | LogUniform]


class Baseline(nn.Module, ABC):
    """One model family of the benchmark."""

    class Config(Frozen):
        """Hyperparameters of the baseline; a subclass lists its own."""

    kinds: ClassVar[tuple[str, ...]] = ("field",)
    """Kinds of states that the model takes, the usual one first; on data of another kind it is "n/a"."""
    family: ClassVar[Family]
    """Type of model, as the leaderboard groups them."""
    symmetries: ClassVar[tuple[Symmetry, ...]]
    """Groups that the model keeps, exactly or, for a relaxed model, at the start. What each one claims, and where:

    - `rotation`: quarter turns of a velocity whose components lie at the cell centres, and of scalars, walls included.
    - `reflection`: mirrors of x and of y, as above. With `rotation` this is D4.
    - `translation`: shifts in a periodic box. With walls, only in cells that the network's reach separates from the
      walls, as for a convolution with zero padding.
    - `scale`: enlargements, up to the sampling of the filters.
    - `permutation`: other numbers for the same particles. For particles, `rotation` and `reflection` are about the
      centre of the trap and in three dimensions, and `translation` is exact.
    """
    source: ClassVar[str]
    """Paper and section, as on the leaderboard."""
    differs: ClassVar[str] = ""
    """How the method differs from that of its paper, in one plain sentence, which boards show; empty if it does not."""
    version: ClassVar[int] = 1
    """Part of the identity of its cells. Raise it when the same settings and seed give another network or training."""
    search_space: ClassVar[SearchSpace] = {}
    """Values that tuning may try, for each Config field."""
    width_field: ClassVar[str] = "hidden"
    """Config field for the width of the network, which a suite's `budget` solves for."""
    needs_velocity: ClassVar[bool] = False
    """Whether the model is written for one velocity; states with other components are then refused."""
    trained: ClassVar[bool] = True
    """False for a baseline without parameters, which is evaluated once, whatever the seeds."""

    @classmethod
    def cannot_run(cls, config: Any, task: AnyTask) -> str | None:
        """Reason why the baseline cannot run on `task` with these settings, or None; the kind of state comes first."""
        if task.kind not in cls.kinds:
            takes = " and ".join(STATES[kind] for kind in cls.kinds)
            return f"takes {takes}, {task.dataset} has {STATES[task.kind]}"
        return cls.refusal(config, task)

    @classmethod
    def supports(cls, task: Any) -> str | None:
        """Reason why the baseline cannot run on `task`, of its kind, in a few words, or None if it can."""
        if cls.needs_velocity and isinstance(task, Task) and task.components != VELOCITY:
            return f"acts on one velocity, {task.dataset} has {', '.join(task.components)}"
        return None

    @classmethod
    def refusal(cls, config: Any, task: Any) -> str | None:
        """As `supports`, for a reason that depends on the settings."""
        return cls.supports(task)

    @classmethod
    def widened(cls, config: Any, width: int) -> Any:
        """Copy of `config` with this width, or None if it has no width."""
        if cls.width_field not in cls.Config.model_fields:
            return None
        return cls.Config.model_validate({**config.model_dump(), cls.width_field: width})

    @abstractmethod
    def __init__(self, config: Any, task: Any) -> None:
        """`task` is that of the model's kind: a `Task`, or a `ParticleTask`."""
        super().__init__()
        self.task: Task = task

    @abstractmethod
    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """Next frame after the last one of `x`, or its change: (B, T, C, H, W) -> (B, C, H, W)."""

    def next_frame(self, x_BTCHW: Tensor) -> Tensor:
        """Next frame after the last one of `x`, for either target: (B, T, C, H, W) -> (B, C, H, W).

        `forward` gets a copy: one that edits its input in place would else change what is rolled out and measured.
        """
        prediction = self(x_BTCHW.clone())
        return x_BTCHW[:, -1] + prediction if self.task.target == "change" else prediction

    @classmethod
    def has_deviations(cls, config: Any) -> bool:
        """Whether a model with these settings has `deviations`; by default, if the class overrides that method."""
        return cls.deviations is not Baseline.deviations

    def deviations(self) -> Sequence[nn.Parameter]:
        """Parameters that measure the distance from the model's symmetric part: all zero is a symmetric network."""
        return ()

    def penalty(self) -> Tensor:
        """Scalar loss on the weights, coefficient included."""
        return torch.zeros(())

    def augment(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        """Windows and targets as the loss sees them, of unchanged shape.

        `draws_B` has one uniform number in [0, 1) for each window, independent of the number of ranks.
        """
        return x_BTCHW, y_BSCHW

    def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
        """Scalar loss on the windows, a mean over them, coefficient included; `draws_B` as in `augment`."""
        return torch.zeros(())

    def before_step(self, progress: float) -> None:
        """Hook before each step of the optimiser, when gradients are complete and equal on all ranks.

        `progress` in [0, 1) is the share of the training that is done, without regard to early stopping.
        """


class FramesAsChannels(Baseline):
    """Baseline whose `network` reads all frames as channels: (B, T C, H, W) -> (B, C, H, W)."""

    network: Any

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W). ValueError if weights belong to one grid, and x is not on it."""
        prediction: Tensor = self.network(x_BTCHW.flatten(1, 2))
        return prediction


class ParticleBaseline(Baseline):
    """Baseline on particles: a state is (N, 6), position and velocity of each particle."""

    kinds = ("particles",)
    task: ParticleTask  # type: ignore[assignment]  # that of a field in the base class

    @abstractmethod
    def __init__(self, config: Any, task: ParticleTask) -> None:
        super().__init__(config, task)

    @abstractmethod
    def forward(self, x_BTN6: Tensor) -> Tensor:
        """Next state after the last one of `x`, or its change: (B, T, N, 6) -> (B, N, 6)."""
