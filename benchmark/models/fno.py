"""Fourier neural operator: a trained multiplier for each low wave number, at any resolution."""

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.cell import Frozen, PositiveInt
from benchmark.models.baseline import Baseline, Choice, SearchSpace, Task


class SpectralConv2d(nn.Module):
    """v -> F^-1(R(k) F v(k)) for |k_x| < m_x and |k_y| < m_y; higher wave numbers are cut off.

    F is the Fourier transform on the grid, of any size above 2 m - 2, and R(k) a complex matrix (c_in, c_out) for
    each wave number k, in cycles per box. The field is real, so k_y >= 0 suffices. On the axis k_y = 0, where k and
    -k are both stored, (R(k) + conj R(-k)) / 2 acts. Only the columns with low k_y are transformed along x.
    """

    def __init__(self, channels: int, modes: tuple[int, int]) -> None:
        super().__init__()
        self.modes = modes
        count = (2 * modes[0] - 1) * modes[1]
        # Pairs of real numbers: gloo does not reduce complex gradients. E|R|^2 = 1 / c_in passes a mode's energy on.
        self.weight = nn.Parameter(torch.randn(count, channels, channels, 2) / math.sqrt(2 * channels))

    def wave_numbers(self) -> Tensor:
        """(k_x, k_y) of each matrix in `weight`: k_x = 0, ..., m_x - 1, 1 - m_x, ..., -1; k_y runs fastest."""
        along_x, along_y = self.modes
        k_x = torch.cat((torch.arange(along_x), torch.arange(1 - along_x, 0)))
        return torch.cartesian_prod(k_x, torch.arange(along_y))

    def forward(self, v: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, c, H, W), in the precision of the weight, since there is no transform in bf16."""
        height, width = v.shape[-2:]
        along_x, along_y = self.modes
        spectrum = torch.fft.fft(torch.fft.rfft(v.to(self.weight.dtype))[..., :along_y], dim=-2)
        low = torch.cat((spectrum[..., :along_x, :], spectrum[..., height - along_x + 1 :, :]), dim=-2)
        matrices = torch.view_as_complex(self.weight.contiguous())  # a channels_last one is not
        low = torch.einsum("bim,mio->bom", low.flatten(-2), matrices).unflatten(-1, (-1, along_y))
        positive, negative = low.split((along_x, along_x - 1), dim=-2)
        zeros = low.new_zeros(*low.shape[:2], height - 2 * along_x + 1, along_y)
        return torch.fft.irfft(torch.fft.ifft(torch.cat((positive, zeros, negative), dim=-2), dim=-2), n=width)


class FNO(Baseline):
    """v_0 = P x, v_{l+1} = gelu(F^-1 R_l F v_l + W_l v_l + b_l), y = Q v_L; no gelu after the last of L layers.

    (B, T, C, H, W) -> (B, C, H, W), any grid. P and W are linear and pointwise, Q a pointwise network with one inner
    layer of 4 `hidden` channels. Parameters, nearly all in R: 2 L (2 m - 1) m `hidden`^2.

    In a periodic box the network is equivariant under every shift. A box with walls is extended by zeros at the end of
    each axis, by `domain_padding` of its size, so that opposite walls are no neighbours, and cut at the end. There the
    network sees the walls from everywhere and keeps no shift, so `symmetries` is empty.

    Different from the paper: gelu in place of ReLU, as in the authors' later code, and no batch normalisation.
    Different from their code: no coordinates among the inputs, which would break translation in every box; k_x = -m,
    whose partner m is cut off, is cut off, too; R starts centred, not in the positive quadrant.
    """

    class Config(Frozen):
        """`modes` wave numbers 0, ..., `modes` - 1 along each axis, or as many as the grid resolves."""

        hidden: PositiveInt = 32
        layers: PositiveInt = 4
        modes: PositiveInt = 12
        domain_padding: Annotated[float, Field(ge=0, le=1)] = 0.125

    family = "reference"
    symmetries = ()
    source = "Li et al. 2021 (arXiv 2010.08895), section 4"
    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((16, 32, 64)),
        "layers": Choice((3, 4, 5)),
        "modes": Choice((8, 12, 16)),
    }

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        hidden = config.hidden
        self.domain_padding = 0.0 if task.periodic else config.domain_padding
        extended = (size + self._added(size) for size in (task.height, task.width))
        along_x, along_y = (min(config.modes, (size + 1) // 2) for size in extended)  # below the Nyquist frequency
        self.lifting = nn.Conv2d(task.input_frames * task.channels, hidden, 1)
        self.spectral = nn.ModuleList(SpectralConv2d(hidden, (along_x, along_y)) for _ in range(config.layers))
        self.pointwise = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(config.layers))
        self.projection = nn.Sequential(
            nn.Conv2d(hidden, 4 * hidden, 1), nn.GELU(), nn.Conv2d(4 * hidden, task.channels, 1)
        )

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W)."""
        height, width = x_BTCHW.shape[-2:]
        v = self.lifting(x_BTCHW.flatten(1, 2))
        v = F.pad(v, (0, self._added(width), 0, self._added(height)))
        for layer, (spectral, pointwise) in enumerate(zip(self.spectral, self.pointwise, strict=True)):
            v = F.gelu(v) if layer > 0 else v
            v = spectral(v) + pointwise(v)
        return self.projection(v[..., :height, :width])

    def _added(self, size: int) -> int:
        """Number of zeros that extend an axis."""
        return math.ceil(self.domain_padding * size)
