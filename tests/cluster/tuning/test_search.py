"""Choice of trials and early stopping, without a running Ray: both are rebuilt from a study's folder."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from tuning_support import EPOCHS, MakeSuite, fabricate, job_for, notes

from benchmark.cell import Training
from benchmark.errors import UserError
from benchmark.files import write_text
from benchmark.suite import loading as suites
from benchmark.suite.studies import distinct_studies
from benchmark.suite.study import trial_cells
from benchmark.suite.suite import Range
from cluster.tuning.job import first_rung, rungs
from cluster.tuning.plan import open_studies, without_result
from cluster.tuning.proposals import OptunaSearch, is_new, random_settings
from results.store.store import Store
from results.store.studies import Effort, Note, StudyFolder, Trial
from results.store.study_result import conclude, is_complete

pytest.importorskip("ray")
pytest.importorskip("optuna")


def ledger_of(folder: StudyFolder, effort: Effort) -> Any:
    from cluster.tuning.search import Ledger

    return Ledger(folder, effort, lambda: False)


def next_under_asha(folder: StudyFolder) -> tuple[Any, Any, Any]:
    """Ledger of the folder, its ASHA, and its next trial, which has been added to both."""
    from cluster.tuning.search import Asha

    ledger = ledger_of(folder, Effort(trials=6))
    asha, note = Asha(ledger), ledger.next()
    trial = SimpleNamespace(trial_id=f"ray-{note.number}", config={"trial": note.number})
    ledger.running[trial.trial_id] = note
    asha.on_trial_add(None, trial)
    return ledger, asha, trial


def test_the_rungs_are_epochs() -> None:
    effort = Effort(trials=1)
    assert rungs(effort, Training(epochs=20)) == [2, 6, 18, 20]
    assert rungs(effort, Training(epochs=1000)) == [11, 33, 99, 297, 891, 1000]
    assert rungs(effort, Training(epochs=1)) == [1]
    assert rungs(Effort(trials=1, scheduler="none"), Training(epochs=20)) == [20]
    assert first_rung(Training(epochs=1000, early_stop_after=None)) == 111


def test_a_trial_that_waits_does_not_count_as_running(folder: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Tune asks for one trial more than it runs at a time."""
    from cluster.tuning.driver import ProgressPrinter

    ledger = ledger_of(folder, Effort(trials=6))
    ledger.running = {f"ray-{number}": ledger.next() for number in range(2)}
    trial = SimpleNamespace(trial_id="ray-0", config={"trial": 0})
    ProgressPrinter(ledger, trials_at_once=1).on_trial_error(0, [], trial)
    assert "trial 0 died; 0 of 6 trials done, 1 running, " in capsys.readouterr().out


def test_open_trials_are_resumed_and_finished_ones_are_not_repeated(folder: StudyFolder) -> None:
    """Wherever the earlier search died between two of its writes."""
    made = notes(folder, 4)
    fabricate(folder, made[0], [0.5] * EPOCHS)
    fabricate(folder, made[1], [0.4] * 3, state=None)  # its process died
    fabricate(folder, made[2].model_copy(update={"ended": "stopped by asha at epoch 1"}), [0.9], state=None)
    folder.write(made[3])  # not begun
    effort = Effort(trials=6)
    ledger = ledger_of(folder, effort)
    given = [ledger.next() for _ in range(5)]
    assert [note and note.number for note in given] == [1, 3, 4, 5, None]
    assert [folder.read_trial(number).note for number in (4, 5)] == given[2:4]
    assert [note.settings for note in given[2:4]] == [note.settings for note in notes(folder, 6)[4:]]
    assert ledger_of(folder, effort).next() == given[0]


def test_asha_compares_with_earlier_trials(folder: StudyFolder) -> None:
    """A new ASHA lets its first trial pass every rung; one that remembers earlier trials stops it."""
    for note, value in zip(notes(folder, 4), (0.9, 0.1, 0.2, 0.3), strict=True):
        fabricate(folder, note, [value] * EPOCHS)
    ledger, asha, trial = next_under_asha(folder)
    number = trial.config["trial"]
    assert asha.on_trial_result(None, trial, {"epoch": 1, "validation_rmse": 0.05}) == "CONTINUE"
    assert asha.on_trial_result(None, trial, {"epoch": 3, "validation_rmse": 0.25}) == "STOP"
    assert folder.read_trial(number).note.ended == "stopped by asha at epoch 3"
    assert ledger.finished(trial.trial_id) is not None


def test_the_defaults_are_trained_to_their_ends(folder: StudyFolder) -> None:
    """Results are compared with the defaults as `run` would train them."""
    for note in notes(folder, 4)[1:]:
        fabricate(folder, note, [0.1] * EPOCHS)
    fabricate(folder, notes(folder, 1)[0], [0.8], state=None)
    ledger, asha, trial = next_under_asha(folder)
    note = ledger.running[trial.trial_id]
    assert (note.number, note.by) == (0, "default")
    decisions = [asha.on_trial_result(None, trial, {"epoch": n, "validation_rmse": 0.8}) for n in range(1, EPOCHS + 1)]
    assert set(decisions) == {"CONTINUE"}


def test_no_trial_is_stopped_at_its_last_epoch(folder: StudyFolder) -> None:
    for note in notes(folder, 4):
        fabricate(folder, note, [0.1] * EPOCHS)
    _, asha, trial = next_under_asha(folder)
    assert asha.on_trial_result(None, trial, {"epoch": EPOCHS, "validation_rmse": 0.5}) == "CONTINUE"


def test_hours_end_a_study(folder: StudyFolder) -> None:
    """Each trial takes half a GPU for nine hours, so two trials take nine device-hours."""
    from cluster.tuning.search import Hours

    made = notes(folder, 3)
    fabricate(folder, made[0], [0.5] * EPOCHS)
    effort = Effort(hours=9.0)
    ledger = ledger_of(folder, effort)
    assert not ledger.hours_spent
    note = ledger.next()
    ledger.running["a"] = note
    fabricate(folder, note, [0.4] * 9, state=None)
    hours = Hours(ledger)
    ledger.hours[note.number] = 4.0
    assert not hours.stop_all()
    ledger.hours[note.number] = 4.5
    assert hours.stop_all()
    ended = ledger.finished("a")
    assert ended.state == "stopped when the hours were spent"
    assert ended.value == 0.4
    assert ledger.next() is None
    again = ledger_of(folder, Effort(hours=20.0))
    assert again.next() == note
    assert folder.read_trial(note.number).state == "open"


def test_trials_are_charged_from_their_start_on(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while their processes start, for attempts that are killed, and without an epoch; not while they wait."""
    from cluster.tuning import search

    now = 0.0
    monkeypatch.setattr(search.time, "monotonic", lambda: now)
    job = job_for(folder).model_copy(update={"ranks": 2, "threads": 2, "node_cpus": 9})
    assert job.trials_at_once == 2
    on_gpus = job.model_copy(update={"device": "cuda", "ranks": 1, "gpu_share": 1 / 3, "node_gpus": 2, "nodes": 2})
    assert on_gpus.trials_at_once == 12
    made = notes(folder, 4)
    fabricate(folder, made[0], [0.5])
    for note in made[1:]:
        folder.write(note)
    ledger = ledger_of(folder, Effort(hours=9.0))
    meter = search.HourMeter(ledger, job)
    trials = [SimpleNamespace(status="PENDING", config={"trial": number}) for number in range(1, 4)]
    for seconds, states in ((20.0, "PENDING PENDING"), (10.0, "RUNNING PENDING"), (10.0, "PENDING RUNNING")):
        for trial, state in zip(trials, states.split(), strict=False):
            trial.status = state
        now += seconds
        meter.on_step_end(0, trials)
    hours = {trial.note.number: trial.device_hours for trial in folder.trials()}
    assert hours == pytest.approx({0: 0.5, **dict.fromkeys((1, 2), 2 * 40 / 3600), 3: 0.0})
    trials[0].status, trials[1].status = "TERMINATED", "ERROR"
    now += 10.0
    meter.on_step_end(0, trials)
    meter.save()
    assert folder.read_trial(3).device_hours == pytest.approx(2 * 10 / 3600)
    assert ledger_of(folder, Effort(hours=9.0)).hours == pytest.approx(ledger.hours)
    (folder.root / "hours.json").write_text("{")
    with pytest.raises(UserError, match=r"hours\.json: cannot be read"):
        folder.read_trial(3)


def test_open_trials_are_closed_when_the_hours_are_spent(folder: StudyFolder) -> None:
    """A trial that has not begun is removed, and runs if more hours are given; so does the default."""
    made = notes(folder, 3)
    folder.write(made[0])
    fabricate(folder, made[1], [0.4] * EPOCHS)
    fabricate(folder, made[2], [0.3], state=None)  # lower, but it never came to its end
    few, more = Effort(hours=4.6), Effort(hours=9.0)
    ledger_of(folder, more).end_open()
    assert [trial.closed for trial in folder.trials()] == [False, True, False]
    ledger_of(folder, few).end_open()
    assert [trial.state for trial in folder.trials()] == ["done", "stopped when the hours were spent"]
    folder.write(made[0])
    folder.charge({0: 0.1})  # it was about to start
    ledger_of(folder, few).end_open()
    assert folder.read_trial(0).state == "stopped when the hours were spent"
    folder.forget(0)
    assert is_complete(folder, few, folder.trials())
    assert "by trial 1 of 2, no RMSE of the default" in conclude(folder, few)
    ledger = ledger_of(folder, more)
    assert [ledger.next().number for _ in range(3)] == [2, 0, 3]
    assert folder.read_trial(0).note == made[0]


def test_a_study_has_no_result_if_no_trial_came_to_its_end(
    folder: StudyFolder, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials that were stopped early are no result, however low their RMSE; the other studies go on."""
    default, *others = notes(folder, 4)
    effort = Effort(trials=4)
    fabricate(folder, default.model_copy(update={"ended": "failed: code_error: ValueError"}), [0.1], state=None)
    for note in others:
        fabricate(folder, note.model_copy(update={"ended": "stopped by asha at epoch 1"}), [0.2], state=None)
    write_text(folder.result_path, "trials: []  # as an earlier version wrote it")
    assert open_studies([folder.study], effort, store) == []
    line = capsys.readouterr().err
    assert "no result, since no trial was trained to its last epoch (1 failed, 3 stopped by asha); see" in line
    assert not folder.result_path.exists()
    assert without_result([folder.study], effort, store) == [folder.study]
    more = Effort(trials=5)
    assert open_studies([folder.study], more, store) == [folder.study]
    assert not without_result([folder.study], more, store)


def test_a_trial_that_fails_is_no_bar_for_others_and_is_not_stopped_as_well(folder: StudyFolder) -> None:
    """Neither in the search in which it fails nor in a later one."""
    made = notes(folder, 2)
    fabricate(folder, made[0].model_copy(update={"ended": "failed: code_error: ValueError"}), [0.1], state=None)
    fabricate(folder, made[1], [0.2] * EPOCHS)
    ledger, asha, trial = next_under_asha(folder)
    assert asha.on_trial_result(None, trial, {"epoch": 1, "validation_rmse": 0.15}) == "CONTINUE"
    failed = ledger.running[trial.trial_id].model_copy(update={"ended": "failed: code_error: ValueError"})
    folder.write(failed)
    assert asha.on_trial_result(None, trial, {"epoch": 3, "validation_rmse": math.inf}) == "CONTINUE"
    assert folder.read_trial(failed.number).note == failed
    other = SimpleNamespace(trial_id="other", config={})
    asha.on_trial_add(None, other)
    assert asha.on_trial_result(None, other, {"epoch": 1, "validation_rmse": 0.19}) == "CONTINUE"


def test_a_trial_whose_process_is_always_killed_has_failed(folder: StudyFolder) -> None:
    """A trial that failed because of its machine stays open, and so does one with retries left."""
    from cluster.tuning.search import FAILURES, LedgerSearch

    ledger = ledger_of(folder, Effort(trials=6))
    search = LedgerSearch(ledger, folder.root / "job.json")

    def complete(note: Note, starts: int, failure: str = "", error: bool = True) -> Trial:
        ledger.running["a"] = note
        folder.write(note)
        (cell,) = folder.trial(note).cells
        for _ in range(starts):
            with folder.store.recorder(cell) as recorder:
                recorder.start()
                if failure:
                    recorder.fail(failure, "")
        search.on_trial_complete("a", error=error)
        return folder.read_trial(note.number)

    first, second, third, fourth = notes(folder, 4)
    killed = complete(first, FAILURES + 1)
    assert killed.state == "failed: killed: its process died 4 times"
    assert killed.value == math.inf
    assert ledger.closed[0].closed
    assert not complete(second, FAILURES + 1, failure="machine").closed
    assert not complete(third, FAILURES).closed
    assert not complete(fourth, FAILURES + 1, error=False).closed


@pytest.mark.parametrize("value", [math.inf, 0.3])
def test_optuna_learns_from_earlier_trials(folder: StudyFolder, value: float) -> None:
    """If only small learning rates are good, it proposes small ones, which are new and within the space."""
    study = folder.study
    learning_rates = study.space["train.learning_rate"]
    assert isinstance(learning_rates, Range)
    optuna, known = OptunaSearch(study, 0), set()
    for number in range(40):
        settings = random_settings(study, number, known)
        cells = trial_cells(study, settings)
        is_slow = settings["train.learning_rate"] < 3e-4
        trial = Trial(Note(number=number, settings=settings, by="random"), cells, {})
        object.__setattr__(trial, "curve", [0.1 if is_slow else value])
        known |= {cell.id for cell in cells}
        optuna.learn(trial)
    slow = 0
    for number in range(40, 50):
        settings = optuna.settings(number, known)
        assert is_new(study, settings, known)
        assert learning_rates.low <= settings["train.learning_rate"] <= learning_rates.high
        assert settings["train.batch_size"] in study.space["train.batch_size"]  # type: ignore[operator]
        slow += settings["train.learning_rate"] < 3e-4
    assert slow >= 7  # 2.4 of ten at random
    outside = {**study.defaults[0], "train.batch_size": 5}
    optuna.learn(Trial(notes(folder, 1)[0].model_copy(update={"settings": outside}), (), {}))


def test_an_exhausted_space_ends_the_search(store: Store, make_suite: MakeSuite) -> None:
    keep = "hidden, layers, kernel_size, learning_rate_decay, weight_decay, batch_size, rollout_steps"
    path = make_suite()
    path.write_text(f"{path.read_text()}tuning: {{keep: [{keep}], train: {{learning_rate: [1e-3, 1e-2]}}}}\n")
    (study,) = distinct_studies(suites.load(str(path)))
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
    assert open_studies([study], Effort(trials=6), store) == []
    assert is_complete(made, Effort(trials=6), made.trials())
    (made.root / "trials" / "0001.json").unlink()
    assert not is_complete(made, Effort(trials=6), made.trials())
