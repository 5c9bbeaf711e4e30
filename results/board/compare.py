"""Two models, two suites or two stores: what differs between them, and whether the results do.

Rows are put side by side that are asked the same thing; each pair is compared seed by seed (paired.compare), and
the p-values of all pairs are adjusted for their number.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

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


@dataclass(frozen=True)
class Pair:
    """A row of each side; `p` is adjusted for the number of pairs, None where there is no test."""

    first: Row
    second: Row
    comparison: Comparison
    p: float | None
    same: bool
    """Whether both are the same records, so that there is nothing to compare."""

    @property
    def significant(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANT


@dataclass(frozen=True)
class Compared:
    """All that is found; `improvement` is the probability that the first is better, over all pairs with numbers."""

    first: Side
    second: Side
    metric: str
    pairs: tuple[Pair, ...]
    differences: tuple[Difference, ...]
    improvement: Estimate | None
    only_first: tuple[Row, ...]
    only_second: tuple[Row, ...]

    def winner(self, pair: Pair) -> str:
        """`first`, `second`, or nothing where they cannot be told apart."""
        if not pair.significant:
            return ""
        lower = pair.comparison.difference.value < 0
        return "first" if lower != METRICS[self.metric].higher_is_better else "second"


def models(suite: Suite, store: Store, first: str, second: str, metric: str) -> Compared:
    """Two models of a suite, by name or by the label that the leaderboard shows. UserError: no such model."""
    side = _side(suite.name, suite, store, metric)
    one, other = (Side(label, _named(side.rows, label, suite), side.records, side.broken) for label in (first, second))
    if one.rows == other.rows:
        raise UserError(f"compare: both are {first!r}")
    return _compared(one, other, metric, [lambda row: (*row.contest, plain(row.train)), lambda row: row.contest])


def suites(first: Suite, second: Suite, store: Store, metric: str) -> Compared:
    """The models that two suites have in common, on the tasks that they have in common."""
    return _compared(_side(first.name, first, store, metric), _side(second.name, second, store, metric), metric, _SAME)


def stores(suite: Suite, first: Store, second: Store, metric: str) -> Compared:
    """What two stores hold of one suite."""
    return _compared(
        _side(str(first.root), suite, first, metric), _side(str(second.root), suite, second, metric), metric, _SAME
    )


def to_json(compared: Compared) -> dict[str, Any]:
    """Plain data with stable field names; what is not a finite number is null."""
    document = {
        "first": compared.first.name,
        "second": compared.second.name,
        "metric": compared.metric,
        "significant_below": SIGNIFICANT,
        "improvement": None if compared.improvement is None else asdict(compared.improvement),
        "pairs": [
            {
                **{key: getattr(pair.first, key) for key in ("dataset", "preset", "grid", "level")},
                "first": pair.first.label,
                "second": pair.second.label,
                "first_mean": _mean(pair.first, compared.metric),
                "second_mean": _mean(pair.second, compared.metric),
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
        "only_first": [_where(row) for row in compared.only_first],
        "only_second": [_where(row) for row in compared.only_second],
    }
    finite: dict[str, Any] = _finite(document)
    return finite


def _side(name: str, suite: Suite, store: Store, metric: str) -> Side:
    records, broken = store.read(suite.cells)
    if not records:
        raise UserError(f"store {store.root}: no results of suite {suite.name!r} there; `symbench run` makes them")
    return Side(name, aggregate(suite.cells, records, metric), records, broken)


def _named(rows: Sequence[Row], name: str, suite: Suite) -> list[Row]:
    """The rows of a competitor; a model's name will do where it stands for one only."""
    labels = list(dict.fromkeys(row.label for row in rows))
    if name in labels:
        return [row for row in rows if row.label == name]
    own = list(dict.fromkeys(row.label for row in rows if row.model == name))
    if len(own) > 1:
        settings = ", ".join(map(repr, own))
        raise UserError(f"suite {suite.name!r}: {name!r} is there with several settings; say which: {settings}")
    if not own:
        raise UserError(f"suite {suite.name!r}: {unknown_name('model', name, labels)}")
    return [row for row in rows if row.label == own[0]]


def _task(row: Row) -> tuple[Hashable, ...]:
    return (*row.contest, row.model)


_SAME: list[Callable[[Row], Hashable]] = [
    lambda row: (*_task(row), plain(row.config), plain(row.train)),
    lambda row: (*_task(row), plain(row.config)),
    lambda row: (*_task(row), plain({key: value for key, value in row.config.items() if key != "hidden"})),
    _task,
]
"""Which rows of two suites belong together: those that are most alike first."""


def _compared(first: Side, second: Side, metric: str, keys: Sequence[Callable[[Row], Hashable]]) -> Compared:
    matches, left, right = _matched(first.rows, second.rows, keys)
    if not matches:
        raise UserError(
            f"{first.name!r} and {second.name!r} have nothing in common: no data set, preset, level and protocol on"
            " which both have the same thing to do"
        )
    higher = METRICS[metric].higher_is_better
    samples = [(one.sample(metric), other.sample(metric)) for one, other in matches]
    comparisons = [
        compare_samples(*both, higher) if both[0].values and both[1].values else _nothing(both) for both in samples
    ]
    same = [_are_same(one, other, first, second) for one, other in matches]
    p = [math.nan if alike or c.p is None else c.p for c, alike in zip(comparisons, same, strict=True)]
    tested = [index for index, value in enumerate(p) if not math.isnan(value)]
    adjusted: dict[int, float] = dict(zip(tested, holm(np.array(p)[tested]).tolist(), strict=True))
    both_have = [(one.values, other.values) for one, other in samples if one.values and other.values]
    return Compared(
        first,
        second,
        metric,
        tuple(
            Pair(one, other, comparison, adjusted.get(index), alike)
            for index, ((one, other), comparison, alike) in enumerate(zip(matches, comparisons, same, strict=True))
        ),
        tuple(differences(matches, first, second)),
        improvement_estimate(both_have, higher) if both_have and not all(same) else None,
        tuple(left),
        tuple(right),
    )


def _matched(
    first: Sequence[Row], second: Sequence[Row], keys: Sequence[Callable[[Row], Hashable]]
) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Pairs in the order of `first`, and what is left of each; under each key only what is unique on both sides."""
    left, right = dict(enumerate(first)), dict(enumerate(second))
    found: dict[int, Row] = {}
    for key in keys:
        groups: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for side, rows in enumerate((left, right)):
            for index, row in rows.items():
                groups[key(row)][side].append(index)
        for ones, others in groups.values():
            if len(ones) == len(others) == 1:
                found[ones[0]] = right.pop(others[0])
                del left[ones[0]]
    return [(first[index], found[index]) for index in sorted(found)], list(left.values()), list(right.values())


def _nothing(samples: tuple[Sample, Sample]) -> Comparison:
    reason = "neither has a result" if not any(one.values for one in samples) else "one of them has no result"
    return Comparison(Estimate(math.nan), None, math.nan, None, 0, 0, "", reason)


def _are_same(one: Row, other: Row, first: Side, second: Side) -> bool:
    ids = [{seed.cell_id for seed in row.seeds} for row in (one, other)]
    return ids[0] == ids[1] and all(
        cell in first.records and cell in second.records and first.records[cell].folder == second.records[cell].folder
        for cell in ids[0]
    )


def _mean(row: Row, metric: str) -> float | None:
    return row.metrics[metric].mean if metric in row.metrics else None


def _where(row: Row) -> dict[str, Any]:
    return {key: getattr(row, key) for key in ("dataset", "preset", "grid", "level", "label")}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
