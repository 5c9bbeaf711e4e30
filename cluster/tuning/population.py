"""Population-based training: members that do badly go on from the weights of those that do well, with other settings.

Ray decides who follows whom. A member is a trial; when it follows another one, its note gets new settings and so a new
cell, whose checkpoint is the other's, with the learning rate and the weight decay that the new settings have at that
epoch. What trains is `run_cell`, which goes on from there as after any interruption.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmark.cell import Training
from benchmark.checkpoint import read
from benchmark.errors import UserError
from benchmark.files import replacing
from benchmark.suite import Domain
from benchmark.tuning import Study
from results.studies import Note, StudyFolder, Trial

GENERATIONS = 5
"""So often a training looks whom to follow."""


def interval(train: Training) -> int:
    """Epochs between two looks."""
    return max(1, min(train.epochs, train.early_stop_after or train.epochs) // GENERATIONS)


def mutable(study: Study) -> dict[str, Domain]:
    """What may change in the middle of a training: nothing that a weight has the shape of."""
    return {
        key: domain
        for key, domain in study.space.items()
        if key.startswith("train.") or key.endswith("penalty") or key.endswith(".beta")
    }


def require_one_level(study: Study) -> None:
    """UserError: members of several levels would have to follow in all of them at once."""
    if len(study.levels) > 1:
        raise UserError(f"{study}: --scheduler pbt is for studies of one level; see `tuning.levels` of the suite")


def keep_snapshot(folder: StudyFolder, trial: Trial, epoch: int) -> None:
    """What others may go on from: a second name of the checkpoint, which the next epoch replaces."""
    (cell,) = trial.cells
    with suppress(FileExistsError):
        os.link(folder.store.cell_folder(cell.id) / "checkpoint.pt", _snapshot(folder, trial.note.number, epoch))
    old = epoch - 2 * interval(cell.train) - 1
    _snapshot(folder, trial.note.number, old).unlink(missing_ok=True)


def hold(folder: StudyFolder, number: int, parent: int, epoch: int) -> None:
    """Keep the parent's weights of that epoch for member `number`, however long it waits for its turn."""
    held = _held(folder, number)
    held.unlink(missing_ok=True)
    os.link(_snapshot(folder, parent, epoch), held)


def follow(folder: StudyFolder, note: Note, settings: Mapping[str, Any], parent: int, epoch: int) -> Note:
    """The note of a member that goes on from `parent`'s weights of `epoch`; it is written, its checkpoint in place."""
    before = folder.trial(note)
    following = note.model_copy(
        update={
            "settings": dict(settings),
            "by": "pbt",
            "parent": parent,
            "since": epoch,
            "epochs_before": before.epochs,
            "seconds_before": before.seconds,
            "hours_before": before.device_hours,
        }
    )
    (cell,) = folder.trial(following).cells
    target = folder.store.cell_folder(cell.id) / "checkpoint.pt"
    target.parent.mkdir(parents=True, exist_ok=True)
    state = with_settings(read(_held(folder, note.number)), cell.train)
    with replacing(target) as temporary:
        torch.save(state, temporary)
    folder.write(following)  # last: whoever goes on from the note finds the checkpoint
    return following


def with_settings(state: dict[str, Any], train: Training) -> dict[str, Any]:
    """A checkpoint at the end of an epoch, as if it had been trained with the optimiser settings of `train`."""
    epochs = len(state["history"])
    rate = train.learning_rate * train.learning_rate_decay**epochs
    for group in state["optimizer"]["param_groups"]:
        group |= {"lr": rate, "initial_lr": train.learning_rate, "weight_decay": train.weight_decay}
    groups = len(state["optimizer"]["param_groups"])
    schedule = {"base_lrs": [train.learning_rate] * groups, "_last_lr": [rate] * groups}
    state["schedule"] |= {**schedule, "gamma": train.learning_rate_decay}
    return state


def token() -> Any:
    """What Ray takes for a checkpoint, without which it lets nobody follow; the weights are in the study's folder."""
    from ray import tune

    folder = Path(tempfile.mkdtemp(prefix="symbench-"))
    (folder / "member").touch()
    return tune.Checkpoint.from_directory(str(folder))


def _snapshot(folder: StudyFolder, number: int, epoch: int) -> Path:
    return folder.root / "trials" / f"member-{number:04}-{epoch:05}.pt"


def _held(folder: StudyFolder, number: int) -> Path:
    return folder.root / "trials" / f"followed-by-{number:04}.pt"


def clear(folder: StudyFolder) -> None:
    """Remove what only the search needed."""
    for path in (folder.root / "trials").glob("*.pt"):
        path.unlink(missing_ok=True)
