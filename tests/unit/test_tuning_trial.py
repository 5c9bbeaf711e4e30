"""What a trial does when something goes wrong around it, and those that hold the processes of a search together."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmark import checkpoint, suites
from benchmark.distributed import World, single
from benchmark.errors import MachineError
from benchmark.files import write_json
from benchmark.recorder import Epoch
from benchmark.studies import studies
from cluster import failures
from cluster.signals import Signals
from cluster.tuning import allocation, population, ray_node, supervise
from cluster.tuning import trial as module
from cluster.tuning.job import TuneJob
from cluster.tuning.trial import Progress, train
from results import lease
from results.store import Store
from results.studies import Effort, Note, StudyFolder

pytest.importorskip("ray")
EPOCHS = 4
CPU = torch.device("cpu")


@pytest.fixture
def folder(store: Store, make_suite: Callable[..., Path]) -> StudyFolder:
    """One study with the note of its default."""
    path = make_suite(epochs=EPOCHS)
    path.write_text(path.read_text() + "tuning: {keep: [hidden, layers, kernel_size]}\n")
    (study,) = {study.name: study for study in studies(suites.load(str(path))).values()}.values()
    made = StudyFolder(store.root, study)
    made.begin(Effort(trials=1))
    made.write(Note(number=0, settings=study.defaults[0], by="default"))
    return made


def job_for(folder: StudyFolder, scheduler: Any = "asha") -> TuneJob:
    return TuneJob(
        store=folder.root.parent.parent, studies=(folder.study,), effort=Effort(trials=1, scheduler=scheduler),
        plugins=(), device="cpu", ranks=1, threads=1, node_cpus=1, node_gpus=0,
    )  # fmt: skip


Report = Callable[..., None]


def run(folder: StudyFolder, scheduler: str = "asha", report: Report | None = None, world: Any = None) -> None:
    job, trial = job_for(folder, scheduler), folder.trial(folder.read(0))
    progress = Progress(job, folder, trial, report or (lambda result, checkpoint=None: None))
    train(job, job.store / "job.json", folder, trial, world or single(), progress, job.store)


def failing(error: Exception) -> Callable[..., None]:
    def run_cell(*arguments: Any, **options: Any) -> None:
        raise error

    return run_cell


def of_two(device: str) -> Any:
    """Rank 0 of two, the other of which always agrees."""
    return SimpleNamespace(rank=0, size=2, is_main=True, device=torch.device(device), any=lambda flag: flag)


# Failures


def test_a_disk_that_is_away_is_no_fault_of_the_settings(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raised, so that Tune tries again; where it happened stands beside the job."""
    monkeypatch.setattr(module, "run_cell", failing(OSError(116, "Stale file handle")))
    with pytest.raises(OSError, match="Stale"):
        run(folder)
    trial = folder.trial(folder.read(0))
    assert not trial.closed
    (record,) = trial.records.values()
    assert (record.status.state, record.status.failure) == ("failed", "machine")
    said = (folder.root.parent.parent / "job-trials.log").read_text()
    assert "trial 0, rank 0\nTraceback" in said
    assert "Stale file handle" in said


@pytest.mark.parametrize("world", [of_two("cpu"), World(0, 1, torch.device("cuda"))])
def test_a_process_that_may_be_lost_is_not_used_again(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, world: Any
) -> None:
    """Another rank may wait in a collective, and a GPU may refuse everything after an error."""
    monkeypatch.setattr(module, "run_cell", failing(ValueError("out of range")))
    with pytest.raises(ValueError, match="out of range"):
        run(folder, world=world)
    assert folder.trial(folder.read(0)).state == "failed: code_error: ValueError: out of range"


def test_a_rank_that_was_left_alone_hears_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "WORD_SECONDS", 0.0)
    alone, lost = (
        RuntimeError("Connection closed by peer"),
        ("communication", "RuntimeError: Connection closed by peer"),
    )
    main, other = World(0, 2, CPU), World(1, 2, CPU)

    def what_happened(error: Exception, world: World) -> tuple[str, str]:
        return failures.of_ranks(failures.of_exception(error), error, world, tmp_path)

    assert what_happened(alone, main) == lost
    assert what_happened(alone, other) == lost
    assert not list(tmp_path.iterdir())
    what_happened(ValueError("out of range"), other)
    monkeypatch.setattr(failures, "WORD_SECONDS", 60.0)
    assert what_happened(alone, main) == ("code_error", "rank 1: ValueError: out of range")
    assert what_happened(MemoryError(), main)[0] == "host_out_of_memory"  # what is its own, it says


def test_a_step_does_not_look_at_the_disk(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_cell(cell: Any, recorder: Any, world: Any, data: Any, control: Any, *rest: Any, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(lease, "_highest", lambda folder: pytest.fail("looked at the disk"))
            assert not control.stop()
        assert control.is_ours()
        recorder.finish("n/a", {}, "looked at")

    monkeypatch.setattr(module, "run_cell", run_cell)
    run(folder)
    assert folder.trial(folder.read(0)).closed


def test_random_search_does_without_optuna(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: name != "optuna")
    monkeypatch.setattr(module.importlib.metadata, "version", {"ray": "2"}.__getitem__)
    run_cell_notes: list[Mapping[str, Any]] = []
    monkeypatch.setattr(module, "run_cell", lambda *arguments, **options: run_cell_notes.append(arguments[5]))
    run(folder)
    assert {key for key in run_cell_notes[0] if key in ("ray", "optuna")} == {"ray"}


# A population


def test_others_go_on_from_the_weights_of_the_epoch_that_was_told(
    folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the checkpoint takes to be written; and nothing is left behind."""
    written, epochs, handed = checkpoint._write, [], []
    monkeypatch.setenv(ray_node.NODE_FOLDER, str(tmp_path / "node"))
    (tmp_path / "node").mkdir()

    def write_slowly(state: dict[str, Any], path: Path) -> None:
        time.sleep(0.2)
        written(state, path)

    def report(result: Mapping[str, Any], checkpoint: Any = None) -> None:
        if checkpoint is not None:
            epochs.append((result["epoch"], held(folder, result["epoch"])))
            handed.append(Path(checkpoint.path))
            assert handed[-1].parent == tmp_path / "node"
            assert handed[-1].exists()

    monkeypatch.setattr(checkpoint, "_write", write_slowly)
    run(folder, "pbt", report)
    assert epochs == [(n, n) for n in range(1, EPOCHS + 1)]
    assert len(set(handed)) == EPOCHS
    assert not list((tmp_path / "node").iterdir())


def held(folder: StudyFolder, epoch: int) -> int:
    """So many epochs are in what another one would go on from."""
    population.hold(folder, 7, 0, epoch)
    return len(checkpoint.read(folder.root / "trials" / "followed-by-0007.pt")["history"])


def test_a_snapshot_is_of_the_last_training_to_its_epoch(folder: StudyFolder) -> None:
    """A member that has followed another one comes to an epoch twice; one that is taken up may be further already."""
    trial = folder.trial(folder.read(0))
    kept = folder.store.cell_folder(trial.cells[0].id) / "checkpoint.pt"
    kept.parent.mkdir(parents=True)

    def snapshot(content: str, just_trained: bool) -> str:
        kept.unlink(missing_ok=True)
        kept.write_text(content)
        for _ in range(2):  # the second time both are one file already
            population.keep_snapshot(folder, trial, 3, just_trained)
        population.hold(folder, 7, 0, 3)
        return (folder.root / "trials" / "followed-by-0007.pt").read_text()

    assert snapshot("first", False) == "first"
    assert snapshot("in the middle of epoch 4", False) == "first"
    assert snapshot("second", True) == "second"


def test_a_member_has_no_part_in_what_its_parent_had_reached(folder: StudyFolder) -> None:
    note = folder.read(0).model_copy(update={"since": 2, "parent": 5})
    (cell,) = folder.trial(note).cells

    def trial(*rmse: float) -> Any:
        with folder.store.recorder(cell) as recorder:
            assert recorder is not None
            recorder.start()
            recorder.progress([Epoch(n, 1.0, 1.0, value, 1e-3, 1.0) for n, value in enumerate(rmse, 1)], EPOCHS)
        return folder.trial(note)

    assert trial(0.3, 0.1).value == math.inf
    member = trial(0.3, 0.1, 0.5, 0.4)
    assert member.curve == [0.3, 0.1, 0.5, 0.4]
    assert member.value == 0.4
    assert trial(0.3, 0.1, 0.2, 0.4).curve == [0.3, 0.1, 0.2, 0.2]


# Nodes


def there(head: bool = True, address: str = "10.0.0.1:5") -> Any:
    return SimpleNamespace(alive=head, address=address)


@pytest.mark.parametrize(("asked", "status"), [(True, 0), (False, None)])
def test_a_driver_that_ends_with_the_whole_step_is_not_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool, status: int | None
) -> None:
    @contextmanager
    def driver(*arguments: Any) -> Iterator[Any]:
        yield SimpleNamespace(poll=lambda: -15, returncode=-15)

    monkeypatch.setattr(supervise, "_driver", driver)
    job = tmp_path / "job.json"
    assert supervise._drive(job, tmp_path, "127.0.0.1", there(), lambda: asked, 60.0) == status


def test_a_node_joins_the_same_head_again(
    folder: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it could not, and where it was lost; once it was told to end, it does not."""
    meeting, joined, signals = tmp_path / "ray.json", [], Signals()
    write_json(meeting, {"address": "10.0.0.1:5"})

    @contextmanager
    def running(log: Path, token: Path, ip: str, cpus: int, gpus: int, head: str) -> Iterator[Any]:
        joined.append(head)
        if len(joined) == 1:
            raise MachineError("Ray does not start")
        signals.terminated = len(joined) == 3
        yield there(head=False)

    monkeypatch.setattr(allocation, "running", running)
    monkeypatch.setattr(allocation, "address_towards", lambda host: host)
    monkeypatch.setattr(allocation, "POLL_SECONDS", 0.0)
    allocation._join(job_for(folder), tmp_path / "job.json", meeting, signals)
    assert joined == ["10.0.0.1:5"] * 3
    assert "Ray does not start" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "time_is_up", "ends_with"), [(0, False, None), (1, False, 1), (1, True, None)])
def test_a_job_that_came_to_nothing_has_failed(
    folder: StudyFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    time_is_up: bool,
    ends_with: int | None,
) -> None:
    """Unless it is put back into the queue."""
    file = tmp_path / "tune-0.json"
    file.write_text(job_for(folder).model_copy(update={"requeues": 1}).model_dump_json())
    signals = SimpleNamespace(listen=lambda: None, time_is_up=time_is_up, stop=False)
    task = SimpleNamespace(job_id="7", global_rank=0)
    monkeypatch.setattr(allocation, "Signals", lambda: signals)
    monkeypatch.setattr(allocation.submitit, "JobEnvironment", lambda: task)
    monkeypatch.setattr(allocation, "run_studies", lambda *arguments: status)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    if ends_with is None:
        allocation.run_allocation(str(file))
    else:
        with pytest.raises(SystemExit) as end:
            allocation.run_allocation(str(file))
        assert end.value.code == ends_with
    assert json.loads((tmp_path / "ray-tune-0-7-0.json").read_text()) == {"over": True}


def test_ray_does_not_listen_to_the_whole_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_node, "sweep", lambda: pytest.fail("it has begun"))
    public = ray_node.running(tmp_path / "log", tmp_path / "token", "8.8.8.8", 1, 0)
    with pytest.raises(MachineError, match=r"8\.8\.8\.8: Ray would listen on a public address"), public:
        pass
