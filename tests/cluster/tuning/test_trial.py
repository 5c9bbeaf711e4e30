"""Training of a trial, its reports to Tune, and its failures."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from support import DATASET, PRESET
from tuning_support import KEEP, MakeSuite, job_for, make_folder

from benchmark.data.dataset import EquivarianceError, Simulation
from benchmark.data.layout import read, write
from benchmark.data.paths import data_path
from benchmark.suite import loading as suites
from benchmark.suite.studies import distinct_studies
from benchmark.training import gpu
from benchmark.training.distributed import World
from cluster.jobs import failures
from cluster.tuning import trial as module
from cluster.tuning.trial import Progress, TrialTask, TrialTraining
from results.store import lease
from results.store.store import Store
from results.store.studies import Effort, Note, StudyFolder

pytest.importorskip("ray")
EPOCHS = 4
CPU = torch.device("cpu")
RANK_0_OF_2 = SimpleNamespace(rank=0, size=2, is_main=True, device=CPU, any=lambda flag: flag)


@pytest.fixture
def folder(store: Store, make_suite: MakeSuite) -> StudyFolder:
    """One study with the note of its default."""
    made = make_folder(store, make_suite, Effort(trials=1), EPOCHS)
    made.write(Note(number=0, settings=made.study.defaults[0], by="default"))
    return made


class StopError(SystemExit):
    """Exception that Tune raises in a trial that it stops."""


def run(folder: StudyFolder, report: Callable[..., object] = lambda result: None, world: Any = None) -> None:
    job = job_for(folder)
    task = TrialTask(job.store / "job.json", job, folder, 0)
    TrialTraining(task, world or World(), job.store, Progress(task, report)).run()


def reports_of(folder: StudyFolder, stop_at: int | None = None) -> list[Mapping[str, float]]:
    """Reports of the trial to Tune, which stops it at epoch `stop_at`."""
    reports: list[Mapping[str, float]] = []

    def report(result: Mapping[str, float]) -> None:
        reports.append(result)
        if result["epoch"] == stop_at:
            raise StopError

    run(folder, report)
    return reports


def two_levels(store: Store) -> None:
    field = read(data_path(store.data_folder, DATASET, PRESET, 0)).field.numpy() * 2
    simulation = Simulation(
        field=field, grid="staggered", divergence_free=False, spacing=8.0, time_step=1.0, parameters={},
        run_parameters=[{} for _ in field], equivariance_errors=[EquivarianceError("rot90", 0.5, 0.25)],
    )  # fmt: skip
    write(data_path(store.data_folder, DATASET, PRESET, 1), DATASET, PRESET, 1, simulation)


def test_levels_go_from_rung_to_rung_and_on_after_an_interruption(store: Store, make_suite: MakeSuite) -> None:
    """A trial that is stopped at a rung has both levels there; when resumed, it reports as without the interruption."""
    two_levels(store)
    path = make_suite(epochs=4)
    path.write_text(path.read_text().replace("level: 0", "level: [0, 1]") + KEEP % ", levels: all")
    (study,) = distinct_studies(suites.load(str(path)))
    folder = StudyFolder(store.root, study)
    folder.begin(Effort(trials=1))
    note = Note(number=0, settings=study.defaults[0], by="default")
    folder.write(note)
    with pytest.raises(StopError):
        reports_of(folder, stop_at=1)
    there = folder.trial(note)
    assert [len(there.records[cell.id].history) for cell in there.cells] == [1, 1]
    assert not there.closed
    reports = reports_of(folder)
    done = folder.trial(note)
    assert done.state == "done"
    assert [result["epoch"] for result in reports] == [1, 3, 4]
    assert [result["validation_rmse"] for result in reports] == [done.curve[0], done.curve[2], done.curve[3]]
    assert done.epochs == 8
    for cell in done.cells:
        assert [epoch.epoch for epoch in done.records[cell.id].history] == [1, 2, 3, 4]
        assert done.records[cell.id].environment["trial"] == 0


def test_a_trial_that_fails_because_of_its_settings_is_closed(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the machine is raised, so that Tune retries the trial."""
    monkeypatch.setattr(module, "run_cell", Mock(side_effect=RuntimeError("Connection reset by peer")))
    with pytest.raises(RuntimeError):
        run(folder)
    assert not folder.read_trial(0).closed
    monkeypatch.setattr(module, "run_cell", Mock(side_effect=ValueError("out of range")))
    (report,) = reports_of(folder)
    assert report["validation_rmse"] == math.inf
    ended = folder.read_trial(0)
    assert ended.closed
    assert ended.state.startswith("failed: code_error: ValueError: out of range")


def test_an_error_of_the_disk_leaves_the_trial_open(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune retries the trial; the traceback is in a log beside the job."""
    monkeypatch.setattr(module, "run_cell", Mock(side_effect=OSError(116, "Stale file handle")))
    with pytest.raises(OSError, match="Stale"):
        run(folder)
    trial = folder.read_trial(0)
    assert not trial.closed
    (record,) = trial.records.values()
    assert (record.status.state, record.status.failure) == ("failed", "machine")
    said = (folder.root.parent.parent / "job-trials.log").read_text()
    assert "trial 0, rank 0\nTraceback" in said
    assert "Stale file handle" in said


@pytest.mark.parametrize("world", [RANK_0_OF_2, World(0, 1, torch.device("cuda"))])
def test_a_process_that_may_be_unusable_ends(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, world: Any) -> None:
    """Another rank may wait in a collective, and a GPU that still works may do so no longer."""
    monkeypatch.setattr(gpu, "works", lambda device: True)
    monkeypatch.setattr(module, "run_cell", Mock(side_effect=ValueError("out of range")))
    with pytest.raises(ValueError, match="out of range"):
        run(folder, world=world)
    assert folder.read_trial(0).state.startswith("failed: code_error: ValueError: out of range (")


def test_a_rank_learns_why_another_rank_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "ERROR_FILE_SECONDS", 0.0)
    alone = RuntimeError("Connection closed by peer")
    lost = ("communication", "RuntimeError: Connection closed by peer")
    main, other = World(0, 2, CPU), World(1, 2, CPU)

    def what_happened(error: Exception, world: World) -> tuple[str, str]:
        return failures.classify_on_rank(failures.classify_exception(error), error, world, tmp_path)

    assert what_happened(alone, main) == lost
    assert what_happened(alone, other) == lost
    assert not list(tmp_path.iterdir())
    what_happened(ValueError("out of range"), other)
    monkeypatch.setattr(failures, "ERROR_FILE_SECONDS", 60.0)
    assert what_happened(alone, main) == ("code_error", "rank 1: ValueError: out of range")
    assert what_happened(MemoryError(), main)[0] == "host_out_of_memory"


def test_a_step_does_not_look_at_the_disk(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_cell(cell: Any, recorder: Any, data: Any, execution: Any, *rest: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(lease, "_highest", lambda folder: pytest.fail("the disk is read"))
            assert not execution.should_stop()
        assert execution.may_save()
        recorder.finish("n/a", {}, "done")

    monkeypatch.setattr(module, "run_cell", run_cell)
    run(folder)
    assert folder.read_trial(0).closed


def test_random_search_does_not_need_optuna(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: name != "optuna")
    monkeypatch.setattr(module.importlib.metadata, "version", {"ray": "2"}.__getitem__)
    run_cell_notes: list[Mapping[str, Any]] = []
    monkeypatch.setattr(module, "run_cell", lambda *arguments, **options: run_cell_notes.append(arguments[4]))
    run(folder)
    assert {key for key in run_cell_notes[0] if key in ("ray", "optuna")} == {"ray"}
