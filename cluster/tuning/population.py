"""Population-based training: members that do badly go on from the weights of those that do well, with other settings.

Ray decides who follows whom. A member is a trial; when it follows another one, its note gets new settings and so a new
cell, whose checkpoint is the other's, with the learning rate and the weight decay that the new settings have at that
epoch. What trains is `run_cell`, which goes on from there as after any interruption.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmark.cell import Training
from benchmark.checkpoint import read
from benchmark.errors import UserError
from benchmark.files import replacing
from benchmark.study import Study
from benchmark.suite import Domain
from results.studies import Note, StudyFolder, Trial

from .ray_node import scratch

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


def keep_snapshot(folder: StudyFolder, trial: Trial, epoch: int, just_trained: bool) -> None:
    """What others may go on from: a second name of the checkpoint, which the next epoch replaces.

    Where a training is taken up, the checkpoint may be in the middle of the next epoch: what is there stays.
    """
    (cell,) = trial.cells
    snapshot = _snapshot(folder, trial.note.number, epoch)
    if just_trained or not snapshot.exists():
        _link(folder.store.cell_folder(cell.id) / "checkpoint.pt", snapshot)
    old = epoch - 2 * interval(cell.train) - 1
    _snapshot(folder, trial.note.number, old).unlink(missing_ok=True)


def hold(folder: StudyFolder, number: int, parent: int, epoch: int) -> None:
    """Keep the parent's weights of that epoch for member `number`, however long it waits for its turn."""
    _link(_snapshot(folder, parent, epoch), _held(folder, number))


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
    _link(target, _snapshot(folder, note.number, epoch))  # in place of what it had at that epoch itself
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


@contextmanager
def token() -> Iterator[Any]:
    """What Ray takes for a checkpoint, without which it lets nobody follow; the weights are in the study's folder."""
    from ray import tune

    with scratch() as folder:
        (Path(folder) / "member").touch()
        yield tune.Checkpoint.from_directory(folder)


def _link(path: Path, name: Path) -> None:
    """Give `path` a second name, in place of what had it."""
    temporary = name.with_name(f"new-{name.name}")
    temporary.unlink(missing_ok=True)  # it also stays where both are one file already
    os.link(path, temporary)
    temporary.replace(name)


def _snapshot(folder: StudyFolder, number: int, epoch: int) -> Path:
    return folder.root / "trials" / f"member-{number:04}-{epoch:05}.pt"


def _held(folder: StudyFolder, number: int) -> Path:
    return folder.root / "trials" / f"followed-by-{number:04}.pt"


def clear(folder: StudyFolder) -> None:
    """Remove what only the search needed."""
    for path in (folder.root / "trials").glob("*.pt"):
        path.unlink(missing_ok=True)
