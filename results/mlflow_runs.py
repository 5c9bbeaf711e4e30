"""What MLflow is to hold of a suite, before MLflow is asked: plain data with a digest.

A run LEADERBOARD carries the board, a parent run for each setting (data set, level, model) its statistics, and below
it stands a run for each seed with its curves.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

from benchmark.cell import Cell
from benchmark.markdown import bold, escape, line, table

from .glance import verdicts
from .leaderboard import to_json
from .mlflow_boards import LONGEST_TAG
from .quantities import METRICS, is_number, statistic, written_statistic
from .record import Record
from .row import Row, family_and_source

VIEW_VERSION = 5
"""Raised when records are imported differently, so that the next sync does it again."""
BOARD_KEY = "leaderboard"
SIZES = ("parameters", "flops")
INTERVALS = ("rmse_future", "rmse_domain", "model_equivariance_error")
"""Metrics whose interval stands beside the mean, as `rmse_future_low` and `rmse_future_high`."""
CURVES = ("train_loss", "validation_rmse")
CURVE_POINTS = 32
"""Points of a finished cell's curve, if it has more; a running cell shows every epoch."""
MOST_WINNERS = 6
NOTE_COLUMNS = ("rmse_future", "rmse_domain", *SIZES)
LONGEST_KEY, LONGEST_PARAMETER, LONGEST_NAME, LONGEST_DIGEST = 250, 6000, 200, 36
Point = tuple[str, float, int, int]
"""Name, value, time in ms since 1970, step."""
STATUSES = {"failed": "FAILED", "running": "RUNNING"}


@dataclass(frozen=True)
class Data:
    """What a run was trained on: the file, its checksum and what was measured of it."""

    name: str
    digest: str
    source: str
    profile: str


@dataclass(frozen=True)
class Import:
    """A run as it should be; times in ms since 1970.

    `parent` is the key of the run under which it stands, or empty.
    """

    key: str
    name: str
    start: int
    end: int | None
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[Point, ...] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)
    parent: str = ""
    data: tuple[Data, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Digest of what the run shows. Times are left out: those of a running cell move with every epoch."""
        shown = {name: value for name, value in vars(self).items() if name not in ("start", "end")}
        shown["metrics"] = [(name, value, step) for name, value, _, step in self.metrics]
        shown["data"] = [vars(data) for data in self.data]
        document = json.dumps([VIEW_VERSION, shown], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:16]


def setting_key(suite: str, cell: Cell) -> str:
    """The identity of the parent run: equal for the seeds of one setting in one suite."""
    setting = json.dumps([suite, cell.model_dump(mode="json", exclude={"seed"})], sort_keys=True)
    return f"setting-{hashlib.sha256(setting.encode()).hexdigest()[:16]}"


def cell_name(cell: Cell) -> str:
    """As MLflow lists the run of a seed."""
    return _line(f"seed {cell.seed}, level {cell.dataset.level}, {cell.model.name}")


def cell_tags(cell: Cell) -> dict[str, str]:
    """What a cell is, whatever comes of it."""
    family, source = family_and_source(cell.model.name)
    return tags_of({"kind": "cell", "seed": cell.seed, **_place(cell), "family": family, "source": source})


def cell_run(record: Record, suite: str) -> Import:
    """One cell; it started and ended when the record says so, and not when it was imported."""
    cell, status = record.cell, record.status
    seconds = list(accumulate(epoch.seconds for epoch in record.history))
    start, end = _times(record)
    told = {"state": status.state, "message": status.message, "data": record.environment.get("data_checksum") or ""}
    # MLflow shows its metrics digit by digit; in a tag they can be read.
    told |= {
        name: written_statistic(name, value)
        for name in SIZES
        if (value := statistic([record.metrics.get(name)])) is not None
    }
    finals = [(name, record.metrics[name], end, 0) for name in METRICS if name in record.metrics]
    curves = [
        (name, getattr(record.history[index], name), start + round(1000 * seconds[index]), record.history[index].epoch)
        for index in _shown_epochs(record)
        for name in CURVES
    ]
    by_step = record.metrics.get("rmse_future_by_step")
    if isinstance(by_step, list):
        curves += [("rmse_future_by_step", value, end, step) for step, value in enumerate(by_step, start=1)]
    return Import(
        key=cell.id,
        name=cell_name(cell),
        start=start,
        end=None if status.state == "running" else end,
        status=STATUSES.get(status.state, "FINISHED"),
        tags={**cell_tags(cell), **tags_of(told)},
        params=cell_params(cell),
        metrics=_finite([*finals, *curves]),
        parent=setting_key(suite, cell),
    )


def setting_run(row: Row, cell: Cell, records: Mapping[str, Record], suite: str, winner: Row | None) -> Import:
    """All seeds of a setting: their statistics. `winner` has the least mean RMSE future of the same contest.

    Only what is complete gets a ratio to it: the boards are in that order, and what lacks a seed comes last.
    """
    found = _found(row, records)
    start, end = _span(found)
    ratio = []
    if winner is not None and row.complete and "rmse_future" in row.metrics and winner.metrics["rmse_future"].mean > 0:
        value = row.metrics["rmse_future"].mean / winner.metrics["rmse_future"].mean
        ratio.append(("ratio_to_best", value, max(end, _span(_found(winner, records))[1]), 0))
    running = any(seed.state == "running" for seed in row.seeds)
    told = {
        "kind": "setting",
        "state": "n/a" if row.reason else "complete" if row.complete else "incomplete",
        "seeds": f"{row.count('done')}/{len(row.seeds)}",
        "remark": row.remark,
        "label": row.label,
        "family": row.family,
        "source": row.source,
        **_place(cell),
        **{name: written_statistic(name, row.metrics[name]) for name in row.metrics if name in (*INTERVALS, *SIZES)},
    }
    steps = row.curves.get("rmse_future_by_step", ())
    return Import(
        key=setting_key(suite, cell),
        name=_line(f"level {row.level}, {row.label}"),
        start=start,
        end=None if running else end,
        status="RUNNING" if running else "FINISHED",
        tags={**tags_of(told), "mlflow.note.content": _setting_note(row)},
        params={key: value for key, value in cell_params(cell).items() if key != "seed"},
        metrics=_finite(
            [
                *((name, value, end, 0) for name, value in _numbers(row).items()),
                *ratio,
                *(("rmse_future_by_step", value.mean, end, step) for step, value in enumerate(steps, start=1)),
            ]
        ),
        data=_data(found),
    )


def board_run(rows: Sequence[Row], records: Mapping[str, Record], artifacts: Mapping[str, str]) -> Import:
    """The run that carries the board: the report, its figures and the table."""
    end = round(1000 * max(record.status.heartbeat for record in records.values()))
    return Import(
        key=BOARD_KEY,
        name="LEADERBOARD",
        start=end,
        end=end,
        status="FINISHED",
        tags={"symbench.kind": "leaderboard", "mlflow.note.content": _board_note(rows)},
        metrics=(
            ("seeds_done", float(sum(row.count("done") for row in rows)), end, 0),
            ("seeds_expected", float(sum(len(row.seeds) for row in rows)), end, 0),
        ),
        data=_data(records.values()),
        artifacts={**artifacts, "leaderboard.json": json.dumps(to_json(rows), indent=1)},
    )


def tags_of(told: Mapping[str, Any]) -> dict[str, str]:
    """Our tags as MLflow takes them; empty ones are left out."""
    return {f"symbench.{key}": str(value)[:LONGEST_TAG] for key, value in told.items() if str(value)}


def cell_params(cell: Cell) -> dict[str, str]:
    """The setting of a cell as parameters of a run."""
    params = {
        "model": cell.model.name,
        "seed": cell.seed,
        **_place(cell),
        **{f"config.{key}": value for key, value in cell.model.settings().items()},
        **{f"protocol.{key}": value for key, value in cell.protocol.model_dump().items()},
        **{f"train.{key}": value for key, value in cell.train.model_dump().items()},
    }
    return {_key(key): str(value)[:LONGEST_PARAMETER] for key, value in params.items()}


def _place(cell: Cell) -> dict[str, Any]:
    dataset = cell.dataset
    return {"dataset": dataset.name, "level": dataset.level, "preset": dataset.preset, "grid": dataset.grid}


def _times(record: Record) -> tuple[int, int]:
    training = record.metrics.get("training_seconds")
    trained = sum(epoch.seconds for epoch in record.history)
    lasted = float(training) if training is not None and is_number(training) else trained
    end = round(1000 * record.status.heartbeat)
    return max(0, end - round(1000 * lasted)), end


def _found(row: Row, records: Mapping[str, Record]) -> list[Record]:
    return [records[seed.cell_id] for seed in row.seeds if seed.cell_id in records]


def _span(records: Sequence[Record]) -> tuple[int, int]:
    times = [_times(record) for record in records]
    return min((start for start, _ in times), default=0), max((end for _, end in times), default=0)


def _shown_epochs(record: Record) -> list[int]:
    """Positions in the history that are shown: all, or evenly spaced ones with the first, the last and the best."""
    epochs = [epoch.epoch for epoch in record.history]
    last = len(epochs) - 1
    if not record.status.is_result or last < CURVE_POINTS:
        return list(range(len(epochs)))
    even = {round(point * last / (CURVE_POINTS - 1)) for point in range(CURVE_POINTS)}
    best = record.metrics.get("best_epoch")
    return sorted(even | ({epochs.index(best)} if best in epochs else set()))


def _numbers(row: Row) -> dict[str, float]:
    """The metrics of a parent run."""
    numbers: dict[str, float] = {name: value.mean for name, value in row.metrics.items()}
    for name in INTERVALS:
        value = row.metrics.get(name)
        if value is not None and value.low is not None and value.high is not None:
            numbers |= {f"{name}_low": value.low, f"{name}_high": value.high}
    numbers |= {"seeds_done": row.count("done"), "seeds_expected": len(row.seeds)}
    if "training_seconds" in numbers:
        numbers["training_hours"] = numbers["training_seconds"] / 3600
    if numbers.get("data_equivariance_error") and "model_equivariance_error" in numbers:
        numbers["symmetry_ratio"] = numbers["model_equivariance_error"] / numbers["data_equivariance_error"]
    return numbers


def _finite(metrics: Iterable[tuple[str, Any, int, int]]) -> tuple[Point, ...]:
    return tuple((name, float(value), time, step) for name, value, time, step in metrics if is_number(value))


def _data(records: Iterable[Record]) -> tuple[Data, ...]:
    """The fields that the records name in their provenance, each once."""
    found = {}
    for record in records:
        checksum, file = record.environment.get("data_checksum"), record.environment.get("data_file")
        if not checksum or not file:
            continue
        dataset = record.cell.dataset
        profile = {
            name: record.metrics[name]
            for name in ("data_equivariance_error", "data_equivariance_error_relative")
            if is_number(record.metrics.get(name))
        }
        found[str(checksum)] = Data(
            name=_line(f"{dataset.name} level {dataset.level} ({dataset.preset})"),
            digest=str(checksum)[:LONGEST_DIGEST],
            source=json.dumps({"uri": f"data/{dataset.name}/{dataset.preset}/{file}", "checksum": str(checksum)}),
            profile=json.dumps(profile),
        )
    return tuple(found[key] for key in sorted(found))


def _setting_note(row: Row) -> str:
    """What a parent run says at its top."""
    lines = [
        f"{bold(row.label)} on {escape(row.dataset)} ({escape(row.preset)}, {row.grid}), level"
        f" {escape(row.level)}. Means over {row.count('done')} of {len(row.seeds)} seeds, which stand below this"
        " run; those that end in `_low` and `_high` are the ends of the 95 % interval of the mean.",
        *([f"Not in the means: {escape(row.remark)}."] if row.remark else []),
        *([f"Source: {escape(row.source)}"] if row.source else []),
        "",
        table(("", "mean over seeds"), ((METRICS[name].title, row.written(name)) for name in row.metrics)),
    ]
    return "\n".join(lines)[:LONGEST_TAG]


def _board_note(rows: Sequence[Row]) -> str:
    """Who wins, then the board as Markdown, as many rows as a note may hold; the artifacts have the whole of it."""
    told = verdicts(rows, "rmse_future")
    lines = ["Least RMSE future, and whether it is sure:\n"]
    for verdict in told[:MOST_WINNERS]:
        row, place = verdict.best, verdict.example
        won = f"{bold(row.label)} ({row.written('rmse_future')}); " if row else ""
        lines.append(f"- {escape(place.dataset)} level {escape(place.level)}: {won}{escape(verdict.words)}")
    lines += [
        *(["- ..."] if len(told) > MOST_WINNERS else []),
        "",
        "The report, its figures and the table are under **Artifacts**.\n",
    ]
    lines.append(table(("data", "level", "model", *(METRICS[name].title for name in NOTE_COLUMNS), "seeds"), ()))
    for row in rows:
        seeds = f"{row.count('done')}/{len(row.seeds)} {row.remark}"
        lines.append(line((row.dataset, row.level, row.label, *map(row.written, NOTE_COLUMNS), seeds)))
        if sum(map(len, lines)) + len(lines) > LONGEST_TAG - 100:
            return "\n".join([*lines[:-1], "", "The other rows are in the artifacts."])[:LONGEST_TAG]
    return "\n".join(lines)[:LONGEST_TAG]


def _line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_NAME]


def _key(name: str) -> str:
    """A name that MLflow takes for a parameter."""
    return re.sub(r"[^\w\-. ]", "_", name)[:LONGEST_KEY]
