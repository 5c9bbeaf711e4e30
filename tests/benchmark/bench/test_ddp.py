"""What `bench_ddp` measures on one rank, and the tables that it prints."""

from __future__ import annotations

from pathlib import Path

from benchmark.bench.ddp import ALONE, APART, GRADIENTS, HALF, NUMBER, OURS, SETTINGS, on_rank, to_markdown
from benchmark.suite import loading as suites


def test_a_rank_alone_is_timed(tmp_path: Path) -> None:
    cell = next(cell for cell in suites.load("quickstart").cells if cell.model.name == "convnet")
    seconds = on_rank(cell, 0, 1, tmp_path / "rendezvous", rounds=2, steps=1)
    assert seconds.keys() == {ALONE, HALF}
    assert all(len(values) == 2 and min(values) > 0 for values in seconds.values())


def test_one_rank_has_no_column_of_several() -> None:
    known = {"model": "convnet", "parameters": 2**19, "gradient_bytes": 2**21, "batch": 4}
    alone = {**known, "ranks": 1, "seconds": {ALONE: 0.04, HALF: 0.02}}
    seconds = {ALONE: 0.04, HALF: 0.02, OURS: 0.03, APART: 0.025, NUMBER: 1e-4, GRADIENTS: 2.0}
    pair = {**known, "ranks": 2, "seconds": seconds, "added_s": 0.005, "speed_up": 1.5}
    steps, settings = to_markdown([alone, {**pair, "settings": dict.fromkeys(SETTINGS, 1.0)}]).split("\n\n")
    assert steps.splitlines()[2:] == [
        "| convnet | 524,288 | 4 | 1 | 40 ms | 20 ms | | | | |",
        "| convnet | 524,288 | 4 | 2 | 40 ms | 20 ms | 30 ms | 25 ms | 5 ms | 1.50 |",
    ]
    assert settings.splitlines()[2:] == [
        "| convnet | 2 | 2.00 MiB | 0.1 ms | 2 s | " + " | ".join(["1.00"] * len(SETTINGS)) + " |"
    ]
