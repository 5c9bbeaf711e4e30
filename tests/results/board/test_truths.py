"""Truths of the statistics: models that differ are told apart, and models that are equal are not."""

import itertools

import numpy as np
import pytest

from results.statistics.multiple_comparisons import SIGNIFICANT, adjusted_tests, letters, matrix
from results.statistics.two_models import Sample, effects, mixed, p_values

RATIOS = (1.0, 1.3, 1.6, 2.0, 3.0)
RUNS = np.geomspace(1.0, 8.0, 4)
"""Difficulty of each test run; four, as on a level of the smoke."""


def contest(ratios, seeds: int, sampled: bool, rng: np.random.Generator, noise: float = 0.02) -> list[Sample]:
    """Samples of models whose error is a ratio times the difficulty of the run, with noise in every run and seed."""
    samples = []
    for ratio in ratios:
        by_run = ratio * RUNS * np.exp(noise * rng.standard_normal((seeds, len(RUNS))))
        values = tuple(np.sqrt((by_run**2).mean(axis=1)))
        samples.append(Sample(tuple(range(seeds)), values, tuple(map(tuple, by_run)) if sampled else None))
    return samples


def judged(samples: list[Sample]):
    return adjusted_tests(effects(samples, list(itertools.combinations(range(len(samples)), 2))))


@pytest.mark.parametrize("sampled", [False, True], ids=["designed", "sampled"])
@pytest.mark.parametrize("seeds", [3, 5])
def test_models_of_different_errors_are_told_apart(seeds: int, sampled: bool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        tests = judged(contest(RATIOS, seeds, sampled, rng))
        assert len(tests) == 10
        assert all(test.p < SIGNIFICANT for test in tests.values())
        assert letters(range(5), matrix(5, tests)) == ["a", "b", "c", "d", "e"]
    effect = tests[0, 3].effect
    assert effect.size == pytest.approx(-0.5, abs=0.03), "half the error"


@pytest.mark.parametrize("sampled", [False, True], ids=["designed", "sampled"])
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_models_are_seldom_told_apart(seeds: int, sampled: bool) -> None:
    """Two models, and any two of four, with the noise of the truth above."""
    for count, contests in ((2, 1000), (4, 400)):
        rng = np.random.default_rng([seeds, count])
        told_apart = sum(
            any(test.p < SIGNIFICANT for test in judged(contest((1.0,) * count, seeds, sampled, rng)).values())
            for _ in range(contests)
        )
        assert told_apart <= 0.05 * contests + 2 * np.sqrt(0.05 * 0.95 * contests), "5 %, and what chance adds to it"


@pytest.mark.parametrize(("seeds", "most"), [(2, 0.065), (3, 0.055), (5, 0.055)])
@pytest.mark.parametrize("runs", [4, 25])
@pytest.mark.parametrize("spread", [(1.0, 0.0), (0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0, 0.3)], ids=str)
def test_the_mixed_test_keeps_its_level(seeds: int, most: float, runs: int, spread: tuple[float, float]) -> None:
    """Equal models whose differences vary with the seed, with the run, and with both; 0.3 of noise in each cell."""
    rng, count = np.random.default_rng(7), 4000
    of_seed = spread[0] * rng.standard_normal((count, seeds, 1))
    of_run = spread[1] * rng.standard_normal((count, 1, runs))
    p = p_values(mixed(of_seed + of_run + 0.3 * rng.standard_normal((count, seeds, runs))))
    assert (p < 0.05).mean() <= most + 2 * np.sqrt(0.05 * 0.95 / count)


@pytest.mark.parametrize("sampled", [False, True], ids=["designed", "sampled"])
def test_interval_and_verdict_never_contradict_each_other(sampled: bool) -> None:
    rng, cases = np.random.default_rng(3), {True: 0, False: 0}
    for _ in range(150):
        ratios = np.exp(0.05 * rng.standard_normal(5))
        for test in judged(contest(ratios, 3, sampled, rng, noise=0.05)).values():
            low, high = test.effect.ends(test.level)
            assert (test.p < SIGNIFICANT) == (not low <= 0 <= high)
            assert low <= test.effect.size <= high
            cases[test.p < SIGNIFICANT] += 1
    assert min(cases.values()) > 50
