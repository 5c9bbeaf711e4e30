"""Residual pathway prior for rotation: an equivariant path and a free path, on which the penalty is higher."""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from benchmark.models.baseline import LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import convolution
from benchmark.models.layers.residual_pathway import ResidualPathwayBaseline, SummedPathways
from benchmark.models.layers.steerable import (
    STEERABLE_SEARCH_SPACE,
    SteerableConfig,
    SteerableConv2d,
    steerable_network,
)


def free_convolution(layer: SteerableConv2d) -> nn.Conv2d:
    """Free convolution with filters of the size of those of `layer`."""
    channels_out, channels_in, kernel_size, _ = layer.weight.shape
    return convolution(channels_in, channels_out, kernel_size, "circular" if layer.periodic else "zeros")


class RPPRotation(ResidualPathwayBaseline):
    """The network of `e2cnn` with a free convolution beside each steerable one: y = K * x + W * x + b.

    The penalty is lambda_K |w|^2 + lambda_W |W, b|^2, with w the coefficients of K, from Gaussian priors on both paths
    (Finzi, Benton, Wilson 2021; `layers/residual_pathway.py`). Weight decay in training adds half of itself to both
    lambdas. The free path starts at zero, where its prior is densest, so the network starts as `e2cnn`. Finzi's code
    starts it at 1e-3 of the other path, and the published code of Wang, Walters, Yu 2022 like any convolution.

    The default lambdas are those of the authors' regression code (1e-6 for both paths; 1e-4 and 1e-2 are those of their
    CIFAR networks). Beside a weight decay of 4e-4 that is hardly a prior, and tuning decides. Different from the code
    of Wang, Walters, Yu: there lambda_K = 0, two convolutions run in place of one, and batch normalisation follows.
    """

    class Config(SteerableConfig):
        """The penalties are lambda_K and lambda_W."""

        equivariant_penalty: Annotated[float, Field(ge=0)] = 1e-6
        free_penalty: Annotated[float, Field(ge=0)] = 1e-6

    family = "approximate"
    version = 2
    symmetries = ("rotation", "translation")
    source = "Finzi, Benton, Wilson 2021 (arXiv 2112.01388); Wang, Walters, Yu 2022, section 5, RPP"
    search_space: ClassVar[SearchSpace] = {
        **STEERABLE_SEARCH_SPACE,
        "equivariant_penalty": LogUniform(1e-7, 1e-3),
        "free_penalty": LogUniform(1e-6, 1e0),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.network = steerable_network(config, task)
        for parent in list(self.network.modules()):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, SteerableConv2d):
                    setattr(parent, name, SummedPathways(layer, free_convolution(layer)))
