"""What `forward` must give: a frame of finite float32, on every grid, for every kernel, in every precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.utils import parametrize

from benchmark.contract.candidate import (
    JET,
    ODD,
    ROUND_OFF,
    SQUARE,
    WIDE,
    Candidate,
    Violation,
    loss,
    made_up,
    noise,
    relative,
    targets,
)
from benchmark.contract.candidate import require as require_that
from benchmark.evaluation.evaluate import roll_out
from benchmark.training.model_errors import forecast_problem


def require_forecast(y: object, x_BTCHW: Tensor, where: str) -> None:
    """Violation: `y` is no forecast for the windows `x`."""
    wrong = forecast_problem(y, x_BTCHW)
    if wrong is not None:
        raise Violation(f"{where}: {wrong}")


def forecasts_one_frame(candidate: Candidate, grid: tuple[int, int]) -> str | None:
    """From windows (B, T, C, H, W) comes a frame (B, C, H, W) of finite float32, in a closed and in a periodic box."""
    reasons = []
    for on in (made_up(grid), made_up(grid, periodic=True)):
        reason = candidate.refusal(on)
        if reason is not None:
            reasons.append(reason)
            continue
        model, x = candidate.build(on), noise(on)
        where = f"{on.height} x {on.width}{', periodic' if on.periodic else ''}"
        require_forecast(model(x), x, where)
        penalty = model.penalty()
        require_that(penalty.ndim == 0, f"{where}: penalty has shape {tuple(penalty.shape)}, expected a scalar")
        require_that(bool(penalty.isfinite()), f"{where}: penalty is {penalty.item()}, expected a finite number")
    return reasons[0] if len(reasons) == 2 else None


def takes_kernel_size(candidate: Candidate, size: int) -> str | None:
    """Whatever the size of its kernel, it forecasts one frame."""
    if not candidate.has("kernel_size"):
        return "its Config has no kernel_size"
    try:
        candidate.config(kernel_size=size)
    except ValidationError:
        return f"its Config refuses kernel_size {size}"
    grids = [made_up(grid) for grid in (SQUARE, ODD)]
    for on in [on for on in grids if candidate.refusal(on) is None] or [candidate.task()]:
        x = noise(on)
        require_forecast(candidate.build(on, kernel_size=size)(x), x, f"kernel_size {size}, {on.height} x {on.width}")
    return None


def trains_in_bf16(candidate: Candidate) -> str | None:
    """Under autocast to bfloat16 the forecast, the loss and every gradient are finite."""
    on = candidate.task()
    model, x = candidate.build(on), noise(on)
    with torch.no_grad():
        prediction = roll_out(model, x, 2, "cpu", bf16=True)
    require_that(bool(prediction.isfinite().all()), "the forecast is not finite under autocast to bfloat16")
    value = loss(model, x, targets(on), "bf16")
    require_that(bool(value.isfinite()), f"the loss is {value.item()} under autocast to bfloat16")
    if not candidate.baseline.trained:
        return None
    value.backward()
    for key, parameter in model.named_parameters():
        finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        require_that(finite, f"the gradient of {key} is not finite under autocast to bfloat16")
    return None


def windows_do_not_see_each_other(candidate: Candidate) -> str | None:
    """The forecast for a window does not depend on the others in its batch, in training neither."""
    on = candidate.task()
    model, x = candidate.build(on), noise(on, windows=3)
    with torch.no_grad():
        alone, together = model(x[:1]), model(x)[:1]
    error = relative(together - alone, alone)
    require_that(
        error <= ROUND_OFF,
        f"beside two other windows the forecast differs by {error:.1e} of itself, expected at most {ROUND_OFF:.0e};"
        " a normalisation over the batch does that, and two ranks would then not train as one process",
    )
    return None


def cached_filters_change_nothing(candidate: Candidate) -> str | None:
    """Filters that are expanded once for a whole roll-out give the same bits as those expanded for each step."""
    on = candidate.task()
    model, x = candidate.build(on).eval(), noise(on)
    with torch.no_grad():
        plain = roll_out(model, x, 2, "cpu", bf16=False)
        with parametrize.cached():
            cached = roll_out(model, x, 2, "cpu", bf16=False)
    require_that(torch.equal(cached, plain), "within parametrize.cached() the forecast is another one")
    return None


CHECKS: Mapping[str, Callable[[Candidate], str | None]] = {
    **{
        f"forecasts_one_frame_on_{grid[0]}x{grid[1]}": partial(forecasts_one_frame, grid=grid)
        for grid in (SQUARE, WIDE, ODD, JET)
    },
    **{f"takes_kernel_size_{size}": partial(takes_kernel_size, size=size) for size in (3, 5)},
    "trains_in_bf16": trains_in_bf16,
    "windows_do_not_see_each_other": windows_do_not_see_each_other,
    "cached_filters_change_nothing": cached_filters_change_nothing,
}
