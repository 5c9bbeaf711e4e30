"""Starts of all baselines, at default width on real turbulence: no model begins far ahead of or behind another.

Three numbers are compared, before the first step of a training on the change between two frames:

- forecast: rms of the forecast change over rms of the true change;
- gradient: norm of the gradient of the training loss (MSE of one step, plus the model's own penalty);
- silent: share of the channels before a ReLU that are zero after it on the whole batch.
"""

from dataclasses import dataclass
from statistics import median

import pytest
import torch
from torch import Tensor, nn

from benchmark.cell import Training
from benchmark.data.physics.spectral import Start
from benchmark.data.physics.turbulence import FRAME_INTERVAL, ISOTROPIC, Turbulence
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.training.loss import RolledOutLoss

TASK = Task("turbulence_rotation", 2, 32, 32, "change", periodic=True)
WINDOWS, FIRST = 4, 4
FACTOR = 10
"""Largest ratio of a number to its median over the models, and of the median to it."""
MOST_SILENT = 0.25
WIDTHS = {"clcnn": {"hidden": 32}}
"""The default of `clcnn`, 8 channels, saves memory; the gradient of a narrower network is smaller."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Beginning:
    """The three numbers of one model."""

    forecast: float
    gradient: float
    silent: float


def windows() -> tuple[Tensor, Tensor]:
    """Windows (B, 2, 2, 32, 32) of isotropic turbulence and the frames after them, (B, 1, 2, 32, 32)."""
    starts = tuple(Start(seed) for seed in range(WINDOWS))
    flow = Turbulence(ISOTROPIC, 32, FIRST + 3, FRAME_INTERVAL, 5, starts)
    field = torch.from_numpy(flow.simulate())
    return field[:, FIRST : FIRST + 2], field[:, FIRST + 2 :]


def beginning(model: Baseline, x: Tensor, y: Tensor) -> Beginning:
    """Measure `model`, of which a ReLU is a module."""
    silent: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, __, v: silent.append(v.amax((0, *range(2, v.ndim))) <= 0))
    with torch.no_grad():
        change = model(x)
    shares = torch.cat([torch.zeros(1), *silent]).float()
    RolledOutLoss(model, Training(), CPU, True)(x, y, torch.full((len(x),), 0.4))[0].backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    ratio = change.square().mean() / (y[:, 0] - x[:, -1]).square().mean()
    return Beginning(float(ratio.sqrt()), float(torch.cat(gradients).norm()), float(shares.mean()))


@pytest.fixture(scope="module")
def table() -> dict[str, Beginning]:
    x, y = windows()
    measured = {}
    for name in model_registry.model_names():
        baseline = model_registry.model(name)
        config = baseline.Config.model_validate(WIDTHS.get(name, {}))
        if baseline.trained and baseline.cannot_run(config, TASK) is None:
            torch.manual_seed(0)
            measured[name] = beginning(baseline(config, TASK), x, y)
    return measured


@pytest.mark.parametrize("number", ["forecast", "gradient"])
def test_all_models_start_within_a_factor_of_ten_of_the_median(table: dict[str, Beginning], number: str) -> None:
    values = {name: getattr(one, number) for name, one in table.items()}
    middle = median(values.values())
    off = {name: value / middle for name, value in values.items() if not 1 / FACTOR < value / middle < FACTOR}
    assert off == {}, f"{number}, over the median {middle:.3g}"


def test_few_units_are_silent_at_the_start(table: dict[str, Beginning]) -> None:
    assert {name: one.silent for name, one in table.items() if one.silent > MOST_SILENT} == {}
