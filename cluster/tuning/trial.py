"""One trial: the cells of its settings, each run by the same `run_cell` as `symbench run`, the test splits left out.

Ray calls `run_trial` in a process of its own, which is rank 0. Where a cell asks for several ranks, it starts the
others as processes beside itself: `python -m cluster.tuning.trial JOB STUDY NUMBER RANK RENDEZVOUS`.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmark.cell import Cell
from benchmark.errors import MachineError
from benchmark.training.distributed import World, join
from benchmark.training.loop import Execution, StoppedError
from benchmark.training.recorder import Epoch, Follower, Recorder
from benchmark.training.run import run_cell
from cluster.jobs import failures
from cluster.jobs.staging import stage
from cluster.tuning.job import TuneJob, rungs, stop_file
from cluster.tuning.ray_cluster.ray_node import scratch
from results.store.cell_recorder import CellRecorder, LeaseLostError
from results.store.lease import BEAT_SECONDS, STALE_SECONDS, Lease
from results.store.store import Store
from results.store.studies import Note, StudyFolder, Trial

METRIC, TIME = "validation_rmse", "epoch"
Report = Callable[..., None]
ASK_SECONDS = 1.0
"""So often a trial looks whether it is to stop: the answer may be on a network disk."""
TRANSIENT_PATIENCE_SECONDS = 2 * (STALE_SECONDS + BEAT_SECONDS)
"""How long a trial waits for a cell that somebody holds: a node that was cut off, until its lease is stale."""
HOPELESS = ("gpu_out_of_memory", "host_out_of_memory", "code_error", "input")
"""Failures that settings bring about: such a trial is at its end."""


def run_trial(config: Mapping[str, Any]) -> None:
    """What Ray Tune calls; reports the lowest validation RMSE so far, epoch by epoch."""
    from ray import tune

    job_file = Path(config["job"])
    job = TuneJob.load(job_file)
    folder = StudyFolder(job.store, job.study(config["study"]))
    trial = folder.trial(folder.read(config["trial"]))
    if trial.closed:
        tune.report({TIME: max(1, len(trial.curve)), METRIC: trial.value, "device_hours": trial.device_hours})
        return
    with scratch() as meeting:
        rendezvous = Path(meeting) / "rendezvous.json"
        with _followers(job, job_file, folder, trial.note, rendezvous) as follower_processes:
            progress = Progress(job, folder, trial, tune.report)
            with join(0, job.ranks, _device(job, 0), rendezvous) as world:
                try:
                    train(job, job_file, folder, trial, world, progress, rendezvous.parent)
                finally:
                    _end(follower_processes)  # before the process group is destroyed, which may wait for them


class Progress:
    """Tells Tune how a trial does; what it had told before an interruption, it tells at the rungs alone."""

    def __init__(self, job: TuneJob, folder: StudyFolder, trial: Trial, report: Report) -> None:
        self.folder, self.number, self.report = folder, trial.note.number, report
        self.told = 0
        self.milestones = rungs(job.effort, trial.cells[0].train)

    def __call__(self) -> None:
        now = self.folder.trial(self.folder.read(self.number))
        curve = now.curve
        for epoch in range(self.told + 1, len(curve) + 1):
            if epoch in self.milestones or epoch == len(curve):
                self.report({TIME: epoch, METRIC: curve[epoch - 1], "device_hours": now.device_hours})
        self.told = max(self.told, len(curve))
        if now.diverged or now.note.ended:
            self.report({TIME: max(1, len(curve)), METRIC: now.value, "device_hours": now.device_hours})


def train(
    job: TuneJob,
    job_file: Path,
    folder: StudyFolder,
    trial: Trial,
    world: World,
    progress: Progress | None,
    words: Path,
) -> None:
    """Run the cells of `trial` to their ends, on every rank; in the folder `words` ranks tell each other of errors.

    Several levels go side by side, from rung to rung, so that a trial can be stopped by what all of them say.
    """
    torch.set_num_threads(job.threads)

    def explain(error: Exception) -> tuple[str, str]:
        with job_file.with_name(f"{job_file.stem}-trials.log").open("a", encoding="utf-8") as log:
            log.write(f"{folder.study}: trial {trial.note.number}, rank {world.rank}\n{traceback.format_exc()}")
        failure = (
            "machine" if isinstance(error, OSError) else failures.classify_exception(error)
        )  # a disk that was away
        return failures.classify_on_rank(failure, error, world, words)

    asked = _Asked(stop_file(job_file))
    epochs = trial.cells[0].train.epochs
    several = len(trial.cells) > 1
    left = list(trial.cells)
    for until in rungs(job.effort, trial.cells[0].train) if several else [epochs]:
        for cell in list(left):
            on_epoch = None if several else progress
            if _advance(job, folder, trial, cell, until, world, asked, on_epoch, explain):
                left.remove(cell)
            if world.any(asked.to_stop()):
                return
            if world.any(world.is_main and _is_at_its_end(folder, trial)):
                left = []
                break
        if progress is not None:
            progress()
        if not left:
            return


def _is_at_its_end(folder: StudyFolder, trial: Trial) -> bool:
    """Whether one level has decided for all: it diverged or failed."""
    now = folder.trial(folder.read(trial.note.number))
    return now.diverged or bool(now.note.ended)


def _advance(
    job: TuneJob,
    folder: StudyFolder,
    trial: Trial,
    cell: Cell,
    until: int,
    world: World,
    asked: _Asked,
    on_epoch: Progress | None,
    explain: Callable[[Exception], tuple[str, str]],
) -> bool:
    """Train `cell` up to epoch `until`; whether it is at its end, and so never run again."""
    checkpoint = folder.store.cell_folder(cell.id) / "checkpoint.pt"
    with _holding(folder.store, cell) if world.is_main else nullcontext(Follower(checkpoint)) as held:
        if world.any(world.is_main and folder.store.is_result(cell)):
            return True
        recorder: Recorder = held
        reached = [until >= cell.train.epochs, False]  # the end is the training's own affair
        if isinstance(held, CellRecorder):

            def listen(history: Sequence[Epoch]) -> None:
                reached[1] = not reached[0] and len(history) >= until
                if on_epoch is not None and history:
                    on_epoch()

            recorder = _Listening(cell, held.folder, held.lease, listen)

        lease = held.lease if isinstance(held, CellRecorder) else None

        def may_save() -> bool:
            return lease is None or not lease.lost

        def should_stop() -> bool:  # asked at every step: the disk is not to be looked at
            return reached[1] or asked.to_stop() or (lease is not None and lease.known_lost)

        execution = Execution(world, should_stop, may_save)
        notes = {
            "study": folder.study.name,
            "trial": trial.note.number,
            "devices": job.devices_of_trial,
            **{name: importlib.metadata.version(name) for name in ("ray", "optuna") if find_spec(name)},
        }
        data = stage(Store(job.store).data_folder, cell, job.scratch)
        try:
            recorder.start()
            run_cell(cell, recorder, data, execution, notes, tuning=True)
        except StoppedError:
            if not may_save():
                raise LeaseLostError(f"{held}: another process has taken the cell over") from None
            if world.any(asked.to_stop()):
                recorder.fail("time_limit", "saved where it was; goes on when the study does")
            return False
        except LeaseLostError:
            raise
        except Exception as error:
            failure, message = explain(error)
            recorder.fail(failure, message)
            if failure not in HOPELESS:
                raise  # Tune tries again
            if world.is_main:
                folder.write(trial.note.model_copy(update={"ended": f"failed: {failure}: {message}"}))
            if world.size > 1 or world.device.type == "cuda":
                raise  # others may wait in a collective, and a GPU may be lost to this process; the next one reports
        return True


class _Listening(CellRecorder):
    """Tells of each epoch once it is on disk."""

    def __init__(self, cell: Cell, folder: Path, mine: Lease, listen: Callable[[Sequence[Epoch]], None]) -> None:
        super().__init__(cell, folder, mine)
        self._listen = listen

    def progress(self, history: Sequence[Epoch], epochs: int) -> None:
        super().progress(history, epochs)
        self._listen(history)


class _Asked:
    """Whether the file is there that says so; remembered, and not looked for at every step."""

    def __init__(self, path: Path) -> None:
        self.path, self.found, self.looked = path, False, 0.0

    def to_stop(self) -> bool:
        now = time.monotonic()
        if not self.found and now - self.looked >= ASK_SECONDS:
            self.found, self.looked = self.path.exists(), now
        return self.found


@contextmanager
def _holding(store: Store, cell: Cell) -> Iterator[CellRecorder]:
    """The recorder of `cell`, waited for where another process holds it or has just died. MachineError: too long."""
    deadline = time.monotonic() + TRANSIENT_PATIENCE_SECONDS
    while True:
        with store.recorder(cell) as recorder:
            if recorder is not None:
                yield recorder
                return
        if time.monotonic() > deadline:
            raise MachineError(f"{store.cell_folder(cell.id)}: another process goes on holding it")
        time.sleep(0.5)


@contextmanager
def _followers(
    job: TuneJob, job_file: Path, folder: StudyFolder, note: Note, rendezvous: Path
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The other ranks of a trial, gone at the end."""
    command = [sys.executable, "-m", "cluster.tuning.trial", str(job_file), folder.study.name, str(note.number)]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(1, job.ranks):
            processes.append(subprocess.Popen([*command, str(rank), str(rendezvous)], stdin=subprocess.DEVNULL))
        yield processes
    finally:
        _end(processes)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()  # they write nothing
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)


def _device(job: TuneJob, rank: int) -> torch.device:
    """Of those that Ray lets this trial see."""
    if job.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", rank % max(1, torch.cuda.device_count()))


def follow(job_file: Path, study: str, number: int, rank: int, rendezvous: Path) -> None:
    """What the other ranks do: the same as rank 0, without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = TuneJob.load(job_file)
    folder = StudyFolder(job.store, job.study(study))
    with join(rank, job.ranks, _device(job, rank), rendezvous) as world:
        train(job, job_file, folder, folder.trial(folder.read(number)), world, None, rendezvous.parent)


if __name__ == "__main__":
    follow(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
