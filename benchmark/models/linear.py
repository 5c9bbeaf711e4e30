"""Linear: continues the change between the last two frames. The second trivial forecast, beside persistence."""

from torch import Tensor

from benchmark.cell import Frozen
from benchmark.models.baseline import Baseline, Task


class Linear(Baseline):
    """y = x_T + (x_T - x_(T-1)), without parameters; it commutes with every linear transformation of the frames.

    A roll-out of k steps through its own forecasts gives x_T + k (x_T - x_(T-1)).
    """

    class Config(Frozen):
        """No hyperparameters."""

    family = "reference"
    symmetries = ("translation", "rotation", "reflection", "scale")
    source = "standard reference in forecasting (drift method)"
    trained = False

    @classmethod
    def supports(cls, task: Task) -> str | None:
        return None if task.input_frames > 1 else "needs 2 input frames, the protocol gives 1"

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        change = x_BTCHW[:, -1] - x_BTCHW[:, -2]
        return change if self.task.target == "change" else x_BTCHW[:, -1] + change
