"""U-Net: convolutions on ever coarser grids and back, with skip connections between grids of the same size."""

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task
from benchmark.models.layers.convolutions import LAST_LAYER_GAIN, convolutions

KERNEL_SIZE = 3


class UNet(Baseline):
    """d_0 = D_0 x, d_l = D_l pool(d_{l-1}), u_depth = d_depth, u_l = U_l [d_l, up(u_{l+1})], y = A u_0 + b.

    D_l and U_l are two 3 x 3 convolutions to 2^l `hidden` channels, each with ReLU; pool is the maximum of 2 x 2
    cells, up a transposed 2 x 2 convolution with stride 2, A pointwise. (B, T, C, H, W) -> (B, C, H, W), any grid: a
    pooled grid is rounded up, and the upsampled one is cut to the size of its skip. It has 31 M parameters at the
    paper's width and depth, and about a quarter of that for half the width or one level less.

    There is no normalisation, as in the paper. Pooling keeps shifts by 2^depth cells, in a periodic box of a multiple
    of that size. With walls it keeps none, because the receptive field is larger than the box, so `symmetries` is
    empty.

    Different from the paper: the convolutions are padded, so that the grid stays; no dropout; the last layer starts
    small.
    """

    class Config(Frozen):
        """`hidden` channels on the full grid; `depth` times the grid is halved and the channels are doubled."""

        hidden: PositiveInt = 64
        depth: PositiveInt = 4

    family = "cnn"
    symmetries = ()
    source = "Ronneberger, Fischer, Brox 2015 (arXiv 1505.04597), section 2"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "depth": Choice((2, 3, 4)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        widths = [config.hidden * 2**level for level in range(config.depth + 1)]

        def block(wide_in: int, wide_out: int) -> nn.Sequential:
            return nn.Sequential(*convolutions((wide_in, wide_out, wide_out), KERNEL_SIZE, task.padding_mode))

        self.down = nn.ModuleList(block(*pair) for pair in pairwise([task.input_frames * task.channels, *widths]))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * wide, wide, 2, stride=2) for wide in reversed(widths[:-1]))
        self.merge = nn.ModuleList(block(2 * wide, wide) for wide in reversed(widths[:-1]))
        self.last = nn.Conv2d(config.hidden, task.channels, 1)
        self._initialize()

    def _initialize(self) -> None:
        """Gaussians of variance 2 / fan-in (section 3), here 1 / fan-in if no ReLU follows; biases are zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=module.in_channels**-0.5)  # strides do not overlap
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.last.weight.mul_(LAST_LAYER_GAIN)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        first, *others = self.down
        x = first(x_BTCHW.flatten(1, 2))
        skips = []
        for block in others:
            skips.append(x)
            x = block(F.max_pool2d(x, 2, ceil_mode=True))
        for up, merge in zip(self.up, self.merge, strict=True):
            skip = skips.pop()
            x = merge(torch.cat((skip, up(x)[..., : skip.shape[-2], : skip.shape[-1]]), dim=1))
        return self.last(x)
