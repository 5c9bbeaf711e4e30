"""Step size and pull of relaxation: `python -m benchmark.bench.relaxation STORE`, on the data of `relaxation-rate`.

First, the gradient of a penalty of coefficient 1 over that of the data, on the deviations, after 20 steps of training,
at several widths and kernel sizes, in three units: as published, the mean absolute difference of neighbours; ours, the
same over the mean absolute weight; and the root mean square deviation over it. Second, what coefficients of our unit do
in 100 steps of training, at two relaxation rates. The data are exactly symmetric (docs/relaxation.md).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

import click
import torch
from torch import Tensor

from benchmark.bench.harness import DEVICE, Row, formatted, json_option, report
from benchmark.cell import Cell, Training
from benchmark.data.windows import Windows
from benchmark.evaluation.evaluate import roll_out
from benchmark.files import data_folder
from benchmark.groups import rotate
from benchmark.models import model_registry
from benchmark.models.baseline import Baseline
from benchmark.models.layers.relaxation import RelaxedLayer, layer_deviations
from benchmark.suite import loading as suites
from benchmark.training.experiment import Experiment, stored_field
from benchmark.training.loop import parameter_groups

MODELS = {"relaxed_steerable_rotation": 3e-3, "relaxed_group_rotation": 1e-3}
"""Models with learning rates at which every width trains."""
SIZES = ((8, 3), (16, 3), (32, 3), (8, 5), (16, 5))
"""Hidden fields and kernel size."""
ALPHAS, RATES = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0), (1.0, 0.1)
BATCH, STEPS = 8, 2
SCANNED = "relaxed_steerable_rotation"
Unit = Callable[[RelaxedLayer], Tensor]


def _size(layer: RelaxedLayer) -> Tensor:
    return torch.as_tensor(layer.size()).detach()


def _deviation_size(layer: RelaxedLayer) -> Tensor:
    numbers = torch.cat([parameter.flatten() for parameter in layer_deviations(layer)])
    return numbers.square().mean().sqrt() / _size(layer)


UNITS: dict[str, Unit] = {
    "published": lambda layer: layer.roughness(),
    "relative": lambda layer: layer.roughness() / _size(layer),
    "root_mean_square": _deviation_size,
}


class _Run:
    """A network in training on random batches of `windows`, without the suite's schedule."""

    def __init__(self, cell: Cell, windows: Windows, model: str, settings: dict[str, int], train: Training) -> None:
        torch.manual_seed(0)
        baseline = model_registry.model(model)
        self.model: Baseline = baseline(baseline.Config.model_validate(settings), Experiment.of(cell).task)
        self.layers = [layer for layer in self.model.modules() if isinstance(layer, RelaxedLayer)]
        self.optimizer = torch.optim.Adam(parameter_groups(self.model, train), train.learning_rate)
        self.windows, self.chance = windows, torch.Generator().manual_seed(0)

    def loss(self) -> Tensor:
        """Error of the first two rolled-out steps, on a batch."""
        x, y = self.windows.batch(torch.randint(len(self.windows), (BATCH,), generator=self.chance))
        prediction = roll_out(self.model, x, STEPS, DEVICE.type, False)
        return (prediction - y[:, :STEPS]).square().mean((0, 2, 3, 4)).sum()

    def penalty(self, unit: Unit) -> Tensor:
        """Penalty of coefficient 1."""
        return torch.stack([unit(layer) for layer in self.layers]).sum()

    def train(self, steps: int, alpha: float = 0.0) -> list[float]:
        """Losses of the data of each step."""
        losses = []
        for _ in range(steps):
            loss = self.loss()
            losses.append(float(loss.detach()))
            self.optimizer.zero_grad()
            (loss + alpha * self.penalty(UNITS["relative"])).backward()
            self.optimizer.step()
        return losses

    def pull(self, loss: Tensor) -> float:
        """Norm of the gradient of `loss` on the deviations."""
        gradients = torch.autograd.grad(loss, list(self.model.deviations()))
        return float(torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt())

    def error_over_change(self) -> float:
        """mean |f(gx) - g f(x)| / mean |f(x)| over the quarter turns, f the predicted change."""
        x, _ = self.windows.batch(torch.arange(0, len(self.windows), 4))
        with torch.no_grad():
            y = self.model(x)
            errors = [(self.model(rotate(x, k, "centered")) - rotate(y, k, "centered")).abs().mean() for k in (1, 2, 3)]
        return float(torch.stack(errors).mean() / y.abs().mean())


def _pulls(cell: Cell, windows: Windows) -> Iterator[Row]:
    for model, learning_rate in MODELS.items():
        for hidden, kernel_size in SIZES:
            train = Training(learning_rate=learning_rate)
            run = _Run(cell, windows, model, {"hidden": hidden, "kernel_size": kernel_size}, train)
            run.train(20)
            data = mean(run.pull(run.loss()) for _ in range(5))
            ratios = {name: run.pull(run.penalty(unit)) / data for name, unit in UNITS.items()}
            yield {"model": model, "hidden": hidden, "kernel_size": kernel_size, "data_gradient": data, **ratios}


def _scan(cell: Cell, windows: Windows) -> Iterator[Row]:
    for rate in RATES:
        for alpha in ALPHAS:
            train = Training(learning_rate=MODELS[SCANNED], relaxation_rate=rate)
            run = _Run(cell, windows, SCANNED, {"hidden": 8}, train)
            losses = run.train(100, alpha)
            relative = float(run.penalty(UNITS["relative"]).detach()) / len(run.layers)
            row: Row = {"relaxation_rate": rate, "penalty": alpha, "loss": mean(losses[-20:])}
            yield {**row, "error_over_change": run.error_over_change(), "relative_difference": relative}


@click.command(help=__doc__)
@click.argument("store", type=click.Path(exists=True, path_type=Path))
@json_option
def main(store: Path, json_file: Path | None) -> None:
    """Measure both; the module's docstring is the help text."""
    cell = next(cell for cell in suites.load("relaxation-rate").cells if cell.model.name == SCANNED)
    stored = stored_field(cell.dataset, data_folder(store))
    windows = Experiment.of(cell).windows(stored.field, DEVICE, False)["train"]
    pulls, scan = list(_pulls(cell, windows)), list(_scan(cell, windows))
    report(f"{formatted(pulls)}\n\n{formatted(scan)}", pulls, json_file, scan=scan, batch=BATCH, rolled_out_steps=STEPS)


if __name__ == "__main__":
    main()
