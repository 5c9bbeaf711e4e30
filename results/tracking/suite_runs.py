"""Runs that MLflow should show of a suite, made from its records.

The run LEADERBOARD carries the board. A run for each model has its error at every level. A run for each setting
(dataset, level, model) has the statistics over its seeds, and below it stands a run for each seed with its curves. A
study has a run with its trials below it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Any

from benchmark.cell import Cell
from benchmark.suite.suite import Suite
from results.board.contests import BoardTests, Verdict
from results.board.leaderboard import to_json
from results.board.notes import group_of
from results.board.quantities import METRICS, is_number, summaries, symmetry_metric, written_statistic
from results.board.row import Row, family_and_source
from results.figures.figures import family_style
from results.report import export
from results.report.report import Report
from results.store.record import Record
from results.store.store import Store
from results.tracking.notes import board_note, setting_note
from results.tracking.runs import (
    CURVES,
    LONGEST_TAG,
    Dataset,
    WantedRun,
    cell_params,
    dataset_choice,
    finite_points,
    run_name,
    symbench_tags,
)
from results.tracking.studies import study_runs
from results.tracking.table_views import level_metric

BOARD_KEY = "leaderboard"
SIZES = ("parameters", "flops")
INTERVALS = ("rmse_future", "rmse_domain", "model_equivariance_error")
"""Metrics whose interval stands beside the mean, as `rmse_future_low` and `rmse_future_high`."""
CURVE_POINTS = 32
"""Points of a finished cell's curve, if it has more; a running cell shows every epoch."""
LONGEST_DIGEST = 36
COSTS = (("params k", "parameters", 1e3), ("MFLOPs", "flops", 1e6), ("train min", "training_seconds", 60.0))
"""Name in MLflow's table, metric, divisor."""
STATUSES = {"failed": "FAILED", "running": "RUNNING"}


def wanted_runs(store: Store, suite: Suite, tests: BoardTests, records: Mapping[str, Record]) -> list[WantedRun]:
    """The runs of models, settings, cells and studies, each parent before its children; none if there is no record."""
    if not records:
        return []
    cells = {cell.id: cell for cell in suite.cells}
    best = {one.example.contest: one.best for one in tests.verdicts}
    wanted: list[WantedRun] = []
    seen: set[str] = set()  # a model without a budget has a row in the contest of each
    for row, ratio in zip(tests.rows, tests.ratios, strict=True):
        members = _records_of(row, records)
        if members and row.seeds[0].cell_id not in seen:
            seen.add(row.seeds[0].cell_id)
            cell = cells[row.seeds[0].cell_id]
            wanted.append(setting_run(row, cell, records, suite.name, (ratio, best[row.contest])))
            wanted += [cell_run(record, suite.name, row.label) for record in members]
    return [*model_runs(tests, records, suite.name), *wanted, *study_runs(suite, store)]


def model_runs(tests: BoardTests, records: Mapping[str, Record], suite: str) -> list[WantedRun]:
    """A run for each model of a dataset and protocol: its numbers at every level, rounded for MLflow's table."""
    winner = {one.example.contest: one for one in tests.verdicts}
    models: dict[tuple[Any, ...], list[tuple[Row, float | None]]] = defaultdict(list)
    for row, ratio in zip(tests.rows, tests.ratios, strict=True):
        if _records_of(row, records):
            models[(*row.panel, *row.contest[-2:], row.label)].append((row, ratio))
    is_single = len({key[:-1] for key in models}) == 1
    wanted = []
    for key, ranked in models.items():
        members = [row for row, _ in ranked]
        row, place = members[0], f"{members[0].dataset} ({members[0].size}), {members[0].terms}"
        start, end = _span([record for one in members for record in _records_of(one, records)])
        best = [one for row in members if (one := winner[row.contest].best) is not None]
        latest = max([end, *(_span(_records_of(one, records))[1] for one in best)])
        running = any(seed.state == "running" for one in members for seed in one.seeds)
        tags = symbench_tags({"kind": "model", "family": row.family, "label": row.label, "differs": row.differs})
        verdict = " · ".join(f"L{one.level} {_standing(one, winner[one.contest])}" for one in members)
        wanted.append(
            WantedRun(
                key=f"model-{hashlib.sha256(json.dumps([suite, *key]).encode()).hexdigest()[:16]}",
                name=run_name(row.label if is_single else f"{row.label}, {place}"),
                start=start,
                end=None if running else end,
                status="RUNNING" if running else "FINISHED",
                tags={**tags, "verdict": verdict[:LONGEST_TAG], **_color(row.family)},
                params={"model": row.model, "dataset": row.dataset, "preset": row.preset, "protocol": row.terms},
                metrics=finite_points(_model_points(ranked, latest)),
            )
        )
    return wanted


def _standing(row: Row, verdict: Verdict) -> str:
    """Place of a row in its contest, in one or two words."""
    if row is verdict.best:
        return "sure winner" if verdict.sure else "best, not sure" if verdict.tested else "best, not tested"
    if not row.ranks("rmse_future"):
        return "unfinished"
    return "not tested" if not verdict.tested else "as good" if row.label in verdict.tied else "worse"


def _model_points(ranked: Sequence[tuple[Row, float | None]], time: int) -> list[tuple[str, Any, int, int]]:
    """Three digits of each number of rows with their ratios; `error` and `data error` have a step for each level."""
    points: list[tuple[str, float, int]] = []
    for step, (row, ratio) in enumerate(ranked):
        means = {name: value.mean for name, value in row.metrics.items()}
        error = means.get("rmse_future")
        if error is not None:
            points += [(level_metric(row.level), error, 0), ("error", error, step)]
            points += [("data error", means[name], step) for name in ("data_equivariance_error",) if name in means]
            points += [(level_metric(row.level, "x best "), ratio, 0)] if ratio is not None else []
        symmetry = means.get(symmetry_metric(means))
        points += [(level_metric(row.level, "sym "), symmetry, 0)] if symmetry is not None else []
        for name, cost, divisor in COSTS:
            points += [(name, means[cost] / divisor, 0)] if cost in means and row is ranked[-1][0] else []
    return [(name, float(f"{value:.3g}"), time, step) for name, value, step in points]


def _color(family: str) -> dict[str, str]:
    return {"mlflow.runColor": family_style(family).color}


def cell_run(record: Record, suite: str, label: str) -> WantedRun:
    """The run of a seed. It began and ended when the record says so, not when it was synced."""
    cell, status = record.cell, record.status
    start, end = _times(record)
    family, source = family_and_source(cell.model.name)
    tags = {
        "kind": "cell",
        "seed": cell.seed,
        **dataset_choice(cell),
        "family": family,
        "source": source,
        "state": status.state,
        "message": status.message,
        "data": record.environment.get("data_checksum") or "",
        "code": record.environment.get("model_digest") or "",
    }
    for name in SIZES:  # MLflow shows a metric digit by digit; a tag is readable
        (value,) = summaries([[record.metrics.get(name)]])
        if value is not None:
            tags[name] = written_statistic(name, value)
    finals = [(name, record.metrics[name], end, 0) for name in METRICS if name in record.metrics]
    by_step = record.metrics.get("rmse_future_by_step")
    if not isinstance(by_step, list):
        by_step = []
    steps = [("rmse_future_by_step", value, end, step) for step, value in enumerate(by_step, start=1)]
    return WantedRun(
        key=cell.id,
        name=run_name(f"seed {cell.seed}, level {cell.dataset.level}, {label}"),
        start=start,
        end=None if status.state == "running" else end,
        status=STATUSES.get(status.state, "FINISHED"),
        tags=symbench_tags(tags) | _color(family),
        params=cell_params(cell),
        metrics=finite_points([*finals, *_curves(record, start), *steps]),
        parent=setting_key(suite, cell),
    )


def _curves(record: Record, start: int) -> list[tuple[str, float, int, int]]:
    seconds = list(accumulate(epoch.seconds for epoch in record.history))
    return [
        (name, value, start + round(1000 * seconds[index]), record.history[index].epoch)
        for index in _shown_epochs(record)
        for name in CURVES
        if (value := getattr(record.history[index], name)) is not None
    ]


def _shown_epochs(record: Record) -> list[int]:
    """Positions in the history that are shown: all, or evenly spaced ones with the first, the last and the best."""
    epochs = [epoch.epoch for epoch in record.history]
    last = len(epochs) - 1
    if not record.status.is_result or last < CURVE_POINTS:
        return list(range(len(epochs)))
    even = {round(point * last / (CURVE_POINTS - 1)) for point in range(CURVE_POINTS)}
    best = record.metrics.get("best_epoch")
    return sorted(even | ({epochs.index(best)} if best in epochs else set()))


def setting_key(suite: str, cell: Cell) -> str:
    """Key of the run of a setting: equal for the seeds of one setting in one suite."""
    setting = json.dumps([suite, cell.model_dump(mode="json", exclude={"seed"})], sort_keys=True)
    return f"setting-{hashlib.sha256(setting.encode()).hexdigest()[:16]}"


def setting_run(
    row: Row, cell: Cell, records: Mapping[str, Record], suite: str, to_best: tuple[float | None, Row | None]
) -> WantedRun:
    """The run of a setting: statistics over its seeds. `to_best` is its ratio to the best of its contest, and that row.

    A row that lacks a seed has no ratio, so that it comes last in the table views.
    """
    members = _records_of(row, records)
    start, end = _span(members)
    running = any(seed.state == "running" for seed in row.seeds)
    tags = {
        "kind": "setting",
        "state": "n/a" if row.reason else "complete" if row.complete else "incomplete",
        "seeds": f"{row.count('done')}/{len(row.seeds)}",
        "remark": row.remark,
        "label": row.label,
        "family": row.family,
        "source": row.source,
        "differs": row.differs,
        **dataset_choice(cell),
        **{name: written_statistic(name, row.metrics[name]) for name in row.metrics if name in (*INTERVALS, *SIZES)},
    }
    points = [(name, value, end, 0) for name, value in _setting_metrics(row).items()]
    ratio, best = to_best
    if ratio is not None and best is not None:
        points.append(("ratio_to_best", ratio, max(end, _span(_records_of(best, records))[1]), 0))
    steps = enumerate(row.curves.get("rmse_future_by_step", ()), start=1)
    points += [("rmse_future_by_step", value.mean, end, step) for step, value in steps]
    return WantedRun(
        key=setting_key(suite, cell),
        name=run_name(f"level {row.level}, {row.label}"),
        start=start,
        end=None if running else end,
        status="RUNNING" if running else "FINISHED",
        tags={**symbench_tags(tags), "mlflow.note.content": setting_note(row), **_color(row.family)},
        params={key: value for key, value in cell_params(cell).items() if key != "seed"},
        metrics=finite_points(points),
        data=_datasets(members),
    )


def _setting_metrics(row: Row) -> dict[str, float]:
    """Means over the seeds, ends of their intervals, and what follows from them."""
    numbers: dict[str, float] = {name: value.mean for name, value in row.metrics.items()}
    for name in INTERVALS:
        value = row.metrics.get(name)
        if value is not None and value.low is not None and value.high is not None:
            numbers |= {f"{name}_low": value.low, f"{name}_high": value.high}
    numbers |= {"seeds_done": row.count("done"), "seeds_expected": len(row.seeds)}
    if "training_seconds" in numbers:
        numbers["training_hours"] = numbers["training_seconds"] / 3600
    one_action = group_of(row.dataset) != "scale"  # boxes of other sizes, and zooms within one
    if one_action and numbers.get("data_equivariance_error") and "model_equivariance_error" in numbers:
        numbers["symmetry_ratio"] = numbers["model_equivariance_error"] / numbers["data_equivariance_error"]
    return numbers


def board_run(tests: BoardTests, records: Mapping[str, Record], report: Report) -> WantedRun:
    """The run LEADERBOARD, with the report, its figures and the table as artifacts."""
    rows = tests.rows
    end = round(1000 * max(record.status.heartbeat for record in records.values()))
    states = {seed.cell_id: seed.state for row in rows for seed in row.seeds}
    done = sum(state == "done" for state in states.values())
    return WantedRun(
        key=BOARD_KEY,
        name="LEADERBOARD",
        start=end,
        end=end,
        status="FINISHED",
        tags={**symbench_tags({"kind": "leaderboard"}), "mlflow.note.content": board_note(tests)},
        metrics=finite_points([("seeds_done", done, end, 0), ("seeds_expected", len(states), end, 0)]),
        artifacts={
            "report.html": report.html,
            "leaderboard.csv": export.to_csv(rows),
            "leaderboard.md": export.to_markdown(rows),
            "leaderboard.json": json.dumps(to_json(rows), indent=1),
            **_figure_files(report.svg_figures),
        },
        data=_datasets(records.values()),
    )


def _figure_files(figures: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Path -> SVG. Names lack the parts that all share."""
    parts = [stem.split("-") for stem, _ in figures]
    shared = list(takewhile(lambda words: len(set(words)) == 1, zip(*parts, strict=False)))
    common = min(len(shared), *(len(part) - 1 for part in parts)) if len(parts) > 1 else 0
    return {f"figures/{'-'.join(part[common:])}.svg": svg for part, (_, svg) in zip(parts, figures, strict=True)}


def _records_of(row: Row, records: Mapping[str, Record]) -> list[Record]:
    return [records[seed.cell_id] for seed in row.seeds if seed.cell_id in records]


def _times(record: Record) -> tuple[int, int]:
    """Start and end of a training, or its last heartbeat, in ms since 1970."""
    training = record.metrics.get("training_seconds")
    trained = sum(epoch.seconds for epoch in record.history)
    lasted = float(training) if training is not None and is_number(training) else trained
    end = round(1000 * record.status.heartbeat)
    return max(0, end - round(1000 * lasted)), end


def _span(records: Sequence[Record]) -> tuple[int, int]:
    times = [_times(record) for record in records]
    return min((start for start, _ in times), default=0), max((end for _, end in times), default=0)


def _datasets(records: Iterable[Record]) -> tuple[Dataset, ...]:
    """The files that the records name in their provenance, each once."""
    datasets = {}
    for record in records:
        checksum, file = record.environment.get("data_checksum"), record.environment.get("data_file")
        if not checksum or not file:
            continue
        dataset = record.cell.dataset
        profile = {
            name: record.metrics[name]
            for name in ("data_equivariance_error", "data_equivariance_error_relative", "strict_floor")
            if is_number(record.metrics.get(name))
        }
        datasets[str(checksum)] = Dataset(
            name=run_name(f"{dataset.name} level {dataset.level} ({dataset.preset})"),
            digest=str(checksum)[:LONGEST_DIGEST],
            source=json.dumps({"uri": f"data/{dataset.name}/{dataset.preset}/{file}", "checksum": str(checksum)}),
            profile=json.dumps(profile),
        )
    return tuple(datasets[key] for key in sorted(datasets))
