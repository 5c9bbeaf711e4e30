"""The worker of a job: lanes that share cells, stale leases, and the requeue at the time limit."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import suite_in

from benchmark.cell import Cell
from benchmark.files import write_json
from benchmark.suite import loading as suites
from benchmark.training import gpu
from benchmark.training.loop import StoppedError
from benchmark.training.recorder import Recorder
from cluster.jobs import worker
from cluster.jobs.job import Job
from cluster.slurm.sbatch import requeue_if_marked
from results.store import lease
from results.store.lease import Holder
from results.store.store import Store

Act = Callable[[Cell, Recorder], None]


@pytest.fixture
def cells(tmp_path: Path) -> tuple[Cell, ...]:
    return suites.load(str(suite_in(tmp_path, seeds="[0, 1, 2]"))).cells


@pytest.fixture
def on_slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Environment of a task of SLURM job 9; signal handlers are restored afterwards."""
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    for name, value in {"JOB_ID": "9", "PROCID": "0", "LOCALID": "0", "NTASKS": "2", "JOB_NUM_NODES": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(worker, "STALE_SECONDS", 0.05)
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.05)
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    yield monkeypatch
    for number, handler in before.items():
        signal.signal(number, handler)


def run_job(cells: tuple[Cell, ...], store: Store, **options: Any) -> None:
    folder = store.root / "jobs" / "it's here"
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(store=store.root, cells=cells, plugins=(), device="cpu", ranks=1, threads=1, requeues=1, **options)
    (folder / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    worker.run_job(str(folder / "job.json"))


def run(
    cells: tuple[Cell, ...], store: Store, act: Act, patch: pytest.MonkeyPatch, lanes: int = 2, **options: Any
) -> list[Cell]:
    """Run one task of a job with `act` in place of training. Returns the cells that it was called for."""
    begun: list[Cell] = []

    def run_cell(cell: Cell, recorder: Recorder, *rest: object) -> None:
        begun.append(cell)
        act(cell, recorder)

    patch.setattr(worker, "run_cell", run_cell)
    run_job(cells, store, lanes=lanes, **options)
    return begun


def finish(cell: Cell, recorder: Recorder) -> None:
    recorder.finish("diverged", {})


def marks(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.glob("jobs/*/requeue-*"))


def fail_on_another_lane(cell: Cell, store: Store, monkeypatch: pytest.MonkeyPatch, restart: int = 0) -> None:
    """Record a failure of the cell on another lane, which no longer holds it."""
    ours = Holder.this_process()
    with monkeypatch.context() as patch:
        patch.setattr(lease.Holder, "this_process", lambda: replace(ours, pid=ours.pid + 1, job="9", restart=restart))
        with store.recorder(cell) as recorder:
            assert recorder is not None
            recorder.start()
            recorder.fail("code_error", "out of order")


def test_a_cell_that_failed_on_one_lane_is_not_tried_on_the_next(
    cells: tuple[Cell, ...], store: Store, on_slurm: pytest.MonkeyPatch
) -> None:
    fail_on_another_lane(cells[0], store, on_slurm)
    assert run(cells, store, finish, on_slurm) == list(cells[1:])
    assert store.statuses(cells)[0][cells[0].id].attempt == 1
    on_slurm.setenv("SLURM_RESTART_COUNT", "1")  # after a requeue any lane may try it
    assert run(cells, store, finish, on_slurm) == [cells[0]]


def test_a_model_that_ends_the_process(cells: tuple[Cell, ...], store: Store, on_slurm: pytest.MonkeyPatch) -> None:
    """The cell fails with a message, and the next one runs."""

    def end(cell: Cell, recorder: Recorder) -> None:
        raise SystemExit(0)

    assert run(cells, store, end, on_slurm, lanes=1) == list(cells)
    status = store.statuses(cells)[0][cells[0].id]
    assert (status.failure, status.message) == ("code_error", "the model ended the process: SystemExit(0)")


def test_a_gpu_that_works_no_more_ends_the_job(
    cells: tuple[Cell, ...], store: Store, on_slurm: pytest.MonkeyPatch
) -> None:
    """The other cells of the job are not begun on it; on a GPU that still works, only this cell has failed."""

    def fail(cell: Cell, recorder: Recorder) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    assert run(cells[1:], store, fail, on_slurm, lanes=1) == list(cells[1:])
    on_slurm.setattr(gpu, "works", lambda device: False)
    with pytest.raises(torch.AcceleratorError):
        run(cells, store, fail, on_slurm, lanes=1)
    statuses, _ = store.statuses(cells)
    assert [statuses[cell.id].failure for cell in cells] == ["machine", "code_error", "code_error"]


def test_on_this_machine_lanes_share_the_attempts_before_the_launch(
    cells: tuple[Cell, ...], store: Store, on_slurm: pytest.MonkeyPatch
) -> None:
    """For instance in an allocation, where all launches have the same job number."""
    fail_on_another_lane(cells[0], store, on_slurm)
    assert run(cells, store, finish, on_slurm, seen={}) == list(cells[1:])
    assert run(cells, store, finish, on_slurm, seen={cells[0].id: 1}) == [cells[0]]


def held(cell: Cell, store: Store, holder: Holder) -> Path:
    path = store.cell_folder(cell.id) / "lease-1.json"
    path.parent.mkdir(parents=True)
    write_json(path, vars(holder))
    return path


def test_a_cell_of_another_lane_is_skipped(cells: tuple[Cell, ...], store: Store, on_slurm: pytest.MonkeyPatch) -> None:
    held(cells[0], store, replace(Holder.this_process(), job="9"))
    on_slurm.setattr(worker.time, "sleep", lambda seconds: pytest.fail("it waits") if seconds else None)
    assert run(cells, store, finish, on_slurm) == list(cells[1:])


def test_a_worker_waits_for_a_cell_held_by_its_job_before_the_node_died(
    cells: tuple[Cell, ...], store: Store, on_slurm: pytest.MonkeyPatch
) -> None:
    """The cell is free when the lease is stale."""
    stale = held(cells[0], store, replace(Holder.this_process(), host="n2", job="9"))
    on_slurm.setenv("SLURM_RESTART_COUNT", "1")
    on_slurm.setattr(worker, "STALE_SECONDS", 60.0)

    def finish_and_let_time_pass(cell: Cell, recorder: Recorder) -> None:
        os.utime(stale, (1, 1))
        finish(cell, recorder)

    assert run(cells, store, finish_and_let_time_pass, on_slurm) == [*cells[1:], cells[0]]


def test_a_lane_with_unfinished_cells_at_the_time_limit_writes_a_mark(
    cells: tuple[Cell, ...], store: Store, on_slurm: pytest.MonkeyPatch
) -> None:
    def stop(cell: Cell, recorder: Recorder) -> None:
        os.kill(os.getpid(), signal.SIGUSR2)
        raise StoppedError

    assert run(cells, store, stop, on_slurm, lanes=1) == [cells[0]]
    assert marks(store) == ["requeue-9-0"]
    assert store.statuses(cells)[0][cells[0].id].failure == "time_limit"
    on_slurm.setenv("SLURM_RESTART_COUNT", "1")  # the last allowed restart
    run(cells, store, stop, on_slurm, lanes=1)
    assert marks(store) == ["requeue-9-0"]


def test_a_finished_lane_writes_no_mark(cells: tuple[Cell, ...], store: Store, on_slurm: pytest.MonkeyPatch) -> None:
    def finish_late(cell: Cell, recorder: Recorder) -> None:
        if cell == cells[-1]:
            os.kill(os.getpid(), signal.SIGUSR2)
        finish(cell, recorder)

    assert run(cells, store, finish_late, on_slurm, lanes=1) == list(cells)
    assert marks(store) == []


def test_the_lease_is_read_before_a_save_and_not_at_each_step(
    cells: tuple[Cell, ...], store: Store, on_slurm: pytest.MonkeyPatch
) -> None:
    """A holder with a successor writes nothing, even before its heartbeat notices."""
    reads: list[Path] = []
    answers: list[bool] = []
    highest = lease._highest

    def read(folder: Path) -> int:
        reads.append(folder)
        return highest(folder)

    def act(cell: Cell, recorder: Recorder, *rest: object) -> None:
        (execution,) = (argument for argument in rest if isinstance(argument, worker.Execution))
        on_slurm.setattr(lease, "_highest", read)
        successor = replace(Holder.this_process(), host="n2", job="10")
        write_json(store.cell_folder(cell.id) / "lease-2.json", vars(successor))
        answers.extend([execution.should_stop(), bool(reads), execution.may_save(), execution.should_stop()])
        raise StoppedError

    on_slurm.setattr(worker, "run_cell", act)
    run_job(cells[:1], store)
    assert answers == [False, False, False, True]
    assert store.statuses(cells)[0][cells[0].id].state == "running"  # unchanged, since the successor writes now


@pytest.mark.parametrize("restart", ["", "3"])
@pytest.mark.parametrize("refused", [False, True])
def test_the_batch_script_requeues_a_marked_job(tmp_path: Path, restart: str, refused: bool) -> None:
    """The exit status of srun is kept."""
    folder = tmp_path / "it's here; $(false)"
    folder.mkdir()
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/called"\nexit {int(refused)}\n', encoding="utf-8")
    scontrol.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12"}
    environment |= {"SLURM_RESTART_COUNT": restart} if restart else {}
    text = "\n".join(["(exit 7)", "", "# teardown", *requeue_if_marked(folder)])

    def run_script() -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=False)

    done = run_script()
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    (folder / "requeue-12-1").touch()  # mark of another start
    assert run_script().returncode == 7
    assert not (tmp_path / "called").exists()
    (folder / f"requeue-12-{restart or 0}").touch()
    done = run_script()
    assert (tmp_path / "called").read_text() == "requeue 12\n"
    assert done.returncode == 7
    assert ("cannot be requeued" in done.stdout) is refused
