"""Helpers of the tests of models: small models from a fixed seed, random windows, training steps, errors."""

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from benchmark.groups import rotate, zoom
from benchmark.models.baseline import Baseline, Task
from benchmark.models.layers.relaxation import layer_deviations
from benchmark.models.task import AnyTask

Layer = TypeVar("Layer", bound=nn.Module)


def build(model: type[Any], task: AnyTask, **config: Any) -> Any:
    """Model with weights from seed 0."""
    torch.manual_seed(0)
    return model(model.Config.model_validate(config), task)


SCALES = (1.0, 1.5, 2.0)
CLOSED, PERIODIC = Task("made_up", 2, 10, 12), Task("made_up", 2, 8, 9, periodic=True)
SMALL = {"hidden": 4, "kernel_size": 3, "rank": 3, "scales": SCALES, "encoder_grid": 4, "encoder_hidden": 8}
boxes = pytest.mark.parametrize("on", [CLOSED, PERIODIC], ids=["closed", "periodic"])
projections = pytest.mark.parametrize("projection", ["max", "mean"])


def small(model: type[Any], on: Task = CLOSED, **config: Any) -> Any:
    """Model with those of the SMALL settings that it has."""
    known = {key: value for key, value in SMALL.items() if key in model.Config.model_fields}
    return build(model, on, **{**known, **config})


def frames(task: Task, windows: int = 2) -> Tensor:
    """Random windows (B, T, 2, H, W)."""
    return torch.randn(windows, task.input_frames, 2, task.height, task.width)


def layers_of(kind: type[Layer], model: nn.Module) -> list[Layer]:
    return [module for module in model.modules() if isinstance(module, kind)]


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def deviation(layer: nn.Module) -> nn.Parameter:
    """The deviation of a relaxed layer, zero at the start."""
    (parameter,) = layer_deviations(layer)
    return parameter


def set_w(layer: Any, w: Tensor) -> None:
    """Set the weights w = constant + deviation of a layer of filter banks."""
    with torch.no_grad():
        deviation(layer).add_(w - layer.w)


def randomise(module: nn.Module) -> None:
    """Set all parameters to normal random numbers."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()


def train(model: Baseline, x: Tensor, y: Tensor, steps: int = 3, learning_rate: float = 0.05) -> None:
    """Gradient descent without the penalty, each step after the model's `before_step`."""
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    for step in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        model.before_step(step / steps)
        optimizer.step()


def orbit(field: Tensor) -> Tensor:
    """Windows in all four turns."""
    return torch.cat([rotate(field, turns, "centered") for turns in range(4)])


def rotation_error(model: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """max |f(g x) - g f(x)| / max |f(x)| over the quarter turns, for velocities (..., 2, H, W)."""
    with torch.no_grad():
        y = model(x)
        errors = [(model(rotate(x, k, "centered")) - rotate(y, k, "centered")).abs().max() for k in (1, 2, 3)]
    return float(max(errors) / y.abs().max())


def eddies(factor: float, size: int) -> Tensor:
    """factor F(p / factor): two frames of smooth eddies 3 cells wide around the centre of the box."""
    generator = torch.Generator().manual_seed(1)
    center = 6 * (torch.rand(1, 2, 2, 4, 2, generator=generator) - 0.5)
    strength = torch.randn(1, 2, 2, 4, generator=generator)
    p = (torch.arange(size) + 0.5 - size / 2) / factor
    distance = (p[:, None] - center[..., :1, None]) ** 2 + (p - center[..., 1:, None]) ** 2
    return factor * (strength[..., None, None] * torch.exp(-distance / 18)).sum(3)


def scale_error(model: Baseline, enlarged: Baseline, factor: float = 1.5) -> float:
    """mean |f'(g x) - g f(x)| / mean |g f(x)|, with f' the model at enlarged scales."""
    size = model.task.height
    with torch.no_grad():
        expected = zoom(model(eddies(1.0, size)), factor, "centered")
        return float((enlarged(eddies(factor, size)) - expected).abs().mean() / expected.abs().mean())


def with_biases(model: nn.Module, deviation: float) -> Any:
    """Random biases, the same for equal layers: without biases a network would commute with any amplitude."""
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        if key.endswith("bias"):
            parameter.data = deviation * torch.randn(parameter.shape, generator=generator)
    return model


class Constant(nn.Module):
    """Encoder with a fixed output."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.features
