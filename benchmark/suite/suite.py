"""A suite as data: its cells, their resources, and how its models are tuned. `benchmark.suite.loading` loads one."""

from __future__ import annotations

import operator
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from benchmark.cell import Cell, Frozen, Level, PositiveFloat, PositiveInt, Training
from benchmark.errors import UserError, unknown_name
from benchmark.suite.budget import Budget

SUITES_FOLDER = Path(__file__).parents[2] / "suites"
OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")
"""Commas between the clauses of `--only`."""
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class Resources(Frozen):
    """Resources of a cell; they do not change its result.

    `gpus` is the number of GPUs, with one rank on each; 0 is the CPU. By default, the available GPUs are used, up to
    `ranks`, and the CPU if there is none. `ranks` is the number of processes on a CPU. Both are spread evenly over
    `nodes` of a cluster, where `minutes` is the time limit of a job (default: that of the site).
    """

    gpus: Annotated[int, Field(ge=0)] | None = None
    ranks: PositiveInt = 1
    nodes: PositiveInt = 1
    minutes: PositiveInt | None = None

    def __str__(self) -> str:
        """The resources in words, as `2 GPUs, 120 min`."""
        number = self.ranks if self.gpus in (None, 0) else self.gpus
        kind = {None: "rank", 0: "CPU rank"}.get(self.gpus, "GPU")
        nodes = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{number} {kind}{'s' if number > 1 else ''}{nodes}{f', {self.minutes} min' if self.minutes else ''}"


class Range(Frozen):
    """Range [low, high] that is searched log-uniformly."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        return self


Domain = tuple[Any, ...] | Range
"""Values that tuning may try for a setting, or a range of them."""
TunedTrainingField = Literal[
    "learning_rate",
    "learning_rate_decay",
    "weight_decay",
    "relaxation_rate",
    "batch_size",
    "rollout_steps",
    "gradient_clip",
]


class Tuning(Frozen):
    """Tuning of a suite's models, equal for all of them.

    `levels` are those that share settings: `each` level has its own, `all` share them, or groups as in
    [[0, 1], [3, 6, 9]]. Settings named in `keep` are not searched. `train` replaces the search space of a training
    setting by a list of values or {low: , high: }.
    """

    levels: Literal["each", "all"] | tuple[tuple[Level, ...], ...] = "each"
    keep: tuple[str, ...] = ()
    train: Mapping[TunedTrainingField, Domain] = {}

    @model_validator(mode="after")
    def _values_are_settings(self) -> Tuning:
        for key, domain in self.train.items():
            for value in (domain.low, domain.high) if isinstance(domain, Range) else domain:
                Training.model_validate({key: value})
        return self


@dataclass(frozen=True)
class Suite:
    """A named list of cells, each once, in the order of the file.

    `budgets` are those that the widths of models were solved for (several if they give one width), and `studies` the
    names of the studies that tuned settings come from; both by cell id.
    """

    name: str
    path: Path
    cells: tuple[Cell, ...]
    resources: Resources
    tuned: bool = False
    """Whether the file or the caller asks for tuned settings."""
    tuning: Tuning = field(default_factory=Tuning)
    budgets: Mapping[str, tuple[Budget, ...]] = field(default_factory=dict)
    studies: Mapping[str, str] = field(default_factory=dict)
    tuned_by_option: bool = False
    """Whether the caller asks for tuned settings with `--tuned`, and the file does not."""
    untuned: tuple[Cell, ...] = ()
    """Cells that are left out because they are not tuned."""
    edited: tuple[str, ...] = ()
    """Sentence about each result of a study that is not as its search wrote it."""
    only_expression: str = ""
    """Argument of `--only` that selected these cells."""
    plugins: tuple[Path, ...] = ()
    """Files of baselines that the suite names."""
    keeps_checkpoints: bool = False
    """Whether finished cells keep their checkpoints."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Argument of each `--set` -> the value that it replaces, or None where the file has none."""
    own_resources: Mapping[str, Resources] = field(default_factory=dict)
    """Resources of the cells of models that have their own, by cell id."""

    @property
    def argument(self) -> str:
        """The suite on the command line: its name if it is in `suites/`, otherwise its path; and its overrides."""
        name = self.path.stem if self.path.parent == SUITES_FOLDER else str(self.path)
        return shlex.join([name, *(word for override in self.overrides for word in ("--set", override))])

    def resources_of(self, cell: Cell) -> Resources:
        """Resources of a cell: those of its model, or of the suite."""
        return self.own_resources.get(cell.id, self.resources)

    def by_resources(self) -> dict[Resources, Suite]:
        """Parts of the suite whose cells have equal resources, as suites."""
        cells: dict[Resources, list[Cell]] = {}
        for cell in self.cells:
            cells.setdefault(self.resources_of(cell), []).append(cell)
        return {
            resources: replace(self, cells=tuple(members), resources=resources, own_resources={})
            for resources, members in cells.items()
        }

    def only(self, expression: str) -> Suite:
        """Cells that match every clause of the comma-separated expression: `level>=1,model=[convnet,e2cnn],seed!=0`.

        Operators: = and != with a value or a list of values, and <, <=, >, >= with a number. Keys: dataset, preset,
        level, model, seed, id, and every field of the models' Config; a cell without the key matches != alone.
        UserError: unknown key, a value that no cell has, or no cell matches.
        """
        cells, described = self.cells, {cell.id: describe(cell) for cell in self.cells}
        for clause in filter(None, (part.strip() for part in OUTSIDE_BRACKETS.split(expression))):
            parts = re.fullmatch(r"([^=<>!]+)(!=|<=|>=|=|<|>)(.*)", clause)
            if parts is None:
                raise UserError(f"--only {expression!r}: {clause!r} is not of the form key=value (or != < <= > >=)")
            key, sign, value = (part.strip() for part in parts.groups())
            valid = sorted({known for settings in described.values() for known in settings})
            if key not in valid:
                raise UserError(f"--only {expression!r}: {unknown_name('key', key, valid)}")
            values = {cell.id: described[cell.id][key] for cell in cells if key in described[cell.id]}
            try:
                matches = _matching(key, values, sign, value)
            except ValueError as error:
                raise UserError(f"--only {expression!r}: {error}") from error
            cells = tuple(cell for cell in cells if (cell.id in matches) != (sign == "!="))
            if not cells:
                texts = ", ".join(sorted(set(map(str, values.values()))))
                raise UserError(f"--only {expression!r}: no cell has {key}{sign}{value} ({key}: {texts})")
        return replace(self, cells=cells, only_expression=",".join(filter(None, (self.only_expression, expression))))


def _matching(key: str, values: Mapping[str, Any], sign: str, text: str) -> set[str]:
    """Ids of `values` that are among those of `text`, or compare so with its number. ValueError: none can."""
    if sign in COMPARISONS:
        numbers = {one: value for one, value in values.items() if type(value) in (int, float)}
        try:
            limit = float(text)
        except ValueError:
            raise ValueError(f"{key}{sign}{text}: {text!r} is not a number") from None
        if not numbers:
            raise ValueError(f"{key}{sign}{text}: {key} is not a number; use = or !=")
        return {one for one, value in numbers.items() if COMPARISONS[sign](value, limit)}
    texts = {one: str(value) for one, value in values.items()}
    is_list = text.startswith("[") and text.endswith("]") and text not in texts.values()
    wanted = [part.strip() for part in text[1:-1].split(",")] if is_list else [text]
    for one in wanted:
        if one not in texts.values():
            raise ValueError(unknown_name(key, one, sorted(set(texts.values()))))
    return {one for one, value in texts.items() if value in wanted}


def describe(cell: Cell) -> dict[str, Any]:
    """Keys and values of a cell that `--only` can select by."""
    dataset = cell.dataset
    return {
        **cell.model.settings(),
        "dataset": dataset.name,
        "preset": dataset.preset,
        "level": dataset.level,
        "model": cell.model.name,
        "seed": cell.seed,
        "id": cell.id,
    }
