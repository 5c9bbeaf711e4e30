"""Studies as data: what is searched, what a trial is, what is frozen; and that no test frame is seen."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import discovery
from benchmark.cell import FIRST_TUNING_SEED, Cell, Protocol, Training
from benchmark.data.windows import Windows
from benchmark.errors import UserError
from benchmark.suite import loading as suites
from benchmark.suite.search_space import check_keep, training_space
from benchmark.suite.studies import distinct_studies, studies
from benchmark.suite.study import TUNING_SEED, Study, draw, trial_cells
from benchmark.suite.suite import Range, Suite
from benchmark.suite.tuned import provenance, read_result, resolved
from benchmark.training import run as runs
from benchmark.training.experiment import Experiment, stored_field
from benchmark.training.loop import Execution, StoppedError
from results.store.store import Store
from results.store.studies import Effort, Note, StudyFolder, Trial
from results.store.study_result import freeze

MakeSuite = Callable[..., Path]
KEEP = "tuning: {keep: [hidden, layers, kernel_size]}\n"


def load(path: Path, more: str = "") -> Suite:
    path.write_text(path.read_text(encoding="utf-8") + more, encoding="utf-8")
    return suites.load(str(path))


def the_study(suite: Suite) -> Study:
    (study,) = distinct_studies(suite)
    return study


def test_the_first_trial_is_the_cell_of_the_suite(make_suite: MakeSuite) -> None:
    """But for its seed, which no suite can have."""
    suite = load(make_suite(models="[{relaxed_steerable_rotation: {hidden: 4, penalty: 1e-5}}]", seeds="[0, 1]"))
    study = the_study(suite)
    (cell,) = trial_cells(study, study.defaults[0], seed=1) or ()
    assert cell == suite.cells[1]
    (cell,) = trial_cells(study, study.defaults[0]) or ()
    assert cell.seed == TUNING_SEED >= FIRST_TUNING_SEED
    path = suite.path
    path.write_text(path.read_text().replace("seeds: [0, 1]", f"seeds: [{FIRST_TUNING_SEED}]"))
    with pytest.raises(UserError, match="are those of `symbench tune`"):
        suites.load(str(path))


def test_the_space_is_what_the_model_declares_and_the_trainings(make_suite: MakeSuite) -> None:
    study = the_study(load(make_suite(models="[{relaxed_steerable_rotation: {hidden: 3, penalty: 1e-9}}]")))
    assert study.space["model.hidden"] == (3, 16, 32, 64, 92)
    assert study.space["model.penalty"] == Range(low=1e-9, high=10.0)
    assert study.space["train.batch_size"] == (4, 8, 16)
    assert study.space["train.rollout_steps"] == (1, 2)
    assert study.space["train.relaxation_rate"] == Range(low=1e-3, high=1.0)
    assert "train.relaxation_rate" not in the_study(load(make_suite(models="[convnet]"))).space
    assert set(study.training_space) == {
        f"train.{key}"
        for key in ("learning_rate", "learning_rate_decay", "weight_decay", "batch_size", "rollout_steps")
    }


def test_batches_can_be_shared_and_filled() -> None:
    sizes = training_space(Training(batch_size=16), Protocol(), windows=20, ranks=4)["batch_size"]
    assert sizes == (8, 16)
    sizes = training_space(Training(batch_size=6), Protocol(), windows=20, ranks=3)["batch_size"]
    assert sizes == (3, 6, 12)


def test_what_is_kept_and_what_a_budget_decides_is_not_searched(make_suite: MakeSuite) -> None:
    path = make_suite(models="[{convnet: {layers: 4}}, {frame_averaging: {network: {convnet: {layers: 4}}}}]")
    suite = load(path, "budget: 20k\ntuning: {keep: [kernel_size, batch_size]}\n")
    by_key = {study.model.name: study for study in studies(suite).values()}
    assert {key for key in by_key["convnet"].space if key.startswith("model.")} == {"model.layers"}
    own = {key for key in by_key["frame_averaging"].space if key.startswith("model.")}
    assert own == {"model.frame", "model.network.layers"}
    assert "train.batch_size" not in by_key["convnet"].space
    for study, key in ((by_key["convnet"], "model.layers"), (by_key["frame_averaging"], "model.network.layers")):
        (cell,) = trial_cells(study, {**study.defaults[0], key: 3}) or ()
        settings = cell.model.settings()
        assert settings[key.removeprefix("model.")] == 3
        width = settings.get("hidden", settings.get("network.hidden"))
        assert width > study.model.settings().get("hidden", study.model.settings().get("network.hidden"))
    with pytest.raises(UserError, match="did you mean 'kernel_size'"):
        studies(_keeping(suite, "kernel_sise"))


def test_a_setting_that_is_kept_and_never_searched_is_a_note(make_suite: MakeSuite) -> None:
    suite = load(make_suite())
    (note,) = check_keep(_keeping(suite, "norm"))
    assert "tuning.keep: no model of this suite searches 'norm'" in note
    assert studies(_keeping(suite, "norm"))
    assert check_keep(_keeping(suite, "hidden")) == []


def _keeping(suite: Suite, name: str) -> Suite:
    return replace(suite, tuning=suite.tuning.model_copy(update={"keep": (name,)}))


def test_a_study_is_known_by_what_is_not_searched(make_suite: MakeSuite) -> None:
    """A changed default of a searched setting keeps the name of a study; it changes with what it leaves alone."""
    path = make_suite()
    name = the_study(load(path)).name
    text = path.read_text()
    for old, new, same in (
        ("learning_rate: 1e-3", "learning_rate: 2e-3", True),
        ("hidden: 4", "hidden: 8", True),
        ("seeds: [0]", "seeds: [3, 4]", True),
        ("epochs: 3", "epochs: 4", False),
        ("test_steps: 4", "test_steps: 3", False),
    ):
        path.write_text(text.replace(old, new))
        assert (the_study(suites.load(str(path))).name == name) == same, new
    path.write_text(text.replace("hidden: 4", "hidden: [4, 8]"))
    study = the_study(suites.load(str(path)))
    assert study.name == name
    assert [settings["model.hidden"] for settings in study.defaults] == [4, 8]


@pytest.mark.parametrize(
    ("levels", "groups"), [("each", [(0,), (1,), (3,)]), ("all", [(0, 1, 3)]), ("[[0, 3]]", [(0, 3), (1,)])]
)
def test_levels_share_settings_as_the_suite_says(
    make_suite: MakeSuite, levels: str, groups: list[tuple[int, ...]]
) -> None:
    path = make_suite()
    path.write_text(path.read_text().replace("level: 0", "level: [0, 1, 3]") + f"tuning: {{levels: {levels}}}\n")
    suite = suites.load(str(path))
    by_key = {study.name: study for study in studies(suite).values()}
    assert [study.levels for study in by_key.values()] == groups
    for study in by_key.values():
        assert [cell.dataset.level for cell in trial_cells(study, study.defaults[0]) or ()] == list(study.levels)


def test_draws_are_the_same_everywhere_and_within_the_space(make_suite: MakeSuite) -> None:
    study = the_study(load(make_suite(models="[{relaxed_steerable_rotation: {hidden: 4, penalty: 1e-5}}]")))
    drawn = [draw(study, number, 0) for number in range(200)]
    assert drawn == [draw(study, number, 0) for number in range(200)]
    assert drawn[0] == draw(study, 0, 0) != draw(study, 0, 1)
    for key, domain in study.space.items():
        values = [settings[key] for settings in drawn]
        if isinstance(domain, Range):
            assert all(domain.low <= value * 1.001 and value <= domain.high * 1.001 for value in values)
            middle = math.sqrt(domain.low * domain.high)
            assert 70 < sum(value < middle for value in values) < 130  # log-uniform: half below the geometric mean
        else:
            assert set(values) == set(domain)


def test_settings_that_no_model_can_have_make_no_trial(make_suite: MakeSuite) -> None:
    study = the_study(load(make_suite()))
    assert trial_cells(study, {**study.defaults[0], "model.kernel_size": 2}) is None
    assert trial_cells(study, {**study.defaults[0], "train.rollout_steps": 5}) is None


def test_a_model_that_cannot_run_somewhere_has_no_study_there(make_suite: MakeSuite, tmp_path: Path) -> None:
    plugin = tmp_path / "choosy.py"
    plugin.write_text(
        "from benchmark.models.convnet import ConvNet\n"
        "class Choosy(ConvNet):\n"
        "    @classmethod\n"
        "    def supports(cls, task):\n"
        "        return 'not here'\n"
    )
    discovery.add_plugin(plugin)
    try:
        suite = suites.load(str(make_suite(models="[choosy, {convnet: {hidden: 4}}]")))
        assert {study.model.name for study in studies(suite).values()} == {"convnet"}
    finally:
        discovery.replace_plugins([])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("tuning: {keeps: [hidden]}", "did you mean 'keep'"),
        ("tuning: {levels: some}", "tuning.levels"),
        ("tuning: {levels: [[0, 99]]}", "unknown level"),
        ("tuning: {train: {learning_rat: [1e-3]}}", "did you mean 'learning_rate'"),
        ("tuning: {train: {learning_rate: {low: 1e-2, high: 1e-3}}}", "must be less than high"),
        ("tuning: {train: {learning_rate: [fast]}}", "tuning"),
        ("tuning: [hidden]", "must be a mapping"),
        ("tuned: perhaps", "must be true or false"),
    ],
)
def test_mistakes_in_the_section_are_named(make_suite: MakeSuite, section: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(make_suite(), section + "\n")


# Trials, their store and the frozen result


def run_trial(folder: StudyFolder, store: Store, note: Note, epochs: int | None = None) -> Trial:
    """Train a trial in this process, up to `epochs`."""
    folder.write(note)
    for cell in folder.trial(note).cells:
        with folder.store.recorder(cell) as recorder:
            assert recorder is not None
            recorder.start()
            seen: list[int] = []
            kept = recorder.progress

            def told(history: Any, most: int, kept: Any = kept, seen: list[int] = seen) -> None:
                kept(history, most)
                seen.append(len(history))

            recorder.progress = told  # type: ignore[method-assign]
            stop = lambda seen=seen: epochs is not None and bool(seen) and seen[-1] >= epochs  # noqa: E731
            execution = Execution(should_stop=stop)
            try:
                runs.run_cell(cell, recorder, store.data_folder, execution, {"devices": 1}, tuning=True)
            except StoppedError:
                recorder.fail("time_limit", "")
    return folder.trial(note)


@pytest.fixture
def folder(store: Store, make_suite: MakeSuite) -> StudyFolder:
    made = StudyFolder(store.root, the_study(load(make_suite(epochs=2), KEEP)))
    made.begin(Effort(trials=3))
    return made


def test_the_test_splits_are_not_opened(folder: StudyFolder, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No window of them is made, and their frames are not in memory: what they would hold is NaN there."""
    made: list[Windows] = []
    fields: list[torch.Tensor] = []
    original = Windows.of.__func__  # type: ignore[attr-defined]

    def spy(cls: type[Windows], field: torch.Tensor, *rest: Any) -> Windows:
        fields.append(field)
        made.append(original(cls, field, *rest))
        return made[-1]

    monkeypatch.setattr(Windows, "of", classmethod(spy))
    for name in ("example_rollouts", "_evaluate", "split_errors"):
        monkeypatch.setattr(runs, name, lambda *arguments: pytest.fail("an evaluation on a test split"))
    trial = run_trial(folder, store, Note(number=0, settings=folder.study.defaults[0], by="default"))
    assert trial.state == "done"
    assert math.isfinite(trial.value)
    assert len(made) == 2
    (cell,) = trial.cells
    stored = stored_field(cell.dataset, store.data_folder)
    windows = Experiment.of(cell).windows(stored.field, torch.device("cpu"))
    for split in ("future", "domain"):
        inputs, targets = windows[split].batch(torch.arange(len(windows[split])))
        assert bool(torch.isfinite(inputs).all() and torch.isfinite(targets).all())
        hidden = replace(windows[split], field=fields[0])
        assert bool(torch.isnan(hidden.batch(torch.arange(len(hidden)))[1]).all())
    record = trial.records[cell.id]
    assert set(record.metrics) & {"rmse_validation"} == {"rmse_validation"}
    assert not [name for name in record.metrics if "future" in name or "domain" in name or "equivariance" in name]


def test_the_same_training_with_and_without_the_test_splits(folder: StudyFolder, store: Store) -> None:
    trial = run_trial(folder, store, Note(number=0, settings=folder.study.defaults[0], by="default"))
    (cell,) = trial.cells
    other = Store(store.root / "other")
    with other.recorder(cell) as recorder:
        assert recorder is not None
        recorder.start()
        runs.run_cell(cell, recorder, store.data_folder, Execution())
    record = other.read([cell])[0][cell.id]
    assert trial.records[cell.id].metrics["rmse_validation"] == record.metrics["rmse_validation"]
    assert trial.value == min(epoch.validation_rmse for epoch in record.history)


def test_a_shorter_roll_out_trains_on_less_and_is_measured_alike(folder: StudyFolder, store: Store) -> None:
    """The loss is over one step, the validation RMSE over those of the protocol, also before anything is learnt."""
    short = {**folder.study.defaults[0], "train.rollout_steps": 1, "train.learning_rate": 1e-4}
    long = {**short, "train.rollout_steps": 2}
    one, two = (
        run_trial(folder, store, Note(number=number, settings=settings, by="random"))
        for number, settings in enumerate((short, long))
    )
    (first,), (second,) = (trial.records.values() for trial in (one, two))
    assert first.history[0].train_loss < 0.7 * second.history[0].train_loss
    assert first.history[0].validation_rmse == pytest.approx(second.history[0].validation_rmse, rel=0.1)
    assert one.cells[0].id != two.cells[0].id
    assert two.cells[0].train.rollout_steps is None


def test_a_result_is_frozen_and_a_suite_uses_it(folder: StudyFolder, store: Store, make_suite: MakeSuite) -> None:
    defaults = folder.study.defaults[0]
    better = {**defaults, "train.learning_rate": 0.01, "train.batch_size": 4, "train.learning_rate_decay": 1.0}
    trials = [
        run_trial(folder, store, Note(number=0, settings=defaults, by="default")),
        run_trial(folder, store, Note(number=1, settings=better, by="random")),
        run_trial(folder, store, Note(number=2, settings={**defaults, "train.learning_rate": 1e-4}, by="random"), 1),
    ]
    assert [trial.state for trial in trials] == ["done", "done", "open"]
    folder.write(trials[2].note.model_copy(update={"ended": "stopped by asha at epoch 1"}))
    trials = folder.trials()
    freeze(folder, Effort(trials=3), trials)
    result = read_result(folder.result_path)
    assert result["found"]["trial"] == 1
    assert result["found"]["rmse_validation"] == trials[1].value < result["found"]["rmse_validation_default"]
    assert result["spent"]["epochs"] == 5
    assert result["effort"]["seeds"] == [TUNING_SEED]
    assert [trial["state"] for trial in result["trials"]] == ["done", "done", "stopped by asha at epoch 1"]
    assert result["provenance"]["data"]
    assert len(result["validation_curve"]) == 2

    suite = suites.load(str(make_suite(epochs=2, seeds="[0, 7]")))
    suite = load(suite.path, KEEP)
    tuned = suites.load(str(suite.path), store.root, tuned=True)
    assert tuned.name == "tiny-tuned"
    assert [cell.seed for cell in tuned.cells] == [0, 7]
    assert {cell.train for cell in tuned.cells} == {trials[1].cells[0].train}
    assert {tuned.studies[cell.id] for cell in tuned.cells} == {folder.study.name}
    assert {cell.id for cell in tuned.cells}.isdisjoint(cell.id for cell in suite.cells)
    for cell in tuned.cells:
        assert provenance(store.root, cell) == {"study": folder.study.name}
        assert Cell.model_validate_json(cell.model_dump_json()).id == cell.id
    assert provenance(store.root, suite.cells[0]) == {}
    asking = load(suite.path, "tuned: true\n")
    assert asking.cells == suite.cells
    assert resolved(asking, store.root).cells == tuned.cells
    with pytest.raises(UserError, match="run `symbench tune"):
        resolved(asking, store.root / "elsewhere")


def test_a_result_that_is_not_one_is_refused(folder: StudyFolder, store: Store) -> None:
    suite = suites.load(str(next(store.root.parent.glob("*.yaml"))))
    for text in ("- 1", "best: {model: 3}", "a: [", "best:"):
        folder.result_path.write_text(text)
        with pytest.raises(UserError, match=r"not (a|valid)"):
            resolved(replace(suite, tuned=True), store.root)


def test_a_study_goes_on_only_as_it_was_begun(folder: StudyFolder) -> None:
    folder.begin(Effort(trials=9))
    for effort in (Effort(trials=9, search="optuna"), Effort(trials=9, scheduler="none")):
        with pytest.raises(UserError, match=r"(search|scheduler) is another one"):
            folder.begin(effort)
    other = folder.study.model_copy(update={"space": {"train.learning_rate": (0.1,)}})
    with pytest.raises(UserError, match="space is another one"):
        StudyFolder(folder.root.parent.parent, other).begin(Effort(trials=9))
    other = folder.study.model_copy(update={"defaults": (*folder.study.defaults, {"train.learning_rate": 0.1})})
    with pytest.raises(UserError, match="default is another one"):
        StudyFolder(folder.root.parent.parent, other).begin(Effort(trials=9))
    again = Study.model_validate_json(folder.study.model_dump_json())  # as a job of a cluster has it
    assert StudyFolder(folder.root.parent.parent, again).require_alike(Effort(hours=1.0)) == folder.begun()


def test_several_levels_have_one_value_that_no_level_decides_alone(store: Store, make_suite: MakeSuite) -> None:
    """The geometric mean of the lowest RMSE of each: half of one error and twice the other is no gain."""
    path = make_suite(epochs=2)
    path.write_text(path.read_text().replace("level: 0", "level: [0, 1]") + KEEP[:-2] + ", levels: all}\n")
    study = the_study(suites.load(str(path)))
    made = StudyFolder(store.root, study)
    cells = trial_cells(study, study.defaults[0]) or ()

    class Told:
        def __init__(self, values: list[float], state: str = "done") -> None:
            self.history = [type("E", (), {"validation_rmse": v, "seconds": 1.0})() for v in values]
            self.status = type("S", (), {"state": state, "is_result": state != "running"})()
            self.environment: dict[str, Any] = {"devices": 2}

    note = Note(number=0, settings=study.defaults[0], by="default")
    assert made.study.levels == (0, 1)
    records: Any = {cells[0].id: Told([1.0, 0.5]), cells[1].id: Told([8.0, 9.0])}
    trial = Trial(note, cells, records)
    assert trial.curve == pytest.approx([math.sqrt(8.0), 2.0])
    assert trial.value == pytest.approx(2.0)
    assert trial.closed
    assert trial.device_hours == pytest.approx(8 / 3600)
    behind: Any = {cells[0].id: Told([1.0, 0.5], "running"), cells[1].id: Told([8.0], "running")}
    assert Trial(note, cells, behind).curve == pytest.approx([math.sqrt(8.0)])
    assert not Trial(note, cells, behind).closed
    lost: Any = {cells[0].id: Told([1.0], "diverged")}
    assert Trial(note, cells, lost).closed
    assert Trial(note, cells, lost).value == math.inf
