"""Which studies of a suite `symbench tune` is to search, and whether it may."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from benchmark.cell import Cell
from benchmark.errors import MachineError, UserError
from benchmark.suite.studies import studies
from benchmark.suite.study import Study, trial_cells
from benchmark.suite.suite import Suite
from cluster.tuning.summary import conclude, is_complete, is_used_up
from results.store.store import Store
from results.store.studies import Effort, StudyFolder


@dataclass(frozen=True)
class Planned:
    """A study that `tune` is to bring to its end; `done` trials of it are."""

    study: Study
    done: int


def require_ray(effort: Effort) -> None:
    """MachineError: what `tune` needs is not installed."""
    missing = [name for name in ("ray", *(["optuna"] if effort.search == "optuna" else [])) if find_spec(name) is None]
    if missing:
        raise MachineError(f"tune needs {' and '.join(missing)}: pip install -e '.[tune]'")


def planned(suite: Suite, selected: Iterable[str], store: Store) -> list[Planned]:
    """The studies of the whole `suite` that hold one of the `selected` cells (by id)."""
    of_cell = studies(suite)
    wanted = {of_cell[cell_id].name: of_cell[cell_id] for cell_id in selected if cell_id in of_cell}
    if not wanted:
        raise UserError(f"{suite.name}: nothing to tune; no model of it is trained")
    return [
        Planned(study, sum(trial.closed for trial in StudyFolder(store.root, study).trials()))
        for study in wanted.values()
    ]


def open_studies(chosen: Sequence[Study], effort: Effort, store: Store) -> list[Study]:
    """Those that are not complete; of the others it is told what they found, and nothing has to be started.

    UserError: one of them was begun otherwise, or is not given the trials that its defaults take.
    """
    for study in chosen:
        _require_alike(study, effort, store)
    left = []
    for study in chosen:
        folder = StudyFolder(store.root, study)
        trials = folder.trials()
        if is_complete(folder, effort, trials):
            folder.begin(effort)
            print(conclude(folder, effort, is_used_up(folder, trials)), flush=True)
        else:
            left.append(study)
    return left


def _require_alike(study: Study, effort: Effort, store: Store) -> None:
    StudyFolder(store.root, study).require_alike(effort)
    if effort.trials is not None and effort.trials < len(study.defaults):
        raise UserError(
            f"{study}: the suite writes {len(study.defaults)} settings, and each is a trial;"
            f" --trials {len(study.defaults)} at least"
        )


def first_cells(chosen: Sequence[Study]) -> list[Cell]:
    """Cells of the first trial of each study."""
    return [cell for study in chosen for cell in trial_cells(study, study.defaults[0]) or ()]
