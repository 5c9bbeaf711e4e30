"""Ions in a trap whose frequencies differ along its axes, which breaks the symmetry by a tensor of rank two."""

from typing import ClassVar

from benchmark.cell import Level
from benchmark.data.physics.ion_dataset import IonDataset
from benchmark.data.physics.trapped_ions import Trap


class AnisotropicTrap(IonDataset):
    """Equal charges in a harmonic trap with the squared frequencies 1 + level, 1 and 1 - level along x, y and z.

    At level 0 the motion commutes with O(3) and with permutations of the ions. The breaking is even under the inversion
    and has no vector part: a model whose relaxation is a vector cannot express it, and one with a tensor can. Starts
    are thermal in the isotropic trap at every level, so that they do not show the axes.
    """

    levels: ClassVar[tuple[Level, ...]] = (0, 0.05, 0.1, 0.2, 0.4)
    level_meaning = "relative difference of the squared frequencies of the trap along x and z from that along y"
    source = "symbench"

    def trap(self, level: Level) -> Trap:
        return Trap(squared_frequencies=(1 + float(level), 1.0, 1 - float(level)))
