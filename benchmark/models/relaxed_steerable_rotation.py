"""Relaxed steerable CNN for rotation: each position of the kernel has its own coefficients."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.relaxation import RelaxedBaseline
from benchmark.models.layers.sizes import KernelSize
from benchmark.models.layers.steerable import steerable_network


class RelaxedSteerableRotation(RelaxedBaseline):
    """The network of `e2cnn` with K(y) = sum_l w_l(y) Phi_l(y), w: K^2 -> R^{c_out x c_in x L}.

    It starts equivariant, w being constant over y, and leaves the symmetry as far as the data pull and the
    penalty allows: alpha x the sum over layers of mean |w(y) - w(y')| over neighbouring y, y' (Wang, Walters,
    Yu 2022, section 4.2). Different from the published code: alpha enters linearly and on every device,
    neighbours are those of the two-dimensional kernel, and the start is not random.
    """

    class Config(Frozen):
        """`hidden` counts regular fields, each of `order` channels; `penalty` is alpha."""

        hidden: PositiveInt = 32
        order: Literal[4, 8] = 4
        layers: PositiveInt = 5
        kernel_size: Annotated[KernelSize, Field(ge=3)] = 3
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    symmetries = ("rotation", "translation")
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.2"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64, 92)),
        "order": Choice((4, 8)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(1e-7, 1e-3),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        self.network = steerable_network(
            config.order,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            relaxed=True,
            padding_mode=task.padding_mode,
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))
