"""Comparison of many models: adjusted tests, groups of models that do not differ significantly, ranks over contests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import scipy  # `scipy.stats` is loaded at its first use, which takes half a second
from numpy.typing import ArrayLike

from results.statistics.bootstrap import CONFIDENCE, Array
from results.statistics.two_models import Effect, Pair, p_values

SIGNIFICANT = 1 - CONFIDENCE
MOST_LETTERED = 30
"""Number of models up to which every pair is compared; beyond it, each model with the best."""
FEWEST_BLOCKS = 6
"""Fewer blocks cannot give a significant signed-rank test at 5 %: 2 / 2^5 = 0.0625."""


def holm(p: ArrayLike) -> Array:
    """P-values adjusted for their number (Holm 1979), which controls the family-wise error rate.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    return np.minimum(np.asarray(p, dtype=np.float64) * holm_steps(p), 1.0)


@dataclass(frozen=True)
class PairTest:
    """Effect of one pair with its p: `raw`, and `p` adjusted by Holm for the number of pairs.

    `level` is the level at which Holm's procedure tests the pair, and so that of its interval: it leaves out 0 exactly
    if `p` < SIGNIFICANT.
    """

    effect: Effect
    raw: float
    p: float
    level: float

    def reversed(self) -> PairTest:
        """Test of the second model against the first."""
        return replace(self, effect=self.effect.reversed())


def adjusted_tests(tested: Mapping[Pair, Effect]) -> dict[Pair, PairTest]:
    """Tests of the pairs of one family, with Holm's adjustment."""
    raw = p_values(list(tested.values()))
    adjusted, steps = holm(raw), holm_steps(raw)
    return {
        pair: PairTest(effect, float(raw[n]), float(adjusted[n]), SIGNIFICANT / float(steps[n]))
        for n, (pair, effect) in enumerate(tested.items())
    }


def holm_steps(p: ArrayLike) -> Array:
    """Factors by which Holm's procedure multiplies each p; not cut at 1.

    >>> holm_steps([0.01, 0.04, 0.03]).tolist()
    [3.0, 1.5, 2.0]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    counts = np.arange(len(values), 0, -1, dtype=np.float64)
    reached = np.maximum.accumulate(values[order] * counts)
    steps = np.empty_like(values)
    steps[order] = np.divide(reached, values[order], out=counts.copy(), where=values[order] > 0)
    return steps


def matrix(count: int, tests: Mapping[Pair, PairTest]) -> Array:
    """Adjusted p of every pair of `count` models: (count, count), symmetric, 1 on the diagonal, NaN without a test."""
    result = np.full((count, count), np.nan)
    np.fill_diagonal(result, 1.0)
    for (i, j), test in tests.items():
        result[i, j] = result[j, i] = test.p
    return result


def groups(order: Sequence[int], adjusted: Callable[[Sequence[Pair]], Array]) -> list[str]:
    """Group letters of each model; `order` has the indices from the best to the worst.

    `adjusted` gives the adjusted p of `tested_pairs(order)`. Of more than MOST_LETTERED models only those that do not
    differ significantly from the best get a letter, `a`.
    """
    p = adjusted(tested_pairs(order))
    if len(order) <= MOST_LETTERED:
        return letters(order, p)
    return ["a" if value >= SIGNIFICANT else "" for value in p[order[0]]]


def tested_pairs(order: Sequence[int]) -> list[Pair]:
    """Pairs of one family: all, or of more than MOST_LETTERED models each with the best, which is the first."""
    if len(order) <= MOST_LETTERED:
        return list(combinations(sorted(order), 2))
    return [(order[0], other) for other in order[1:]]


def letters(order: Sequence[int], p: Array) -> list[str]:
    """Group letters of each model: two that share a letter do not differ significantly; `a` is the group of the best.

    `order` has the indices from the best to the worst, `p` (k, k) is as from `matrix`. A model without any p gets no
    letter. Insert and absorb (Piepho 2004), which makes every group as large as possible.
    """
    known = [index for index in order if np.isfinite(np.delete(p[index], index)).any()]
    groups = [set(known)] if known else []
    for i in known:
        for j in known:
            if i < j and p[i, j] < SIGNIFICANT:
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
    """Rank of each model in each block: (blocks, models); 1 is the best, ties share a rank, NaN without a value."""
    values = np.asarray(blocks, dtype=np.float64)
    lower = (values[:, None] < values[:, :, None]).sum(axis=2)
    equal = (values[:, None] == values[:, :, None]).sum(axis=2)
    return np.where(np.isnan(values), np.nan, lower + (equal + 1) / 2)


def signed_ranks(blocks: ArrayLike, pairs: Sequence[Pair]) -> Array:
    """Holm-adjusted p of Wilcoxon's signed-rank test for each of `pairs` over their common blocks: (k, k).

    NaN for a pair with fewer than FEWEST_BLOCKS. Nemenyi's test on mean ranks is not used:
    its result for two models depends on the others (Benavoli, Corani, Mangili 2016).
    """
    values = np.asarray(blocks, dtype=np.float64)
    k = values.shape[1]
    result = np.full((k, k), np.nan)
    np.fill_diagonal(result, 1.0)
    raw: dict[Pair, float] = {}
    for i, j in pairs:
        both = values[:, [i, j]]
        both = both[~np.isnan(both).any(axis=1)]
        if len(both) >= FEWEST_BLOCKS:
            raw[i, j] = _signed_rank(both[:, 0], both[:, 1])
    for (i, j), p in zip(raw, holm(list(raw.values())), strict=True):
        result[i, j] = result[j, i] = p
    return result


def _signed_rank(first: Array, second: Array) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.where(first == second, 0.0, first - second)  # two that diverged are equal
    if not difference.any():
        return 1.0
    # Infinite differences, from a seed that diverged, rank above all others and tie with each other.
    largest = 2 * np.abs(difference[np.isfinite(difference)]).max(initial=1.0)
    return float(scipy.stats.wilcoxon(np.clip(difference, -largest, largest), zero_method="pratt").pvalue)
