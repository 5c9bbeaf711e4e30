"""Bootstrap intervals over few seeds; docs/leaderboards.md explains the choice of method.

Resamples are enumerated for few seeds and drawn from a fixed sequence for more, so that equal values give equal
intervals on every machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from math import ceil, factorial, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

CONFIDENCE = 0.95
ENUMERATED = 7
"""Number of seeds up to which every resample is enumerated with its probability; beyond it DRAWS are drawn."""
DRAWS = 2000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and its bootstrap interval; the ends are None if the spread is unknown."""

    value: float
    low: float | None = None
    high: float | None = None

    def text(self, written: Callable[[float], str]) -> str:
        """`0.82 [0.75, 0.90]`, or the value alone."""
        if self.low is None or self.high is None:
            return written(self.value)
        return f"{written(self.value)} [{written(self.low)}, {written(self.high)}]"


def interval(values: ArrayLike) -> tuple[Array, Array]:
    """Ends of the bootstrap interval of the mean along the last axis: (..., n) -> two (...); NaN for n = 1.

    Percentile bootstrap with expanded percentiles (Hesterberg 2015, section 4.3). They correct for two errors of plain
    percentiles: a spread too small by sqrt((n - 1) / n), and no Student factor. No resample is outside the range of the
    values; for n <= 4 the interval is that range (see `range_coverage`).
    """
    table = np.asarray(values, dtype=np.float64)
    n = table.shape[-1]
    if n < 2:
        return np.full(table.shape[:-1], np.nan), np.full(table.shape[:-1], np.nan)
    counts, weights = resamples(n)
    means = table @ (counts.T / n)
    return weighted_ends(means, weights, expanded_tail(n))


@cache
def expanded_tail(n: int) -> float:
    """Probability to cut off on each side: Phi(-sqrt(n / (n - 1)) t), with Student's t of n - 1 degrees of freedom."""
    student = special.stdtrit(n - 1, 0.5 + CONFIDENCE / 2)
    return float(special.ndtr(-np.sqrt(n / (n - 1)) * student))


def range_coverage(n: int) -> float:
    """Probability that the range of `n` values contains the median of any distribution: 1 - 2^(1 - n)."""
    return 1 - 2.0 ** (1 - n)


@cache
def resamples(n: int) -> tuple[Array, Array]:
    """Counts of each of `n` values in each resample (resamples, n), and the probabilities (resamples,)."""
    if n > ENUMERATED:
        counts = np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), DRAWS).astype(np.float64)
        return counts, np.full(DRAWS, 1 / DRAWS)
    chosen = combinations_with_replacement(range(n), n)
    counts = np.array([np.bincount(picks, minlength=n) for picks in chosen], dtype=np.float64)
    ways = [factorial(n) / prod(factorial(int(count)) for count in row) for row in counts]
    return counts, np.array(ways) / n**n


def weighted_ends(values: Array, weights: Array, tail: float) -> tuple[Array, Array]:
    """The smallest value with at least `tail` at or below it, and the largest with at least `tail` at or above."""
    order = np.argsort(values, axis=-1)
    most = max(1, ceil(tail / weights.min()))  # so many of the smallest values have the tail, whichever they are

    def end(outermost: NDArray[np.intp]) -> Array:
        reached = np.cumsum(weights[outermost], axis=-1) >= tail - 1e-12
        place = np.take_along_axis(outermost, np.argmax(reached, axis=-1)[..., None], -1)
        return np.take_along_axis(values, place, -1)[..., 0]

    return end(order[..., :most]), end(order[..., : -most - 1 : -1])


def drawn_seeds(block: Array, stratum: int) -> Array:
    """Resamples of the seeds of one block, different for each `stratum`: (n,) -> (DRAWS, n)."""
    rng = np.random.default_rng([len(block), stratum])
    return block[rng.integers(0, len(block), (DRAWS, len(block)))]


def percentile_ends(draws: Array) -> tuple[float, float]:
    """Plain percentile interval of many draws."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="inverted_cdf")
    return float(low), float(high)


def interquartile_mean(values: ArrayLike) -> Array:
    """Mean of the middle half of the values along the last axis (Agarwal et al. 2021)."""
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def interquartile_estimate(blocks: Sequence[ArrayLike]) -> Estimate:
    """Interquartile mean over all blocks and seeds; stratified bootstrap, which resamples the seeds of each block."""
    present = [np.asarray(block, dtype=np.float64) for block in blocks]
    value = float(interquartile_mean(np.concatenate(present)))
    if all(len(block) < 2 for block in present):
        return Estimate(value)
    drawn = np.concatenate([drawn_seeds(block, stratum) for stratum, block in enumerate(present)], axis=1)
    return Estimate(value, *percentile_ends(interquartile_mean(drawn)))
