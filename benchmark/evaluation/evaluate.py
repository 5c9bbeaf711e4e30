"""Roll-outs and errors of a model on windows, exact over ranks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from benchmark.data.dataset import SplitName
from benchmark.data.windows import Windows
from benchmark.evaluation.metrics import ForecastError, Measures, ModelEquivarianceError
from benchmark.evaluation.rollouts import Rollouts
from benchmark.groups import Element
from benchmark.models.baseline import Baseline

BATCH = 32
"""Windows in a batch; fixed, so that the metrics do not depend on the batch size of the training."""
ROLLED_OUT = 32
"""Windows, evenly spread, that the equivariance error of a roll-out is averaged over."""


class Ranks(Protocol):
    """Processes that share the windows of an evaluation, seen from one of them."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over ranks, in place."""

    def gather(self, value: float) -> list[float]:
        """Values of all ranks, on every rank."""


def roll_out(model: Baseline, x: Tensor, steps: int, device_type: str, bf16: bool) -> Tensor:
    """Feed the model its own predictions: (B, T, ...) -> (B, steps, ...), float32.

    The model gets copies (`Baseline.next_frame`) and its forecasts are copied, so that no edit in place reaches either.
    """
    predictions = []
    for _ in range(steps):
        with torch.autocast(device_type, torch.bfloat16, enabled=bf16):
            prediction = model.next_frame(x)
        predictions.append(prediction.to(torch.float32, copy=True))
        x = torch.cat((x[:, 1:], predictions[-1][:, None]), dim=1)
    return torch.stack(predictions, dim=1)


def forecast_error(model: Baseline, windows: Windows, world: Ranks, precision: str) -> ForecastError:
    """Forecast error over all windows; equal on all ranks."""
    error = ForecastError.zero(windows.steps, world.device)
    _forecast(model, windows, world, precision, lambda numbers, prediction, truth: error.add(prediction, truth))
    add_up(world, error.squared, error.variance, error.count)
    return error


def split_errors(
    model: Baseline, windows: Windows, world: Ranks, precision: str, space: tuple[int, ...], measures: Measures
) -> ForecastError:
    """Forecast error of each run of a test split; adds its roll-outs to `measures`. Both are equal on all ranks."""
    runs, row = torch.unique(windows.index[:, 0], return_inverse=True)
    error = ForecastError.zero(windows.steps, world.device, len(runs), space)

    def add(numbers: Tensor, prediction: Tensor, truth: Tensor) -> None:
        error.add(prediction, truth, row[numbers].to(truth.device))
        measures.add(prediction, truth)

    _forecast(model, windows, world, precision, add)
    add_up(world, error.squared, error.variance, error.count, *measures.sums())
    return error


def equivariance_error(
    model: Baseline, windows: Windows, group: Sequence[Element], regions: Tensor, world: Ranks, steps: int = 1
) -> ModelEquivarianceError:
    """Equivariance error over `group` and all windows, in float32: the mean over the steps of a roll-out of `steps`.

    `regions` are those of `ChangeError`. Equal on all ranks.
    """
    error = ModelEquivarianceError.zero(regions.to(world.device))
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        for numbers in share(windows, world):
            x, _ = windows.batch(numbers)
            error.add(lambda x: roll_out(model, x, steps, world.device.type, bf16=False), x, group)
    add_up(world, error.difference, error.field, error.count, error.changes.difference, error.changes.change)
    return error


def rollout_equivariance_error(
    model: Baseline, windows: Windows, group: Sequence[Element], regions: Tensor, world: Ranks
) -> ModelEquivarianceError:
    """Equivariance error of a roll-out of `windows.steps` steps, over ROLLED_OUT windows."""
    chosen = (
        torch.linspace(0, len(windows) - 1, min(ROLLED_OUT, len(windows)), device=windows.index.device).round().long()
    )
    few = replace(windows, index=windows.index[chosen])
    return equivariance_error(model, few, group, regions, world, windows.steps)


def example_rollouts(model: Baseline, windows: Windows, split: SplitName, count: int, precision: str) -> Rollouts:
    """Roll-outs of the first window of each of the first `count` runs, for pictures."""
    first = torch.unique(windows.index[:, 0].cpu(), return_inverse=True)[1]
    positions = [int((first == run).nonzero()[0]) for run in range(min(count, int(first.max()) + 1))]
    x, y = windows.batch(torch.tensor(positions))
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        prediction = roll_out(model, x, windows.steps, x.device.type, precision == "bf16")
    rows = windows.index[positions].tolist()
    places = [(run, start) for run, start in rows]
    task, (inputs, truth, forecast) = model.task, [part.cpu().numpy() for part in (x, y, prediction)]
    return Rollouts(split, inputs, truth, forecast, places, task.kind, task.components)


def _forecast(
    model: Baseline, windows: Windows, world: Ranks, precision: str, add: Callable[[Tensor, Tensor, Tensor], None]
) -> None:
    """Roll out the windows of this rank in batches; `add` takes their numbers, the predictions and the truth."""
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        for numbers in share(windows, world):
            x, truth = windows.batch(numbers)
            add(numbers, roll_out(model, x, windows.steps, world.device.type, precision == "bf16"), truth)


def share(windows: Windows, world: Ranks) -> Iterator[Tensor]:
    """Numbers of the windows of this rank, in batches. Every window belongs to exactly one rank."""
    numbers = torch.arange(len(windows), device=windows.index.device)[world.rank :: world.size]
    yield from (batch for batch in numbers.split(BATCH) if len(batch))


def add_up(world: Ranks, *sums: Tensor) -> None:
    """Sum of each tensor over ranks, in place."""
    for values in sums:
        world.sum(values)
