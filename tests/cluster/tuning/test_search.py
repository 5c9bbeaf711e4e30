"""What is tried next and who may go on, without a Ray that runs: all of it is made anew from a study's folder."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from tuning_support import EPOCHS, MakeSuite, fabricate, make_folder, notes

from benchmark.cell import Cell
from benchmark.suite import loading as suites
from benchmark.suite.studies import distinct_studies
from benchmark.suite.study import trial_cells
from benchmark.suite.suite import Range
from cluster.tuning.job import first_rung, rungs
from cluster.tuning.plan import open_studies
from cluster.tuning.proposals import Novelty, OptunaProposals, RandomProposals
from cluster.tuning.summary import conclude, is_complete
from results.store.store import Store
from results.store.studies import Effort, Note, StudyFolder, Trial

pytest.importorskip("ray")
pytest.importorskip("optuna")


@pytest.fixture
def folder(store: Store, make_suite: MakeSuite) -> StudyFolder:
    return make_folder(store, make_suite, Effort(trials=6))


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
    assert is_complete(made, Effort(trials=6), made.trials())  # it was said again
    (made.root / "trials" / "0001.json").unlink()  # begun anew
    assert not is_complete(made, Effort(trials=6), made.trials())
