"""The 24 turns of the cube, which act on states of particles exactly: each permutes the axes and flips signs.

A state is (..., 6): position (x, y, z), then velocity. A turn g takes both to g x and g v.
"""

from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

Turn = NDArray[np.float64]
"""Matrix (3, 3) with one entry of +1 or -1 in each row and column, and determinant 1."""


def turns() -> dict[str, Turn]:
    """The turns by their names, the identity `+x+y+z` first. The name is the image of (x, y, z).

    >>> turns()["-y+x+z"] @ (1, 0, 0)  # a quarter turn about z, counter-clockwise
    array([0., 1., 0.])
    """
    named = {}
    for axes in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            turn = np.zeros((3, 3))
            turn[range(3), axes] = signs
            if round(np.linalg.det(turn)) == 1:
                named["".join("+-"[sign < 0] + "xyz"[axis] for sign, axis in zip(signs, axes, strict=True))] = turn
    return named


def turned(states: NDArray[np.float64], turn: Turn) -> NDArray[np.float64]:
    """States (..., 6) turned by the matrix `turn` (3, 3)."""
    return np.concatenate((states[..., :3] @ turn.T, states[..., 3:] @ turn.T), axis=-1)
