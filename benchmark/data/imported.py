"""Dataset of data that its user has imported: the class that the plug-in of `symbench data import` is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from benchmark.cell import Level
from benchmark.data.dataset import Dataset
from benchmark.errors import UserError

AS_IMPORTED = "as imported"
"""Key of a divergence for the order that the import was told."""
NO_DIVERGENCE = 0.01
"""Share of the gradient that differences between points leave of a flow without divergence."""


def better_order(divergence: Mapping[str, float]) -> str:
    """Order of axes and components with less than half the divergence as imported, if that is large, or ""."""
    if not divergence:
        return ""
    best = min(divergence, key=lambda order: divergence[order])
    return best if divergence[best] < divergence[AS_IMPORTED] / 2 - NO_DIVERGENCE else ""


class ImportedDataset(Dataset):
    """Fields of others. Nothing is simulated, so the equivariance error of the data cannot be measured."""

    licence: ClassVar[str]
    """Licence of the data, as the user named it."""
    command: ClassVar[str]
    """Command that made the data."""
    compressible: ClassVar[bool] = False
    """Whether the flow may have a divergence, so that the order of axes and components cannot be checked by it."""
    divergence: ClassVar[Mapping[str, float]] = {}
    """Mean |divergence| over the mean gradient, of the velocity as imported and with other orders of its axes.

    Empty without a velocity.
    """
    no_floor = "the data are imported, not simulated"
    test_runs = "designed"

    @property
    def terms(self) -> str:
        """Licence and source, as the import named them."""
        return f"Licence, as the import names it: {self.licence}. Source: {self.source}."

    def import_command(self, name: str) -> str:
        """Command that made the data files."""
        return self.command

    def parts(self, level: Level, preset: str) -> NoReturn:
        """UserError: imported data are not simulated."""
        raise UserError(f"imported data are not simulated: `{self.command}` makes the data file")

    def assemble(self, level: Level, preset: str, fields: Sequence[NDArray[np.float32]]) -> NoReturn:
        """UserError: imported data are not simulated."""
        self.parts(level, preset)
