"""The end of a study: whether it has come, and what is then written and said."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.errors import MachineError
from benchmark.suite.tuned import read_result
from benchmark.terminal import duration
from results.store.studies import Effort, StudyFolder, Trial
from results.store.study_result import freeze


def is_complete(folder: StudyFolder, effort: Effort, trials: Sequence[Trial]) -> bool:
    """Whether `effort` is spent, or the space used up, and no trial is left open."""
    if not trials or any(not trial.closed for trial in trials):
        return False
    if effort.trials is not None:
        enough = len(trials) >= effort.trials
    else:
        enough = sum(trial.device_hours for trial in trials) >= (effort.hours or 0.0)
    return enough or is_used_up(folder, trials)


def is_used_up(folder: StudyFolder, trials: Sequence[Trial]) -> bool:
    """Whether the result of these `trials` says that the space has nothing left. UserError: it cannot be read."""
    if not folder.result_path.exists():
        return False
    result = read_result(folder.result_path)
    return bool(result.get("space_used_up")) and len(result.get("trials", ())) == len(trials)


def conclude(folder: StudyFolder, effort: Effort, used_up: bool = False) -> str:
    """Freeze the result, and tell it in a line. MachineError: trials are open, or none came to a number."""
    trials = folder.trials()
    waiting = [trial for trial in trials if not trial.closed]
    if waiting:
        raise MachineError(
            f"{folder.study}: {len(waiting)} trials could not be brought to their end, the first is trial "
            f"{waiting[0].note.number}; the same command tries again"
        )
    document = freeze(folder, effort, trials, used_up)
    found, spent = document["found"], document["spent"]
    default = found["rmse_validation_default"]
    return (
        f"{folder.study}: RMSE {found['rmse_validation']:.4g} by trial {found['trial']} of {spent['trials']},"
        f" {'no RMSE of the default' if default is None else f'default {default:.4g}'};"
        f" {spent['epochs']} epochs, {duration(spent['seconds'])}; {folder.result_path}"
    )
