"""The contract of a kind of state, and the guide to adding one.

Training, roll-out, RMSE, statistics, store and board work on states of any shape. What differs between kinds:

1. `benchmark/models/task.py` has what a model is given, a task; `baseline.py` the base class of its models.
2. `benchmark/data/dataset.py` has what a file holds: the preset, with its axes and units.
3. This folder has everything else: a subclass of `Kind`, which `kinds.py` lists, and the pictures in `pictures.py` and
   `panels.py`, each by the name of the kind. The data card includes `data/show/templates/KIND.md.jinja`.

Shape letters are those of baseline.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmark.data.dataset import Dataset, SplitName
from benchmark.data.layout import StoredField
from benchmark.data.windows import Windows
from benchmark.evaluation.evaluate import Ranks
from benchmark.evaluation.metrics import Measures
from benchmark.evaluation.relaxation import Relaxation
from benchmark.models.baseline import Baseline, Symmetry

SplitWindows = Mapping[SplitName, Windows]


@dataclass(frozen=True)
class Action:
    """A group that acts exactly on the windows of one of `tasks`, for the contract.

    `error` is the relative equivariance error of a model on windows, `orbit` gives all images of windows (B, ...).
    """

    tasks: Sequence[Any]
    error: Callable[[Baseline, Tensor], float]
    orbit: Callable[[Tensor], Tensor]


class Kind(ABC):
    """A kind of state."""

    name: ClassVar[str]
    space: ClassVar[tuple[int, ...]]
    """Axes of a state (counted from the last one) that the mean of a snapshot is taken over, for the VRMSE."""
    tasks: ClassVar[Sequence[Any]]
    """Tasks of the contract, the usual one first."""
    actions: ClassVar[Mapping[Symmetry, Action]]
    """Exact actions of the symmetries that a model may declare."""
    symmetries: ClassVar[tuple[Symmetry, ...]]
    """Symmetries that a model may declare, with or without an exact action."""

    @abstractmethod
    def measures(self, stored: StoredField, dataset: Dataset, device: torch.device) -> Measures:
        """Metrics of the roll-outs of a test split, of no window yet."""

    @abstractmethod
    def symmetry_metrics(
        self, model: Baseline, dataset: Dataset, windows: SplitWindows, world: Ranks
    ) -> dict[str, Any]:
        """Equivariance errors of a trained model, by their names in a record; None where undefined."""

    @abstractmethod
    def relaxations(self, model: Baseline, task: Any) -> list[Relaxation]:
        """Relaxed layers of a trained model, for a picture."""


def relative_error(difference: Tensor, scale: Tensor) -> float:
    """Largest difference relative to the largest absolute value of `scale`; 0 if nothing differs."""
    largest = difference.abs().max()
    return 0.0 if largest == 0 else float(largest / scale.abs().max())
