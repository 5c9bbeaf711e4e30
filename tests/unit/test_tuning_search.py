"""What is tried next and who may go on, without a Ray that runs: all of it is made anew from a study's folder."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from benchmark import cli_tune, registry, suites
from benchmark.cell import Cell
from benchmark.errors import MachineError, UserError
from benchmark.files import write_json
from benchmark.recorder import Epoch, State
from benchmark.studies import studies
from benchmark.study import TUNING_SEED, trial_cells
from benchmark.suite import Range
from cluster import tune
from cluster.tuning import population
from cluster.tuning.job import TuneJob, first_rung, rungs
from cluster.tuning.proposals import Novelty, OptunaProposals, RandomProposals
from cluster.tuning.summary import conclude, is_complete
from cluster.tuning.trial import Progress, train
from results import report, tuning
from results.store import Store
from results.studies import Effort, Note, StudyFolder, Trial

pytest.importorskip("ray")
pytest.importorskip("optuna")
MakeSuite = Callable[..., Path]
EPOCHS = 9
KEEP = "tuning: {keep: [hidden, layers, kernel_size]%s}\n"


def make_folder(
    store: Store, make_suite: MakeSuite, effort: Effort, epochs: int = EPOCHS, more: str = ""
) -> StudyFolder:
    path = make_suite(epochs=epochs)
    path.write_text(path.read_text() + KEEP % more)
    (study,) = {study.name: study for study in studies(suites.load(str(path))).values()}.values()
    folder = StudyFolder(store.root, study)
    folder.begin(effort)
    return folder


@pytest.fixture
def folder(store: Store, make_suite: MakeSuite) -> StudyFolder:
    return make_folder(store, make_suite, Effort(trials=6))


def fabricate(folder: StudyFolder, note: Note, rmse: Sequence[float], state: State | None = "done") -> Trial:
    """A trial with that validation curve; running, where its state is None."""
    folder.write(note)
    for cell in folder.trial(note).cells:
        with folder.store.recorder(cell) as recorder:
            assert recorder is not None
            recorder.start()
            recorder.environment({"devices": 0.5, "device_type": "cuda"})
            history = [Epoch(n, 1.0, 1.0, value, 1e-3, 3600.0) for n, value in enumerate(rmse, start=1)]
            recorder.progress(history, cell.train.epochs)
            if state is not None:
                recorder.finish(state, {"rmse_validation": min(rmse)} if state == "done" else {})
    return folder.trial(note)


def notes(folder: StudyFolder, count: int) -> list[Note]:
    """The default and random draws."""
    made = [Note(number=0, settings=folder.study.defaults[0], by="default")]
    is_new = Novelty(folder.study, [folder.trial(made[0])])
    for number in range(1, count):
        settings = RandomProposals(folder.study).propose(number, is_new)
        assert settings is not None
        made.append(Note(number=number, settings=settings, by="random"))
        is_new.add(folder.trial(made[-1]))
    return made


def ledger_of(folder: StudyFolder, effort: Effort) -> Any:
    from cluster.tuning.search import Ledger

    return Ledger(folder, effort, lambda: False)


def ray_trial(number: int) -> Any:
    return SimpleNamespace(trial_id=f"ray-{number}", config={"trial": number})


def test_the_rungs_are_epochs() -> None:
    train_settings = Cell.model_fields["train"].annotation
    assert train_settings is not None
    effort = Effort(trials=1)
    assert rungs(effort, train_settings(epochs=20)) == [2, 6, 18, 20]
    assert rungs(effort, train_settings(epochs=1000)) == [11, 33, 99, 297, 891, 1000]
    assert rungs(effort, train_settings(epochs=1)) == [1]
    assert rungs(Effort(trials=1, scheduler="none"), train_settings(epochs=20)) == [20]
    assert first_rung(train_settings(epochs=1000, early_stop_after=None)) == 111


def test_it_goes_on_with_what_was_begun_and_never_again_with_what_is_finished(folder: StudyFolder) -> None:
    """Also where the search before had died between any two of its writes."""
    made = notes(folder, 4)
    fabricate(folder, made[0], [0.5] * EPOCHS)
    fabricate(folder, made[1], [0.4] * 3, state=None)  # its process died
    fabricate(folder, made[2].model_copy(update={"ended": "stopped by asha at epoch 1"}), [0.9], state=None)
    folder.write(made[3])  # it had not begun
    effort = Effort(trials=6)
    ledger = ledger_of(folder, effort)
    given = [ledger.next() for _ in range(5)]
    assert [note and note.number for note in given] == [1, 3, 4, 5, None]
    assert [note.number for note in given[:2] if note] == [1, 3]
    assert [folder.read(number) for number in (4, 5)] == given[2:4]
    # The draw of a trial is the same whoever makes it: the same search without an interruption.
    undisturbed = notes(folder, 6)
    assert [note.settings for note in given[2:4] if note] == [note.settings for note in undisturbed[4:]]
    assert ledger_of(folder, effort).next() == given[0]


def test_asha_compares_with_the_trials_of_before(folder: StudyFolder) -> None:
    """Of a new ASHA the first trial passes every rung; one that remembers stops it."""
    from cluster.tuning.search import Asha

    for note, value in zip(notes(folder, 4), (0.9, 0.1, 0.2, 0.3), strict=True):
        fabricate(folder, note, [value] * EPOCHS)
    ledger = ledger_of(folder, Effort(trials=6))
    asha = Asha(ledger)
    note = ledger.next()
    assert note is not None
    trial = ray_trial(note.number)
    ledger.running[trial.trial_id] = note
    asha.on_trial_add(None, trial)
    assert asha.on_trial_result(None, trial, {"epoch": 1, "validation_rmse": 0.05}) == "CONTINUE"
    assert asha.on_trial_result(None, trial, {"epoch": 3, "validation_rmse": 0.25}) == "STOP"
    assert folder.read(note.number).ended == "stopped by asha at epoch 3"
    assert ledger.finished(trial.trial_id) is not None


def test_the_defaults_have_their_whole_time(folder: StudyFolder) -> None:
    """So that what is found is compared with them as `run` would train them."""
    from cluster.tuning.search import Asha

    for note in notes(folder, 4)[1:]:
        fabricate(folder, note, [0.1] * EPOCHS)
    fabricate(folder, notes(folder, 1)[0], [0.8], state=None)
    ledger = ledger_of(folder, Effort(trials=6))
    asha = Asha(ledger)
    note = ledger.next()
    assert (note.number, note.by) == (0, "default")
    trial = ray_trial(0)
    ledger.running[trial.trial_id] = note
    asha.on_trial_add(None, trial)
    decisions = [asha.on_trial_result(None, trial, {"epoch": n, "validation_rmse": 0.8}) for n in range(1, EPOCHS + 1)]
    assert set(decisions) == {"CONTINUE"}


def test_nobody_is_stopped_at_the_last_epoch(folder: StudyFolder) -> None:
    from cluster.tuning.search import Asha

    for note in notes(folder, 4):
        fabricate(folder, note, [0.1] * EPOCHS)
    ledger = ledger_of(folder, Effort(trials=6))
    asha, note = Asha(ledger), ledger.next()
    trial = ray_trial(note.number)
    ledger.running[trial.trial_id] = note
    asha.on_trial_add(None, trial)
    assert asha.on_trial_result(None, trial, {"epoch": EPOCHS, "validation_rmse": 0.5}) == "CONTINUE"


def test_hours_end_a_study(folder: StudyFolder) -> None:
    """Half a GPU for nine hours each: two trials are nine hours."""
    from cluster.tuning.search import Hours

    made = notes(folder, 3)
    fabricate(folder, made[0], [0.5] * EPOCHS)
    effort = Effort(hours=9.0)
    ledger = ledger_of(folder, effort)
    assert not ledger.exhausted
    note = ledger.next()
    ledger.running["a"] = note
    fabricate(folder, note, [0.4] * 9, state=None)
    hours = Hours(ledger)
    assert not hours("a", {"device_hours": 4.0})
    assert not hours.stop_all()
    hours("a", {"device_hours": 4.5})
    assert hours.stop_all()
    ended = ledger.finished("a")
    assert ended is not None
    assert ended.state == "stopped when the hours were spent"
    assert ended.value == 0.4
    assert ledger.next() is None


def test_what_ray_drops_when_the_hours_are_spent_is_ended(folder: StudyFolder) -> None:
    """What had not begun is no trial, and is the next one where more hours are given; the default, too."""
    made = notes(folder, 3)
    folder.write(made[0])
    fabricate(folder, made[1], [0.4] * EPOCHS)
    fabricate(folder, made[2], [0.3], state=None)
    few, more = Effort(hours=4.6), Effort(hours=9.0)
    ledger_of(folder, more).end_open()  # not spent yet
    assert [trial.closed for trial in folder.trials()] == [False, True, False]
    ledger_of(folder, few).end_open()
    assert [trial.state for trial in folder.trials()] == ["done", "stopped when the hours were spent"]
    assert is_complete(folder, few, folder.trials())
    assert "by trial 2 of 2, no RMSE of the default" in conclude(folder, few)
    ledger = ledger_of(folder, more)
    given = [ledger.next() for _ in range(2)]
    assert [note.number for note in given] == [0, 3]
    assert given[0] == made[0]


def test_what_is_killed_again_and_again_has_failed(folder: StudyFolder) -> None:
    """What its machine failed stays open, and so does what was killed less often than Ray tries."""
    from cluster.tuning.search import FAILURES, LedgerSearch

    ledger = ledger_of(folder, Effort(trials=6))
    search = LedgerSearch(ledger, folder.root / "job.json")

    def complete(note: Note, starts: int, failure: str = "", error: bool = True) -> Trial:
        ledger.running["a"] = note
        folder.write(note)
        (cell,) = folder.trial(note).cells
        for _ in range(starts):
            with folder.store.recorder(cell) as recorder:
                assert recorder is not None
                recorder.start()
                if failure:
                    recorder.fail(failure, "")
        search.on_trial_complete("a", error=error)
        return folder.trial(folder.read(note.number))

    first, second, third, fourth = notes(folder, 4)
    killed = complete(first, FAILURES + 1)
    assert killed.state == "failed: killed: its process died 4 times"
    assert killed.value == math.inf
    assert ledger.closed[0].closed
    assert not complete(second, FAILURES + 1, failure="machine").closed
    assert not complete(third, FAILURES).closed
    assert not complete(fourth, FAILURES + 1, error=False).closed


@pytest.mark.parametrize("value", [math.inf, 0.3])
def test_optuna_learns_from_the_trials_of_before(folder: StudyFolder, value: float) -> None:
    """Told that only slow learning is good, it proposes slow learning; new settings, and within the space."""
    study = folder.study
    learning_rates = study.space["train.learning_rate"]
    assert isinstance(learning_rates, Range)
    proposals = OptunaProposals(study, 0)
    is_new = Novelty(study, [])
    for number in range(40):
        settings = RandomProposals(study).propose(number, is_new)
        assert settings is not None
        cells = trial_cells(study, settings)
        assert cells is not None
        is_slow = settings["train.learning_rate"] < 3e-4
        told = Trial(Note(number=number, settings=settings, by="random"), cells, {})
        object.__setattr__(told, "curve", [0.1 if is_slow else value])
        is_new.add(told)
        proposals.tell(told)
    proposed = [proposals.propose(number, is_new) for number in range(40, 50)]
    slow = 0
    for settings in proposed:
        assert settings is not None
        assert is_new(settings)
        assert learning_rates.low <= settings["train.learning_rate"] <= learning_rates.high
        assert settings["train.batch_size"] in study.space["train.batch_size"]  # type: ignore[operator]
        slow += settings["train.learning_rate"] < 3e-4
    assert slow >= 7  # 2.4 of ten at random
    proposals.tell(
        Trial(notes(folder, 1)[0].model_copy(update={"settings": {**study.defaults[0], "train.batch_size": 5}}), (), {})
    )


def test_a_space_that_is_used_up_ends_the_search(store: Store, make_suite: MakeSuite) -> None:
    keep = "hidden, layers, kernel_size, learning_rate_decay, weight_decay, batch_size, rollout_steps"
    path = make_suite()
    path.write_text(f"{path.read_text()}tuning: {{keep: [{keep}], train: {{learning_rate: [1e-3, 1e-2]}}}}\n")
    (study,) = studies(suites.load(str(path))).values()
    made = StudyFolder(store.root, study)
    made.begin(Effort(trials=5))
    for search in ("random", "optuna"):
        ledger = ledger_of(made, Effort(trials=5, search=search))
        given = [ledger.next() for _ in range(4)]
        assert [note is not None for note in given] == [True, True, False, False]
        assert ledger.used_up
        for path in (made.root / "trials").iterdir():
            path.unlink()
    ledger = ledger_of(made, Effort(trials=5))
    for _ in range(2):
        fabricate(made, ledger.next(), [0.5] * 3)
    assert not is_complete(made, Effort(trials=5), made.trials())
    conclude(made, Effort(trials=5), used_up=True)
    assert tune.open_studies([study], Effort(trials=6), store) == []
    assert is_complete(made, Effort(trials=6), made.trials())  # it was said again
    (made.root / "trials" / "0001.json").unlink()  # begun anew
    assert not is_complete(made, Effort(trials=6), made.trials())


# A trial in this process


def job_for(folder: StudyFolder, store: Store, effort: Effort) -> TuneJob:
    return TuneJob(
        store=store.root, studies=(folder.study,), effort=effort, plugins=(), device="cpu", ranks=1, threads=1,
        node_cpus=1, node_gpus=0,
    )  # fmt: skip


class StopError(SystemExit):
    """What Tune raises in a trial that it stops."""


def run(
    folder: StudyFolder, store: Store, effort: Effort, note: Note, stop_at: int | None = None
) -> list[Mapping[str, float]]:
    from benchmark.distributed import single

    told: list[Mapping[str, float]] = []

    def report(result: Mapping[str, float], checkpoint: object = None) -> None:
        told.append(result)
        if result["epoch"] == stop_at:
            raise StopError

    job = job_for(folder, store, effort)
    trial = folder.trial(note)
    train(job, store.root / "job.json", folder, trial, single(), Progress(job, folder, trial, report))
    return told


def two_levels(store: Store) -> None:
    from support import DATASET, PRESET

    from benchmark.data.dataset import EquivarianceError, Simulation
    from benchmark.data.layout import data_path, read, write

    zero = data_path(store.data_folder, DATASET, PRESET, 0)
    field = read(zero).field.numpy() * 2
    simulation = Simulation(
        field=field, grid="staggered", divergence_free=False, spacing=8.0, time_step=1.0, parameters={},
        run_parameters=[{} for _ in field], equivariance_errors=[EquivarianceError("rot90", 0.5, 0.25)],
    )  # fmt: skip
    write(data_path(store.data_folder, DATASET, PRESET, 1), DATASET, PRESET, 1, simulation)


def test_levels_go_from_rung_to_rung_and_on_after_an_interruption(store: Store, make_suite: MakeSuite) -> None:
    """Stopped at a rung, a trial has both levels there; it goes on, and tells what it would have told."""
    two_levels(store)
    effort = Effort(trials=1)
    path = make_suite(epochs=4)
    path.write_text(path.read_text().replace("level: 0", "level: [0, 1]") + KEEP % ", levels: all")
    study = next(iter(studies(suites.load(str(path))).values()))
    folder = StudyFolder(store.root, study)
    folder.begin(effort)
    note = Note(number=0, settings=study.defaults[0], by="default")
    folder.write(note)
    with pytest.raises(StopError):
        run(folder, store, effort, note, stop_at=1)
    there = folder.trial(note)
    assert [len(there.records[cell.id].history) for cell in there.cells] == [1, 1]
    assert not there.closed
    told = run(folder, store, effort, note)
    done = folder.trial(note)
    assert done.state == "done"
    assert [result["epoch"] for result in told] == [1, 3, 4]
    assert [result["validation_rmse"] for result in told] == [done.curve[0], done.curve[2], done.curve[3]]
    assert done.epochs == 8
    for cell in done.cells:
        (alone,) = (r for r in [done.records[cell.id]])
        assert [epoch.epoch for epoch in alone.history] == [1, 2, 3, 4]
        assert alone.environment["trial"] == 0


def test_a_trial_that_fails_by_its_settings_is_at_its_end(
    folder: StudyFolder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fails by its machine is raised, so that Tune tries again."""
    from cluster.tuning import trial as module

    note = notes(folder, 1)[0]
    folder.write(note)

    def fail(error: Exception) -> Callable[..., None]:
        def run_cell(*arguments: Any, **options: Any) -> None:
            raise error

        return run_cell

    monkeypatch.setattr(module, "run_cell", fail(RuntimeError("Connection reset by peer")))
    with pytest.raises(RuntimeError):
        run(folder, store, Effort(trials=1), note)
    assert not folder.trial(folder.read(0)).closed
    monkeypatch.setattr(module, "run_cell", fail(ValueError("out of range")))
    (told,) = run(folder, store, Effort(trials=1), note)
    assert told["validation_rmse"] == math.inf
    ended = folder.trial(folder.read(0))
    assert ended.closed
    assert ended.state.startswith("failed: code_error: ValueError: out of range")


def test_what_diverges_is_the_worst(folder: StudyFolder) -> None:
    made = notes(folder, 2)
    trial = fabricate(folder, made[0], [0.1, 0.2], "diverged")
    assert trial.closed
    assert trial.value == math.inf
    other = fabricate(folder, made[1], [5.0] * EPOCHS)
    document = folder.freeze(Effort(trials=2), [trial, other])
    assert document["found"]["trial"] == 1
    assert document["found"]["rmse_validation_default"] is None


# What is shown of it


def test_the_ledger_tells_who_was_tuned_and_warns(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(models="[persistence, {convnet: {hidden: 4}}, {e2cnn: {hidden: 2}}]", epochs=EPOCHS)
    path.write_text(path.read_text() + KEEP % "")
    suite = suites.load(str(path))
    assert tuning.spent_by(suite, {}, store) == []
    found = {study.model.name: study for study in studies(suite).values()}
    folder = StudyFolder(store.root, found["convnet"])
    folder.begin(Effort(trials=2))
    trials = [fabricate(folder, note, [0.5 / (n + 1)] * EPOCHS) for n, note in enumerate(notes(folder, 2))]
    folder.freeze(Effort(trials=2), trials)
    tuned = suites.load(str(path), store.root, tuned=True, partly=True)
    left_out = "not tuned, and so not on this board: e2cnn on smoke_rotation_levels level 0"
    assert tuning.left_out(tuned) == left_out
    assert left_out in report.render(store, tuned, {}, [])
    from support import symbench

    assert left_out in symbench("leaderboard", path, "--tuned", store=store).stderr
    assert tuning.left_out(suites.load(str(path), store.root, tuned=True, only="model=convnet", partly=True)) == ""
    with pytest.raises(UserError, match="not tuned in store"):
        suites.load(str(path), store.root, tuned=True, only="model=e2cnn", partly=True)
    ledger = {line.model: line for line in tuning.spent_by(tuned, {}, store)}
    assert set(ledger) == {"convnet"}
    line = ledger["convnet"]
    assert (line.family, line.settings, line.trials, line.epochs) == ("cnn", "tuned", 2, 2 * EPOCHS)
    assert line.device_hours == pytest.approx(EPOCHS)
    assert line.devices == "GPU"
    assert line.gain == pytest.approx(0.5)
    assert tuning.warnings_of(list(ledger.values())) == []
    mixed = [line, tuning._line(found["e2cnn"], None)]
    (warning,) = tuning.warnings_of(mixed)
    assert "convnet: 2 trials (random, asha); e2cnn: default settings" in warning
    timed = replace(line, limit=2.0, trials=3)  # who has the same hours may have another number of trials
    assert tuning.warnings_of([timed, replace(timed, model="e2cnn", trials=5)]) == []
    folder.result_path.write_text("spent: 3\n")
    (broken,) = (one for one in tuning.spent_by(tuned, {}, store) if one.model == "convnet")
    assert broken.settings == f"{folder.result_path.name} cannot be read"


def test_figures_and_runs_of_a_study(folder: StudyFolder, store: Store) -> None:
    """Names are escaped, a single trial and a diverged one are drawn as well, and each trial stands below its study."""
    import xml.etree.ElementTree as ElementTree

    made = notes(folder, 3)
    suite = suites.load(str(next(store.root.parent.glob("tiny.yaml"))))
    for count, (note, rmse, state) in enumerate(
        [(made[0], [0.5] * EPOCHS, "done"), (made[1], [0.4] * EPOCHS, "done"), (made[2], [], "diverged")], 1
    ):
        fabricate(folder, note, rmse, state)  # type: ignore[arg-type]
        for plot in tuning.figures_of(folder):
            assert plot.svg is not None
            lines = ElementTree.fromstring(plot.svg)
            assert lines.tag.endswith("svg")
        runs = tuning.mlflow_runs(suite, store)
        assert [run.parent for run in runs] == ["", *[runs[0].key] * count]
    (curves,) = tuning.figures_of(folder)
    assert curves.svg is not None
    assert "trial 0 (default)" in curves.svg
    by_trial = {dict(run.tags).get("symbench.trial"): run for run in tuning.mlflow_runs(suite, store)}
    assert {name: value for name, value, _, _ in by_trial["1"].metrics}["rmse_validation"] == 0.4
    assert by_trial["2"].tags["symbench.state"] == "diverged"


# A population


def test_a_member_goes_on_from_another_ones_weights_with_settings_of_its_own(
    store: Store, make_suite: MakeSuite
) -> None:
    """The same as if its parent had changed its mind at that epoch; what the parent spent is not counted twice."""
    effort = Effort(trials=4, scheduler="pbt")
    folder = make_folder(store, make_suite, effort, epochs=4)
    defaults = folder.study.defaults[0]
    parent = Note(number=0, settings=defaults, by="default")
    member = Note(number=1, settings={**defaults, "train.learning_rate": 2e-3}, by="random", seed=TUNING_SEED + 1)
    for note in (parent, member):
        folder.write(note)
        with pytest.raises(StopError):
            run(folder, store, effort, note, stop_at=2)
    settings = {**defaults, "train.learning_rate": 4e-4, "train.learning_rate_decay": 0.5, "train.batch_size": 4}
    population.hold(folder, 1, 0, 2)
    told = run(folder, store, effort, parent)  # it goes on; what is held stays
    assert [result["epoch"] for result in told] == [2, 3, 4]
    followed = population.follow(folder, folder.read(1), settings, 0, 2)
    assert folder.read(1) == followed
    assert (followed.parent, followed.since, followed.epochs_before, followed.by) == (0, 2, 2, "pbt")
    run(folder, store, effort, followed)
    trial, first = folder.trial(followed), folder.trial(parent)
    assert trial.state == "done"
    history = trial.records[trial.cells[0].id].history
    assert list(history[:2]) == list(first.records[first.cells[0].id].history[:2])
    assert [epoch.learning_rate for epoch in history[2:]] == pytest.approx([4e-4 * 0.5**2, 4e-4 * 0.5**3])
    assert (trial.epochs, first.epochs) == (4, 4)
    assert trial.cells[0].seed == TUNING_SEED + 1
    document = folder.freeze(effort, folder.trials())
    assert document["spent"]["epochs"] == 8
    assert document["effort"]["seeds"] == [TUNING_SEED, TUNING_SEED + 1]
    population.clear(folder)
    assert not list((folder.root / "trials").glob("*.pt"))


def test_the_worst_follow_the_best_and_the_default_follows_nobody(store: Store, make_suite: MakeSuite) -> None:
    from cluster.tuning.search import Population

    folder = make_folder(store, make_suite, Effort(trials=8, scheduler="pbt"), epochs=10)
    ledger = ledger_of(folder, Effort(trials=8, scheduler="pbt"))
    scheduler = Population(ledger)
    members = []
    for number in range(8):
        note = ledger.next()
        assert note.seed == TUNING_SEED + number
        assert {k: v for k, v in note.settings.items() if k not in scheduler.domains} == {}
        trial = SimpleNamespace(
            trial_id=str(number), config={"trial": number, "settings": note.settings}, is_finished=lambda: False
        )
        members.append(trial)
    states = [SimpleNamespace(last_score=score, last_train_time=2) for score in (-9, -8, -7, -1, -2, -3, -4, -5)]
    for trial in members:
        ledger.running[trial.trial_id] = folder.read(trial.config["trial"])
    scheduler._trial_state = Ordered(members, states)
    worst, best = scheduler._quantiles()
    assert [trial.config["trial"] for trial in worst] == [1, 2]
    assert [trial.config["trial"] for trial in best] == [4, 3]


class Ordered:
    """A mapping whose keys need no hash."""

    def __init__(self, keys: list[Any], values: list[Any]) -> None:
        self.keys_, self.values_ = keys, values

    def __iter__(self) -> Any:
        return iter(self.keys_)

    def __getitem__(self, key: Any) -> Any:
        return next(value for one, value in zip(self.keys_, self.values_, strict=True) if one is key)


def test_a_population_is_of_one_level(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite()
    path.write_text(path.read_text().replace("level: 0", "level: [0, 1]") + KEEP % ", levels: all")
    study = next(iter(studies(suites.load(str(path))).values()))
    with pytest.raises(UserError, match="for studies of one level"):
        population.require_one_level(study)


def test_models_that_are_not_tuned_alike_are_named(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(models="[persistence, {convnet: {hidden: 4}}, {e2cnn: {hidden: 2}}]", epochs=EPOCHS)
    suite = suites.load(str(path))
    convnet, e2cnn = {study.name: study for study in studies(suite).values()}.values()
    both, one = [convnet, e2cnn], [convnet]
    assert tune.inequalities(suite, both, Effort(trials=2), store) == []
    (told,) = tune.inequalities(suite, one, Effort(trials=2), store)
    assert "e2cnn: is not tuned at all, convnet is" in told
    StudyFolder(store.root, e2cnn).begin(Effort(trials=2))
    assert tune.inequalities(suite, one, Effort(trials=2), store) == []
    for effort in (Effort(trials=3), Effort(hours=1.0), Effort(trials=2, search="optuna")):
        (told,) = tune.inequalities(suite, one, effort, store)
        assert "was tuned with 2 trials (random, asha), convnet with" in told
    folder = StudyFolder(store.root, convnet)
    folder.begin(Effort(trials=2))
    for note in notes(folder, 3):
        fabricate(folder, note, [0.5] * EPOCHS)
    (told,) = tune.inequalities(suite, both, Effort(trials=2), store)
    assert "has 3 trials already, others would have 2" in told
    (told,) = tune.inequalities(suite, one, Effort(trials=2), store)
    assert "was tuned with 2 trials (random, asha), convnet with 3 trials" in told
    assert tune.inequalities(suite, both, Effort(trials=3), store) == []
    folder = StudyFolder(store.root, e2cnn)
    for note in notes(folder, 3):
        fabricate(folder, note, [0.5] * EPOCHS)
    for chosen in (both, one):  # all have three
        assert tune.inequalities(suite, chosen, Effort(trials=2), store) == []
    other = e2cnn.model_copy(update={"space": {**e2cnn.space, "train.learning_rate": (1e-3,)}})
    assert other.training_space != convnet.training_space


def test_a_dry_run_names_what_is_not_alike_and_refuses_nothing(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(models="[{convnet: {hidden: 4}}, {e2cnn: {hidden: 2}}]", epochs=EPOCHS)
    arguments = [str(path), "--only", "model=convnet", "--store", str(store.root)]
    shown = CliRunner().invoke(cli_tune.tune, [*arguments, "--dry-run"])
    assert shown.exit_code == 0
    assert "e2cnn: is not tuned at all, convnet is" in shown.output
    refused = CliRunner().invoke(cli_tune.tune, arguments)
    assert "would not be tuned alike" in str(refused.exception)


def test_several_settings_in_the_suite_are_as_many_trials(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(models="[{convnet: {hidden: [4, 8]}}, {e2cnn: {hidden: 2}}]", epochs=EPOCHS)
    suite = suites.load(str(path))
    both = list({study.name: study for study in studies(suite).values()}.values())
    (told,) = tune.inequalities(suite, both, Effort(trials=2), store)
    assert "e2cnn: the suite writes 1 settings, and 2 of convnet" in told
    with pytest.raises(UserError, match="--trials 2 at least"):
        tune.open_studies(both, Effort(trials=1), store)


def test_a_study_that_was_begun_otherwise_is_refused_before_anything_starts(folder: StudyFolder, store: Store) -> None:
    with pytest.raises(UserError, match="its search is another one"):
        tune.open_studies([folder.study], Effort(trials=6, search="optuna"), store)
    assert folder.begun().effort == Effort(trials=6)


def test_ray_and_optuna_are_imported_by_nobody_who_does_not_tune() -> None:
    code = (
        "import sys, benchmark.cli, cluster.tune, cluster.worker, cluster.remote, results.report, results.tuning;"
        "sys.exit('ray' in sys.modules or 'optuna' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_that_cannot_run_somewhere_has_no_study_there(make_suite: MakeSuite, tmp_path: Path) -> None:
    plugin = tmp_path / "choosy.py"
    plugin.write_text(
        "from benchmark.models.convnet import ConvNet\n"
        "class Choosy(ConvNet):\n"
        "    @classmethod\n"
        "    def supports(cls, task):\n"
        "        return 'not here'\n"
    )
    registry.add_plugin(plugin)
    try:
        suite = suites.load(str(make_suite(models="[choosy, {convnet: {hidden: 4}}]")))
        assert {study.model.name for study in studies(suite).values()} == {"convnet"}
    finally:
        registry.replace_plugins([])


def test_the_jobs_of_a_suite_are_those_that_wait_or_run(
    store: Store, make_suite: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suites.load(str(make_suite()))
    for folder, name, jobs in (("a", suite.name, {"7_0": ["x"], "7_1": ["y"]}), ("b", "another", {"8": ["z"]})):
        write_json(store.root / "jobs" / folder / tune.NOTE, {"suite": name, "jobs": jobs})
    monkeypatch.setattr(tune.slurm, "queue", lambda: {"7_1": "RUNNING", "8": "PENDING"})
    assert tune.live_jobs(store, suite) == ["7_1"]
    monkeypatch.setattr(tune.slurm, "queue", lambda: None)
    with pytest.raises(MachineError, match="squeue does not answer"):
        tune.live_jobs(store, suite)
