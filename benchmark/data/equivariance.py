"""Data equivariance error: distance of a trajectory from that of the transformed set-up, transformed back."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from benchmark.data.dataset import EquivarianceError

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def measure(element: str, pairs: Iterable[Pair], exact: bool = True) -> EquivarianceError:
    """Error of one group element g over `pairs` of trajectories (d_1, d_g), each (time, ...).

    d_g starts from the transformed set-up and is transformed back. The absolute error is the mean of |d_1 - d_g| over
    all pairs, the relative error divides it by the mean of |d_1| (Wang, Walters, Yu 2022, section 5).
    """
    differences, sizes = [], []
    for first, other in pairs:
        differences.append(np.abs(first - other).mean(dtype=np.float64))
        sizes.append(np.abs(first).mean(dtype=np.float64))
    absolute, size = float(np.mean(differences)), float(np.mean(sizes))
    return EquivarianceError(element, absolute, absolute / size, exact)
