"""The smoke simulator beside PhiFlow, step by step in one process: `python -m benchmark.bench.simulator`.

Speed: the 35 published translation runs, the published `Solve('auto', 1e-5, 0)` against the cosine transform, both on
one process; the first steps take the published solver no longer than the later ones. `--whole` takes all 310 steps,
and compares trajectories with PhiFlow's direct solve: those of the ten rotation levels over their whole length, and
five translation runs over 310 steps, after which chaos has parted them and only their statistics can agree.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmark.data.dataset import PAPER
from benchmark.data.datasets.smoke_rotation_levels import SmokeRotationLevels
from benchmark.data.datasets.smoke_translation import SmokeTranslation
from benchmark.data.physics.smoke import Box, Plume, frames_of
from benchmark.data.physics.smoke_phiflow import PUBLISHED_SOLVE
from benchmark.data.physics.smoke_phiflow import frames as frames_by_phiflow

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DIRECT: tuple[Any, ...] = ("scipy-direct", 1e-5, 1e-9)
SOME_RUNS = slice(0, 35, 8)
LATE = 100
"""Steps at the end over which energies are compared."""


@click.command()
@click.option("--steps", default=20, show_default=True, help="Steps that are timed; the whole trajectory has 310.")
@click.option("--whole", is_flag=True, help="All 310 steps, and the comparison of trajectories; takes half an hour.")
def main(steps: int, whole: bool) -> None:
    """Compare the simulator with PhiFlow."""
    torch.set_num_threads(1)  # as each process of `data prepare`
    console = Console()
    parts = SmokeTranslation().parts(PAPER, "paper")
    box, plumes = parts[0].box, tuple(plume for part in parts for plume in part.plumes)
    console.print(_speed(box, plumes, parts[0].steps if whole else steps))
    if whole:
        console.print(_levels())
        console.print(_chaos(box, plumes[SOME_RUNS], parts[0].steps))


def _speed(box: Box, plumes: Sequence[Plume], steps: int) -> Table:
    """Both take turns, a step each. Ours runs in the batches that `data prepare` makes."""
    batches = [plumes[i : i + 5] for i in range(0, len(plumes), 5)]
    ours = [_timed(frames_of(box, batch, steps, DEVICE)) for batch in batches]
    published = _timed(frames_by_phiflow(box, plumes, steps, PUBLISHED_SOLVE))
    seconds = {"published": 0.0, "ours": 0.0}
    difference = 0.0
    for _ in range(steps):
        spent, theirs = next(published)
        seconds["published"] += spent
        frames = []
        for batch in ours:
            spent, frame = next(batch)
            seconds["ours"] += spent
            frames.append(frame.cpu())
        difference = float((torch.cat(frames) - theirs).abs().max())
    table = Table(title=f"{len(plumes)} translation runs, {box.cells} x {box.cells}, {steps} steps ({DEVICE.type})")
    for heading in ("solver", "ms a step", "times faster", f"largest difference in step {steps}"):
        table.add_column(heading, justify="right")
    for name, spent in seconds.items():
        ratio = f"{seconds['published'] / spent:.1f}"
        table.add_row(name, f"{1000 * spent / steps:.1f}", ratio, f"{difference:.1e}" if name == "ours" else "")
    return table


def _timed(frames: Iterator[Tensor]) -> Iterator[tuple[float, Tensor]]:
    while True:
        started = time.perf_counter()
        frame = next(frames, None)
        if frame is None:
            return
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        yield time.perf_counter() - started, frame


def _levels() -> Table:
    """All plumes of the ten levels, over all of their steps, against the direct solve."""
    levels = SmokeRotationLevels()
    parts = {part.key: part for level in levels.levels for part in levels.parts(level, "paper")}
    box, steps = next(iter(parts.values())).box, next(iter(parts.values())).steps
    plumes = tuple(part.plumes[0] for part in parts.values())
    differences = torch.zeros(len(plumes), dtype=torch.float64)
    pairs = zip(frames_of(box, plumes, steps, DEVICE), frames_by_phiflow(box, plumes, steps, DIRECT), strict=True)
    for ours, theirs in pairs:
        differences = torch.maximum(differences, (ours.cpu() - theirs).abs().amax((1, 2, 3)))
    table = Table(title=f"{len(plumes)} plumes of the ten levels, {steps} steps, against PhiFlow's direct solve")
    table.add_column("buoyancy")
    table.add_column("largest difference", justify="right")
    for plume, difference in zip(plumes, differences.tolist(), strict=True):
        table.add_row(f"{plume.buoyancy[1]:g}", f"{difference:.1e}")
    return table


def _chaos(box: Box, plumes: Sequence[Plume], steps: int) -> Table:
    """How long the trajectories stay together, and what is alike when they have parted."""
    pairs = zip(frames_of(box, plumes, steps, DEVICE), frames_by_phiflow(box, plumes, steps, DIRECT), strict=True)
    differences, energies = [], []
    for ours, theirs in pairs:
        differences.append((ours.cpu() - theirs).abs().amax((1, 2, 3)))
        energies.append(torch.stack([frame.cpu().square().sum(1).mean((1, 2)) / 2 for frame in (ours, theirs)]))
    apart, energy = torch.stack(differences), torch.stack(energies)[-LATE:]
    table = Table(title=f"{len(plumes)} translation runs over {steps} steps, against PhiFlow's direct solve")
    for heading in ("inflow", "steps within 1e-5", "within 1e-2", f"mean energy of the last {LATE}", "PhiFlow's"):
        table.add_column(heading, justify="right")
    for run, plume in enumerate(plumes):
        together = [_steps_within(apart[:, run], limit) for limit in (1e-5, 1e-2)]
        mean, deviation = energy[:, :, run].mean(0).tolist(), energy[:, :, run].std(0).tolist()
        spread = [f"{one:.2f} ± {other:.2f}" for one, other in zip(mean, deviation, strict=True)]
        table.add_row(f"{plume.inflow[0]:g}, {plume.inflow[1]:g}", *map(str, together), *spread)
    return table


def _steps_within(differences: Tensor, limit: float) -> int:
    beyond = (differences > limit).nonzero()
    return int(beyond[0]) if len(beyond) else len(differences)


if __name__ == "__main__":
    main()
