"""Relaxation of a network: where the weights of a relaxed layer deviate from those of the strict one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmark.data.hdf5 import array, group

if TYPE_CHECKING:
    from torch import Tensor, nn

_GROUP = "relaxation_modes"
ITERATIONS = 50
"""Steps of the power method for the leading mode."""


@dataclass(frozen=True)
class Relaxation:
    """Deviation of one layer: its size, and the map (X, Y), or (1, N), of its leading mode over the places.

    The deviation is w - mean of w over the places, and `size` its root mean square over that of w: 0 is the strict
    layer. The mode is the pattern over the places that holds most of its square (first singular vector), in the same
    unit and with a sign, since two halves that differ are as far from their mean. The sign as a whole is arbitrary: the
    largest is positive. `explained` is the share of the mode in the square of the deviation.
    """

    layer: str
    map: NDArray[np.float64]
    size: float
    explained: float


@runtime_checkable
class DeclaresPlaces(Protocol):
    """Layer, or model, that says itself which of its weights act at which place."""

    def relaxed_weight(self) -> Tensor:
        """Weights that act at each place, deviations included: (X, Y, numbers). Places are pixels or in a kernel."""


def relaxations_of(model: nn.Module, grid: tuple[int, int]) -> list[Relaxation]:
    """Relaxed layers of a model: those that declare their weights, then those recognised by names.

    Raises ValueError if a layer declares what is not (X, Y, numbers).
    """
    modules = [(name, module) for name, module in model.named_modules() if isinstance(module, DeclaresPlaces)]
    declared = {name: module.relaxed_weight() for name, module in modules}
    for name, weight in declared.items():
        if weight.ndim != 3:
            shape = tuple(weight.shape)
            raise ValueError(f"relaxed_weight of {name or 'the model'} is {shape}, expected (X, Y, numbers)")
    inside = tuple(f"{name}." if name else "" for name in declared)
    others = {name: weight for name, weight in model.state_dict().items() if not name.startswith(inside)}
    layers = [_mode(name or type(model).__name__, weight.detach()) for name, weight in declared.items()]
    return [*layers, *relaxations(others, grid)]


def share_of_relaxation(layers: Sequence[Relaxation]) -> float:
    """Root mean square of the sizes of the layers."""
    return float(np.sqrt(np.mean([layer.size**2 for layer in layers])))


def relaxations(state: Mapping[str, Tensor], grid: tuple[int, int]) -> Iterator[Relaxation]:
    """Weights of a network that differ from place to place, recognised by the names of their deviations.

    `deviation` (banks, places ...): relaxed group convolution; places are pixels (H, W), group elements (N,), or both.
    With `weight` (O, I) beside it, (H, W, O, I): locally connected layer. With `places` beside it, (O, I, P): relaxed
    steerable convolution, whose places are those of the kernel. `a` (rank, H, W): displacement of a group-matrix
    convolution.
    """
    for name, weight in state.items():
        path, _, last = name.rpartition(".")
        layer = path.split(".parametrizations.weight")[0].removesuffix(".banks")
        if last == "a" and weight.ndim == 3:
            yield _mode(layer, 1 + weight.movedim(0, -1))
        if last != "deviation":
            continue
        if f"{path}.places" in state:
            above = path.rpartition(".")[0]
            kernels = next(state[f"{above}.{basis}"] for basis in ("kernels", "basis") if f"{above}.{basis}" in state)
            coefficients = state[f"{layer}.parametrizations.weight.original"].flatten(0, 1)  # (O I, L)
            w = coefficients[:, None].repeat(1, kernels.shape[0] * kernels.shape[1], 1).flatten(1)
            w[:, state[f"{path}.places"]] += weight.flatten(0, 1)
            yield _mode(layer, w.T.reshape(*kernels.shape[:2], -1))
        elif f"{path}.weight" in state and tuple(weight.shape[:2]) == grid:
            yield _mode(layer, (weight + state[f"{path}.weight"]).flatten(2))
        elif weight.ndim >= 2 and weight.numel() > len(weight):
            w = weight + 1 / len(weight)
            if w.ndim != 3:  # group elements
                yield _mode(layer, w.movedim(1, 0).flatten(1)[None])
            if w.ndim > 2:  # pixels
                yield _mode(layer, w.flatten(0, -3).movedim(0, -1))


def _mode(layer: str, weight: Tensor) -> Relaxation:
    """Leading mode of the weights (X, Y, numbers) of a layer."""
    w = weight.double()
    scale = float(w.square().mean().sqrt()) or 1.0
    deviation = (w - w.mean((0, 1), keepdim=True)).flatten(0, 1) / scale / w.shape[-1] ** 0.5
    mode = deviation[deviation.square().sum(1).argmax()]
    for _ in range(ITERATIONS):
        mode = deviation.T @ (deviation @ mode)
        mode = mode / (float(mode.norm()) or 1.0)
    pattern = deviation @ mode
    pattern = pattern * pattern[pattern.abs().argmax()].sign()
    square = float(deviation.square().sum(1).mean())
    explained = float(pattern.square().mean()) / square if square else 0.0
    return Relaxation(layer, pattern.reshape(w.shape[:2]).cpu().numpy(), square**0.5, explained)


def write_relaxations(file: h5py.File, relaxations: Sequence[Relaxation]) -> None:
    """Write the layers, from input to output, into an open file."""
    kept = file.create_group(_GROUP)
    for number, relaxation in enumerate(relaxations):
        layer = kept.create_dataset(f"{number:04}", data=relaxation.map.astype(np.float32))
        layer.attrs["layer"], layer.attrs["size"] = relaxation.layer, relaxation.size
        layer.attrs["explained"] = relaxation.explained


def read_relaxations(file: h5py.File) -> list[Relaxation] | None:
    """Layers in an open file; None if it is of an earlier version, which did not write them. Raises ValueError."""
    if _GROUP not in file:
        return None
    kept, layers = group(file, _GROUP), []
    for name in sorted(kept):
        places = np.asarray(array(kept, name), np.float64)
        layer, size, explained = (kept[name].attrs[key] for key in ("layer", "size", "explained"))
        layers.append(Relaxation(str(layer), places, float(size), float(explained)))
    return layers
