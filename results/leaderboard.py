"""The board: the records of a suite, aggregated over seeds and sorted, the best of each level first."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmark import registry
from benchmark.cell import Cell, Level
from benchmark.errors import UserError
from benchmark.recorder import State

from .quantities import CURVES, METRICS, Statistic, curve, statistic
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
    """All seeds of one setting; `curves` holds a Statistic for each rolled-out step."""

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
    curves: Mapping[str, tuple[Statistic, ...]]

    def count(self, state: State | Literal["absent"]) -> int:
        return sum(seed.state == state for seed in self.seeds)

    @property
    def complete(self) -> bool:
        """Whether every seed is done, so that the means may be compared."""
        return self.count("done") == len(self.seeds)

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

    @property
    def contest(self) -> tuple[Any, ...]:
        """What is compared: equal for rows that are asked the same thing."""
        return (*self.panel, self.level, json.dumps(self.protocol, sort_keys=True))


def aggregate(cells: Sequence[Cell], records: Mapping[str, Record], metric: str = "rmse_future") -> list[Row]:
    """One row for each setting among `cells`, sorted by dataset, level and `metric`, the best first.

    Rows that lack a seed or the number come last in their level. UserError: no such metric.
    """
    if metric not in METRICS:
        raise UserError(registry.unknown("metric", metric, METRICS))
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[json.dumps(cell.model_dump(mode="json", exclude={"seed"}), sort_keys=True)].append(cell)
    labels = _labels([group[0] for group in groups.values()])
    rows = [_row(group, records, label) for group, label in zip(groups.values(), labels, strict=True)]
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0

    def order(row: Row) -> tuple[Any, ...]:
        numeric = isinstance(row.level, int | float)
        level = (not numeric, row.level if numeric else 0, str(row.level))
        value = row.metrics.get(metric)
        last = value is None or not row.complete
        return (*row.panel, level, row.contest[-1], last, sign * value.mean if value else 0.0, row.label)

    return sorted(rows, key=order)


def best(rows: Iterable[Row], metric: str) -> set[int]:
    """The positions of the rows that win their contest by `metric`; an incomplete row cannot."""
    winners: dict[tuple[Any, ...], tuple[float, int]] = {}
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    for index, row in enumerate(rows):
        if row.complete and metric in row.metrics and row.metrics[metric].n == len(row.seeds):
            candidate = (sign * row.metrics[metric].mean, index)
            winners[row.contest] = min(winners.get(row.contest, candidate), candidate)
    return {index for _, index in winners.values()}


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain data with stable field names; `std` is null where fewer than two seeds have it."""
    return [
        {
            **asdict(row),
            "complete": row.complete,
            "reason": row.reason,
            "done": row.count("done"),
            "expected": len(row.seeds),
            "diverged": row.count("diverged"),
            "failed": row.count("failed"),
        }
        for row in rows
    ]


def family_and_source(model: str) -> tuple[str, str]:
    """As the baseline declares them; `unknown` where it is gone or broken, for its results still stand."""
    try:
        baseline = registry.model(model)
    except UserError:
        return "unknown", ""
    return str(getattr(baseline, "family", "unknown")), str(getattr(baseline, "source", ""))


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
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return " ".join(text.split())


def _row(cells: Sequence[Cell], records: Mapping[str, Record], label: str) -> Row:
    found = [records.get(cell.id) for cell in cells]
    done = [record.metrics for record in found if record is not None and record.status.state == "done"]
    first = cells[0]
    family, source = family_and_source(first.model.name)
    return Row(
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
        seeds=tuple(_seed(cell, record) for cell, record in zip(cells, found, strict=True)),
        metrics={name: value for name in METRICS if (value := statistic([m.get(name) for m in done])) is not None},
        curves={name: steps for name in CURVES if (steps := curve([m.get(name) for m in done]))},
    )


def _seed(cell: Cell, record: Record | None) -> Seed:
    if record is None:
        return Seed(cell.seed, cell.id, "absent")
    status = record.status
    return Seed(cell.seed, cell.id, status.state, ": ".join(filter(None, (status.failure, status.message))))
