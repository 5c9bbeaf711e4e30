"""Comparison of two models, two suites or two stores: differences in the settings and in the results.

Rows of one task are paired. Each pair is tested seed by seed (`paired.compare`), and the p-values are adjusted for the
number of pairs.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmark.errors import UserError, unknown_name
from benchmark.suite.suite import Suite
from results.board.differences import Difference, Side, differences
from results.board.leaderboard import aggregate
from results.board.quantities import METRICS, plain
from results.board.row import Row
from results.statistics.bootstrap import Estimate
from results.statistics.multiple_comparisons import SIGNIFICANT, holm
from results.statistics.paired import Comparison, Sample, improvement_estimate
from results.statistics.paired import compare as compare_samples
from results.store.store import Store

PLACE = ("dataset", "preset", "grid", "level")
Key = Callable[[Row], Hashable]


@dataclass(frozen=True)
class Pair:
    """One row of each side.

    `p` is adjusted for the number of pairs, None without a test. `same` is true if both rows are the same records.
    """

    first: Row
    second: Row
    comparison: Comparison
    p: float | None
    same: bool

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANT


@dataclass(frozen=True)
class Compared:
    """Result of a comparison; `improvement` is the probability that the first is better, over all pairs with numbers.

    `only_first` and `only_second` are the rows without a partner.
    """

    first: Side
    second: Side
    metric: str
    pairs: tuple[Pair, ...]
    differences: tuple[Difference, ...]
    improvement: Estimate | None
    only_first: tuple[Row, ...]
    only_second: tuple[Row, ...]

    def winner(self, pair: Pair) -> str:
        """`first`, `second`, or an empty text if the difference is not significant."""
        if not pair.significant:
            return ""
        lower = pair.comparison.difference.value < 0
        return "first" if lower != METRICS[self.metric].higher_is_better else "second"


def models(suite: Suite, store: Store, first: str, second: str, metric: str) -> Compared:
    """Compare two models of a suite, by name or by the label on the leaderboard. UserError: no such model."""
    side = _side(suite.name, suite, store, metric)
    one, other = (Side(label, _named(side.rows, label, suite), side.records, side.broken) for label in (first, second))
    if one.rows == other.rows:
        raise UserError(f"compare: both are {first!r}")
    return _compared(one, other, metric, [lambda row: (*row.contest, plain(row.train)), lambda row: row.contest])


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
        "improvement": None if compared.improvement is None else asdict(compared.improvement),
        "pairs": [
            {
                **{key: getattr(pair.first, key) for key in PLACE},
                "first": pair.first.label,
                "second": pair.second.label,
                "first_mean": getattr(pair.first.metrics.get(compared.metric), "mean", None),
                "second_mean": getattr(pair.second.metrics.get(compared.metric), "mean", None),
                "difference": asdict(pair.comparison.difference),
                "relative_difference": pair.comparison.relative,
                "improvement": pair.comparison.improvement,
                "p": pair.comparison.p,
                "p_adjusted": pair.p,
                "better": compared.winner(pair) or None,
                "seeds": pair.comparison.seeds,
                "runs": pair.comparison.runs,
                "over": pair.comparison.over,
                "reason": pair.comparison.reason,
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


def _side(name: str, suite: Suite, store: Store, metric: str) -> Side:
    records, broken = store.read(suite.cells)
    if not records:
        raise UserError(f"store {store.root}: no results of suite {suite.name!r} there; `symbench run` makes them")
    return Side(name, aggregate(suite.cells, records, metric), records, broken)


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


def _task(row: Row) -> tuple[Hashable, ...]:
    return (*row.contest, row.model)


_KEYS: list[Key] = [
    lambda row: (*_task(row), plain(row.config), plain(row.train)),
    lambda row: (*_task(row), plain(row.config)),
    lambda row: (*_task(row), plain({key: value for key, value in row.config.items() if key != "hidden"})),
    _task,
]
"""Keys by which the rows of two suites are paired; the strictest first."""


def _compared(first: Side, second: Side, metric: str, keys: Sequence[Key]) -> Compared:
    matches, only_first, only_second = _matched(first.rows, second.rows, keys)
    if not matches:
        raise UserError(
            f"{first.name!r} and {second.name!r} have nothing in common: there is no dataset, preset, level and"
            " protocol on which both have the same task"
        )
    higher = METRICS[metric].higher_is_better
    samples = [(one.sample(metric), other.sample(metric)) for one, other in matches]
    both_have = [(one.values, other.values) for one, other in samples if one.values and other.values]
    comparisons = [
        compare_samples(*both, higher) if both[0].values and both[1].values else _no_comparison(both)
        for both in samples
    ]
    same = [_are_same(one, other, first, second) for one, other in matches]
    tested = {i: c.p for i, c in enumerate(comparisons) if not same[i] and c.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True))
    pairs = tuple(Pair(*rows, comparisons[i], adjusted.get(i), same[i]) for i, rows in enumerate(matches))
    improvement = improvement_estimate(both_have, higher) if both_have and not all(same) else None
    different = tuple(differences(matches, first, second))
    return Compared(first, second, metric, pairs, different, improvement, tuple(only_first), tuple(only_second))


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


def _no_comparison(samples: tuple[Sample, Sample]) -> Comparison:
    reason = "neither has a result" if not any(one.values for one in samples) else "one of them has no result"
    return Comparison(Estimate(math.nan), None, math.nan, None, 0, 0, "", reason)


def _are_same(one: Row, other: Row, first: Side, second: Side) -> bool:
    ids = [{seed.cell_id for seed in row.seeds} for row in (one, other)]
    return ids[0] == ids[1] and all(
        cell in first.records and cell in second.records and first.records[cell].folder == second.records[cell].folder
        for cell in ids[0]
    )
