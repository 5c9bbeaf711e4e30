"""Content of a published board as JSON, and the ranking of the published boards."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.suite.suite import SUITES_FOLDER, Suite
from results.board.contests import claim, letters_of
from results.board.leaderboard import SETTING, aggregate, best
from results.board.quantities import BY_RUN, is_number, plain, written_statistic
from results.board.row import Row
from results.store.record import Broken, Record

FORMAT = 1
STATISTICS = 2
"""Version of the tests: 2 since they depend on the kind of the test runs and work on logarithms."""
KEPT = (
    *("rmse_future", "rmse_domain", "skill_future", "skill_domain", "vrmse_future", "vrmse_domain"),
    *("data_equivariance_error", "strict_floor"),
    *("model_equivariance_error", "model_equivariance_error_over_change"),
    *("model_equivariance_error_within_range", "equivariance_floor"),
    *("parameters", "flops", "training_seconds", "epochs"),
)
"""Metrics of a published board, besides the one that it is ranked by; the store has the others."""
VERSIONS = ("symbench", "git_commit", "git_dirty", "python", "torch", "e2cnn", "numpy", "h5py", "phiflow", "ray")
MACHINE = ("device", "device_type", "world_size", "threads", "lanes")
"""Host names and kernels are left out: they are private."""


def board(suite: Suite, records: Mapping[str, Record], broken: Sequence[Broken], metric: str) -> dict[str, Any]:
    """Content of board.json."""
    rows = aggregate(suite.cells, records, metric, suite.budgets)
    winners, groups = best(rows, metric), letters_of(rows, metric)
    times = [record.status.heartbeat for record in records.values() if record.status.is_result]
    return {
        "format": FORMAT,
        "suite": suite.name,
        "metric": metric,
        "statistics": STATISTICS,
        "claim": claim(rows, metric),
        "cells": len(suite.cells),
        "states": dict(sorted(Counter({s.cell_id: s.state for row in rows for s in row.seeds}.values()).items())),
        "seeds": sorted({cell.seed for cell in suite.cells}),
        "first_result": _day(min(times)),
        "last_result": _day(max(times)),
        "rows": [_row(row, metric, index in winners, groups[index]) for index, row in enumerate(rows)],
        "missing": _missing(rows),
        "unreadable": sorted(one.folder.name for one in broken),
        "provenance": _provenance(records.values()),
        "data": _data(records.values()),
        "command": f"symbench run {suite.path.stem if suite.path.parent == SUITES_FOLDER else 'suite.yaml'}"
        + (" --tuned" if suite.tuned_by_option else ""),
    }


def read(path: Path) -> dict[str, Any]:
    """Content of a board.json. UserError: the file cannot be read or has another format."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path}: not a board of format {FORMAT}; delete it and publish again")
    return document


def by_rank(folder: Path) -> list[Path]:
    """Paths of the boards in `folder`: published sizes before small ones, then by the number of finished cells."""

    def rank(path: Path) -> tuple[bool, int, str, str]:
        document = read(path)
        large = any(row["preset"] == "paper" for row in document["rows"])
        return large, document["states"].get("done", 0), document["last_result"], path.parent.name

    return sorted(folder.glob("*/board.json"), key=rank, reverse=True)


def _row(row: Row, metric: str, wins: bool, group: str) -> dict[str, Any]:
    kept = {name: row.metrics[name] for name in dict.fromkeys((metric, *KEPT)) if name in row.metrics}
    return {
        **{key: getattr(row, key) for key in SETTING if key != "source"},
        **{"best": wins, "group": group, "remark": row.remark},
        "done": row.count("done"),
        "expected": len(row.seeds),
        "seeds": [
            {"seed": seed.seed, "id": seed.cell_id, "state": seed.state}
            | {"values": {name: recorded[name] for name in kept if is_number(recorded.get(name))}}
            | {"by_run": {name: recorded[key] for name, key in BY_RUN.items() if isinstance(recorded.get(key), list)}}
            for seed, recorded in zip(row.seeds, row.recorded, strict=True)
        ],
        "metrics": {name: vars(value) for name, value in kept.items()},
        "written": {name: written_statistic(name, value) for name, value in kept.items()},
    }


def _missing(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Cells that are not done, each once."""
    missing = {
        seed.cell_id: {
            **{"dataset": row.dataset, "level": row.level, "label": row.label, "seed": seed.seed, "id": seed.cell_id},
            **{"state": seed.state, "why": seed.message},
        }
        for row in rows
        for seed in row.seeds
        if seed.state != "done"
    }
    return list(missing.values())


def _provenance(records: Iterable[Record]) -> dict[str, list[str]]:
    """Versions and machines: name -> values in the records."""
    environments = [record.environment for record in records]
    provenance = {}
    for key in (*VERSIONS, *MACHINE):
        if values := {plain(one[key]) for one in environments if one.get(key) is not None}:
            provenance[key] = sorted(values, key=lambda text: (len(text), text))  # 2 before 10
    return provenance


def _data(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Data files that the models were trained on, each with its measured equivariance error."""
    files = {}
    for record in records:
        dataset, checksum = record.cell.dataset, record.environment.get("data_checksum")
        if checksum:
            files[dataset.name, dataset.preset, str(dataset.level), str(checksum)] = {
                **{"dataset": dataset.name, "preset": dataset.preset, "level": dataset.level},
                "file": str(record.environment.get("data_file", "")),
                "checksum": str(checksum),
                **{name: record.metrics.get(name) for name in ("data_equivariance_error", "strict_floor")},
            }
    return [files[key] for key in sorted(files)]


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
