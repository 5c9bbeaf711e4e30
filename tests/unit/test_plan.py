"""What a plan counts and what it estimates from."""

import math

import pytest

from benchmark import suite
from benchmark.plan import Timing, make_plan


def test_done_cells_are_not_left_and_measured_siblings_are_used() -> None:
    loaded = suite.load("quickstart").only("model=convnet")
    first = loaded.cells[0]
    plan = make_plan(loaded, {first.id: "done"}, [Timing(first, 12.0)])
    assert len(plan.left) == len(loaded.cells) - 1
    assert sum(row.finished for row in plan.rows) == 1
    assert all(row.basis == "measured" for row in plan.rows)
    assert plan.estimated_seconds == pytest.approx(12.0 * len(plan.left))


def test_failed_and_running_cells_are_left() -> None:
    loaded = suite.load("quickstart").only("model=persistence")
    states = {cell.id: state for cell, state in zip(loaded.cells, ("failed", "running"), strict=True)}
    assert len(make_plan(loaded, states, []).left) == 2


def test_unmeasured_cells_are_estimated_from_flops() -> None:
    plan = make_plan(suite.load("quickstart"), {}, [])
    trained = [row for row in plan.rows if row.model != "persistence"]
    assert all(math.isfinite(row.estimated_seconds) and row.estimated_seconds > 0 for row in trained)
    assert all(row.basis == "from FLOPs" for row in trained)
