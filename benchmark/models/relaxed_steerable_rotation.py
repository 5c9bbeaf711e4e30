"""Relaxed steerable CNN for rotation: each position of the kernel has its own coefficients."""

from typing import Annotated, ClassVar

from pydantic import Field

from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.relaxation import PENALTIES, RelaxedBaseline
from benchmark.models.layers.sizes import KernelSize
from benchmark.models.layers.steerable import STEERABLE_SEARCH_SPACE, SteerableConfig, steerable_network


class RelaxedSteerableRotation(RelaxedBaseline):
    """The network of `e2cnn` with K(y) = sum_l w_l(y) Phi_l(y), w: K^2 -> R^{c_out x c_in x L}.

    It starts equivariant, with w constant over y. The penalty on leaving the symmetry is alpha x the sum over layers of
    mean |w(y) - w(y')| over neighbouring y, y', relative to the mean |w| (Wang, Walters, Yu 2022, section 4.2).
    Different from the published code: alpha enters linearly and on every device,
    neighbours are those of the two-dimensional kernel, and the start is not random.
    """

    class Config(SteerableConfig):
        """`penalty` is alpha."""

        kernel_size: Annotated[KernelSize, Field(ge=3)] = 3
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    version = 2
    symmetries = ("rotation", "translation")
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.2"
    search_space: ClassVar[SearchSpace] = {
        **STEERABLE_SEARCH_SPACE,
        "hidden": Choice((16, 32, 64, 92)),
        "penalty": LogUniform(*PENALTIES),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = steerable_network(config, task, relaxed=True)
