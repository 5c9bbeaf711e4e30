"""The least that a training step can cost: its convolutions, matrix products and Fourier transforms, and nothing else.

What counts is read off the step itself. While it runs forward, each tensor carries the set of products that it was
computed from, or the window; a product counts where one of its operands depends on the window. What only builds a
filter does not, nor a map that is the same for every window. A relaxed convolution of L banks executes L times the
channels, and so does its limit; two more forwards in a loss count as two more.

The limit network executes the same products with the shapes, strides and precision of the original, in its order and
with its dependencies. Their other operands are weights of its own, one for each that differs; between them stands
nothing but ReLU. An operand that comes from one product is that product's output, cut or filled with zeros to size;
several outputs are concatenated where they fit, otherwise added. The backward pass and Adam then do what they would for
plain layers of these shapes, and memory is what these keep: for a ConvNet the limit is that ConvNet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WINDOW = -1
"""Stands among the sources of a tensor for the window itself."""
PRODUCTS = {"convolution", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "_fft_r2c", "_fft_c2c", "_fft_c2r"}


@dataclass(frozen=True)
class Weight:
    """An operand that does not depend on the window; `size` is its root mean square."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    size: float


@dataclass(frozen=True)
class WeightOperand:
    """The weight of that index."""

    index: int


@dataclass(frozen=True)
class DataOperand:
    """A tensor computed from `sources`, earlier products or the window; those that read the same one share a `key`."""

    key: tuple[Any, ...]
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_sum: bool
    """Whether its sources are together more numbers than it has."""

    @property
    def size(self) -> int:
        """How many real numbers it has."""
        return math.prod(self.shape) * (2 if self.dtype.is_complex else 1)


@dataclass(frozen=True)
class Product:
    """A call of torch.ops.aten's `operator`, its tensors replaced by a WeightOperand or a DataOperand."""

    operator: str
    arguments: tuple[Any, ...]

    @property
    def data(self) -> list[DataOperand]:
        return [argument for argument in self.arguments if isinstance(argument, DataOperand)]


class Recorder(TorchDispatchMode):
    """Lists, in `products` and `weights`, the products on what depends on `window` while it is entered."""

    def __init__(self, window: Tensor) -> None:
        super().__init__()
        self.products: list[Product] = []
        self._weights: dict[tuple[Any, ...], Weight] = {}
        self._sources = {_storage(window): frozenset({WINDOW})}  # views share a storage, and its sources
        self._sizes = {WINDOW: window.numel()}
        self._alive: list[Any] = [window]  # so that no address is used again

    @property
    def weights(self) -> list[Weight]:
        return list(self._weights.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        sources = frozenset[int]().union(*map(self._sources_of, tensors))
        result = func(*args, **kwargs)
        operator = func.overloadpacket.__name__
        if sources and operator in PRODUCTS:
            arguments = tuple(self._operand(one) if isinstance(one, Tensor) else one for one in args)
            self.products.append(Product(f"{operator}.{func._overloadname}", arguments))
            sources = frozenset({len(self.products) - 1})
            self._sizes[len(self.products) - 1] = result.numel() * (2 if result.is_complex() else 1)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._sources[_storage(leaf)] = sources
                self._alive.append(leaf)
        return result

    def _sources_of(self, tensor: Tensor) -> frozenset[int]:
        return self._sources.get(_storage(tensor), frozenset())

    def _operand(self, tensor: Tensor) -> WeightOperand | DataOperand:
        sources = tuple(sorted(self._sources_of(tensor)))
        shape = tuple(tensor.shape)
        if sources:
            size = tensor.numel() * (2 if tensor.is_complex() else 1)
            is_sum = len(sources) > 1 and sum(self._sizes[source] for source in sources) > size
            key = (_storage(tensor), tensor.storage_offset(), shape)
            return DataOperand(key, sources, shape, tensor.dtype, is_sum)
        magnitude = tensor.detach().abs().double()
        total, square = float(magnitude.sum()), float(magnitude.square().mean())
        content = (shape, tensor.dtype, total, square)  # of a sum of two weights each call makes a new tensor
        self._weights.setdefault(content, Weight(shape, tensor.stride(), tensor.dtype, math.sqrt(square)))
        return WeightOperand(list(self._weights).index(content))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class LimitNetwork(nn.Module):
    """The products of a Recorder and ReLU; called as RolledOutLoss, it returns its loss twice.

    The loss is the sum of the mean squares of what no product reads.
    """

    def __init__(self, products: list[Product], weights: list[Weight]) -> None:
        super().__init__()
        self.products = products
        self.shapes = [weight.shape for weight in weights]
        self.dtypes = [weight.dtype for weight in weights]
        self.weights = nn.ParameterList(_parameter(weight) for weight in weights)
        last_read = {
            source: at for at, product in enumerate(products) for one in product.data for source in one.sources
        }
        last_use = {one.key: at for at, product in enumerate(products) for one in product.data}
        self.unread = [at for at in range(len(products)) if at not in last_read]
        operands = [one for product in products for one in product.data]
        self.added = {source for one in operands if one.is_sum for source in one.sources}
        self.passed = {source for one in operands if not one.is_sum for source in one.sources}
        self.forgotten = [[source for source, last in last_read.items() if last == at] for at in range(len(products))]
        self.unused = [[key for key, last in last_use.items() if last == at] for at in range(len(products))]

    def forward(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        raw = {WINDOW: x_BTCHW.flatten()}
        rectified = dict(raw)
        operands: dict[tuple[Any, ...], Tensor] = {}
        for index, product in enumerate(self.products):
            for operand in product.data:
                if operand.key not in operands:
                    sources = raw if operand.is_sum else rectified
                    operands[operand.key] = _made_of([sources[source] for source in operand.sources], operand)
            output = self._call(product, operands)
            linear = output.is_complex()  # a transform is half done: no ReLU
            output = (torch.view_as_real(output) if linear else output).flatten()
            if index in self.passed:
                rectified[index] = output if linear else output.relu()
            if index in self.added or index in self.unread:
                raw[index] = output
            del output  # what the backward pass does not need goes as early as between plain layers
            for source in self.forgotten[index]:
                raw.pop(source, None)
                rectified.pop(source, None)
            for key in self.unused[index]:
                del operands[key]
        loss = torch.stack([raw[index].float().square().mean() for index in self.unread]).sum()
        return loss, loss

    def _call(self, product: Product, operands: dict[tuple[Any, ...], Tensor]) -> Tensor:
        arguments = []
        for one in product.arguments:
            if isinstance(one, WeightOperand):
                one = self.weights[one.index].to(self.dtypes[one.index]).expand(self.shapes[one.index])
            elif isinstance(one, DataOperand):
                one = operands[one.key]
            arguments.append(one)
        packet, overload = product.operator.rsplit(".", 1)
        return getattr(getattr(torch.ops.aten, packet), overload)(*arguments)


def _parameter(weight: Weight) -> nn.Parameter:
    """With the strides of the original; what that repeats along an axis stands once."""
    shape = [1 if stride == 0 else size for size, stride in zip(weight.shape, weight.stride, strict=True)]
    dtype = torch.complex64 if weight.dtype.is_complex else torch.float32  # autocast keeps float32 weights
    value = torch.empty_strided(shape, weight.stride, dtype=dtype)
    return nn.Parameter(value.normal_(std=weight.size))


def _made_of(sources: list[Tensor], operand: DataOperand) -> Tensor:
    """The operand in its shape and type, from flat sources."""
    if operand.is_sum:
        flat = _fitted(sources[0], operand.size)
        for other in sources[1:]:
            flat = flat + _fitted(other, operand.size)
        flat = flat if operand.dtype.is_complex else flat.relu()
    else:
        flat = _fitted(torch.cat(sources) if len(sources) > 1 else sources[0], operand.size)
    if operand.dtype.is_complex:
        return torch.view_as_complex(flat.to(operand.dtype.to_real()).view(*operand.shape, 2))
    return flat.to(operand.dtype).view(operand.shape)


def _fitted(flat: Tensor, size: int) -> Tensor:
    if len(flat) == size:
        return flat
    return flat[:size] if len(flat) > size else F.pad(flat, (0, size - len(flat)))
