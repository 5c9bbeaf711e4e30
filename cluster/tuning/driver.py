"""Runs the studies of a job on a Ray cluster that is there: `python -m cluster.tuning.driver JOB ADDRESS`.

Prints what people want to know; the rest goes to stderr. It ends when its standard input does, and may be killed at
any time: the next one goes on from the studies' folders.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmark.errors import MachineError, UserError
from benchmark.terminal import duration
from cluster.tuning.job import FRUITLESS, TuneJob, stop_file
from cluster.tuning.summary import conclude
from results.store import lease
from results.store.lease import BEAT_SECONDS, STALE_SECONDS
from results.store.studies import StudyFolder, Trial, best_trial

SAY_SECONDS = 30.0
LEASE_PATIENCE_SECONDS = 2 * (STALE_SECONDS + BEAT_SECONDS)


def main(job_file: Path, address: str) -> int:
    """0: the studies are complete, or were asked to stop; FRUITLESS: one of them came to nothing."""
    import ray

    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    job = TuneJob.load(job_file)
    failed = 0
    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    try:
        for study in job.studies:
            folder = StudyFolder(job.store, study)
            try:
                folder.begin(job.effort)
                with _lease(folder).kept():
                    _search(job, job_file, folder)
            except (MachineError, UserError) as error:
                print(error, flush=True)
                failed += 1
            if stop_file(job_file).exists():
                break
    finally:
        ray.shutdown()
    return FRUITLESS if failed else 0


def _lease(folder: StudyFolder) -> lease.Lease:
    """The right to search the study, waited for where its holder may just have died."""
    deadline = time.monotonic() + LEASE_PATIENCE_SECONDS
    while True:
        mine = lease.acquire(folder.root)
        if mine is not None:
            return mine
        if time.monotonic() > deadline:
            raise MachineError(f"{folder.study}: is being tuned by {lease.live_holder(folder.root)}; wait for it")
        time.sleep(1.0)


def _search(job: TuneJob, job_file: Path, folder: StudyFolder) -> None:
    """Until there was enough, or all are to stop; then the result is frozen."""
    from ray import tune

    from cluster.tuning.search import FAILURES, Hours, Ledger, LedgerSearch, scheduler_for
    from cluster.tuning.trial import METRIC, run_trial

    ledger = Ledger(folder, job.effort, stop_file(job_file).exists)
    if not ledger.complete:
        telling = _teller(ledger, folder)
        state = folder.root / "ray"
        shutil.rmtree(state, ignore_errors=True)
        resources = tune.PlacementGroupFactory([{"CPU": job.cpus_of_trial, "GPU": job.gpus_of_trial}])
        tuner = tune.Tuner(
            tune.with_resources(run_trial, resources),
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="min",
                search_alg=LedgerSearch(ledger, job_file),
                scheduler=scheduler_for(ledger),
                num_samples=sys.maxsize,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(folder.root),
                failure_config=tune.FailureConfig(max_failures=FAILURES),
                verbose=0,
                callbacks=[telling],
                stop=Hours(ledger),
            ),
        )
        tuner.fit()
        ledger.end_open()
        shutil.rmtree(state, ignore_errors=True)
    if stop_file(job_file).exists():
        return
    print(conclude(folder, job.effort, ledger.used_up), flush=True)


def _teller(ledger: Any, folder: StudyFolder) -> Any:
    """Tells the terminal: each trial that ends, and now and then what runs."""
    from ray import tune

    from cluster.tuning.trial import TIME

    class Teller(tune.Callback):
        def __init__(self) -> None:
            self.started = self.said = time.monotonic()
            self.before = len(ledger.closed)
            self.seen: dict[int, str] = {}

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            self.seen[trial.config["trial"]] = f"trial {trial.config['trial']} at epoch {result[TIME]}"
            if time.monotonic() - self.said >= SAY_SECONDS:
                running = [self.seen[n.number] for n in ledger.running.values() if n.number in self.seen]
                self.say(", ".join(running))

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            number = trial.config["trial"]
            at_end: Trial | None = ledger.closed.get(number)
            if at_end is None:
                return
            value = f"RMSE {at_end.value:.4g}" if at_end.value < float("inf") else "no RMSE"
            self.say(f"trial {number} {at_end.state}, {value}")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self.say(f"trial {trial.config['trial']} died")

        def say(self, news: str) -> None:
            self.said = time.monotonic()
            best = best_trial(ledger.closed.values())
            told = f"best {best.value:.4g} (trial {best.note.number})" if best else "no result yet"
            print(
                f"{folder.study}: {news}; {len(ledger.closed)}{self.of()} trials done,"
                f" {len(ledger.running)} running, {told}{self.left()}",
                flush=True,
            )

        def of(self) -> str:
            return f" of {ledger.effort.trials}" if ledger.effort.trials else ""

        def left(self) -> str:
            passed = time.monotonic() - self.started
            done = len(ledger.closed) - self.before
            if ledger.effort.trials and done:
                return f", about {duration(passed / done * (ledger.effort.trials - len(ledger.closed)))} left"
            if ledger.effort.hours:
                spent = sum(ledger.hours.values())
                return f", {spent:.3g} of {ledger.effort.hours:g} device-hours spent"
            return ""

    return Teller()


def _end_with_the_parent() -> None:
    with suppress(OSError):
        while os.read(0, 1024):
            pass
    os._exit(1)


if __name__ == "__main__":
    for number in (signal.SIGUSR2, signal.SIGINT):  # for those who decide
        signal.signal(number, signal.SIG_IGN)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
