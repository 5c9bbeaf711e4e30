"""What a baseline costs against a plain ConvNet of the same width: `python -m benchmark.bench`.

One step is what training does: two rolled-out frames, forward, backward, Adam. Contenders take turns in one process,
and the time ratio is the median over rounds of the ratio within a round, so that a busy machine slows both alike;
the peak memory of each is measured in a process of its own, above what a step of a tiny copy has used.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from . import registry
from .baseline import Baseline, Task
from .cell import Training
from .environment import peak_memory_bytes, reset_peak_memory
from .training import RolledOutLoss

FRAMES_IN, FRAMES_OUT = 10, 2
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(name: str, hidden: int, grid: int) -> Baseline:
    """The baseline with its defaults, but for `hidden`."""
    baseline = registry.model(name)
    torch.manual_seed(0)
    task = Task("bench", FRAMES_IN, 2, grid, grid)
    return baseline(baseline.Config.model_validate({"hidden": hidden}), task).to(DEVICE)


def training_step(model: Baseline, batch: int, grid: int) -> Callable[[], None]:
    """One optimiser step on noise; on a GPU compiled and in bf16."""
    fast = DEVICE.type == "cuda"
    settings = Training(precision="bf16" if fast else "fp32", compile=fast)
    loss: nn.Module = RolledOutLoss(model, settings, DEVICE, cache_filters=not fast)
    if fast:
        loss = torch.compile(loss)  # type: ignore[assignment]
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(batch, FRAMES_IN, 2, grid, grid, device=DEVICE)
    y = torch.randn(batch, FRAMES_OUT, 2, grid, grid, device=DEVICE)
    draws = torch.rand(batch, device=DEVICE)

    def step() -> None:
        optimizer.zero_grad()
        loss(x, y, draws)[0].backward()
        optimizer.step()
        if fast:
            torch.cuda.synchronize()

    return step


def channels(model: Baseline, grid: int) -> int:
    """The widest feature map at full resolution, in numbers per pixel; leaves its hooks in `model`."""
    widest = 0

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal widest
        if isinstance(output, Tensor) and output.shape[0] == 1 and output.shape[-2:] == (grid, grid):
            widest = max(widest, output.numel() // grid**2)

    for module in model.modules():
        module.register_forward_hook(look)
    with torch.no_grad():
        model(torch.zeros(1, FRAMES_IN, 2, grid, grid, device=DEVICE))
    return widest


def peak_memory(name: str, hidden: int, batch: int, grid: int) -> float:
    """Peak of three training steps, in bytes; to be called in a fresh process."""
    training_step(build(name, 2, 16), 1, 16)()
    reset_peak_memory(DEVICE)
    before = peak_memory_bytes(DEVICE)
    step = training_step(build(name, hidden, grid), batch, grid)
    for _ in range(3):
        step()
    after = peak_memory_bytes(DEVICE)
    return math.nan if before is None or after is None else after - before  # not every system tells


def _peak_memory_apart(*arguments: object) -> float:
    call = f"from benchmark.bench import peak_memory; print(peak_memory(*{arguments!r}))"
    return float(subprocess.check_output([sys.executable, "-c", call], text=True))


def compare(names: list[str], hidden: int, batch: int, grid: int, repeats: int) -> list[dict[str, Any]]:
    """One row for each baseline: its step and its memory, absolute and over the ConvNet of its width."""
    widths = {name: channels(build(name, hidden, grid), grid) for name in names}
    contenders = {(name, hidden) for name in names} | {("convnet", width) for width in widths.values()}
    memory = {one: _peak_memory_apart(*one, batch, grid) for one in sorted(contenders)}
    steps = {one: training_step(build(*one, grid), batch, grid) for one in sorted(contenders)}
    seconds: dict[tuple[str, int], list[float]] = {one: [] for one in steps}
    for repeat in range(repeats + 1):
        for one, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat > 0:  # the first warms up
                seconds[one].append(time.perf_counter() - start)

    def ratio(name: str, width: int) -> float:
        rounds = zip(seconds[name, hidden], seconds["convnet", width], strict=True)
        return statistics.median(ours / plain for ours, plain in rounds)

    return [
        {
            "baseline": name,
            "channels": width,
            "step_ms": 1e3 * statistics.median(seconds[name, hidden]),
            "time_ratio": ratio(name, width),
            "memory_ratio": memory[name, hidden] / memory["convnet", width],
        }
        for name, width in widths.items()
    ]


@click.command(help=__doc__)
@click.argument("baselines", nargs=-1)
@click.option("--hidden", default=32, show_default=True, help="The field `hidden` of every Config.")
@click.option("--batch", default=4, show_default=True)
@click.option("--grid", default=64, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(baselines: tuple[str, ...], hidden: int, batch: int, grid: int, repeats: int, as_json: bool) -> None:
    names = list(baselines) or [
        name for name in registry.model_names() if "hidden" in registry.model(name).Config.model_fields
    ]
    rows = compare(names, hidden, batch, grid, repeats)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
