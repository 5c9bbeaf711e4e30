"""The board: the records of a suite, aggregated over seeds and sorted, the best of each level first."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from math import inf, isinf
from typing import Any, Literal

from benchmark import registry
from benchmark.cell import Cell, Level
from benchmark.errors import UserError
from benchmark.recorder import State
from benchmark.terminal import one_line

from .multiple_comparisons import groups, pairwise
from .paired import Sample
from .quantities import BY_RUN, CURVES, METRICS, Statistic, curve, is_number, summaries, written_statistic
from .store import Record


@dataclass(frozen=True)
class Seed:
    """One cell of a row; `message` is the reason where it is not done."""

    seed: int
    cell_id: str
    state: State | Literal["absent"]
    message: str = ""


@dataclass(frozen=True)
class Row:
    """All seeds of one setting.

    `recorded` is the content of metrics.json of each seed, empty where it is not done. `trained` is false for a model
    in which nothing is random: its one record stands for every seed.
    """

    dataset: str
    preset: str
    grid: str
    level: Level
    model: str
    label: str
    family: str
    source: str
    config: Mapping[str, Any]
    protocol: Mapping[str, Any]
    train: Mapping[str, Any]
    seeds: tuple[Seed, ...]
    metrics: Mapping[str, Statistic]
    recorded: tuple[Mapping[str, Any], ...] = field(repr=False)
    trained: bool = True

    def count(self, state: State | Literal["absent"]) -> int:
        return sum(seed.state == state for seed in self.seeds)

    @cached_property
    def values(self) -> Mapping[str, tuple[float | None, ...]]:
        """For each metric the number of each seed; None where it has none."""
        return {name: tuple(_number(one.get(name)) for one in self.recorded) for name in self.metrics}

    @cached_property
    def lists(self) -> Mapping[str, tuple[tuple[float, ...] | None, ...]]:
        """For each list that is recorded that of each seed; None where it has none."""
        names = [name for name in (*CURVES, *BY_RUN.values()) if any(name in one for one in self.recorded)]
        return {name: tuple(_numbers(one.get(name)) for one in self.recorded) for name in names}

    @cached_property
    def curves(self) -> Mapping[str, tuple[Statistic, ...]]:
        """Those of `lists` that go over rolled-out steps or wave numbers: a Statistic for each."""
        return {name: steps for name in CURVES if (steps := curve(self.lists.get(name, ())))}

    @property
    def complete(self) -> bool:
        """Whether every seed is done, so that the means may be compared."""
        return self.count("done") == len(self.seeds)

    def ranks(self, metric: str) -> bool:
        """Whether every seed is done and has `metric`, so that the row may win by it."""
        return self.complete and metric in self.metrics and self.metrics[metric].n == len(self.seeds)

    def merit(self, metric: str) -> float:
        """The mean of `metric`, negated where higher is better: the least is the best."""
        return METRICS[metric].merit(self.metrics[metric].mean)

    def written(self, metric: str) -> str:
        """The statistic of `metric` over the seeds as text; `-` where there is none."""
        return written_statistic(metric, self.metrics[metric]) if metric in self.metrics else "-"

    @property
    def reason(self) -> str:
        """Why the model cannot run here; empty where it can."""
        return next((seed.message or "n/a" for seed in self.seeds if seed.state == "n/a"), "")

    @property
    def remark(self) -> str:
        """What stands beside the numbers: `n/a: ...`, or the seeds that are not in the means."""
        if self.reason:
            return f"n/a: {self.reason.removeprefix('n/a: ')}"
        states: tuple[State | Literal["absent"], ...] = ("diverged", "failed", "running", "absent")
        return ", ".join(f"{self.count(state)} {state}" for state in states if self.count(state))

    @property
    def panel(self) -> tuple[str, str, str]:
        """What is shown together, level beside level."""
        return self.dataset, self.preset, self.grid

    @cached_property
    def contest(self) -> tuple[Any, ...]:
        """What is compared: equal for rows that are asked the same thing."""
        return (*self.panel, self.level, json.dumps(self.protocol, sort_keys=True))


def aggregate(cells: Sequence[Cell], records: Mapping[str, Record], metric: str = "rmse_future") -> list[Row]:
    """One row for each setting among `cells`, sorted by dataset, level and `metric`, the best first.

    Rows that lack a seed or the number come last in their level. UserError: no such metric.
    """
    if metric not in METRICS:
        raise UserError(registry.unknown("metric", metric, METRICS))
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


def sample(row: Row, metric: str) -> Sample:
    """The seeds of `row` that are results, as the statistics take them: one that diverged is infinitely bad."""
    worst = METRICS[metric].merit(inf)
    seeds, values = [], []
    runs: list[tuple[float, ...] | None] = []
    for seed, recorded in zip(row.seeds, row.recorded, strict=True):
        value = _number(recorded.get(metric))
        if seed.state == "diverged" or value is not None:
            seeds.append(seed.seed)
            values.append(worst if value is None or seed.state == "diverged" else value)
            runs.append(_numbers(recorded.get(BY_RUN.get(metric, ""))))
    told = next((run for run in runs if run is not None), None)
    if told is not None:  # a seed that diverged did so on every run
        runs = [(worst,) * len(told) if isinf(value) else run for run, value in zip(runs, values, strict=True)]
    whole = tuple(run for run in runs if run is not None)
    return Sample(tuple(seeds), tuple(values), whole if len(whole) == len(runs) else None, not row.trained)


def letters_of(rows: Sequence[Row], metric: str) -> list[str]:
    """For each row its groups within its contest: rows that share a letter cannot be told apart, `a` holds the best.

    A row that lacks a seed comes behind all that lack none, so that the best is the one that `best` names. Empty where
    no test is possible: one seed, no number.
    """
    found = [""] * len(rows)
    for positions in contests(rows):
        ranked = [index for index in positions if metric in rows[index].metrics]
        ranked.sort(key=lambda index: (not rows[index].ranks(metric), rows[index].merit(metric)))
        samples = [sample(rows[index], metric) for index in ranked]
        for index, text in zip(ranked, groups(range(len(ranked)), partial(pairwise, samples)), strict=True):
            found[index] = text
    return found


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain data with stable field names; what takes two seeds is null where there are fewer."""
    return [
        {
            "dataset": row.dataset,
            "preset": row.preset,
            "grid": row.grid,
            "level": row.level,
            "model": row.model,
            "label": row.label,
            "family": row.family,
            "source": row.source,
            "config": row.config,
            "protocol": row.protocol,
            "train": row.train,
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


def _declared(model: str) -> tuple[str, str, bool]:
    """Family, source, and whether it is trained, as the baseline declares them."""
    try:
        baseline = registry.model(model)
    except UserError:
        return "unknown", "", True
    return str(getattr(baseline, "family", "unknown")), str(getattr(baseline, "source", "")), bool(baseline.trained)


def family_and_source(model: str) -> tuple[str, str]:
    """As the baseline declares them; `unknown` where it is gone or broken, for its results still stand."""
    return _declared(model)[:2]


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
    return one_line(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def _rows(groups: Sequence[Sequence[Cell]], records: Mapping[str, Record], labels: Sequence[str]) -> list[Row]:
    found = [[records.get(cell.id) for cell in cells] for cells in groups]
    numbers: list[list[Mapping[str, Any]]] = [
        [record.metrics if record is not None and record.status.state == "done" else {} for record in members]
        for members in found
    ]
    metrics = {name: summaries([[m.get(name) for m in members] for members in numbers]) for name in METRICS}
    declared = {model: _declared(model) for model in {cells[0].model.name for cells in groups}}
    rows = []
    for index, (cells, members, label) in enumerate(zip(groups, found, labels, strict=True)):
        first, mine = cells[0], numbers[index]
        family, source, trained = declared[first.model.name]
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


def _number(value: Any) -> float | None:
    return value if is_number(value) else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    """A list of finite numbers as it is; None for anything else."""
    return tuple(value) if isinstance(value, list) and value and all(map(is_number, value)) else None


def _seed(cell: Cell, record: Record | None) -> Seed:
    if record is None:
        return Seed(cell.seed, cell.id, "absent")
    status = record.status
    told = ": ".join(filter(None, (status.failure, status.message)))
    return Seed(cell.seed, cell.id, status.state, one_line(told))
