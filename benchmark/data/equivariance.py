"""The data equivariance error: how far a trajectory is from that of the transformed set-up, transformed back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dataset import EquivarianceError

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def measure(element: str, pairs: Iterable[Pair], exact: bool = True) -> EquivarianceError:
    """The error of one group element over `pairs` of trajectories (d_1, d_g), each (time, 2, H, W).

    d_g started from the transformed set-up and is transformed back. The mean over pairs of mean |d_1 - d_g|, and the
    same over the mean of mean |d_1| (Wang, Walters, Yu 2022, section 5).
    """
    differences, sizes = [], []
    for first, other in pairs:
        differences.append(np.abs(first - other).mean(dtype=np.float64))
        sizes.append(np.abs(first).mean(dtype=np.float64))
    absolute, size = float(np.mean(differences)), float(np.mean(sizes))
    return EquivarianceError(element, absolute, absolute / size, exact)
