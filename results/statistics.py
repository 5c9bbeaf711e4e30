"""What the numbers of a few seeds allow to say: intervals, tests, ranks, and what cannot be told apart.

Everything here is a function of its arguments: resamples are enumerated where there are few seeds and drawn from a
fixed sequence where there are more, so that equal results give equal numbers on every machine. Values are errors,
lower is better, unless said otherwise; a seed that diverged is `inf`, worse than every number; NaN is a seed that is
not there. docs/leaderboards.md says why these and not others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, combinations_with_replacement
from math import factorial, prod

import numpy as np
import scipy  # of which `stats` is imported where it is first used: that takes half a second
from numpy.typing import ArrayLike, NDArray
from scipy import special

CONFIDENCE = 0.95
SIGNIFICANT = 1 - CONFIDENCE
ENUMERATED = 7
"""Up to so many seeds every resample is counted, with its probability; beyond, DRAWS are drawn."""
DRAWS = 2000
FEWEST_BLOCKS = 6
"""Below it no signed-rank test can find a difference at 5 %: 2 / 2^5 = 0.0625."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and its bootstrap interval; the ends are None where nothing tells the spread."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Sample:
    """What one model reached in one contest: a value for each seed, and for each test run of each seed if recorded.

    `values` (seeds,); `by_run` (seeds, runs) or None; `deterministic` for a model that nothing random enters, which
    is evaluated once and stands for every seed.
    """

    seeds: tuple[int, ...]
    values: tuple[float, ...]
    by_run: tuple[tuple[float, ...], ...] | None = None
    deterministic: bool = False

    @property
    def runs(self) -> int:
        """How many test runs each seed tells of, 0 where not all tell the same number."""
        lengths = {len(row) for row in self.by_run or ()}
        return lengths.pop() if len(lengths) == 1 else 0


@dataclass(frozen=True)
class Comparison:
    """First minus second, paired by seed and test run.

    `difference.low`, `.high`: `paired_interval` over the seeds and runs that both have. `relative` is the difference
    over the mean of the second. `p` is that of `mixed_test`, None where `reason` says why there is none; `over` says
    what varied: `seeds and runs`, `seeds`, or `runs` (one seed only: nothing is said of other seeds, and there is no
    p). `improvement` is the probability that a seed of the first is better than one of the second.
    """

    difference: Estimate
    relative: float | None
    improvement: float
    p: float | None
    seeds: int
    runs: int
    over: str
    reason: str = ""


# -- intervals of a mean ---------------------------------------------------------------------------------------------


def interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[Array, Array]:
    """Ends of the bootstrap interval of the mean along the last axis: (..., n) -> two (...); NaN for n = 1.

    The percentile bootstrap with expanded percentiles (Hesterberg 2015, section 4.3): the resamples of n values
    spread too little by sqrt((n - 1) / n) and know no Student factor; the percentiles are moved out to make good for
    both. No resample leaves the range of the values: for n <= 4 the interval is that range (see `range_coverage`).
    """
    table = np.asarray(values, dtype=np.float64)
    n = table.shape[-1]
    if n < 2:
        return np.full(table.shape[:-1], np.nan), np.full(table.shape[:-1], np.nan)
    counts, weights = resamples(n)
    means = table @ (counts.T / n)
    tail = expanded_tail(n, confidence)
    return _weighted_ends(means, weights, tail)


@cache
def expanded_tail(n: int, confidence: float = CONFIDENCE) -> float:
    """The probability to cut off on either side: Phi(-sqrt(n / (n - 1)) t), t of n - 1 degrees of freedom."""
    student = special.stdtrit(n - 1, 0.5 + confidence / 2)
    return float(special.ndtr(-np.sqrt(n / (n - 1)) * student))


def range_coverage(n: int) -> float:
    """How often the range of `n` values holds the median of their distribution, whatever that is: 1 - 2^(1 - n)."""
    return 1 - 2.0 ** (1 - n)


@cache
def resamples(n: int) -> tuple[Array, Array]:
    """How often each of `n` values is in a resample (resamples, n), and the probability of each (resamples,)."""
    if n > ENUMERATED:
        counts = np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)
        return counts, np.full(DRAWS, 1 / DRAWS)
    chosen = combinations_with_replacement(range(n), n)
    counts = np.array([np.bincount(picks, minlength=n) for picks in chosen], dtype=np.float64)
    ways = [factorial(n) / prod(factorial(int(count)) for count in row) for row in counts]
    return counts, np.array(ways) / n**n


def _weighted_ends(values: Array, weights: Array, tail: float) -> tuple[Array, Array]:
    """The smallest value with at least `tail` at or below it, and the largest with at least `tail` at or above."""
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, -1)
    below = np.cumsum(weights[order], axis=-1)
    above = np.cumsum(weights[order][..., ::-1], axis=-1)
    least = tail - 1e-12
    low = np.take_along_axis(ordered, np.argmax(below >= least, axis=-1)[..., None], -1)[..., 0]
    high = np.take_along_axis(ordered[..., ::-1], np.argmax(above >= least, axis=-1)[..., None], -1)[..., 0]
    return low, high


# -- two models ------------------------------------------------------------------------------------------------------


def probability_of_improvement(first: ArrayLike, second: ArrayLike, higher_is_better: bool = False) -> float:
    """P(a value of `first` is better than one of `second`), ties as half; U / (n m) of Mann and Whitney.

    >>> probability_of_improvement([1.0, 2.0], [2.0, 3.0])
    0.875
    """
    return float(_wins(first, second, higher_is_better).mean())


def _wins(first: ArrayLike, second: ArrayLike, higher_is_better: bool = False) -> Array:
    """(n, m): 1 where the first is better, 1/2 where they are equal (two that diverged are)."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sign = -1 if higher_is_better else 1
    return (sign * one[:, None] < sign * other) + 0.5 * (one[:, None] == other)


def compare(first: Sample, second: Sample, higher_is_better: bool = False) -> Comparison:
    """The two over the seeds and runs that both have; seeds that diverged count in `improvement` alone."""
    improvement = probability_of_improvement(first.values, second.values, higher_is_better)
    seeds = common_seeds(first, second)
    cubes = [table(sample, seeds, _both_have_runs(first, second)) for sample in (first, second)]
    with np.errstate(invalid="ignore"):
        difference = cubes[0] - cubes[1]  # NaN where both diverged
    finite = np.isfinite(difference).all(axis=1)
    difference = difference[finite]
    cubes = [cube[finite] for cube in cubes]
    n, runs = difference.shape
    random = not (first.deterministic and second.deterministic)
    over = " and ".join(["seeds"] * (n > 1 and random) + ["runs"] * (runs > 1))
    if not n:
        return Comparison(Estimate(float("nan")), None, improvement, None, 0, runs, "", "no seed that both finished")
    low, high = paired_interval(cubes[0], cubes[1])
    whole = [table(sample, seeds, with_runs=False)[finite].mean() for sample in (first, second)]
    mean, size = float(whole[0] - whole[1]), float(whole[1])
    estimate = Estimate(mean, *((low, high) if over else (None, None)))
    p = float(mixed_test(difference[None])[0]) if n > 1 and over else None
    reason = "" if p is not None else "one seed that both have: the spread over seeds is not known"
    return Comparison(estimate, mean / size if size else None, improvement, p, n, runs, over, reason)


def common_seeds(first: Sample, second: Sample) -> tuple[int, ...]:
    """The seeds to pair by; a deterministic model has every seed that the other has."""
    if first.deterministic:
        return second.seeds
    if second.deterministic:
        return first.seeds
    return tuple(sorted(set(first.seeds) & set(second.seeds)))


def table(sample: Sample, seeds: Sequence[int], with_runs: bool) -> Array:
    """(seeds, runs) of these seeds, or (seeds, 1) of the values over all runs; NaN where a seed is missing."""
    rows = sample.by_run if with_runs and sample.by_run is not None else [(value,) for value in sample.values]
    if sample.deterministic:
        return np.repeat(np.asarray(rows[:1], dtype=np.float64), len(seeds), axis=0)
    at = dict(zip(sample.seeds, rows, strict=True))
    missing = (np.nan,) * (len(rows[0]) if rows else 1)
    return np.array([at.get(seed, missing) for seed in seeds], dtype=np.float64).reshape(len(seeds), len(missing))


def _both_have_runs(first: Sample, second: Sample) -> bool:
    return first.runs == second.runs > 0


def mixed_test(differences: ArrayLike) -> Array:
    """Two-sided p that the mean of the paired differences is zero: (pairs, seeds, runs) -> (pairs,).

    Seeds and test runs are both drawn at random and cross each other: the spread of the mean is estimated from the
    mean squares of seeds, runs and their interaction, as that of readers and cases is in radiology (Hillis 2007,
    Statistics in Medicine 26:596), with Satterthwaite's degrees of freedom over both. With one run it is Student's
    paired t-test over seeds, with one seed that over runs. Where nothing varies, p is 1 for no difference, else 0.
    """
    cube = np.asarray(differences, dtype=np.float64)
    _, seeds, runs = cube.shape
    mean = cube.mean(axis=(1, 2))
    of_seed, of_run = cube.mean(axis=2), cube.mean(axis=1)
    zero = np.zeros(len(cube))
    between_seeds = runs * of_seed.var(axis=1, ddof=1) if seeds > 1 else zero
    between_runs = seeds * of_run.var(axis=1, ddof=1) if runs > 1 else zero
    left = cube - of_seed[:, :, None] - of_run[:, None, :] + mean[:, None, None]
    freedom = (seeds - 1) * (runs - 1)
    interaction = (left**2).sum(axis=(1, 2)) / freedom if freedom else zero
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


def paired_interval(first: ArrayLike, second: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Bootstrap interval of the difference of two errors, each (seeds, runs), both resampled alike (Owen 2007).

    Seeds and runs are drawn apart; the error over the drawn runs is the root of their mean square, as RMSE over all
    runs is. With one seed the runs alone are drawn, and the other way round. The percentiles are expanded for the
    number of seeds, or, with one seed, of runs. NaN for one of each.
    """
    planes = [np.asarray(plane, dtype=np.float64) for plane in (first, second)]
    seeds, runs = planes[0].shape
    if runs == 1:
        low, high = interval((planes[0] - planes[1])[:, 0], confidence)
        return float(low), float(high)
    rng = np.random.default_rng([seeds, runs])
    picked = [rng.multinomial(size, np.full(size, 1 / size), DRAWS) / size for size in (seeds, runs)]
    errors = [(picked[0] * np.sqrt(picked[1] @ (plane**2).T)).sum(axis=1) for plane in planes]
    tail = expanded_tail(seeds if seeds > 1 else runs, confidence)
    low, high = _weighted_ends(errors[0] - errors[1], np.full(DRAWS, 1 / DRAWS), tail)
    return float(low), float(high)


# -- many models -----------------------------------------------------------------------------------------------------


def holm(p: ArrayLike) -> Array:
    """The p-values adjusted for their number (Holm 1979): at most the share of wrong finds among all of them.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def pairwise(samples: Sequence[Sample], pairs: Sequence[tuple[int, int]] | None = None) -> Array:
    """Holm-adjusted p of every pair in one contest: (k, k), symmetric, 1 on the diagonal, NaN where none can be had.

    `pairs` restricts it to these. Seeds that diverged are left out of the test, as missing ones are; whoever shows the
    groups says so.
    """
    k = len(samples)
    result = np.full((k, k), np.nan)
    np.fill_diagonal(result, 1.0)
    wanted = list(combinations(range(k), 2)) if pairs is None else list(pairs)
    finite = [_finite(sample) for sample in samples]
    alike: dict[tuple[tuple[int, ...], bool], list[tuple[int, int]]] = {}
    for i, j in wanted:
        seeds = common_seeds(finite[i], finite[j])
        if len(seeds) > 1:
            alike.setdefault((seeds, _both_have_runs(finite[i], finite[j])), []).append((i, j))
    found: list[tuple[int, int]] = []
    p: list[Array] = []
    for (seeds, with_runs), members in alike.items():
        cubes = {index: table(finite[index], seeds, with_runs) for pair in members for index in pair}
        for shape in {cubes[i].shape for i, _ in members}:
            same = [pair for pair in members if cubes[pair[0]].shape == shape]
            p.append(mixed_test(np.stack([cubes[i] - cubes[j] for i, j in same])))
            found += same
    if found:
        for (i, j), value in zip(found, holm(np.concatenate(p)), strict=True):
            result[i, j] = result[j, i] = value
    return result


def _finite(sample: Sample) -> Sample:
    kept = [index for index, value in enumerate(sample.values) if np.isfinite(value)]
    if len(kept) == len(sample.values):
        return sample
    by_run = None if sample.by_run is None else tuple(sample.by_run[index] for index in kept)
    values = tuple(sample.values[index] for index in kept)
    return Sample(tuple(sample.seeds[index] for index in kept), values, by_run, sample.deterministic)


def letters(order: Sequence[int], p: Array, significant: float = SIGNIFICANT) -> list[str]:
    """For each of (k,) the groups it belongs to: two that share a letter cannot be told apart.

    `order` are the indices from the best to the worst, `p` (k, k) as `pairwise` gives it; `a` is the group of the
    best. An index that has a p with nobody gets none. Insert and absorb (Piepho 2004): every group is as large as it
    can be.
    """
    known = [index for index in order if np.isfinite(np.delete(p[index], index)).any()]
    groups = [set(known)] if known else []
    for i in known:
        for j in known:
            if i < j and p[i, j] < significant:
                split = [group for group in groups if {i, j} <= group]
                groups = [group for group in groups if not {i, j} <= group]
                for part in (group - {drop} for group in split for drop in (i, j)):
                    if not any(part <= group for group in groups):
                        groups = [group for group in groups if not group <= part] + [part]
    place = {index: position for position, index in enumerate(known)}
    groups.sort(key=lambda group: sorted(place[index] for index in group))
    return ["".join(_letter(n) for n, group in enumerate(groups) if index in group) for index in range(len(p))]


def _letter(number: int) -> str:
    return chr(ord("a") + number % 26) + ("'" * (number // 26))


def ranks(blocks: ArrayLike) -> Array:
    """The rank of each model in each block, 1 the best, ties shared: (blocks, models), NaN where it has no value."""
    values = np.asarray(blocks, dtype=np.float64)
    return np.asarray(scipy.stats.rankdata(values, axis=1, nan_policy="omit"))


def signed_ranks(blocks: ArrayLike, pairs: Sequence[tuple[int, int]] | None = None) -> Array:
    """Holm-adjusted p of Wilcoxon's signed-rank test for every pair over the blocks that both have: (k, k).

    `pairs` restricts it to these. NaN for a pair with fewer than FEWEST_BLOCKS, in which no difference could be
    found. Pairs, and not mean ranks as in Nemenyi's test: who else is on the board must not matter (Benavoli, Corani,
    Mangili 2016).
    """
    values = np.asarray(blocks, dtype=np.float64)
    k = values.shape[1]
    result = np.full((k, k), np.nan)
    np.fill_diagonal(result, 1.0)
    found: dict[tuple[int, int], float] = {}
    for i, j in combinations(range(k), 2) if pairs is None else pairs:
        both = values[:, [i, j]]
        both = both[~np.isnan(both).any(axis=1)]
        if len(both) >= FEWEST_BLOCKS:
            found[i, j] = _signed_rank(both[:, 0], both[:, 1])
    for (i, j), p in zip(found, holm(list(found.values())), strict=True):
        result[i, j] = result[j, i] = p
    return result


def _signed_rank(first: Array, second: Array) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.where(first == second, 0.0, first - second)  # two that diverged are equal
    if not difference.any():
        return 1.0
    # Infinite differences, of one that diverged, rank above all others and tie with each other.
    largest = 2 * np.abs(difference[np.isfinite(difference)]).max(initial=1.0)
    return float(scipy.stats.wilcoxon(np.clip(difference, -largest, largest), zero_method="pratt").pvalue)


def friedman(blocks: ArrayLike) -> float | None:
    """p that all models are alike over the blocks in which each has a value; None for fewer than 3 of either."""
    if min(np.shape(blocks)) < 3:
        return None
    values = ranks(blocks)  # on which alone it depends, and which have no infinities
    values = values[~np.isnan(values).any(axis=1)]
    if len(values) < 3 or bool((values == values[:, :1]).all()):
        return None
    return float(scipy.stats.friedmanchisquare(*values.T).pvalue)


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half of all values (Agarwal et al. 2021); inf where a quarter or more diverged."""
    return float(scipy.stats.trim_mean(np.asarray(values, dtype=np.float64).ravel(), 0.25))


def interquartile_estimate(blocks: Sequence[ArrayLike]) -> Estimate:
    """Over all blocks and seeds; the interval resamples the seeds of each block apart (stratified bootstrap)."""
    present = [np.asarray(block, dtype=np.float64) for block in blocks]
    value = interquartile_mean(np.concatenate(present))
    if all(len(block) < 2 for block in present):
        return Estimate(value)
    drawn = np.concatenate([drawn_seeds(block, stratum) for stratum, block in enumerate(present)], axis=1)
    return Estimate(value, *percentile_ends(scipy.stats.trim_mean(drawn, 0.25, axis=1)))


def improvement_estimate(pairs: Sequence[tuple[ArrayLike, ArrayLike]], higher_is_better: bool = False) -> Estimate:
    """Probability of improvement of the first over the second, the mean over blocks; stratified bootstrap."""
    arrays = [(np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)) for one, other in pairs]
    value = float(np.mean([probability_of_improvement(*pair, higher_is_better) for pair in arrays]))
    if all(max(len(one), len(other)) < 2 for one, other in arrays):
        return Estimate(value)
    total = np.zeros(DRAWS)
    for stratum, (one, other) in enumerate(arrays):
        counts = [_counts(len(side), stratum, index) for index, side in enumerate((one, other))]
        total += np.einsum("bn,nm,bm->b", counts[0], _wins(one, other, higher_is_better), counts[1], optimize=True)
    return Estimate(value, *percentile_ends(total / len(arrays)))


def drawn_seeds(block: Array, stratum: int) -> Array:
    """Resamples of the seeds of one block, other ones for each `stratum`: (n,) -> (DRAWS, n)."""
    rng = np.random.default_rng([len(block), stratum])
    return block[rng.integers(0, len(block), (DRAWS, len(block)))]


@cache
def _counts(n: int, stratum: int, side: int) -> Array:
    """Weights of `n` seeds in each resample, other ones for each block and each of the two models."""
    return np.random.default_rng([n, stratum, side]).multinomial(n, np.full(n, 1 / n), DRAWS) / n


def percentile_ends(draws: Array, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The plain percentile interval of many draws."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    return float(low), float(high)
