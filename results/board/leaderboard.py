"""The leaderboard: records of a suite, aggregated over seeds and sorted with the best row of each level first."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmark.cell import Cell
from benchmark.suite.budget import Budget, described
from benchmark.suite.labels import labels
from benchmark.terminal import one_line
from results.board.quantities import METRICS, require_ranking, summaries
from results.board.row import Row, Seed, declared, declared_test_runs, family_on, merits, with_varied_protocols
from results.board.trivial import skilled
from results.store.record import Record

SETTING = (
    *("dataset", "preset", "grid", "level", "model", "label", "family", "source", "differs"),
    *("config", "protocol", "train", "test_runs", "budget"),
)
"""Fields of a row in JSON that describe the setting."""


def aggregate(
    cells: Sequence[Cell],
    records: Mapping[str, Record],
    metric: str = "rmse_future",
    budgets: Mapping[str, tuple[Budget, ...]] | None = None,
) -> list[Row]:
    """One row for each setting among `cells`, sorted by dataset, level and merit in `metric` with the best first.

    `budgets` are those of a suite, by cell id. A model without one, such as a trivial forecast, has a row in the
    contest of each budget.
    Rows that lack a seed or a value of `metric` come last in their level. UserError: no such metric, or one that does
    not rank.
    """
    require_ranking(metric)
    entries = _entries(cells, budgets or {})
    names = labels([(cells[0], budget) for cells, budget in entries], budgets or {})
    rows = with_varied_protocols(_rows(entries, records, names))

    def order(ranked: tuple[Row, float]) -> tuple[Any, ...]:
        row, merit = ranked
        numeric = isinstance(row.level, int | float)
        level = (not numeric, row.level if numeric else 0, str(row.level))
        place = (not row.ranks(metric), merit if metric in row.metrics else 0.0, row.label)
        return (*row.panel, level, *row.contest[-2:], *place)

    return [row for row, _ in sorted(zip(rows, merits(rows, metric), strict=True), key=order)]


def best(rows: Sequence[Row], metric: str) -> set[int]:
    """Positions of the rows that win their contest by `metric`; an incomplete row cannot win."""
    winners: dict[tuple[Any, ...], tuple[float, int]] = {}
    for index, (row, merit) in enumerate(zip(rows, merits(rows, metric), strict=True)):
        if row.ranks(metric):
            candidate = (merit, index)
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
            "vectors": {name: [vars(one) for one in components] for name, components in row.vectors.items()},
            "values": row.values,
            "complete": row.complete,
            "reason": row.reason,
            "mixed": row.mixed,
            "done": row.count("done"),
            "expected": len(row.seeds),
            "diverged": row.count("diverged"),
            "failed": row.count("failed"),
        }
        for row in rows
    ]


Entry = tuple[list[Cell], str]
"""All seeds of one setting, and the budget of the contest in words."""


def _entries(cells: Sequence[Cell], budgets: Mapping[str, tuple[Budget, ...]]) -> list[Entry]:
    settings: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        settings[cell.setting].append(cell)
    of_task: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    own = []
    for group in settings.values():
        own.append([described(budget) for budget in budgets.get(group[0].id, ())])
        of_task[group[0].task] |= dict.fromkeys(own[-1])
    return [
        (group, budget)
        for group, mine in zip(settings.values(), own, strict=True)
        for budget in mine or of_task[group[0].task] or [""]
    ]


def _rows(entries: Sequence[Entry], records: Mapping[str, Record], names: Sequence[str]) -> list[Row]:
    groups = [cells for cells, _ in entries]
    recorded: list[Sequence[Mapping[str, Any]]] = [
        [
            record.metrics if (record := records.get(cell.id)) is not None and record.status.state == "done" else {}
            for cell in cells
        ]
        for cells in groups
    ]
    of_contest: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, (cells, budget) in enumerate(entries):
        of_contest[(*cells[0].task, budget)].append(index)
    for members in of_contest.values():
        models = [groups[index][0].model.name for index in members]
        for index, seeds in zip(members, skilled([recorded[index] for index in members], models), strict=True):
            recorded[index] = seeds
    present = {name for seeds in recorded for one in seeds for name in one}
    metrics = {
        name: summaries([[one.get(name) for one in seeds] for seeds in recorded]) for name in METRICS if name in present
    }
    declarations = {model: declared(model) for model in {cells[0].model.name for cells in groups}}
    rows = []
    for index, ((cells, budget), label) in enumerate(zip(entries, names, strict=True)):
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
                family=family_on(first.dataset.name, family),
                source=source,
                config=first.model.settings(),
                protocol=first.protocol.model_dump(),
                train=first.train.model_dump(),
                seeds=tuple(_seed(cell, records.get(cell.id)) for cell in cells),
                metrics={name: value for name, values in metrics.items() if (value := values[index]) is not None},
                recorded=tuple(recorded[index]),
                trained=trained,
                test_runs=declared_test_runs(first.dataset.name),
                budget=budget,
                environments=tuple(_environment(records.get(cell.id)) for cell in cells),
            )
        )
    return rows


def _environment(record: Record | None) -> Mapping[str, Any]:
    return record.environment if record is not None and record.status.is_result else {}


def _seed(cell: Cell, record: Record | None) -> Seed:
    if record is None:
        return Seed(cell.seed, cell.id, "absent")
    status = record.status
    message = ": ".join(filter(None, (status.failure, status.message)))
    return Seed(cell.seed, cell.id, status.state, one_line(message))
