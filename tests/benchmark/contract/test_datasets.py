"""The contract of a dataset: files of `new-dataset` keep it, and each fault is reported by its check."""

import json
from pathlib import Path

import pytest
from support import symbench

from benchmark import discovery
from benchmark.contract import scaffold
from benchmark.contract.datasets import DatasetCandidate, components_are_about_equally_large, examine_all
from benchmark.data import dataset_registry
from benchmark.errors import UserError
from results.store.store import Store

FAULTS = [
    ("says_what_it_is", 'level_meaning = "speed of the wind along x"', 'level_meaning = ""'),
    ("says_what_it_is", 'test_runs = "sampled"', 'test_runs = "any"'),
    ("levels_are_in_order", "levels = (0, 0.5, 1)", "levels = (0.5, 1)"),
    ("levels_are_in_order", "levels = (0, 0.5, 1)", "levels = (0, 1, 0.5)"),
    ("splits_share_no_run", "range(8), range(8, 12)", "range(8), range(7, 12)"),
    ("splits_share_no_run", "Preset(16, 16, 24)", "Preset(16, 16, 6)"),
    ("parts_are_plain_data", "Vortices(self.level_value(level)", "Vortices(1.0"),
    ("simulates_states", ".astype(np.float32)", ""),
    ("simulates_states", "np.stack(runs).astype", "np.full_like(np.stack(runs), np.nan).astype"),
    ("simulates_states", "(*self.training_runs, *self.unseen_runs)", "tuple(self.training_runs)"),
    ("simulates_the_same_again", "default_rng(seed)", "default_rng()"),
    ("keeps_its_promise_of_no_divergence", "divergence_free=False", "divergence_free=True"),
    ("breaks_more_with_the_level", "1j * self.wind * kx", "1j * kx"),
    ("has_a_strict_floor_or_a_reason", 'no_floor = "it is not simulated from turned states"', ""),
]


@pytest.fixture(autouse=True)
def _no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery.DATASETS, "plugins", {})


def outcomes(path: Path) -> dict[str, tuple[str, str]]:
    """Outcome and reason of each check of the dataset in a file."""
    results = examine_all(DatasetCandidate.named(discovery.add_plugin(path)))
    return {result.check.name: (result.outcome, result.reason) for result in results}


@pytest.mark.parametrize("original", [None, "beta_plane", "smoke_rotation"])
def test_a_new_dataset_keeps_the_contract(tmp_path: Path, original: str | None) -> None:
    path = scaffold.write("my_flow", original, tmp_path, "dataset")
    assert "class MyFlow(" in path.read_text(encoding="utf-8")
    failed = {name: reason for name, (outcome, reason) in outcomes(path).items() if outcome == "failed"}
    assert failed == {}


@pytest.mark.parametrize(("check", "old", "new"), FAULTS)
def test_a_fault_is_reported_by_its_check(tmp_path: Path, check: str, old: str, new: str) -> None:
    text = scaffold.rendered("flawed", None, "dataset")
    assert old in text
    path = tmp_path / f"flawed_{abs(hash((old, new)))}.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    outcome, reason = outcomes(path)[check]
    assert outcome == "failed"
    assert reason


MIXED = {
    "velocity = (1j * ky * stream * change, -1j * kx * stream * change)": (
        "velocity = (1j * ky * stream * change, -1j * kx * stream * change, SIZE * stream * change)"
    ),
    'Preset(32, 32, 48), "tiny": Preset(16, 16, 24)': 'Preset(16, 16, 24, {"velocity": "vector", "stream": "scalar"})',
    '"centered").numpy()': '"centered", ("vector", "scalar")).numpy()',
}
"""The template with its stream function as a scalar beside the velocity."""


def with_a_scalar(path: Path, size: float) -> Path:
    text = scaffold.rendered(path.stem, None, "dataset")
    for old, new in MIXED.items():
        assert old in text
        text = text.replace(old, new.replace("SIZE", str(size)))
    path.write_text(text, encoding="utf-8")
    return path


def test_a_dataset_with_a_scalar_trains_strict_networks(tmp_path: Path) -> None:
    path = with_a_scalar(tmp_path / "streams.py", 2.0)
    failed = {name: reason for name, (outcome, reason) in outcomes(path).items() if outcome == "failed"}
    assert failed == {}
    suite = tmp_path / "streams.yaml"
    suite.write_text(
        "name: streams\nplugins: [streams.py]\ndatasets: [{streams: {level: 0}}]\nseeds: [0]\n"
        "models: [persistence, e2cnn: {hidden: 2, layers: 2}, augmentation: {network: {convnet: {hidden: 4}}}, sesn]\n"
        "protocol: {input_frames: 1, train_steps: 2, test_steps: 2}\ntrain: {epochs: 1, batch_size: 16}\n",
        encoding="utf-8",
    )
    store = Store(tmp_path / "store")
    assert symbench("data", "prepare", suite, store=store).returncode == 0
    assert symbench("run", suite, store=store).returncode == 0
    board = json.loads(symbench("leaderboard", suite, "--json", store=store).stdout)
    rows = {row["model"]: row["metrics"] for row in board}
    assert rows["e2cnn"]["model_equivariance_error_relative"]["mean"] < 1e-5
    assert rows["e2cnn"]["data_equivariance_error_relative"]["mean"] < 1e-5
    assert rows["augmentation"]["model_equivariance_error_relative"]["mean"] > 1e-3
    assert "rmse_future" not in rows["sesn"]


def test_a_scalar_that_outweighs_the_velocity_is_reported(tmp_path: Path) -> None:
    results = outcomes(with_a_scalar(tmp_path / "heavy_streams.py", 500.0))
    outcome, reason = results["components_are_about_equally_large"]
    assert outcome == "failed"
    assert "choose units in which they differ by less than 10" in reason


def test_a_file_is_a_dataset_or_a_baseline_and_its_name_is_taken_once(tmp_path: Path) -> None:
    path = scaffold.write("my_flow", None, tmp_path, "dataset")
    assert discovery.add_plugin(path) == "my_flow"
    assert discovery.plugin_paths() == (path,)
    assert "my_flow" in dataset_registry.dataset_names()
    (tmp_path / "beside").mkdir()
    baseline = scaffold.write("my_flow", None, tmp_path / "beside")
    with pytest.raises(UserError, match="a dataset named 'my_flow' exists; rename the file"):
        discovery.add_plugin(baseline)
    with pytest.raises(UserError, match="a dataset named 'beta_plane' exists; choose another name"):
        scaffold.write("beta_plane", None, tmp_path, "dataset")


def test_a_suite_names_the_file_that_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert symbench("new-dataset", "my_flow", store=None).returncode == 0
    suite = tmp_path / "flows.yaml"
    protocol = "{input_frames: 1, train_steps: 2, test_steps: 2}"
    text = f"name: flows\ndatasets: [my_flow]\nmodels: [persistence]\nprotocol: {protocol}\n"
    suite.write_text(text, encoding="utf-8")
    refused = symbench("plan", suite, store=None)
    assert refused.returncode == 2
    assert "unknown dataset 'my_flow'" in refused.stderr
    assert "my_flow.py was not given: add `--plugin" in refused.stderr
    assert symbench("plan", suite, "--plugin", "my_flow.py", store=None).returncode == 0


def test_particles_have_no_components_on_a_grid() -> None:
    assert components_are_about_equally_large(DatasetCandidate.named("trapped_ions")) == "its states lie on no grid"


def test_a_failed_check_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "flawed.py"
    path.write_text(
        scaffold.rendered("flawed", None, "dataset").replace("(0, 0.5, 1)", "(0, 1, 0.5)"), encoding="utf-8"
    )
    done = symbench("check-dataset", path, store=None)
    assert done.returncode == 1
    assert "FAILED: level_value does not rise with the levels" in " ".join(done.stdout.split())
