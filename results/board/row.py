"""A row of the board: all seeds of one setting."""

import json
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from math import inf, isinf, nan
from typing import Any, Literal

from benchmark.cell import Level, TestRuns
from benchmark.errors import UserError
from benchmark.models.task import TASKS
from benchmark.suite.facts import dataset_facts, model_facts
from benchmark.suite.labels import varying
from benchmark.training.recorder import NOT_LEARNED, State
from results.board.notes import MARK, difference_from_paper, group_words, size_of
from results.board.quantities import (
    BY_RUN,
    BY_WALLS,
    CURVES,
    METRICS,
    Statistic,
    curve,
    is_number,
    tested_as,
    written_column,
    written_statistic,
)
from results.statistics.two_models import Sample
from results.store.provenance import mixed
from results.store.record import VECTORS, Record


@dataclass(frozen=True)
class Seed:
    """One cell of a row; `message` is the reason if it is not done, or if its network did not learn."""

    seed: int
    cell_id: str
    state: State | Literal["absent"]
    message: str = ""


@dataclass(frozen=True)
class Row:
    """All seeds of one setting.

    `recorded` is the content of metrics.json of each seed, empty if it is not done. `trained` is false for a
    deterministic model, whose single record stands for every seed.
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
    test_runs: TestRuns | None = "designed"
    """Kind of the dataset's test runs; None if the dataset is gone."""
    budget: str = ""
    """Budget of the contest, as in its heading."""
    varied: tuple[str, ...] = ()
    """Settings of the protocol beside its name in which rows of the board differ."""
    environments: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """Provenance of each seed; empty if it has no result."""

    def count(self, state: State | Literal["absent"]) -> int:
        return sum(seed.state == state for seed in self.seeds)

    def finished(self, records: Mapping[str, Record]) -> list[Record]:
        """Records of the seeds that are done."""
        return [records[seed.cell_id] for seed in self.seeds if seed.state == "done" and seed.cell_id in records]

    @cached_property
    def values(self) -> Mapping[str, tuple[float | None, ...]]:
        """Metric -> value of each seed, None if it has none."""
        return {name: tuple(_number(one.get(name)) for one in self.recorded) for name in self.metrics}

    def sample(self, metric: str) -> Sample:
        """Values for the statistics: of the seeds that are done, and infinitely bad ones of those that diverged.

        It has the values of each test run if the runs are sampled, and so a factor of the test.
        """
        worst = METRICS[metric].merit(inf)
        seeds, values = [], []
        runs: list[tuple[float, ...] | None] = []
        for seed, recorded in zip(self.seeds, self.recorded, strict=True):
            value = _number(recorded.get(metric))
            if seed.state == "diverged" or value is not None:
                seeds.append(seed.seed)
                values.append(worst if value is None or seed.state == "diverged" else value)
                by_run = recorded.get(BY_RUN.get(metric, "")) if self.test_runs == "sampled" else None
                runs.append(_numbers(by_run))
        recorded_runs = next((run for run in runs if run is not None), ())
        if recorded_runs:  # a seed that diverged did so on every run
            diverged = (worst,) * len(recorded_runs)
            runs = [diverged if isinf(value) else run for run, value in zip(runs, values, strict=True)]
        present = tuple(run for run in runs if run is not None)
        return Sample(tuple(seeds), tuple(values), present if len(present) == len(runs) else None, not self.trained)

    @cached_property
    def curves(self) -> Mapping[str, tuple[Statistic, ...]]:
        """Metric -> Statistic of each rolled-out step or wave number."""
        return self._lists(CURVES)

    @cached_property
    def vectors(self) -> Mapping[str, tuple[Statistic, ...]]:
        """Metric -> Statistic of each component of a vector."""
        return self._lists(VECTORS)

    def _lists(self, names: Sequence[str]) -> dict[str, tuple[Statistic, ...]]:
        lists = {name: [_numbers(one.get(name)) for one in self.recorded] for name in names}
        return {name: numbers for name in names if (numbers := curve(lists[name]))}

    @property
    def complete(self) -> bool:
        """Whether every seed is done."""
        return self.count("done") == len(self.seeds)

    def ranks(self, metric: str) -> bool:
        """Whether every seed is done and has `metric`, so that the row may win its contest."""
        return self.complete and metric in self.metrics and self.metrics[metric].n == len(self.seeds)

    def written(self, metric: str) -> str:
        """Statistic of `metric` as text; `-` if there is none, `n/a` if the network reaches a wall from everywhere."""
        if metric in self.metrics:
            return written_statistic(metric, self.metrics[metric])
        return "n/a" if metric in BY_WALLS and "reach" in self.metrics and self.trained else "-"

    @property
    def reason(self) -> str:
        """Reason why the model cannot run here; empty if it can."""
        return next((seed.message or "n/a" for seed in self.seeds if seed.state == "n/a"), "")

    @property
    def missing(self) -> str:
        """`n/a: ...`, or the number of seeds that are not in the means, by state."""
        if self.reason:
            return f"n/a: {self.reason.removeprefix('n/a: ')}"
        states: tuple[State | Literal["absent"], ...] = ("diverged", "failed", "running", "absent")
        return ", ".join(f"{self.count(state)} {state}" for state in states if self.count(state))

    @property
    def unlearned(self) -> str:
        """Number of seeds whose network equals a trivial forecast, and which forecast; these are in the means."""
        messages = [
            seed.message for seed in self.seeds if seed.state == "done" and seed.message.startswith(NOT_LEARNED)
        ]
        return f"{len(messages)} {messages[0]}" if messages else ""

    @cached_property
    def mixed(self) -> str:
        """Seeds of different data, code or metrics; empty if they agree as far as is known."""
        numbers = [seed.seed for seed in self.seeds]
        return mixed(zip(numbers, self.environments, strict=True)) if self.environments else ""

    @property
    def remark(self) -> str:
        """Seeds that are missing, did not learn, or do not belong together."""
        return ", ".join(filter(None, (self.missing, self.unlearned, self.mixed)))

    @property
    def differs(self) -> str:
        """How the model differs from its paper, as its baseline declares it; empty if it does not."""
        return difference_from_paper(self.model)

    @property
    def marked(self) -> str:
        """Label, with a mark if the model differs from its paper."""
        return f"{self.label} {MARK}" if self.differs else self.label

    @property
    def panel(self) -> tuple[str, str, str]:
        """Dataset, preset and grid: the rows that are shown in one table."""
        return self.dataset, self.preset, self.grid

    @property
    def size(self) -> str:
        """Preset, and the grid of a state that lies on one."""
        return size_of(*self.panel)

    @property
    def test_words(self) -> str:
        """Kind of the test runs, and the group of the data error, as in a heading."""
        group = group_words(self.dataset)
        return f"{self.test_runs or 'unknown'} test runs" + (f", data error over {group}" if group else "")

    @property
    def terms(self) -> str:
        """Protocol and budget, as in the heading of a contest."""
        return ", ".join(filter(None, (self.protocol["name"], *self.varied, self.budget)))

    @property
    def figure_key(self) -> tuple[Any, ...]:
        """Key of the figures: equal for rows with the same dataset, preset, grid, protocol and budget."""
        return (*self.panel, *self.contest[-2:])

    @cached_property
    def task(self) -> tuple[Any, ...]:
        """Key of the task: equal for rows with the same dataset, preset, grid, level and protocol."""
        return (*self.panel, self.level, json.dumps(self.protocol, sort_keys=True))

    @cached_property
    def contest(self) -> tuple[Any, ...]:
        """Key of the contest: equal for rows with the same task and budget."""
        return (*self.task, self.budget)


def with_varied_protocols(rows: Sequence[Row]) -> list[Row]:
    """All rows of a board, each with those settings of its protocol in which they differ."""
    protocols = [{key: value for key, value in row.protocol.items() if key != "name"} for row in rows]
    return [replace(row, varied=varied) for row, varied in zip(rows, varying(protocols), strict=True)]


def samples(rows: Sequence[Row], metric: str) -> list[Sample]:
    """Samples of the rows of one contest for the tests; without test runs unless all complete rows have as many."""
    each = [row.sample(tested_as(metric)) for row in rows]
    if len({one.runs for one, row in zip(each, rows, strict=True) if row.ranks(metric)}) > 1:
        each = [replace(one, by_run=None) for one in each]
    return each


def merits(rows: Sequence[Row], metric: str) -> list[float]:
    """Merit of each row within its contest: the lowest is the best; NaN without a number.

    It is a mean on the scale of the tests, of logarithms, so that the best, its lead and the letters never contradict
    each other: a lead is exp(merit of the other - merit of the best) - 1, the effect of the test of the two.
    """
    positions: dict[Hashable, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        positions[row.contest].append(index)
    values = [nan] * len(rows)
    for members in positions.values():
        for index, sample in zip(members, samples([rows[index] for index in members], metric), strict=True):
            values[index] = METRICS[tested_as(metric)].merit(sample.finite().location)
    return values


def written_numbers(rows: Sequence[Row], metric: str) -> list[str]:
    """Text of `metric` of each row, with equal decimals for the rows of one table (one panel)."""
    texts: list[str] = []
    for _, members in groupby(rows, key=lambda row: row.panel):
        panel = list(members)
        column = written_column(metric, [row.metrics.get(metric) for row in panel])
        texts += [
            text if metric in row.metrics else row.written(metric) for row, text in zip(panel, column, strict=True)
        ]
    return texts


def _number(value: Any) -> float | None:
    return value if is_number(value) else None


def _numbers(value: Any) -> tuple[float, ...] | None:
    """`value` as a tuple if it is a list of finite numbers, otherwise None."""
    return tuple(value) if isinstance(value, list) and value and all(map(is_number, value)) else None


def declared(model: str) -> tuple[str, str, bool]:
    """Family, source, and whether the model is trained, as its baseline declares them.

    The family is `unknown` if the baseline is gone or broken: its results still count.
    """
    try:
        facts = model_facts(model)
    except UserError:
        return "unknown", "", True
    return facts.family, facts.source, facts.trained


def family_on(dataset: str, family: str) -> str:
    """`family` of a model on `dataset`: a method that takes any network without a symmetry is `cnn` or `free`."""
    try:
        task = TASKS[dataset_facts(dataset).kind]
    except UserError:
        return family
    return task.plain[0] if family in {one.plain[0] for one in TASKS.values()} else family


def declared_test_runs(dataset: str) -> TestRuns | None:
    """Kind of the test runs as the dataset declares it; None if the dataset is gone."""
    try:
        return dataset_facts(dataset).test_runs
    except UserError:
        return None


def family_and_source(model: str) -> tuple[str, str]:
    """Family and source as the baseline declares them."""
    return declared(model)[:2]
