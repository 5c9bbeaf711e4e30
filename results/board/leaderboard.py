"""The leaderboard: records of a suite, aggregated over seeds and sorted with the best row of each level first."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmark.cell import Cell
from benchmark.terminal import one_line
from results.board.quantities import METRICS, plain, require_ranking, summaries
from results.board.row import Row, Seed, declared, declared_test_runs
from results.board.trivial import skilled
from results.store.record import Record

SETTING = (
    *("dataset", "preset", "grid", "level", "model", "label", "family", "source", "differs"),
    *("config", "protocol", "train", "test_runs"),
)
"""Fields of a row in JSON that describe the setting."""


def aggregate(cells: Sequence[Cell], records: Mapping[str, Record], metric: str = "rmse_future") -> list[Row]:
    """One row for each setting among `cells`, sorted by dataset, level and `metric` with the best first.

    Rows that lack a seed or a value of `metric` come last in their level. UserError: no such metric, or one that does
    not rank.
    """
    require_ranking(metric)
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
    """Positions of the rows that win their contest by `metric`; an incomplete row cannot win."""
    winners: dict[tuple[Any, ...], tuple[float, int]] = {}
    for index, row in enumerate(rows):
        if row.ranks(metric):
            candidate = (row.merit(metric), index)
            winners[row.contest] = min(winners.get(row.contest, candidate), candidate)
    return {index for _, index in winners.values()}


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain data with stable field names; statistics that need two seeds are null for a single one."""
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
    """Model names, each with the settings that distinguish it from other rows of the model."""
    described = [
        {key: one_line(plain(value)) for key, value in setting.items()}
        for setting in ({**c.protocol.model_dump(), **c.train.model_dump(), **c.model.settings()} for c in settings)
    ]
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell, setting in zip(settings, described, strict=True):
        for key, value in setting.items():
            values[cell.model.name, key].add(value)
    return [
        " ".join([model, *(f"{key}={value}" for key, value in setting.items() if len(values[model, key]) > 1)])
        for model, setting in zip((cell.model.name for cell in settings), described, strict=True)
    ]


def _rows(groups: Sequence[Sequence[Cell]], records: Mapping[str, Record], labels: Sequence[str]) -> list[Row]:
    recorded: list[Sequence[Mapping[str, Any]]] = [
        [
            record.metrics if (record := records.get(cell.id)) is not None and record.status.state == "done" else {}
            for cell in cells
        ]
        for cells in groups
    ]
    of_contest: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, cells in enumerate(groups):
        first = cells[0]
        of_contest[first.dataset.model_dump_json(), first.protocol.model_dump_json()].append(index)
    for members in of_contest.values():
        models = [groups[index][0].model.name for index in members]
        for index, seeds in zip(members, skilled([recorded[index] for index in members], models), strict=True):
            recorded[index] = seeds
    metrics = {name: summaries([[one.get(name) for one in seeds] for seeds in recorded]) for name in METRICS}
    declarations = {model: declared(model) for model in {cells[0].model.name for cells in groups}}
    rows = []
    for index, (cells, label) in enumerate(zip(groups, labels, strict=True)):
        first = cells[0]
        family, source, trained = declarations[first.model.name]
        rows.append(
            Row(
                dataset=first.dataset.name,
                preset=first.dataset.preset,
                grid=first.dataset.place,
                level=first.dataset.level,
                model=first.model.name,
                label=label,
                family=family,
                source=source,
                config=first.model.settings(),
                protocol=first.protocol.model_dump(),
                train=first.train.model_dump(),
                seeds=tuple(_seed(cell, records.get(cell.id)) for cell in cells),
                metrics={name: value for name in METRICS if (value := metrics[name][index]) is not None},
                recorded=tuple(recorded[index]),
                trained=trained,
                test_runs=declared_test_runs(first.dataset.name),
            )
        )
    return rows


def _seed(cell: Cell, record: Record | None) -> Seed:
    if record is None:
        return Seed(cell.seed, cell.id, "absent")
    status = record.status
    message = ": ".join(filter(None, (status.failure, status.message)))
    return Seed(cell.seed, cell.id, status.state, one_line(message))
