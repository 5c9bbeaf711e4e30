"""Budget of parameters: solves the width of a model, so that families are compared at equal size."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from benchmark.cell import DatasetChoice, ModelChoice, Protocol
from benchmark.models import model_registry
from benchmark.suite import facts

if TYPE_CHECKING:
    from benchmark.models.baseline import Baseline, Task

TOLERANCE = 0.02
MOST_PARAMETERS = 10**9
"""Largest budget: models are built to be counted."""
WIDEST = 2**16
SUFFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_WRITTEN = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*([kKMG]?)")


def parse(value: Any) -> int | None:
    """Number of parameters from `5.6M`, `850k` or a number; None for null and `none`. ValueError: anything else."""
    if value in (None, "none"):
        return None
    match = _WRITTEN.fullmatch(str(value).strip())
    number = Decimal(match[1].replace("_", "")) * SUFFIXES[match[2]] if match else Decimal(0)
    if number != int(number) or not 1 <= number <= MOST_PARAMETERS:
        raise ValueError(f"must be a number of parameters up to 1G, such as 5.6M, 850k or 5_600_000, not {value!r}")
    return int(number)


def sized(choice: ModelChoice, budget: int, dataset: DatasetChoice, protocol: Protocol) -> ModelChoice:
    """`choice` with the width whose number of parameters is nearest to `budget`, on the task of `dataset`.

    A model that cannot run there keeps its width. ValueError: the model has no width, no width is within 2 % of the
    budget, or the model cannot be built.
    """
    task = facts.task_of(dataset, protocol)
    baseline, config = model_registry.configured(choice)
    if baseline.refusal(config, task) is not None:
        return choice
    if baseline.widened(config, 1) is None:
        raise ValueError(f"{choice.name} has no width that a budget could decide; `budget: null` leaves it as it is")
    where = f"{dataset.name} ({dataset.preset})"
    try:
        nearest = _around(baseline, baseline.widened(config, 1).model_dump_json(), budget, task)
    except Exception as error:  # a plug-in may raise anything; it is refused by name
        raise ValueError(f"{choice.name} cannot be sized on {where}: {type(error).__name__}: {error}") from error
    width, count = min(nearest, key=lambda counted: abs(counted[1] - budget))
    if abs(count - budget) > TOLERANCE * budget:
        sizes = " and ".join(f"{count:,} at width {width}" for width, count in nearest)
        raise ValueError(
            f"no width of {choice.name} has within 2 % of {budget:,} parameters on {where}, the nearest are {sizes};"
            " change its other settings or the budget, or let it be with `budget: null`"
        )
    return choice.model_copy(update={"config": baseline.widened(config, width).model_dump(mode="json")})


Counted = tuple[int, int]
"""A width and its number of parameters."""


@cache
def _around(baseline: type[Baseline], config_json: str, budget: int, task: Task) -> list[Counted]:
    from benchmark.evaluation import costs  # torch takes seconds to import

    config = baseline.Config.model_validate_json(config_json)
    return bracket(lambda width: costs.parameters(costs.built(baseline, baseline.widened(config, width), task)), budget)


def bracket(count: Callable[[int], int], budget: int) -> list[Counted]:
    """Largest width within `budget` and smallest width beyond it; only one of them if the other does not exist.

    `count` must not decrease. It is nearly always a polynomial of degree two in the width: the next width to try is
    extrapolated from the last three counts. A width is at most doubled, so that no model is much too large.
    """
    known = [(1, count(1))]
    while True:
        below = [counted for counted in known if counted[1] <= budget]
        above = [counted for counted in known if counted[1] > budget]
        if not below:
            return above
        widest = max(below)[0]
        last = min(above)[0] - 1 if above else 2 * widest
        if last == widest or (not above and widest >= WIDEST):
            return [max(below), *([min(above)] if above else [])]
        if above and len(known) % 4 == 0:  # bisection, for counts that are no polynomial
            width = (widest + last + 1) // 2
        else:
            width = _passing(known[-3:], budget, widest + 1, last)
        known.append((width, count(width)))


def _passing(known: Sequence[Counted], budget: int, first: int, last: int) -> int:
    """First width from `first` to `last` at which the parabola through three counts exceeds `budget`."""
    if len(known) < 3:
        return last
    (w0, c0), (w1, c1), (w2, c2) = known
    slope, next_slope = (c1 - c0) / (w1 - w0), (c2 - c1) / (w2 - w1)
    curvature = (next_slope - slope) / (w2 - w0)
    passing = (w for w in range(first, last) if c0 + (w - w0) * (slope + curvature * (w - w1)) > budget)
    return next(passing, last)
