"""Residual pathway prior for scale: filters that all scales share, and free filters for each scale."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.models.baseline import LogUniform, SearchSpace, Task
from benchmark.models.layers.residual_pathway import ResidualPathwayBaseline, SummedPathways
from benchmark.models.layers.scale import (
    SCALE_SEARCH_SPACE,
    ScaleConfig,
    ScaleConv2d,
    convolve_at_scales,
    steerable_scale_network,
)


class FreeScaleConv2d(nn.Module):
    """Convolution with a filter W_s and a bias c_s for each scale s, of the size of those of `like`; starts at zero."""

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

    The penalty is lambda_K |w|^2 + lambda_W |W, c|^2, with w the coefficients that all K_s share, from Gaussian priors
    on both paths (Finzi, Benton, Wilson 2021; `layers/residual_pathway.py`). Weight decay in training adds half of
    itself to both lambdas. W_s has the size of K_s and starts at zero, so the network starts as `sesn`. Both paths are
    linear, so the cost is that of `sesn`.

    The default lambdas are those of the authors' regression code, see `rpp_rotation`. Different from the code of Wang,
    Walters, Yu, beside the differences of `sesn`: there lambda_K = 0; the free path starts like any convolution, has
    K x K cells at every scale, and mixes the scales, which the equivariant path does not.
    """

    class Config(ScaleConfig):
        """The penalties are lambda_K and lambda_W."""

        equivariant_penalty: Annotated[float, Field(ge=0)] = 1e-6
        free_penalty: Annotated[float, Field(ge=0)] = 1e-6

    family = "approximate"
    version = 2
    symmetries = ("scale", "translation")
    needs_velocity = True
    source = "Finzi, Benton, Wilson 2021 (arXiv 2112.01388); Wang, Walters, Yu 2022, section 5, RPP"
    search_space: ClassVar[SearchSpace] = {
        **SCALE_SEARCH_SPACE,
        "equivariant_penalty": LogUniform(1e-7, 1e-3),
        "free_penalty": LogUniform(1e-6, 1e0),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = steerable_scale_network(config, task)
        for index, layer in enumerate(self.network.layers):
            assert isinstance(layer, ScaleConv2d)
            self.network.layers[index] = SummedPathways(layer, FreeScaleConv2d(layer))
