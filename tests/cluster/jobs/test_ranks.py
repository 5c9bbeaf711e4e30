"""One suite run with one rank and with two: equal results, and nothing to do for a second run."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from support import records, store_in, suite_in, symbench

from benchmark.models import model_registry
from results.store.store import Store

TRAINED = ("convnet", "relaxed_steerable_rotation", "remul")


class Launch(NamedTuple):
    suite: Path
    store: Store
    printed: str


def narrow(name: str) -> dict[str, object]:
    """Settings that make a baseline small, with a penalty if it has one."""
    small = {"hidden": 2, "penalty": 0.01}
    return {key: value for key, value in small.items() if key in model_registry.model(name).Config.model_fields}


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Launch]:
    """Finished launches by number of ranks."""
    models = json.dumps(["persistence", *({name: narrow(name)} for name in TRAINED)])
    done = {}
    for ranks in (1, 2):
        folder = tmp_path_factory.mktemp("ranks")
        suite, store = suite_in(folder, models=models, ranks=ranks), store_in(folder / "störe with spaces")
        result = symbench("run", suite, store=store)
        assert result.returncode == 0, result.stderr
        done[ranks] = Launch(suite, store, result.stdout)
    return done


def test_a_finished_suite_is_not_run_again(launches: dict[int, Launch]) -> None:
    suite, store, printed = launches[2]
    assert "4 cells run, 0 were finished, 0 failed" in printed
    done = records(suite, store)
    assert [record.status.state for record in done] == ["done"] * 4
    for record in done:
        files = {file.name for file in record.folder.iterdir()}
        history = {"history.jsonl"} if record.history else set()
        assert files == {"record.json", "predictions.h5", *history}
        assert record.environment["world_size"] == 2
    before = {file: file.stat().st_mtime_ns for file in store.root.rglob("cells/*/*")}
    second = symbench("run", suite, store=store)
    assert second.returncode == 0
    assert "0 cells run, 4 were finished" in second.stdout
    assert {file: file.stat().st_mtime_ns for file in store.root.rglob("cells/*/*")} == before


def test_a_model_trains_on_ranks_of_its_own_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    models = "[{convnet: {hidden: 2}}, {convnet: {hidden: 3, resources: {ranks: 2}}}]"
    path, store = suite_in(tmp_path, models=models, epochs=1), store_in(tmp_path / "store", "tiny")
    text = path.read_text().replace("preset: small", "preset: tiny")
    path.write_text(f"{text}keep: checkpoints\n", encoding="utf-8")
    assert symbench("run", path, store=store).returncode == 0
    done = records(path, store)
    assert [record.environment["world_size"] for record in done] == [1, 2]
    assert all((record.folder / "checkpoint.pt").exists() for record in done)
    assert "nothing to remove" in symbench("prune", path, "--yes", store=store).stdout
    path.write_text(text, encoding="utf-8")
    assert "removed 2 files, " in symbench("prune", path, "--yes", store=store).stdout


def test_two_ranks_equal_one(launches: dict[int, Launch]) -> None:
    """With the same global batch, curve and metrics are equal up to the order of sums.

    The first epoch checks gradients and penalty. Later the kink of an L1 penalty turns rounding into a step of another
    sign, which a rollout amplifies. The contract checks every baseline for two steps.
    """
    alone, together = (records(launches[ranks].suite, launches[ranks].store) for ranks in (1, 2))
    for one, two in zip(alone, together, strict=True):
        assert one.environment["world_size"] == 1
        assert two.environment["world_size"] == 2
        assert one.cell.id == two.cell.id
        for epoch, (first, second) in enumerate(zip(one.history, two.history, strict=True)):
            tolerance = 1e-6 if epoch == 0 else 5e-3
            assert second.train_loss == pytest.approx(first.train_loss, rel=tolerance)
            assert second.validation_rmse == pytest.approx(first.validation_rmse, rel=tolerance)
        for name in ("rmse_future", "rmse_domain", "vrmse_future"):
            assert two.metrics[name] == pytest.approx(one.metrics[name], rel=5e-3)


def test_an_unreadable_record_is_made_again(launches: dict[int, Launch], tmp_path: Path) -> None:
    suite, store, _ = launches[1]
    store = Store(Path(shutil.copytree(store.root, tmp_path / "copy")))
    before = next(record for record in records(suite, store) if record.cell.model.name == "convnet")
    (before.folder / "record.json").write_text('{"metrics": {"rmse_future": 0.')
    again = symbench("run", suite, store=store)
    assert again.returncode == 0, again.stderr
    assert "1 cells run, 3 were finished" in again.stdout
    after = next(record for record in records(suite, store) if record.cell.model.name == "convnet")
    assert [epoch.validation_rmse for epoch in after.history] == [epoch.validation_rmse for epoch in before.history]
    assert after.outcome == before.outcome
