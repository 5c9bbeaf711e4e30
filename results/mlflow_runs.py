"""What MLflow is to hold of a record and of the board, before MLflow is asked: plain data with a digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import accumulate

from .leaderboard import Row, family_and_source, to_json
from .quantities import METRICS, is_number, statistic, written_statistic
from .store import Record

VIEW_VERSION = 1
"""Raised when records are imported differently, so that the next sync does it again."""
VIEW_COLUMNS = ("rmse_future", "rmse_domain", "model_equivariance_error", "parameters", "flops")
SIZES = ("parameters", "flops")
NOTE_COLUMNS = ("rmse_future", "rmse_domain", *SIZES)
LONGEST_KEY, LONGEST_PARAMETER, LONGEST_TAG = 250, 6000, 5000
NOTE = (
    "One run is one cell (data set, level, model, seed); the run LEADERBOARD holds the report. Errors are in field"
    " units. The tag `symbench.state` says done, diverged, failed, running or n/a. This page is a view of the store,"
    " made by `symbench sync`: what is changed here does not reach the results."
)
STATUSES = {"failed": "FAILED", "running": "RUNNING"}


@dataclass(frozen=True)
class Import:
    """A run as it should be; times in ms since 1970, metrics as (name, value, time, step)."""

    key: str
    name: str
    start: int
    end: int | None
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[tuple[str, float, int, int], ...] = ()
    artifacts: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        document = json.dumps([VIEW_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:16]


def cell_run(record: Record) -> Import:
    """One cell; it started and ended when the record says so, and not when it was imported."""
    cell, status = record.cell, record.status
    seconds = list(accumulate(epoch.seconds for epoch in record.history))
    training = record.metrics.get("training_seconds")
    lasted = float(training) if training is not None and is_number(training) else seconds[-1] if seconds else 0.0
    end = round(1000 * status.heartbeat)
    start = max(0, end - round(1000 * lasted))
    family, source = family_and_source(cell.model.name)
    known = {
        "dataset": cell.dataset.name,
        "level": cell.dataset.level,
        "model": cell.model.name,
        "family": family,
        "seed": cell.seed,
    }
    params = {
        **known,
        "preset": cell.dataset.preset,
        "grid": cell.dataset.grid,
        **{f"config.{key}": value for key, value in cell.model.settings().items()},
        **{f"protocol.{key}": value for key, value in cell.protocol.model_dump().items()},
        **{f"train.{key}": value for key, value in cell.train.model_dump().items()},
    }
    told = {"kind": "cell", "state": status.state, "message": status.message, "source": source, **known}
    # MLflow shows its metrics digit by digit; in a tag they can be read.
    told |= {
        name: written_statistic(name, value)
        for name in SIZES
        if (value := statistic([record.metrics.get(name)])) is not None
    }
    finals = [(name, record.metrics[name], end, 0) for name in METRICS if name in record.metrics]
    curves = [
        (name, getattr(epoch, name), start + round(1000 * passed), epoch.epoch)
        for epoch, passed in zip(record.history, seconds, strict=True)
        for name in ("train_loss", "validation_rmse", "learning_rate")
    ]
    by_step = record.metrics.get("rmse_future_by_step") or []
    curves += [("rmse_future_by_step", value, end, step) for step, value in enumerate(by_step, start=1)]
    return Import(
        key=cell.id,
        name=f"{cell.model.name} level {cell.dataset.level} seed {cell.seed}",
        start=start,
        end=None if status.state == "running" else end,
        status=STATUSES.get(status.state, "FINISHED"),
        tags={f"symbench.{key}": str(value)[:LONGEST_TAG] for key, value in told.items() if str(value)},
        params={_key(key): str(value)[:LONGEST_PARAMETER] for key, value in params.items()},
        metrics=tuple(
            (name, float(value), time, step) for name, value, time, step in finals + curves if is_number(value)
        ),
    )


def board_run(rows: list[Row], records: Mapping[str, Record], report_html: str) -> Import:
    """The run that carries the report and the board as JSON."""
    end = round(1000 * max(record.status.heartbeat for record in records.values()))
    return Import(
        key="leaderboard",
        name="LEADERBOARD",
        start=end,
        end=end,
        status="FINISHED",
        tags={"symbench.kind": "leaderboard", "mlflow.note.content": _note(rows)},
        artifacts={"report.html": report_html, "leaderboard.json": json.dumps(to_json(rows), indent=1)},
    )


def _note(rows: list[Row]) -> str:
    """The board as Markdown, as many rows as a note may hold; the whole of it is the artifact report.html."""
    headings = " | ".join(METRICS[name].title for name in NOTE_COLUMNS)
    lines = [f"{NOTE}\n", f"| level | model | {headings} | seeds |", "|---" * (3 + len(NOTE_COLUMNS)) + "|"]
    for row in rows:
        numbers = [written_statistic(name, row.metrics[name]) if name in row.metrics else "-" for name in NOTE_COLUMNS]
        seeds = f"{row.count('done')}/{len(row.seeds)} {row.remark}"
        texts = (str(row.level), row.label, *numbers, seeds)
        lines.append("| " + " | ".join(re.sub(r"([\\|<>`*_\[\]])", r"\\\1", " ".join(t.split())) for t in texts) + " |")
        if sum(map(len, lines)) > LONGEST_TAG - 500:
            return "\n".join([*lines[:-1], "", "The other rows are in the artifact report.html."])
    return "\n".join(lines)


def _key(name: str) -> str:
    """A name that MLflow takes for a parameter."""
    return re.sub(r"[^\w\-. ]", "_", name)[:LONGEST_KEY]
