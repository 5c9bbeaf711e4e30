"""Contests of a board: tests of their rows, group letters, the winner of each, and the lead of relaxed networks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np

from benchmark.cell import TestRuns
from results.board.notes import size_of
from results.board.quantities import BY_RUN, METRICS, tested_as, written, written_error
from results.board.row import Row, merits, samples
from results.statistics.bootstrap import Estimate
from results.statistics.multiple_comparisons import SIGNIFICANT, PairTest, adjusted_tests, groups, matrix, tested_pairs
from results.statistics.two_models import Pair, effects

RELAXED, RIVALS = "relaxed", ("strict", "cnn", "free")
MEMBER = (
    "At each level the member of the family with the lowest validation error; one that lacks a seed only if there is no"
    " other."
)


@dataclass(frozen=True)
class Contest:
    """Positions of the rows of a contest, and `ranked` those with a number, the best first; tests of their pairs.

    An incomplete row ranks behind every complete one, as in `best`. `tests` are by position in `ranked`, `merit` is by
    position on the board.
    """

    positions: tuple[int, ...]
    ranked: tuple[int, ...]
    tests: Mapping[Pair, PairTest]
    merit: Mapping[int, float]

    def behind(self, index: int, best: int) -> float:
        """How far the row at `index` is behind that of `best`: the worse number over the better one, less 1.

        The better one is the smaller, or the larger if higher is better. Infinite if the number divided by is 0.
        """
        return float(np.expm1(self.merit[index] - self.merit[best]))

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
    merit = dict(zip(positions, merits([rows[index] for index in positions], metric), strict=True))
    ranked.sort(key=lambda index: (not rows[index].ranks(metric), merit[index]))
    place = {index: n for n, index in enumerate(ranked)}
    more = [(min(place[i], place[j]), max(place[i], place[j])) for i, j in also if {i, j} <= place.keys()]
    pairs = dict.fromkeys([*tested_pairs(range(len(ranked))), *more])
    tests = adjusted_tests(effects(samples([rows[index] for index in ranked], metric), list(pairs)))
    return Contest(tuple(positions), tuple(ranked), tests, merit)


@dataclass(frozen=True)
class Verdict:
    """Result of one contest: the best row, its rival, and the test of the rival against the best.

    The rival is the first row that the tests do not tell from the best, or the second if there is none: so the interval
    of `test` holds 0 exactly if the best is not sure. `behind` is that of the rival (`Contest.behind`). `tied` are the
    labels of all such rows; `tested` is false if no test was possible. `unfinished` counts the rows that lack a seed.
    `example` is any row of the contest. `terms` are its protocol and budget if the board has several.
    """

    best: Row | None
    rival: Row | None
    behind: float
    test: PairTest | None
    tied: tuple[str, ...]
    tested: bool
    unfinished: int
    example: Row
    terms: str

    @property
    def sure(self) -> bool:
        """Whether the best row differs significantly from every other."""
        return self.tested and not self.tied

    @property
    def certainty(self) -> str:
        """Whether the best row is sure, in a few words."""
        if self.best is None:
            return "no model has finished all its seeds"
        if self.rival is None:
            return "no other model has finished all its seeds"
        if not self.tested:
            return "not tested with one seed"
        if self.test is not None and self.sure:
            rest = f", among models with all seeds ({self.unfinished} without)" if self.unfinished else ""
            return f"sure (p = {self.test.p:.2g}){rest}"
        others = [label for label in self.tied if label != self.rival.label]
        return "not sure" + (f"; {_listed(others)} may be as good, too" if others else "")

    @property
    def place(self) -> str:
        """Level of the contest, with its terms and its measured breaking."""
        known = (self.best or self.example).metrics
        named = {"data error": "data_equivariance_error", "floor": "strict_floor"}
        measured = [f"{name} {written_error(known[key].mean)}" for name, key in named.items() if key in known]
        terms = f", {self.terms}" if self.terms else ""
        return f"level {self.example.level}{terms}" + (f" ({', '.join(measured)})" if measured else "")

    def lead(self, metric: str) -> str:
        """Lead over the rival, of geometric means as in the test; empty without a rival."""
        if self.best is None or self.rival is None:
            return ""
        if not isfinite(self.behind):
            return f"{abs(self.rival.metrics[metric].mean) / METRICS[metric].divisor:.3g}"
        return f"{100 * self.behind:.0f} %" if self.behind >= 0.01 else "less than 1 %"

    def sentence(self, metric: str) -> str:
        """Winner, lead and certainty on one line, after the level and its measured breaking."""
        if self.best is None or self.rival is None:
            return f"{self.place}: {'' if self.best is None else f'{self.best.label}; '}{self.certainty}"
        best = written(self.best.metrics[metric].mean / METRICS[metric].divisor)
        return (
            f"{self.place}: {self.best.label} {best}, {self.lead(metric)} ahead of {self.rival.label}, {self.certainty}"
        )


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(labels[:2]) + (f" and {len(labels) - 2} more" if len(labels) > 2 else "")


def family_members(rows: Sequence[Row], positions: Sequence[int]) -> dict[str, int]:
    """Family -> position of its member among `positions`, chosen as MEMBER says."""
    candidates: dict[str, list[int]] = defaultdict(list)
    for index in positions:
        if "rmse_validation" in rows[index].metrics:
            candidates[rows[index].family].append(index)
    return {family: min(own, key=lambda index: _merit(rows[index])) for family, own in candidates.items()}


def _merit(row: Row) -> tuple[bool, float, str]:
    return not row.complete, row.metrics["rmse_validation"].mean, row.label


def _lead(test: PairTest, metric: str) -> str:
    """Lead of the first model of `test` over the second."""
    ahead = test.reversed() if not METRICS[metric].higher_is_better else test
    worse = ahead.effect.size < 0
    percent = 100 * (ahead.reversed() if worse else ahead).effect.size
    size = f"{percent:.0f} %" if percent >= 1 else "less than 1 %"
    return f"{size} {'behind' if worse else 'ahead'}, {'sure' if test.p < SIGNIFICANT else 'not sure'}"


def _letters(contest: Contest) -> list[str]:
    count = len(contest.ranked)
    return groups(range(count), lambda pairs: matrix(count, contest.tests))


class BoardTests:
    """Tests of all contests of a board by one metric, each made once, and what follows from them."""

    def __init__(self, rows: Sequence[Row], metric: str) -> None:
        self.rows, self.metric = rows, metric
        self.contests = [contest_of(rows, positions, metric) for positions in contests(rows)]
        self.one_protocol = len({row.terms for row in rows}) == 1

    @property
    def letters(self) -> list[str]:
        """Group letters of each row within its contest: rows that share a letter do not differ significantly.

        `a` is the group of the best. Rows that cannot be tested (one seed, no number) have no letter.
        """
        letters = [""] * len(self.rows)
        for contest in self.contests:
            for index, text in zip(contest.ranked, _letters(contest), strict=True):
                letters[index] = text
        return letters

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Verdict of each contest, in the order of the board."""
        return [self._verdict(contest) for contest in self.contests]

    def _verdict(self, contest: Contest) -> Verdict:
        rows = self.rows
        ranked = [index for index in contest.ranked if rows[index].ranks(self.metric)]
        best, others = ranked[0] if ranked else -1, ranked[1:]
        higher = METRICS[tested_as(self.metric)].higher_is_better  # the test is of the larger number against the other
        tests = {index: contest.test(*((best, index) if higher else (index, best))) for index in others}
        tied = [index for index, test in tests.items() if test is None or test.p >= SIGNIFICANT]
        rival = next(iter(tied or others), None)
        return Verdict(
            rows[best] if ranked else None,
            None if rival is None else rows[rival],
            0.0 if rival is None else contest.behind(rival, best),
            None if rival is None else tests[rival],
            tuple(rows[index].label for index in tied),
            any(test is not None for test in tests.values()),
            sum(not rows[i].ranks(self.metric) and not rows[i].reason for i in contest.positions),
            rows[contest.positions[0]],
            "" if self.one_protocol else rows[contest.positions[0]].terms,
        )

    @cached_property
    def ratios(self) -> list[float | None]:
        """1 + `Contest.behind` of each complete row and the best of its contest; None without both, or if infinite."""
        ratios: list[float | None] = [None] * len(self.rows)
        for contest in self.contests:
            ranked = [index for index in contest.ranked if self.rows[index].ranks(self.metric)]
            for index in ranked:
                behind = contest.behind(index, ranked[0])
                ratios[index] = 1 + behind if isfinite(behind) else None
        return ratios

    @property
    def sure_winners(self) -> set[int]:
        """Positions of the rows that differ significantly from every other row of their contest."""
        sure = {id(one.best) for one in self.verdicts if one.sure}
        return {index for index, row in enumerate(self.rows) if id(row) in sure}

    @property
    def family_leads(self) -> list[str]:
        """Sentences such as `Relaxed against strict: level 0: 4 % behind, not sure; level 1: 21 % ahead, sure`.

        One for each rival family, dataset, protocol and budget. Contests in which a member lacks a seed, or whose pair
        is not tested on logarithms, are left out.
        """
        rows, texts = self.rows, defaultdict[tuple[str, ...], list[str]](list)
        for contest in self.contests:
            chosen = family_members(rows, contest.positions)
            first = rows[contest.positions[0]]
            for rival in RIVALS:
                pair = [chosen[family] for family in (RELAXED, rival) if family in chosen]
                if len(pair) == 2 and all(rows[index].ranks(self.metric) for index in pair):
                    test = contest.test(*pair)
                    if test is not None and test.effect.logarithmic:
                        key = (*first.panel, first.terms, rival)
                        texts[key].append(f"level {first.level}: {_lead(test, self.metric)}")
        many = len({key[:-1] for key in texts}) > 1
        sentences = []
        for (name, preset, grid, terms, rival), levels in texts.items():
            where = f" on {name} ({size_of(name, preset, grid)}), {terms}" if many else ""
            sentences.append(f"Relaxed against {rival}{where}: {'; '.join(levels)}.")
        return sentences


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
    return " ".join(
        [*sentences, "Rank, lead and tests are of means of logarithms, p is adjusted for the pairs of a level (Holm)."]
    )
