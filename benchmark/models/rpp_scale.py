"""Residual pathway prior for scale: beside the filters that all scales share, each scale has free ones of its own."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.residual_pathway import ResidualPathwayBaseline, SummedPathways
from benchmark.models.layers.scale import Projection, ScaleConv2d, ScaleNetwork, Scales, convolve_at_scales
from benchmark.models.layers.sizes import KernelSize


class FreeScaleConv2d(nn.Module):
    """Convolution with a filter W_s and a bias c_s of its own at each scale s, zero at first, as large as `like`'s."""

    def __init__(self, like: ScaleConv2d) -> None:
        super().__init__()
        self.halves, self.periodic = like.halves, like.periodic
        self.weight = nn.Parameter(torch.zeros_like(like.weight))
        self.bias = nn.Parameter(torch.zeros(len(like.halves), len(like.weight)))

    def forward(self, x: Tensor) -> Tensor:
        """(S, B, I, H, W) -> (S, B, O, H, W)."""
        return convolve_at_scales(x, self.weight, self.bias, self.halves, self.periodic)


class RPPScale(ResidualPathwayBaseline):
    """The network of `sesn` with a free filter beside each steerable one: y_s = (K_s + W_s) * x_s + b + c_s, s a scale.

    Gaussian priors on both, that of the equivariant path being the wider one, are the penalty lambda_K |w|^2 + lambda_W
    |W, c|^2, w the coefficients that all K_s share and lambda the inverse of a prior's variance up to a common factor
    (Finzi, Benton, Wilson 2021). Training's weight decay, where there is one, adds half of itself to both lambdas. W_s
    has the size of K_s, and starts at zero, the network therefore as `sesn`; both paths are linear, so that it costs
    what `sesn` does.

    The default lambdas are those of Finzi's convolutional networks. Different from the code of Wang, Walters, Yu: that
    has lambda_K = 0 and lambda_W = 1e-6, starts the free path as any convolution, gives it K x K cells at every scale,
    and lets it mix the scales, which the equivariant path does not; what else differs is said in `sesn`.
    """

    class Config(Frozen):
        """`hidden` counts functions on scales, `kernel_size` is that at scale 1; the penalties are both lambdas."""

        hidden: PositiveInt = 64
        layers: PositiveInt = 5
        kernel_size: KernelSize = 5
        scales: Scales = (1.0, 1.5, 2.0, 2.5)
        projection: Projection = "max"
        equivariant_penalty: Annotated[float, Field(ge=0)] = 1e-4
        free_penalty: Annotated[float, Field(ge=0)] = 1e-2

    family = "approximate"
    symmetries = ("scale", "translation")
    source = "Finzi, Benton, Wilson 2021 (arXiv 2112.01388); Wang, Walters, Yu 2022, section 5, RPP"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "scales": Choice(((1.0, 1.5, 2.0, 2.5), (1.0, 1.4, 2.0, 2.8))),
        "projection": Choice(("max", "mean")),
        "equivariant_penalty": LogUniform(1e-7, 1e-3),
        "free_penalty": LogUniform(1e-6, 1e-1),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A scaling multiplies both components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.equivariant_coefficient, self.free_coefficient = config.equivariant_penalty, config.free_penalty
        self.network = ScaleNetwork(
            config.scales,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            config.projection,
            relaxed=False,
            padding_mode=task.padding_mode,
        )
        for index, layer in enumerate(self.network.layers):
            assert isinstance(layer, ScaleConv2d)
            self.network.layers[index] = SummedPathways(layer, FreeScaleConv2d(layer))

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))
