"""The store of studies: `STORE/tuned/<study>/` holds what was tried, `STORE/tuned/<study>.yaml` what was found.

A trial is a note of its settings, `trials/<number>.json`, and the records of its cells, kept as those of any cell but
in a store of the study's own, so that no board ever shows them. Both are the truth of a study: whatever searches can
go on from them alone.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, ValidationError
from ruamel.yaml import YAML

from benchmark.cell import Cell, Frozen, PositiveFloat, PositiveInt
from benchmark.errors import MachineError, UserError
from benchmark.files import tuned_folder, write_text
from benchmark.recorder import Epoch
from benchmark.study import TUNING_SEED, Study, trial_cells
from benchmark.suite import Range

from .store import Record, Store

PROVENANCE = ("symbench", "git_commit", "git_dirty", "python", "torch", "ray", "optuna", "device", "host")
Search = Literal["random", "optuna"]
Scheduler = Literal["asha", "none", "pbt"]


class Effort(Frozen):
    """How hard a study is searched: so many trials, or until so many hours of all devices together are spent."""

    search: Search = "random"
    scheduler: Scheduler = "asha"
    trials: PositiveInt | None = None
    hours: PositiveFloat | None = None


class Note(Frozen):
    """What is known of a trial besides its records; `ended` is why it was stopped before its last epoch."""

    number: NonNegativeInt
    settings: Mapping[str, Any]
    by: Literal["default", "random", "optuna", "pbt"]
    """Who thought of it."""
    ended: str = ""
    seed: NonNegativeInt = TUNING_SEED
    parent: NonNegativeInt | None = None
    """With `pbt`: whose weights it went on from, at epoch `since`; what it cost before stands in the next three."""
    since: NonNegativeInt = 0
    epochs_before: NonNegativeInt = 0
    seconds_before: float = 0.0
    hours_before: float = 0.0


@dataclass(frozen=True)
class Trial:
    """One set of settings and what came of it; `records` are those of `cells` that exist."""

    note: Note
    cells: tuple[Cell, ...]
    records: Mapping[str, Record]

    @cached_property
    def curve(self) -> list[float]:
        """The lowest validation RMSE so far after each epoch, the geometric mean over levels; as far as all went.

        A mean of logarithms: no level decides alone because its field is larger. After epoch `since` it counts anew:
        the settings have no part in what another trial had reached.
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
        lowest = [math.inf]
        for done, epoch in enumerate(record.history):
            before = math.inf if done == self.note.since else lowest[-1]
            lowest.append(min(before, epoch.validation_rmse))
        lasting = lowest[-1:] * (cell.train.epochs - len(record.history)) if record.status.state == "done" else []
        line = lowest[1:] + (lasting if len(self.cells) > 1 else [])
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
        """The lowest validation RMSE; infinite where it diverged, failed or has no epoch of its own yet."""
        if self.diverged or self.note.ended.startswith("failed") or len(self.curve) <= self.note.since:
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
        """Trained, of all levels; those that it has from another trial are that one's."""
        return self.note.epochs_before + sum(len(self._own(record)) for record in self.records.values())

    def _own(self, record: Record) -> Sequence[Epoch]:
        return record.history[self.note.since :]

    @property
    def seconds(self) -> float:
        own = sum(epoch.seconds for record in self.records.values() for epoch in self._own(record))
        return self.note.seconds_before + own

    @property
    def device_hours(self) -> float:
        """Of all GPUs, or of all ranks on a CPU; where trials shared a GPU, its share."""
        return self.note.hours_before + sum(
            sum(epoch.seconds for epoch in self._own(record)) * float(record.environment.get("devices", 1)) / 3600
            for record in self.records.values()
        )


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
        path, before = self.root / "study.json", self.begun()
        if before is None:
            if path.exists():
                raise UserError(f"{path}: not readable; delete {self.root} to tune anew")
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
        """As the study was begun; None where it was not."""
        try:
            return _Begun.model_validate_json((self.root / "study.json").read_text(encoding="utf-8"))
        except (OSError, ValidationError):
            return None

    def write(self, note: Note) -> None:
        write_text(self.root / "trials" / f"{note.number:04}.json", note.model_dump_json(indent=1) + "\n")

    def read(self, number: int) -> Note:
        """OSError, ValidationError where there is none."""
        return Note.model_validate_json((self.root / "trials" / f"{number:04}.json").read_text(encoding="utf-8"))

    def forget(self, number: int) -> None:
        """A trial that has not begun."""
        (self.root / "trials" / f"{number:04}.json").unlink(missing_ok=True)

    def trial(self, note: Note) -> Trial:
        """MachineError: the settings of the note cannot be, for the code is another one now."""
        cells = trial_cells(self.study, note.settings, note.seed)
        if cells is None:
            raise MachineError(f"{self.root}: trial {note.number} cannot be made any more; delete the study's folder")
        return Trial(note, cells, self.store.read(cells)[0])

    def trials(self) -> list[Trial]:
        """All, in the order in which they were thought of."""
        numbers = sorted(int(path.stem) for path in (self.root / "trials").glob("[0-9]*.json"))
        return [self.trial(self.read(number)) for number in numbers]

    def freeze(self, effort: Effort, trials: Sequence[Trial], used_up: bool = False) -> dict[str, Any]:
        """Write the result; `used_up`: nothing is left in the space. MachineError where no trial came to a number."""
        best = min(trials, key=lambda trial: trial.value, default=None)
        if best is None or not math.isfinite(best.value):
            raise MachineError(f"{self.study}: no trial came to a validation RMSE; see {self.root}")
        document = frozen(self.study, effort, trials, best) | {"space_used_up": used_up}
        buffer = io.StringIO()
        yaml = YAML()
        yaml.default_flow_style = None
        yaml.width = 118
        yaml.dump(document, buffer)
        heading = f"# What `symbench tune` found for {self.study}.\n# `symbench run SUITE --tuned` uses `best`.\n"
        write_text(self.result_path, heading + buffer.getvalue())
        return document


class _Begun(Frozen):
    study: Study
    effort: Effort


def frozen(study: Study, effort: Effort, trials: Sequence[Trial], best: Trial) -> dict[str, Any]:
    """The result as plain data."""
    cell = best.cells[0]
    environment: Mapping[str, Any] = best.records[cell.id].environment
    curve = [float(f"{value:.6g}") for value in best.curve]
    defaults = [trial.value for trial in trials if trial.note.by == "default"]
    return {
        "study": study.name,
        "dataset": study.dataset.model_dump(mode="json", exclude={"level"}),
        "levels": list(study.levels),
        "protocol": study.protocol.model_dump(mode="json"),
        "budget": study.budget,
        "best": {"model": cell.model.model_dump(mode="json"), "train": cell.train.model_dump(mode="json")},
        "found": {
            "trial": best.note.number,
            "by": best.note.by,
            "settings": dict(best.note.settings),
            "rmse_validation": best.value,
            "rmse_validation_default": _number(min(defaults, default=math.inf)),
            "best_epoch": 1 + best.curve.index(best.curve[-1]),
        },
        "validation_curve": curve,
        "effort": {**effort.model_dump(mode="json"), "seeds": sorted({trial.note.seed for trial in trials})},
        "spent": spent(trials),
        "space": {key: _written(domain) for key, domain in study.space.items()},
        "trials": [
            {
                "trial": trial.note.number,
                "by": trial.note.by,
                "state": trial.state,
                "rmse_validation": _number(trial.value),
                "epochs": trial.epochs,
                "seconds": round(trial.seconds, 2),
                "settings": dict(trial.note.settings),
            }
            for trial in trials
        ],
        "provenance": {
            "frozen": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **{key: environment[key] for key in PROVENANCE if key in environment},
            "data": {
                str(record.environment["data_file"]): str(record.environment["data_checksum"])
                for record in best.records.values()
                if "data_checksum" in record.environment
            },
        },
    }


def spent(trials: Sequence[Trial]) -> dict[str, Any]:
    """What the trials cost in all."""
    devices = {r.environment.get("device_type", "cpu") for t in trials for r in t.records.values()}
    return {
        "trials": sum(trial.closed for trial in trials),
        "epochs": sum(trial.epochs for trial in trials),
        "seconds": round(sum(trial.seconds for trial in trials), 2),
        "device_hours": round(sum(trial.device_hours for trial in trials), 6),
        "devices": "/".join(sorted(map(str, devices))),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _written(domain: Any) -> Any:
    return {"low": domain.low, "high": domain.high} if isinstance(domain, Range) else list(domain)
