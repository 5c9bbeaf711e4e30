"""Whether models that meet on the board are tuned alike."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.suite.studies import distinct_studies
from benchmark.suite.study import Study
from benchmark.suite.suite import Suite
from results.store.store import Store
from results.store.studies import Effort, StudyFolder


def inequalities(suite: Suite, chosen: Sequence[Study], effort: Effort, store: Store) -> list[str]:
    """In what the models that meet on the board would be tuned differently; empty where all is equal.

    A model's own settings differ by nature; the training's may not, nor how long and how it is searched. Of studies
    that are not `chosen` now it counts what was done; none at all is a difference, too.
    """
    wanted = {study.name for study in chosen}
    told = []
    contests: dict[str, list[Study]] = {}
    for study in distinct_studies(suite):
        contests.setdefault(study.contest, []).append(study)
    for members in contests.values():
        if not any(study.name in wanted for study in members):
            continue
        first = next(study for study in members if study.name in wanted)
        wholes = {study.name: _in_all(study, effort, store) for study in members if study.name in wanted}
        for study in members:
            if study.training_space != first.training_space:
                told.append(f"{study}: another search space of the training than {first.model.name}'s")
            if len(study.defaults) != len(first.defaults):
                told.append(
                    f"{study}: the suite writes {len(study.defaults)} settings, and {len(first.defaults)} of"
                    f" {first.model.name}; each is a trial of full length"
                )
            if study.name in wanted:
                fewest, whole = min(one.trials or 0 for one in wholes.values()), wholes[study.name].trials or 0
                if whole > fewest:
                    told.append(f"{study}: has {whole} trials already, others would have {fewest}")
                continue
            begun = StudyFolder(store.root, study).begun()
            if begun is None:
                told.append(f"{study}: is not tuned at all, {first.model.name} is")
            elif (before := _in_all(study, begun.effort, store)) != (now := wholes[first.name]):
                told.append(f"{study}: was tuned with {before}, {first.model.name} with {now}")
    return told


def _in_all(study: Study, effort: Effort, store: Store) -> Effort:
    """What a study will have been given: trials that it has already count where fewer are asked for."""
    if effort.trials is None:
        return effort
    done = sum(trial.closed for trial in StudyFolder(store.root, study).trials())
    return effort.model_copy(update={"trials": max(done, effort.trials)})
