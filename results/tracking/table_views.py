"""Table views of an experiment in MLflow: columns, filter and order of its table of runs, opened by a link.

MLflow keeps the state of its table under a key in a tag of the experiment, for sharing; a page address with the key
opens with that state. There is a view for each question that people bring to a benchmark.
"""

import base64
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmark.cell import Cell
from results.tracking.tags import LONGEST_TAG

MOST_VARIED = 4
"""Settings of the models that are shown as columns."""
STATE_TAG = "mlflow.sharedViewState."
NOTE_OF_RUNS = (
    "The runs of one suite of symbench. The run LEADERBOARD has the report, its figures and the table among its"
    " artifacts. A run for each setting (data set, level, model) has the statistics over its seeds: the mean, e.g."
    " `rmse_future`, and the ends of its 95 % interval, `rmse_future_low` and `rmse_future_high`; `ratio_to_best` is"
    " the error over that of the best model on the same task, `symmetry_ratio` the model's equivariance error over the"
    " data's. Below it stands a run for each seed with its curves. Errors are in field units. The tag `symbench.kind`"
    " tells the three apart; the tag `symbench.state` of a seed says done, diverged, failed, running or n/a, that of a"
    " setting complete, incomplete or n/a. `ratio_to_best` is left out where a seed is missing. This page is a view"
    " of the store, made by `symbench sync`: what is changed here does not reach the results."
)
ERRORS = ("ratio_to_best", "rmse_domain", "rmse_future", "rmse_future_high", "rmse_future_low", "skill_future")


@dataclass(frozen=True)
class TableView:
    """A question, and the state of MLflow's table of runs that answers it."""

    key: str
    question: str
    filter: str
    order: str
    metrics: tuple[str, ...]
    shown: tuple[str, ...] = ("params.`level`", "tags.`symbench.seeds`")

    @property
    def state(self) -> str:
        """The value of the tag STATE_TAG + key."""
        state = {
            "orderByKey": f"metrics.`{self.order}`",
            "orderByAsc": True,
            "searchFilter": self.filter,
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "startTime": "ALL",
            "selectedColumns": [*self.shown, *(f"metrics.`{name}`" for name in self.metrics)],
            "viewMaximized": True,
            "runListHidden": False,
        }
        return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()


SETTINGS = "tags.`symbench.kind` = 'setting'"
QUESTIONS = (
    TableView("who-wins", "Who wins?", SETTINGS, "ratio_to_best", ERRORS),
    TableView(
        "cost",
        "At what cost?",
        SETTINGS,
        "training_hours",
        ("training_hours", "parameters", "flops", "peak_memory_bytes", "rmse_future", "ratio_to_best"),
    ),
    TableView(
        "symmetry",
        "How symmetric are models and data?",
        SETTINGS,
        "model_equivariance_error",
        (
            "data_equivariance_error",
            "strict_floor",
            "model_equivariance_error",
            "model_equivariance_error_over_change",
            "symmetry_ratio",
            "rmse_future",
        ),
    ),
    TableView(
        "seeds",
        "Every seed, with its curves",
        "tags.`symbench.kind` = 'cell'",
        "rmse_future",
        ("rmse_future", "rmse_domain", "model_equivariance_error", "training_seconds", "best_epoch"),
        ("params.`level`", "params.`model`", "params.`seed`", "tags.`symbench.state`"),
    ),
)


def experiment_name(suite: str) -> str:
    """Name of a suite's experiment in MLflow."""
    return f"symbench/{suite}"[:500]


def table_views(cells: Sequence[Cell]) -> list[TableView]:
    """A view for each question, and for each dataset and level who wins there."""
    places = dict.fromkeys((cell.dataset.name, cell.dataset.preset, cell.dataset.level) for cell in cells)
    several = len({(name, preset) for name, preset, _ in places}) > 1
    levels = [
        TableView(
            re.sub(r"[^A-Za-z0-9_.-]", "_", f"level-{name}-{preset}-{level}")[:100],
            f"Who wins at level {level}" + (f" of {name} ({preset})?" if several else "?"),
            f"{SETTINGS} and params.`dataset` = {_quoted(name)} and params.`preset` = {_quoted(preset)}"
            f" and params.`level` = {_quoted(str(level))}",
            "ratio_to_best",
            (*ERRORS, "model_equivariance_error"),
            ("tags.`symbench.seeds`",),
        )
        for name, preset, level in places
    ]
    views = [QUESTIONS[0], *levels, *QUESTIONS[1:]]
    dataset = ("params.`dataset`", "params.`preset`") if several else ()
    varied = tuple(f"params.`config.{key}`" for key in _varied_settings(cells))
    return [replace(view, shown=(*dataset, *view.shown, *varied)) for view in views]


def _varied_settings(cells: Sequence[Cell]) -> list[str]:
    """The first few settings that distinguish rows of one model."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell in cells:
        for key, value in cell.model.settings().items():
            values[cell.model.name, key].add(str(value))
    return list(dict.fromkeys(key for (_, key), different in values.items() if len(different) > 1))[:MOST_VARIED]


def view_path(experiment_id: str, key: str) -> str:
    """The page of a view, below the address of the server."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}&workflowType=machine_learning"


def experiment_note(experiment_id: str, views: Sequence[TableView]) -> str:
    """Note of the experiment: what its runs are, and links to its views."""
    lines = [NOTE_OF_RUNS, ""]
    for view in views:
        line = f"- [{view.question}]({view_path(experiment_id, view.key)})"
        if sum(map(len, lines)) + len(lines) + len(line) > LONGEST_TAG - 100:
            return "\n".join([*lines, "- `symbench ui` prints the other links"])
        lines.append(line)
    return "\n".join(lines)


def keys_and_questions(views: Sequence[TableView]) -> str:
    """JSON list of [key, question], as many as a tag holds."""
    pairs = [[view.key, view.question] for view in views]
    while len(text := json.dumps(pairs)) > LONGEST_TAG:
        pairs.pop()
    return text


def _quoted(value: str) -> str:
    """`value` in a filter of MLflow. One with both kinds of quotes has no form there: its view stays empty."""
    return f"'{value}'" if "'" not in value else f'"{value}"'
