"""Relaxed group convolution for rotation, with weights for each turn that is read."""

from typing import Annotated, ClassVar

from pydantic import Field

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.fields import Fields, field_network
from benchmark.models.layers.group_rotation import RotationGroupConv2d
from benchmark.models.layers.norm import NormConfig
from benchmark.models.layers.relaxation import PENALTIES, RelaxedBaseline
from benchmark.models.layers.sizes import KernelSize


class RelaxedGroupRotation(RelaxedBaseline):
    """T velocities -> `hidden` functions on Z^2 x C4, `layers` deep -> one velocity, by relaxed group convolutions.

    [f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h): L filter banks psi_l, and one number w_l(h) for each bank and
    turn. It starts equivariant, with w constant over the turns. The penalty on leaving the symmetry is alpha x the sum
    over layers of mean |w_l(h) - w_l(h')| over neighbouring turns, relative to the mean |w| (Wang, Walters, Yu 2022,
    section 4.1).

    Different from the published code: there w belongs to the turn g that is written, and here to the one that is read,
    as in the paper; there no ReLU and no bias follow a layer, filters are turned by interpolation, the lifting layer
    swaps H and W, and the penalty is over some pairs of turns and enters as (alpha c)^2.
    """

    class Config(NormConfig):
        """`hidden` counts functions on the group, each of 4 channels; `banks` is L; `penalty` is alpha.

        With 130 functions and 3 banks it has the 5.6 M parameters at which rotation is compared.
        """

        hidden: PositiveInt = 32
        layers: PositiveInt = 5
        banks: PositiveInt = 3
        kernel_size: KernelSize = 3
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    version = 3
    symmetries = ("rotation", "translation")
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64, 130)),
        "layers": Choice((3, 5, 7)),
        "banks": Choice((1, 2, 3, 4)),
        "kernel_size": Choice((3, 5)),
        "penalty": LogUniform(*PENALTIES),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)

        def layer(before: Fields, after: Fields) -> RotationGroupConv2d:
            return RotationGroupConv2d(before, after, config.kernel_size, config.banks, True, task.padding_mode)

        self.network = field_network(task, config.hidden, config.layers, layer, config.norm)
