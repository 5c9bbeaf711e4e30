"""What a plan counts and what it estimates from."""

import json
import math

import pytest

from benchmark.cell import Cell
from benchmark.planning.plan import Estimate, Timing, estimates, left_of, make_plan, siblings_of, unmeasured
from benchmark.planning.step_timing import Pace
from benchmark.suite import loading as suites

STATES = {"failed": 2, "running": 2, "done": 1, "diverged": 1, "n/a": 1}


def reordered(cell: Cell) -> Cell:
    """As it comes back from a record, whose keys are sorted."""
    return Cell.model_validate(json.loads(json.dumps(cell.model_dump(mode="json"), sort_keys=True)))


def test_finished_cells_are_not_left_and_their_siblings_tell_what_they_took() -> None:
    loaded = suites.load("quickstart").only("model=convnet")
    first, second, *_ = loaded.cells
    assert list(first.model.config) != sorted(first.model.config)
    left = left_of(loaded, {first.id: "done", second.id: "done"})
    taken = [Timing(reordered(first), 12.0), Timing(reordered(second), 18.0)]
    plan = make_plan(loaded, left, estimates(left, taken))
    assert len(plan.left) == len(loaded.cells) - 2
    assert sum(row.finished for row in plan.rows) == 2
    assert {row.estimate for row in plan.rows} <= {"measured", ""}
    assert plan.estimated_seconds == pytest.approx(15.0 * len(plan.left))


@pytest.mark.parametrize(("state", "left"), STATES.items())
def test_what_is_not_a_result_is_left(state: str, left: int) -> None:
    loaded = suites.load("quickstart").only("model=persistence")
    assert len(left_of(loaded, {loaded.cells[0].id: state})) == left


def test_unmeasured_cells_are_estimated_from_flops() -> None:
    loaded = suites.load("quickstart")
    plan = make_plan(loaded, loaded.cells, estimates(loaded.cells, []))
    trained = [row for row in plan.rows if row.model != "persistence"]
    assert all(math.isfinite(row.estimated_seconds) and row.estimated_seconds > 0 for row in trained)
    assert all(row.estimate == "from FLOPs" for row in trained)


def test_a_finished_sibling_says_more_than_a_probe_and_a_probe_more_than_flops() -> None:
    loaded = suites.load("quickstart").only("level=0,seed=0")
    persistence, convnet, e2cnn, relaxed = loaded.cells
    pace = Pace(step=1.0, forecast=0.0, data="random")
    expected = estimates(
        loaded.cells,
        [Timing(convnet, 7.0)],
        pace_of=lambda cell: None if cell.model.name == relaxed.model.name else pace,
    )
    assert expected[convnet.id] == Estimate(7.0, "measured")
    assert expected[e2cnn.id] == Estimate(pace.seconds(e2cnn), "probe")
    assert expected[relaxed.id].basis == "from FLOPs"
    assert expected[persistence.id] == Estimate(0.0, "from FLOPs")
    assert [cell.id for cell in unmeasured(loaded.cells, [Timing(convnet, 7.0)])] == [e2cnn.id, relaxed.id]


def test_a_few_siblings_of_what_is_left_are_looked_at_and_no_others() -> None:
    loaded = suites.load("quickstart")
    convnets, others = loaded.only("model=convnet").cells, loaded.only("model=e2cnn").cells
    found = siblings_of(convnets[:1], [*map(reordered, convnets[1:]), *others], most=2)
    assert found == [reordered(cell) for cell in convnets[1:3]]
