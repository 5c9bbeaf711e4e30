"""Bench of ranks: the times of a single rank, and the table."""

from pathlib import Path

from benchmark.bench.ddp import ALONE, APART, HALF, OURS, time_on_rank, to_markdown
from benchmark.bench.harness import noise
from benchmark.suite import loading as suites


def test_a_rank_alone_is_timed(tmp_path: Path) -> None:
    cell = next(cell for cell in suites.load("quickstart").cells if cell.model.name == "convnet")
    seconds = time_on_rank(cell, 0, 1, tmp_path / "rendezvous", rounds=2, steps=1)
    assert seconds.keys() == {ALONE, HALF}
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())


def test_one_rank_has_no_column_of_several() -> None:
    known = {"model": "convnet", "parameters": 2**19, "batch": 4}
    alone = {**known, "ranks": 1, "seconds": {ALONE: 0.04, HALF: 0.02}}
    pair = {**known, "ranks": 2, "seconds": {ALONE: 0.04, HALF: 0.02, OURS: 0.03, APART: 0.025}}
    pair |= {"added_s": 0.005, "speed_up": 1.5, "stop_share": 0.0123}
    assert to_markdown([alone, pair]).splitlines()[2:] == [
        "| convnet | 524,288 | 4 | 1 | 40 ms | 20 ms | | | | | |",
        "| convnet | 524,288 | 4 | 2 | 40 ms | 20 ms | 30 ms | 25 ms | 5 ms | 1.50 | 1.2 % |",
    ]


def test_the_steps_that_are_timed_are_as_long_as_those_of_the_training() -> None:
    cell = suites.load("quickstart").only("model=convnet").cells[0]
    for steps, expected in ((1, 1), (None, 4)):
        settings = cell.train.model_copy(update={"rollout_steps": steps})
        train, validation = noise(cell.model_copy(update={"train": settings}), most=2)
        assert (train.steps, validation.steps) == (expected, 4)
