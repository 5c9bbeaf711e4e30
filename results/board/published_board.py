"""Content of a published board as JSON, and the ranking of the published boards."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from benchmark.cell import Level
from benchmark.errors import UserError
from benchmark.suite.labels import plain
from benchmark.suite.suite import SUITES_FOLDER, Suite
from results.board.contests import BoardTests, claim
from results.board.differences import provenance_notes
from results.board.leaderboard import SETTING, aggregate, best
from results.board.quantities import BY_RUN, SKILLS, is_number, written_statistic
from results.board.row import Row
from results.store.provenance import MACHINE, VERSIONS, metrics_versions
from results.store.record import Broken, Record, reason_of

FORMAT = 1
STATISTICS = 2
"""Version of the tests: 2 since they depend on the kind of the test runs and work on logarithms."""
KEPT = (
    *("rmse_validation", "rmse_future", "rmse_domain", "skill_future", "skill_domain", "vrmse_future", "vrmse_domain"),
    *("data_equivariance_error", "strict_floor"),
    *("model_equivariance_error", "model_equivariance_error_over_change"),
    *("model_equivariance_error_within_range", "equivariance_floor", "learned_level", "learned_angle"),
    *("parameters", "flops", "training_seconds", "epochs"),
)
"""Metrics of a published board, besides the one that it is ranked by; the store has the others."""
COMPARED = ("data_checksum", "model_digest")
"""Properties of a record that differ between rows."""


class _Part(BaseModel):
    """Part of a board.json; keys that another version of symbench writes are allowed."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Statistic(_Part):
    mean: float
    std: float | None
    n: int
    low: float | None
    high: float | None


class _Seed(_Part):
    seed: int
    id: str
    state: str
    values: dict[str, FiniteFloat] = {}
    by_run: dict[str, list[NonNegativeFloat]] = {}
    environment: NonNegativeInt | None = None
    data_checksum: str = ""
    model_digest: str = ""

    @model_validator(mode="after")
    def _check_signs(self) -> "_Seed":
        negative = [name for name, value in self.values.items() if value < 0 and name not in SKILLS]
        if negative:
            raise ValueError(f"{', '.join(negative)}: must be 0 or more")
        return self


class _Row(_Part):
    dataset: str
    preset: str
    grid: str
    level: Level
    model: str
    label: str
    family: str
    config: dict[str, Any]
    protocol: dict[str, Any]
    train: dict[str, Any]
    best: bool
    group: str
    remark: str
    done: int
    expected: int
    seeds: list[_Seed]
    metrics: dict[str, _Statistic]
    written: dict[str, str]


class _Missing(_Part):
    dataset: str
    level: Level
    label: str
    seed: int
    id: str
    state: str
    why: str


class _Data(_Part):
    dataset: str
    preset: str
    level: Level
    file: str
    checksum: str


class _Board(_Part):
    """Schema of board.json."""

    format: Literal[1]
    suite: str
    metric: str
    cells: int
    states: dict[str, int]
    seeds: list[int]
    first_result: str
    last_result: str
    rows: list[_Row]
    missing: list[_Missing]
    unreadable: list[str]
    provenance: dict[str, list[str]]
    environments: list[dict[str, str]] = []
    data: list[_Data]
    command: str
    metrics_version: int = 1
    differences: list[str] = []

    @model_validator(mode="after")
    def _check_environments(self) -> "_Board":
        indices = {seed.environment for row in self.rows for seed in row.seeds if seed.environment is not None}
        if indices and max(indices) >= len(self.environments):
            raise ValueError(f"a seed has environment {max(indices)}, there are {len(self.environments)}")
        return self


def board(suite: Suite, records: Mapping[str, Record], broken: Sequence[Broken], metric: str) -> dict[str, Any]:
    """Content of board.json. UserError: the results have metrics of several versions."""
    versions = metrics_versions(record.environment for record in records.values() if record.status.is_result)
    if len(versions) > 1:
        raise UserError(
            f"suite {suite.name!r}: results with metrics of version {' and '.join(map(str, versions))}, which do not"
            " compare; `symbench run --retrain` computes the older ones again"
        )
    rows = aggregate(suite.cells, records, metric, suite.budgets)
    tests = BoardTests(rows, metric)
    winners, groups = best(rows, metric), tests.letters
    times = [record.status.heartbeat for record in records.values() if record.status.is_result]
    documents = [row_document(row, metric, index in winners, groups[index]) for index, row in enumerate(rows)]
    environments = _add_environments(documents, records)
    is_shipped = suite.path.parent == SUITES_FOLDER and not suite.overrides
    return {
        "format": FORMAT,
        "suite": suite.name,
        "metric": metric,
        "statistics": STATISTICS,
        "metrics_version": versions[0],
        "claim": claim(rows, metric),
        "leads": tests.family_leads,
        "cells": len(suite.cells),
        "states": dict(sorted(Counter({s.cell_id: s.state for row in rows for s in row.seeds}.values()).items())),
        "seeds": sorted({cell.seed for cell in suite.cells}),
        "first_result": _day(min(times)),
        "last_result": _day(max(times)),
        "rows": documents,
        "missing": _missing(rows),
        "unreadable": sorted(one.folder.name for one in broken),
        "provenance": provenance(records.values()),
        "environments": environments,
        "differences": provenance_notes(rows),
        "data": _data(records.values()),
        "command": f"symbench run {suite.path.stem if is_shipped else 'suite.yaml'}"
        + (" --tuned" if suite.tuned_by_option else ""),
    }


def read(path: Path) -> dict[str, Any]:
    """Content of a board.json. UserError: the file cannot be read or is not a board."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _Board.model_validate(document)
    except ValidationError as error:
        why = reason_of(error).removeprefix("_Board: ")
        raise UserError(f"{path}: not a board of format {FORMAT}: {why}; publish it again") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    return document


def row_document(row: Row, metric: str, wins: bool, group: str) -> dict[str, Any]:
    """A row of board.json."""
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


def provenance(records: Iterable[Record]) -> dict[str, list[str]]:
    """Versions and machines: name -> values in the records."""
    environments = [record.environment for record in records]
    provenance = {}
    for key in (*VERSIONS, *MACHINE):
        if values := {plain(one[key]) for one in environments if one.get(key) is not None}:
            provenance[key] = sorted(values, key=lambda text: (len(text), text))  # 2 before 10
    return provenance


def _add_environments(rows: Sequence[dict[str, Any]], records: Mapping[str, Record]) -> list[dict[str, str]]:
    """Distinct environments of the records; each finished seed of `rows` gets the index of its own as `environment`."""
    environments: list[dict[str, str]] = []
    for seed in (seed for row in rows for seed in row["seeds"]):
        record = records.get(seed["id"])
        if record is not None and record.status.is_result:
            mine = {key: values[0] for key, values in provenance([record]).items()}
            if mine not in environments:
                environments.append(mine)
            seed["environment"] = environments.index(mine)
            seed |= {key: str(record.environment[key]) for key in COMPARED if record.environment.get(key)}
    return environments


def environment_of(document: Mapping[str, Any], row: Mapping[str, Any], seed: Mapping[str, Any]) -> dict[str, str]:
    """Versions, machine, data checksum and model digest of a finished seed.

    A board of an earlier version has them for all seeds together; several values are joined by "or".
    """
    if "environment" in seed:
        own = {key: seed[key] for key in COMPARED if key in seed}
        return {**document["environments"][seed["environment"]], **own}
    place = ("dataset", "preset", "level")
    checksums = {one["checksum"] for one in document["data"] if all(one[key] == row[key] for key in place)}
    several = {**document["provenance"], "data_checksum": sorted(checksums)}
    return {key: " or ".join(values) for key, values in several.items()}


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
