"""Ions in an isotropic trap and a magnetic field, which breaks the rotation symmetry and no single state shows."""

from typing import ClassVar

from benchmark.cell import Level
from benchmark.data.physics.ion_dataset import IonDataset, along
from benchmark.data.physics.trapped_ions import AXIS, Trap


class TrappedIons(IonDataset):
    """Equal charges in an isotropic harmonic trap with a uniform magnetic field along a generic axis.

    At level 0 the motion commutes with O(3) and with permutations of the ions. The field turns velocities, and the
    thermal density of the starts does not depend on it: a strictly equivariant model pays for it at every level. Level
    0.02 is for the preset full; in smaller ones its strict floor is far below the error of any network.
    """

    levels: ClassVar[tuple[Level, ...]] = (0, 0.02, 0.05, 0.1, 0.2, 0.5)
    level_meaning = "strength of the magnetic field: its cyclotron frequency over the frequency of the trap"
    source = "symbench; after Relaxed Equivariant Graph Neural Networks (arXiv 2407.20471)"

    def trap(self, level: Level) -> Trap:
        return Trap(magnetic_field=along(AXIS, float(level)))
