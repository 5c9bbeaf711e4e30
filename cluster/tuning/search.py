"""Ray Tune's side of a study: what it asks for the next trial, who may go on, and when there was enough.

All of it can be made anew from the study's folder at any time. Ray's own `Tuner.restore` is not asked for that: its
snapshot lags behind, is a pickle, and holds nothing of the scheduler, so that after a restart ASHA would compare with
no trial of before.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune import Stopper
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster.tuning.job import REDUCTION, first_rung, rungs
from cluster.tuning.proposals import Novelty, OptunaProposals, Proposals, RandomProposals
from cluster.tuning.trial import METRIC, TIME
from results.store.studies import Effort, Note, StudyFolder, Trial

FAILURES = 3
"""So often a trial is tried again whose process or node died."""
HOURS_SPENT = "stopped when the hours were spent"


class Ledger:
    """The trials of a study while it is searched: those at their end, those that run, and those that were begun."""

    def __init__(self, folder: StudyFolder, effort: Effort, to_stop: Callable[[], bool]) -> None:
        self.folder, self.effort, self.to_stop = folder, effort, to_stop
        trials = folder.trials()
        self.closed = {trial.note.number: trial for trial in trials if trial.closed}
        self.open = deque(trial.note for trial in trials if not trial.closed)
        self.numbers = [trial.note.number for trial in trials]
        self.running: dict[str, Note] = {}
        self.hours: dict[int, float] = {trial.note.number: trial.device_hours for trial in trials}
        self.used_up = False
        """Whether the space has nothing left that is new."""
        self.is_new = Novelty(folder.study, trials)
        optuna = effort.search == "optuna"
        study = folder.study
        self.proposals: Proposals = OptunaProposals(study, len(trials)) if optuna else RandomProposals(study)
        for trial in self.closed.values():
            self.proposals.tell(trial)

    @property
    def exhausted(self) -> bool:
        """Whether the hours are spent."""
        return self.effort.hours is not None and sum(self.hours.values()) >= self.effort.hours

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        if self.open or self.running:
            return False
        enough = self.effort.trials is not None and len(self.numbers) >= self.effort.trials
        return enough or self.exhausted

    def next(self) -> Note | None:
        """The trial to run now; None where there was enough."""
        if self.to_stop():
            return None
        if self.open:
            return self.open.popleft()
        if self.exhausted or (self.effort.trials is not None and len(self.numbers) >= self.effort.trials):
            return None
        note = self._new(next(number for number in itertools.count() if number not in self.numbers))
        self.used_up = note is None
        if note is not None:
            self.folder.write(note)
            self.numbers.append(note.number)
            self.is_new.add(self.folder.trial(note))
        return note

    def _new(self, number: int) -> Note | None:
        defaults = self.folder.study.defaults
        if number < len(defaults):
            return Note(number=number, settings=defaults[number], by="default")
        settings = self.proposals.propose(number, self.is_new)
        if settings is None:
            return None
        return Note(number=number, settings=settings, by=self.effort.search)

    def end(self, number: int, why: str) -> None:
        """Remember that a trial was stopped for good."""
        self.folder.write(self.folder.read(number).model_copy(update={"ended": why}))

    def end_open(self) -> None:
        """When the hours are spent Ray drops what runs without a word; what had not begun was never tried."""
        if not self.exhausted or self.to_stop():
            return
        for trial in self.folder.trials():
            if not trial.closed and trial.records:
                self.end(trial.note.number, HOURS_SPENT)
            elif not trial.closed:
                self.folder.forget(trial.note.number)

    def finished(self, trial_id: str, given_up: bool = False) -> Trial | None:
        """Take note of a trial that no longer runs, `given_up` where Ray tries it no more.

        None where it is not at its end: what a machine did to it may be better the next time.
        """
        note = self.running.pop(trial_id, None)
        if note is None:
            return None
        trial = self.folder.trial(self.folder.read(note.number))
        if not trial.closed and not self.to_stop():
            if given_up and _died_without_a_word(trial):
                self.end(note.number, f"failed: killed: its process died {FAILURES + 1} times")
            elif self.exhausted:
                self.end(note.number, HOURS_SPENT)
            trial = self.folder.trial(self.folder.read(note.number))
        self.hours[note.number] = trial.device_hours
        if not trial.closed:
            return None
        self.closed[note.number] = trial
        self.proposals.tell(trial)
        return trial


def _died_without_a_word(trial: Trial) -> bool:
    """Whether each of its attempts was killed, as by a lack of memory; one that fails says so in its status."""
    statuses = [record.status for record in trial.records.values()]
    killed = any(status.state == "running" and status.attempt > FAILURES for status in statuses)
    return killed and not any(status.state == "failed" for status in statuses)


class LedgerSearch(Searcher):
    """Asks the ledger; remembers nothing of its own."""

    def __init__(self, ledger: Ledger, job_file: Path) -> None:
        super().__init__(metric=METRIC, mode="min")
        self.ledger, self.job_file = ledger, job_file

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        note = self.ledger.next()
        if note is None:
            return Searcher.FINISHED
        self.ledger.running[trial_id] = note
        return {"job": str(self.job_file), "study": self.ledger.folder.study.name, "trial": note.number}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        self.ledger.finished(trial_id, given_up=error)

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


class Asha(AsyncHyperBandScheduler):
    """ASHA over epochs, which knows the trials of before and lets those end that stand for the defaults."""

    def __init__(self, ledger: Ledger) -> None:
        train = ledger.folder.study.train
        first = first_rung(train)
        super().__init__(
            time_attr=TIME,
            metric=METRIC,
            mode="min",
            grace_period=first,
            max_t=max(first, train.epochs - 1),  # at the last epoch nobody is stopped any more
            reduction_factor=REDUCTION,
            stop_last_trials=False,
        )
        self.ledger = ledger
        self.rungs = rungs(ledger.effort, train)
        for number, trial in sorted(ledger.closed.items()):
            self._recall(number, trial)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def _recall(self, number: int, trial: Trial) -> None:
        """As if the trial had just reported what it had reached at each rung."""
        stands_for: Any = SimpleNamespace(trial_id=f"before-{number}")
        self.on_trial_add(None, stands_for)
        for epoch in self.rungs:
            if epoch <= len(trial.curve):
                result = {TIME: epoch, METRIC: trial.curve[epoch - 1]}
                super().on_trial_result(None, stands_for, result)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        note = self.ledger.running.get(trial.trial_id)
        if decision != TrialScheduler.STOP or note is None:
            return decision
        if note.by == "default" or result[TIME] >= self.rungs[-1]:
            return TrialScheduler.CONTINUE  # what is found is compared with a default that had its whole time
        self.ledger.end(note.number, f"stopped by asha at epoch {result[TIME]}")
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Its last result has been seen; one that never reported has none."""
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(trial.trial_id, None)


class Hours(Stopper):
    """Ends everything when the hours are spent."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        note = self.ledger.running.get(trial_id)
        if note is not None and "device_hours" in result:
            self.ledger.hours[note.number] = result["device_hours"]
        return False

    def stop_all(self) -> bool:
        return self.ledger.exhausted


def scheduler_for(ledger: Ledger) -> TrialScheduler:
    return Asha(ledger) if ledger.effort.scheduler == "asha" else FIFOScheduler()
