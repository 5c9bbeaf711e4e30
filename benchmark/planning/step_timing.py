"""Time of a training step and of a forecast, and the kinds of cells that share it."""

from dataclasses import dataclass
from typing import Any

from benchmark.cell import Cell
from benchmark.models.model_digest import model_digest
from benchmark.suite import facts


@dataclass(frozen=True)
class StepTiming:
    """Seconds on all ranks of a cell together: `step` for an optimiser step with the global batch, `forecast` for one
    window one frame ahead in evaluation. `data` is `real` or `random`, the field that was used."""

    step: float
    forecast: float
    data: str

    def seconds(self, cell: Cell) -> float:
        """Training and evaluation of `cell` without early stopping."""
        windows = facts.windows(cell.dataset.name, cell.dataset.preset, cell.protocol)
        forecasts = {name: count * steps for name, (count, steps) in windows.items()}
        steps = windows["train"][0] // cell.train.batch_size
        each_epoch = steps * self.step + forecasts["validation"] * self.forecast
        return cell.train.epochs * each_epoch + (forecasts["future"] + forecasts["domain"]) * self.forecast


def kind(cell: Cell) -> dict[str, Any]:
    """Settings of a cell that its speed depends on; cells of one kind are timed once."""
    dataset, train = cell.dataset, cell.train
    return {
        "model": cell.model.model_dump(mode="json"),
        "model_digest": model_digest(cell.model),
        "dataset": dataset.model_dump(mode="json", exclude={"level"}),
        "protocol": cell.protocol.model_dump(mode="json", exclude={"name", "test_steps", "train_steps"}),
        "rollout_steps": cell.rollout_steps,
        "train": train.model_dump(
            mode="json", include={"batch_size", "gradient_clip", "precision", "compile", "channels_last"}
        ),
    }
