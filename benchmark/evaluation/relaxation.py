"""Relaxation weights of a network: the deviation of a relaxed layer from the strict one, place by place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmark.data.hdf5 import array, group

if TYPE_CHECKING:
    from torch import Tensor

_GROUP = "relaxations"


@dataclass(frozen=True)
class Relaxation:
    """Deviation of one layer at each place: mean |w - mean of w over places| over the mean |w|; (X, Y), or (1, N)."""

    layer: str
    map: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.map.mean())


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
            yield Relaxation(layer, _deviation(weight.movedim(0, -1)))
        if last != "deviation":
            continue
        if f"{path}.places" in state:
            above = path.rpartition(".")[0]
            kernels = next(state[f"{above}.{basis}"] for basis in ("kernels", "basis") if f"{above}.{basis}" in state)
            coefficients = state[f"{layer}.parametrizations.weight.original"].flatten(0, 1)  # (O I, L)
            w = coefficients[:, None].repeat(1, kernels.shape[0] * kernels.shape[1], 1).flatten(1)
            w[:, state[f"{path}.places"]] += weight.flatten(0, 1)
            yield Relaxation(layer, _deviation(w.T.reshape(*kernels.shape[:2], -1)))
        elif f"{path}.weight" in state and tuple(weight.shape[:2]) == grid:
            yield Relaxation(layer, _deviation((weight + state[f"{path}.weight"]).flatten(2)))
        elif weight.ndim >= 2 and weight.numel() > len(weight):
            yield Relaxation(layer, _deviation((weight + 1 / len(weight)).movedim(0, -1)))


def _deviation(weight: Tensor) -> NDArray[np.float64]:
    """(places ..., numbers) -> (X, Y)."""
    w = weight.double()
    places = tuple(range(w.ndim - 1))
    size = float(w.abs().mean()) or 1.0
    away = (w - w.mean(places, keepdim=True)).abs().mean(-1) / size
    if away.ndim == 1:
        away = away[None]
    while away.ndim > 2:
        away = away.mean(0)
    return away.cpu().numpy()


def write_relaxations(file: h5py.File, relaxations: Sequence[Relaxation]) -> None:
    """Write the layers, from input to output, into an open file."""
    kept = file.create_group(_GROUP)
    for number, relaxation in enumerate(relaxations):
        layer = kept.create_dataset(f"{number:04}", data=relaxation.map.astype(np.float32))
        layer.attrs["layer"] = relaxation.layer


def read_relaxations(file: h5py.File) -> list[Relaxation] | None:
    """Layers in an open file; None if it is of an earlier version, which did not write them. Raises ValueError."""
    if _GROUP not in file:
        return None
    kept = group(file, _GROUP)
    maps = {name: np.asarray(array(kept, name), np.float64) for name in sorted(kept)}
    return [Relaxation(str(kept[name].attrs["layer"]), places) for name, places in maps.items()]
