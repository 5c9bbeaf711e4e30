"""Contests of a board: adjusted tests of their rows, group letters, and the winner of each."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.cell import TestRuns
from results.board.quantities import BY_RUN, METRICS, tested_as, written
from results.board.row import Row
from results.statistics.bootstrap import Estimate
from results.statistics.multiple_comparisons import SIGNIFICANT, PairTest, adjusted_tests, groups, matrix, tested_pairs
from results.statistics.two_models import Pair, effects

ROUND_OFF = 1e-6
"""An equivariance error of data below this is written as 0."""


@dataclass(frozen=True)
class Contest:
    """Positions of the rows of a contest that have a number, the best first, and the tests of their pairs.

    An incomplete row ranks behind every complete one, as in `best`. `tests` are by position in `ranked`.
    """

    ranked: tuple[int, ...]
    tests: Mapping[Pair, PairTest]

    def test(self, first: int, second: int) -> PairTest | None:
        """Test of two rows, by their positions on the board; None if it was not possible."""
        if not {first, second} <= set(self.ranked):
            return None
        i, j = self.ranked.index(first), self.ranked.index(second)
        test = self.tests.get((min(i, j), max(i, j)))
        return test.reversed() if test is not None and i > j else test


def contests(rows: Sequence[Row]) -> list[list[int]]:
    """Positions of the rows of each contest, in the order of the board."""
    positions: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        positions[row.contest].append(index)
    return list(positions.values())


def contest_of(rows: Sequence[Row], positions: Sequence[int], metric: str, also: Sequence[Pair] = ()) -> Contest:
    """Tests of the contest whose rows are at `positions`, adjusted for their number.

    In a large contest each row is tested against the best only (`tested_pairs`), and the pairs of positions `also`.
    """
    ranked = [index for index in positions if metric in rows[index].metrics]
    ranked.sort(key=lambda index: (not rows[index].ranks(metric), rows[index].merit(metric)))
    place = {index: n for n, index in enumerate(ranked)}
    more = [(min(place[i], place[j]), max(place[i], place[j])) for i, j in also if {i, j} <= place.keys()]
    pairs = dict.fromkeys([*tested_pairs(range(len(ranked))), *more])
    samples = [rows[index].sample(tested_as(metric)) for index in ranked]
    return Contest(tuple(ranked), adjusted_tests(effects(samples, list(pairs))))


def letters_of(rows: Sequence[Row], metric: str) -> list[str]:
    """Group letters of each row within its contest: rows that share a letter do not differ significantly.

    `a` is the group of the best. Rows that cannot be tested (one seed, no number) have no letter.
    """
    letters = [""] * len(rows)
    for positions in contests(rows):
        contest = contest_of(rows, positions, metric)
        for index, text in zip(contest.ranked, _letters(contest), strict=True):
            letters[index] = text
    return letters


def _letters(contest: Contest) -> list[str]:
    count = len(contest.ranked)
    return groups(range(count), lambda pairs: matrix(count, contest.tests))


@dataclass(frozen=True)
class Verdict:
    """Result of one contest: the best row, the second, and the test of the second against the best.

    `tied` are the labels that do not differ significantly from the best; `tested` is false if no test was possible.
    `unfinished` counts the rows that lack a seed. `example` is any row of the contest.
    """

    best: Row | None
    second: Row | None
    test: PairTest | None
    tied: tuple[str, ...]
    tested: bool
    unfinished: int
    example: Row

    @property
    def significant(self) -> bool:
        """Whether the best row differs significantly from every other."""
        return self.tested and not self.tied and self.test is not None and self.test.p < SIGNIFICANT

    @property
    def text(self) -> str:
        """Whether the best row is significantly better than every other, in a few words."""
        if self.best is None:
            return "no model has finished all its seeds"
        if self.second is None:
            return "no other model has finished all its seeds"
        if not self.tested:
            return "unknown: a test needs two seeds"
        if not self.tied:
            rest = f" that has all its seeds ({self.unfinished} without)" if self.unfinished else ""
            return f"yes: differs significantly from every other{rest}"
        return f"no: does not differ significantly from {_listed(self.tied)}"

    def sentence(self, metric: str) -> str:
        """Winner, lead and certainty on one line, after the level and its measured breaking."""
        known = (self.best or self.example).metrics
        named = {"data error": "data_equivariance_error", "floor": "strict_floor"}
        measured = [f"{name} {_rounded(known[key].mean)}" for name, key in named.items() if key in known]
        place = f"level {self.example.level}" + (f" ({', '.join(measured)})" if measured else "")
        if self.best is None or self.second is None:
            return f"{place}: {'' if self.best is None else f'{self.best.label}; '}{self.text}"
        best, second = self.best.metrics[metric].mean, self.second.metrics[metric].mean
        unit = METRICS[metric]
        gap = f"{abs(best - second) / unit.divisor:.3g}"
        if not unit.higher_is_better and best > 0:
            gap = f"{100 * (second / best - 1):.0f} %"
        lead = f"{place}: {self.best.label} {written(best / unit.divisor)}, {gap} ahead of {self.second.label}"
        if not self.tested:
            return f"{lead}, not tested with one seed"
        if self.significant and self.test is not None:
            return f"{lead}, sure (p = {self.test.p:.1g})"
        others = [label for label in self.tied if label != self.second.label]
        return f"{lead}, not sure" + (f"; {_listed(others)} may be as good, too" if others else "")


def _rounded(error: float) -> str:
    return f"{error:.3g}" if error > ROUND_OFF else "0"


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:2]) + (f" and {len(labels) - 2} more" if len(labels) > 2 else "")


def verdicts(rows: Sequence[Row], metric: str) -> list[Verdict]:
    """Verdict of each contest, in the order of the board."""
    results = []
    for positions in contests(rows):
        contest = contest_of(rows, positions, metric)
        letters = dict(zip(contest.ranked, _letters(contest), strict=True))
        ranked = [index for index in contest.ranked if rows[index].ranks(metric)]
        best, second = (rows[ranked[n]] if len(ranked) > n else None for n in (0, 1))
        test = contest.test(ranked[1], ranked[0]) if len(ranked) > 1 else None
        tied = tuple(rows[i].label for i in ranked[1:] if "a" in letters[i])
        was_tested = bool(ranked) and "a" in letters[ranked[0]]
        unfinished = sum(not rows[i].ranks(metric) and not rows[i].reason for i in positions)
        results.append(Verdict(best, second, test, tied, was_tested, unfinished, rows[positions[0]]))
    return results


def effect_text(test: PairTest | None, metric: str) -> str:
    """Effect of a test with its adjusted interval: `+16.2 % [+12.0, +20.6]`, or a difference in the metric's unit."""
    if test is None:
        return "-"
    effect, divisor = test.effect, METRICS[tested_as(metric)].divisor
    if effect.logarithmic:
        size = Estimate(100 * effect.size, *(100 * end for end in effect.ends(test.level)))
        text = size.text("{:+.1f}".format)
        head, bracket, ends = text.partition(" [")
        return f"{head} %{bracket}{ends}"
    return Estimate(effect.size / divisor, *(end / divisor for end in effect.ends(test.level))).text("{:+.4g}".format)


def claim(rows: Sequence[Row], metric: str) -> str:
    """Sentences on the tests of a board: which test, on which datasets, and what its statements are about."""
    kinds: dict[TestRuns | None, list[str]] = {}
    for dataset, kind in dict.fromkeys((row.dataset, row.test_runs) for row in rows):
        kinds.setdefault(kind, []).append(dataset)
    welch = "Welch's test over seeds"
    judged = tested_as(metric)
    over = (
        "a test over seeds and test runs" if judged in BY_RUN else f"{METRICS[judged].title} is kept per seed: {welch}"
    )
    texts: dict[TestRuns | None, str] = {
        "designed": f"are designed: statements are about these runs and no others ({welch})",
        "sampled": f"are sampled: statements are about new runs, too ({over})",
        None: f"are unknown, since the dataset is gone; they count as designed ({welch})",
    }
    sentences = [f"The test runs of {', '.join(names)} {texts[kind]}." for kind, names in kinds.items()]
    return " ".join([*sentences, "Tests are on logarithms, p is adjusted for the pairs of a level (Holm)."])
