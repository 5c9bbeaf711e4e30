"""Group-matrix convolution for translation: a ConvNet, some of whose taps are weighted differently at each pixel."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Choice, LogUniform, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, convolutional_network, require_grid
from benchmark.models.layers.relaxation import RelaxedBaseline, RelaxedLayer, roughness
from benchmark.models.layers.sizes import KernelSize


def neighborhood(kernel_size: int) -> list[tuple[int, int]]:
    """The positions of a kernel, from its centre, the identity of the group, outwards."""
    center = kernel_size // 2
    positions = itertools.product(range(kernel_size), range(kernel_size))
    return sorted(positions, key=lambda p: ((p[0] - center) ** 2 + (p[1] - center) ** 2, p))


def shifted(f: Tensor, by: tuple[int, int], periodic: bool) -> Tensor:
    """f(x + by), with zeros from outside, or round a periodic box: (..., H, W) -> (..., H, W)."""
    i, j = by
    if (i, j) == (0, 0):
        return f
    return f.roll((-i, -j), (-2, -1)) if periodic else F.pad(f, (-j, j, -i, i))


class AddDiagonal(torch.autograd.Function):
    """y(x) + a(x) C f(x + by), with C (O, I, 1, 1), that keeps f alone, which the convolution keeps anyway.

    dE/da(x) is the product of f(x + by) with C^T dE/dy(x), which dE/df needs in any case; autograd would keep the
    shifted f and its product with C.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, f: Tensor, mixing: Tensor, a: Tensor, by: tuple[int, int], periodic: bool
    ) -> Tensor:
        seen = F.conv2d(shifted(f, by, periodic), mixing)
        ctx.save_for_backward(f, mixing, a)
        ctx.by, ctx.periodic, ctx.precision = by, periodic, seen.dtype
        return torch.addcmul(y, seen, a)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (f, mixing, a) = gradients, ctx.saved_tensors
        # Autocast is off in the backward pass: products are rounded as those of the forward pass here.
        read = shifted(f, ctx.by, ctx.periodic).to(ctx.precision)
        asked = F.conv2d(gradient.to(ctx.precision), mixing.to(ctx.precision).transpose(0, 1))
        weighted = (a * gradient).to(ctx.precision)
        of_f = shifted(a * asked, (-ctx.by[0], -ctx.by[1]), ctx.periodic)
        of_mixing = (weighted.flatten(2) @ read.flatten(2).mT).sum(0)[..., None, None]
        return (
            gradient,
            of_f.to(f.dtype),
            of_mixing.to(mixing.dtype),
            (asked * read).sum((0, 1)).to(a.dtype),
            None,
            None,
        )


class GroupMatrixConv2d(RelaxedLayer):
    """[M f](x) = b + sum_y (1 + a_y(x)) k(y) f(x + y), y in the kernel, a_y = 0 for all but `rank` of its positions.

    For one pair of channels in a periodic box M = sum_y diag(F_y) B_y, with F_y = (1 + a_y) k(y) and B_y the
    permutation of the pixels by the shift y; k(y) is a matrix over the channels, a_y a number for each pixel, which the
    channels share. A group matrix, here a convolution, has constant F_y; the displacement of M is how far F is from
    that, F_y(x) - F_y(x') over neighbouring pixels, a matrix over x and y of the rank of the a_y: at most `rank`. The
    a_y start at zero.
    """

    a: nn.Parameter | None

    def __init__(
        self,
        grid: tuple[int, int],
        rank: int,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        padding: int,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        self.padding = padding
        self.periodic = padding_mode == "circular"
        self.perturbed = neighborhood(kernel_size)[:rank]
        self.convolution = nn.Conv2d(channels_in, channels_out, kernel_size, padding=padding, padding_mode=padding_mode)
        self.register_parameter("a", nn.Parameter(torch.zeros(rank, *grid)) if rank else None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H, W). ValueError: another grid than that of a."""
        y: Tensor = self.convolution(x)
        if self.a is None:
            return y
        require_grid(x, self.a.shape[1:], "a has a number for each pixel of")
        for (i, j), a in zip(self.perturbed, self.a, strict=True):
            mixing = self.convolution.weight[:, :, i : i + 1, j : j + 1]
            y = AddDiagonal.apply(y, x, mixing, a, (i - self.padding, j - self.padding), self.periodic)
        return y

    def roughness(self) -> Tensor:
        """mean |a_y(x) - a_y(x')| over neighbouring pixels: 0 if and only if the displacement is."""
        if self.a is None:
            return self.convolution.weight.new_zeros(())
        return roughness(self.a, (1, 2), self.periodic)


class GMCNN(RelaxedBaseline):
    """The ConvNet with group matrices for its convolutions, perturbed by a displacement of rank `rank` (0: none).

    For a symmetry of translation that is broken in place, at a small price: a layer of the ConvNet and `rank` numbers
    for each pixel. It starts as the ConvNet and pays alpha x the mean absolute displacement. `rank` diagonals are
    perturbed, that of the centre first, then those of its nearest neighbours. `relaxed_group_translation` with L
    banks, sum_l diag(w_l) K_l, is the fuller family of rank L, with L filters where this one has one.

    From the paper: convolution over a finite group as a sum of few group diagonals B_g, g in a neighbourhood of the
    identity; approximate equivariance as a displacement of low rank, by free diagonals in this sum. Ours: the
    channels share a_y, which multiplies the layer's own k(y), and so has a gradient at once; and the penalty. The
    published code for flows has one number for each pixel as well, of unit norm over the grid, that multiplies all
    diagonals, and one kernel for each output channel, applied to the sum of the input channels. Left out, so that only
    the layer differs from the ConvNet's: the paper's pooling over subgroups with its inverse, residual connections,
    normalisation; other groups than the translations. The group is cyclic in a periodic box; at walls the field
    outside is zero, as for the ConvNet, and shifts do not wrap around.

    a makes the weights belong to one grid. A step costs a ConvNet's and a 1 x 1 convolution for each rank (on one core,
    128 channels: 1.24 times its time at rank 1, 1.44 at rank 2), and keeps as many activations for the gradients.
    """

    class Config(Frozen):
        """`hidden` is the number of channels, `rank` at most that of the kernel's positions; `penalty` is alpha."""

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
    symmetries = ("translation",)
    source = "Samudre, Petrache, Nord, Trivedi 2025 (arXiv 2409.11772)"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((32, 64, 128)),
        "layers": Choice((3, 5, 7)),
        "kernel_size": Choice((3, 5)),
        "rank": Choice((1, 2, 5)),
        "penalty": LogUniform(1e-7, 1e-3),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.coefficient = config.penalty
        layer = partial(GroupMatrixConv2d, (task.height, task.width), config.rank)
        self.network = convolutional_network(task, config.hidden, config.layers, config.kernel_size, layer)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W). ValueError: another grid than the task's."""
        return self.network(x_BTCHW.flatten(1, 2))
