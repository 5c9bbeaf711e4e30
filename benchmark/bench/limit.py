"""Limit network: the least that a training step can cost. It executes the products of the step and nothing else.

Products are convolutions, matrix products and Fourier transforms. While a step runs forward, each tensor carries its
sources: the earlier products that it was computed from, or the window. A product counts if one of its operands has
sources. One that only builds a filter does not count, nor a map that is equal for all windows. A relaxed convolution
of L banks executes L times the channels, and so does its limit.

The limit network executes these products with their shapes, strides and precision, in their order and with their
dependencies, and only ReLU between them. An operand without sources is a weight of its own. An operand from one product
is its output, cut or padded with zeros to size; outputs of several products are concatenated if they fit, else added.
Backward pass, Adam and memory are then those of plain layers of these shapes: the limit of a ConvNet is that ConvNet.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WINDOW = -1
"""Number of the window among the sources of a tensor."""
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
    """Operand of a product: the weight numbered `index`."""

    index: int


@dataclass(frozen=True)
class DataOperand:
    """Operand of a product, computed from `sources`; operands that are one tensor share a `key`.

    `is_sum` if the sources have more numbers together than the operand.
    """

    key: tuple[Any, ...]
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_sum: bool

    @property
    def size(self) -> int:
        """Number of real numbers."""
        return math.prod(self.shape) * (2 if self.dtype.is_complex else 1)


@dataclass(frozen=True)
class Product:
    """A call of torch.ops.aten's `operator`, with a WeightOperand or DataOperand in place of each tensor."""

    operator: str
    arguments: tuple[Any, ...]

    @property
    def data(self) -> list[DataOperand]:
        """Operands that depend on the window."""
        return [argument for argument in self.arguments if isinstance(argument, DataOperand)]


class ProductRecorder(TorchDispatchMode):
    """Context that records the products on tensors that depend on `window`, and their weights."""

    def __init__(self, window: Tensor) -> None:
        super().__init__()
        self.products: list[Product] = []
        self._weights: dict[tuple[Any, ...], Weight] = {}
        self._sources = {_storage(window): frozenset({WINDOW})}  # views share a storage, and its sources
        self._sizes = {WINDOW: window.numel()}
        self._alive: list[Any] = [window]  # so that no address is used again

    @property
    def weights(self) -> list[Weight]:
        """Distinct weights, in the order of their first use."""
        return list(self._weights.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        sources = frozenset[int]().union(*map(self._sources_of, tensors))
        result = func(*args, **kwargs)
        operator = func.overloadpacket.__name__
        if sources and operator in PRODUCTS:
            arguments = tuple(self._operand(one) if isinstance(one, Tensor) else one for one in args)
            sources = frozenset({len(self.products)})
            self._sizes[len(self.products)] = _real_numbers(result)
            self.products.append(Product(f"{operator}.{func._overloadname}", arguments))
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
            is_sum = len(sources) > 1 and sum(self._sizes[source] for source in sources) > _real_numbers(tensor)
            key = (_storage(tensor), tensor.storage_offset(), shape)
            return DataOperand(key, sources, shape, tensor.dtype, is_sum)
        magnitude = tensor.detach().abs().double()
        total, square = float(magnitude.sum()), float(magnitude.square().mean())
        # A parameter is known by its place. Each call makes a new tensor of a sum of two weights, known by its content.
        is_result = _storage(tensor) in self._sources
        content = (shape, tensor.dtype, *((total, square) if is_result else (_storage(tensor),)))
        self._weights.setdefault(content, Weight(shape, tensor.stride(), tensor.dtype, math.sqrt(square)))
        return WeightOperand(list(self._weights).index(content))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _real_numbers(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


class LimitNetwork(nn.Module):
    """Network of recorded products and ReLU. As a RolledOutLoss, it returns its loss and its error, which are equal.

    The loss is the sum of the mean squares of the outputs that no product reads.
    """

    def __init__(self, products: list[Product], weights: list[Weight]) -> None:
        super().__init__()
        self.products, self.recorded = products, weights
        self.weights = nn.ParameterList(_parameter(weight) for weight in weights)
        operands = [(at, one) for at, product in enumerate(products) for one in product.data]
        last_read = {source: at for at, one in operands for source in one.sources}
        last_use = {one.key: at for at, one in operands}
        self.unread = [at for at in range(len(products)) if at not in last_read]
        self.added = {source for _, one in operands if one.is_sum for source in one.sources}
        self.passed = {source for _, one in operands if not one.is_sum for source in one.sources}
        self.freed_sources = [
            [source for source, last in last_read.items() if last == at] for at, _ in enumerate(products)
        ]
        self.freed_operands = [[key for key, last in last_use.items() if last == at] for at, _ in enumerate(products)]

    def forward(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        raw = {WINDOW: x_BTCHW.flatten()}
        rectified = dict(raw)
        operands: dict[tuple[Any, ...], Tensor] = {}
        for index, product in enumerate(self.products):
            for operand in product.data:
                if operand.key not in operands:
                    sources = raw if operand.is_sum else rectified
                    operands[operand.key] = _value([sources[source] for source in operand.sources], operand)
            output = self._call(product, operands)
            linear = output.is_complex()  # no ReLU within a pair of transforms
            output = (torch.view_as_real(output) if linear else output).flatten()
            if index in self.passed:
                rectified[index] = output if linear else output.relu()
            if index in self.added or index in self.unread:
                raw[index] = output
            del output  # memory that the backward pass does not need is freed as early as between plain layers
            for source in self.freed_sources[index]:
                raw.pop(source, None)
                rectified.pop(source, None)
            for key in self.freed_operands[index]:
                del operands[key]
        loss = torch.stack([raw[index].float().square().mean() for index in self.unread]).sum()
        return loss, loss

    def _call(self, product: Product, operands: dict[tuple[Any, ...], Tensor]) -> Tensor:
        arguments = []
        for one in product.arguments:
            if isinstance(one, WeightOperand):
                recorded = self.recorded[one.index]
                one = self.weights[one.index].to(recorded.dtype).expand(recorded.shape)
            elif isinstance(one, DataOperand):
                one = operands[one.key]
            arguments.append(one)
        packet, overload = product.operator.rsplit(".", 1)
        return getattr(getattr(torch.ops.aten, packet), overload)(*arguments)


def _parameter(weight: Weight) -> nn.Parameter:
    """Parameter with the strides of the weight; an axis along which it repeats has length 1."""
    shape = [1 if stride == 0 else size for size, stride in zip(weight.shape, weight.stride, strict=True)]
    dtype = torch.complex64 if weight.dtype.is_complex else torch.float32  # autocast keeps float32 weights
    value = torch.empty_strided(shape, weight.stride, dtype=dtype)
    return nn.Parameter(value.normal_(std=weight.size))


def _value(sources: list[Tensor], operand: DataOperand) -> Tensor:
    """Operand in its shape and type, from flat sources."""
    if operand.is_sum:
        flat = _resized(sources[0], operand.size)
        for other in sources[1:]:
            flat = flat + _resized(other, operand.size)
        flat = flat if operand.dtype.is_complex else flat.relu()
    else:
        flat = _resized(torch.cat(sources) if len(sources) > 1 else sources[0], operand.size)
    if operand.dtype.is_complex:
        return torch.view_as_complex(flat.to(operand.dtype.to_real()).view(*operand.shape, 2))
    return flat.to(operand.dtype).view(operand.shape)


def _resized(flat: Tensor, size: int) -> Tensor:
    if len(flat) == size:
        return flat
    return flat[:size] if len(flat) > size else F.pad(flat, (0, size - len(flat)))
