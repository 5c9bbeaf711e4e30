"""Steerable convolutions of C_N, strict and relaxed, through the e2cnn library.

e2cnn supplies the representations, the basis of kernels and the variance of the initial coefficients (Weiler,
Cesa 2019, arXiv 1911.08251). Its R2Conv is not used as a layer, because it keeps the expanded filter as a buffer that
exists only after eval(): state dicts of the two modes differ, and copies fail. Here the filter is a parametrization of
the convolution's weight, which `parametrize.cached()` expands once for many calls. The output equals that of R2Conv
with the same coefficients (tests/benchmark/models/test_steerable.py). `r2conv` is such a layer for other groups and
fields of e2cnn, reflections included.

Letters: N order of the group; O, I fields out and in; a, b components within a field (2 for a vector, 1 for a scalar, N
for the regular representation); L basis kernels; K kernel size.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from benchmark.cell import PositiveInt
from benchmark.models.baseline import Choice, SearchSpace, Task
from benchmark.models.layers.convolutions import PaddingMode, convolve
from benchmark.models.layers.fields import ExpandBias, ExpandedFilter, Field, Fields, field_network
from benchmark.models.layers.norm import NormConfig
from benchmark.models.layers.relaxation import KernelDeviation, RelaxedLayer, full_precision
from benchmark.models.layers.sizes import KernelSize

if TYPE_CHECKING:
    from e2cnn.nn import FieldType, GeometricTensor, R2Conv


class SteerableConfig(NormConfig):
    """Sizes of a steerable network; `hidden` counts regular fields, each of `order` channels."""

    hidden: PositiveInt = 32
    order: Literal[4, 8] = 4
    layers: PositiveInt = 5
    kernel_size: KernelSize = 3


STEERABLE_SEARCH_SPACE: SearchSpace = {
    "hidden": Choice((16, 32, 64)),
    "order": Choice((4, 8)),
    "layers": Choice((3, 5, 7)),
    "kernel_size": Choice((3, 5)),
}


@cache
def _e2cnn() -> Any:
    """The library, with replacements for what NumPy 2 no longer has and version 0.2.3 calls for reflections.

    These are `tostring` of arrays, in hashes of bases, and `array(..., copy=False)`, which now refuses to copy.
    """
    import e2cnn.nn  # takes as long as torch, and many commands build no network

    def hash_of(basis: Any) -> int:
        return hash((basis.in_irrep, basis.out_irrep, basis.mu.tobytes()))

    for basis in vars(e2cnn.kernels.irreps_basis).values():
        if isinstance(basis, type) and "tostring" in getattr(getattr(basis.__hash__, "__code__", None), "co_names", ()):
            basis.__hash__ = hash_of  # type: ignore[assignment, method-assign]

    class NumPy1:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        def array(self, values: Any, copy: bool = True) -> Any:
            return np.array(values) if copy else np.asarray(values)

    e2cnn.kernels.utils.np = NumPy1()
    return e2cnn


def field_type(order: int, field: Field, multiplicity: int) -> FieldType:
    """`multiplicity` fields of C_N: vectors (irrep 1, component 0 along x), scalars, or the regular representation."""
    space = _e2cnn().gspaces.Rot2dOnR2(order)
    representations = {"vector": space.irrep(1), "scalar": space.trivial_repr, "regular": space.regular_repr}
    made: FieldType = _e2cnn().nn.FieldType(space, multiplicity * [representations[field]])
    return made


@dataclass(frozen=True)
class Basis:
    """e2cnn's basis of the layers from one field to one field."""

    kernels: Tensor
    """(K, K, L, a, b): Phi_l at each position."""
    deviation: Tensor
    """(L,): standard deviation of the initial coefficients."""
    bias: Tensor
    """(a, 0 or 1): the direction that the group leaves invariant, if there is one."""


@cache
def kernel_basis(order: int, field_in: Field, field_out: Field, kernel_size: int) -> Basis:
    """e2cnn's basis with its default rings and band limit: L = 24 regular to regular for C4 and K = 3.

    The deviation is e2cnn's generalized He initialisation: variance 1 / (n m), with n the kinds of input irreps
    that reach an output irrep and m the number of coefficients from one such kind. m is proportional to the number
    of input fields I; here I = 1, and the layer divides by I.
    """
    fields = field_type(order, field_in, 1), field_type(order, field_out, 1)
    with _quiet_masks():
        one = _e2cnn().nn.R2Conv(*fields, kernel_size, initialize=False)
    size = one.basisexpansion.dimension()
    kernels = torch.stack([one.basisexpansion(row) for row in torch.eye(size)])  # (L, a, b, K K)
    entries = [(item["in_irrep"], item["out_irreps_position"]) for item in one.basisexpansion.get_basis_info()]
    count = Counter(entries)
    kinds = Counter(out for _, out in count)
    variance = torch.tensor([1 / (kinds[entry[1]] * count[entry]) for entry in entries])
    return Basis(
        kernels.unflatten(-1, (kernel_size, kernel_size)).permute(3, 4, 0, 1, 2).contiguous(),
        variance.sqrt(),
        one.bias_expansion if one.bias is not None else torch.zeros(kernels.shape[1], 0),
    )


@contextmanager
def _quiet_masks() -> Iterator[None]:
    """Without torch's warning about the masks of e2cnn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "indexing with dtype torch.uint8", UserWarning)
        yield


class ExpandFilter(nn.Module):
    """Coefficients (O, I, L) -> filter (O a, I b, K, K); `relaxation` makes coefficients for each position."""

    kernels: Tensor

    def __init__(self, kernels: Tensor, relaxation: KernelDeviation | None) -> None:
        super().__init__()
        self.register_buffer("kernels", kernels.clone())  # all layers share the cached basis
        self.relaxation = relaxation

    def forward(self, coefficients: Tensor) -> Tensor:
        with full_precision(coefficients):
            if self.relaxation is None:
                filters = torch.einsum("oil,yxlab->oaibyx", coefficients, self.kernels)
            else:
                filters = torch.einsum("oiyxl,yxlab->oaibyx", self.relaxation(coefficients), self.kernels)
        return filters.flatten(2, 3).flatten(0, 1)


class SteerableConv2d(ExpandedFilter, RelaxedLayer):
    """Convolution with K(y) = sum_l w_l Phi_l(y), strict, or K(y) = sum_l w_l(y) Phi_l(y), relaxed.

    (B, I b, H, W) -> (B, O a, H, W). Phi_l spans the kernels with Phi(g y) = rho_out(g) Phi(y) rho_in(g^-1). The
    `coefficients` are w (O, I, L); relaxed, w_l(y) = w_l + d_l(y), see `KernelDeviation`. A relaxed layer starts
    equivariant, with d = 0; the published code starts w(y) at random. Source: Wang, Walters, Yu 2022, section 4.2.

    The centre of a relaxed kernel cannot leave the symmetry: every Phi_l(0) commutes with the group, and so do
    their sums. Between regular fields of C4 the centre has 4 of 16 degrees of freedom, and each other position all 16.
    """

    def __init__(
        self,
        order: int,
        fields_in: Fields,
        fields_out: Fields,
        kernel_size: int,
        relaxed: bool = False,
        padding_mode: PaddingMode = "zeros",
    ) -> None:
        super().__init__()
        (field_in, many_in), (field_out, many_out) = fields_in, fields_out
        basis = kernel_basis(order, field_in, field_out, kernel_size)
        size = len(basis.deviation)
        coefficients = torch.randn(many_out, many_in, size) * basis.deviation / math.sqrt(many_in)
        relaxation = KernelDeviation(basis.kernels.abs().amax((3, 4)), many_out, many_in) if relaxed else None
        self.padding = kernel_size // 2
        self.periodic = padding_mode == "circular"
        self.weight = nn.Parameter(coefficients)
        register_parametrization(self, "weight", ExpandFilter(basis.kernels, relaxation), unsafe=True)
        if basis.bias.shape[1] == 0:
            self.register_parameter("bias", None)  # a vector has no invariant direction
        else:
            self.bias = nn.Parameter(torch.zeros(many_out))
            register_parametrization(self, "bias", ExpandBias(basis.bias[:, 0]), unsafe=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I b, H, W) -> (B, O a, H, W)."""
        return convolve(x, self.weight, self.bias, self.padding, self.periodic)

    def roughness(self) -> Tensor:
        """Mean of |w(y) - w(y')| over neighbouring positions of the kernel; see `KernelDeviation`.

        In the published code, which flattens the kernel, the end of a row and the start of the next are neighbours.
        """
        relaxation = self.expansion.relaxation
        assert isinstance(relaxation, KernelDeviation)
        return relaxation.roughness()

    def size(self) -> Tensor:
        """Mean |w|."""
        return self.coefficients.abs().mean()


def steerable_network(config: SteerableConfig, task: Task, relaxed: bool = False) -> nn.Sequential:
    """(B, T C, H, W) -> (B, C, H, W) by steerable convolutions with `norm` and ReLU between them."""

    def layer(before: Fields, after: Fields) -> SteerableConv2d:
        return SteerableConv2d(config.order, before, after, config.kernel_size, relaxed, task.padding_mode)

    return field_network(task, config.hidden, config.layers, layer, config.norm)


def r2conv(in_type: FieldType, out_type: FieldType, kernel_size: int, **options: Any) -> R2Conv:
    """e2cnn's R2Conv between any fields of any of its groups, with its arguments, as the contract wants it.

    Its filter is no buffer, so that state dicts of both modes are equal and copies work; `parametrize.cached()` expands
    it once for many calls. The output is that of R2Conv.
    """
    with _quiet_masks():
        layer: R2Conv = _r2conv_class()(in_type, out_type, kernel_size, **options)
    return layer


@cache
def _r2conv_class() -> Any:
    nn_of_e2cnn = _e2cnn().nn

    class Convolution(nn_of_e2cnn.R2Conv):  # type: ignore[name-defined]
        """R2Conv whose `weights` are parametrised as its filter."""

        def __init__(self, in_type: FieldType, out_type: FieldType, kernel_size: int, **options: Any) -> None:
            super().__init__(in_type, out_type, kernel_size, **options)
            for buffer in ("filter", "expanded_bias"):
                self._buffers.pop(buffer, None)
            register_parametrization(self, "weights", _ExpandBasis(self.basisexpansion, kernel_size), unsafe=True)

        def train(self, mode: bool = True) -> Convolution:
            nn.Module.train(self, mode)
            return self

        def forward(self, x: GeometricTensor) -> GeometricTensor:
            bias = None if self.bias is None else self.bias_expansion @ self.bias
            options = {"stride": self.stride, "dilation": self.dilation, "groups": self.groups}
            field, padding = x.tensor, self.padding
            if self.padding_mode != "zeros":
                field, padding = F.pad(field, self._reversed_padding_repeated_twice, self.padding_mode), 0
            y = F.conv2d(field, self.weights, bias, padding=padding, **options)
            return nn_of_e2cnn.GeometricTensor(y, self.out_type)

    return Convolution


class _ExpandBasis(nn.Module):
    """Coefficients (L,) -> filter (O, I, K, K), by e2cnn's expansion."""

    def __init__(self, expansion: nn.Module, kernel_size: int) -> None:
        super().__init__()
        self.expansion, self.kernel_size = expansion, kernel_size

    def forward(self, coefficients: Tensor) -> Tensor:
        with full_precision(coefficients):
            filters: Tensor = self.expansion(coefficients)
        return filters.unflatten(-1, (self.kernel_size, self.kernel_size))
