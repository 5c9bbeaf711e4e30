"""Relaxed group convolution for scale, with weights for each scale that is read."""

from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.group_scale import ScaleGroupConfig, ScaleGroupConv2d
from benchmark.models.layers.relaxation import PENALTIES, RelaxedBaseline
from benchmark.models.layers.scale import ScaleNetwork


class RelaxedGroupScale(RelaxedBaseline):
    """The network of `group_scale` with L filter banks psi_l, and one number w_l(s) for each bank and scale.

    [f ~* psi](g) = sum_h f(h) sum_l w_l(h) psi_l(g^-1 h), h a scale and a cell; w_l(h) depends on the scale alone. The
    model starts equivariant, with w constant. The penalty on leaving the symmetry is alpha x the sum over layers of
    mean |w_l(s) - w_l(s')| over neighbouring scales, relative to the mean |w| (Wang, Walters, Yu 2022, section 4.1). w
    is mixed into the filters, so the cost is that of `group_scale`.

    Different from the published code, beside the differences of `group_scale`: there w belongs to the scale that is
    written, and here to the one that is read, as in the paper; and the layer starts smaller by sqrt(L).
    """

    class Config(ScaleGroupConfig):
        """`banks` is L; `penalty` is alpha."""

        banks: PositiveInt = 2
        penalty: Annotated[float, Field(ge=0)] = 0.0

    family = "relaxed"
    version = 3
    symmetries = ("scale", "translation")
    needs_velocity = True
    source = "Wang, Walters, Yu 2022 (arXiv 2201.11969), section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "banks": Choice((1, 2, 3, 4)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.414, 2.0, 2.828), (1.0, 1.5, 2.25), (1.0, 2.0))),
        "scale_extent": Choice((1, 2, 3)),
        "projection": Choice(("max", "mean")),
        "penalty": LogUniform(*PENALTIES),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        layer = partial(ScaleGroupConv2d, config, banks=config.banks, relaxed=True, padding_mode=task.padding_mode)
        self.network = ScaleNetwork(config, task.input_frames, layer, scale_axis=1)
