"""Comparison of two models in one contest, paired by seed and test run.

Values are errors (lower is better) unless stated otherwise. A seed that diverged is `inf`, worse than every number; a
missing seed is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from results.statistics.bootstrap import DRAWS, Array, Estimate, expanded_tail, interval, percentile_ends, weighted_ends


@dataclass(frozen=True)
class Sample:
    """Values of one model in one contest.

    `values` (seeds,); `by_run` (seeds, runs), or None if it is not recorded. A `deterministic` model is evaluated once,
    and its value stands for every seed.
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


@dataclass(frozen=True)
class Comparison:
    """First minus second, paired by seed and test run.

    `difference` has the interval of `paired_interval` over the common seeds and runs. `relative` is the difference over
    the mean of the second. `improvement` is the probability that a seed of the first is better than one of the second.
    `p` is from `mixed_test`, or None with a `reason`. `over` names what varies: `seeds and runs`, `seeds`, or `runs`
    (a single seed, for which there is no p).
    """

    difference: Estimate
    relative: float | None
    improvement: float
    p: float | None
    seeds: int
    runs: int
    over: str
    reason: str = ""


def compare(first: Sample, second: Sample, higher_is_better: bool = False) -> Comparison:
    """Comparison over the common seeds and runs; seeds that diverged count in `improvement` only."""
    improvement = probability_of_improvement(first.values, second.values, higher_is_better)
    seeds = common_seeds(first, second)
    cubes = [table(sample, seeds, both_have_runs(first, second)) for sample in (first, second)]
    with np.errstate(invalid="ignore"):
        difference = cubes[0] - cubes[1]  # NaN where both diverged
    finite = np.isfinite(difference).all(axis=1)
    difference = difference[finite]
    cubes = [cube[finite] for cube in cubes]
    n, runs = difference.shape
    random = not (first.deterministic and second.deterministic)
    over = " and ".join(["seeds"] * (n > 1 and random) + ["runs"] * (runs > 1))
    if not n:
        return Comparison(Estimate(float("nan")), None, improvement, None, 0, runs, "", "no seed is finished in both")
    low, high = paired_interval(cubes[0], cubes[1])
    means = [table(sample, seeds, with_runs=False)[finite].mean() for sample in (first, second)]
    mean, size = float(means[0] - means[1]), float(means[1])
    estimate = Estimate(mean, *((low, high) if over else (None, None)))
    p = float(mixed_test(difference[None])[0]) if n > 1 and over else None
    reason = "" if p is not None else "one common seed: the spread over seeds is unknown"
    return Comparison(estimate, mean / size if size else None, improvement, p, n, runs, over, reason)


def common_seeds(first: Sample, second: Sample) -> tuple[int, ...]:
    """Seeds that both have; a deterministic model has every seed of the other."""
    if first.deterministic:
        return second.seeds
    if second.deterministic:
        return first.seeds
    return tuple(sorted(set(first.seeds) & set(second.seeds)))


def table(sample: Sample, seeds: Sequence[int], with_runs: bool) -> Array:
    """Values of these seeds: (seeds, runs), or (seeds, 1) over all runs; NaN for a missing seed."""
    rows = sample.by_run if with_runs and sample.by_run is not None else [(value,) for value in sample.values]
    if sample.deterministic:
        return np.repeat(np.asarray(rows[:1], dtype=np.float64), len(seeds), axis=0)
    at = dict(zip(sample.seeds, rows, strict=True))
    missing = (np.nan,) * (len(rows[0]) if rows else 1)
    return np.array([at.get(seed, missing) for seed in seeds], dtype=np.float64).reshape(len(seeds), len(missing))


def both_have_runs(first: Sample, second: Sample) -> bool:
    """Whether both have recorded the same number of test runs."""
    return first.runs == second.runs > 0


def mixed_test(differences: ArrayLike) -> Array:
    """Two-sided p of the hypothesis that the mean of the paired differences is zero: (pairs, seeds, runs) -> (pairs,).

    Seeds and test runs are crossed random factors. The variance of the mean is estimated from the mean squares of
    seeds, runs and their interaction, as for readers and cases in radiology (Hillis 2007, Statistics in Medicine
    26:596), with Satterthwaite's degrees of freedom. With one run it is Student's paired t-test over seeds, with one
    seed over runs. Without any variation p is 1 for no difference, else 0.
    """
    cube = np.asarray(differences, dtype=np.float64)
    _, seeds, runs = cube.shape
    mean = cube.mean(axis=(1, 2))
    of_seed, of_run = cube.mean(axis=2), cube.mean(axis=1)
    zero = np.zeros(len(cube))
    between_seeds = runs * of_seed.var(axis=1, ddof=1) if seeds > 1 else zero
    between_runs = seeds * of_run.var(axis=1, ddof=1) if runs > 1 else zero
    residual = cube - of_seed[:, :, None] - of_run[:, None, :] + mean[:, None, None]
    freedom = (seeds - 1) * (runs - 1)
    interaction = (residual**2).sum(axis=(1, 2)) / freedom if freedom else zero
    scale = np.finfo(np.float64).eps * np.abs(cube).max(axis=(1, 2), initial=0.0) ** 2 * seeds * runs
    between_seeds, between_runs, interaction = (
        np.where(square > scale, square, 0.0) for square in (between_seeds, between_runs, interaction)
    )
    total = between_seeds + np.maximum(between_runs - interaction, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = between_seeds**2 / max(seeds - 1, 1) + between_runs**2 / max(runs - 1, 1)
        degrees = total**2 / spread
        t = np.abs(mean) / np.sqrt(total / (seeds * runs))
        p = 2 * special.stdtr(degrees, -t)
    return np.where(total > 0, p, np.where(np.abs(mean) ** 2 > scale, 0.0, 1.0))


def paired_interval(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """Bootstrap interval of the difference of two errors, each (seeds, runs), with equal resamples (Owen 2007).

    Seeds and runs are drawn independently. The error over the drawn runs is the root of their mean square, as in the
    RMSE over all runs. The percentiles are expanded for the number of seeds, or of runs with one seed. NaN for one of
    each.
    """
    planes = [np.asarray(plane, dtype=np.float64) for plane in (first, second)]
    seeds, runs = planes[0].shape
    if runs == 1:
        low, high = interval((planes[0] - planes[1])[:, 0])
        return float(low), float(high)
    rng = np.random.default_rng([seeds, runs])
    picked = [rng.multinomial(size, np.full(size, 1 / size), DRAWS) / size for size in (seeds, runs)]
    errors = [(picked[0] * np.sqrt(picked[1] @ (plane**2).T)).sum(axis=1) for plane in planes]
    tail = expanded_tail(seeds if seeds > 1 else runs)
    low, high = weighted_ends(errors[0] - errors[1], np.full(DRAWS, 1 / DRAWS), tail)
    return float(low), float(high)


def probability_of_improvement(first: ArrayLike, second: ArrayLike, higher_is_better: bool = False) -> float:
    """P(a value of `first` is better than one of `second`), with ties as half: U / (n m) of Mann and Whitney.

    >>> probability_of_improvement([1.0, 2.0], [2.0, 3.0])
    0.875
    """
    return float(_wins(first, second, higher_is_better).mean())


def improvement_estimate(pairs: Sequence[tuple[ArrayLike, ArrayLike]], higher_is_better: bool = False) -> Estimate:
    """Probability of improvement of the first over the second as the mean over blocks; stratified bootstrap."""
    arrays = [(np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)) for one, other in pairs]
    value = float(np.mean([probability_of_improvement(*pair, higher_is_better) for pair in arrays]))
    if all(max(len(one), len(other)) < 2 for one, other in arrays):
        return Estimate(value)
    total = np.zeros(DRAWS)
    for stratum, (one, other) in enumerate(arrays):
        counts = [_counts(len(side), stratum, index) for index, side in enumerate((one, other))]
        total += np.einsum("bn,nm,bm->b", counts[0], _wins(one, other, higher_is_better), counts[1], optimize=True)
    return Estimate(value, *percentile_ends(total / len(arrays)))


def _wins(first: ArrayLike, second: ArrayLike, higher_is_better: bool = False) -> Array:
    """(n, m): 1 if the first is better, 1/2 if both are equal (or both diverged)."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sign = -1 if higher_is_better else 1
    return (sign * one[:, None] < sign * other) + 0.5 * (one[:, None] == other)


@cache
def _counts(n: int, stratum: int, side: int) -> Array:
    """Weights of `n` seeds in each resample, different for each block and each of the two models."""
    return np.random.default_rng([n, stratum, side]).multinomial(n, np.full(n, 1 / n), DRAWS) / n
