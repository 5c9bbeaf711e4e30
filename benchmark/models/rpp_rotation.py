"""Residual pathway prior for rotation: an equivariant path and a free one beside it, which costs more."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.residual_pathway import ResidualPathwayBaseline, SummedPathways
from benchmark.models.layers.sizes import KernelSize
from benchmark.models.layers.steerable import SteerableConv2d, steerable_network


class ResidualPathway(SummedPathways):
    """A steerable convolution with a free one of its size beside it: (B, I b, H, W) -> (B, O a, H, W)."""

    def __init__(self, equivariant: SteerableConv2d) -> None:
        channels_out, channels_in, kernel_size, _ = equivariant.weight.shape
        free = nn.Conv2d(
            channels_in,
            channels_out,
            kernel_size,
            padding=equivariant.padding,
            padding_mode="circular" if equivariant.periodic else "zeros",
        )
        super().__init__(equivariant, free)


class RPPRotation(ResidualPathwayBaseline):
    """The network of `e2cnn` with a free convolution beside each steerable one: y = K * x + W * x + b.

    Gaussian priors on both, that of the equivariant path being the wider one, are the penalty lambda_K |w|^2 + lambda_W
    |W, b|^2, w the coefficients of K and lambda the inverse of a prior's variance up to a common factor (Finzi, Benton,
    Wilson 2021). Training's weight decay, where there is one, adds half of itself to both lambdas. The free
    path starts at zero, where its prior is densest, and the network therefore as `e2cnn`; Finzi's code starts it at
    1e-3 of the other path, the published code of Wang, Walters, Yu 2022 as any convolution.

    The default lambdas are those of Finzi's convolutional networks. Different from the code of Wang, Walters, Yu: that
    has lambda_K = 0 and lambda_W = 1e-6, which beside a weight decay of 4e-4 is hardly a prior; it runs two
    convolutions in place of one, and normalises over the batch.
    """

    class Config(Frozen):
        """`hidden` counts regular fields, each of `order` channels; the penalties are lambda_K and lambda_W."""

        hidden: PositiveInt = 32
        order: Literal[4, 8] = 4
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        equivariant_penalty: Annotated[float, Field(ge=0)] = 1e-4
        free_penalty: Annotated[float, Field(ge=0)] = 1e-2

    family = "approximate"
    symmetries = ("rotation", "translation")
    source = "Finzi, Benton, Wilson 2021 (arXiv 2112.01388); Wang, Walters, Yu 2022, section 5, RPP"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "order": Choice((4, 8)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "equivariant_penalty": LogUniform(1e-7, 1e-3),
        "free_penalty": LogUniform(1e-6, 1e-1),
    }

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.equivariant_coefficient, self.free_coefficient = config.equivariant_penalty, config.free_penalty
        strict = steerable_network(
            config.order,
            task.input_frames,
            config.hidden,
            config.layers,
            config.kernel_size,
            relaxed=False,
            padding_mode=task.padding_mode,
        )
        self.network = nn.Sequential(
            *(ResidualPathway(module) if isinstance(module, SteerableConv2d) else module for module in strict)
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        return self.network(x_BTCHW.flatten(1, 2))
