"""Roll-outs and errors of a model on windows, exact over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from .baseline import Baseline
from .data.dataset import SplitName
from .data.windows import Windows
from .distributed import World
from .groups import Element
from .metrics import ForecastError, ModelEquivarianceError
from .recorder import Rollouts

BATCH = 32
"""Windows at once; fixed, so that the figures do not depend on the training batch."""


def roll_out(model: Baseline, x_BTCHW: Tensor, steps: int, device_type: str, bf16: bool) -> Tensor:
    """Feed the model its own predictions: (B, T, C, H, W) -> (B, steps, C, H, W), float32."""
    predictions = []
    for _ in range(steps):
        with torch.autocast(device_type, torch.bfloat16, enabled=bf16):
            prediction = model.next_frame(x_BTCHW)
        predictions.append(prediction.float())
        x_BTCHW = torch.cat((x_BTCHW[:, 1:], predictions[-1][:, None]), dim=1)
    return torch.stack(predictions, dim=1)


def forecast_error(model: Baseline, windows: Windows, world: World, precision: str) -> ForecastError:
    """The error over all windows and all ranks; every rank gets the same sums."""
    error = ForecastError.zero(windows.steps, world.device)
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        for x, y in _share(windows, world):
            error.add(roll_out(model, x, windows.steps, world.device.type, precision == "bf16"), y)
    for sums in (error.squared, error.variance, error.count):
        world.sum(sums)
    return error


def equivariance_error(
    model: Baseline, windows: Windows, group: Sequence[Element], world: World
) -> ModelEquivarianceError:
    """The model's one-step equivariance error over `group`, all windows and ranks, in float32."""
    error = ModelEquivarianceError.zero(world.device)
    model.eval()
    with torch.inference_mode(), parametrize.cached():
        for x, _ in _share(windows, world):
            error.add(model.next_frame, x, group)
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


def _share(windows: Windows, world: World) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's batches: every window belongs to exactly one rank."""
    mine = torch.arange(world.rank, len(windows), world.size, device=world.device)
    for which in mine.split(BATCH):
        if len(which):
            yield windows.batch(which)
