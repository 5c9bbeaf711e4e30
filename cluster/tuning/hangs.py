"""Trials that hang: jobs reach their time limits without another epoch of them, and they do not even save."""

from collections.abc import Sequence

from cluster.jobs.policies import POLICIES
from results.store.studies import StudyFolder, Trial


class HangCount:
    """Count of the time limits at which the trials of some studies hang; made before a job starts any of them."""

    def __init__(self, folders: Sequence[StudyFolder]) -> None:
        self.folders = folders
        self.before = {
            (folder.study.name, trial.note.number): (_attempts(trial), trial.epochs)
            for folder in folders
            for trial in folder.trials()
        }

    def time_is_up(self) -> None:
        """Count the limit that the job has reached, and close trials that hung more often than the policy allows."""
        policy = POLICIES["hang"]
        for folder in self.folders:
            for trial in folder.trials():
                attempts, epochs = self.before.get((folder.study.name, trial.note.number), (0, 0))
                if trial.closed or _attempts(trial) == attempts:
                    continue
                hangs = trial.epochs <= epochs and _runs(trial)
                limits = trial.note.time_limits + 1 if hangs else 0
                ended = f"failed: hang: {limits} times {policy.meaning}" if limits > policy.retries else ""
                folder.write(trial.note.model_copy(update={"time_limits": limits, "ended": ended}))


def _attempts(trial: Trial) -> int:
    return sum(record.status.attempt for record in trial.records.values())


def _runs(trial: Trial) -> bool:
    """Whether the level that was trained last has not said why it stopped."""
    last = max(trial.records.values(), key=lambda record: record.status.heartbeat)
    return last.status.state == "running"
