"""The numbers on the board: what each is called and means, its statistics, and how it is written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A number on the board: how it is headed, explained and shown.

    It is value / `divisor` in `unit`, or, where it is `prefixed`, 5.6 M of the unit.
    """

    title: str
    unit: str
    meaning: str
    higher_is_better: bool = False
    divisor: float = 1.0
    prefixed: bool = False


FIELD = "field units"
PREFIXES = ("", "k", "M", "G", "T", "P")
CURVES = ("rmse_future_by_step", "rmse_domain_by_step")
"""Lists over rolled-out steps."""

METRICS: Mapping[str, Metric] = {
    "rmse_future": Metric(
        "RMSE future", FIELD, "Root mean square error of the roll-out, later frames of the runs seen"
    ),
    "rmse_domain": Metric("RMSE domain", FIELD, "Root mean square error of the roll-out, runs never seen"),
    "rmse_validation": Metric("RMSE validation", FIELD, "The error by which the best epoch was chosen"),
    "vrmse_future": Metric("VRMSE future", "1", "RMSE future over the standard deviation of the truth"),
    "vrmse_domain": Metric("VRMSE domain", "1", "RMSE domain over the standard deviation of the truth"),
    "model_equivariance_error": Metric(
        "Model equivariance error", FIELD, "Mean |f(gx) - g f(x)|, one step, over the group"
    ),
    "model_equivariance_error_relative": Metric(
        "Relative model equivariance error", "1", "Model equivariance error over the mean |field|"
    ),
    "data_equivariance_error": Metric(
        "Data equivariance error", FIELD, "Measured data equivariance error of the level"
    ),
    "data_equivariance_error_relative": Metric(
        "Relative data equivariance error", "1", "Data equivariance error over the mean |field|"
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
    "peak_memory_bytes": Metric("Memory", "MiB", "Peak memory of a rank in training", divisor=2**20),
    "training_seconds": Metric("Training", "s", "Time spent in training"),
    "epochs": Metric("Epochs", "count", "Epochs trained before the early stop"),
    "best_epoch": Metric("Best epoch", "count", "The epoch that was kept, chosen by validation"),
}


@dataclass(frozen=True)
class Statistic:
    """Mean over the `n` seeds that have the number, and their sample standard deviation (None below two).

    The mean of counts is an integer where it can be one.
    """

    mean: float
    std: float | None
    n: int


def statistic(values: Sequence[Any]) -> Statistic | None:
    """Of the finite numbers among `values`; None where there is none."""
    numbers = [float(value) for value in values if is_number(value)]
    if not numbers:
        return None
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    mean = statistics.fmean(numbers)
    counted = mean.is_integer() and all(isinstance(value, int) for value in values if is_number(value))
    return Statistic(int(mean) if counted else mean, std, len(numbers))


def curve(values: Sequence[Any]) -> tuple[Statistic, ...]:
    """Step by step, over the lists of equal length among `values`; empty where a step has no number."""
    lists = [value for value in values if isinstance(value, list)]
    lists = [value for value in lists if len(value) == len(lists[0])]
    steps = [statistic(step) for step in zip(*lists, strict=True)]
    return tuple(step for step in steps if step is not None) if None not in steps else ()


def is_number(value: Any) -> bool:
    """Whether it is a finite number (JSON of other writers may hold NaN)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def written(value: float, integer: bool = False) -> str:
    """Four significant digits, without an exponent where the number is of a common size."""
    if value == 0 or integer:
        return f"{value:.0f}"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"


def written_statistic(name: str, value: Statistic) -> str:
    """`mean ± std` in the unit of the metric; the standard deviation only where there is a spread to tell."""
    metric = METRICS[name]
    if metric.prefixed:
        return _prefixed(value)
    mean = written(value.mean / metric.divisor, integer=metric.unit == "count" and float(value.mean).is_integer())
    return f"{mean} ± {written_spread(mean, value.std / metric.divisor)}" if value.std else mean


def _prefixed(value: Statistic) -> str:
    """Three digits and a prefix of the SI, as in `5.60 M`; what is below a thousand as it is."""
    rounded = float(f"{value.mean:.3g}")
    power = min(math.floor(math.log10(rounded)), 3 * len(PREFIXES) - 1) if rounded >= 1000 else 0
    divisor, prefix = 1000 ** (power // 3), PREFIXES[power // 3]
    mean = f"{rounded / divisor:.{2 - power % 3}f}" if prefix else written(value.mean, float(value.mean).is_integer())
    spread = f" ± {written_spread(mean, value.std / divisor)}" if value.std else ""
    return f"{mean}{spread} {prefix}".rstrip()


def written_spread(mean: str, std: float) -> str:
    """With the decimals of the mean, unless that would show a spread as none."""
    decimals = len(mean.partition(".")[2]) if "e" not in mean else None
    if decimals is None or round(std, decimals) == 0:
        return f"{std:.0e}"
    return f"{std:.{decimals}f}"
