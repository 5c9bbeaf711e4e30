"""The board: the records of a suite, aggregated over seeds and sorted, the best of each level first."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from benchmark.cell import Cell
from benchmark.errors import UserError, unknown_name
from benchmark.terminal import one_line
from results.board.quantities import METRICS, plain, summaries
from results.board.row import Row, Seed, declared
from results.statistics.multiple_comparisons import groups, pairwise
from results.store.record import Record

SETTING = (
    *("dataset", "preset", "grid", "level", "model", "label", "family", "source"),
    *("config", "protocol", "train"),
)
"""Fields of a row in JSON, before what came of it."""


def aggregate(cells: Sequence[Cell], records: Mapping[str, Record], metric: str = "rmse_future") -> list[Row]:
    """One row for each setting among `cells`, sorted by dataset, level and `metric`, the best first.

    Rows that lack a seed or the number come last in their level. UserError: no such metric.
    """
    if metric not in METRICS:
        raise UserError(unknown_name("metric", metric, METRICS))
    settings: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        settings[json.dumps(cell.model_dump(mode="json", exclude={"seed"}), sort_keys=True)].append(cell)
    labels = _labels([group[0] for group in settings.values()])
    rows = _rows(list(settings.values()), records, labels)

    def order(row: Row) -> tuple[Any, ...]:
        numeric = isinstance(row.level, int | float)
        level = (not numeric, row.level if numeric else 0, str(row.level))
        place = (not row.ranks(metric), row.merit(metric) if metric in row.metrics else 0.0, row.label)
        return (*row.panel, level, row.contest[-1], *place)

    return sorted(rows, key=order)


def best(rows: Iterable[Row], metric: str) -> set[int]:
    """The positions of the rows that win their contest by `metric`; an incomplete row cannot."""
    winners: dict[tuple[Any, ...], tuple[float, int]] = {}
    for index, row in enumerate(rows):
        if row.ranks(metric):
            candidate = (row.merit(metric), index)
            winners[row.contest] = min(winners.get(row.contest, candidate), candidate)
    return {index for _, index in winners.values()}


def contests(rows: Sequence[Row]) -> list[list[int]]:
    """The positions of the rows of each contest, in the order of the board."""
    found: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        found[row.contest].append(index)
    return list(found.values())


def letters_of(rows: Sequence[Row], metric: str) -> list[str]:
    """For each row its groups within its contest: rows that share a letter cannot be told apart, `a` holds the best.

    A row that lacks a seed comes behind all that lack none, so that the best is the one that `best` names. Empty where
    no test is possible: one seed, no number.
    """
    found = [""] * len(rows)
    for positions in contests(rows):
        ranked = [index for index in positions if metric in rows[index].metrics]
        ranked.sort(key=lambda index: (not rows[index].ranks(metric), rows[index].merit(metric)))
        samples = [rows[index].sample(metric) for index in ranked]
        for index, text in zip(ranked, groups(range(len(ranked)), partial(pairwise, samples)), strict=True):
            found[index] = text
    return found


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain data with stable field names; what takes two seeds is null where there are fewer."""
    return [
        {
            **{key: getattr(row, key) for key in SETTING},
            "seeds": [asdict(seed) for seed in row.seeds],
            "metrics": {name: vars(value) for name, value in row.metrics.items()},
            "curves": {name: [vars(step) for step in steps] for name, steps in row.curves.items()},
            "values": row.values,
            "complete": row.complete,
            "reason": row.reason,
            "done": row.count("done"),
            "expected": len(row.seeds),
            "diverged": row.count("diverged"),
            "failed": row.count("failed"),
        }
        for row in rows
    ]


def _labels(settings: Sequence[Cell]) -> list[str]:
    """Model names, each with those settings that tell it from another row of the same model."""
    described = [{**c.protocol.model_dump(), **c.train.model_dump(), **c.model.settings()} for c in settings]
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for cell, setting in zip(settings, described, strict=True):
        for key, value in setting.items():
            seen[cell.model.name][key].add(_short(value))
    return [
        " ".join(
            [
                cell.model.name,
                *(f"{k}={_short(v)}" for k, v in setting.items() if len(seen[cell.model.name][k]) > 1),
            ]
        )
        for cell, setting in zip(settings, described, strict=True)
    ]


def _short(value: Any) -> str:
    return one_line(plain(value))


def _rows(groups: Sequence[Sequence[Cell]], records: Mapping[str, Record], labels: Sequence[str]) -> list[Row]:
    found = [[records.get(cell.id) for cell in cells] for cells in groups]
    numbers: list[list[Mapping[str, Any]]] = [
        [record.metrics if record is not None and record.status.state == "done" else {} for record in members]
        for members in found
    ]
    metrics = {name: summaries([[m.get(name) for m in members] for members in numbers]) for name in METRICS}
    declarations = {model: declared(model) for model in {cells[0].model.name for cells in groups}}
    rows = []
    for index, (cells, members, label) in enumerate(zip(groups, found, labels, strict=True)):
        first, mine = cells[0], numbers[index]
        family, source, trained = declarations[first.model.name]
        known = {name: value for name in METRICS if (value := metrics[name][index]) is not None}
        rows.append(
            Row(
                dataset=first.dataset.name,
                preset=first.dataset.preset,
                grid=first.dataset.grid,
                level=first.dataset.level,
                model=first.model.name,
                label=label,
                family=family,
                source=source,
                config=first.model.settings(),
                protocol=first.protocol.model_dump(),
                train=first.train.model_dump(),
                seeds=tuple(_seed(cell, record) for cell, record in zip(cells, members, strict=True)),
                metrics=known,
                recorded=tuple(mine),
                trained=trained,
            )
        )
    return rows


def _seed(cell: Cell, record: Record | None) -> Seed:
    if record is None:
        return Seed(cell.seed, cell.id, "absent")
    status = record.status
    told = ": ".join(filter(None, (status.failure, status.message)))
    return Seed(cell.seed, cell.id, status.state, one_line(told))
