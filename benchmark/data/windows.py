"""Windows gathered by index from a field that stays in memory, on the device where it fits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.data.dataset import Split


@dataclass(frozen=True)
class Windows:
    """All windows of one split over one field; a batch is one gather, nothing is copied for each window.

    `field` is (run, time, C, H, W); `index` holds a row (run, first frame) for each window, on the field's device.
    """

    field: Tensor
    index: Tensor
    input_frames: int
    steps: int

    @classmethod
    def of(cls, field: Tensor, split: Split, input_frames: int) -> Windows:
        """The windows of `split`, run after run."""
        pairs = [(run, start) for run in split.runs for start in split.starts]
        return cls(field, torch.tensor(pairs, device=field.device), input_frames, split.steps)

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, T, C, H, W) and targets (B, S, C, H, W) of the windows numbered `which` (B,)."""
        rows = self.index[which.to(self.index.device)]
        frames = rows[:, 1:] + torch.arange(self.input_frames + self.steps, device=rows.device)
        window = self.field[rows[:, :1], frames]
        return window[:, : self.input_frames], window[:, self.input_frames :]
