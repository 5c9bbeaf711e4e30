"""Frame averaging: any network, made equivariant under quarter turns by turning what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from benchmark.groups import rotate, to_cell_centers
from benchmark.models.baseline import Choice, SearchSpace, Task
from benchmark.models.layers.wrapper import Wrapper

NO_DIRECTION = 1e-5
"""A flux below this part of what it would be if all flowed one way is taken for zero, being round-off."""


class FrameAveraging(Wrapper):
    """y = 1/|F(x)| sum over g in F(x) of g f(g^-1 x), with a frame F(g x) = g F(x) in C4; f is `network`.

    `frame: group` takes F(x) = C4, 4 forward passes. `frame: flux` takes the one quarter turn that brings the flux
    w = mean |v|^2 v over the frames and cells of x within 45 degrees of the x axis: one pass, the small frame that is
    the point of the paper. w turns as a velocity, does not depend on where in the box the flow is, and unlike the mean
    velocity it is not zero whenever walls hold the fluid. Sectors around the axes, and not quadrants, keep a flow that
    is symmetric about an axis away from the borders of the choice. There y jumps, as it must somewhere for any frame
    of one element (Dym, Lawrence, Siegel 2024, arXiv 2402.16077).

    Where w is zero, as for a fluid at rest or one that is symmetric under a half turn, no single element can be chosen
    equivariantly. Then the forecast is that nothing changes, which is equivariant and keeps to one pass.

    Grids that are not square: the turns that bring the window upright (H > W) are a frame already, so the network sees
    upright windows only, is built for them, and may have weights for each cell; a `group` has then 2 elements. On a
    staggered grid the lower walls are kept at zero, without which a quarter turn is no permutation.
    """

    inside: Tensor

    class Config(Wrapper.Config):
        """`network` is averaged over a `frame`: the whole group, or the one turn that the flux picks."""

        frame: Literal["group", "flux"] = "flux"

    family = "strict"
    symmetries = ("rotation",)
    source = "Puny et al. 2022 (arXiv 2110.03336)"
    search_space: ClassVar[SearchSpace] = {"frame": Choice(("group", "flux"))}

    @classmethod
    def supports(cls, task: Task) -> str | None:
        """A rotation acts on the two components of one velocity."""
        return task.lacks_velocity()

    @classmethod
    def refusal(cls, config: Any, task: Task) -> str | None:
        """The network must run on the upright grid."""
        return super().refusal(config, _upright(task))

    def __init__(self, config: Config, task: Task) -> None:
        upright = _upright(task)
        super().__init__(config, upright)
        self.task = task
        self.frame = config.frame
        self.to_upright = 0 if upright == task else -1
        self.turns = (0, 1, 2, 3) if task.height == task.width else (0, 2)
        inside = torch.ones(2, upright.height, upright.width)
        if task.grid == "staggered":
            inside[0, 0] = inside[1, :, 0] = 0
        self.register_buffer("inside", inside, persistent=False)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """(B, T, 2, H, W) -> (B, 2, H, W)."""
        x = self._rotate(x_BTCHW, self.to_upright) * self.inside
        y = self._over_group(x) if self.frame == "group" else self._along_flux(x)
        return self._rotate(y, -self.to_upright)

    def augment(self, x_BTCHW: Tensor, y_BSCHW: Tensor, draws_B: Tensor) -> tuple[Tensor, Tensor]:
        """As the network does, which knows upright windows."""
        x, y = (self._rotate(field, self.to_upright) for field in (x_BTCHW, y_BSCHW))
        x, y = super().augment(x, y, draws_B)
        return self._rotate(x, -self.to_upright), self._rotate(y, -self.to_upright)

    def regularization(self, x_BTCHW: Tensor, draws_B: Tensor) -> Tensor:
        """That of the network, which knows upright windows."""
        return super().regularization(self._rotate(x_BTCHW, self.to_upright), draws_B)

    def _rotate(self, field: Tensor, turns: int) -> Tensor:
        return rotate(field, turns, self.task.grid)

    def _over_group(self, x: Tensor) -> Tensor:
        turned = torch.cat([self._rotate(x, -turns) for turns in self.turns])
        forecasts = (self.network(turned) * self.inside).chunk(len(self.turns))
        back = [self._rotate(y, turns) for y, turns in zip(forecasts, self.turns, strict=True)]
        return torch.stack(back).mean(0)

    def _along_flux(self, x: Tensor) -> Tensor:
        turns_B, flows_B = self._frame(x)
        y = self.network(self._each(x, -1, turns_B)) * self.inside
        still = torch.zeros_like(x[:, -1]) if self.task.target == "change" else x[:, -1]
        return torch.where(flows_B.view(-1, 1, 1, 1), self._each(y, 1, turns_B), still)

    def _each(self, field: Tensor, sense: int, turns_B: Tensor) -> Tensor:
        """Each window turned by its own number of quarter turns; all are computed, each from the last, and one kept."""
        result = turned = field
        stride = self.turns[1]
        wanted_B = (sense * turns_B % 4).view(-1, *[1] * (field.ndim - 1))
        for turns in self.turns[1:]:
            turned = self._rotate(turned, stride)
            result = torch.where(wanted_B == turns, turned, result)
        return result

    @torch.no_grad()
    def _frame(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The turn of each window, one of `self.turns`, and whether it has any direction: (B,), (B,)."""
        v = to_cell_centers(x) if self.task.grid == "staggered" else x
        speed = v.square().sum(2, keepdim=True).sqrt()
        flux = (speed.square() * v).mean((1, 3, 4))
        flows = flux.norm(dim=1) > NO_DIRECTION * speed.pow(3).mean((1, 2, 3, 4))
        sector = quarter(flux)
        return (sector if len(self.turns) == 4 else sector // 2 * 2), flows


def quarter(vectors: Tensor) -> Tensor:
    """k where the angle from the x axis is in (90 k - 45, 90 k + 45] degrees: (B, 2) -> (B,), 3 for a zero vector.

    A border belongs to one of its sides, the same for all four, so that a quarter turn adds 1 modulo 4 exactly.
    """
    u, v = vectors.unbind(1)
    a, b = u + v, u - v
    borders: Sequence[Tensor] = ((a > 0) & (b >= 0), (a >= 0) & (b < 0), (a < 0) & (b <= 0))
    sector = torch.full_like(u, 3, dtype=torch.long)
    for k, inside in enumerate(borders):
        sector = sector.masked_fill(inside, k)
    return sector


def _upright(task: Task) -> Task:
    """The task as the network sees it: with H >= W."""
    return replace(task, height=max(task.height, task.width), width=min(task.height, task.width))
