"""Windows of a field in memory, gathered by index on its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.data.dataset import Split


@dataclass(frozen=True)
class Windows:
    """All windows of one split of one field. A batch is one gather.

    `field` is (run, time, C, H, W). `index` holds (run, first frame) of each window, on the device of the field.
    Batches are on `device`, which differs if the field does not fit there.
    """

    field: Tensor
    index: Tensor
    input_frames: int
    steps: int
    device: torch.device | None = None

    @classmethod
    def of(cls, field: Tensor, split: Split, input_frames: int, device: torch.device | None = None) -> Windows:
        """Windows of `split`, ordered by run."""
        pairs = [(run, start) for run in split.runs for start in split.starts]
        return cls(field, torch.tensor(pairs, device=field.device), input_frames, split.steps, device)

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, T, C, H, W) and targets (B, S, C, H, W) of the windows with these `numbers` (B,)."""
        rows = self.index[numbers.to(self.index.device)]
        frames = rows[:, 1:] + torch.arange(self.input_frames + self.steps, device=rows.device)
        window = self.field[rows[:, :1], frames]
        if self.device is not None and self.device.type != window.device.type:
            pinned = window.pin_memory() if self.device.type == "cuda" else window  # else the CPU waits for the copy
            window = pinned.to(self.device, non_blocking=True)
        return window[:, : self.input_frames], window[:, self.input_frames :]
