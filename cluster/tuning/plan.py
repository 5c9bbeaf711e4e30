"""Studies of a suite that `symbench tune` has to search, and whether models of one contest are tuned alike."""

import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from benchmark.cell import Cell
from benchmark.errors import MachineError, UserError
from benchmark.suite.studies import distinct_studies, studies
from benchmark.suite.study import Study, trial_cells
from benchmark.suite.suite import Suite
from results.store.store import Store
from results.store.studies import Effort, StudyFolder
from results.store.study_result import NoResultError, conclude, is_complete, is_used_up


def require_ray(effort: Effort) -> None:
    """Raise MachineError if a library that `tune` needs is not installed."""
    missing = [name for name in ("ray", *(["optuna"] if effort.search == "optuna" else [])) if find_spec(name) is None]
    if missing:
        raise MachineError(f"tune needs {' and '.join(missing)}: pip install -e '.[tune]'")


def selected_studies(suite: Suite, selected: Iterable[str]) -> list[Study]:
    """Studies of the complete `suite` that contain one of the `selected` cells (ids). Raises UserError without any."""
    of_cell = studies(suite)
    chosen = {of_cell[cell_id].name: of_cell[cell_id] for cell_id in selected if cell_id in of_cell}
    if not chosen:
        raise UserError(f"{suite.name}: nothing to tune; no model of it is trained")
    return list(chosen.values())


def open_studies(chosen: Sequence[Study], effort: Effort, store: Store) -> list[Study]:
    """Incomplete studies among `chosen`; writes and prints the results of the complete ones, or why they have none.

    Raises UserError if a study was begun with another search, or gets fewer trials than the suite writes settings.
    """
    for study in chosen:
        StudyFolder(store.root, study).require_alike(effort)
        defaults = len(study.defaults)
        if effort.trials is not None and effort.trials < defaults:
            raise UserError(
                f"{study}: the suite writes {defaults} settings, and each is a trial; --trials {defaults} at least"
            )
    incomplete = []
    for study in chosen:
        folder = StudyFolder(store.root, study)
        trials = folder.trials()
        if is_complete(folder, effort, trials):
            folder.begin(effort)
            try:
                print(conclude(folder, effort, is_used_up(folder, trials)), flush=True)
            except NoResultError as error:
                print(error, file=sys.stderr, flush=True)
        else:
            incomplete.append(study)
    return incomplete


def without_result(chosen: Iterable[Study], effort: Effort, store: Store) -> list[Study]:
    """Studies among `chosen` that are complete and have no result, since no trial was trained to its end."""
    folders = [StudyFolder(store.root, study) for study in chosen]
    return [one.study for one in folders if not one.result_path.exists() and is_complete(one, effort, one.trials())]


def first_cells(chosen: Sequence[Study]) -> list[Cell]:
    """Cells of the first trial of each study."""
    return [cell for study in chosen for cell in trial_cells(study, study.defaults[0]) or ()]


def inequalities(suite: Suite, chosen: Sequence[Study], effort: Effort, store: Store) -> list[str]:
    """Differences between the tuning of models that meet on the board, if the `chosen` studies are tuned with `effort`.

    A model's own settings may differ; the search space of the training and the effort may not. Studies that are not
    chosen count with the effort that they have had; a model that is not tuned is a difference as well.
    """
    names = {study.name for study in chosen}
    contests: dict[str, list[Study]] = {}
    for study in distinct_studies(suite):
        contests.setdefault(study.contest, []).append(study)
    differences = []
    for members in contests.values():
        totals = {study.name: _total(study, effort, store) for study in members if study.name in names}
        first = next((study for study in members if study.name in names), None)
        if first is None:
            continue
        fewest = min(total.trials or 0 for total in totals.values())
        for study in members:
            if study.training_space != first.training_space:
                differences.append(f"{study}: another search space of the training than {first.model.name}'s")
            if len(study.defaults) != len(first.defaults):
                differences.append(
                    f"{study}: the suite writes {len(study.defaults)} settings, and {len(first.defaults)} of"
                    f" {first.model.name}; each is a trial of full length"
                )
            if study.name in names:
                if (trials := totals[study.name].trials or 0) > fewest:
                    differences.append(f"{study}: has {trials} trials already, others would have {fewest}")
                continue
            begun = StudyFolder(store.root, study).begun()
            if begun is None:
                differences.append(f"{study}: is not tuned at all, {first.model.name} is")
            elif (before := _total(study, begun.effort, store)) != (now := totals[first.name]):
                differences.append(f"{study}: was tuned with {before}, {first.model.name} with {now}")
    return differences


def _total(study: Study, effort: Effort, store: Store) -> Effort:
    """Effort after the search, which is larger than `effort` if the study already has more trials."""
    if effort.trials is None:
        return effort
    return effort.model_copy(update={"trials": max(StudyFolder(store.root, study).closed_trials(), effort.trials)})
