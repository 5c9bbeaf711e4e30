"""What a training step of each baseline costs, against its arithmetic limit: `python -m benchmark.bench.baselines`.

One step is what training does: two rolled-out frames, forward, backward, Adam; on a GPU compiled and in bf16. The limit
is the same of a plain network that executes the convolutions and matrix products of this step and nothing else
(benchmark/bench/limit.py). The two take turns, and the time ratio is the median over rounds of the ratio within a
round, so that a busy machine slows both alike; the peak memory of each is measured in a process of its own, above what
a step of a tiny copy has used. A baseline whose docstring says what it costs by definition may be beyond the limits.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmark.bench.limit import LimitNetwork, Product, Recorder, Weight
from benchmark.cell import Training
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.training.environment import peak_memory_bytes, reset_peak_memory
from benchmark.training.loss import RolledOutLoss

FRAMES_IN, FRAMES_OUT = 10, 2
ALLOWED_TIME, ALLOWED_TIME_E2CNN, ALLOWED_MEMORY = 1.15, 1.3, 1.5
PUBLISHED: dict[str, dict[str, Any]] = {
    "convnet": {"hidden": 454},
    "coordconv": {"hidden": 454},
    "e2cnn": {"hidden": 92},  # 278 in the comparison; so it has the channels of the relaxed network
    "combo_rotation": {"hidden": 92},
    "lift_rotation": {"hidden": 92},
    "rpp_rotation": {"hidden": 92},
    "relaxed_steerable_rotation": {"hidden": 92},
    "relaxed_group_rotation": {"hidden": 130},
    "relaxed_group_translation": {"hidden": 128},
    "fno": {"hidden": 50},
}
"""Settings of the comparison: the published ones or, where there are none, a width that fits it. The others have their
defaults."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FAST = DEVICE.type == "cuda"
Recorded: TypeAlias = tuple[list[Product], list[Weight]]
SETTINGS = Training(precision="bf16" if FAST else "fp32", compile=FAST)


def build(name: str, config: dict[str, Any], grid: int) -> Baseline:
    """The baseline with its defaults, but for `config`."""
    baseline = model_registry.model(name)
    torch.manual_seed(0)
    return baseline(baseline.Config.model_validate(config), _task(grid)).to(DEVICE)


def _task(grid: int) -> Task:
    return Task("bench", FRAMES_IN, 2, grid, grid)


def _windows(batch: int, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """Windows, targets and draws, all noise."""
    torch.manual_seed(1)
    x = torch.randn(batch, FRAMES_IN, 2, grid, grid, device=DEVICE)
    y = torch.randn(batch, FRAMES_OUT, 2, grid, grid, device=DEVICE)
    return x, y, torch.rand(batch, device=DEVICE)


def plain_loss(model: Baseline) -> RolledOutLoss:
    return RolledOutLoss(model, SETTINGS, DEVICE, cache_filters=not FAST)


def record(model: Baseline, batch: int, grid: int) -> Recorded:
    """What its limit network is made of, for a training step of `model`, whose parameters are moved a little."""
    with torch.no_grad():
        for parameter in model.parameters():  # equal weights, such as zeros, would be taken for one
            parameter.add_(1e-3 * torch.randn_like(parameter))
    x, y, draws = _windows(batch, grid)
    with Recorder(x) as recorder:
        plain_loss(model)(x, y, draws)
    return recorder.products, recorder.weights


def training_step(loss: nn.Module, batch: int, grid: int) -> Callable[[], None]:
    """One optimiser step on noise, with what a baseline does before it."""
    before_step = loss.model.before_step if isinstance(loss, RolledOutLoss) else lambda progress: None
    x, y, draws = _windows(batch, grid)
    optimizer = torch.optim.Adam(loss.parameters())
    if FAST:
        loss = torch.compile(loss)  # type: ignore[assignment]

    def step() -> None:
        optimizer.zero_grad()
        loss(x, y, draws)[0].backward()
        before_step(0.5)
        optimizer.step()
        if FAST:
            torch.cuda.synchronize()

    return step


def peak_memory(name: str, config: dict[str, Any], batch: int, grid: int, recorded: Recorded | None) -> float:
    """Peak in bytes of two training steps of the baseline, or of its limit; to be called in a fresh process."""
    tiny = build(name, {**config, "hidden": 2} if "hidden" in config else config, 16)
    training_step(plain_loss(tiny), 1, 16)()
    training_step(LimitNetwork(*record(tiny, 1, 16)).to(DEVICE), 1, 16)()
    reset_peak_memory(DEVICE)
    before = peak_memory_bytes(DEVICE)
    loss = plain_loss(build(name, config, grid)) if recorded is None else LimitNetwork(*recorded).to(DEVICE)
    step = training_step(loss, batch, grid)
    for _ in range(2):  # the first makes the state of Adam
        step()
    after = peak_memory_bytes(DEVICE)
    return math.nan if before is None or after is None else after - before  # not every system tells


def _peak_memory_apart(*arguments: object) -> float:
    module = "import pickle, sys; from benchmark.bench.baselines import peak_memory"
    call = f"{module}; print(peak_memory(*pickle.load(sys.stdin.buffer)))"
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc then gives back what is freed, at once
    done = subprocess.run(
        [sys.executable, "-c", call], input=pickle.dumps(arguments), stdout=subprocess.PIPE, check=True, env=environment
    )
    return float(done.stdout)


def measure(name: str, config: dict[str, Any], batch: int, grid: int, rounds: int) -> dict[str, Any]:
    """The row of one baseline: its step, its memory, and both over the limit."""
    model = build(name, config, grid)
    recorded = record(model, batch, grid)
    memory, least = (_peak_memory_apart(name, config, batch, grid, which) for which in (None, recorded))
    losses = plain_loss(model), LimitNetwork(*recorded).to(DEVICE)
    steps = [training_step(loss, batch, grid) for loss in losses]
    seconds: list[list[float]] = []
    for _ in range(rounds + 1):
        seconds.append([])
        for step in steps:
            start = time.perf_counter()
            step()
            seconds[-1].append(time.perf_counter() - start)
    del seconds[0]  # it warms up
    uses_e2cnn = any(type(module).__module__.startswith("e2cnn") for module in model.modules())
    row: dict[str, Any] = {
        "baseline": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step_ms": 1e3 * statistics.median(ours for ours, _ in seconds),
        "limit_ms": 1e3 * statistics.median(theirs for _, theirs in seconds),
        "time_ratio": statistics.median(ours / theirs for ours, theirs in seconds),
        "allowed_time": ALLOWED_TIME_E2CNN if uses_e2cnn else ALLOWED_TIME,
        "memory_mib": memory / 2**20,
        "memory_ratio": memory / least if least else math.nan,  # nothing to see of a very small one
        "allowed_memory": ALLOWED_MEMORY,
    }
    over = [what for what in ("time", "memory") if row[f"{what}_ratio"] > row[f"allowed_{what}"]]
    return {**row, "beyond": " and ".join(over)}


def settings(name: str, hidden: int | None, quick: bool) -> dict[str, Any]:
    """The Config fields of `name`: those of the comparison, at another width where one is given."""
    fields = model_registry.model(name).Config.model_fields
    config = dict(PUBLISHED.get(name, {}))
    if "hidden" in fields:
        width = config.get("hidden", fields["hidden"].default)
        config["hidden"] = hidden or (math.ceil(width / 4) if quick else width)
    return config


@click.command(help=__doc__)
@click.argument("baselines", nargs=-1)
@click.option("--hidden", type=int, help="The field `hidden` of every Config.  [default: as published]")
@click.option("--batch", default=4, show_default=True)
@click.option("--grid", default=64, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help="A quarter of each width: what is not arithmetic then weighs more.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def main(
    baselines: tuple[str, ...], hidden: int | None, batch: int, grid: int, rounds: int, quick: bool, as_json: bool
) -> None:
    """See above. What it is doing goes to stderr, the table to stdout."""
    rows = []
    for name in baselines or model_registry.model_names():
        config = settings(name, hidden, quick)
        baseline = model_registry.model(name)
        refusal = baseline.refusal(baseline.Config.model_validate(config), _task(grid))
        if refusal or not baseline.trained:
            click.echo(f"{name}: {refusal or 'nothing to train'}", err=True)
            continue
        click.echo(f"{name} {config or ''} ...", err=True)
        rows.append(measure(name, config, batch, grid, rounds))
        click.echo("    {time_ratio:.2f} x the time, {memory_ratio:.2f} x the memory".format(**rows[-1]), err=True)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _print(rows)


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        cells = [
            f"{value:.0f}"
            if key.endswith(("_ms", "_mib"))
            else f"{value:.2f}"
            if isinstance(value, float)
            else str(value)
            for key, value in row.items()
        ]
        table.add_row(*cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    main()
