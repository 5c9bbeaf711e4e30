"""Comparison of many models: adjusted tests, groups of models that do not differ significantly, ranks over contests."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import scipy  # `scipy.stats` is loaded at its first use, which takes half a second
from numpy.typing import ArrayLike
from scipy import special

from results.statistics.bootstrap import CONFIDENCE, Array
from results.statistics.paired import Sample, both_have_runs, common_seeds, mixed_test, table

SIGNIFICANT = 1 - CONFIDENCE
MOST_LETTERED = 30
"""Number of models up to which every pair is compared."""
FEWEST_BLOCKS = 6
"""Fewer blocks cannot give a significant signed-rank test at 5 %: 2 / 2^5 = 0.0625."""


def holm(p: ArrayLike) -> Array:
    """P-values adjusted for their number (Holm 1979), which controls the family-wise error rate.

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
    """Holm-adjusted p of every pair in one contest: (k, k), symmetric, 1 on the diagonal, NaN without a test.

    `pairs` restricts the tests. Seeds that diverged are not used, as if they were missing.
    """
    k = len(samples)
    result = np.full((k, k), np.nan)
    np.fill_diagonal(result, 1.0)
    finite = [_finite(sample) for sample in samples]
    by_shape: dict[tuple[int, ...], dict[tuple[int, int], Array]] = defaultdict(dict)  # equal shapes are tested at once
    for i, j in combinations(range(k), 2) if pairs is None else pairs:
        seeds, with_runs = common_seeds(finite[i], finite[j]), both_have_runs(finite[i], finite[j])
        if len(seeds) > 1:
            difference = table(finite[i], seeds, with_runs) - table(finite[j], seeds, with_runs)
            by_shape[difference.shape][i, j] = difference
    tested = [pair for members in by_shape.values() for pair in members]
    p = [mixed_test(np.stack(list(members.values()))) for members in by_shape.values()]
    for (i, j), value in zip(tested, holm(np.concatenate([*p, []])), strict=True):
        result[i, j] = result[j, i] = value
    return result


def _finite(sample: Sample) -> Sample:
    kept = [index for index, value in enumerate(sample.values) if np.isfinite(value)]
    if len(kept) == len(sample.values):
        return sample
    by_run = None if sample.by_run is None else tuple(sample.by_run[index] for index in kept)
    values = tuple(sample.values[index] for index in kept)
    return Sample(tuple(sample.seeds[index] for index in kept), values, by_run, sample.deterministic)


def groups(order: Sequence[int], adjusted: Callable[[Sequence[tuple[int, int]] | None], Array]) -> list[str]:
    """Group letters of each model; `order` has the indices from the best to the worst.

    `adjusted(pairs)` gives the adjusted p of these pairs, or of all for None. Of more than MOST_LETTERED models only
    those that do not differ significantly from the best get a letter, `a`.
    """
    if len(order) <= MOST_LETTERED:
        return letters(order, adjusted(None))
    p = adjusted([(order[0], other) for other in order[1:]])
    return ["a" if value >= SIGNIFICANT else "" for value in p[order[0]]]


def letters(order: Sequence[int], p: Array) -> list[str]:
    """Group letters of each model: two that share a letter do not differ significantly; `a` is the group of the best.

    `order` has the indices from the best to the worst, `p` (k, k) is as from `pairwise`. A model without any p gets no
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


def signed_ranks(blocks: ArrayLike, pairs: Sequence[tuple[int, int]] | None = None) -> Array:
    """Holm-adjusted p of Wilcoxon's signed-rank test for every pair over their common blocks: (k, k).

    `pairs` restricts the tests. NaN for a pair with fewer than FEWEST_BLOCKS. Nemenyi's test on mean ranks is not used:
    its result for two models depends on the others (Benavoli, Corani, Mangili 2016).
    """
    values = np.asarray(blocks, dtype=np.float64)
    k = values.shape[1]
    result = np.full((k, k), np.nan)
    np.fill_diagonal(result, 1.0)
    raw: dict[tuple[int, int], float] = {}
    for i, j in combinations(range(k), 2) if pairs is None else pairs:
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


def friedman(blocks: ArrayLike) -> float | None:
    """p of Friedman's test over the blocks in which each model has a value; None for fewer than 3 blocks or models."""
    if min(np.shape(blocks)) < 3:
        return None
    values = ranks(blocks)  # the test depends on ranks only, and they are finite
    values = values[~np.isnan(values).any(axis=1)]
    if len(values) < 3 or bool((values == values[:, :1]).all()):
        return None
    n, k = values.shape
    tied = 1 - sum((np.unique(row, return_counts=True)[1] ** 3).sum() - k for row in values) / (n * k * (k**2 - 1))
    statistic = 12 * n / (k * (k + 1)) * ((values.mean(axis=0) - (k + 1) / 2) ** 2).sum() / tied
    return float(special.chdtrc(k - 1, statistic))
