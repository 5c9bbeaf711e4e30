"""Errors of `tune` before a search starts: models that are not tuned alike, studies with other settings."""

import subprocess
import sys

import pytest
from click.testing import CliRunner
from tuning_support import EPOCHS, MakeSuite, fabricate, notes

from benchmark.cli import tune as cli_tune
from benchmark.errors import UserError
from benchmark.suite import loading as suites
from benchmark.suite.studies import distinct_studies
from cluster.tuning.plan import inequalities, open_studies
from results.store.store import Store
from results.store.studies import Effort, StudyFolder


def three_trials(folder: StudyFolder) -> StudyFolder:
    for note in notes(folder, 3):
        fabricate(folder, note, [0.5] * EPOCHS)
    return folder


def test_models_that_are_not_tuned_alike_are_named(store: Store, make_suite: MakeSuite) -> None:
    path = make_suite(models="[persistence, {convnet: {hidden: 4}}, {e2cnn: {hidden: 2}}]", epochs=EPOCHS)
    suite = suites.load(str(path))
    convnet, e2cnn = distinct_studies(suite)
    both, one = [convnet, e2cnn], [convnet]
    assert inequalities(suite, both, Effort(trials=2), store) == []
    (difference,) = inequalities(suite, one, Effort(trials=2), store)
    assert "e2cnn: is not tuned at all, convnet is" in difference
    StudyFolder(store.root, e2cnn).begin(Effort(trials=2))
    assert inequalities(suite, one, Effort(trials=2), store) == []
    for effort in (Effort(trials=3), Effort(hours=1.0), Effort(trials=2, search="optuna")):
        (difference,) = inequalities(suite, one, effort, store)
        assert "was tuned with 2 trials (random, asha), convnet with" in difference
    three_trials(StudyFolder(store.root, convnet)).begin(Effort(trials=2))
    (difference,) = inequalities(suite, both, Effort(trials=2), store)
    assert "has 3 trials already, others would have 2" in difference
    (difference,) = inequalities(suite, one, Effort(trials=2), store)
    assert "was tuned with 2 trials (random, asha), convnet with 3 trials" in difference
    assert inequalities(suite, both, Effort(trials=3), store) == []
    three_trials(StudyFolder(store.root, e2cnn))
    for chosen in (both, one):
        assert inequalities(suite, chosen, Effort(trials=2), store) == []
    other = e2cnn.model_copy(update={"space": {**e2cnn.space, "train.learning_rate": (1e-3,)}})
    assert other.training_space != convnet.training_space


def test_a_dry_run_names_unequal_tuning_without_an_error(store: Store, make_suite: MakeSuite) -> None:
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
    both = distinct_studies(suite)
    (difference,) = inequalities(suite, both, Effort(trials=2), store)
    assert "e2cnn: the suite writes 1 settings, and 2 of convnet" in difference
    with pytest.raises(UserError, match="--trials 2 at least"):
        open_studies(both, Effort(trials=1), store)


def test_a_study_with_another_search_is_refused(folder: StudyFolder, store: Store) -> None:
    with pytest.raises(UserError, match="its search is another one"):
        open_studies([folder.study], Effort(trials=6, search="optuna"), store)
    assert folder.begun().effort == Effort(trials=6)


def test_only_a_search_imports_ray_and_optuna() -> None:
    code = (
        "import sys, benchmark.cli.main, cluster.tuning.local, cluster.tuning.remote;"
        "import cluster.jobs.worker, cluster.slurm.collector, results.report.report;"
        "sys.exit('ray' in sys.modules or 'optuna' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
