"""Counts of a plan, and the basis of its estimates."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmark.cell import Cell
from benchmark.cli.main import cli
from benchmark.evaluation.evaluate import BATCH
from benchmark.planning import plan as plan_module
from benchmark.planning.footprint import footprint
from benchmark.planning.plan import (
    NUMBER_COST,
    Estimate,
    Timing,
    _ForwardWork,
    estimates,
    make_plan,
    open_cells_of,
    siblings_of,
    unmeasured,
)
from benchmark.planning.step_timing import StepTiming
from benchmark.suite import facts
from benchmark.suite import loading as suites

STATES = {"failed": 3, "running": 3, "done": 2, "diverged": 2, "n/a": 2}


def reordered(cell: Cell) -> Cell:
    """The cell as read from a record, whose keys are sorted."""
    return Cell.model_validate(json.loads(json.dumps(cell.model_dump(mode="json"), sort_keys=True)))


def test_finished_cells_are_not_open_and_their_times_are_the_estimate() -> None:
    loaded = suites.load("quickstart").only("model=convnet")
    first, second, *_ = loaded.cells
    assert list(first.model.config) != sorted(first.model.config)
    open_cells = open_cells_of(loaded, {first.id: "done", second.id: "done"})
    taken = [Timing(reordered(first), 12.0), Timing(reordered(second), 18.0)]
    plan = make_plan(loaded, open_cells, estimates(open_cells, taken))
    assert len(plan.open_cells) == len(loaded.cells) - 2
    assert sum(row.finished for row in plan.rows) == 2
    assert {row.estimate for row in plan.rows} <= {"measured", ""}
    assert plan.estimated_seconds == pytest.approx(15.0 * len(plan.open_cells))


def test_files_and_bytes_of_what_is_not_there_yet(tmp_path: Path) -> None:
    loaded = suites.load("quickstart")
    trained = [cell for cell in loaded.cells if facts.is_trained(cell)]
    before = footprint(loaded, {}, tmp_path)
    kept = footprint(replace(loaded, keeps_checkpoints=True), {}, tmp_path)
    assert kept.files - before.files == len(trained), "a checkpoint each"
    parameters = [facts.parameters(cell.model, facts.task_of(cell.dataset, cell.protocol)) for cell in trained]
    assert kept.record_bytes - before.record_bytes == 16 * sum(filter(None, parameters))
    assert "(estimated)" in str(before)
    some = footprint(loaded, {trained[0].id: (3, 10**9)}, tmp_path)
    alike = [cell for cell in trained if (cell.model, cell.train) == (trained[0].model, trained[0].train)]
    assert (some.measured, some.record_bytes // 10**9) == (len(alike), len(alike)), "levels and seeds are alike"
    assert f"(measured on the kinds of {len(alike)} of {len(loaded.cells)} cells)" in str(some)


@pytest.mark.parametrize(("state", "count"), STATES.items())
def test_cells_without_a_result_are_open(state: str, count: int) -> None:
    loaded = suites.load("quickstart").only("model=persistence")
    assert len(open_cells_of(loaded, {loaded.cells[0].id: state})) == count


def test_unmeasured_cells_are_estimated_from_flops() -> None:
    loaded = suites.load("quickstart")
    plan = make_plan(loaded, loaded.cells, estimates(loaded.cells, []))
    trained = [row for row in plan.rows if row.model != "persistence"]
    assert all(math.isfinite(row.estimated_seconds) and row.estimated_seconds > 0 for row in trained)
    assert all(row.estimate == "from FLOPs" for row in trained)


def test_each_place_of_a_dataset_has_rows_of_its_own() -> None:
    rows = make_plan(suites.load("handedness").only("model=e2cnn"), [], {}).rows
    assert [(row.grid, row.layout, row.cells) for row in rows] == [
        ("centered", "physical", 5),
        ("centered", "published", 5),
    ]


@pytest.mark.parametrize(("suite", "shown"), [("handedness", True), ("quickstart", False)])
def test_the_table_has_a_column_of_layouts_if_there_are_several(suite: str, shown: bool, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["plan", suite, "--only", "model=persistence", "--store", str(tmp_path)])
    assert ("layout" in result.output, "grid" in result.output) == (shown, False)
    assert ("published" in result.output) == shown


@pytest.mark.parametrize("model", ["convnet", "unet", "relaxed_steerable_rotation"])
def test_flops_of_many_widths_follow_from_three(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = suites.load("quickstart").only("model=convnet").cells[0]
    widths = [2, 3, 4, 6, 8, 12]
    cells = [cell.model_copy(update={"model": facts.configured(model, {"hidden": width})}) for width in widths]
    counted = [facts.work(one.model, facts.task_of(one.dataset, one.protocol)) for one in cells]
    by_width = dict(zip(widths[:3], counted, strict=False))
    monkeypatch.setattr(facts, "work", lambda choice, task: by_width[choice.config["hidden"]])
    estimated = list(map(_ForwardWork(cells), cells))
    assert [flops for flops, _ in estimated] == pytest.approx([one[0] + NUMBER_COST * one[1] for one in counted])
    assert [operations for _, operations in estimated] == [one[2] for one in counted]


def test_steps_in_the_loss_are_those_that_a_training_takes() -> None:
    cells = suites.load("quickstart").only("model=convnet,level=0,seed=0").cells
    counts = facts.windows("beta_plane", "small", cells[0].protocol)
    train, validation = (cells[0].train.epochs * counts[name][0] for name in ("train", "validation"))
    rest = validation * 4 + (counts["future"][0] + counts["domain"][0]) * 6
    for steps in (None, 1, 3):
        training = cells[0].train.model_copy(update={"rollout_steps": steps})
        cell = cells[0].model_copy(update={"train": training})
        forecasts = 3 * train * (steps or 4) + rest
        slow, fast = (estimates([cell], [], partial(float, speed))[cell.id].seconds for speed in (1e9, 1e30))
        flops, numbers, _ = facts.work(cell.model, facts.task_of(cell.dataset, cell.protocol))
        assert slow - fast == pytest.approx((flops + 50 * numbers) / 1e9 * forecasts)


def test_operations_count_beside_flops() -> None:
    """Small operations take most of the time of particles; counted by hand for one training batch of `gnn`."""
    (cell,) = suites.load("trapped-ions-small").only("model=gnn,level=0,seed=0").cells
    flops, numbers, operations = facts.work(cell.model, facts.task_of(cell.dataset, cell.protocol))
    windows = facts.windows(cell.dataset.name, cell.dataset.preset, cell.protocol)
    train, validation, future, domain = (windows[name][0] * windows[name][1] for name in windows)
    training, testing = 3 * cell.train.epochs * train, cell.train.epochs * validation + future + domain
    slow, fast = (estimates([cell], [], partial(float, speed))[cell.id].seconds for speed in (1e9, 1e30))
    assert fast == pytest.approx(13e-6 * operations * (training / 32 + testing / BATCH))
    assert slow - fast == pytest.approx((flops + 50 * numbers) / 1e9 * (training + testing))


def test_a_finished_sibling_says_more_than_a_probe_and_a_probe_more_than_flops() -> None:
    loaded = suites.load("quickstart").only("level=0,seed=0")
    persistence, convnet, e2cnn, relaxed = loaded.cells
    timing = StepTiming(step=1.0, forecast=0.0, data="random")
    expected = estimates(
        loaded.cells,
        [Timing(convnet, 7.0)],
        step_timing_of=lambda cell: None if cell.model.name == relaxed.model.name else timing,
    )
    assert expected[convnet.id] == Estimate(7.0, "measured")
    assert expected[e2cnn.id] == Estimate(timing.seconds(e2cnn), "probe")
    assert expected[relaxed.id].basis == "from FLOPs"
    assert expected[persistence.id].seconds < 0.1
    assert [cell.id for cell in unmeasured(loaded.cells, [Timing(convnet, 7.0)])] == [e2cnn.id, relaxed.id]


def test_a_few_siblings_of_what_is_left_are_looked_at_and_no_others() -> None:
    loaded = suites.load("quickstart")
    convnets, others = loaded.only("model=convnet").cells, loaded.only("model=e2cnn").cells
    siblings = siblings_of(convnets[:1], [*map(reordered, convnets[1:]), *others], most=2)
    assert siblings == [reordered(cell) for cell in convnets[1:3]]


def test_other_programs_do_not_slow_the_measured_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but one of the calls are disturbed, as on a busy machine; the speed is kept for a day."""
    now, calls = [0.0], []

    def work() -> None:
        calls.append(1)
        now[0] += 0.004 if len(calls) == 7 else 0.01

    monkeypatch.setattr(plan_module.time, "perf_counter", lambda: now[0])
    assert plan_module._fastest(work) == pytest.approx(0.004)
    assert len(calls) == 1 + plan_module.REPEATS
