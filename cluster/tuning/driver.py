"""Driver of a Ray cluster, which runs the studies of a job: `python -m cluster.tuning.driver JOB ADDRESS`.

Progress goes to stdout, everything else to stderr. The driver ends with its standard input, and may be killed at any
time: the next driver resumes from the studies' folders.
"""

import logging
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from benchmark.errors import MachineError, UserError
from benchmark.terminal import duration
from cluster.jobs.signals import end_with_parent
from cluster.tuning.job import STUDY_FAILED, TuneJob, stop_file
from cluster.tuning.search import FAILURES, Asha, HourMeter, Hours, Ledger, LedgerSearch
from cluster.tuning.trial import TIME, run_trial
from results.store import lease
from results.store.studies import StudyFolder, best_trial
from results.store.study_result import conclude

PRINT_SECONDS = 30.0


def main(job_file: Path, address: str) -> int:
    """Run the studies and return 0, or STUDY_FAILED if one has no result. A stop file ends them early, with 0."""
    end_with_parent()
    job = TuneJob.load(job_file)
    failed = 0
    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        for study in job.studies:
            folder = StudyFolder(job.store, study)
            try:
                folder.begin(job.effort)
                if (mine := lease.acquire(folder.root, lease.TAKEOVER_SECONDS)) is None:
                    raise MachineError(f"{study}: is being tuned by {lease.live_holder(folder.root)}; wait for it")
                with mine.kept():
                    _search(job, job_file, folder)
            except (MachineError, UserError) as error:
                print(error, flush=True)
                failed += 1
            if stop_file(job_file).exists():
                break
    finally:
        ray.shutdown()
    return STUDY_FAILED if failed else 0


def _search(job: TuneJob, job_file: Path, folder: StudyFolder) -> None:
    """Run trials until the effort is spent or a stop is requested; in the first case, write the result."""
    ledger = Ledger(folder, job.effort, stop_file(job_file).exists)
    if ledger.open or not ledger.is_spent:
        state = folder.root / "ray"
        shutil.rmtree(state, ignore_errors=True)
        resources = tune.PlacementGroupFactory([{"CPU": job.cpus_per_trial, "GPU": job.gpus_per_trial}])
        meter = HourMeter(ledger, job)
        tuner = tune.Tuner(
            tune.with_resources(run_trial, resources),
            tune_config=tune.TuneConfig(
                search_alg=LedgerSearch(ledger, job_file),
                scheduler=Asha(ledger) if job.effort.scheduler == "asha" else FIFOScheduler(),
                num_samples=sys.maxsize,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(folder.root),
                failure_config=tune.FailureConfig(max_failures=FAILURES),
                verbose=0,
                callbacks=[meter, ProgressPrinter(ledger, job.trials_at_once)],
                stop=Hours(ledger),
            ),
        )
        tuner.fit()
        meter.save()
        ledger.end_open()
        shutil.rmtree(state, ignore_errors=True)
    if not stop_file(job_file).exists():
        print(conclude(folder, job.effort, ledger.used_up), flush=True)


class ProgressPrinter(tune.Callback):
    """Callback that prints each trial that ends, and every PRINT_SECONDS the running ones."""

    def __init__(self, ledger: Ledger, trials_at_once: int) -> None:
        self.ledger, self.trials_at_once = ledger, trials_at_once
        self.started = self.printed = time.monotonic()
        self.closed_before = len(ledger.closed)
        self.epochs: dict[int, int] = {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.epochs[trial.config["trial"]] = result[TIME]
        if time.monotonic() - self.printed >= PRINT_SECONDS:
            numbers = [note.number for note in self.ledger.running.values() if note.number in self.epochs]
            self._print(", ".join(f"trial {number} at epoch {self.epochs[number]}" for number in numbers))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        number = trial.config["trial"]
        closed = self.ledger.closed.get(number)
        if closed is not None:
            value = f"RMSE {closed.value:.4g}" if closed.value < float("inf") else "no RMSE"
            self._print(f"trial {number} {closed.state}, {value}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._print(f"trial {trial.config['trial']} died")

    def _print(self, event: str) -> None:
        self.printed = time.monotonic()
        ledger, effort = self.ledger, self.ledger.effort
        best = best_trial(ledger.closed.values())
        best_text = f"best {best.value:.4g} (trial {best.note.number})" if best else "no result yet"
        done, of, remaining = len(ledger.closed), f" of {effort.trials}" if effort.trials else "", ""
        if effort.trials and done > self.closed_before:
            seconds = (time.monotonic() - self.started) / (done - self.closed_before)
            remaining = f", about {duration(seconds * (effort.trials - done))} left"
        elif effort.hours:
            remaining = f", {sum(ledger.hours.values()):.3g} of {effort.hours:g} device-hours spent"
        running = min(len(ledger.running), self.trials_at_once)  # Tune asks for one more, which waits
        print(
            f"{ledger.folder.study}: {event}; {done}{of} trials done, {running} running, {best_text}{remaining}",
            flush=True,
        )


if __name__ == "__main__":
    for number in (signal.SIGUSR2, signal.SIGINT):  # sent to a whole job; only the supervisor reacts
        signal.signal(number, signal.SIG_IGN)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
