"""Group convolution for scale: equivariant under scalings, up to the grid, and under translations."""

from functools import partial
from typing import ClassVar

from benchmark.models.baseline import Choice, FramesAsChannels, SearchSpace, Task
from benchmark.models.layers.group_scale import ScaleGroupConfig, ScaleGroupConv2d
from benchmark.models.layers.scale import ScaleNetwork


class GroupScale(FramesAsChannels):
    """T velocities -> `hidden` functions on scales and cells, `layers` deep -> one velocity, by group convolutions.

    [f * psi](s, x) = sum_{s'} sum_y f(s', x + y) s^-2 psi(s' / s, y / s). psi is trained on K x K positions and on the
    ratios s' / s = 1, r, r^2, ... of `scale_extent` scales, and resampled to every scale s by a fixed linear map; see
    `layers/group_scale.py`. Unlike in `sesn`, a layer mixes scales.

    Different from Worrall, Welling 2019: features are not blurred anew at each scale, scales need not be integers, and
    filters are not depthwise. Different from the code published with Wang, Walters, Yu 2022: there each filter is
    resampled once, before training, and detached, so that it keeps its random start; only the last layer mixes scales,
    by a plain convolution, which does not commute with a zoom; and batch normalisation follows the layers.

    A convolution at scale s has (K s)^2 positions: with the default scales, of which one reads two, 247 / 9 = 27 times
    as many as a ConvNet with `hidden` channels.
    """

    class Config(ScaleGroupConfig):
        """Sizes of the network."""

    family = "strict"
    symmetries = ("scale", "translation")
    needs_velocity = True
    source = "Worrall, Welling 2019 (arXiv 1905.11697); Wang, Walters, Yu 2022, section 4.1"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.414, 2.0, 2.828), (1.0, 1.5, 2.25), (1.0, 2.0))),
        "scale_extent": Choice((1, 2, 3)),
        "projection": Choice(("max", "mean")),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        layer = partial(ScaleGroupConv2d, config, padding_mode=task.padding_mode)
        self.network = ScaleNetwork(config, task.input_frames, layer, scale_axis=1)
