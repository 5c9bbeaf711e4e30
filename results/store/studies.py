"""Store of studies: `STORE/tuned/<study>/` holds the trials, `STORE/tuned/<study>.yaml` the result.

A trial is a note of its settings, `trials/<number>.json`, and the records of its cells. The records lie in a store of
the study's own, so that no leaderboard shows them. A search can be resumed from these files alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, TypeAdapter

from benchmark.cell import Cell, Frozen, PositiveFloat, PositiveInt
from benchmark.errors import MachineError, SymbenchError, UserError
from benchmark.files import tuned_folder, write_errors, write_json, write_text
from benchmark.suite.studies import distinct_studies
from benchmark.suite.study import Study, trial_cells
from benchmark.suite.suite import Suite
from results.store.record import Record, reason_of
from results.store.store import Store

Document = TypeVar("Document", bound=Frozen)
_HOURS = TypeAdapter(dict[str, Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]])


class Effort(Frozen):
    """Budget and method of a search; it ends after a number of trials, or of hours summed over all devices."""

    search: Literal["random", "optuna"] = "random"
    scheduler: Literal["asha", "none"] = "asha"
    trials: PositiveInt | None = None
    hours: PositiveFloat | None = None

    def __str__(self) -> str:
        amount = f"{self.hours:g} device-hours" if self.hours else f"{self.trials} trials"
        return f"{amount} ({self.search}, {self.scheduler})"

    def is_spent(self, trials: int, hours: float) -> bool:
        """Whether a study of `trials` trials that took `hours` device-hours gets no further trial."""
        return trials >= self.trials if self.trials is not None else hours >= (self.hours or 0.0)


class Note(Frozen):
    """Settings of a trial, and in `ended` the reason if it was stopped before its last epoch.

    Notes of earlier versions of symbench have more keys, which are ignored.
    """

    model_config = ConfigDict(extra="ignore")

    number: NonNegativeInt
    settings: Mapping[str, Any]
    by: Literal["default", "random", "optuna"]
    """Origin of the settings."""
    ended: str = ""
    time_limits: NonNegativeInt = 0
    """Time limits in a row that the trial reached without another epoch, and without saving where it was."""


@dataclass(frozen=True)
class Trial:
    """Settings and their results; `records` holds the existing records of `cells`, by id."""

    note: Note
    cells: tuple[Cell, ...]
    records: Mapping[str, Record]
    charged: float = 0.0
    """Device-hours for which the driver of the search saw it start or run."""

    @cached_property
    def curve(self) -> list[float]:
        """Lowest validation RMSE so far, after each epoch that all levels have reached.

        Several levels are combined by their geometric mean, so that a level with a larger field does not dominate.
        """
        lines = [self._level_curve(cell) for cell in self.cells]
        if len(lines) == 1:
            return lines[0]
        return [
            math.exp(sum(math.log(max(value, 1e-300)) for value in values) / len(values))
            for values in zip(*lines, strict=False)
        ]

    def _level_curve(self, cell: Cell) -> list[float]:
        """Curve of one level; among several levels, one that stopped early keeps its last value."""
        record = self.records.get(cell.id)
        if record is None:
            return []
        lowest = list(itertools.accumulate((epoch.validation_rmse for epoch in record.history), min))
        if len(self.cells) > 1 and record.status.state == "done":
            lowest += lowest[-1:] * (cell.train.epochs - len(lowest))
        return lowest

    @property
    def diverged(self) -> bool:
        """Whether the training diverged on a level, or the model cannot run there."""
        return any(record.status.state in ("diverged", "n/a") for record in self.records.values())

    @property
    def closed(self) -> bool:
        """Whether the trial is finished or was stopped for good."""
        results = [cell.id in self.records and self.records[cell.id].status.is_result for cell in self.cells]
        return bool(self.note.ended) or self.diverged or all(results)

    @property
    def value(self) -> float:
        """Lowest validation RMSE; infinite if the trial diverged, failed or has no epoch yet."""
        if self.diverged or self.note.ended.startswith("failed") or not self.curve:
            return math.inf
        return self.curve[-1]

    @property
    def state(self) -> str:
        """State in words: `done`, `stopped by asha ...`, `diverged`, `failed: ...` or `open`."""
        if not self.closed:
            return "open"
        if self.diverged:
            return "diverged"
        return self.note.ended or "done"

    @property
    def epochs(self) -> int:
        """Number of epochs trained, summed over levels."""
        return sum(len(record.history) for record in self.records.values())

    @property
    def seconds(self) -> float:
        """Training time, summed over levels."""
        return sum(epoch.seconds for record in self.records.values() for epoch in record.history)

    @property
    def device_hours(self) -> float:
        """Hours times GPUs, or ranks on a CPU; trials that share a GPU count their shares.

        Start-ups, attempts that were killed and epochs that were lost count. Of an earlier version's trials, only the
        epochs are known.
        """
        epochs = sum(
            sum(epoch.seconds for epoch in record.history) * float(record.environment.get("devices", 1)) / 3600
            for record in self.records.values()
        )
        return max(self.charged, epochs)


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """Trial with the lowest validation RMSE, the first among equals; None if none was trained to its end."""
    trained = (trial for trial in trials if trial.state == "done" and math.isfinite(trial.value))
    return min(trained, key=lambda trial: trial.value, default=None)


class StudyFolder:
    """Folder of one study: its trials and its result."""

    def __init__(self, store: Path, study: Study) -> None:
        self.study = study
        self.root = tuned_folder(store) / study.name
        self.result_path = tuned_folder(store) / f"{study.name}.yaml"
        self.store = Store(self.root)

    def begin(self, effort: Effort) -> None:
        """Create the folder, or check that the study was begun alike. Raises UserError if it was not."""
        before = self.require_alike(effort)
        document = BegunStudy(study=before.study if before else self.study, effort=effort)
        self.store.make()
        with write_errors(self.root):
            (self.root / "trials").mkdir(exist_ok=True)
        write_text(self.root / "study.json", document.model_dump_json(indent=1) + "\n")

    def require_alike(self, effort: Effort) -> BegunStudy | None:
        """Study as it was begun, or None. Raises UserError if its search, scheduler, space or defaults differ."""
        before = self.begun()
        if before is None:
            return None
        old_study, new_study = (study.model_dump(mode="json") for study in (before.study, self.study))
        for name, old, new in (
            ("search", before.effort.search, effort.search),
            ("scheduler", before.effort.scheduler, effort.scheduler),
            ("space", old_study["space"], new_study["space"]),
            ("default", old_study["defaults"], new_study["defaults"]),
        ):
            if old != new:
                values = f" ({old}, now {new})" if isinstance(old, str) else ""
                raise UserError(
                    f"{self.study}: its {name} is another one than when the study was begun{values};"
                    f" go on as before, or delete {self.root} to tune anew"
                )
        return before

    def begun(self) -> BegunStudy | None:
        """Study as it was begun, or None. Raises UserError or MachineError if the file cannot be read."""
        path = self.root / "study.json"
        try:
            return self._parsed(path, BegunStudy)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MachineError(f"{path}: cannot be read: {error.strerror}") from error

    def write(self, note: Note) -> None:
        """Write the note of a trial."""
        write_text(self._note_path(note.number), note.model_dump_json(indent=1) + "\n")

    def charge(self, hours: Mapping[int, float]) -> None:
        """Write the device-hours of the trials, by number."""
        write_json(self._hours_path, {str(number): spent for number, spent in hours.items()})

    def forget(self, number: int) -> None:
        """Remove the note of a trial that has not begun."""
        self._note_path(number).unlink(missing_ok=True)

    def read_trial(self, number: int) -> Trial:
        """Trial as it is on disk. Raises OSError if there is none, and UserError if its note is damaged."""
        return self.trial(self._parsed(self._note_path(number), Note))

    def trial(self, note: Note) -> Trial:
        """Trial of a note. Raises MachineError if the present code cannot build a model with its settings."""
        cells = trial_cells(self.study, note.settings)
        if cells is None:
            raise MachineError(f"{self.root}: trial {note.number} cannot be made any more; delete the study's folder")
        return Trial(note, cells, self.store.read(cells)[0], self._charged().get(str(note.number), 0.0))

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        numbers = sorted(int(path.stem) for path in (self.root / "trials").glob("[0-9]*.json"))
        return [self.read_trial(number) for number in numbers]

    def closed_trials(self) -> int:
        """Number of trials that never run again."""
        return sum(trial.closed for trial in self.trials())

    def _charged(self) -> dict[str, float]:
        try:
            return _HOURS.validate_json(self._hours_path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{self._hours_path}: cannot be read ({reason_of(error)}); delete it") from error

    @property
    def _hours_path(self) -> Path:
        return self.root / "hours.json"

    def _note_path(self, number: int) -> Path:
        return self.root / "trials" / f"{number:04}.json"

    def _parsed(self, path: Path, schema: type[Document]) -> Document:
        try:
            return schema.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: cannot be read ({reason_of(error)}); delete {self.root} to tune anew") from error


class BegunStudy(Frozen):
    """Content of study.json: a study, and the effort of its latest search."""

    study: Study
    effort: Effort


def begun_studies(suite: Suite, store: Store) -> tuple[list[StudyFolder], list[str]]:
    """Folders of the studies of `suite` that were begun, and a message for each that cannot be read."""
    if not tuned_folder(store.root).is_dir():
        return [], []
    readable, messages = [], []
    for study in distinct_studies(suite):
        try:
            begun = StudyFolder(store.root, study).begun()
        except SymbenchError as error:
            messages.append(str(error))
            continue
        if begun is not None:
            readable.append(StudyFolder(store.root, begun.study))
    return readable, messages


def readable_trials(folder: StudyFolder) -> tuple[list[Trial], str]:
    """Trials of `folder`, or an empty list and the reason why they cannot be read."""
    try:
        return folder.trials(), ""
    except (SymbenchError, OSError, ValueError) as error:
        return [], str(error)


def study_files(suite: Suite, store: Store) -> list[Path]:
    """Files of the studies of `suite` that a search changes; some may be absent."""
    if not tuned_folder(store.root).is_dir():
        return []
    folders = [StudyFolder(store.root, study) for study in distinct_studies(suite)]
    return sorted(
        path for one in folders for path in (one.result_path, one.root / "study.json", *one.root.glob("trials/*.json"))
    )
