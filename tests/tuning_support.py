"""Studies with fabricated trials, for the tests of tuning."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmark.suite import loading as suites
from benchmark.suite.studies import distinct_studies
from benchmark.training.recorder import Epoch, State
from cluster.tuning.job import TuneJob
from cluster.tuning.proposals import random_settings
from results.store.store import Store
from results.store.studies import Effort, Note, StudyFolder, Trial

MakeSuite = Callable[..., Path]
EPOCHS = 9
KEEP = "tuning: {keep: [hidden, layers, kernel_size]%s}\n"


def make_folder(store: Store, make_suite: MakeSuite, effort: Effort, epochs: int = EPOCHS) -> StudyFolder:
    path = make_suite(epochs=epochs)
    path.write_text(path.read_text() + KEEP % "")
    (study,) = distinct_studies(suites.load(str(path)))
    folder = StudyFolder(store.root, study)
    folder.begin(effort)
    return folder


@pytest.fixture
def folder(store: Store, make_suite: MakeSuite) -> StudyFolder:
    """Study of a ConvNet that was begun with six trials and has none yet."""
    return make_folder(store, make_suite, Effort(trials=6))


def fabricate(folder: StudyFolder, note: Note, rmse: Sequence[float], state: State | None = "done") -> Trial:
    """A trial with a validation curve; without a `state` it is still running."""
    folder.write(note)
    for cell in folder.trial(note).cells:
        with folder.store.recorder(cell) as recorder:
            recorder.start()
            recorder.environment({"devices": 0.5, "device_type": "cuda"})
            history = [Epoch(n, 1.0, 1.0, value, 1e-3, 3600.0) for n, value in enumerate(rmse, start=1)]
            recorder.progress(history, cell.train.epochs)
            if state is not None:
                recorder.finish(state, {"rmse_validation": min(rmse)} if state == "done" else {})
    return folder.trial(note)


def notes(folder: StudyFolder, count: int) -> list[Note]:
    """Notes of the default and of random draws."""
    made = [Note(number=0, settings=folder.study.defaults[0], by="default")]
    for number in range(1, count):
        known = {cell.id for note in made for cell in folder.trial(note).cells}
        settings = random_settings(folder.study, number, known)
        assert settings is not None
        made.append(Note(number=number, settings=settings, by="random"))
    return made


def job_for(folder: StudyFolder) -> TuneJob:
    """A job of one rank that searches the study of `folder` with one trial."""
    return TuneJob(
        store=folder.root.parent.parent, studies=(folder.study,), effort=Effort(trials=1),
        plugins=(), device="cpu", ranks=1, threads=1, node_cpus=1, node_gpus=0,
    )  # fmt: skip
