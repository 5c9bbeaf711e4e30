"""Time and memory of a training step of each baseline, beside a ConvNet: `python -m benchmark.bench.baselines`.

A step is two rolled-out frames, forward, backward and Adam; on a GPU compiled and in bf16. The ConvNet has the width at
which its forecast takes as many FLOPs as that of the baseline. Both take turns, and the time ratio is the median over
rounds, so that a busy machine slows both alike. The peak memory of each is measured in a process of its own, above that
of a step of a tiny model. A ratio above 1 is what a method costs beside its arithmetic.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor, nn

from benchmark.bench.harness import DEVICE, ON_GPU, Row, formatted, json_option, median_ratio, now, report
from benchmark.cell import Training
from benchmark.evaluation.costs import built, flops, parameters
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline, Task
from benchmark.models.convnet import ConvNet
from benchmark.suite.budget import bracket
from benchmark.training.environment import peak_memory_bytes, reset_peak_memory
from benchmark.training.loss import RolledOutLoss, compiled

FRAMES_IN, FRAMES_OUT = 10, 2
PUBLISHED_WIDTHS = {
    "convnet": 454,
    "coordconv": 454,
    "e2cnn": 92,  # 278 in the comparison; here as many channels as the relaxed network
    "combo_rotation": 92,
    "lift_rotation": 92,
    "rpp_rotation": 92,
    "relaxed_steerable_rotation": 92,
    "relaxed_group_rotation": 130,
    "relaxed_group_translation": 128,
    "fno": 50,
}
"""Field `hidden` of the Config: the published width, or one that fits the comparison. Others have their default."""
SETTINGS = Training(precision="bf16" if ON_GPU else "fp32", compile=ON_GPU)


def build(name: str, config: dict[str, Any], grid: int) -> Baseline:
    """Baseline with the default of each field that `config` does not set."""
    baseline = model_registry.model(name)
    torch.manual_seed(0)
    return baseline(baseline.Config.model_validate(config), _task(grid)).to(DEVICE)


def _task(grid: int) -> Task:
    return Task("bench", FRAMES_IN, grid, grid)


def _windows(batch: int, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """Windows, targets and draws, all noise."""
    torch.manual_seed(1)
    x = torch.randn(batch, FRAMES_IN, 2, grid, grid, device=DEVICE)
    y = torch.randn(batch, FRAMES_OUT, 2, grid, grid, device=DEVICE)
    return x, y, torch.rand(batch, device=DEVICE)


def reference_width(model: Baseline) -> int:
    """Width at which the FLOPs of a ConvNet are nearest to those of `model`."""
    wanted = flops(model, DEVICE)
    widths = bracket(lambda width: flops(built(ConvNet, ConvNet.Config(hidden=width), model.task)), wanted)
    return min(widths, key=lambda counted: abs(counted[1] - wanted))[0]


def training_step(model: Baseline, batch: int, grid: int) -> Callable[[], None]:
    """One optimiser step of `model` on noise, as in training."""
    x, y, draws = _windows(batch, grid)
    optimizer = torch.optim.Adam(model.parameters())
    loss: nn.Module = RolledOutLoss(model, SETTINGS, DEVICE, cache_filters=not ON_GPU)
    if ON_GPU:
        loss = compiled(loss, DEVICE)

    def step() -> None:
        optimizer.zero_grad()
        loss(x, y, draws)[0].backward()
        model.before_step(0.5)
        optimizer.step()

    return step


def peak_memory(name: str, config: dict[str, Any], batch: int, grid: int) -> float:
    """Peak in bytes of two training steps of the baseline. Needs a new process."""
    tiny = build(name, {**config, "hidden": 2} if "hidden" in config else config, 16)
    training_step(tiny, 1, 16)()
    reset_peak_memory(DEVICE)
    before = peak_memory_bytes(DEVICE)
    step = training_step(build(name, config, grid), batch, grid)
    for _ in range(2):  # the first creates the state of Adam
        step()
    after = peak_memory_bytes(DEVICE)
    return math.nan if before is None or after is None else after - before


def _peak_memory_apart(*arguments: Any) -> float:
    """Peak memory, measured in a new process."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # glibc of a new process then returns freed memory at once
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(peak_memory, *arguments).result()


def measure(name: str, config: dict[str, Any], batch: int, grid: int, rounds: int) -> Row:
    """Row of one baseline: time and memory of its step, and their ratios to those of the ConvNet."""
    model = build(name, config, grid)
    reference: dict[str, Any] = {"hidden": reference_width(model)}
    pairs = ((name, config), ("convnet", reference))
    memory, reference_memory = (_peak_memory_apart(*pair, batch, grid) for pair in pairs)
    steps = [training_step(build(*pair, grid), batch, grid) for pair in pairs]
    seconds: tuple[list[float], ...] = ([], [])
    for number in range(rounds + 1):
        for step, times in zip(steps, seconds, strict=True):
            started = now()
            step()
            if number > 0:  # the first round warms up
                times.append(now() - started)
    return {
        "baseline": name,
        "parameters": parameters(model),
        "flops": flops(model, DEVICE),
        "convnet_width": reference["hidden"],
        "step_ms": 1e3 * median(seconds[0]),
        "convnet_ms": 1e3 * median(seconds[1]),
        "time_ratio": median_ratio(*seconds),
        "memory_mib": memory / 2**20,
        "memory_ratio": memory / reference_memory if reference_memory else math.nan,  # a tiny one needs no new memory
    }


def settings(name: str, quick: bool) -> dict[str, Any]:
    """Config fields of `name` in the comparison; `quick` divides the width by four."""
    fields = model_registry.model(name).Config.model_fields
    if "hidden" not in fields:
        return {}
    width = PUBLISHED_WIDTHS.get(name, fields["hidden"].default)
    return {"hidden": math.ceil(width / 4) if quick else width}


@click.command(help=__doc__)
@click.argument("baselines", nargs=-1)
@click.option("--batch", default=4, show_default=True)
@click.option("--grid", default=64, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--quick", is_flag=True, help="A quarter of each width, so that costs beside arithmetic weigh more.")
@json_option
def main(baselines: tuple[str, ...], batch: int, grid: int, rounds: int, quick: bool, json_file: Path | None) -> None:
    """Measure baselines, all by default; the module's docstring is the help text."""
    rows = []
    for name in baselines or model_registry.model_names():
        config = settings(name, quick)
        baseline = model_registry.model(name)
        refusal = baseline.cannot_run(baseline.Config.model_validate(config), _task(grid))
        if refusal or not baseline.trained:
            click.echo(f"{name}: {refusal or 'nothing to train'}", err=True)
            continue
        click.echo(f"{name} {config or ''} ...", err=True)
        rows.append(measure(name, config, batch, grid, rounds))
        click.echo("    {time_ratio:.2f} x the time, {memory_ratio:.2f} x the memory".format(**rows[-1]), err=True)
    if rows:
        report(formatted(rows), rows, json_file, batch=batch, grid=grid, rounds=rounds)


if __name__ == "__main__":
    main()
