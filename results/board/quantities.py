"""Metrics of the board: titles, units and meanings, statistics over seeds, and their text."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.errors import UserError, unknown_name
from results.statistics.bootstrap import interval


@dataclass(frozen=True)
class Metric:
    """Title, unit and meaning of a metric.

    A value is shown as value / `divisor` in `unit`, or, if `prefixed`, with an SI prefix such as `5.6 M`. `beside` is
    the metric without which the value says nothing; tables show it in the next column. `unranked` is the reason why
    models are not ranked by the metric. `base_unit` is the unit of values that are not divided.
    """

    title: str
    unit: str
    meaning: str
    higher_is_better: bool = False
    divisor: float = 1.0
    prefixed: bool = False
    beside: str = ""
    unranked: str = ""
    base_unit: str = ""

    def merit(self, value: float) -> float:
        """`value`, negated if higher is better: the lowest merit is the best."""
        return -value if self.higher_is_better else value


FIELD = "field units"
SPECTRUM_UNRANKED = "persistence is among the best by it, since it repeats a true frame"
DIVERGENCE_UNRANKED = "that of the truth is not zero on this stencil, and persistence has it"
EQUAL = "it is equal for all models of a level"
PREFIXES = ("", "k", "M", "G", "T", "P")
CURVES = (
    "rmse_future_by_step",
    "rmse_domain_by_step",
    "spectrum_future",
    "spectrum_truth_future",
    "spectrum_domain",
    "spectrum_truth_domain",
)
"""Lists over rolled-out steps, or over wave numbers 1, 2, ..."""
BY_RUN = {"rmse_future": "rmse_future_by_run", "rmse_domain": "rmse_domain_by_run"}
"""Metric -> list of its values for each test run."""

OF_DATA = ("data_equivariance_error", "data_equivariance_error_relative", "strict_floor")
"""Metrics of a level, the same for all its models."""
ROUND_OFF = 1e-6
"""A metric of OF_DATA below this is written as 0."""
MOST_DECIMALS = 6
"""Decimals of a column beyond which its numbers get exponents."""
BY_WALLS = ("model_equivariance_error_near_walls", "model_equivariance_error_inside")
"""Metrics that a network has no part of the box for if it reaches the walls from everywhere."""
SKILLS = {"skill_future": "rmse_future", "skill_domain": "rmse_domain"}
"""Metric that is computed when the board is made, see `results.board.trivial` -> the RMSE that it is made of."""


def tested_as(metric: str) -> str:
    """Metric whose values are tested for `metric`: an RMSE for a skill, which orders models in the same way."""
    return SKILLS.get(metric, metric)


METRICS: Mapping[str, Metric] = {
    "rmse_future": Metric(
        "RMSE future", FIELD, "Root mean square error of the roll-out, later frames of the runs seen"
    ),
    "rmse_domain": Metric("RMSE domain", FIELD, "Root mean square error of the roll-out, runs never seen"),
    "skill_future": Metric(
        "Skill future",
        "1",
        "1 - RMSE future / RMSE future of the best trivial forecast of the same contest",
        higher_is_better=True,
    ),
    "skill_domain": Metric("Skill domain", "1", "The same for RMSE domain", higher_is_better=True),
    "rmse_validation": Metric("RMSE validation", FIELD, "The error by which the best epoch was chosen"),
    "vrmse_future": Metric("VRMSE future", "1", "RMSE future over the standard deviation of the truth"),
    "vrmse_domain": Metric("VRMSE domain", "1", "RMSE domain over the standard deviation of the truth"),
    "model_equivariance_error": Metric(
        "Model equivariance error", FIELD, "Mean |f(gx) - g f(x)|, one step, over the group"
    ),
    "model_equivariance_error_relative": Metric(
        "Relative model equivariance error", "1", "Model equivariance error over the mean |field|"
    ),
    "model_equivariance_error_over_change": Metric(
        "Equivariance error / change",
        "1",
        "Mean |f(gx) - g f(x)| over the mean |g f(x) - g x_last|, what the model adds to the last frame; for zooms, in"
        " the middle half of the box",
    ),
    "model_equivariance_error_near_walls": Metric(
        "Equivariance error / change, near walls",
        "1",
        "The same in cells from which the network reaches a wall, where padding ends the symmetry of any network",
        beside="model_equivariance_error_inside",
    ),
    "model_equivariance_error_inside": Metric(
        "Equivariance error / change, inside",
        "1",
        "The same in the other cells, where a strict network has round-off; n/a if the network reaches the walls from"
        " everywhere",
        beside="reach",
    ),
    "reach": Metric(
        "Reach",
        "cells",
        "Largest distance of an input cell that a forecast depends on; the side of the grid if the network covers it",
        unranked="it is a property of the architecture",
    ),
    "model_equivariance_error_within_range": Metric(
        "Equivariance error / change, within scales",
        "1",
        "Over zooms, with the scales of the network that a zoom leaves within its range; see docs/scale.md",
        beside="equivariance_floor",
    ),
    "equivariance_floor": Metric(
        "Floor of the zoom",
        "1",
        "Equivariance error over the change of a map that commutes with every zoom, u - (u . grad) u, on this grid",
        unranked=EQUAL,
    ),
    "learned_level": Metric(
        "Learned level",
        "1",
        "Level whose field or anisotropy the model has learned, from the derivatives of its forecast; see"
        " benchmark/evaluation/symmetry_discovery.py",
        beside="learned_angle",
        unranked="the nearest to the level is the best",
    ),
    "learned_angle": Metric(
        "Angle of the learned breaking",
        "degrees",
        "Between the learned field or anisotropy and the true one",
        unranked="that of a model without a field is not defined, and at level 0 it says nothing",
    ),
    "data_equivariance_error": Metric(
        "Data equivariance error", FIELD, "Measured data equivariance error of the level", unranked=EQUAL
    ),
    "data_equivariance_error_relative": Metric(
        "Relative data equivariance error", "1", "Data equivariance error over the mean |field|", unranked=EQUAL
    ),
    "strict_floor": Metric(
        "Strict floor",
        FIELD,
        "RMSE of the best strictly equivariant roll-out, where all orientations of a state are equally likely",
        unranked=EQUAL,
    ),
    "rollout_equivariance_error": Metric(
        "Equivariance error, rolled out", FIELD, "Mean |F(gx) - g F(x)| over the steps of a roll-out F, over the group"
    ),
    "rollout_equivariance_error_relative": Metric(
        "Relative equivariance error, rolled out", "1", "Equivariance error of the roll-out over the mean |field|"
    ),
    "rollout_equivariance_error_over_change": Metric(
        "Equivariance error / change, rolled out", "1", "The same over the mean |g F(x) - g x_last|"
    ),
    "spectrum_error_future": Metric(
        "Spectrum error future",
        "decades",
        "Energy of each scale at the last step, root mean square of log10(E / E truth)",
        unranked=SPECTRUM_UNRANKED,
    ),
    "spectrum_error_domain": Metric(
        "Spectrum error domain", "decades", "The same on runs never seen", unranked=SPECTRUM_UNRANKED
    ),
    "divergence_future": Metric(
        "Divergence",
        "1 / time",
        "Mean |divergence| of the roll-out, later frames of the runs seen; the number beside it is its floor",
        beside="divergence_truth_future",
        unranked=DIVERGENCE_UNRANKED,
    ),
    "divergence_truth_future": Metric(
        "Divergence of the truth",
        "1 / time",
        "Mean |divergence| of the same frames of the truth: the error of the stencil on exact fields",
        unranked=EQUAL,
    ),
    "divergence_domain": Metric(
        "Divergence domain",
        "1 / time",
        "Mean |divergence| of the roll-out, runs never seen; the number beside it is its floor",
        beside="divergence_truth_domain",
        unranked=DIVERGENCE_UNRANKED,
    ),
    "divergence_truth_domain": Metric(
        "Divergence of the truth, domain",
        "1 / time",
        "Mean |divergence| of the same frames of the truth: the error of the stencil on exact fields",
        unranked=EQUAL,
    ),
    "relaxation": Metric(
        "Relaxation",
        "%",
        "Deviation of the relaxed layers from strict ones over their weights, root mean squares; 0 is strict",
        divisor=0.01,
        base_unit="1",
        unranked="it says how far weights moved, and not what that is worth",
    ),
    "penalty_share": Metric("Penalty in the loss", "1", "Penalty on the weights over the training loss, best epoch"),
    "penalty_gradient": Metric(
        "Pull of the penalty",
        "1",
        "Norm of the penalty's gradient over that of the data, on the deviations from the symmetry; below 0.01 the"
        " penalty has no effect. Best epoch",
    ),
    "parameters": Metric("Params", "count", "Trainable parameters of the model", prefixed=True),
    "flops": Metric(
        "FLOPs",
        "a step",
        "Floating-point operations of one forecast step of one window: matrix products, convolutions and Fourier"
        " transforms (5 N log2 N), filters expanded beforehand",
        prefixed=True,
    ),
    "samples_per_second": Metric("Speed", "samples/s", "Training samples per second, all ranks", higher_is_better=True),
    "peak_memory_bytes": Metric("Memory", "MiB", "Peak memory of a rank in training", divisor=2**20, base_unit="bytes"),
    "training_seconds": Metric("Training", "s", "Time spent in training"),
    "training_joules": Metric(
        "Energy",
        "kJ",
        "Energy of the devices in training: GPUs by NVML, processors and memory by RAPL; not measured where others used"
        " them, too",
        divisor=1000,
        base_unit="J",
    ),
    "epochs": Metric("Epochs", "count", "Epochs trained before the early stop"),
    "best_epoch": Metric("Best epoch", "count", "The epoch that was kept, chosen by validation"),
}


def require_ranking(metric: str) -> None:
    """UserError: no such metric, or models are not ranked by it."""
    if metric not in METRICS:
        raise UserError(unknown_name("metric", metric, METRICS))
    if METRICS[metric].unranked:
        reason = METRICS[metric].unranked
        raise UserError(f"metric {metric} does not rank models: {reason}; rank by rmse_future, the board shows both")


def symmetry_metric(recorded: Container[str]) -> str:
    """Model equivariance error that says most, of those `recorded`; records of older versions have the last one."""
    names = ("model_equivariance_error_within_range", "model_equivariance_error_over_change")
    return next((name for name in names if name in recorded), "model_equivariance_error")


def with_neighbours(columns: Iterable[str]) -> list[str]:
    """Columns, each followed by the metrics that stand beside it."""
    shown: dict[str, None] = {}
    for name in columns:
        while name:
            shown[name] = None
            name = METRICS[name].beside
    return list(shown)


@dataclass(frozen=True)
class Statistic:
    """Mean over the `n` seeds with a number, sample standard deviation, and ends of the bootstrap interval.

    The last three need two seeds. The mean of integers is an integer if it can be one.
    """

    mean: float
    std: float | None
    n: int
    low: float | None = None
    high: float | None = None


def summaries(rows: Sequence[Sequence[Any]]) -> list[Statistic | None]:
    """Statistic of the finite numbers in each row; None for a row without any."""
    numbers = [[value for value in row if is_number(value)] for row in rows]
    statistics: list[Statistic | None] = [None] * len(rows)
    for n in sorted({len(row) for row in numbers} - {0}):
        where = [index for index, row in enumerate(numbers) if len(row) == n]
        table = np.array([numbers[index] for index in where], dtype=np.float64)
        means = table.mean(axis=1)
        same = (table == table[:, :1]).all(axis=1)
        means[same] = table[same, 0]  # without a rounding error
        spreads = np.where(same, 0.0, table.std(axis=1, ddof=1)) if n > 1 else np.full(len(table), np.nan)
        low, high = means.copy(), means.copy()
        low[~same], high[~same] = interval(table[~same])
        for index, *ends in zip(where, *(each.tolist() for each in (means, spreads, low, high)), strict=True):
            mean, std, least, most = ends
            counted = float(mean).is_integer() and all(isinstance(value, int) for value in numbers[index])
            many = (std, n, least, most) if n > 1 else (None, n, None, None)
            statistics[index] = Statistic(int(mean) if counted else mean, *many)
    return statistics


def curve(lists: Sequence[tuple[float, ...] | None]) -> tuple[Statistic, ...]:
    """Statistic of each step, over the `lists` that are as long as the first; empty without any."""
    present = [one for one in lists if one is not None]
    steps = summaries(list(zip(*(one for one in present if len(one) == len(present[0])), strict=True)))
    return tuple(step for step in steps if step is not None)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number (JSON of other writers may hold NaN)."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def written(value: float, integer: bool = False) -> str:
    """`value` with four significant digits; with an exponent if it is very small or large."""
    if value == 0 or integer:
        return f"{value + 0:.0f}"  # 0 for -0, too
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def written_statistic(name: str, value: Statistic) -> str:
    """`mean ± std` in the unit of the metric; the mean alone without a spread."""
    metric = METRICS[name]
    if metric.prefixed:
        return _prefixed(value)
    mean = written(
        value.mean / metric.divisor, integer=metric.unit in ("count", "cells") and float(value.mean).is_integer()
    )
    return f"{mean} ± {_spread(mean, value.std / metric.divisor)}" if value.std else mean


def written_column(name: str, values: Sequence[Statistic | None]) -> list[str]:
    """`written_statistic` with equal decimals for a whole column: three digits of its smallest number.

    Numbers below a hundredth of the largest are not counted, and are `<0.001` if they round to zero. `-` for None.
    """
    metric = METRICS[name]
    shown = [value for value in values if value is not None]
    sizes = [abs(value.mean / metric.divisor) for value in shown if value.mean and not _is_round_off(name, value.mean)]
    largest = max(sizes, default=0.0)
    decimals = 2 - math.floor(math.log10(min(size for size in sizes if size >= largest / 100))) if sizes else 0
    if metric.prefixed or metric.unit in ("count", "cells") or decimals > MOST_DECIMALS:
        return ["-" if value is None else written_statistic(name, value) for value in values]
    decimals = max(0, decimals)
    return ["-" if value is None else _with_decimals(name, value, decimals) for value in values]


def _with_decimals(name: str, value: Statistic, decimals: int) -> str:
    if value.mean == 0 or _is_round_off(name, value.mean):
        return "0"
    least = 10.0**-decimals
    mean, std = (part / METRICS[name].divisor for part in (value.mean, value.std or 0.0))
    if abs(mean) < least / 2:
        return f"<{least:.{decimals}f}"
    spread = f" ± {std:.{decimals}f}" if std >= least / 2 else f" ± <{least:.{decimals}f}" if std else ""
    return f"{mean:.{decimals}f}{spread}"


def written_error(error: float) -> str:
    """A symmetry breaking of the data with three digits; `0` for round-off."""
    return f"{error:.3g}" if error > ROUND_OFF else "0"


def _is_round_off(name: str, value: float) -> bool:
    return name in OF_DATA and abs(value) <= ROUND_OFF


def _prefixed(value: Statistic) -> str:
    """Three digits with an SI prefix, as in `5.60 M`; no prefix below a thousand."""
    rounded = float(f"{value.mean:.3g}")
    power = min(math.floor(math.log10(rounded)), 3 * len(PREFIXES) - 1) if rounded >= 1000 else 0
    divisor, prefix = 1000 ** (power // 3), PREFIXES[power // 3]
    mean = f"{rounded / divisor:.{2 - power % 3}f}" if prefix else written(value.mean, float(value.mean).is_integer())
    spread = f" ± {_spread(mean, value.std / divisor)}" if value.std else ""
    return f"{mean}{spread} {prefix}".rstrip()


def _spread(mean: str, std: float) -> str:
    """Standard deviation with the decimals of the mean, or with one digit if those would round it to zero."""
    decimals = len(mean.partition(".")[2]) if "e" not in mean else None
    if decimals is None or round(std, decimals) == 0:
        return f"{std:.0e}"
    return f"{std:.{decimals}f}"
