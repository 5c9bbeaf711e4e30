"""Checks of `forward`: a frame of finite float32, on every grid, for every kernel size, in both precisions."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.utils import parametrize

from benchmark.contract.candidate import (
    ROUND_OFF,
    Candidate,
    Violation,
    loss,
    noise,
    targets,
    uniform_draws,
)
from benchmark.contract.candidate import require as require_that
from benchmark.evaluation.evaluate import roll_out
from benchmark.kinds.field import JET, MIXED, ODD, SQUARE, WIDE, velocity_task
from benchmark.kinds.kind import relative_error
from benchmark.kinds.kinds import PARTICLES
from benchmark.models.baseline import Baseline
from benchmark.training.model_errors import forecast_problem


def require_forecast(y: object, x: Tensor, where: str) -> None:
    """Raise Violation if `y` is not a forecast for the windows `x`."""
    problem = forecast_problem(y, x)
    if problem is not None:
        raise Violation(f"{where}: {problem}")


def forecasts_one_frame(candidate: Candidate, grid: tuple[int, int]) -> str | None:
    """`forward` maps windows (B, T, C, H, W) to a finite float32 frame (B, C, H, W), in a closed and a periodic box."""
    reasons = []
    for task in (velocity_task(grid), velocity_task(grid, periodic=True)):
        reason = candidate.refusal(task)
        if reason is not None:
            reasons.append(reason)
            continue
        where = f"{task.height} x {task.width}{', periodic' if task.periodic else ''}"
        _require_frame(candidate.build(task), noise(task), where)
    return reasons[0] if len(reasons) == 2 else None


def forecasts_one_frame_with_scalars(candidate: Candidate) -> str | None:
    """`forward` maps windows with scalars, beside a velocity and alone, to a finite float32 frame, if it takes them."""
    reasons = [candidate.refusal(task) for task in MIXED]
    for task, reason in zip(MIXED, reasons, strict=True):
        if reason is None:
            _require_frame(candidate.build(task), noise(task), " and ".join(task.components))
    return reasons[0] if all(reasons) else None


def forecasts_one_frame_of_particles(candidate: Candidate) -> str | None:
    """`forward` maps windows (B, T, N, 6) to a finite float32 state (B, N, 6), also from one frame."""
    reasons = []
    for task in PARTICLES.tasks:
        reason = candidate.refusal(task)
        if reason is not None:
            reasons.append(reason)
            continue
        _require_frame(candidate.build(task), noise(task), f"{task.particles} particles, {task.input_frames} frames")
    return reasons[0] if len(reasons) == len(PARTICLES.tasks) else None


def _require_frame(model: Baseline, x: Tensor, where: str) -> None:
    require_forecast(model(x), x, where)
    penalty = model.penalty()
    require_that(penalty.ndim == 0, f"{where}: penalty has shape {tuple(penalty.shape)}, expected a scalar")
    require_that(bool(penalty.isfinite()), f"{where}: penalty is {penalty.item()}, expected a finite number")


def leaves_its_input_alone(candidate: Candidate) -> str | None:
    """`forward` and `regularization` change neither their input nor an earlier forecast in place, in either mode."""
    task = candidate.task()
    for training in (True, False):
        model, x = candidate.build(task).train(training), noise(task)
        before, writes = x.clone(), x._version  # counts writes, such as a clamp that finds nothing to cut off
        with torch.no_grad():
            forecast = model(x)
            kept = forecast.clone()
            model(noise(task, seed=5))
            require_that(torch.equal(forecast, kept), "a second forecast overwrites the first: return a new tensor")
            model.regularization(x, uniform_draws(len(x)))
        same = torch.equal(x, before) and x._version == writes
        require_that(
            same, "it edits its input in place, as `x.clamp_()` or `x[:, 0] = 0` do: use a copy, as `x.clamp()`"
        )
    return None


def takes_kernel_size(candidate: Candidate, size: int) -> str | None:
    """`forward` gives one frame with this kernel size."""
    if not candidate.has("kernel_size"):
        return "its Config has no kernel_size"
    try:
        candidate.config(kernel_size=size)
    except ValidationError:
        return f"its Config refuses kernel_size {size}"
    grids = [velocity_task(grid) for grid in (SQUARE, ODD)]
    for task in [task for task in grids if candidate.refusal(task) is None] or [candidate.task()]:
        x = noise(task)
        require_forecast(
            candidate.build(task, kernel_size=size)(x), x, f"kernel_size {size}, {task.height} x {task.width}"
        )
    return None


def trains_in_bf16(candidate: Candidate) -> str | None:
    """Under autocast to bfloat16 the forecast, the loss and every gradient are finite."""
    task = candidate.task()
    model, x = candidate.build(task), noise(task)
    with torch.no_grad():
        prediction = roll_out(model, x, 2, "cpu", bf16=True)
    require_that(bool(prediction.isfinite().all()), "the forecast is not finite under autocast to bfloat16")
    value = loss(model, x, targets(task), "bf16")
    require_that(bool(value.isfinite()), f"the loss is {value.item()} under autocast to bfloat16")
    if not candidate.baseline.trained:
        return None
    value.backward()
    for key, parameter in model.named_parameters():
        finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        require_that(finite, f"the gradient of {key} is not finite under autocast to bfloat16")
    return None


def windows_do_not_see_each_other(candidate: Candidate) -> str | None:
    """The forecast for a window is independent of the other windows in its batch, in train mode, too.

    With the setting `norm: batch` of layers/norm.py, this holds in eval mode.
    """
    task = candidate.task()
    x = noise(task, windows=3)
    _require_no_influence(candidate.build(task), x)
    if candidate.has("norm"):
        model = candidate.build(task, norm="batch")
        with torch.no_grad():
            model(x)  # moves the running statistics
        _require_no_influence(model.eval(), x)
    return None


def _require_no_influence(model: Baseline, x: Tensor) -> None:
    with torch.no_grad():
        alone, together = model(x[:1]), model(x)[:1]
    error = relative_error(together - alone, alone)
    require_that(
        error <= ROUND_OFF,
        f"beside two other windows the forecast differs by {error:.1e} of itself, expected at most {ROUND_OFF:.0e};"
        " batch normalisation does that, and two ranks would then not train as one process",
    )


def cached_filters_change_nothing(candidate: Candidate) -> str | None:
    """Filters that are expanded once for a roll-out give the same bits as filters expanded for each step."""
    task = candidate.task()
    model, x = candidate.build(task).eval(), noise(task)
    with torch.no_grad():
        plain = roll_out(model, x, 2, "cpu", bf16=False)
        with parametrize.cached():
            cached = roll_out(model, x, 2, "cpu", bf16=False)
    require_that(torch.equal(cached, plain), "within parametrize.cached() the forecast differs")
    return None


CHECKS: Mapping[str, Callable[[Candidate], str | None]] = {
    **{
        f"forecasts_one_frame_on_{grid[0]}x{grid[1]}": partial(forecasts_one_frame, grid=grid)
        for grid in (SQUARE, WIDE, ODD, JET)
    },
    "forecasts_one_frame_with_scalars": forecasts_one_frame_with_scalars,
    "forecasts_one_frame_of_particles": forecasts_one_frame_of_particles,
    "leaves_its_input_alone": leaves_its_input_alone,
    **{f"takes_kernel_size_{size}": partial(takes_kernel_size, size=size) for size in (3, 5)},
    "trains_in_bf16": trains_in_bf16,
    "windows_do_not_see_each_other": windows_do_not_see_each_other,
    "cached_filters_change_nothing": cached_filters_change_nothing,
}
