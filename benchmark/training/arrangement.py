"""Layout of the arrays: a model may see them as published, while all metrics take the physical one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from benchmark.cell import Layout
from benchmark.data.dataset import SplitName
from benchmark.data.windows import Windows
from benchmark.models.baseline import Baseline


def in_layout(field: Tensor, layout: Layout) -> Tensor:
    """Exchange the last two axes of (..., H, W) for the published layout and back; the components stay."""
    return field.mT if layout == "published" else field


class Physical(Baseline):
    """Model of the published layout as a map of physical fields, for the evaluation."""

    def __init__(self, model: Baseline) -> None:
        task = model.task
        super().__init__(None, replace(task, height=task.width, width=task.height))
        self.model = model

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, C, H, W) in the physical layout."""
        prediction: Tensor = self.model(x_BTCHW.mT).mT
        return prediction


def physical(
    model: Baseline, windows: Mapping[SplitName, Windows], layout: Layout
) -> tuple[Baseline, Mapping[SplitName, Windows]]:
    """Model and windows of `layout` in the physical one."""
    if layout == "physical":
        return model, windows
    turned = {name: replace(window, field=in_layout(window.field, layout)) for name, window in windows.items()}
    return Physical(model), turned
