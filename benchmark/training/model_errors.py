"""Errors in the code of a baseline: wrong forecasts and exceptions. Each message names the model."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmark.errors import CHOOSES_A_DEVICE, SymbenchError, UserError, error_location
from benchmark.models.baseline import Baseline
from benchmark.training.gpu import is_gpu_error


def forecast_problem(y: object, x_BTCHW: Tensor) -> str | None:
    """Problem of `y` as a forecast for the windows `x`, with the expected value; None if there is none."""
    expected = (len(x_BTCHW), *x_BTCHW.shape[2:])
    if not isinstance(y, Tensor):
        return f"forward gives {type(y).__name__}, expected a tensor of shape {expected}"
    if y.shape != expected:
        return f"forward gives a tensor of shape {tuple(y.shape)}, expected (windows, *task.shape) = {expected}"
    if y.device != x_BTCHW.device:
        return f"forward gives a tensor on {y.device}, the windows are on {x_BTCHW.device}: {CHOOSES_A_DEVICE}"
    if y.dtype != torch.float32:
        return f"forward gives numbers of type {y.dtype}, expected torch.float32"
    wrong = y.numel() - int(y.isfinite().sum())
    if wrong:
        return f"forward gives NaN or infinity in {wrong} of {y.numel()} numbers, expected finite numbers"
    return None


@contextmanager
def author_errors(name: str, baseline: type[Baseline]) -> Iterator[None]:
    """Turn exceptions of the baseline's code into a UserError that names it; lack of memory and GPU errors pass."""
    try:
        yield
    except (SymbenchError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if is_gpu_error(error):
            raise
        raise UserError(f"model {name}: {error_location(error, inspect.getsourcefile(baseline))}") from error


def check_forecast(name: str, model: Baseline, x_BTCHW: Tensor) -> None:
    """Raise UserError if `model` gives no valid forecast for `x_BTCHW`. Costs one forward pass."""
    training = model.training
    # Not inference_mode: tensors that a model caches in its first call must work in training, too.
    with torch.no_grad(), author_errors(name, type(model)):
        problem = forecast_problem(model.eval()(x_BTCHW), x_BTCHW)
    model.train(training)
    if problem is not None:
        raise UserError(f"model {name}: {problem}")
