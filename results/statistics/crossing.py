"""Statistics over levels: crossing of two lines, slope and rank correlation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from results.statistics.bootstrap import CONFIDENCE, Array, Estimate, drawn_seeds, interval, percentile_ends


@dataclass(frozen=True)
class Crossing:
    """Crossing of two lines; `share` is the part of the resamples in which they cross.

    The interval is over those resamples. It has no ends if `share` is below CONFIDENCE.
    """

    at: Estimate
    share: float


def crossing(x: Sequence[float], first: Sequence[ArrayLike], second: Sequence[ArrayLike]) -> Crossing | None:
    """First crossing from the left of the means of `first` and `second`, joined by straight lines over `x`.

    `first[i]` and `second[i]` hold the values of the seeds at `x[i]`; each is resampled independently. None if the
    means do not cross.
    """
    order = np.argsort(np.asarray(x, dtype=np.float64), kind="stable")
    places = np.asarray(x, dtype=np.float64)[order]
    one, other = ([np.asarray(side[i], dtype=np.float64) for i in order] for side in (first, second))
    gap = np.array([a.mean() - b.mean() for a, b in zip(one, other, strict=True)])
    at = _zeros(places, gap[None])[0]
    if np.isnan(at):
        return None
    if all(len(seeds) < 2 for seeds in (*one, *other)):
        return Crossing(Estimate(float(at)), float("nan"))
    means = [
        np.stack([drawn_seeds(seeds, 2 * i + side).mean(axis=1) for i, seeds in enumerate(line)], axis=1)
        for side, line in enumerate((one, other))
    ]
    drawn = _zeros(places, means[0] - means[1])
    share = float(np.isfinite(drawn).mean())
    ends = percentile_ends(drawn[np.isfinite(drawn)]) if share >= CONFIDENCE else (None, None)
    return Crossing(Estimate(float(at), *ends), share)


def _zeros(x: Array, gaps: Array) -> Array:
    """Place of the first change of sign of each line (lines, places); NaN for a line that keeps its sign.

    A zero counts only between two different signs: lines that begin together, or touch, do not cross.
    """
    signs = np.sign(gaps)
    for place in range(1, signs.shape[1]):
        signs[:, place] = np.where(signs[:, place] == 0, signs[:, place - 1], signs[:, place])
    changes = signs[:, :-1] * signs[:, 1:] < 0
    first = np.argmax(changes, axis=1)
    row = np.arange(len(gaps))
    a, b = gaps[row, first], gaps[row, first + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x[first] + (x[first + 1] - x[first]) * a / (a - b)
    return np.where(changes.any(axis=1), at, np.nan)


def slope_and_rank(x: Sequence[float], y: Mapping[int, Sequence[float]]) -> tuple[Estimate, float | None]:
    """Least-squares slope of y over x with an interval over seeds, and Spearman's correlation of the means.

    `y` holds the values of each seed at all of `x`. The correlation is None for fewer than three levels, and if x or y
    does not vary.
    """
    places = np.asarray(x, dtype=np.float64)
    lines = np.array([y[seed] for seed in sorted(y)], dtype=np.float64)
    centred = places - places.mean()
    square = float((centred**2).sum())
    slopes = lines @ centred / square if square else np.full(len(lines), np.nan)
    low, high = interval(slopes)
    ends = (None, None) if len(slopes) < 2 else (float(low), float(high))
    means = lines.mean(axis=0)
    varied = len(places) > 2 and np.ptp(places) > 0 and np.ptp(means) > 0
    return Estimate(float(slopes.mean()), *ends), float(stats.spearmanr(places, means).statistic) if varied else None
