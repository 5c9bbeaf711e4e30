"""Costs of a model: its parameters, and the floating-point operations of a forecast step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmark.models.baseline import Baseline
from benchmark.models.task import AnyTask

CPU = torch.device("cpu")
COMPLEX_COST = 4
"""Real multiply-adds in a complex multiply-add."""


@dataclass(frozen=True)
class Work:
    """Work of one forecast step: `flops` as a record has them, numbers that other operations write, and operations.

    `flops` and `numbers` are for one window, `operations` for a batch.
    """

    flops: float
    numbers: float
    operations: float


def built(baseline: type[Baseline], config: Any, task: AnyTask) -> Baseline:
    """A model on the CPU, for inspection; the random state is restored."""
    with _same_random_state(CPU):
        return baseline(config, task)


def parameters(model: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: Baseline, device: torch.device = CPU) -> int:
    """Floating-point operations of one forecast step of one window, for a model on `device`.

    The count has 2 for each multiply-add of matrix products and convolutions, and 5 N log2 N for a Fourier transform of
    N points, half of it for real numbers. Pointwise operations do not count. Weights are expanded beforehand, as in a
    roll-out. The model and the random state are restored.
    """
    return round(_counted(model, 1, device).total)


def work(model: Baseline) -> Work:
    """Work of one forecast step, for a model on the CPU. The model and the random state are restored."""
    one, two = (_counted(model, windows, CPU) for windows in (1, 2))
    return Work(round(one.total), two.numbers - one.numbers, one.operations)


def _counted(model: Baseline, windows: int, device: torch.device) -> _Counter:
    task, training = model.task, model.training
    window = torch.zeros(windows, task.input_frames, *task.shape, device=device)
    counter = _Counter()
    model.eval()
    # Not inference_mode: there, a convolution reaches the counter under another name.
    with _same_random_state(device), torch.no_grad(), parametrize.cached():
        for module in filter(parametrize.is_parametrized, model.modules()):
            for name in module.parametrizations:  # type: ignore[union-attr]
                getattr(module, name)
        with counter:
            model.next_frame(window)
    model.train(training)
    return counter


class _Counter(TorchDispatchMode):
    """FlopCounterMode of torch with Fourier transforms and complex numbers; convolutions run on shapes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0
        self.numbers = self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: nothing is compiled here, and torch would import its compiler (half a second) to disable it."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, operation = kwargs or {}, func.overloadpacket
        if operation is torch.ops.aten.convolution:  # shapes suffice; a large network takes half a minute on a CPU
            shapes = (value.to("meta") if isinstance(value, Tensor) else value for value in args)
            result = torch.zeros_like(func(*shapes, **kwargs), device=args[0].device)
        else:
            result = func(*args, **kwargs)
        if operation in _TRANSFORMS:
            self.total += _transform_flops(args[0], result, args[1])
        elif operation in flop_registry:
            is_complex = isinstance(result, Tensor) and result.is_complex()
            count = flop_registry[operation](*args, **kwargs, out_val=result)
            self.total += count * (COMPLEX_COST if is_complex else 1)
        elif isinstance(result, Tensor) and not func.is_view:
            self.numbers += result.numel()
        self.operations += not func.is_view
        return result


_TRANSFORMS = (torch.ops.aten._fft_c2c, torch.ops.aten._fft_r2c, torch.ops.aten._fft_c2r)


def _transform_flops(before: Tensor, after: Tensor, axes: list[int]) -> float:
    """Conventional count for a fast Fourier transform along `axes`, independent of the algorithm."""
    real = next((side for side in (before, after) if not side.is_complex()), None)
    field = before if real is None else real
    return (5.0 if real is None else 2.5) * field.numel() * math.log2(math.prod(field.shape[axis] for axis in axes))


@contextmanager
def _same_random_state(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
