"""One random group element for each window, picked by the draws that all ranks agree on.

Every element acts on every window and one result is kept: windows are small beside the features of a network, and no
shape depends on the draws, so that a compiler sees one graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.cell import GroupName
from benchmark.groups import Element, elements
from benchmark.models.baseline import Task

DIGITS = 2**12
"""Of a draw, which has 24 binary digits, the upper 12 are one random number and the lower 12 another one."""


def task_elements(group: GroupName, task: Task) -> tuple[Element, ...]:
    """The non-trivial elements that keep the task's grid: of the quarter turns, a wide grid has the half turn alone."""
    return elements(group, task.grid, task.periodic, task.height, task.width)


def choose(draws_B: Tensor, many: int) -> Tensor:
    """Which of `many` each draw in [0, 1) picks, all being equally likely: (B,) -> (B,), integers below `many`."""
    return (draws_B * many).long().clamp(max=many - 1)


def other_draws(draws_B: Tensor) -> Tensor:
    """Uniform in [0, 1) again, and independent of what `choose` makes of `draws`: their lower digits."""
    return (draws_B * DIGITS) % 1


def transformed(field: Tensor, group: Sequence[Element], which_B: Tensor) -> Tensor:
    """The `which`-th element of `group` on each window (B, ..., 2, H, W); beyond the last one, the window as it is."""
    result = field
    for index, element in enumerate(group):
        chosen = (which_B == index).view(-1, *[1] * (field.ndim - 1))
        result = torch.where(chosen, element.act(field), result)
    return result


def regions(group: Sequence[Element], height: int, width: int) -> Tensor:
    """(G, H, W): 1 where an element's result is defined and 0 where it came from outside the box."""
    masks = torch.zeros(len(group), height, width)
    for mask, element in zip(masks, group, strict=True):
        element.valid(mask).fill_(1)  # a view of the mask
    return masks
