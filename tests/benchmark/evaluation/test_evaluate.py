"""Roll-outs and errors are those of the model, however it treats the tensors that it gets and returns."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmark.cell import Target, Training
from benchmark.data.dataset import Split
from benchmark.data.windows import Windows
from benchmark.evaluation.evaluate import equivariance_error, forecast_error, share
from benchmark.evaluation.regions import defined
from benchmark.groups import elements
from benchmark.models.baseline import Baseline, Task
from benchmark.training.distributed import World
from benchmark.training.loss import RolledOutLoss

STEPS = 3


class Mixing(Baseline):
    """f(x) = a (edit(x) at the last frame + x at the first); a trained factor a, and an `edit` of the window."""

    family, symmetries, source = "cnn", (), "test"

    def __init__(self, edit: Callable[[Tensor], object], task: Task) -> None:
        super().__init__(None, task)
        self.gain, self.edit = torch.nn.Parameter(torch.tensor(0.5)), edit
        self.output = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.edit(x)
        return self.gain * (x[:, -1] + x[:, 0])


class Overwriting(Mixing):
    """Forecast in memory that the next one overwrites."""

    def forward(self, x: Tensor) -> Tensor:
        forecast = super().forward(x)
        if torch.is_grad_enabled():
            return forecast
        if self.output.shape != forecast.shape:
            self.output = torch.empty_like(forecast)
        return self.output.copy_(forecast)


def measured(model: Baseline) -> list[float]:
    """Forecast error of a roll-out, equivariance error, loss of training and its gradient."""
    field = torch.randn(2, 12, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    windows, world = Windows.of(field, Split((0, 1), (0, 1, 2), STEPS), 2), World()
    group = elements("C4", "centered", False, 6, 6)
    rmse = forecast_error(model, windows, world, "fp32").rmse_by_step()
    error = equivariance_error(model, windows, group, defined(group, 6, 6), world)
    loss, _ = RolledOutLoss(model.train(), Training(), world.device, cache_filters=True)(
        *windows.batch(torch.arange(4)), torch.zeros(4)
    )
    loss.backward()
    (parameter,) = model.parameters()
    assert parameter.grad is not None
    return [*rmse, error.absolute(), error.changes.ratio() or 0.0, float(loss.detach()), float(parameter.grad)]


@pytest.mark.parametrize("target", ["frame", "change"])
@pytest.mark.parametrize(
    ("edit", "kind"),
    [
        (lambda x: x.clamp_(min=0), Mixing),
        (lambda x: x[:, 0].mul_(2), Mixing),
        (lambda x: x[:, :, 1].mul_(2), Mixing),
        (lambda x: x.data.neg_(), Mixing),
        (lambda x: None, Overwriting),
    ],
    ids=["clamp", "frame", "component", "data", "output"],
)
def test_edits_in_place_hurt_no_number(edit: Callable[[Tensor], object], kind: type[Mixing], target: Target) -> None:
    """Every number is that of a model which edits a copy, and returns new tensors."""

    class Careful(Mixing):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    task = Task("noise", 2, 6, 6, target)
    assert measured(kind(edit, task)) == measured(Careful(edit, task))


def test_more_ranks_than_windows() -> None:
    """Each window belongs to one rank, and the last ranks have none."""
    windows = Windows.of(torch.zeros(1, 6, 2, 6, 6), Split((0,), (0, 1), STEPS), 2)
    shares = [[number for batch in share(windows, World(rank, 5)) for number in batch.tolist()] for rank in range(5)]
    assert shares == [[0], [1], [], [], []]
