"""Relaxed steerable CNN for scale: each position of the kernel has its own coefficients."""

from typing import Annotated, ClassVar

from pydantic import Field

from benchmark.models.baseline import LogUniform, SearchSpace, Task
from benchmark.models.layers.relaxation import PENALTIES, RelaxedBaseline
from benchmark.models.layers.scale import SCALE_SEARCH_SPACE, ScaleConfig, steerable_scale_network
from benchmark.models.layers.sizes import KernelSize


class RelaxedSteerableScale(RelaxedBaseline):
    """The network of `sesn` with K_s(y) = s^-2 sum_l w_l(y) Phi_l(y / s), w: K^2 -> R^{c_out x c_in x L}.

    y counts cells and not multiples of s, so a w that varies gives each scale a filter of its own. The model starts
    equivariant, with w constant over y. The penalty on leaving the symmetry is alpha x the sum over layers of mean
    |w(y) - w(y')| over neighbouring y, y', relative to the mean |w| (Wang, Walters, Yu 2022, section 4.2). Different
    from the published code, beside the differences of `sesn`: neighbours are along the axes of the kernel (there along
    one diagonal, with its ends as neighbours), alpha enters linearly and on every device, the start is not random, and
    L is K^2 (there 49 functions on 25 positions).
    """

    class Config(ScaleConfig):
        """`penalty` is alpha."""

        kernel_size: Annotated[KernelSize, Field(ge=3)] = 5
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    version = 2
    symmetries = ("scale", "translation")
    needs_velocity = True
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.2"
    search_space: ClassVar[SearchSpace] = {**SCALE_SEARCH_SPACE, "penalty": LogUniform(*PENALTIES)}

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = steerable_scale_network(config, task, relaxed=True)
