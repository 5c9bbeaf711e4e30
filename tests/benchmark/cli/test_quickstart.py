"""The demo's own suite on simulated smoke, a part of it: what is trained must have learnt."""

import json
from pathlib import Path

from support import symbench

from results.store.store import Store


def test_the_demo_learns_what_persistence_cannot(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert symbench("data", "prepare", "quickstart", store=store).returncode == 0
    chosen = ("--only", "level=0,seed=0")
    result = symbench("run", "quickstart", *chosen, store=store)
    assert result.returncode == 0, result.stderr
    board = json.loads(symbench("leaderboard", "quickstart", *chosen, "--json", store=store).stdout)
    error = {row["model"]: row["metrics"]["rmse_domain"]["mean"] for row in board}
    still = error.pop("persistence")
    assert len(error) == 3
    assert all(value < 0.8 * still for value in error.values()), (still, error)
    strict = next(row for row in board if row["model"] == "e2cnn")
    assert strict["metrics"]["model_equivariance_error_relative"]["mean"] < 1e-5
