"""Scale-equivariant steerable network: equivariant under scalings, up to the grid, and under translations."""

from typing import ClassVar

from benchmark.models.baseline import FramesAsChannels, SearchSpace, Task
from benchmark.models.layers.scale import SCALE_SEARCH_SPACE, ScaleConfig, steerable_scale_network


class SESN(FramesAsChannels):
    """T velocity fields -> `hidden` functions on scales, `layers` deep -> one velocity field.

    K_s(y) = s^-2 sum_l w_l Phi_l(y / s) at each scale s with the same w; see `layers/scale.py`. Different from the code
    published with Wang, Walters, Yu 2022: there the last layer reads the smallest scale alone, and no layer mixes
    scales, so that the three others do not reach the output; filters are cut to 3 x 3 cells at scales 1 and 1.5 and to
    5 x 5 at 2 and 2.5 (here 5 x 5 at scale 1, 13 x 13 at 2.5), and spanned by 49 functions; a velocity is a scalar,
    where here lifting divides by the scale and projecting multiplies by it.
    """

    class Config(ScaleConfig):
        """Sizes of the network."""

    family = "strict"
    version = 2
    symmetries = ("scale", "translation")
    needs_velocity = True
    source = "Sosnovik, Szmaja, Smeulders 2020 (arXiv 1910.11093); Wang, Walters, Yu 2022, section 5"
    search_space: ClassVar[SearchSpace] = SCALE_SEARCH_SPACE

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = steerable_scale_network(config, task)
