"""Tuning on a board: ledger, figures of studies and MLflow runs, also of studies of earlier versions."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML
from support import symbench
from tuning_support import EPOCHS, KEEP, MakeSuite, fabricate, notes

from benchmark.cli import tune as cli_tune
from benchmark.errors import UserError
from benchmark.suite import loading as suites
from benchmark.suite.studies import studies
from benchmark.suite.study import TUNING_SEED
from benchmark.suite.tuned import digest, read_result
from results.board.tuning_ledger import _line, tuning_ledger, unequal_tuning, untuned_models
from results.figures.study_figures import figures_of
from results.report.report import Report
from results.store.store import Store
from results.store.studies import Effort, StudyFolder
from results.store.study_result import conclude, freeze
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
    mixed = [line, _line(by_model["e2cnn"], store, "")]
    (warning,) = unequal_tuning(mixed)
    assert "convnet: 2 trials (random, asha); e2cnn: default settings" in warning
    timed = replace(line, limit=2.0, trials=3)  # with equal hours, the number of trials may differ
    assert unequal_tuning([timed, replace(timed, model="e2cnn", trials=5)]) == []
    folder.result_path.write_text("spent: 3\n")
    (broken,) = (one for one in tuning_ledger(tuned, {}, store) if one.model == "convnet")
    assert broken.settings == f"{folder.result_path.name} cannot be read"


@pytest.fixture
def tuned_suite(folder: StudyFolder, store: Store) -> Path:
    """Suite file of a study with a result of two trials."""
    trials = [fabricate(folder, note, [0.5 / (n + 1)] * EPOCHS) for n, note in enumerate(notes(folder, 2))]
    freeze(folder, Effort(trials=2), trials)
    return next(store.root.parent.glob("tiny.yaml"))


def edit(folder: StudyFolder, change: Callable[[dict[str, Any]], None], sign: bool = False) -> None:
    """Change the result; to `sign` is to write its new digest, too."""
    document = read_result(folder.result_path)
    change(document)
    if sign:
        document["digest"] = digest(document)
    with folder.result_path.open("w") as file:
        YAML(typ="safe").dump(document, file)


def test_a_result_that_was_edited_is_marked(folder: StudyFolder, store: Store, tuned_suite: Path) -> None:
    """The settings are used, and plan, run, ledger, board and report say so; `tune` writes the result anew."""
    before = suites.load(str(tuned_suite), store.root, tuned=True)
    edit(folder, lambda document: None)
    again = suites.load(str(tuned_suite), store.root, tuned=True)
    assert (again.cells, again.edited) == (before.cells, ()), "notation and comments do not matter"

    edit(folder, lambda document: document["best"]["train"].update(epochs=2 * EPOCHS))
    suite = suites.load(str(tuned_suite), store.root, tuned=True)
    assert {cell.train.epochs for cell in suite.cells} == {2 * EPOCHS}
    (sentence,) = suite.edited
    assert sentence.startswith(f"{folder.result_path}: was edited after the search; `symbench tune ")
    for command in ("plan", "run", "leaderboard"):
        options = ("--on", "test-cluster", "--dry-run") if command == "run" else ()
        shown = symbench(command, tuned_suite, "--tuned", *options, store=store).stderr
        assert sentence.partition(": ")[2] in shown, command
    (line,) = tuning_ledger(suite, {}, store)
    assert line.settings == "random, asha, edited by hand"
    assert "was edited after the search" in Report(store, suite, {}, []).html

    for key, value in (("trials", "many"), ("device_hours", [1]), ("epochs", None), ("trials", float("inf"))):
        edit(folder, lambda document, key=key, value=value: document["spent"].update({key: value}))
        (line,) = tuning_ledger(suite, {}, store)
        assert line.settings == f"{folder.result_path.name} cannot be read"

    conclude(folder, Effort(trials=2))
    assert suites.load(str(tuned_suite), store.root, tuned=True) == before


@pytest.mark.parametrize(
    ("change", "believed"),
    [
        (lambda document: None, True),
        (lambda document: document["best"]["train"].update(epochs=2 * EPOCHS), False),
        (lambda document: document["best"]["train"].update(learning_rate=0.5), False),
        (lambda document: document["best"]["model"]["config"].update(hidden=5), False),
        (lambda document: document["found"].update(trial=0), False),
        (lambda document: document["found"].update(trial="one"), False),
        (lambda document: document["found"].pop("settings"), False),
    ],
)
@pytest.mark.parametrize("with_folder", [True, False])
def test_a_signed_result_must_be_a_trial(
    folder: StudyFolder, store: Store, tuned_suite: Path, change: Any, believed: bool, with_folder: bool
) -> None:
    edit(folder, change, sign=True)
    if not with_folder:
        shutil.rmtree(folder.root)
        believed = believed or "trial': 0" in str(read_result(folder.result_path)["found"])
    suite = suites.load(str(tuned_suite), store.root, tuned=True)
    assert [("of no trial of this study" in sentence) for sentence in suite.edited] == [True] * (not believed)


def test_a_signed_result_without_its_trials_keeps_to_the_space(
    folder: StudyFolder, store: Store, tuned_suite: Path
) -> None:
    def faster(document: dict[str, Any]) -> None:
        for place in (document["best"]["train"], document["found"]["settings"]):
            key = next(key for key in place if key.endswith("learning_rate"))
            place[key] = 0.5

    shutil.rmtree(folder.root)
    edit(folder, faster, sign=True)
    assert len(suites.load(str(tuned_suite), store.root, tuned=True).edited) == 1


def test_a_result_of_another_model_is_refused(folder: StudyFolder, store: Store, tuned_suite: Path) -> None:
    edit(folder, lambda document: document["best"]["model"].update(name="e2cnn"))
    with pytest.raises(UserError, match="not a result of this study"):
        suites.load(str(tuned_suite), store.root, tuned=True)
    edit(folder, lambda document: document["best"].update(model={"name": "convnet", "config": {"hidden": -1}}))
    with pytest.raises(UserError, match="not a result of this study"):
        suites.load(str(tuned_suite), store.root, tuned=True)


def test_a_result_is_read_within_the_bounds_of_suites(folder: StudyFolder, store: Store, tuned_suite: Path) -> None:
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for text, message in ((bomb, "more than 100,000 values"), ("best: " + "[" * 60 + "]" * 60, "within each other")):
        folder.result_path.write_text(text)
        with pytest.raises(UserError, match=message):
            suites.load(str(tuned_suite), store.root, tuned=True)


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
    assert line.settings == "random, pbt, edited by hand"
    assert re.search(begun.replace("'", "&#39;"), Report(store, suite, {}, []).html)
    assert study_runs(suite, store) == []


def test_the_error_names_the_available_schedulers(make_suite: MakeSuite) -> None:
    refused = CliRunner().invoke(cli_tune.tune, [str(make_suite()), "--scheduler", "pbt"])
    assert refused.exit_code == 2
    assert "'pbt' is not one of 'asha', 'none'" in refused.output
