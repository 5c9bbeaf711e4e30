"""Symmetry metrics of a trained model, by the names that records and boards have."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmark.cell import VELOCITY
from benchmark.data.dataset import Dataset, SplitName
from benchmark.data.windows import Windows
from benchmark.evaluation import scale_axis
from benchmark.evaluation.evaluate import Ranks, equivariance_error, rollout_equivariance_error
from benchmark.evaluation.metrics import ModelEquivarianceError
from benchmark.evaluation.regions import by_walls, defined, middle, reach
from benchmark.groups import Element, elements
from benchmark.models.baseline import Baseline, Task

ERROR = "model_equivariance_error"


@contextmanager
def full_float32() -> Iterator[None]:
    """No tf32, which a training may have set: with its 10 bits a strict network looks as if it broke its symmetry."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@full_float32()
def symmetry_metrics(
    model: Baseline, dataset: Dataset, windows: Mapping[SplitName, Windows], world: Ranks
) -> dict[str, float | None]:
    """Equivariance errors of one step, on validation windows, and of a roll-out, on windows of the future test.

    Absolute, over the mean |f(x)|, and over the change that f makes, |g f(x) - g x_last|. Where g moves the walls of a
    box, also near them and beyond the network's reach of them; `reach` is the side of the box if the network covers it.
    For zooms, also within the range of scales, beside the error of a map that commutes with zooms. None: undefined.
    """
    height, width = windows["validation"].field.shape[-2:]
    task: Task = model.task
    group = elements(dataset.group, task.grid, dataset.periodic, height, width, task.components)
    zooms = dataset.group == "scale"
    regions = middle(len(group), height, width) if zooms else defined(group, height, width)
    metrics: dict[str, float | None] = {}
    distance = None
    if not dataset.periodic and dataset.group != "C4":  # a quarter turn takes walls to walls
        distance = reach(model)
        metrics["reach"] = max(height, width) if distance is None else distance
    if distance is not None:
        regions = torch.cat((regions, by_walls(group, height, width, distance)), dim=1)
    errors, one_step = step_and_rollout(model, windows, group, regions, world)
    metrics |= errors
    if distance is not None:
        metrics |= {f"{ERROR}_near_walls": one_step.changes.ratio(1), f"{ERROR}_inside": one_step.changes.ratio(2)}
    if zooms:
        in_range = scale_axis.range_error(model, windows["validation"], world, task.grid)
        metrics[f"{ERROR}_within_range"] = in_range.ratio()
        if task.components == VELOCITY:  # which the map that commutes with zooms moves
            metrics["equivariance_floor"] = scale_axis.floor(windows["validation"], world, task.grid).ratio()
    return metrics


def step_and_rollout(
    model: Baseline, windows: Mapping[SplitName, Windows], group: Sequence[Element], regions: Tensor, world: Ranks
) -> tuple[dict[str, float | None], ModelEquivarianceError]:
    """Metrics of one step and of a roll-out over `group`, and the error of one step; `regions` as in `ChangeError`."""
    one_step = equivariance_error(model, windows["validation"], group, regions, world)
    rolled_out = rollout_equivariance_error(model, windows["future"], group, regions, world)
    metrics: dict[str, float | None] = {}
    for name, error in ((ERROR, one_step), ("rollout_equivariance_error", rolled_out)):
        metrics |= {name: error.absolute(), f"{name}_relative": error.relative()}
        metrics[f"{name}_over_change"] = error.changes.ratio()
    return metrics, one_step
