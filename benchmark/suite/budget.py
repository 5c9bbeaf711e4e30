"""Budget of parameters or FLOPs: solves the width of a model, for comparisons of families at equal size or compute."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from benchmark.cell import DatasetChoice, Frozen, ModelChoice, PositiveInt, Protocol
from benchmark.errors import unknown_name
from benchmark.models import model_registry
from benchmark.suite import facts

if TYPE_CHECKING:
    from benchmark.models.baseline import Baseline
    from benchmark.models.task import AnyTask


class Flops(Frozen):
    """Floating-point operations of one forecast step of one window, as in a record (`costs.flops`)."""

    flops: PositiveInt


Budget = PositiveInt | Flops
"""Number of parameters, or of floating-point operations."""
TOLERANCE = 0.02
MOST = {"parameters": 10**9, "flops": 10**13}
"""Largest budgets: models are built to be counted."""
NAMES = {"parameters": "parameters", "flops": "FLOPs a step"}
EXAMPLES = {"parameters": "5.6M, 850k or 5_600_000", "flops": "60M, 1.2G or 60_000_000"}
WIDEST = 2**16
SUFFIXES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_WRITTEN = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*([kKMGT]?)")


def parse(value: Any) -> Budget | None:
    """Budget from `5.6M`, `850k` or a number (of parameters), `{parameters: 5.6M}` or `{flops: 60M}`.

    None for null and `none`. ValueError: anything else.
    """
    if value in (None, "none"):
        return None
    if not isinstance(value, Mapping):
        return _number("parameters", value)
    if len(value) != 1:
        raise ValueError(
            f"must have one of {' and '.join(MOST)}, not {len(value)} keys; a list, as in"
            " [{parameters: 5.6M}, {flops: 60M}], makes a contest of each"
        )
    ((quantity, number),) = value.items()
    if quantity not in MOST:
        raise ValueError(unknown_name("key", quantity, list(MOST)))
    solved = _number(quantity, number)
    return solved if quantity == "parameters" else Flops(flops=solved)


def _number(quantity: str, value: Any) -> int:
    match = _WRITTEN.fullmatch(str(value).strip())
    number = Decimal(match[1].replace("_", "")) * SUFFIXES[match[2]] if match else Decimal(0)
    if number != int(number) or not 1 <= number <= MOST[quantity]:
        raise ValueError(
            f"must be a number of {NAMES[quantity]} up to {_short(MOST[quantity])}, such as {EXAMPLES[quantity]}, not"
            f" {value!r}"
        )
    return int(number)


def described(budget: Budget) -> str:
    """Budget as in the heading of a contest: `5.6M parameters`, `60M FLOPs a step`."""
    quantity, number = _parts(budget)
    return f"{_short(number)} {NAMES[quantity]}"


def _parts(budget: Budget) -> tuple[str, int]:
    return ("flops", budget.flops) if isinstance(budget, Flops) else ("parameters", budget)


def _short(number: int) -> str:
    suffix = next(suffix for suffix in ("T", "G", "M", "k", "") if number >= SUFFIXES[suffix])
    return f"{(Decimal(number) / SUFFIXES[suffix]).normalize():f}{suffix}"


def sized(choice: ModelChoice, budget: Budget, dataset: DatasetChoice, protocol: Protocol) -> ModelChoice:
    """`choice` with the width whose parameters or FLOPs are nearest to `budget`, on the task of `dataset`.

    A model that cannot run there keeps its width. ValueError: the model has no width, no width is within 2 % of the
    budget, or the model cannot be built.
    """
    task = facts.task_of(dataset, protocol)
    baseline, config = model_registry.configured(choice)
    if baseline.cannot_run(config, task) is not None:
        return choice
    if baseline.widened(config, 1) is None:
        raise ValueError(f"{choice.name} has no width that a budget could decide; `budget: null` leaves it as it is")
    quantity, wanted = _parts(budget)
    where = f"{dataset.name} ({dataset.preset})"
    try:
        nearest = _around(baseline, baseline.widened(config, 1).model_dump_json(), quantity, wanted, task)
    except Exception as error:  # a plug-in may raise anything; it is refused by name
        raise ValueError(f"{choice.name} cannot be sized on {where}: {type(error).__name__}: {error}") from error
    width, count = min(nearest, key=lambda counted: abs(counted[1] - wanted))
    if abs(count - wanted) > TOLERANCE * wanted:
        sizes = " and ".join(f"{count:,} at width {width}" for width, count in nearest)
        raise ValueError(
            f"no width of {choice.name} has within 2 % of {wanted:,} {NAMES[quantity]} on {where}, the nearest are"
            f" {sizes}; change its other settings or the budget, or let it be with `budget: null`"
        )
    return choice.model_copy(update={"config": baseline.widened(config, width).model_dump(mode="json")})


Counted = tuple[int, int]
"""A width, and its number of parameters or FLOPs."""


@cache
def _around(baseline: type[Baseline], config_json: str, quantity: str, wanted: int, task: AnyTask) -> list[Counted]:
    from benchmark.evaluation import costs  # torch takes seconds to import

    config = baseline.Config.model_validate_json(config_json)
    counted = costs.parameters if quantity == "parameters" else costs.flops
    return bracket(lambda width: counted(costs.built(baseline, baseline.widened(config, width), task)), wanted)


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
