"""Ray Tune's side of a study: the searcher, the scheduler and the stopper.

All of them are built from the study's folder. Ray's own `Tuner.restore` is not used: its snapshot lags behind, is a
pickle, and omits the state of the scheduler, so that ASHA would forget all trials before a restart.
"""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster.tuning.job import REDUCTION, TuneJob, first_rung, rungs
from cluster.tuning.proposals import OptunaSearch, random_settings
from cluster.tuning.trial import METRIC, TIME
from results.store.studies import Effort, Note, StudyFolder, Trial

FAILURES = 3
"""Retries of a trial whose process or node died."""
SAVE_SECONDS = 15.0
"""Interval at which the hours of the trials are written: those since then are lost if the driver is killed."""
HOURS_SPENT = "stopped when the hours were spent"


class Ledger:
    """Trials of a study during its search: closed, running, and those that an earlier search left open."""

    def __init__(self, folder: StudyFolder, effort: Effort, should_stop: Callable[[], bool]) -> None:
        self.folder, self.effort, self.should_stop = folder, effort, should_stop
        trials = folder.trials()
        self.numbers = [trial.note.number for trial in trials]
        self.hours: dict[int, float] = {trial.note.number: trial.device_hours for trial in trials}
        if not self.is_spent:
            trials = [self._reopened(trial) for trial in trials]
        self.closed = {trial.note.number: trial for trial in trials if trial.closed}
        self.open = deque(trial.note for trial in trials if not trial.closed)
        self.running: dict[str, Note] = {}
        """Ray's trial id -> note."""
        self.used_up = False
        """Whether the space has no new settings."""
        self.known = {cell.id for trial in trials for cell in trial.cells}
        self.optuna = OptunaSearch(folder.study, len(trials)) if effort.search == "optuna" else None
        for trial in self.closed.values():
            self._learn(trial)

    @property
    def hours_spent(self) -> bool:
        """Whether the device-hours of the effort are spent."""
        return self.effort.hours is not None and self.is_spent

    @property
    def is_spent(self) -> bool:
        """Whether no further trial begins."""
        return self.effort.is_spent(len(self.numbers), sum(self.hours.values()))

    def next(self) -> Note | None:
        """Trial to run now; None if the study has enough."""
        if self.should_stop():
            return None
        if self.open:
            return self.open.popleft()
        if self.is_spent:
            return None
        study, optuna = self.folder.study, self.optuna
        number = next(number for number in itertools.count() if number not in self.numbers)
        if number < len(study.defaults):
            note = Note(number=number, settings=study.defaults[number], by="default")
        else:
            settings = optuna.settings(number, self.known) if optuna else random_settings(study, number, self.known)
            if settings is None:
                self.used_up = True
                return None
            note = Note(number=number, settings=settings, by=self.effort.search)
        self.folder.write(note)
        self.numbers.append(number)
        self.known |= {cell.id for cell in self.folder.trial(note).cells}
        return note

    def _reopened(self, trial: Trial) -> Trial:
        """Trial, open again if an earlier search stopped it when its hours were spent."""
        if trial.note.ended != HOURS_SPENT:
            return trial
        note = trial.note.model_copy(update={"ended": ""})
        self.folder.write(note)
        return self.folder.trial(note)

    def _learn(self, trial: Trial) -> None:
        if self.optuna is not None:
            self.optuna.learn(trial)

    def end(self, number: int, reason: str) -> None:
        """Record that a trial was stopped for good."""
        self.folder.write(self.folder.read_trial(number).note.model_copy(update={"ended": reason}))

    def end_open(self) -> None:
        """Close the open trials if the hours are spent: Ray drops them. A trial that has not begun is removed."""
        if not self.hours_spent or self.should_stop():
            return
        for trial in self.folder.trials():
            if not trial.closed and (trial.records or trial.charged):
                self.end(trial.note.number, HOURS_SPENT)
            elif not trial.closed:
                self.folder.forget(trial.note.number)

    def finished(self, trial_id: str, given_up: bool = False) -> Trial | None:
        """Register that a trial no longer runs, `given_up` if Ray will not retry it, and return it if it is closed.

        A trial that failed because of its machine stays open: a later search tries it again.
        """
        note = self.running.pop(trial_id, None)
        if note is None:
            return None
        trial = self.folder.read_trial(note.number)
        if not trial.closed and not self.should_stop():
            if given_up and _was_killed(trial):
                self.end(note.number, f"failed: killed: its process died {FAILURES + 1} times")
            elif self.hours_spent:
                self.end(note.number, HOURS_SPENT)
            trial = self.folder.read_trial(note.number)
        if not trial.closed:
            return None
        self.closed[note.number] = trial
        self._learn(trial)
        return trial


def _was_killed(trial: Trial) -> bool:
    """Whether every attempt was killed, for example by a lack of memory; other failures are in the status."""
    statuses = [record.status for record in trial.records.values()]
    killed = any(status.state == "running" and status.attempt > FAILURES for status in statuses)
    return killed and not any(status.state == "failed" for status in statuses)


class LedgerSearch(Searcher):
    """Searcher that asks the ledger and has no state of its own."""

    def __init__(self, ledger: Ledger, job_file: Path) -> None:
        super().__init__()
        self.ledger, self.job_file = ledger, job_file

    def suggest(self, trial_id: str) -> Any:
        note = self.ledger.next()
        if note is None:
            return Searcher.FINISHED
        self.ledger.running[trial_id] = note
        return {"job": str(self.job_file), "study": self.ledger.folder.study.name, "trial": note.number}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        self.ledger.finished(trial_id, given_up=error)

    def save(self, checkpoint_path: str) -> None: ...


class Asha(AsyncHyperBandScheduler):
    """ASHA over epochs that remembers earlier searches of the study and does not stop trials of the defaults."""

    def __init__(self, ledger: Ledger) -> None:
        train = ledger.folder.study.train
        first = first_rung(train)
        super().__init__(
            time_attr=TIME,
            metric=METRIC,
            mode="min",
            grace_period=first,
            max_t=max(first, train.epochs - 1),  # a trial at its last epoch is not stopped
            reduction_factor=REDUCTION,
            stop_last_trials=False,
        )
        self.ledger = ledger
        self.rungs = rungs(ledger.effort, train)
        for number, trial in sorted(ledger.closed.items()):
            if math.isfinite(trial.value):
                self._replay(number, trial)

    def _replay(self, number: int, trial: Trial) -> None:
        """Report the values of a closed trial at each rung."""
        ray_trial: Any = SimpleNamespace(trial_id=f"before-{number}")
        self.on_trial_add(None, ray_trial)
        for epoch in self.rungs:
            if epoch <= len(trial.curve):
                super().on_trial_result(None, ray_trial, {TIME: epoch, METRIC: trial.curve[epoch - 1]})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not math.isfinite(result[METRIC]):  # it has failed, ends by itself, and sets no bar for others
            for _, values in self._trial_info[trial.trial_id]._rungs:
                values.pop(trial.trial_id, None)
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)
        note = self.ledger.running.get(trial.trial_id)
        if decision != TrialScheduler.STOP or note is None:
            return decision
        if note.by == "default" or result[TIME] >= self.rungs[-1]:
            return TrialScheduler.CONTINUE  # results are compared with the default at its full length
        self.ledger.end(note.number, f"stopped by asha at epoch {result[TIME]}")
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Ray's version handles the last result a second time, and fails if there is none."""
        self.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(trial.trial_id, None)


class HourMeter(Callback):
    """Callback that charges trials for the time in which they start or run, whether or not it brings an epoch."""

    def __init__(self, ledger: Ledger, job: TuneJob) -> None:
        self.ledger, self.job = ledger, job
        self.read = self.saved = time.monotonic()

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        now = time.monotonic()
        hours = (now - self.read) / 3600 * self.job.devices_per_trial
        self.read = now
        running = [trial for trial in trials if trial.status == "RUNNING"]
        starting = [trial for trial in trials if trial.status == "PENDING"]  # each where a running one leaves room
        for trial in (*running, *starting)[: self.job.trials_at_once]:
            number = trial.config["trial"]
            self.ledger.hours[number] = self.ledger.hours.get(number, 0.0) + hours
        if now - self.saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the hours into the study's folder."""
        self.saved = time.monotonic()
        self.ledger.folder.charge(self.ledger.hours)


class Hours(Stopper):
    """Stopper that ends all trials when the device-hours are spent."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.ledger.hours_spent
