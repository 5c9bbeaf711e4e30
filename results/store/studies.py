"""The store of studies: `STORE/tuned/<study>/` holds what was tried, `STORE/tuned/<study>.yaml` what was found.

A trial is a note of its settings, `trials/<number>.json`, and the records of its cells, kept as those of any cell but
in a store of the study's own, so that no board ever shows them. Both are the truth of a study: whatever searches can
go on from them alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, NonNegativeInt

from benchmark.cell import Cell, Frozen, PositiveFloat, PositiveInt
from benchmark.errors import MachineError, SymbenchError, UserError
from benchmark.files import tuned_folder, write_text
from benchmark.suite.studies import distinct_studies
from benchmark.suite.study import Study, trial_cells
from benchmark.suite.suite import Suite
from results.store.record import Record, reason_of
from results.store.store import Store

Search = Literal["random", "optuna"]
Scheduler = Literal["asha", "none"]
Document = TypeVar("Document", bound=Frozen)


class Effort(Frozen):
    """How hard a study is searched: so many trials, or until so many hours of all devices together are spent."""

    search: Search = "random"
    scheduler: Scheduler = "asha"
    trials: PositiveInt | None = None
    hours: PositiveFloat | None = None

    def __str__(self) -> str:
        amount = f"{self.hours:g} device-hours" if self.hours else f"{self.trials} trials"
        return f"{amount} ({self.search}, {self.scheduler})"


class Note(Frozen):
    """What is known of a trial besides its records; `ended` is why it was stopped before its last epoch.

    Notes of earlier versions of symbench have more keys, which say nothing of a trial that stands by itself.
    """

    model_config = ConfigDict(extra="ignore")

    number: NonNegativeInt
    settings: Mapping[str, Any]
    by: Literal["default", "random", "optuna"]
    """Who thought of it."""
    ended: str = ""


@dataclass(frozen=True)
class Trial:
    """One set of settings and what came of it; `records` are those of `cells` that exist."""

    note: Note
    cells: tuple[Cell, ...]
    records: Mapping[str, Record]

    @cached_property
    def curve(self) -> list[float]:
        """The lowest validation RMSE so far after each epoch, the geometric mean over levels; as far as all went.

        A mean of logarithms: no level decides alone because its field is larger.
        """
        lines = [self._line(cell) for cell in self.cells]
        if len(lines) == 1:
            return lines[0]
        return [math.exp(sum(map(math.log, values)) / len(values)) for values in zip(*lines, strict=False)]

    def _line(self, cell: Cell) -> list[float]:
        """Of one level; what stopped early keeps its value."""
        record = self.records.get(cell.id)
        if record is None:
            return []
        lowest = list(itertools.accumulate((epoch.validation_rmse for epoch in record.history), min))
        lasting = lowest[-1:] * (cell.train.epochs - len(record.history)) if record.status.state == "done" else []
        line = lowest + (lasting if len(self.cells) > 1 else [])
        return [max(value, 1e-300) for value in line] if len(self.cells) > 1 else line

    @property
    def diverged(self) -> bool:
        """Whether a level of it came to nothing: it diverged, or the model cannot run."""
        return any(record.status.state in ("diverged", "n/a") for record in self.records.values())

    @property
    def closed(self) -> bool:
        """Whether it is never run again."""
        results = [cell.id in self.records and self.records[cell.id].status.is_result for cell in self.cells]
        return bool(self.note.ended) or self.diverged or all(results)

    @property
    def value(self) -> float:
        """The lowest validation RMSE; infinite where it diverged, failed or has no epoch yet."""
        if self.diverged or self.note.ended.startswith("failed") or not self.curve:
            return math.inf
        return self.curve[-1]

    @property
    def state(self) -> str:
        """For people: `done`, `stopped by asha`, `diverged`, `failed: ...`, `open`."""
        if not self.closed:
            return "open"
        if self.diverged:
            return "diverged"
        return self.note.ended or "done"

    @property
    def epochs(self) -> int:
        """Trained, of all levels."""
        return sum(len(record.history) for record in self.records.values())

    @property
    def seconds(self) -> float:
        return sum(epoch.seconds for record in self.records.values() for epoch in record.history)

    @property
    def device_hours(self) -> float:
        """Of all GPUs, or of all ranks on a CPU; where trials shared a GPU, its share."""
        return sum(
            sum(epoch.seconds for epoch in record.history) * float(record.environment.get("devices", 1)) / 3600
            for record in self.records.values()
        )


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """The trial with the lowest validation RMSE, the earliest of equals; None if no trial has one."""
    return min((trial for trial in trials if math.isfinite(trial.value)), key=lambda trial: trial.value, default=None)


class StudyFolder:
    """The trials of one study, and its result."""

    def __init__(self, store: Path, study: Study) -> None:
        self.study = study
        self.root = tuned_folder(store) / study.name
        self.result_path = tuned_folder(store) / f"{study.name}.yaml"
        self.store = Store(self.root)

    def begin(self, effort: Effort) -> None:
        """Make the folder, or see that what is there was searched alike. UserError: it was not."""
        before = self.require_alike(effort)
        document = _Begun(study=before.study if before else self.study, effort=effort)
        self.store.make()
        try:
            (self.root / "trials").mkdir(exist_ok=True)
        except OSError as error:
            raise MachineError(f"{self.root}: cannot be written: {error.strerror}") from error
        write_text(self.root / "study.json", document.model_dump_json(indent=1) + "\n")

    def require_alike(self, effort: Effort) -> _Begun | None:
        """As the study was begun, if it was. UserError: it was searched otherwise."""
        before = self.begun()
        if before is None:
            return None
        old_study, new_study = (study.model_dump(mode="json") for study in (before.study, self.study))
        for what, old, new in (
            ("search", before.effort.search, effort.search),
            ("scheduler", before.effort.scheduler, effort.scheduler),
            ("space", old_study["space"], new_study["space"]),
            ("default", old_study["defaults"], new_study["defaults"]),
        ):
            if old != new:
                told = f" ({old}, now {new})" if isinstance(old, str) else ""
                raise UserError(
                    f"{self.study}: its {what} is another one than when the study was begun{told};"
                    f" go on as before, or delete {self.root} to tune anew"
                )
        return before

    def begun(self) -> _Begun | None:
        """As the study was begun; None where it was not. UserError, MachineError: that cannot be read."""
        path = self.root / "study.json"
        try:
            return self._parsed(path, _Begun)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MachineError(f"{path}: cannot be read: {error.strerror}") from error

    def write(self, note: Note) -> None:
        write_text(self.root / "trials" / f"{note.number:04}.json", note.model_dump_json(indent=1) + "\n")

    def read(self, number: int) -> Note:
        """OSError where there is none. UserError: it is damaged, or of another version of symbench."""
        return self._parsed(self.root / "trials" / f"{number:04}.json", Note)

    def _parsed(self, path: Path, schema: type[Document]) -> Document:
        try:
            return schema.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: cannot be read ({reason_of(error)}); delete {self.root} to tune anew") from error

    def forget(self, number: int) -> None:
        """A trial that has not begun."""
        (self.root / "trials" / f"{number:04}.json").unlink(missing_ok=True)

    def trial(self, note: Note) -> Trial:
        """MachineError: the settings of the note cannot be, for the code is another one now."""
        cells = trial_cells(self.study, note.settings)
        if cells is None:
            raise MachineError(f"{self.root}: trial {note.number} cannot be made any more; delete the study's folder")
        return Trial(note, cells, self.store.read(cells)[0])

    def trials(self) -> list[Trial]:
        """All, in the order in which they were thought of."""
        numbers = sorted(int(path.stem) for path in (self.root / "trials").glob("[0-9]*.json"))
        return [self.trial(self.read(number)) for number in numbers]


class _Begun(Frozen):
    study: Study
    effort: Effort


def begun_studies(suite: Suite, store: Store) -> tuple[list[StudyFolder], list[str]]:
    """Folders of the studies of `suite` that were begun, as they were begun; and a message for each unreadable one."""
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
    """Trials of `folder`; or none, and a message that says why they cannot be read."""
    try:
        return folder.trials(), ""
    except (SymbenchError, OSError, ValueError) as error:
        return [], str(error)


def study_files(suite: Suite, store: Store) -> list[Path]:
    """Files of the studies of `suite` that change when a study goes on; some may be absent."""
    if not tuned_folder(store.root).is_dir():
        return []
    folders = [StudyFolder(store.root, study) for study in distinct_studies(suite)]
    return sorted(
        path for one in folders for path in (one.result_path, one.root / "study.json", *one.root.glob("trials/*.json"))
    )
