"""One trial: the cells of its settings, each trained by `run_cell` as in `symbench run`, without the test splits.

Ray calls `run_trial` in a process that becomes rank 0. If a cell has several ranks, it starts the others as processes:
`python -m cluster.tuning.trial JOB STUDY NUMBER RANK RENDEZVOUS`.
"""

from __future__ import annotations

import importlib.metadata
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.training.distributed import World, join
from benchmark.training.loop import Execution, StoppedError
from benchmark.training.recorder import Follower
from benchmark.training.run import run_cell
from cluster.jobs import failures
from cluster.jobs.signals import end_with_parent
from cluster.jobs.staging import stage
from cluster.tuning.job import TuneJob, rungs, stop_file
from cluster.tuning.ray_cluster.ray_node import scratch
from results.store.cell_recorder import CellRecorder, LeaseLostError
from results.store.lease import TAKEOVER_SECONDS
from results.store.store import Store
from results.store.studies import StudyFolder, Trial

METRIC, TIME = "validation_rmse", "epoch"
STOP_CHECK_SECONDS = 1.0
"""Interval at which a trial looks for the stop file, which may be on a network disk."""
SETTINGS_FAILURES = ("gpu_out_of_memory", "host_out_of_memory", "code_error", "input")
"""Failure classes that the settings cause: the trial has failed and is not retried."""


@dataclass(frozen=True)
class TrialTask:
    """Trial `number` of a study, and the job that it belongs to."""

    job_file: Path
    job: TuneJob
    folder: StudyFolder
    number: int

    @classmethod
    def load(cls, job_file: Path, study: str, number: int) -> TrialTask:
        """Task of the job in `job_file`, whose plug-ins are registered in this process."""
        job = TuneJob.load(job_file)
        folders = (StudyFolder(job.store, one) for one in job.studies if one.name == study)
        return cls(job_file, job, next(folders), number)

    def read(self) -> Trial:
        """Trial as it is on disk now."""
        return self.folder.read_trial(self.number)

    def device(self, rank: int) -> torch.device:
        """Device of a rank, among those that Ray makes visible to this process."""
        if self.job.device == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", rank % max(1, torch.cuda.device_count()))


def run_trial(config: Mapping[str, Any]) -> None:
    """Trainable of Ray Tune, which reports the lowest validation RMSE so far after each epoch."""
    from ray import tune  # takes a second, and the other ranks do without it

    task = TrialTask.load(Path(config["job"]), config["study"], config["trial"])
    trial = task.read()
    if trial.closed:
        tune.report(_final_report(trial))
        return
    with scratch() as folder:
        rendezvous = Path(folder) / "rendezvous.json"
        with _other_ranks(task, rendezvous) as processes, join(0, task.job.ranks, task.device(0), rendezvous) as world:
            try:
                TrialTraining(task, world, rendezvous.parent, Progress(task, tune.report)).run()
            finally:
                _kill(processes)  # before the process group is destroyed, which may wait for them


def _report(epoch: int, value: float) -> dict[str, float]:
    return {TIME: epoch, METRIC: value}


def _final_report(trial: Trial) -> dict[str, float]:
    return _report(max(1, len(trial.curve)), trial.value)


class Progress:
    """Reports of a trial to Tune; the epochs before an interruption are reported at the rungs alone."""

    def __init__(self, task: TrialTask, report: Callable[[dict[str, float]], object]) -> None:
        self.task, self.report = task, report
        self.reported = 0
        self.rungs = rungs(task.job.effort, task.folder.study.train)

    def __call__(self) -> None:
        trial = self.task.read()
        curve = trial.curve
        for epoch in range(self.reported + 1, len(curve) + 1):
            if epoch in self.rungs or epoch == len(curve):
                self.report(_report(epoch, curve[epoch - 1]))
        self.reported = max(self.reported, len(curve))
        if trial.diverged or trial.note.ended:
            self.report(_final_report(trial))


class TrialTraining:
    """Training of the cells of a trial, on one rank.

    Several levels are trained alternately, from rung to rung, so that a trial is stopped by the mean over all levels.
    Ranks tell each other of errors in `message_folder`. Rank 0 alone has a `progress`.
    """

    def __init__(self, task: TrialTask, world: World, message_folder: Path, progress: Progress | None = None) -> None:
        self.task, self.world, self.message_folder, self.progress = task, world, message_folder, progress
        self.stop = StopCheck(stop_file(task.job_file))
        self.cells = task.read().cells

    def run(self) -> None:
        """Train all cells to their ends, or until the trial is stopped.

        Raises the error of a cell if Tune has to retry the trial in a new process.
        """
        torch.set_num_threads(self.task.job.threads)
        cells, train = list(self.cells), self.cells[0].train
        for until in [train.epochs] if len(cells) == 1 else rungs(self.task.job.effort, train):
            for cell in list(cells):
                if self._train(cell, until):
                    cells.remove(cell)
                if self.world.any(self.stop.requested()):
                    return
                if self.world.any(self.world.is_main and self._is_decided()):
                    cells = []
                    break
            if self.progress is not None:
                self.progress()
            if not cells:
                return

    def _is_decided(self) -> bool:
        """Whether one level ends the trial: it diverged or failed."""
        trial = self.task.read()
        return trial.diverged or bool(trial.note.ended)

    def _train(self, cell: Cell, until: int) -> bool:
        """Train `cell` up to epoch `until`; whether its training has ended."""
        store, world = self.task.folder.store, self.world
        folder = store.cell_folder(cell.id)
        follower = nullcontext(Follower(folder / "checkpoint.pt"))
        with store.recorder(cell, TAKEOVER_SECONDS) if world.is_main else follower as recorder:
            if recorder is None:
                raise MachineError(f"{folder}: another process still holds it")
            if world.any(world.is_main and store.is_result(cell)):
                return True
            if isinstance(recorder, CellRecorder) and self.progress is not None and len(self.cells) == 1:
                recorder.on_epoch = self.progress
            try:
                self._run_cell(cell, recorder, until)
            except StoppedError:
                if isinstance(recorder, CellRecorder) and recorder.lease.lost:
                    raise LeaseLostError(f"{recorder.folder}: another process has taken the cell over") from None
                if world.any(self.stop.requested()):
                    recorder.fail("time_limit", "saved where it was; goes on when the study does")
                return False
            except LeaseLostError:
                raise
            except Exception as error:
                if not self._is_settled(error, recorder):
                    raise
            return True

    def _run_cell(self, cell: Cell, recorder: CellRecorder | Follower, until: int) -> None:
        held = recorder if isinstance(recorder, CellRecorder) else None

        def at_rung() -> bool:
            return held is not None and until < cell.train.epochs and held.status.epoch >= until

        def should_stop() -> bool:  # called at every step, so it must not read the disk
            return at_rung() or self.stop.requested() or (held is not None and held.lease.known_lost)

        def may_save() -> bool:
            return held is None or not held.lease.lost

        job = self.task.job
        notes = {
            "study": self.task.folder.study.name,
            "trial": self.task.number,
            "devices": job.devices_per_trial,
            **{name: importlib.metadata.version(name) for name in ("ray", "optuna") if find_spec(name)},
        }
        recorder.start()
        data = stage(Store(job.store).data_folder, cell, job.scratch)
        run_cell(cell, recorder, data, Execution(self.world, should_stop, may_save), notes, tuning=True)

    def _is_settled(self, error: Exception, recorder: CellRecorder | Follower) -> bool:
        """Record an error; False if Tune has to retry the trial, or if this process can train no further one."""
        task, world = self.task, self.world
        with task.job_file.with_name(f"{task.job_file.stem}-trials.log").open("a", encoding="utf-8") as log:
            log.write(f"{task.folder.study}: trial {task.number}, rank {world.rank}\n{traceback.format_exc()}")
        is_disk = isinstance(error, OSError)  # it may be away
        failure = "machine" if is_disk else failures.classify_exception(error, world.device)
        failure, message = failures.classify_on_rank(failure, error, world, self.message_folder)
        recorder.fail(failure, message)
        if failure not in SETTINGS_FAILURES:
            return False
        if world.is_main:
            ended = {"ended": f"failed: {failure}: {message}"}
            task.folder.write(task.read().note.model_copy(update=ended))
        # Other ranks may wait in a collective, and an error may leave a GPU unusable.
        return world.size == 1 and world.device.type == "cpu"


class StopCheck:
    """Check for the stop file, at most once every STOP_CHECK_SECONDS."""

    def __init__(self, path: Path) -> None:
        self.path, self.exists, self.checked = path, False, 0.0

    def requested(self) -> bool:
        """Whether the trials are to save and stop."""
        now = time.monotonic()
        if not self.exists and now - self.checked >= STOP_CHECK_SECONDS:
            self.exists, self.checked = self.path.exists(), now
        return self.exists


@contextmanager
def _other_ranks(task: TrialTask, rendezvous: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of the other ranks, killed at the end of the block."""
    command = [sys.executable, "-m", "cluster.tuning.trial", str(task.job_file), task.folder.study.name]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, task.job.ranks):
            arguments = [str(task.number), str(rank), str(rendezvous)]
            processes.append(subprocess.Popen([*command, *arguments], stdin=subprocess.PIPE))
        yield processes
    finally:
        _kill(processes)


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()  # safe: other ranks write no files
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
        if process.stdin is not None:
            process.stdin.close()


def follow(task: TrialTask, rank: int, rendezvous: Path) -> None:
    """Train a trial as one of the other ranks, which end with rank 0 even while they hang."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with join(rank, task.job.ranks, task.device(rank), rendezvous) as world:
        TrialTraining(task, world, rendezvous.parent).run()


if __name__ == "__main__":
    follow(TrialTask.load(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])), int(sys.argv[4]), Path(sys.argv[5]))
