"""The demo's own suite on simulated turbulence, cut to what shows that each of its models learns."""

import json
from pathlib import Path

from support import symbench

from benchmark.suite.suite import SUITES_FOLDER
from results.store.store import Store

CUTS = {
    "level: [0, 1, 5], preset: small": "level: 0, preset: tiny",
    "seeds: [0, 1]": "seeds: [0]",
    "train_steps: 4, test_steps: 6": "train_steps: 2, test_steps: 4",
    "epochs: 2": "epochs: 8",  # there are fewer windows, so more passes, and a step size that lasts
    "learning_rate_decay: 0.5": "learning_rate_decay: 0.8",
}


def test_the_demo_learns_what_trivial_forecasts_cannot(tmp_path: Path) -> None:
    store, suite = Store(tmp_path / "store"), tmp_path / "quickstart.yaml"
    text = (SUITES_FOLDER / "quickstart.yaml").read_text(encoding="utf-8")
    for demo, cut in CUTS.items():
        assert demo in text
        text = text.replace(demo, cut)
    suite.write_text(text, encoding="utf-8")
    assert symbench("data", "prepare", suite, store=store).returncode == 0
    result = symbench("run", suite, store=store)
    assert result.returncode == 0, result.stderr
    board = json.loads(symbench("leaderboard", suite, "--json", store=store).stdout)
    error = {row["model"]: row["metrics"]["rmse_domain"]["mean"] for row in board}
    trivial = error.pop("persistence")
    assert len(error) == 3
    assert all(value < 0.8 * trivial for value in error.values()), (trivial, error)
    strict = next(row for row in board if row["model"] == "e2cnn")
    assert strict["metrics"]["model_equivariance_error_relative"]["mean"] < 1e-5
