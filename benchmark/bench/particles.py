"""Time of a training step of each model of a suite of particles, in turns: `python -m benchmark.bench.particles`.

A step is a roll-out as in the suite, forward, backward and Adam, on noise. Ratios are medians over rounds, to `gnn` and
to plain message passing: the linear maps of `gnn` at its width, with differences of states as the features of a pair.
On a CPU one thread computes and its CPU time counts, so that other programs disturb little. Allowed are 1.35 times
`gnn` for `egnn`, and 1.3 times plain message passing for `gnn`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import torch
from torch import Tensor, nn

from benchmark.bench import harness
from benchmark.bench.harness import DEVICE, ON_GPU, Row, build, median_ratio, noise, now
from benchmark.cell import Cell
from benchmark.evaluation.costs import flops, parameters
from benchmark.models.baseline import Baseline, ParticleBaseline
from benchmark.models.layers.particles.graphs import perceptron
from benchmark.models.task import ParticleTask
from benchmark.training.loss import RolledOutLoss

REFERENCE, PLAIN = "gnn", "plain message passing"
WARM_UP, STEPS = 2, 3
"""Steps that are not counted, and steps of a model in a round."""
COLUMNS = {
    "model": "{model}",
    "parameters": "{parameters:,}",
    "FLOPs": "{flops:,}",
    "step": "{step_ms:.1f} ms",
    "over gnn": "{over_gnn:.2f}",
    "over plain": "{over_plain:.2f}",
}


class PlainLayer(nn.Module):
    """h_i' = h_i + update(h_i, mean_j message(h_i, h_j, e_ij)) with nothing besides."""

    def __init__(self, hidden: int, edge: int) -> None:
        super().__init__()
        self.receiver = nn.Linear(hidden, hidden)
        self.sender, self.edge = (nn.Linear(wide, hidden, bias=False) for wide in (hidden, edge))
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.update = perceptron(2 * hidden, hidden, hidden)

    def forward(self, h_BNH: Tensor, e_BNNE: Tensor) -> Tensor:
        messages = self.message(self.receiver(h_BNH)[:, :, None] + self.sender(h_BNH)[:, None] + self.edge(e_BNNE))
        return h_BNH + self.update(torch.cat((h_BNH, messages.mean(2)), -1))


class PlainMessages(ParticleBaseline):
    """Encoder, `layers` plain layers, decoder."""

    family, symmetries, source = "free", ("permutation",), "the reference of this bench"

    def __init__(self, hidden: int, layers: int, task: ParticleTask) -> None:
        super().__init__(None, task)
        self.encoder, self.decoder = perceptron(6, hidden, hidden), nn.Linear(hidden, 6)
        self.layers = nn.ModuleList(PlainLayer(hidden, 6) for _ in range(layers))

    def forward(self, x_BTN6: Tensor) -> Tensor:
        """(B, T, N, 6) -> (B, N, 6), from the last frame."""
        x = x_BTN6[:, -1]
        h, apart = self.encoder(x), x[:, :, None] - x[:, None]
        for layer in self.layers:
            h = layer(h, apart)
        return self.decoder(h)


def clock() -> float:
    """Seconds: of this process's CPU, or with a GPU of the wall, after all of its work is done."""
    return now() if ON_GPU else time.process_time()


def training_step(cell: Cell, model: Baseline) -> Callable[[], None]:
    """One optimiser step of `model` with the batch and the roll-out of `cell`."""
    batch = cell.train.batch_size
    x, y = (part.to(DEVICE) for part in noise(cell, batch)[0].batch(torch.arange(batch)))
    loss = RolledOutLoss(model, cell.train, DEVICE, cache_filters=True)
    optimizer, draws = torch.optim.Adam(model.parameters()), torch.rand(batch, device=DEVICE)

    def step() -> None:
        optimizer.zero_grad()
        loss(x, y, draws)[0].backward()
        optimizer.step()

    return step


def measure(cells: list[Cell], rounds: int) -> list[Row]:
    """Row of each cell, and of plain message passing, all timed in turns. UsageError: the suite has no `gnn`."""
    models = {cell.model.name: build(cell) for cell in cells}
    if REFERENCE not in models:
        raise click.UsageError(f"the suite has no {REFERENCE}, which the others are compared with")
    reference = cells[list(models).index(REFERENCE)]
    config, task = reference.model.config, models[REFERENCE].task
    models[PLAIN] = PlainMessages(config["hidden"], config["layers"], task).to(DEVICE)  # type: ignore[arg-type]
    steps = [training_step(cell, model) for cell, model in zip([*cells, reference], models.values(), strict=True)]
    for step in steps:
        for _ in range(WARM_UP):
            step()
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, times in zip(steps, seconds, strict=True):
            started = clock()
            for _ in range(STEPS):
                step()
            times.append((clock() - started) / STEPS)
    taken = dict(zip(models, seconds, strict=True))
    return [
        {
            "model": name,
            "parameters": parameters(model),
            "flops": flops(model, DEVICE),
            "step_ms": 1e3 * median(taken[name]),
            "over_gnn": median_ratio(taken[name], taken[REFERENCE]),
            "over_plain": median_ratio(taken[name], taken[PLAIN]),
        }
        for name, model in models.items()
    ]


@click.command(help=__doc__)
@click.argument("suite", default="trapped-ions")
@harness.models_option
@harness.batch_option
@click.option("--rounds", default=20, show_default=True)
@harness.json_option
def main(suite: str, models: str | None, batch: int | None, rounds: int, json_file: Path | None) -> None:
    """Time the models of a suite of particles; the module's docstring is the help text."""
    torch.set_num_threads(1)
    rows = measure(harness.trained_cells(suite, models, batch), rounds)
    harness.report(harness.formatted(rows, COLUMNS), rows, json_file, suite=suite, rounds=rounds)


if __name__ == "__main__":
    main()
