"""Roll-outs and errors of a model on windows, exact over ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from benchmark.data.dataset import SplitName
from benchmark.data.windows import Windows
from benchmark.evaluation.flow import Box, FlowError
from benchmark.evaluation.metrics import ForecastError, ModelEquivarianceError
from benchmark.evaluation.rollouts import Rollouts
from benchmark.groups import Element
from benchmark.models.baseline import Baseline

BATCH = 32
"""Windows at once; fixed, so that the figures do not depend on the training batch."""
ROLLED_OUT = 32
"""Windows, evenly spread, over which the equivariance error of a whole roll-out is the mean."""


class Ranks(Protocol):
    """The processes among which the windows of an evaluation are divided, as this one of them sees them."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over ranks, in place."""


def roll_out(model: Baseline, x_BTCHW: Tensor, steps: int, device_type: str, bf16: bool) -> Tensor:
    """Feed the model its own predictions: (B, T, C, H, W) -> (B, steps, C, H, W), float32."""
    predictions = []
    for _ in range(steps):
        with torch.autocast(device_type, torch.bfloat16, enabled=bf16):
            prediction = model.next_frame(x_BTCHW)
        predictions.append(prediction.float())
        x_BTCHW = torch.cat((x_BTCHW[:, 1:], predictions[-1][:, None]), dim=1)
    return torch.stack(predictions, dim=1)


def forecast_error(model: Baseline, windows: Windows, world: Ranks, precision: str) -> ForecastError:
    """The error over all windows and all ranks; every rank gets the same sums."""
    error = ForecastError.zero(windows.steps, world.device)
    _forecast(model, windows, world, precision, lambda which, prediction, y: error.add(prediction, y))
    for sums in (error.squared, error.variance, error.count):
        world.sum(sums)
    return error


def split_errors(
    model: Baseline, windows: Windows, world: Ranks, precision: str, box: Box
) -> tuple[ForecastError, FlowError]:
    """The same for a test split, run by run, and what kind of flow was forecast."""
    runs, row = torch.unique(windows.index[:, 0], return_inverse=True)
    error = ForecastError.zero(windows.steps, world.device, len(runs))
    height, width = windows.field.shape[-2:]
    flow = FlowError.zero(box, height, width, world.device)

    def count(which: Tensor, prediction: Tensor, y: Tensor) -> None:
        error.add(prediction, y, row[which])
        flow.add(prediction, y)

    _forecast(model, windows, world, precision, count)
    for sums in (error.squared, error.variance, error.count, flow.spectrum, flow.divergence, flow.count):
        world.sum(sums)
    return error, flow


def equivariance_error(
    model: Baseline, windows: Windows, group: Sequence[Element], world: Ranks
) -> ModelEquivarianceError:
    """The model's one-step equivariance error over `group`, all windows and ranks, in float32."""
    error = ModelEquivarianceError.zero(world.device)
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        for which in _share(len(windows), world):
            error.add(model.next_frame, windows.batch(which)[0], group)
    for sums in (error.difference, error.field, error.count):
        world.sum(sums)
    return error


def rollout_equivariance_error(
    model: Baseline, windows: Windows, group: Sequence[Element], world: Ranks
) -> ModelEquivarianceError:
    """The same for a roll-out of `windows.steps` steps, the mean over its steps; over ROLLED_OUT windows at most."""
    error = ModelEquivarianceError.zero(world.device)
    chosen = torch.linspace(0, len(windows) - 1, min(ROLLED_OUT, len(windows)), device=world.device).round().long()
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        for which in _share(len(chosen), world):
            x, _ = windows.batch(chosen[which])
            error.add(lambda x: roll_out(model, x, windows.steps, x.device.type, bf16=False), x, group)
    for sums in (error.difference, error.field, error.count):
        world.sum(sums)
    return error


def example_rollouts(model: Baseline, windows: Windows, split: SplitName, count: int, precision: str) -> Rollouts:
    """The first window of each of the first `count` runs, for pictures."""
    first = torch.unique(windows.index[:, 0].cpu(), return_inverse=True)[1]
    positions = [int((first == run).nonzero()[0]) for run in range(min(count, int(first.max()) + 1))]
    x, y = windows.batch(torch.tensor(positions))
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        prediction = roll_out(model, x, windows.steps, x.device.type, precision == "bf16")
    rows = windows.index[positions].tolist()
    return Rollouts(split, x.cpu().numpy(), y.cpu().numpy(), prediction.cpu().numpy(), [(r, s) for r, s in rows])


def _forecast(
    model: Baseline, windows: Windows, world: Ranks, precision: str, count: Callable[[Tensor, Tensor, Tensor], None]
) -> None:
    """Roll this rank's windows out, and give their numbers, the predictions and the truth to `count`."""
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        for which in _share(len(windows), world):
            x, y = windows.batch(which)
            count(which, roll_out(model, x, windows.steps, world.device.type, precision == "bf16"), y)


def _share(windows: int, world: Ranks) -> Iterator[Tensor]:
    """The numbers of this rank's windows, in batches: every window belongs to exactly one rank."""
    mine = torch.arange(world.rank, windows, world.size, device=world.device)
    yield from (which for which in mine.split(BATCH) if len(which))
