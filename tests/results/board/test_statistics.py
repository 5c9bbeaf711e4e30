"""Statistics against closed forms, scipy, and enumeration by brute force."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from results.statistics import bootstrap, improvement, multiple_comparisons, two_models
from results.statistics.bootstrap import Estimate
from results.statistics.crossing import crossing, slope_and_rank
from results.statistics.two_models import Effect, Sample

RNG = np.random.default_rng(5)


def sample(values, by_run=None, seeds=None, deterministic=False) -> Sample:
    return Sample(tuple(seeds or range(len(values))), tuple(values), by_run, deterministic)


def effect_of(first: Sample, second: Sample) -> Effect:
    return two_models.effects([first, second], [(0, 1)])[0, 1]


class TestInterval:
    def test_one_seed_has_none(self) -> None:
        low, high = bootstrap.interval([[3.0], [4.0]])
        assert np.isnan(low).all()
        assert np.isnan(high).all()

    @pytest.mark.parametrize("n", [2, 3, 4])
    def test_few_seeds_give_their_range(self, n: int) -> None:
        values = RNG.standard_normal(n)
        assert bootstrap.interval(values) == (values.min(), values.max())

    @pytest.mark.parametrize("n", [3, 5, 6])
    def test_the_weights_are_those_of_all_resamples(self, n: int) -> None:
        counts, weights = bootstrap.resamples(n)
        values = RNG.standard_normal(n)
        brute = sorted(np.mean(picked) for picked in itertools.product(values, repeat=n))
        ours = sorted(np.repeat(counts @ values / n, np.round(weights * n**n).astype(int)))
        assert ours == pytest.approx(brute)

    @pytest.mark.parametrize(("n", "tolerance"), [(5, 0), (7, 0.01), (12, 0.1), (40, 0.1)])
    def test_it_is_scipys_percentile_bootstrap_at_the_expanded_percentiles(self, n: int, tolerance: float) -> None:
        values = RNG.standard_normal(n)
        confidence = 1 - 2 * bootstrap.expanded_tail(n)
        expected = stats.bootstrap(
            (values,), np.mean, confidence_level=confidence, method="percentile", n_resamples=50_000, random_state=1
        ).confidence_interval
        width = expected.high - expected.low
        assert bootstrap.interval(values) == pytest.approx((expected.low, expected.high), abs=tolerance * width + 1e-9)

    def test_the_expansion_is_hesterbergs(self) -> None:
        expected = stats.norm.cdf(-math.sqrt(10 / 9) * stats.t.ppf(0.975, 9))
        assert bootstrap.expanded_tail(10) == pytest.approx(expected)
        assert bootstrap.expanded_tail(10_000) == pytest.approx(0.025, rel=1e-2)

    @pytest.mark.parametrize(
        ("n", "least", "most"), [(2, 0.46, 0.54), (3, 0.71, 0.79), (5, 0.90, 0.95), (12, 0.93, 0.97)]
    )
    def test_how_often_it_holds_the_truth(self, n: int, least: float, most: float) -> None:
        low, high = bootstrap.interval(np.random.default_rng(n).standard_normal((3000, n)))
        covered = float(((low <= 0) & (high >= 0)).mean())
        assert least <= covered <= most
        if n <= 4:
            assert covered == pytest.approx(bootstrap.range_coverage(n), abs=0.03)

    def test_equal_values_have_an_interval_of_no_width(self) -> None:
        assert bootstrap.interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


class TestTwoModels:
    def test_probability_of_improvement_is_mann_whitneys_u(self) -> None:
        first, second = RNG.standard_normal(6), RNG.standard_normal(4).round(1)
        u = stats.mannwhitneyu(second, first).statistic
        assert improvement.probability_of_improvement(first, second) == pytest.approx(u / 24)
        assert improvement.probability_of_improvement(first, second, higher_is_better=True) == pytest.approx(1 - u / 24)

    def test_ties_and_seeds_that_diverged(self) -> None:
        inf = math.inf
        assert improvement.probability_of_improvement([1.0], [1.0]) == 0.5
        assert improvement.probability_of_improvement([inf, 1.0], [inf, 2.0]) == (0.5 + 0 + 1 + 1) / 4

    def test_designed_runs_have_welchs_test_on_logarithms(self) -> None:
        first, second = np.exp(RNG.standard_normal(5)), np.exp(2 * RNG.standard_normal(3) + 1)
        expected = stats.ttest_ind(np.log(first), np.log(second), equal_var=False)
        effect = effect_of(sample(first), sample(second))
        assert two_models.p_values([effect])[0] == pytest.approx(expected.pvalue)
        assert (effect.seeds, effect.runs, effect.logarithmic) == ((5, 3), 0, True)
        ends = expected.confidence_interval(0.99)
        assert effect.ends(0.01) == pytest.approx((np.exp(ends.low) - 1, np.exp(ends.high) - 1))
        assert effect.size == pytest.approx(stats.gmean(first) / stats.gmean(second) - 1)
        assert effect.reversed().size == pytest.approx(stats.gmean(second) / stats.gmean(first) - 1)

    def test_values_that_are_not_positive_are_tested_as_they_are(self) -> None:
        first, second = [0.0, 1.0, 2.0], [2.0, 3.0, 5.0]
        effect = effect_of(sample(first), sample(second))
        assert two_models.p_values([effect])[0] == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue)
        assert effect.size == pytest.approx(1 - 10 / 3)

    def test_one_run_or_one_seed_is_students_test(self) -> None:
        differences = RNG.standard_normal((7, 5))
        expected = stats.ttest_1samp(differences, 0, axis=1).pvalue
        assert two_models.p_values(two_models.mixed(differences[:, None, :])) == pytest.approx(expected)

    def test_seeds_and_runs_against_the_mean_squares_by_hand(self) -> None:
        plane = np.array([[1.0, 2.0, 4.0], [2.0, 2.5, 6.0]])
        mean, (s, r) = plane.mean(), plane.shape
        rows, columns = plane.mean(1), plane.mean(0)
        ms_s = r * ((rows - mean) ** 2).sum() / (s - 1)
        ms_r = s * ((columns - mean) ** 2).sum() / (r - 1)
        ms_i = ((plane - rows[:, None] - columns + mean) ** 2).sum() / ((s - 1) * (r - 1))
        of_runs = max(ms_r - ms_i, 0)
        (effect,) = two_models.mixed(plane[None])
        error = math.sqrt((ms_s + of_runs) / (s * r))
        assert (effect.difference, effect.error) == pytest.approx((mean, error))
        (p,) = two_models.p_values([effect])
        quantiles = stats.t.isf(p / 2, s - 1), stats.t.isf(p / 2, r - 1)
        critical = (ms_s * quantiles[0] + of_runs * quantiles[1]) / (ms_s + of_runs)
        assert mean / error == pytest.approx(critical), "Cochran and Cox"

    def test_sampled_runs_are_paired_on_logarithms(self) -> None:
        first, second = np.exp(RNG.standard_normal((2, 3, 6)))
        ours = effect_of(*(sample(plane.mean(1), tuple(map(tuple, plane))) for plane in (first, second)))
        (expected,) = two_models.mixed((np.log(first) - np.log(second))[None])
        assert (ours.difference, ours.error, ours.runs) == (expected.difference, expected.error, 6)
        assert ours.logarithmic

    def test_what_does_not_vary_is_equal_or_not(self) -> None:
        assert two_models.p_values(two_models.mixed(np.zeros((1, 3, 4))))[0] == 1.0
        assert two_models.p_values(two_models.mixed(np.full((1, 3, 4), 0.1)))[0] == 0.0
        assert two_models.p_values([effect_of(sample([0.2, 0.2]), sample([0.2, 0.2, 0.2]))])[0] == 1.0
        assert two_models.p_values([effect_of(sample([0.2, 0.2]), sample([0.3, 0.3]))])[0] == 0.0

    def test_tiny_p_values(self) -> None:
        for seeds in (3, 10):
            plane = 1.0 + 1e-6 * RNG.standard_normal((seeds, 4))
            (p,) = two_models.p_values(two_models.mixed(plane[None]))
            assert 0 < p < 1e-8

    def test_one_seed_has_no_test(self) -> None:
        assert two_models.effects([sample([1.0]), sample([1.0, 2.0])], [(0, 1)]) == {}
        diverged = sample([1.0, math.inf])
        assert two_models.effects([diverged, sample([1.0, 2.0])], [(0, 1)]) == {}

    def test_a_deterministic_model_stands_for_every_seed(self) -> None:
        still, net = sample([3.0], deterministic=True), sample([1.0, 1.1, 1.2])
        expected = stats.ttest_1samp(np.log([1.0, 1.1, 1.2]), math.log(3.0)).pvalue
        assert two_models.p_values([effect_of(still, net)])[0] == pytest.approx(expected)
        assert two_models.p_values([effect_of(still, still)])[0] == 1.0

    def test_two_deterministic_models_are_tested_over_sampled_runs(self) -> None:
        first, second = np.exp(RNG.standard_normal((2, 1, 8)))
        samples = [sample([1.0], (tuple(plane[0]),), deterministic=True) for plane in (first, second)]
        expected = stats.ttest_rel(np.log(first[0]), np.log(second[0])).pvalue
        assert two_models.p_values([effect_of(*samples)])[0] == pytest.approx(expected)


class TestManyModels:
    def test_holm_by_hand(self) -> None:
        assert multiple_comparisons.holm([0.04, 0.01, 0.03, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
        assert multiple_comparisons.holm([]).tolist() == []

    def test_the_tests_of_a_contest_are_adjusted_by_holm(self) -> None:
        values = [np.exp(RNG.standard_normal(4) + shift) for shift in (0, 1, 9)]
        pairs = [(0, 1), (0, 2), (1, 2)]
        tests = multiple_comparisons.adjusted_tests(two_models.effects([sample(each) for each in values], pairs))
        raw = [stats.ttest_ind(np.log(values[i]), np.log(values[j]), equal_var=False).pvalue for i, j in pairs]
        assert [tests[pair].raw for pair in pairs] == pytest.approx(raw)
        assert [tests[pair].p for pair in pairs] == pytest.approx(multiple_comparisons.holm(raw))
        p = multiple_comparisons.matrix(3, tests)
        assert (p == p.T).all()

    def test_models_without_a_test_have_no_letter(self) -> None:
        tests = multiple_comparisons.adjusted_tests(two_models.effects([sample([1.0]), sample([2.0])], [(0, 1)]))
        p = multiple_comparisons.matrix(2, tests)
        assert np.isnan(p[~np.eye(2, dtype=bool)]).all()
        assert multiple_comparisons.letters([0, 1], p) == ["", ""]

    def test_a_large_contest_tests_each_model_with_the_best(self) -> None:
        assert multiple_comparisons.tested_pairs([2, 0, 1]) == [(0, 1), (0, 2), (1, 2)]
        assert multiple_comparisons.tested_pairs(range(31)) == [(0, other) for other in range(1, 31)]

    def test_letters_of_overlapping_groups(self) -> None:
        """A and B do not differ, nor do B and C, but A and C do; D differs from all."""
        p = np.ones((4, 4))
        for i, j in ((0, 2), (0, 3), (1, 3), (2, 3)):
            p[i, j] = p[j, i] = 0.01
        assert multiple_comparisons.letters([0, 1, 2, 3], p) == ["a", "ab", "b", "c"]
        assert multiple_comparisons.letters([3, 2, 1, 0], p) == ["c", "bc", "b", "a"]

    @pytest.mark.parametrize("seed", range(5))
    def test_pairs_share_a_letter_exactly_if_they_do_not_differ(self, seed: int) -> None:
        k = 7
        p = np.random.default_rng(seed).random((k, k)) * 0.1
        p = np.triu(p, 1) + np.triu(p, 1).T + np.eye(k)
        letters = multiple_comparisons.letters(range(k), p)
        for i, j in itertools.combinations(range(k), 2):
            assert bool(set(letters[i]) & set(letters[j])) == (p[i, j] >= 0.05)

    def test_ranks_share_ties_and_leave_out_the_missing(self) -> None:
        ranks = multiple_comparisons.ranks([[1.0, 2.0, 2.0, np.nan], [math.inf, 1.0, 3.0, math.inf]])
        assert ranks[0][:3].tolist() == [1.0, 2.5, 2.5]
        assert np.isnan(ranks[0][3])
        assert ranks[1].tolist() == [3.5, 1.0, 2.0, 3.5]

    def test_signed_ranks_are_wilcoxons_and_need_six_blocks(self) -> None:
        blocks = RNG.standard_normal((8, 3)) + np.array([0.0, 0.2, 3.0])
        pairs = [(0, 1), (0, 2), (1, 2)]
        raw = [stats.wilcoxon(blocks[:, i] - blocks[:, j]).pvalue for i, j in pairs]
        p = multiple_comparisons.signed_ranks(blocks, pairs)
        assert [p[pair] for pair in pairs] == pytest.approx(multiple_comparisons.holm(raw))
        assert np.isnan(multiple_comparisons.signed_ranks(blocks[:5], pairs)[0, 1])
        with_worst = blocks.copy()
        with_worst[2, 2] = math.inf
        assert np.isfinite(multiple_comparisons.signed_ranks(with_worst, pairs)).all()

    def test_interquartile_mean_of_known_values(self) -> None:
        assert bootstrap.interquartile_mean([0.0, 1.0, 2.0, 100.0]) == 1.5
        assert bootstrap.interquartile_mean(np.arange(8.0)) == 3.5
        assert bootstrap.interquartile_mean([1.0, 2.0, 3.0, math.inf]) == 2.5
        assert bootstrap.interquartile_mean([1.0, math.inf, math.inf, math.inf]) == math.inf

    def test_stratified_bootstrap_against_a_plain_loop(self) -> None:
        blocks = [RNG.standard_normal(4) + shift for shift in (0.0, 1.0, 5.0)]
        ours = bootstrap.interquartile_estimate(blocks)
        rng = np.random.default_rng(9)
        brute = [stats.trim_mean(np.concatenate([rng.choice(b, 4) for b in blocks]), 0.25) for _ in range(3000)]
        assert ours.value == pytest.approx(stats.trim_mean(np.concatenate(blocks), 0.25))
        assert (ours.low, ours.high) == pytest.approx(np.quantile(brute, [0.025, 0.975]), abs=0.12)

    def test_improvement_over_blocks(self) -> None:
        pairs = [([1.0, 2.0], [3.0, 4.0]), ([3.0, 3.0], [1.0, 1.0])]
        assert improvement.improvement_estimate(pairs) == Estimate(0.5, 0.5, 0.5)
        assert improvement.improvement_estimate([([1.0], [2.0])]) == Estimate(1.0, None, None)
        mixed = improvement.improvement_estimate([([1.0, 3.0, 5.0], [2.0, 4.0, 6.0])])
        assert mixed.value == pytest.approx(6 / 9)
        assert mixed.low < mixed.value < mixed.high

    def test_the_same_numbers_give_the_same_ends(self) -> None:
        values = RNG.standard_normal((3, 9))
        assert (bootstrap.interval(values)[0] == bootstrap.interval(values.copy())[0]).all()
        assert bootstrap.interquartile_estimate(list(values)) == bootstrap.interquartile_estimate(list(values))


class TestLevels:
    def test_lines_cross_where_they_do(self) -> None:
        """y = x and y = 1.5 - x, three seeds a tenth apart around each: at 0.75, and the interval holds it."""
        x = [0.0, 0.5, 1.0]
        spread = np.array([-0.1, 0.0, 0.1])
        cross = crossing(x, [v + spread for v in x], [1.5 - v + spread for v in x])
        assert cross is not None
        assert cross.at.value == pytest.approx(0.75)
        assert cross.share == 1.0
        assert cross.at.low is not None
        assert cross.at.low < 0.75 < cross.at.high

    def test_the_order_of_the_levels_does_not_matter(self) -> None:
        places, one, other = [1.0, 0.0], [[2.0], [0.0]], [[1.0], [1.0]]
        cross = crossing(places, one, other)
        assert cross is not None
        assert cross.at == Estimate(0.5, None, None), "one seed: a place and no interval"

    def test_lines_that_do_not_cross(self) -> None:
        assert crossing([0.0, 1.0], [[1.0], [2.0]], [[3.0], [4.0]]) is None

    def test_an_unsure_crossing_has_no_interval(self) -> None:
        noisy = np.array([-3.0, 0.0, 3.0])
        cross = crossing([0.0, 1.0], [0.1 + noisy, -0.1 + noisy], [noisy, noisy])
        assert cross is not None
        assert cross.share < 0.95
        assert cross.at.low is None

    def test_slope_and_rank_of_a_line(self) -> None:
        slope, rank = slope_and_rank([0.0, 1.0, 3.0], {0: [0.0, 2.0, 6.0], 1: [1.0, 2.0, 4.0]})
        assert slope == Estimate(pytest.approx(1.5), pytest.approx(1.0), pytest.approx(2.0))
        assert rank == pytest.approx(1.0)
        assert slope_and_rank([0.0, 1.0], {0: [1.0, 2.0]})[1] is None
