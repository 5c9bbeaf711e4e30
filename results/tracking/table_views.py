"""Table views of an experiment in MLflow: columns, filter and order of its table of runs, opened by a link.

MLflow keeps the state of its table under a key in a tag of the experiment, for sharing; a page address with the key
opens with that state. There is a view for each question that people bring to a benchmark.
"""

import base64
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.cell import Cell
from results.tracking.runs import LONGEST_TAG

MOST_LEVELS = 8
"""Levels that have columns and bars of their own."""
MOST_VARIED = 4
"""Settings of the models that are shown as columns."""
STATE_TAG = "mlflow.sharedViewState."
NOTE_OF_RUNS = (
    "The runs of one suite of symbench. The run LEADERBOARD has the report, its figures and the table among its"
    " artifacts. A run for each model has its RMSE future at every level (`L0`, `L1`, ...), that over the best of the"
    " level (`x best L0`), and its equivariance error (`sym L0`), to three digits. A run for each setting (data set,"
    " level, model) has the statistics over its seeds: the mean, e.g. `rmse_future`, and the ends of its 95 % interval,"
    " `rmse_future_low` and `rmse_future_high`; `ratio_to_best` is the error over that of the best model on the same"
    " task (geometric means, as in the tests), `symmetry_ratio` the model's equivariance error over the data's. Below"
    " it stands a run for each seed with its curves. Errors are in data units. The tag `symbench.kind` tells them"
    " apart. This page is a view of the store, made by `symbench sync`: what is changed here does not reach the"
    " results."
)
REPORT = "The report"
NAME, LEAST = "attributes.`Run Name`", 40
WIDTHS = {NAME: 240, "runDateAndNestInfo": LEAST, "duration": LEAST, "tags.`verdict`": 340}
"""Pixels of columns; MLflow's columns of times cannot be left out, and are made narrow."""
MODELS, SETTINGS = "tags.`symbench.kind` = 'model'", "tags.`symbench.kind` = 'setting'"
SECTION = "symbench"


@dataclass(frozen=True)
class TableView:
    """A question, and the state of MLflow's table of runs, or of its charts, that answers it."""

    key: str
    question: str
    filter: str
    order: str
    columns: tuple[str, ...]
    charts: tuple[Mapping[str, Any], ...] = ()
    by_level: bool = False

    @property
    def state(self) -> str:
        """The state as MLflow packs it."""
        state: dict[str, Any] = {
            "orderByKey": f"metrics.`{self.order}`",
            "orderByAsc": True,
            "searchFilter": self.filter,
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "startTime": "ALL",
            "selectedColumns": list(self.columns),
            "columnOrder": [NAME, *self.columns],
            "columnWidths": WIDTHS | {column: 90 for column in self.columns if column not in WIDTHS},
            "viewMaximized": True,
            "runListHidden": False,
            "runsHiddenMode": "SHOW_ALL",
        }
        if self.charts:
            common = {"metricSectionId": SECTION, "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
            state["compareRunCharts"] = [
                {"uuid": f"{SECTION}-{n}", **common, **one} for n, one in enumerate(self.charts)
            ]
            state["globalLineChartConfig"] = {"lineSmoothness": 0}
            state["compareRunSections"] = [
                {"uuid": SECTION, "name": self.question, "display": True, "isReordered": False, "deleted": False}
            ]
        if self.by_level:
            by = {"mode": "param", "groupByData": "level"}
            state["groupBy"] = {"aggregateFunction": "min", "groupByKeys": [by]}
            state["useGroupedValuesInCharts"] = False
        return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()

    def tag(self, place: int) -> str:
        """Value of the tag STATE_TAG + key, which names the view in MLflow's menu; the newest comes first there."""
        time = 1_000_000_000_000 - place
        return json.dumps({"name": self.question, "createdAt": time, "updatedAt": time, "state": self.state})

    @property
    def mode(self) -> str:
        """End of the link."""
        return "&compareRunsMode=CHART" if self.charts else ""


def level_metric(level: object, before: str = "") -> str:
    """Name of a model's metric at a level; MLflow shows 13 characters."""
    return re.sub(r"[^\w\-. /]", "_", f"{before}L{level}")[:100]


def experiment_name(suite: str) -> str:
    """Name of a suite's experiment in MLflow."""
    return f"symbench/{suite}"[:500]


def table_views(cells: Sequence[Cell]) -> list[TableView]:
    """The six views of a suite, in the order of the questions that people bring."""
    levels = list(dict.fromkeys(cell.dataset.level for cell in cells))
    errors, ratios, symmetry = (
        [level_metric(level, before) for level in levels[:MOST_LEVELS]] for before in ("", "x best ", "sym ")
    )
    several = len({(cell.dataset.name, cell.dataset.preset) for cell in cells}) > 1
    dataset = ("params.`dataset`", "params.`preset`") if several else ()
    varied = tuple(f"params.`config.{key}`" for key in _varied_settings(cells))
    lines = {"type": "LINE", "metricKey": "error", "selectedMetricKeys": ["error"], "lineSmoothness": 0}
    bars = [{"type": "BAR", "metricKey": name, "selectedMetricKeys": [name]} for name in ratios]
    scatter = {"type": "SCATTER", "xaxis": {"key": symmetry[-1], "type": "METRIC"}}
    setting = (*dataset, "params.`model`", *varied, "tags.`symbench.seeds`")
    ends = _metrics("rmse_future", "rmse_future_low", "rmse_future_high", "rmse_domain", "skill_future")
    seed = ("params.`level`", *setting[:-1], "params.`seed`", "tags.`symbench.state`")
    return [
        TableView(
            *("who-wins", "1 Who wins?", MODELS, ratios[-1]),
            ("tags.`verdict`", *dataset, *_metrics(*ratios, *errors)),
        ),
        TableView(
            *("levels", "2 Error against level", MODELS, errors[-1], _metrics(*errors)),
            ({**lines, "xAxisKey": "metric", "selectedXAxisMetricKey": "data error"}, *bars),
        ),
        TableView(
            *("by-level", "3 Level by level", SETTINGS, "ratio_to_best"),
            (*setting, *_metrics("ratio_to_best"), *ends),
            by_level=True,
        ),
        TableView(
            *("cost", "4 At what cost?", MODELS, "train min"),
            (*dataset, *_metrics("train min", "params k", "MFLOPs", ratios[-1], errors[-1])),
        ),
        TableView(
            *("symmetry", "5 How symmetric?", MODELS, symmetry[-1], _metrics(*symmetry, errors[-1])),
            ({**scatter, "yaxis": {"key": errors[-1], "type": "METRIC"}},),
        ),
        TableView(
            *("seeds", "6 Every seed, with its curves", "tags.`symbench.kind` = 'cell'", "rmse_future"),
            (*seed, *_metrics("rmse_future", "rmse_domain", "training_seconds", "best_epoch")),
        ),
    ]


def _metrics(*names: str) -> tuple[str, ...]:
    return tuple(f"metrics.`{name}`" for name in names)


def _varied_settings(cells: Sequence[Cell]) -> list[str]:
    """The first few settings that distinguish rows of one model."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell in cells:
        for key, value in cell.model.settings().items():
            values[cell.model.name, key].add(str(value))
    return list(dict.fromkeys(key for (_, key), different in values.items() if len(different) > 1))[:MOST_VARIED]


def view_path(experiment_id: str, key: str, mode: str = "") -> str:
    """The page of a view, below the address of the server."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={key}&workflowType=machine_learning{mode}"


def report_path(experiment_id: str, run_id: str) -> str:
    """The page of the run LEADERBOARD that shows the report."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/report.html?workflowType=machine_learning"


def experiment_note(experiment_id: str, views: Sequence[TableView], verdict: str, run_id: str) -> str:
    """Note of the experiment: the verdict, links to the report and the views, and what the runs are."""
    lines = [verdict, "", f"- [{REPORT}]({report_path(experiment_id, run_id)})"]
    lines += [f"- [{view.question}]({view_path(experiment_id, view.key, view.mode)})" for view in views]
    return "\n".join([*lines, "", NOTE_OF_RUNS])[:LONGEST_TAG]


def keys_and_questions(views: Sequence[TableView]) -> str:
    """JSON list of [key, question, mode]."""
    return json.dumps([[view.key, view.question, view.mode] for view in views])
