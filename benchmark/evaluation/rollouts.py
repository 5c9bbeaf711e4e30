"""Example roll-outs of a finished cell, which are stored for pictures."""

from dataclasses import dataclass, field
from typing import Any

from benchmark.cell import VELOCITY, Components
from benchmark.data.dataset import SplitName

EXAMPLES = 2
"""Rolled-out windows of each test split that are kept for pictures."""
TEST_SPLITS: tuple[SplitName, ...] = ("future", "domain")


@dataclass(frozen=True)
class Rollouts:
    """A few rolled-out windows of one split, float32: (n, T or S, ...)."""

    split: SplitName
    input: Any
    truth: Any
    prediction: Any
    windows: list[tuple[int, int]] = field(default_factory=list)
    """(run, first frame) of each window."""
    kind: str = "field"
    components: Components = VELOCITY
    """Components of a field, () for particles."""
