"""Broken models fail before training, each in its own cell with a one-line message; the others continue."""

import json
from collections.abc import Callable
from pathlib import Path

from support import symbench

from results.store.store import Store

TOY = """
import torch
from benchmark.models.baseline import Baseline

class Toy(Baseline):
    family, symmetries, source = "cnn", (), "test"
    def __init__(self, config, task):
        {parent}
        self.gain = torch.nn.Parameter(torch.zeros(task.channels, 1, 1))
        {init}
    def forward(self, x):
        {forward}
"""
PARENT = "super().__init__(config, task)"
BROKEN = {
    "orphan": (None, "return x[:, -1]", "(orphan.py, line 9): __init__ must first call super().__init__(config, task)"),
    "chooser": ("", "return x[:, -1].cuda() * self.gain", "forward must not choose a device"),
    "shapeless": ("", "return x * self.gain", "forward gives a tensor of shape (1, 1, 2, 16, 16), expected"),
    "nowhere": ("", "return x[:, -1] / self.gain", "of 512 numbers, expected finite numbers"),
    "raising": (
        "",
        "return x[:, self.gone]",
        "AttributeError: 'Toy' object has no attribute 'gone' (raising.py, line 12)",
    ),
    "unbuilt": ("raise ValueError('no')", "return x[:, -1]", "ValueError: no (unbuilt.py, line 10)"),
}


def test_each_failure_is_reported_and_the_others_continue(
    store: Store, make_suite: Callable[..., Path], tmp_path: Path
) -> None:
    plugins: list[object] = []
    for name, (init, forward, _) in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(
            TOY.format(parent=PARENT if init is not None else "pass", init=init or "", forward=forward),
            encoding="utf-8",
        )
        plugins += ["--plugin", tmp_path / f"{name}.py"]
    path = make_suite(models=f"[{', '.join(BROKEN)}, persistence]", seeds="[0, 1, 2]")

    plan = symbench("plan", path, *plugins, store=store)
    assert plan.returncode == 0, plan.stderr
    assert "Traceback" not in plan.stderr

    result = symbench("run", path, *plugins, store=store)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"1 cells run, 0 were finished, {3 * len(BROKEN)} failed" in result.stdout
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == len(BROKEN)
    for line, (name, (_, _, reason)) in zip(failed, BROKEN.items(), strict=True):
        assert f"input: model {name}: " in line
        assert reason in line
        assert line.endswith("; 2 more for the same reason")
        assert result.stderr.count(reason) == 2, "once when it happens, once in the end"
    shown = " ".join(symbench("status", path, *plugins, store=store).stdout.split())
    assert shown.count("has no attribute") == 1
    rows = json.loads(symbench("status", path, "--json", *plugins, store=store).stdout)
    assert f"{rows[0]['id']} and 2 more: " in shown
    assert sum("has no attribute" in row["message"] for row in rows) == 3
