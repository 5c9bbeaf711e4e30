"""Group-matrix convolution for translation: a ConvNet with some taps weighted by pixel."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, convolution, convolutional_network, require_grid
from benchmark.models.layers.relaxation import PENALTIES, RelaxedBaseline, RelaxedLayer, roughness
from benchmark.models.layers.sizes import KernelSize


def neighborhood(kernel_size: int) -> list[tuple[int, int]]:
    """Positions of a kernel, from its centre, the identity of the group, outwards."""
    center = kernel_size // 2
    positions = itertools.product(range(kernel_size), range(kernel_size))
    return sorted(positions, key=lambda p: ((p[0] - center) ** 2 + (p[1] - center) ** 2, p))


@dataclass(frozen=True)
class Shift:
    """f(x) -> f(x + (i, j)) on (..., H, W), with zeros from outside the box, or around a periodic box."""

    i: int
    j: int
    periodic: bool

    def __call__(self, f: Tensor) -> Tensor:
        if (self.i, self.j) == (0, 0):
            return f
        if self.periodic:
            return f.roll((-self.i, -self.j), (-2, -1))
        return F.pad(f, (-self.j, self.j, -self.i, self.i))

    def inverse(self) -> Shift:
        """Shift by (-i, -j)."""
        return Shift(-self.i, -self.j, self.periodic)


class AddDiagonal(torch.autograd.Function):
    """y(x) + a(x) C (shift f)(x), with C (O, I, 1, 1), that saves f alone, which the convolution saves anyway.

    dE/da(x) is the product of (shift f)(x) with C^T dE/dy(x), which dE/df needs in any case. Autograd would save the
    shifted f and its product with C.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, f: Tensor, mixing: Tensor, a: Tensor, shift: Shift) -> Tensor:
        mixed = F.conv2d(shift(f), mixing)
        ctx.save_for_backward(f, mixing, a)
        ctx.shift, ctx.precision = shift, mixed.dtype
        return torch.addcmul(y, mixed, a)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (f, mixing, a) = gradients, ctx.saved_tensors
        # Autocast is off in the backward pass: products are rounded as those of the forward pass here.
        shifted = ctx.shift(f).to(ctx.precision)
        by_mixing = F.conv2d(gradient.to(ctx.precision), mixing.to(ctx.precision).transpose(0, 1))
        weighted = (a * gradient).to(ctx.precision)
        for_f = ctx.shift.inverse()(a * by_mixing)
        for_mixing = (weighted.flatten(2) @ shifted.flatten(2).mT).sum(0)[..., None, None]
        for_a = (by_mixing * shifted).sum((0, 1))
        return gradient, for_f.to(f.dtype), for_mixing.to(mixing.dtype), for_a.to(a.dtype), None


class GroupMatrixConv2d(RelaxedLayer):
    """[M f](x) = b + sum_y (1 + a_y(x)) k(y) f(x + y), y in the kernel, a_y = 0 for all but `rank` of its positions.

    For one pair of channels in a periodic box M = sum_y diag(F_y) B_y, with F_y = (1 + a_y) k(y) and B_y the
    permutation of the pixels by the shift y. k(y) is a matrix over the channels; a_y is a number for each pixel, which
    the channels share, and starts at zero. A group matrix, here a convolution, has constant F_y. The displacement of M,
    F_y(x) - F_y(x') over neighbouring pixels, is a matrix over x and y of the rank of the a_y: at most `rank`.
    """

    a: nn.Parameter | None

    def __init__(
        self,
        grid: tuple[int, int],
        rank: int,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        self.center = kernel_size // 2
        self.periodic = padding_mode == "circular"
        self.perturbed = neighborhood(kernel_size)[:rank]
        self.convolution = convolution(channels_in, channels_out, kernel_size, padding_mode)
        self.register_parameter("a", nn.Parameter(torch.zeros(rank, *grid)) if rank else None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W). ValueError if x is not on the grid of a."""
        y: Tensor = self.convolution(x)
        if self.a is None:
            return y
        require_grid(x, self.a.shape[1:], "a has a number for each pixel of")
        for (i, j), a in zip(self.perturbed, self.a, strict=True):
            mixing = self.convolution.weight[:, :, i : i + 1, j : j + 1]
            y = AddDiagonal.apply(y, x, mixing, a, Shift(i - self.center, j - self.center, self.periodic))
        return y

    def own_deviations(self) -> tuple[nn.Parameter, ...]:
        """a, if there is one."""
        return () if self.a is None else (self.a,)

    def roughness(self) -> Tensor:
        """Mean of |a_y(x) - a_y(x')| over neighbouring pixels: 0 if and only if the displacement is 0."""
        if self.a is None:
            return self.convolution.weight.new_zeros(())
        return roughness(self.a, (1, 2), self.periodic)

    def size(self) -> float:
        """Size of the factors 1 + a without a."""
        return 1.0


class GMCNN(RelaxedBaseline):
    """The ConvNet with group matrices for convolutions, perturbed by a displacement of rank `rank` (0: none).

    For a translation symmetry that is broken in place, at a small cost: a layer of the ConvNet and `rank` numbers for
    each pixel. It starts as the ConvNet, and the penalty is alpha x the mean absolute displacement. `rank` diagonals
    are perturbed, that of the centre first, then those of its nearest neighbours. `relaxed_group_translation` with L
    banks, sum_l diag(w_l) K_l, is the larger family of rank L, with L filters where this one has one.

    From the paper: convolution over a finite group as a sum of few group diagonals B_g, g in a neighbourhood of the
    identity; approximate equivariance as a displacement of low rank, by free diagonals in this sum. Not from the paper:
    the penalty; and that the channels share a_y, which multiplies the layer's own k(y) and so has a gradient from the
    start. The published code for flows has one number for each pixel as well, of unit norm over the grid, that
    multiplies all diagonals, and one kernel for each output channel, applied to the sum of the input channels. Left
    out, so that only the layer differs from the ConvNet's: pooling over subgroups with its inverse, residual
    connections, normalisation, and other groups than the translations. The group is cyclic in a periodic box. At walls
    the field outside is zero, as for the ConvNet.

    The weights belong to one grid, because of a. A step costs as much as a ConvNet's and a 1 x 1 convolution for each
    rank (on one core with 128 channels, 1.24 times the ConvNet's time at rank 1 and 1.44 at rank 2), and saves as many
    activations for the gradients.
    """

    class Config(Frozen):
        """`hidden` is the number of channels, `rank` at most the positions of the kernel; `penalty` is alpha."""

        hidden: PositiveInt = 128
        layers: PositiveInt = 5
        kernel_size: KernelSize = 3
        rank: Annotated[int, Field(ge=0)] = 1
        penalty: Annotated[float, Field(ge=0)] = 0.0

        @model_validator(mode="after")
        def _rank_fits(self) -> Any:
            if self.rank > self.kernel_size**2:
                raise ValueError(f"rank is at most {self.kernel_size**2}, the positions of the kernel, not {self.rank}")
            return self

    family = "approximate"
    version = 2
    symmetries = ("translation",)
    source = "Samudre, Petrache, Nord, Trivedi 2025 (arXiv 2409.11772)"
    differs = (
        "The layer is another one: the number of a pixel multiplies one tap and not all, and channels have own filters."
    )
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((32, 64, 128)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "rank": Choice((1, 2, 5)),
        "penalty": LogUniform(*PENALTIES),
    }

    @classmethod
    def has_deviations(cls, config: Any) -> bool:
        """Whether a diagonal is perturbed."""
        return bool(config.rank)

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        layer = partial(GroupMatrixConv2d, (task.height, task.width), config.rank)
        self.network = convolutional_network(task, config.hidden, config.layers, config.kernel_size, layer)
