"""Content of a run in MLflow as plain data with a digest, before MLflow is involved, and the tags of symbench there."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from benchmark.cell import Cell
from results.board.quantities import is_number

RUN_KEY = "symbench.cell"
"""Run: id of its cell, or key of its setting, study, trial or board."""
DIGEST = "symbench.digest"
"""Run: digest of what it shows. Written last, so a run without it is incomplete."""
STORE = "symbench.store"
"""Run: identity of the store that it shows. A sync changes and removes those of its own store alone."""
PARENT = "mlflow.parentRunId"
"""Run: id of the run above it."""
REPLACED = "replaced"
"""RUN_KEY of a run that symbench deleted; a sync does not restore it."""

SUITE = "symbench.suite"
"""Experiment: name of its suite."""
REVISION = "symbench.revision"
"""Experiment: changes with each sync that changes a run, from whichever store."""
TABLE_VIEWS = "symbench.boards"
"""Experiment: its table views as JSON, a list of [key, question]."""

LANDING_PAGE = "symbench.report"
"""Experiment: id of the run LEADERBOARD, whose report `symbench ui` opens first."""

LONGEST_TAG = 5000
"""Characters in the value of a tag."""

VIEW_VERSION = 8
"""Raised when runs are made differently from the same records, so that the next sync makes them again."""
CURVES = ("train_loss", "validation_rmse", "penalty_share", "penalty_gradient")
"""Metrics with a point for each epoch that has a value."""
LONGEST_KEY, LONGEST_PARAMETER, LONGEST_NAME = 250, 6000, 200


class Point(NamedTuple):
    """A value of a metric; `time` in ms since 1970."""

    name: str
    value: float
    time: int
    step: int


@dataclass(frozen=True)
class Dataset:
    """Data that a run was trained on: the file with its checksum, and measurements of it. `source` is JSON."""

    name: str
    digest: str
    source: str
    profile: str


@dataclass(frozen=True)
class WantedRun:
    """A run as MLflow should show it; times in ms since 1970, `end` is None while it runs.

    `parent` is the key of the run above it, or empty.
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
    data: tuple[Dataset, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Digest of what the run shows. Times are left out: those of a running cell move with every epoch."""
        shown = {name: value for name, value in vars(self).items() if name not in ("start", "end")}
        shown["metrics"] = [(point.name, point.value, point.step) for point in self.metrics]
        shown["data"] = [vars(data) for data in self.data]
        document = json.dumps([VIEW_VERSION, shown], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:16]


def cell_params(cell: Cell) -> dict[str, str]:
    """Parameters of the run of a cell: its whole setting."""
    params = {
        "model": cell.model.name,
        "seed": cell.seed,
        **dataset_choice(cell),
        **{f"config.{key}": value for key, value in cell.model.settings().items()},
        **{f"protocol.{key}": value for key, value in cell.protocol.model_dump().items()},
        **{f"train.{key}": value for key, value in cell.train.model_dump().items()},
    }
    return {_param_key(key): str(value)[:LONGEST_PARAMETER] for key, value in params.items()}


def dataset_choice(cell: Cell) -> dict[str, Any]:
    """Dataset, level, preset and grid of a cell."""
    dataset = cell.dataset
    return {"dataset": dataset.name, "level": dataset.level, "preset": dataset.preset, "grid": dataset.place}


def symbench_tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Tags `symbench.<name>` of a run; empty values are left out."""
    return {f"symbench.{name}": str(value)[:LONGEST_TAG] for name, value in values.items() if str(value)}


def finite_points(points: Iterable[tuple[str, Any, int, int]]) -> tuple[Point, ...]:
    """The points (name, value, time, step) whose value is a finite number."""
    return tuple(Point(name, float(value), time, step) for name, value, time, step in points if is_number(value))


def run_name(text: str) -> str:
    """`text` on one line, as long as MLflow allows."""
    return " ".join(text.split())[:LONGEST_NAME]


def _param_key(name: str) -> str:
    return re.sub(r"[^\w\-. ]", "_", name)[:LONGEST_KEY]
