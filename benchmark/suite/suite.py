"""A suite as data: its cells, their resources, and how its models are tuned. `benchmark.suite.loading` loads one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from benchmark.cell import Cell, Frozen, Level, PositiveFloat, PositiveInt, Training
from benchmark.errors import UserError, unknown_name

SUITES_FOLDER = Path(__file__).parents[2] / "suites"


class Resources(Frozen):
    """Where a cell's ranks run; none of this changes a result.

    `gpus` is the number of GPUs (one rank on each), 0 the CPU; left out, the GPUs that are there are used, up to
    `ranks`, and the CPU where there is none. `ranks` is the number of processes on a CPU. Both are those of one cell,
    spread evenly over `nodes` of a cluster.
    """

    gpus: Annotated[int, Field(ge=0)] | None = None
    ranks: PositiveInt = 1
    nodes: PositiveInt = 1


class Range(Frozen):
    """Searched log-uniformly in [low, high]."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be less than high ({self.high:g})")
        return self


Domain = tuple[Any, ...] | Range
"""What tuning may try of one setting: one of these values, or a range."""
TunedTrainingField = Literal[
    "learning_rate", "learning_rate_decay", "weight_decay", "batch_size", "rollout_steps", "gradient_clip"
]


class Tuning(Frozen):
    """How the models of a suite are tuned; the same for all of them.

    `levels` says which levels of a dataset share one configuration: `each` has its own, `all` share one, or groups as
    [[0, 1], [3, 6, 9]]. Settings named in `keep` stay as the suite writes them. `train` replaces what is searched of
    a training setting: a list of values or {low: , high: }.
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

    `budgets` are the parameters that decided the width of a cell's model, by the cell's id; `studies` name the study
    that each tuned cell has its settings from.
    """

    name: str
    path: Path
    cells: tuple[Cell, ...]
    resources: Resources
    tuned: bool = False
    """Whether the file asks for tuned settings; `benchmark.suite.tuned.resolved` puts them in."""
    tuning: Tuning = field(default_factory=Tuning)
    budgets: Mapping[str, int] = field(default_factory=dict)
    studies: Mapping[str, str] = field(default_factory=dict)
    asked: bool = False
    """Whether the caller asks for tuned settings, with `--tuned`, and the file does not."""
    untuned: tuple[Cell, ...] = ()
    """Those that are left out for want of tuned settings, where that was allowed."""
    chosen: str = ""
    """The `--only` expression that these cells were chosen by."""

    @property
    def argument(self) -> str:
        """The suite's name on the command line: that of a suite that comes with symbench, or its path."""
        return self.path.stem if self.path.parent == SUITES_FOLDER else shlex.quote(str(self.path))

    def only(self, expression: str) -> Suite:
        """The cells for which every `key=value` of the comma-separated expression holds.

        Keys: dataset, preset, level, model, seed, id, and every field of the models' Config. UserError: no such
        key, or no cell is left.
        """
        cells = self.cells
        for clause in filter(None, (part.strip() for part in expression.split(","))):
            key, equals, value = (part.strip() for part in clause.partition("="))
            if not equals:
                raise UserError(f"--only {expression!r}: {clause!r} is not of the form key=value")
            valid = sorted({known for cell in self.cells for known in describe(cell)})
            if key not in valid:
                raise UserError(f"--only {expression!r}: {unknown_name('key', key, valid)}")
            values = {str(describe(cell)[key]) for cell in cells if key in describe(cell)}
            cells = tuple(cell for cell in cells if str(describe(cell).get(key)) == value)
            if not cells:
                raise UserError(f"--only {expression!r}: {unknown_name(key, value, sorted(values))}")
        return replace(self, cells=cells, chosen=",".join(filter(None, (self.chosen, expression))))


def describe(cell: Cell) -> dict[str, Any]:
    """What `--only` can ask of a cell."""
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
