"""One random group element for each window, from draws that do not depend on the number of ranks.

On fields the elements are a few transformations. Every element acts on every window and one result is selected: no
shape depends on the draws, so there is one graph to compile, and windows are small compared with the features of a
network. On particles they are rotations, any of SO(3).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from benchmark.cell import GroupName
from benchmark.groups import Element, elements
from benchmark.models.baseline import Task
from benchmark.models.task import AnyTask

DIGITS = 2**12
"""Range of the upper 12 of a draw's 24 bits, which are one random number; the lower 12 are another."""
STRIDES = tuple(1.2207440846057596**-power for power in (1, 2, 3))
"""Steps along the axes of a cube whose multiples, modulo 1, fill it evenly (the root is that of x^4 = x + 1)."""


class GroupDraws(nn.Module, ABC):
    """Random elements of a group, and their action on windows (B, ...)."""

    @abstractmethod
    def elements(self, draws_B: Tensor) -> Tensor:
        """Element for each window, (B, ...)."""

    @abstractmethod
    def act(self, states: Tensor, elements: Tensor) -> Tensor:
        """Transform the states (B, ...) of each window by its element."""

    @abstractmethod
    def mean_squares(self, difference: Tensor, elements: Tensor) -> Tensor:
        """Mean square of each window where its transformed state is defined: (B, ...) -> (B,)."""


class FieldDraws(GroupDraws):
    """Elements for which the equivariance error is measured, all alike, and the identity if `identity`."""

    region: Tensor

    def __init__(self, group: GroupName, task: Task, identity: bool) -> None:
        super().__init__()
        self.group = task_elements(group, task)
        self.count = len(self.group) + identity
        self.register_buffer("region", regions(self.group, task.height, task.width), persistent=False)

    def elements(self, draws_B: Tensor) -> Tensor:
        """Index of the element of each window; the identity is the last one."""
        return choose(draws_B, self.count)

    def act(self, states: Tensor, elements: Tensor) -> Tensor:
        """Fields (B, ..., C, H, W)."""
        return transformed(states, self.group, elements)

    def mean_squares(self, difference: Tensor, elements: Tensor) -> Tensor:
        """Mean over components and the cells that do not come from outside the box: (B, C, H, W) -> (B,)."""
        region_BHW = self.region[elements]
        return (difference.square().mean(1) * region_BHW).sum((1, 2)) / region_BHW.sum((1, 2))


class RotationDraws(GroupDraws):
    """Rotations of particles about the centre, uniform over SO(3)."""

    def elements(self, draws_B: Tensor) -> Tensor:
        """Matrix of each window, (B, 3, 3)."""
        return rotations(draws_B)

    def act(self, states: Tensor, elements: Tensor) -> Tensor:
        """Positions and velocities (B, ..., 6). No matrix product, which autocast would round to bf16."""
        vectors = states.unflatten(-1, (2, 3))
        matrices = elements.view(-1, *[1] * (states.ndim - 1), 3, 3)
        return (matrices * vectors[..., None, :]).sum(-1).flatten(-2)

    def mean_squares(self, difference: Tensor, elements: Tensor) -> Tensor:
        """Mean over particles and components: (B, N, 6) -> (B,)."""
        return difference.square().mean((1, 2))


def group_draws(group: str, task: AnyTask, identity: bool) -> GroupDraws:
    """Draws from `group`, which acts on the states of `task`."""
    if group == "SO3":
        return RotationDraws()
    return FieldDraws(cast(GroupName, group), cast(Task, task), identity)


def task_elements(group: GroupName, task: Task) -> tuple[Element, ...]:
    """Non-trivial elements that keep the shape of the task's grid; of C4 on a wide grid, the half turn alone."""
    return elements(group, task.grid, task.periodic, task.height, task.width, task.components)


def choose(draws_B: Tensor, count: int) -> Tensor:
    """Uniform integers below `count` from draws in [0, 1): (B,) -> (B,)."""
    return (draws_B * count).long().clamp(max=count - 1)


def other_draws(draws_B: Tensor) -> Tensor:
    """Draws in [0, 1) from the lower bits of `draws_B`, independent of what `choose` or `rotations` make of these."""
    return (draws_B * DIGITS) % 1


def rotations(draws_B: Tensor) -> Tensor:
    """Matrices uniform over SO(3) from draws in [0, 1), by Shoemake, Graphics Gems III, 1992: (B,) -> (B, 3, 3)."""
    number = draws_B.double() * DIGITS**2
    u, v, w = ((number * stride) % 1 for stride in STRIDES)
    inner, outer = u.sqrt(), (1 - u).sqrt()
    x, y = outer * (2 * math.pi * v).sin(), outer * (2 * math.pi * v).cos()
    z, s = inner * (2 * math.pi * w).sin(), inner * (2 * math.pi * w).cos()  # the quaternion s + xi + yj + zk
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - z * s), 2 * (x * z + y * s)),
        *(2 * (x * y + z * s), 1 - 2 * (x * x + z * z), 2 * (y * z - x * s)),
        *(2 * (x * z - y * s), 2 * (y * z + x * s), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1).unflatten(-1, (3, 3)).to(draws_B.dtype)


def transformed(field: Tensor, group: Sequence[Element], which_B: Tensor) -> Tensor:
    """Apply element `which_B` of `group` to each window (B, ..., C, H, W); the index `len(group)` is the identity."""
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
