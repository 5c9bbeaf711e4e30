"""Trials that hang at the time limits of their job, and ranks that hang when rank 0 has gone."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from tuning_support import fabricate, job_for, notes

from benchmark.training.recorder import Epoch
from cluster.tuning import allocation
from cluster.tuning.hangs import HangCount
from results.store.studies import Note, StudyFolder


def attempt(folder: StudyFolder, note: Note, epochs: int, failure: str = "") -> None:
    """Train a trial up to an epoch once more; without a `failure` it says nothing of its end."""
    (cell,) = folder.trial(note).cells
    with folder.store.recorder(cell) as recorder:
        recorder.start()
        recorder.progress([Epoch(n, 1.0, 1.0, 0.5, 1e-3, 1.0) for n in range(1, epochs + 1)], cell.train.epochs)
        if failure:
            recorder.fail(failure, "")


@pytest.fixture
def reach_the_limit(folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the job of `folder`, whose trials do as they are called to, up to its time limit."""
    file = tmp_path / "tune-0.json"
    file.write_text(job_for(folder).model_copy(update={"requeues": 9}).model_dump_json())
    signals = SimpleNamespace(listen=lambda: None, time_is_up=True, stop=True)
    monkeypatch.setattr(allocation, "Signals", lambda: signals)
    monkeypatch.setattr(allocation.submitit, "JobEnvironment", lambda: SimpleNamespace(job_id="7", global_rank=0))
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def run(train: Callable[[], None]) -> None:
        def run_studies(*arguments: object) -> int:
            train()
            return 0

        monkeypatch.setattr(allocation, "run_studies", run_studies)
        allocation.run_allocation(str(file))

    return run


def test_a_trial_fails_at_the_second_limit_without_an_epoch(
    folder: StudyFolder, reach_the_limit: Callable[..., None]
) -> None:
    hanging, slow, saving, waiting = notes(folder, 4)
    for note in (hanging, slow, saving, waiting):
        folder.write(note)

    def train(limits: int) -> None:
        attempt(folder, hanging, 2)
        attempt(folder, slow, (limits + 1) // 2)  # two time limits for an epoch
        attempt(folder, saving, 0, "time_limit")

    states = []
    for limits in range(3):
        reach_the_limit(partial(train, limits))
        states.append(folder.read_trial(hanging.number).state)
    hang = "failed: hang: 2 times the job reached its time limit without another epoch"
    assert states == ["open", "open", hang]
    assert [folder.read_trial(note.number).state for note in (slow, saving, waiting)] == ["open"] * 3
    assert [folder.read_trial(note.number).note.time_limits for note in (slow, saving, waiting)] == [1, 0, 0]


def test_a_trial_that_was_not_begun_again_does_not_hang(folder: StudyFolder) -> None:
    (note,) = notes(folder, 1)
    fabricate(folder, note, [0.5], state=None)
    for _ in range(3):
        HangCount([folder]).time_is_up()
    assert folder.read_trial(note.number).note == note


def test_a_rank_ends_with_rank_0(folder: StudyFolder, tmp_path: Path) -> None:
    """A rank that waits for rank 0, which was killed before it could say where it listens."""
    file = tmp_path / "tune-0.json"
    file.write_text(job_for(folder).model_copy(update={"ranks": 2}).model_dump_json())
    (note,) = notes(folder, 1)
    folder.write(note)
    command = [sys.executable, "-m", "cluster.tuning.trial", file, folder.study.name, "0", "1", tmp_path / "rendezvous"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as rank:
        assert rank.stdin is not None
        rank.stdin.close()
        assert rank.wait(timeout=120) == 1
