"""The loss of a training step: the squared error of a roll-out, and what the model adds to it."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmark.cell import Training
from benchmark.evaluation.evaluate import roll_out
from benchmark.models.baseline import Baseline


class RolledOutLoss(nn.Module):
    """MSE summed over rolled-out steps, without teacher forcing, plus the penalty and the regularization of the model.

    Maps windows (B, T, ...), targets (B, S, ...) and draws (B,) to the loss and the MSE alone.
    """

    def __init__(self, model: Baseline, settings: Training, device: torch.device, cache_filters: bool) -> None:
        super().__init__()
        self.model = model
        self.device_type = device.type
        self.bf16 = settings.precision == "bf16"
        self.cache_filters = cache_filters

    def forward(self, x: Tensor, y: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.model.augment(x, y, draws_B)
        # Filters are expanded once for the whole roll-out; a compiler removes the repetition on its own.
        with parametrize.cached() if self.cache_filters else nullcontext():
            prediction = roll_out(self.model, x, y.shape[1], self.device_type, self.bf16)
            error = (prediction - y).square().mean((0, *range(2, y.ndim))).sum()
            with torch.autocast(self.device_type, torch.bfloat16, enabled=self.bf16):
                regularization = self.model.regularization(x, draws_B)
            # A zero on the CPU adds to a number on a GPU without a copy, which the CPU would wait for.
            added = self.model.penalty() + regularization.float()
            # Not detached here: a compiler may return one tensor for both outputs if nothing is added.
            return error + added, error


def compiled(loss: nn.Module, device: torch.device) -> nn.Module:
    """The roll-out as one compiled graph.

    On a CPU the graph is called from C++, since calls from Python take a large part of a small network's step.
    Graphs of earlier trainings are forgotten: torch keeps eight of one function, and would run a ninth uncompiled
    without a word. Where one training alone reaches the limit, it raises.
    """
    torch.compiler.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    module: nn.Module = torch.compile(loss, options={"cpp_wrapper": True} if device.type == "cpu" else None)  # type: ignore[assignment]
    return module
