"""Tests of two models in one contest, over seeds, or over seeds and sampled test runs.

The tests work on logarithms, so that they speak of ratios, or on the values themselves if one of them is not positive.
A seed that diverged is `inf` (`-inf` if higher is better) and is left out, as if it were missing.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from results.statistics.bootstrap import Array

BISECTIONS = 60
TINY = 1e-100
ROUNDING = 1e-12
"""Relative difference below which two values without any spread are equal."""
Pair = tuple[int, int]


@dataclass(frozen=True)
class Sample:
    """Values of one model in one contest.

    `values` (seeds,). `by_run` (seeds, runs) if the test runs are sampled and their values are recorded, otherwise
    None. A `deterministic` model is evaluated once, and its value stands for every seed.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    by_run: tuple[tuple[float, ...], ...] | None = None
    deterministic: bool = False

    @property
    def runs(self) -> int:
        """Number of test runs of each seed, 0 if the seeds differ in it."""
        lengths = {len(row) for row in self.by_run or ()}
        return lengths.pop() if len(lengths) == 1 else 0

    @property
    def location(self) -> float:
        """Mean of the logarithms over seeds, and over test runs if they are recorded, as in the tests; NaN if empty.

        The logarithm of the mean if a value is not positive, and -inf if the mean is not.
        """
        values = np.array(self.by_run if self.runs > 1 else self.values, dtype=np.float64)
        if not values.size:
            return np.nan
        if (values > 0).all():
            return float(np.log(values).mean())
        return float(np.log(values.mean())) if values.mean() > 0 else -np.inf

    def finite(self) -> "Sample":
        """The sample without the seeds that diverged."""
        kept = [index for index, value in enumerate(self.values) if math.isfinite(value)]
        by_run = None if self.by_run is None else tuple(self.by_run[index] for index in kept)
        values = tuple(self.values[index] for index in kept)
        return Sample(tuple(self.seeds[index] for index in kept), values, by_run, self.deterministic)


@dataclass(frozen=True)
class Effect:
    """Difference of the means of two models, first - second, on the scale of the test, with its standard error.

    The critical value is the mean of Student's quantiles of `freedom`, weighted by `weights`. The means are of
    logarithms if `logarithmic`. `seeds` counts those of each model, `runs` the test runs if they are a factor (else 0).
    """

    difference: float
    error: float
    freedom: tuple[float, float]
    weights: tuple[float, float]
    logarithmic: bool
    seeds: Pair
    runs: int = 0

    @property
    def size(self) -> float:
        """Relative difference of the geometric means if logarithmic, otherwise the difference of the means."""
        return float(np.expm1(self.difference)) if self.logarithmic else self.difference

    def ends(self, level: float) -> tuple[float, float]:
        """Ends of the interval of `size` that leaves out 0 exactly if p < `level`."""
        half = self.error * float(_critical(level, self.freedom, self.weights))
        ends = np.array([self.difference - half, self.difference + half])
        low, high = np.expm1(ends) if self.logarithmic else ends
        return float(low), float(high)

    def reversed(self) -> "Effect":
        """Effect of the second model against the first."""
        return replace(self, difference=-self.difference, seeds=self.seeds[::-1])


def effects(samples: Sequence[Sample], pairs: Sequence[Pair]) -> dict[Pair, Effect]:
    """Effect of each of `pairs` (indices of `samples`) that can be tested.

    The mixed test is used if both models have recorded the same number of sampled test runs, otherwise Welch's test. A
    trained model needs two seeds.
    """
    finite = [sample.finite() for sample in samples]
    cubes: dict[tuple[int, ...], dict[Pair, tuple[Array, bool]]] = defaultdict(dict)  # equal shapes at once
    results: dict[Pair, Effect] = {}
    moments = [_moments(sample) for sample in finite]
    for i, j in pairs:
        one, other = finite[i], finite[j]
        if one.runs == other.runs > 1:
            seeds = common_seeds(one, other)
            if len(seeds) > 1 or (one.deterministic and other.deterministic):
                planes = np.stack([_plane(one, seeds), _plane(other, seeds)])
                logarithmic = bool((planes > 0).all())
                planes = np.log(planes) if logarithmic else planes
                cubes[planes.shape][i, j] = planes[0] - planes[1], logarithmic
        elif all(each.values and (len(each.values) > 1 or each.deterministic) for each in (one, other)):
            results[i, j] = _welch(moments[i], moments[j])
    for members in cubes.values():
        stacked = np.stack([cube for cube, _ in members.values()])
        for (pair, (_, logarithmic)), effect in zip(members.items(), mixed(stacked), strict=True):
            results[pair] = replace(effect, logarithmic=logarithmic)
    return results


def common_seeds(first: Sample, second: Sample) -> tuple[int, ...]:
    """Seeds that both have; a deterministic model has every seed of the other."""
    if first.deterministic:
        return second.seeds
    if second.deterministic:
        return first.seeds
    return tuple(sorted(set(first.seeds) & set(second.seeds)))


def p_values(tested: Sequence[Effect]) -> Array:
    """Two-sided p of the hypothesis that the means are equal. Without any spread it is 1 for equal means, else 0."""
    if not tested:
        return np.empty(0)
    size, error = (np.array([getattr(one, name) for one in tested]) for name in ("difference", "error"))
    freedom, weights = (list(np.array([getattr(one, name) for one in tested]).T) for name in ("freedom", "weights"))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, np.abs(size) / error, np.where(size == 0, 0.0, np.inf))
    single = [2 * special.stdtr(each, -t) for each in freedom]
    low, high = np.minimum(*single), np.maximum(*single)
    finite = np.where(np.isfinite(t), t, 0.0)
    for _ in range(BISECTIONS):  # on the logarithm, for the level whose critical value is t
        middle = np.where(low > 0, np.sqrt(low * high), high / 2)
        above = _critical(np.maximum(middle, TINY), freedom, weights) > finite
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where((weights[1] == 0) | np.isinf(t), single[0], high)


def _critical(level: ArrayLike, freedom: Sequence[ArrayLike], weights: Sequence[ArrayLike]) -> Array:
    """Critical value of Cochran and Cox (Experimental Designs, 1950) for a sum of two variances."""
    tail = np.asarray(level) / 2
    first, second = (np.asarray(w) * special.stdtrit(f, tail) for w, f in zip(weights, freedom, strict=True))
    return -np.asarray(first + second)


@dataclass(frozen=True)
class _Moments:
    """Number of values, and mean and squared standard error of the values and of their logarithms."""

    count: int
    plain: tuple[float, float]
    log: tuple[float, float] | None


def _moments(sample: Sample) -> _Moments:
    values = np.array(sample.values, dtype=np.float64)

    def of(numbers: Array) -> tuple[float, float]:
        same = len(numbers) < 2 or bool((numbers == numbers[0]).all())
        return float(numbers[0] if same else numbers.mean()), 0.0 if same else float(numbers.var(ddof=1)) / len(numbers)

    if not len(values):
        return _Moments(0, (np.nan, np.nan), None)
    return _Moments(len(values), of(values), of(np.log(values)) if (values > 0).all() else None)


def _welch(first: _Moments, second: _Moments) -> Effect:
    """Welch's test over seeds; a deterministic model has no variance, which makes it Student's test of the other."""
    sides = [side for side in (first.log, second.log) if side is not None]
    logarithmic = len(sides) == 2
    (one, one_square), (other, other_square) = sides if logarithmic else (first.plain, second.plain)
    square = one_square + other_square
    spread = sum(each**2 / (side.count - 1) for each, side in ((one_square, first), (other_square, second)) if each > 0)
    difference = one - other
    if square == 0 and abs(difference) <= ROUNDING * (1.0 if logarithmic else max(abs(one), abs(other))):
        difference = 0.0
    freedom = square**2 / spread if spread > 0 else 1.0
    return Effect(difference, square**0.5, (freedom, freedom), (1.0, 0.0), logarithmic, (first.count, second.count))


def _plane(sample: Sample, seeds: Sequence[int]) -> Array:
    """Values of these seeds in each run: (seeds, runs)."""
    rows = sample.by_run or ()
    if sample.deterministic:
        return np.repeat(np.asarray(rows[:1], dtype=np.float64), len(seeds), axis=0)
    at = dict(zip(sample.seeds, rows, strict=True))
    return np.array([at[seed] for seed in seeds], dtype=np.float64)


def mixed(differences: Array) -> list[Effect]:
    """Test over seeds and sampled test runs, of paired differences (pairs, seeds, runs).

    Seeds and test runs are crossed random factors. The variance of the mean is estimated from the mean squares of
    seeds, runs and their interaction, as for readers and cases in radiology (Hillis 2007, Statistics in Medicine
    26:596). The critical value is that of Cochran and Cox: Satterthwaite's degrees of freedom find too much with two
    or three seeds. One seed (of two deterministic models) makes it Student's test over runs.
    """
    cube = np.asarray(differences, dtype=np.float64)
    _, seeds, runs = cube.shape
    mean = cube.mean(axis=(1, 2))
    of_seed, of_run = cube.mean(axis=2), cube.mean(axis=1)
    zero = np.zeros(len(cube))
    between_seeds = runs * of_seed.var(axis=1, ddof=1) if seeds > 1 else zero
    between_runs = seeds * of_run.var(axis=1, ddof=1)
    residual = cube - of_seed[:, :, None] - of_run[:, None, :] + mean[:, None, None]
    freedom = (seeds - 1) * (runs - 1)
    interaction = (residual**2).sum(axis=(1, 2)) / freedom if freedom else zero
    scale = np.finfo(np.float64).eps * np.abs(cube).max(axis=(1, 2), initial=0.0) ** 2 * seeds * runs
    between_seeds, between_runs, interaction = (
        np.where(square > scale, square, 0.0) for square in (between_seeds, between_runs, interaction)
    )
    from_runs = np.maximum(between_runs - interaction, 0.0)
    total = between_seeds + from_runs
    mean = np.where((total == 0) & (mean**2 <= scale), 0.0, mean)
    share = np.divide(between_seeds, total, out=np.ones_like(total), where=total > 0)
    if seeds == 1:
        share = zero
    degrees = (float(max(seeds - 1, 1)), float(runs - 1))
    return [
        Effect(
            float(m), float(np.sqrt(t / (seeds * runs))), degrees, (float(s), float(1 - s)), False, (seeds,) * 2, runs
        )
        for m, t, s in zip(mean, total, share, strict=True)
    ]
