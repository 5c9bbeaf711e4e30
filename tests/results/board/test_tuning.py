"""Tuning on a board: ledger, figures of studies and MLflow runs, also of studies of earlier versions."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from support import symbench
from tuning_support import EPOCHS, KEEP, MakeSuite, fabricate, notes

from benchmark.cli import tune as cli_tune
from benchmark.errors import UserError
from benchmark.suite import loading as suites
from benchmark.suite.studies import studies
from benchmark.suite.study import TUNING_SEED
from results.board.tuning_ledger import _line, tuning_ledger, unequal_tuning, untuned_models
from results.figures.study_figures import figures_of
from results.report.report import Report
from results.store.store import Store
from results.store.studies import Effort, StudyFolder
from results.store.study_result import freeze
from results.tracking.studies import study_runs


def test_a_trial_that_diverges_is_the_worst(folder: StudyFolder) -> None:
    made = notes(folder, 2)
    trial = fabricate(folder, made[0], [0.1, 0.2], "diverged")
    assert trial.closed
    assert trial.value == math.inf
    other = fabricate(folder, made[1], [5.0] * EPOCHS)
    document = freeze(folder, Effort(trials=2), [trial, other])
    assert document["found"]["trial"] == 1
    assert document["found"]["rmse_validation_default"] is None


def test_the_ledger_shows_tuned_models_and_warns(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(models="[persistence, {convnet: {hidden: 4}}, {e2cnn: {hidden: 2}}]", epochs=EPOCHS)
    path.write_text(path.read_text() + KEEP % "")
    suite = suites.load(str(path))
    assert tuning_ledger(suite, {}, store) == []
    by_model = {study.model.name: study for study in studies(suite).values()}
    folder = StudyFolder(store.root, by_model["convnet"])
    folder.begin(Effort(trials=2))
    trials = [fabricate(folder, note, [0.5 / (n + 1)] * EPOCHS) for n, note in enumerate(notes(folder, 2))]
    freeze(folder, Effort(trials=2), trials)
    tuned = suites.load(str(path), store.root, tuned=True, skip_untuned=True)
    message = "not tuned, and so not on this board: e2cnn on smoke_rotation_levels level 0"
    assert untuned_models(tuned) == message
    assert message in Report(store, tuned, {}, []).html
    assert message in symbench("leaderboard", path, "--tuned", store=store).stderr
    convnet = suites.load(str(path), store.root, tuned=True, only="model=convnet", skip_untuned=True)
    assert untuned_models(convnet) == ""
    with pytest.raises(UserError, match="not tuned in store"):
        suites.load(str(path), store.root, tuned=True, only="model=e2cnn", skip_untuned=True)
    ledger = {line.model: line for line in tuning_ledger(tuned, {}, store)}
    assert set(ledger) == {"convnet"}
    line = ledger["convnet"]
    assert (line.family, line.settings, line.trials, line.epochs) == ("cnn", "random, asha", 2, 2 * EPOCHS)
    assert line.device_hours == pytest.approx(EPOCHS)
    assert line.unit == "GPU-h"
    assert line.gain == pytest.approx(0.5)
    assert unequal_tuning(list(ledger.values())) == []
    mixed = [line, _line(by_model["e2cnn"], None)]
    (warning,) = unequal_tuning(mixed)
    assert "convnet: 2 trials (random, asha); e2cnn: default settings" in warning
    timed = replace(line, limit=2.0, trials=3)  # with equal hours, the number of trials may differ
    assert unequal_tuning([timed, replace(timed, model="e2cnn", trials=5)]) == []
    folder.result_path.write_text("spent: 3\n")
    (broken,) = (one for one in tuning_ledger(tuned, {}, store) if one.model == "convnet")
    assert broken.settings == f"{folder.result_path.name} cannot be read"


def test_figures_and_runs_of_a_study(folder: StudyFolder, store: Store) -> None:
    """Names are escaped, single and diverged trials are drawn, and each trial's run is a child of its study's."""
    suite = suites.load(str(next(store.root.parent.glob("tiny.yaml"))))
    results = [([0.5] * EPOCHS, "done"), ([0.4] * EPOCHS, "done"), ([], "diverged")]
    for count, (note, (rmse, state)) in enumerate(zip(notes(folder, 3), results, strict=True), 1):
        fabricate(folder, note, rmse, state)
        (curves,) = figures_of(folder.study, folder.trials())
        assert ElementTree.fromstring(curves.svg).tag.endswith("svg")
        runs = study_runs(suite, store)
        assert [run.parent for run in runs] == ["", *[runs[0].key] * count]
    assert "trial 0 (default)" in curves.svg
    by_trial = {dict(run.tags).get("symbench.trial"): run for run in study_runs(suite, store)}
    assert {name: value for name, value, _, _ in by_trial["1"].metrics}["rmse_validation"] == 0.4
    assert by_trial["2"].tags["symbench.state"] == "diverged"


# Files of versions that had population-based training

FOLLOWER = {"by": "pbt", "seed": TUNING_SEED + 1, "parent": 0, "since": 2, "epochs_before": 2, "hours_before": 2.0}
ALONE = dict.fromkeys(("since", "epochs_before", "seconds_before", "hours_before"), 0) | {
    "seed": TUNING_SEED,
    "parent": None,
}


def change(path: Path, **keys: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_notes_with_the_keys_of_earlier_versions_are_read(folder: StudyFolder) -> None:
    trial = fabricate(folder, notes(folder, 1)[0], [0.5] * EPOCHS)
    change(folder.root / "trials" / "0000.json", **ALONE)
    assert folder.trials() == [trial]


def test_a_study_of_population_based_training_is_named_in_one_sentence(folder: StudyFolder, store: Store) -> None:
    """In `tune` and the report, without an error in a sync; its result is still used."""
    path = next(store.root.parent.glob("tiny.yaml"))
    trials = [fabricate(folder, note, [0.5 / (n + 1)] * EPOCHS) for n, note in enumerate(notes(folder, 2))]
    freeze(folder, Effort(trials=2), trials)
    change(folder.root / "trials" / "0001.json", **FOLLOWER)
    note = r"0001\.json: cannot be read \(Note: by: .*'default', 'random' or 'optuna'\); delete .* to tune anew"
    with pytest.raises(UserError, match=note):
        folder.trials()
    study = folder.root / "study.json"
    change(study, effort=json.loads(study.read_text())["effort"] | {"scheduler": "pbt"})
    result = folder.result_path
    result.write_text(result.read_text().replace("scheduler: asha", "scheduler: pbt"))
    refused = symbench("tune", path, "--trials", 2, store=store)
    assert refused.returncode == 2
    assert re.fullmatch(rf"symbench: .*{note}\n", refused.stderr.splitlines(keepends=True)[-1])
    begun = r"study\.json: cannot be read \(.*scheduler: .*'asha' or 'none'\); delete .* to tune anew"
    with pytest.raises(UserError, match=begun):
        folder.require_alike(Effort(trials=2))

    suite = suites.load(str(path), store.root, tuned=True)
    (cell,) = suite.cells
    assert cell.train == trials[1].cells[0].train
    (line,) = tuning_ledger(suite, {}, store)
    assert line.settings == "random, pbt"
    assert re.search(begun.replace("'", "&#39;"), Report(store, suite, {}, []).html)
    assert study_runs(suite, store) == []


def test_the_error_names_the_available_schedulers(make_suite: MakeSuite) -> None:
    refused = CliRunner().invoke(cli_tune.tune, [str(make_suite()), "--scheduler", "pbt"])
    assert refused.exit_code == 2
    assert "'pbt' is not one of 'asha', 'none'" in refused.output
