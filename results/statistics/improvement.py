"""Probability that a seed of one model is better than one of another."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from results.statistics.bootstrap import DRAWS, Array, Estimate, percentile_ends


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
