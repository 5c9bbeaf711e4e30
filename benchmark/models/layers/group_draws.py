"""One random group element for each window, from draws that do not depend on the number of ranks.

Every element acts on every window and one result is selected. No shape depends on the draws, so there is one graph to
compile, and windows are small compared with the features of a network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.cell import GroupName
from benchmark.groups import Element, elements
from benchmark.models.baseline import Task

DIGITS = 2**12
"""Range of the upper 12 of a draw's 24 bits, which are one random number; the lower 12 are another."""


def task_elements(group: GroupName, task: Task) -> tuple[Element, ...]:
    """Non-trivial elements that keep the shape of the task's grid; of C4 on a wide grid, the half turn alone."""
    return elements(group, task.grid, task.periodic, task.height, task.width)


def choose(draws_B: Tensor, count: int) -> Tensor:
    """Uniform integers below `count` from draws in [0, 1): (B,) -> (B,)."""
    return (draws_B * count).long().clamp(max=count - 1)


def other_draws(draws_B: Tensor) -> Tensor:
    """Draws in [0, 1) from the lower bits of `draws_B`, independent of `choose(draws_B, ...)`."""
    return (draws_B * DIGITS) % 1


def transformed(field: Tensor, group: Sequence[Element], which_B: Tensor) -> Tensor:
    """Apply element `which_B` of `group` to each window (B, ..., 2, H, W); the index `len(group)` is the identity."""
    result = field
    for index, element in enumerate(group):
        chosen = (which_B == index).view(-1, *[1] * (field.ndim - 1))
        result = torch.where(chosen, element.act(field), result)
    return result


def regions(group: Sequence[Element], height: int, width: int) -> Tensor:
    """Masks (G, H, W): 1 where an element's result is defined, 0 where it would come from outside the box."""
    masks = torch.zeros(len(group), height, width)
    for mask, element in zip(masks, group, strict=True):
        element.valid(mask).fill_(1)  # a view of the mask
    return masks
