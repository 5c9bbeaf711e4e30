"""Comparison of two models, two suites or two stores: differences in the settings and in the results.

Rows of one task are paired. The test of two models of a suite is that of the board, adjusted for all pairs of the
contest. Rows of two boards share no contest; their tests are adjusted for the number of pairs here.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmark.errors import UserError, unknown_name
from benchmark.suite.labels import plain
from benchmark.suite.suite import Suite
from results.board.contests import contest_of
from results.board.differences import Difference, Side, differences
from results.board.leaderboard import aggregate
from results.board.quantities import METRICS, tested_as
from results.board.row import Row
from results.statistics.bootstrap import Estimate
from results.statistics.improvement import improvement_estimate, probability_of_improvement
from results.statistics.multiple_comparisons import SIGNIFICANT, PairTest, adjusted_tests
from results.statistics.two_models import Effect, Sample, effects
from results.store.store import Store

PLACE = ("dataset", "preset", "grid", "level", "terms")
Key = Callable[[Row], Hashable]


@dataclass(frozen=True)
class Pair:
    """One row of each side.

    `improvement` is the probability that a seed of the first is better than one of the second, NaN without values.
    `test` is None with a `reason`. `same` is true if both rows are the same records.
    """

    first: Row
    second: Row
    improvement: float
    test: PairTest | None
    reason: str
    same: bool

    @property
    def significant(self) -> bool:
        return self.test is not None and self.test.p < SIGNIFICANT

    @property
    def over(self) -> str:
        """Factors of the test: `seeds`, `seeds and runs`, `runs` (of two trivial forecasts), or `nothing`."""
        if self.test is None:
            return ""
        effect = self.test.effect
        names = ["seeds"] if max(effect.seeds) > 1 else []
        return " and ".join([*names, *(["runs"] if effect.runs else [])]) or "nothing"


@dataclass(frozen=True)
class Compared:
    """Result of a comparison; `improvement` is the probability that the first is better, over all pairs with numbers.

    `only_first` and `only_second` are the rows without a partner. The p of two models `of_one_board` are adjusted for
    the pairs of their contest, others for the number of `pairs`.
    """

    first: Side
    second: Side
    metric: str
    pairs: tuple[Pair, ...]
    differences: tuple[Difference, ...]
    improvement: Estimate | None
    only_first: tuple[Row, ...]
    only_second: tuple[Row, ...]
    of_one_board: bool

    @property
    def warning(self) -> str:
        """Sentence if both sides have metrics of different versions; empty otherwise."""
        versions = [one for one in self.differences if one.kind == "metrics"]
        if not versions:
            return ""
        first, second = (" and ".join(side) or "unknown" for side in (versions[0].first, versions[0].second))
        return f"A has metrics of version {first}, B of version {second}: their numbers do not compare (CHANGELOG.md)."

    def winner(self, pair: Pair) -> str:
        """`first`, `second`, or an empty text if the difference is not significant."""
        if not pair.significant:
            return ""
        lower = pair.test is not None and pair.test.effect.difference < 0
        return "first" if lower != METRICS[tested_as(self.metric)].higher_is_better else "second"


def models(suite: Suite, store: Store, first: str, second: str, metric: str) -> Compared:
    """Compare two models of a suite, by name or by the label on the leaderboard. UserError: no such model."""
    side = _side(suite.name, suite, store, metric)
    one, other = (Side(label, _named(side.rows, label, suite), side.records, side.broken) for label in (first, second))
    if one.rows == other.rows:
        raise UserError(f"compare: both are {first!r}")
    keys: list[Key] = [lambda row: (*row.contest, plain(row.train)), lambda row: row.contest]
    return _compared(one, other, metric, keys, side.rows)


def suites(first: Suite, second: Suite, store: Store, metric: str) -> Compared:
    """Compare the models that two suites have in common, on their common tasks."""
    return _compared(_side(first.name, first, store, metric), _side(second.name, second, store, metric), metric, _KEYS)


def stores(suite: Suite, first: Store, second: Store, metric: str) -> Compared:
    """Compare the results of one suite in two stores."""
    one, other = (_side(str(store.root), suite, store, metric) for store in (first, second))
    return _compared(one, other, metric, _KEYS)


def to_json(compared: Compared) -> dict[str, Any]:
    """Plain data with stable field names; numbers that are not finite become null."""
    document = {
        "first": compared.first.name,
        "second": compared.second.name,
        "metric": compared.metric,
        "significant_below": SIGNIFICANT,
        "warning": compared.warning,
        "improvement": None if compared.improvement is None else asdict(compared.improvement),
        "pairs": [
            {
                **{key: getattr(pair.first, key) for key in PLACE},
                "first": pair.first.label,
                "second": pair.second.label,
                "first_mean": getattr(pair.first.metrics.get(compared.metric), "mean", None),
                "second_mean": getattr(pair.second.metrics.get(compared.metric), "mean", None),
                "effect": _effect(pair.test),
                "improvement": pair.improvement,
                "p": None if pair.test is None else pair.test.raw,
                "p_adjusted": None if pair.test is None else pair.test.p,
                "better": compared.winner(pair) or None,
                "seeds": None if pair.test is None else pair.test.effect.seeds,
                "runs": None if pair.test is None else pair.test.effect.runs,
                "over": pair.over,
                "test_runs": pair.first.test_runs,
                "reason": pair.reason,
                "same_records": pair.same,
                "first_remark": pair.first.remark,
                "second_remark": pair.second.remark,
            }
            for pair in compared.pairs
        ],
        "differences": [asdict(difference) for difference in compared.differences],
        "only_first": [{key: getattr(row, key) for key in (*PLACE, "label")} for row in compared.only_first],
        "only_second": [{key: getattr(row, key) for key in (*PLACE, "label")} for row in compared.only_second],
    }
    finite: dict[str, Any] = json.loads(json.dumps(document), parse_constant=lambda nan_or_infinity: None)
    return finite


def _effect(test: PairTest | None) -> dict[str, Any] | None:
    """Effect with its adjusted interval: a relative difference of geometric means, or a difference of means."""
    if test is None:
        return None
    low, high = test.effect.ends(test.level)
    kind = "relative" if test.effect.logarithmic else "absolute"
    return {"kind": kind, "value": test.effect.size, "low": low, "high": high, "confidence": 1 - test.level}


def _side(name: str, suite: Suite, store: Store, metric: str) -> Side:
    records, broken = store.read(suite.cells)
    if not records:
        raise UserError(f"store {store.root}: no results of suite {suite.name!r} there; `symbench run` makes them")
    return Side(name, aggregate(suite.cells, records, metric, suite.budgets), records, broken)


def _named(rows: Sequence[Row], name: str, suite: Suite) -> list[Row]:
    """Rows with the label `name`, or of the model `name` if it has a single label."""
    labels = list(dict.fromkeys(row.label for row in rows))
    matching = [name] if name in labels else list(dict.fromkeys(row.label for row in rows if row.model == name))
    if not matching:
        raise UserError(f"suite {suite.name!r}: {unknown_name('model', name, labels)}")
    if len(matching) > 1:
        settings = ", ".join(map(repr, matching))
        raise UserError(f"suite {suite.name!r}: {name!r} has several settings; name one of {settings}")
    return [row for row in rows if row.label == matching[0]]


def _keys(place: Callable[[Row], tuple[Hashable, ...]]) -> list[Key]:
    """Keys of rows of one model at the same `place`; the strictest first."""
    return [
        lambda row: (*place(row), row.model, plain(row.config), plain(row.train)),
        lambda row: (*place(row), row.model, plain(row.config)),
        lambda row: (*place(row), row.model, plain({k: v for k, v in row.config.items() if k != "hidden"})),
        lambda row: (*place(row), row.model),
    ]


_KEYS: list[Key] = [*_keys(lambda row: row.contest), *_keys(lambda row: row.task)]
"""Keys by which the rows of two suites are paired; the strictest first."""


def _compared(
    first: Side, second: Side, metric: str, keys: Sequence[Key], board: Sequence[Row] | None = None
) -> Compared:
    """Comparison of the rows that `keys` pair; `board` has the rows of both if they are of one suite."""
    matches, only_first, only_second = _matched(first.rows, second.rows, keys)
    if not matches:
        raise UserError(
            f"{first.name!r} and {second.name!r} have nothing in common: there is no dataset, preset, level and"
            " protocol on which both have the same task"
        )
    judged = tested_as(metric)
    higher = METRICS[judged].higher_is_better
    samples = [(one.sample(judged), other.sample(judged)) for one, other in matches]
    both_have = [(one.values, other.values) for one, other in samples if one.values and other.values]
    same = [_are_same(one, other, first, second) for one, other in matches]
    if board is None:
        tests = _tests([None if same[i] else each for i, each in enumerate(samples)])
    else:
        tests = [_test_of_board(one, other, board, metric) for one, other in matches]
    pairs = tuple(
        Pair(*matches[i], _improvement(*samples[i], higher), test, "" if test else _reason(*samples[i]), same[i])
        for i, test in enumerate(tests)
    )
    improvement = improvement_estimate(both_have, higher) if both_have and not all(same) else None
    different = tuple(differences(matches, first, second))
    rest = tuple(only_first), tuple(only_second)
    return Compared(first, second, metric, pairs, different, improvement, *rest, board is not None)


def _test_of_board(one: Row, other: Row, board: Sequence[Row], metric: str) -> PairTest | None:
    """Test of two rows as it is on their board."""
    positions = [index for index, row in enumerate(board) if row.contest == one.contest]
    pair = next(i for i in positions if board[i] is one), next(i for i in positions if board[i] is other)
    return contest_of(board, positions, metric, [pair]).test(*pair)


def _tests(samples: Sequence[tuple[Sample, Sample] | None]) -> list[PairTest | None]:
    """Tests of pairs on two boards, adjusted for their number."""
    by_line: dict[tuple[int, int], Effect] = {}
    for index, pair in enumerate(samples):
        if pair is not None and (0, 1) in (effect := effects(pair, [(0, 1)])):
            by_line[index, index] = effect[0, 1]
    adjusted = adjusted_tests(by_line)
    return [adjusted.get((index, index)) for index in range(len(samples))]


def _improvement(one: Sample, other: Sample, higher: bool) -> float:
    return probability_of_improvement(one.values, other.values, higher) if one.values and other.values else math.nan


def _reason(one: Sample, other: Sample) -> str:
    """Why two samples were not tested."""
    if not one.values or not other.values:
        return "neither has a result" if not one.values and not other.values else "one of them has no result"
    if not one.finite().values or not other.finite().values:
        return "no seed is finished in one of them"
    return "one seed: the spread over seeds is unknown"


def _matched(
    first: Sequence[Row], second: Sequence[Row], keys: Sequence[Key]
) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Pairs in the order of `first`, and the unpaired rows of each side. A key pairs rows that are unique under it."""
    unpaired = dict(enumerate(first)), dict(enumerate(second))
    partners: dict[int, Row] = {}
    for key in keys:
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, rows in enumerate(unpaired):
            for index, row in rows.items():
                groups[key(row)][side].append(index)
        for ones, others in groups.values():
            if len(ones) == len(others) == 1:
                partners[ones[0]] = unpaired[1].pop(others[0])
                del unpaired[0][ones[0]]
    pairs = [(first[index], partners[index]) for index in sorted(partners)]
    return pairs, list(unpaired[0].values()), list(unpaired[1].values())


def _are_same(one: Row, other: Row, first: Side, second: Side) -> bool:
    ids = [{seed.cell_id for seed in row.seeds} for row in (one, other)]
    return ids[0] == ids[1] and all(
        cell in first.records and cell in second.records and first.records[cell].folder == second.records[cell].folder
        for cell in ids[0]
    )
