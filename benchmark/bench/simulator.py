"""Speed of the smoke simulator compared with PhiFlow: `python -m benchmark.bench.simulator`.

The 35 published translation runs are simulated on one process, the published `Solve('auto', 1e-5, 0)` and the cosine
transform of symbench taking turns, step by step. The first steps take the published solver no longer than later ones.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmark.bench.harness import DEVICE, formatted, json_option, now, report
from benchmark.data.dataset import PAPER
from benchmark.data.datasets.smoke_translation import SmokeTranslation
from benchmark.data.physics.smoke import frames_of
from benchmark.data.physics.smoke_phiflow import PUBLISHED_SOLVE
from benchmark.data.physics.smoke_phiflow import frames as frames_by_phiflow

BATCH = 5
"""Runs in a batch, as in `symbench data prepare`."""


@click.command(help=__doc__)
@click.option("--steps", default=20, show_default=True, help="Steps that are timed, of 310.")
@json_option
def main(steps: int, json_file: Path | None) -> None:
    """Time the simulators; the module's docstring is the help text."""
    torch.set_num_threads(1)  # as each process of `data prepare`
    parts = SmokeTranslation().parts(PAPER, "paper")
    box, plumes = parts[0].box, tuple(plume for part in parts for plume in part.plumes)
    batches = [plumes[i : i + BATCH] for i in range(0, len(plumes), BATCH)]
    ours = [_timed(frames_of(box, batch, steps, DEVICE)) for batch in batches]
    published = _timed(frames_by_phiflow(box, plumes, steps, PUBLISHED_SOLVE))
    ours_s = published_s = difference = 0.0
    for _ in range(steps):
        seconds, expected = next(published)
        published_s += seconds
        timed = [next(batch) for batch in ours]
        ours_s += sum(seconds for seconds, _ in timed)
        difference = float((torch.cat([frame.cpu() for _, frame in timed]) - expected).abs().max())
    row = {
        "runs": len(plumes),
        "steps": steps,
        "published_step_s": published_s / steps,
        "step_s": ours_s / steps,
        "speed_up": published_s / ours_s,
        "difference": difference,
    }
    report(formatted([row]), [row], json_file)


def _timed(frames: Iterator[Tensor]) -> Iterator[tuple[float, Tensor]]:
    """Frames, each with the seconds that it took."""
    while True:
        started = now()
        frame = next(frames, None)
        if frame is None:
            return
        yield now() - started, frame


if __name__ == "__main__":
    main()
